"""The machine: a lifecycle bound to callbacks, compiled into a plan, and the loop that runs it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from attrs import evolve, field, frozen

from statetrain.callback import Callback, name_of, unwrapped
from statetrain.context.position import NOWHERE, Position
from statetrain.contracts.checking import Declaration, check_fields, declarations_of
from statetrain.contracts.dataflow import solve
from statetrain.contracts.listening import Listener, listeners_of
from statetrain.contracts.order import Order, arranged, hook_named, is_called
from statetrain.contracts.presence import check_presence
from statetrain.errors import MachineError
from statetrain.guards.base import strict
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import START
from statetrain.lifecycle.transition import Transition
from statetrain.machine.agreeing import Agreement
from statetrain.machine.engine import finish
from statetrain.machine.failing import caught, junk, not_strict
from statetrain.machine.plan import Plan, Work
from statetrain.machine.steps import Steps
from statetrain.machine.witness import witness_of
from statetrain.naming import did_you_mean
from statetrain.validators import switch

if TYPE_CHECKING:
    from statetrain.contracts.debugging import Views
    from statetrain.contracts.outline import DataFlow, Outline
    from statetrain.machine.asking import Explanation

Drive: TypeAlias = Generator[Transition, None, None]
# A class is one of machines of `transitions`, which is imported where a run asks for it
Engine: TypeAlias = Literal["table", "transitions"] | type[Any]


class Answer(NamedTuple):
    """Whether an arrow could be taken now, and why."""

    transition: Transition
    holds: bool
    reason: str

    def __str__(self) -> str:
        word = "no "
        if self.holds:
            word = "yes"
        if not self.reason:
            return f"{word}  {self.transition}"
        return f"{word}  {self.transition}  ({self.reason})"


def _callbacks(value: Any) -> tuple[Callback, ...]:
    # What is no callback is refused by its hooks
    if isinstance(value, Iterable):
        return tuple(value)
    return (value,)


def _call_of(one: Listener, watch: Views | None) -> Callable[[Any], None]:
    """What is called for a listener; in debug mode, with a view of the context."""
    if watch is None:
        return one.function
    return watch.hook(one)


@frozen(repr=False)
class Machine:
    """A lifecycle bound to callbacks.

    Frozen: what a run changes is in its context, so one machine serves many runs.

    Args:
        lifecycle: the table to walk.
        callbacks: who watches, in the order in which they are called unless they declare another
            one.
        engine: "table", the compiled table; or "transitions", a live machine of the `transitions`
            package, which does the same far more slowly and serves as the reference; or one of its
            classes, such as `GraphMachine`. `ctx.live_machine` is that machine.
        debug: whether components are held to what they declare that they read and write, at every
            access.
        agreement: the meetings of several ranks, each of which walks the lifecycle; None in one
            process.

    Attributes:
        plan: what it calls, laid out.

    Raises:
        MachineError: what it is to walk is no lifecycle, or there is no such engine.
        CallbackError: a callback has a hook that no state bears.
        ContractError: what is declared to be read is not there on every way, or callbacks cannot be
            put in an order.
    """

    lifecycle: Lifecycle
    callbacks: tuple[Callback, ...] = field(default=(), converter=_callbacks)
    engine: Engine = "table"
    debug: bool = field(default=False, kw_only=True, validator=switch)
    agreement: Agreement | None = field(default=None, kw_only=True, eq=False, repr=False)
    plan: Plan = field(init=False, eq=False)
    _orders: dict[str, Order] = field(init=False, eq=False, factory=dict)
    # The classes of contexts that have all the fields that are declared
    _walkers: set[type] = field(init=False, eq=False, factory=set)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.lifecycle, Lifecycle):
            raise MachineError(
                f"a machine walks a Lifecycle, got {self.lifecycle!r:.80}; make one:"
                " supervised(), or Lifecycle(name, states, transitions)"
            )
        check_engine(self.engine)
        self._orders.update(arranged(listeners_of(self.callbacks, self.lifecycle)))
        called = self._called()
        born: frozenset[str] | None = frozenset()
        if self.lifecycle.also:  # one of your own waits for the class of what walks it
            born = None
            check_presence(self.lifecycle, called)
        watch = None
        if self.debug:
            from statetrain.contracts.debugging import Views

            watch = Views(solve(self.lifecycle, called, born), called)
        hooks = {
            name: [(f"{name_of(one.callback)}.{name}", _call_of(one, watch)) for one in listeners]
            for name, listeners in called.items()
        }
        places = {name: tuple([one.place for one in called[name]]) for name in called}
        witness = witness_of(self.lifecycle)
        plan = Plan(self.lifecycle, hooks, places, self.callbacks, watch, witness, self.agreement)
        object.__setattr__(self, "plan", plan)

    # ------------------------------------------------------------ running

    def run(self, ctx: Position, at: str | None = None) -> Any:
        """Walks the lifecycle from its initial state to a final one.

        Args:
            ctx: the context, changed in place.
            at: the anchor to continue at, with a context in which a snapshot has been restored;
                None starts a run.

        Returns:
            The context; `ctx.outcome` says how the run ended.

        Raises:
            LifecycleError: `at` is no anchor.
            BaseException: whatever an action, guard or callback raised and no arrow takes, as it
                was, with a note.
        """
        for _ in self._drive(ctx, watched=False, at=at):
            pass
        return ctx

    def steps(
        self,
        ctx: Position,
        until: str | Callable[[Any], bool] | None = None,
        at: str | None = None,
    ) -> Steps:
        """The same walk, one transition at a time.

        Args:
            ctx: the context, changed in place.
            until: a state or a condition to stop at first; see `Steps.until`.
            at: the anchor to continue at, as in `run`.
        """
        steps = Steps(self, ctx, self._drive(ctx, watched=True, at=at))
        if until is not None:
            steps.until(until)
        return steps

    def may(self, ctx: Position) -> tuple[Answer, ...]:
        """The arrows out of the current state, each with whether it holds now and why."""
        if ctx.state is None:
            return (Answer(self.lifecycle.start, True, "the run has not started"),)
        return tuple([self._may(ctx, arrow) for arrow in self.lifecycle.arrows(ctx.state)])

    def _may(self, ctx: Position, arrow: Transition) -> Answer:
        if arrow.guard is None:
            return Answer(arrow, True, "it has no guard")
        if not strict(arrow.guard, self.plan.test(arrow, False, False)(ctx)):
            return Answer(arrow, False, f"not: {arrow.guard.label}")
        return Answer(arrow, True, arrow.guard.reason(ctx))

    def why(self, ctx: Position) -> Explanation:
        """Why a run is where it is; see `statetrain.machine.asking.why`."""
        from statetrain.machine.asking import why

        return why(self.lifecycle, ctx)

    def why_not(self, ctx: Position, state: str) -> Explanation:
        """Why a run is not in a state or a scope; see `statetrain.machine.asking.why_not`."""
        from statetrain.machine.asking import why_not

        return why_not(self.lifecycle, ctx, state)

    # ------------------------------------------------------------ what is declared

    @cached_property
    def declarations(self) -> list[Declaration]:
        """Everything that the lifecycle and the callbacks declare, with who declares it."""
        return declarations_of(self.lifecycle, self.callbacks)

    def check_context(self, kind: type) -> None:
        """Sees, once for each class of contexts, that it has all fields that are declared.

        Args:
            kind: the class.

        Raises:
            ContractError: it lacks one, or one is read where nothing has written it yet.
        """
        if kind not in self._walkers:
            check_fields(self, kind)
            if not self.lifecycle.also:
                check_presence(self.lifecycle, self._called(), kind)
            self._walkers.add(kind)

    # ------------------------------------------------------------ who listens

    def explain(self, hook: str) -> Order:
        """Who is called on a hook, in which order, and why; print it.

        Args:
            hook: such as "exit step" or "on_exit_step".

        Raises:
            MachineError: there is no such hook.
        """
        name = hook_named(hook, self.lifecycle.names)
        return self._orders.get(name, Order(name))

    def outline(self) -> Outline:
        """The states with who listens on each; print it."""
        from statetrain.contracts.outline import Outline

        return Outline(self.lifecycle, self._called())

    def dataflow(self) -> DataFlow:
        """The fields of the context, with their writers and readers.

        Print it, or draw it with `.mermaid()` and `.dot()`.
        """
        from statetrain.contracts.outline import DataFlow

        return DataFlow.of(self.lifecycle, self._called())

    def _called(self) -> dict[str, tuple[Listener, ...]]:
        """By hook, the listeners in the order in which they are called."""
        return {hook: order.listeners for hook, order in self._orders.items()}

    def find(self, callback: type[Callback] | str) -> tuple[Callback, ...]:
        """The callbacks of a class, or of a name, in the given order, including conditional ones.

        Args:
            callback: a class, or what a callback is called.
        """
        return tuple(one for one in self.callbacks if is_called(one, callback))

    def with_callbacks(self, *callbacks: Callback) -> Machine:
        """A machine with more callbacks, after the others."""
        return evolve(self, callbacks=(*self.callbacks, *callbacks))

    def without(self, *callbacks: Callback | type[Callback] | str) -> Machine:
        """A machine without some callbacks.

        Args:
            callbacks: instances, classes or names; of a class or a name, all go.

        Raises:
            MachineError: it has no such callback.
        """
        gone = {id(one) for callback in callbacks for one in self._find_some(callback)}
        return evolve(self, callbacks=[one for one in self.callbacks if id(one) not in gone])

    def replace(self, old: Callback | type[Callback] | str, new: Callback) -> Machine:
        """A machine with another callback in the place of one.

        Args:
            old: an instance, a class or a name.
            new: what stands there now.

        Raises:
            MachineError: it has no such callback, or several.
        """
        found = self._find_some(old)
        if len(found) > 1:
            raise MachineError(
                f"{self.lifecycle.name}: {len(found)} callbacks are {_asked_for(old)}; give the one"
                " that is meant: machine.find(...)[0]"
            )
        by_id = {id(one): one for one in self.callbacks} | {id(found[0]): new}
        return evolve(self, callbacks=by_id.values())

    def _find_some(self, callback: Callback | type[Callback] | str) -> tuple[Callback, ...]:
        same = (one for one in self.callbacks if one is callback or unwrapped(one) is callback)
        if isinstance(callback, Callback):
            found = tuple(same)
        else:
            found = self.find(callback)
        if not found:
            raise MachineError(
                f"{self.lifecycle.name}: no callback is"
                f" {_asked_for(callback)}"
                f"{did_you_mean(_asked_for(callback), map(name_of, self.callbacks))}"
            )
        return found

    def _drive(self, ctx: Position, watched: bool, at: str | None) -> Drive:
        opening = None
        if at is not None:
            opening = self.plan.reopening(at)
        self._begin(ctx, at)
        if self.engine != "table":
            from statetrain.machine.interop import drive

            return self._driven(ctx, drive(self, ctx, watched, opening), at)
        return self._driven(ctx, self._walk(ctx, watched, opening), at)

    def _driven(self, ctx: Position, drive: Drive, at: str | None) -> Drive:
        self._begin(ctx, at)  # another walk of this context may have begun since this one was made
        yield from drive

    def _begin(self, ctx: Position, at: str | None) -> None:
        if isinstance(ctx, Position) and not hasattr(ctx, "place"):
            raise MachineError(
                f"{type(ctx).__name__}.__init__ leaves the fields of Position unset; call"
                " super().__init__() in it, or declare the fields with attrs' @define(eq=False)"
            )
        if ctx.state is not None and ctx.outcome is None:
            raise MachineError(
                f"this context is in a run already, in state {ctx.state!r}; finish or close that"
                " one, or use another context"
            )
        self.check_context(type(ctx))
        ctx.machine, ctx.live_machine = self, None
        ctx.asked = []
        ctx.flight.clear()
        ctx.place = NOWHERE
        ctx.event = ctx.error = ctx.outcome = None
        if at is None:  # else the clock of the saved run continues
            ctx.begin()

    def _walk(
        self, ctx: Position, watched: bool, opening: tuple[Transition, list[Work]] | None
    ) -> Drive:
        """The loop: call what was laid out, ask a row of guards, and again.

        `works` is what taking one arrow calls (or a stretch of arrows between which nothing is
        asked): pairs of a place, which is published meanwhile, and a function. A `landing` is where
        it ends: the place, whose row is asked there, and the arrows of the stretch. A `row` has
        the arrows out of a state, each as its test, its works and its landing. Rows are looked up
        by name, so that they make no cycles: what a callback holds is freed with the machine.
        """
        plan = self.plan
        if watched:
            rows = plan.stepwise
        else:
            rows = plan.fused
        works, landing = plan.stretch(self.lifecycle.start, START, not watched)
        if opening is not None:
            arrow, calls = opening
            works = tuple(map(plan.call, calls))
            landing = ((arrow, arrow.dest), (arrow,))
        work = ask = None
        remember = ctx.flight.append
        while True:
            try:
                while True:
                    remember(landing)  # one reference, for the note on a failure
                    # The place is a loop variable: publishing it costs one store a call. `work`
                    # stays bound, so that what it raises can be told from what the loop does.
                    for ctx.place, work in works:
                        if work(ctx) is not None:
                            raise junk(plan, ctx, work)
                    ctx.place = place = landing[0]
                    row = rows[place[1]]
                    work = ask = None
                    if watched and row:
                        yield ctx.transition
                    # `works` and `landing` stay bound to those of the first arrow whose test is
                    # true, which the next round calls; an arrow without a guard has no test.
                    for ask, works, landing in row:  # noqa: B007
                        if ask is None or (answer := ask(ctx)) is True:
                            break
                        if answer is not False:
                            raise not_strict(plan, ctx, ask, answer)
                    else:  # a final state has an empty row
                        finish(self.lifecycle, ctx)
                        if watched:
                            yield ctx.transition
                        return
            except BaseException as error:  # an event that an arrow takes, or it is raised again
                arrow, active, unheard = caught(plan, ctx, error, work, ask)
                works, landing = plan.stretch(arrow, active, not watched, unheard)

    def __reduce__(self) -> tuple[Any, ...]:
        """Made again from its parts where it is unpickled: the plan is full of bound functions."""
        make = partial(type(self), debug=self.debug, agreement=self.agreement)
        return make, (self.lifecycle, self.callbacks, self.engine)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from statetrain.diagram.bundle import bundle

        return bundle(repr(self), self.lifecycle)

    def __repr__(self) -> str:
        if self.callbacks:
            callbacks = f", callbacks {', '.join(map(name_of, self.callbacks))}"
        else:
            callbacks = ""
        return (
            f"<Machine {self.lifecycle.name!r}: {len(self.lifecycle.states)} states,"
            f" {len(self.lifecycle.transitions)} transitions{callbacks}>"
        )


def check_engine(engine: Any) -> None:
    """Raises a `MachineError` unless it can drive a run."""
    if isinstance(engine, type):
        from statetrain.machine.interop import live_class

        live_class(engine)
    elif engine not in ("table", "transitions"):
        raise MachineError(
            "engine must be 'table', 'transitions', or a class of the `transitions` package such"
            f" as GraphMachine, got {engine!r:.80}"
        )


def _asked_for(callback: Callback | type[Callback] | str) -> str:
    """What a callback that was asked for is called."""
    if isinstance(callback, str):
        return callback
    if isinstance(callback, type):
        return callback.__name__
    return name_of(callback)
