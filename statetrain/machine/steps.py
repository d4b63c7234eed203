"""Steps: a run that advances one transition at a time, with breakpoints."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Self

from attrs import Factory, define, field

from statetrain.context.position import Position
from statetrain.errors import LifecycleError
from statetrain.lifecycle.transition import Transition
from statetrain.naming import did_you_mean

if TYPE_CHECKING:
    from statetrain.machine.asking import Explanation
    from statetrain.machine.machine import Machine

Condition = Callable[[Any], bool]


@define(eq=False)
class Breakpoint:
    """A place at which `Steps.go` pauses.

    Attributes:
        state: the state that has been entered and has done its work; None is any.
        when: a condition of the context that has to hold as well; None is none.
        hits: how often it was met.
    """

    state: str | None = None
    when: Condition | None = None
    hits: int = 0

    def met(self, ctx: Position) -> bool:
        """Whether a run stands at it."""
        return (self.state is None or ctx.state == self.state) and (
            self.when is None or bool(self.when(ctx))
        )


@define(eq=False, repr=False)
class Steps:
    """A run that advances one transition at a time: an iterator over the transitions taken.

    While it pauses, gradients, the model's mode and the like are as they were outside; nothing
    behaves differently because someone looks. Close it, or use it in a `with`, to end the run
    early: clean-ups run then too.

        steps = machine.steps(ctx)            # or fit(..., start=False).steps()
        next(steps)                           # one transition
        steps.until("valid")                  # up to a state
        steps.break_at("backward", when=lambda ctx: ctx.loss_value > 10)
        while steps.go():                     # up to the next breakpoint
            print(steps.why())
            steps.ctx.opt.param_groups[0]["lr"] *= 0.5
        steps.finish()                        # up to the end, past all breakpoints
    """

    machine: Machine
    ctx: Position
    _generator: Generator[Transition, None, None]
    _paused: bool = field(default=False, init=False)
    _breakpoints: list[Breakpoint] = field(default=Factory(list), init=False)

    def __iter__(self) -> Iterator[Transition]:
        return self

    def __next__(self) -> Transition:
        if self._paused:
            self._paused = False
            try:
                _resume(self.ctx)
            except BaseException as error:
                return self._pause(self._generator.throw(error))
        return self._pause(next(self._generator))

    def _pause(self, transition: Transition) -> Transition:
        try:
            _suspend(self.ctx)
        except BaseException as error:  # the run ends of it, unless an arrow takes it
            return self._pause(self._generator.throw(error))
        self._paused = True
        return transition

    def until(self, goal: str | Condition) -> Transition | None:
        """Takes transitions until a state is entered and has done its work, or a condition is true.

        Args:
            goal: a state's name, or a function of the context.

        Returns:
            The transition last taken; None if the run ended first.

        Raises:
            LifecycleError: there is no state of that name.
        """
        if isinstance(goal, str):
            self._check(goal)
            there = Breakpoint(goal)
        else:
            there = Breakpoint(when=goal)
        return next((transition for transition in self if there.met(self.ctx)), None)

    def finish(self) -> Any:
        """Takes all transitions that are left, past all breakpoints, and returns the context."""
        for _ in self:
            pass
        return self.ctx

    # ------------------------------------------------------------ breakpoints

    def break_at(self, state: str | None = None, when: Condition | None = None) -> Breakpoint:
        """Sets a breakpoint, at which `go` pauses.

        Args:
            state: pause when this state has been entered and has done its work: at "backward",
                there are gradients, and the step has not been made. None is any state.
            when: only if this function of the context says so; None is always.

        Returns:
            The breakpoint, for `clear`.

        Raises:
            LifecycleError: there is no state of that name.
            TypeError: `when` is no function.
        """
        if state is not None:
            self._check(state)
        if when is not None and not callable(when):
            raise TypeError(
                f"when must be a function of the context, got {when!r}; write when=lambda ctx: ..."
            )
        self._breakpoints.append(Breakpoint(state, when))
        return self._breakpoints[-1]

    @property
    def breakpoints(self) -> tuple[Breakpoint, ...]:
        """Those that are set, in order."""
        return tuple(self._breakpoints)

    def clear(self, *breakpoints: Breakpoint) -> None:
        """Removes breakpoints; all of them, if none is given."""
        self._breakpoints = [
            one for one in self._breakpoints if breakpoints and one not in breakpoints
        ]

    def go(self) -> Breakpoint | None:
        """Takes transitions until a breakpoint is met.

        Returns:
            The first one that was met; None if the run ended.
        """
        for _ in self:
            met = [one for one in self._breakpoints if one.met(self.ctx)]
            for one in met:
                one.hits += 1
            if met:
                return met[0]
        return None

    # ------------------------------------------------------------ questions

    def why(self) -> Explanation:
        """Why the run is where it is.

        Gives the arrow last taken, and each guard that was evaluated before it, with its parts.
        """
        return self.machine.why(self.ctx)

    def why_not(self, state: str) -> Explanation:
        """Why the run is not in a state or a scope.

        Gives what is evaluated on the way there, each part of a guard with its answer.

        Raises:
            LifecycleError: there is no such state.
        """
        return self.machine.why_not(self.ctx, state)

    # ------------------------------------------------------------ the end

    def close(self) -> None:
        """Ends the run here. Clean-ups run; the outcome is `Interrupted`."""
        self._paused = False
        self._generator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Steps of {self.machine.lifecycle.name!r}: {self._place()}>"

    def _place(self) -> str:
        """Where the run stands, for a person."""
        ctx = self.ctx
        if ctx.outcome is not None:
            return f"ended: {ctx.outcome!r}"
        if ctx.state is None:
            return "before the first transition"
        return ", ".join(filter(None, (f"in {ctx.state!r}", ctx.where())))

    def _check(self, state: str) -> None:
        life = self.machine.lifecycle
        if not isinstance(state, str):
            raise LifecycleError(
                f"{life.name}: a place to stop at is the name of a state, got {state!s:.80}"
            )
        if state not in life.names:
            raise LifecycleError(
                f"{life.name}: no state {state!r}{did_you_mean(state, life.names)}"
            )


def _suspend(ctx: Position) -> None:
    for entry in reversed(ctx.modes):
        if len(entry) == 2:  # else a pause that failed halfway has done it
            mode, outer = entry
            entry.append(mode.read(ctx))
            mode.write(ctx, outer)


def _resume(ctx: Position) -> None:
    for entry in ctx.modes:
        if len(entry) == 3:
            mode, _, inner = entry
            entry[1:] = [mode.read(ctx)]
            mode.write(ctx, inner)
