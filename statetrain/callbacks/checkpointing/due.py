"""When a checkpoint is due: what `Checkpoint` asks at each anchor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import Factory, define, frozen

from statetrain.checkpoints.progress import has_begun, is_epoch_complete, resumes_here
from statetrain.context.position import Position
from statetrain.guards.base import AnyOf, Guard, Test, strict
from statetrain.guards.counters import Every
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.transition import Transition


@frozen
class _Interval:
    """A part of `every`, bound to the place where it remembers that it fired."""

    guard: Guard
    test: Test
    marks: tuple[Callable[[Any], None], ...]

    @classmethod
    def bind(cls, guard: Guard, place: str) -> _Interval:
        return cls(guard, guard.bind(place), guard.marks(place))

    def fires(self, ctx: Position) -> bool:
        """Whether it is over; one in epochs counts complete ones, so it waits for their end."""
        in_epochs = isinstance(self.guard, Every) and self.guard.unit == "epochs"
        if in_epochs and not is_epoch_complete(ctx):
            return False
        if not strict(self.guard, self.test(ctx)):
            return False
        for mark in self.marks:
            mark(ctx)
        return True


@frozen
class _Exit:
    """An arrow out of an anchor at which a run may end."""

    test: Test | None  # None is always taken
    ends: bool


@define(eq=False)
class Due:
    """When a checkpoint is due, in one run.

    Args:
        intervals: the parts of `every`.
        exits: by anchor at which the run may end, its arrows in order.
        limits: what says at an anchor that the run is about to stop; by whether the run may end
            there.
        at_end: whether the end of the run makes one due.
    """

    intervals: list[_Interval] = Factory(list)
    exits: dict[str, list[_Exit]] = Factory(dict)
    limits: dict[bool, list[Test]] = Factory(dict)
    at_end: bool = True
    _stopping: bool = False  # whether the request to stop has been dealt with

    @classmethod
    def bind(cls, life: Lifecycle, every: Guard, place: str, at_end: bool) -> Due:
        """What is asked in the runs of a lifecycle.

        Args:
            life: the table.
            every: when one is due.
            place: where its guards remember that they fired.
            at_end: whether the end of a run makes one due.
        """
        parts: tuple[Guard, ...] = (every,)
        if isinstance(every, AnyOf):
            parts = every.parts()
        intervals = [_Interval.bind(part, place) for part in parts]
        return cls(intervals, _bind_exits(life), _bind_limits(life), at_end)

    def is_now(self, ctx: Position, for_another_reason: bool) -> bool:
        """Whether a checkpoint is due at this anchor.

        Args:
            ctx: the context, at an anchor.
            for_another_reason: whether one is due anyway, as that of the best row so far.
        """
        fired = [interval.fires(ctx) for interval in self.intervals]
        due = any(fired) or for_another_reason or self._ends(ctx)
        if not self._stops(ctx):
            self._stopping = False
            return due
        # What follows a stop, as the row of a part of an epoch, is not part of a run that resumes.
        first, self._stopping = not self._stopping, True
        return (first and resumes_here(ctx)) or (due and is_epoch_complete(ctx))

    def _stops(self, ctx: Position) -> bool:
        """Whether the run is about to stop: someone asked it to, or a limit has been reached."""
        limits = self.limits.get(ctx.state in self.exits, ())
        return ctx.stop is not None or any(test(ctx) for test in limits)

    def _ends(self, ctx: Position) -> bool:
        """Whether the next arrow ends the run and the end is to be saved.

        This evaluates guards a second time, which is allowed.
        """
        if not self.at_end or not has_begun(ctx):
            return False
        exits = self.exits.get(ctx.state or "", ())
        try:
            return next((one.ends for one in exits if one.test is None or one.test(ctx)), False)
        except Exception:  # it is raised again where the table asks, which says whose it is
            return False


def _bind_exits(life: Lifecycle) -> dict[str, list[_Exit]]:
    final = {state.name for state in life.states if state.final}
    return {
        name: [_Exit(_bind(arrow), arrow.dest in final) for arrow in arrows]
        for name, arrows in _arrows_of_anchors(life).items()
        if any(arrow.dest in final for arrow in arrows)
    }


def _bind_limits(life: Lifecycle) -> dict[bool, list[Test]]:
    """The guards "stop now" of all anchors, each once, by whether the run may end there."""
    final = {state.name for state in life.states if state.final}
    guards: dict[bool, list[tuple[Guard, str]]] = {True: [], False: []}
    for arrows in _arrows_of_anchors(life).values():
        found = guards[any(arrow.dest in final for arrow in arrows)]
        for arrow in arrows:
            if arrow.guard is None or arrow.guard.label != "stop now":
                continue
            if (arrow.guard, arrow.dest) not in found:
                found.append((arrow.guard, arrow.dest))
    return {
        may_end: [guard.bind(place) for guard, place in found] for may_end, found in guards.items()
    }


def _arrows_of_anchors(life: Lifecycle) -> dict[str, list[Transition]]:
    return {state.name: list(life.arrows(state.name)) for state in life.states if state.anchor}


def _bind(arrow: Transition) -> Test | None:
    if arrow.guard is None:
        return None
    return arrow.guard.bind(arrow.dest)
