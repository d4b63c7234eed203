"""The answers of guards, part by part.

They are recorded while a run is watched, and evaluated again to explain a decision.

A guard on an arrow may be a combination, `stop requested or 500 steps made`. Its parts are the
guards that are made of no others; they are what a person wants to see.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from attrs import evolve, frozen

from statetrain.context.position import Position
from statetrain.guards.base import (
    AllOf,
    AnyOf,
    Guard,
    Not,
    Renamed,
    Test,
    leaves,
    strict,
)
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, START
from statetrain.lifecycle.transition import Transition


class Asked(NamedTuple):
    """What one part of an arrow's guard answered.

    Attributes:
        transition: the arrow.
        guard: the part's label.
        answer: what it answered; None if it could not be asked.
        reason: why it holds, or why it could not be asked; empty if it does not hold.
    """

    transition: Transition
    guard: str
    answer: bool | None
    reason: str = ""

    def __str__(self) -> str:
        word = {True: "yes", False: "no", None: "?"}[self.answer]
        if self.reason in ("", self.guard):
            return f"{self.guard}: {word}"
        return f"{self.guard}: {word} ({self.reason})"


# ---------------------------------------------------------------- while a run is watched


def observed(arrow: Transition, first: bool = False) -> Test:
    """The test of an arrow's guard that also records the answers of its parts in `ctx.asked`.

    Args:
        arrow: an arrow that has a guard.
        first: whether a decision begins with it, so that earlier answers are dropped.
    """
    assert arrow.guard is not None
    test = _told(arrow.guard, arrow).bind(arrow.dest)
    if not first:
        return test

    def asking_first(ctx: Position) -> bool:
        ctx.asked = []
        return test(ctx)

    return asking_first


def answers_to(ctx: Position, taken: Transition) -> list[Asked]:
    """What was recorded of the decision that led to an arrow.

    Empty if no guard was evaluated, or nothing was recorded.
    """
    if not ctx.asked or not _of_one_decision(ctx.asked[-1].transition, taken):
        return []
    return list(ctx.asked)


def _of_one_decision(one: Transition, other: Transition) -> bool:
    """Whether two arrows are evaluated together: those out of a state, or those on an event."""
    if one.event is None and other.event is None:
        return one.source == other.source
    return one.event is not None and other.event is not None


def _told(guard: Guard, arrow: Transition) -> Guard:
    if isinstance(guard, AllOf | AnyOf):
        return evolve(guard, guards=tuple(_told(part, arrow) for part in guard.guards))
    if isinstance(guard, Not | Renamed):
        return evolve(guard, guard=_told(guard.guard, arrow))
    return _Told(guard, arrow)


@frozen
class _Told(Guard):
    """A guard whose answers are written down."""

    guard: Guard
    arrow: Transition

    @property
    def label(self) -> str:
        return self.guard.label

    @property
    def remembers(self) -> bool:
        return self.guard.remembers

    def bind(self, place: str) -> Test:
        guard, arrow, label, test = self.guard, self.arrow, self.guard.label, self.guard.bind(place)
        # Else its reason is its label, which is known
        explains = type(guard).reason is not Guard.reason

        def told(ctx: Position) -> bool:
            answer, reason = test(ctx), ""
            if explains and answer is True:
                reason = guard.reason(ctx)
            ctx.asked.append(Asked(arrow, label, answer, reason))
            return answer

        return told


# ---------------------------------------------------------------- why, and why not


@frozen
class AskedArrow:
    """An arrow that was, or would be, asked about.

    Attributes:
        transition: the arrow.
        holds: whether its guard holds; True if it has none; None if it cannot be asked.
        parts: what the parts of its guard answered, of those that are known.
    """

    transition: Transition
    holds: bool | None
    parts: tuple[Asked, ...] = ()

    def __str__(self) -> str:
        word = {True: "yes", False: "no ", None: "?  "}[self.holds]
        head = f"{word}  {self.transition}"
        if not self._is_simple:
            return "\n".join([head, *(f"       {part}" for part in self.parts)])
        for part in self.parts:
            if part.reason not in ("", part.guard):
                return f"{head}  ({part.reason})"
        return head

    @property
    def _is_simple(self) -> bool:
        """Whether all that is known of the guard's parts is about the guard as a whole."""
        guard = self.transition.guard
        return guard is None or [part.guard for part in self.parts] in ([], [guard.label])


@frozen(repr=False)
class Explanation:
    """Why a run is in a state, or why it is not: as text, and arrow by arrow. `print` it.

    Attributes:
        words: the answer in a sentence.
        ways: the arrows that were asked about, in order.
    """

    words: str
    ways: tuple[AskedArrow, ...] = ()

    def _repr_html_(self) -> str:
        from statetrain.notebook import text

        return text(str(self))

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return "\n".join(
            [self.words, *("  " + line for way in self.ways for line in str(way).splitlines())]
        )


def why(lifecycle: Lifecycle, ctx: Position) -> Explanation:
    """Why a run is where it is: the arrow last taken, and what was asked before it.

    What parts of guards answered is known while a run is stepped, or recorded with
    `Tracing(answers=True)`. Otherwise it follows from the table: what was asked before the arrow
    did not hold.

    Args:
        lifecycle: the table that it walks.
        ctx: its context.
    """
    taken: Transition | None = ctx.transition
    if ctx.state is None or taken is None:
        return Explanation("the run has not started")
    words = _arrival(ctx, taken)
    if ctx.outcome is not None:
        words += f"; outcome {ctx.outcome!r}"
    known = answers_to(ctx, taken)
    before = _evaluated_before(lifecycle, taken, known)
    ways = [AskedArrow(arrow, False, _parts_of(arrow, known)) for arrow in before]
    if taken.guard is not None or before:
        ways.append(AskedArrow(taken, True, _parts_of(taken, known)))
    return Explanation(words, tuple(ways))


def _parts_of(arrow: Transition, known: Sequence[Asked]) -> tuple[Asked, ...]:
    """What is known of the parts of an arrow's guard."""
    return tuple(asked for asked in known if asked.transition == arrow)


def _arrival(ctx: Position, taken: Transition) -> str:
    """Where a run is and how it got there, as text."""
    if ctx.state == FAILED and ctx.error is not None:
        where = getattr(ctx.outcome, "state", taken.dest)
        return (
            f"the run failed in {where!r}: {type(ctx.error).__name__}: {ctx.error}; it had got"
            f" there by {taken}"
        )
    if taken.event is None:
        return f"the run is in {ctx.state!r} by {taken}"
    raised = taken.event.__name__
    if ctx.event is not None:
        reason = getattr(ctx.event, "reason", "") or str(ctx.event)
        raised = f"{type(ctx.event).__name__}({reason!r})"
    return f"the run is in {ctx.state!r} because {raised} was raised: {taken}"


def _evaluated_before(
    lifecycle: Lifecycle, taken: Transition, known: Sequence[Asked]
) -> list[Transition]:
    """The arrows that were evaluated before the one that was taken."""
    if taken.event is not None:
        others = (asked.transition for asked in known if asked.transition != taken)
        return list(dict.fromkeys(others))
    rivals = lifecycle.arrows(taken.source)
    if taken not in rivals:
        return []
    return [arrow for arrow in rivals[: rivals.index(taken)] if arrow.guard is not None]


def why_not(lifecycle: Lifecycle, ctx: Position, goal: str) -> Explanation:
    """Why a run is not in a state.

    Gives what is evaluated on the shortest way there, each part with what it would answer now.

    Guards further on are asked as things stand now, which may be too early for some.

    Args:
        lifecycle: the table that it walks.
        ctx: its context.
        goal: a state or a scope.

    Raises:
        LifecycleError: there is no such state.
    """
    here = ctx.state or START
    if goal in lifecycle.path(here):
        words = f"the run is in {goal!r}"
        if here != goal:
            words += f", in its state {here!r}"
        return Explanation(words)
    into = _arrows_into(lifecycle, goal)
    if ctx.outcome is not None or here == FAILED:
        return Explanation(
            f"the run is not in {goal!r}: {_ending(ctx)}. These arrows lead there, as things stand"
            " now:",
            tuple(_asked_now(into, ctx)),
        )
    way = _shortest(lifecycle, here, goal)
    if way is None:
        return _on_events_only(into, here, goal)
    steps = " -> ".join([here, *(arrow.dest for arrow in way)])
    ways = tuple(_asked_now(_evaluated_on(lifecycle, way), ctx))
    words = f"the run is in {here!r}; the shortest way to {goal!r} is {steps}"
    return Explanation(words + _prospect(way, ways), ways)


def _ending(ctx: Position) -> str:
    """How a run came to its end, as text."""
    if ctx.outcome is None:
        return "it has failed"
    return f"it ended with {ctx.outcome!r}"


def _on_events_only(into: Iterable[Transition], here: str, goal: str) -> Explanation:
    """That no way leads from one state to another but the arrows that are taken on events."""
    events = [arrow for arrow in into if arrow.event is not None]
    words = f"no arrow that is asked leads from {here!r} to {goal!r}"
    if events:
        words += "; these are taken on events:"
    return Explanation(words, tuple(AskedArrow(arrow, None) for arrow in events))


def _arrows_into(lifecycle: Lifecycle, goal: str) -> list[Transition]:
    """The arrows from outside of a state or scope into it.

    Raises:
        LifecycleError: there is no such state.
    """
    lifecycle.path(goal)
    return [
        arrow
        for arrow in lifecycle.transitions
        if goal in lifecycle.path(arrow.dest) and goal not in lifecycle.path(arrow.source)
    ]


def _evaluated_on(lifecycle: Lifecycle, way: Sequence[Transition]) -> list[Transition]:
    """The arrows that are evaluated on a way, in order; none where no guard has to be."""
    asked: list[Transition] = []
    for arrow in way:
        if arrow.source == START:
            continue
        rivals = lifecycle.arrows(arrow.source)
        if any(rival.guard is not None for rival in rivals):
            asked += rivals[: rivals.index(arrow) + 1]
    return asked


def _prospect(way: Sequence[Transition], ways: Iterable[AskedArrow]) -> str:
    """Whether the run would go that way as things stand now, and if not, what prevents it."""
    for one in ways:
        if (one.holds is not True) != (one.transition in way):
            continue
        guard = one.transition.guard
        if one.transition not in way:
            return f"; as things stand now it would turn off to {one.transition.dest!r}"
        if guard is None:
            return ""
        if one.holds is False:
            return f"; as things stand now [{guard.label}] does not hold"
        return f"; as things stand now [{guard.label}] cannot be asked"
    return ", and as things stand now it goes there"


def _shortest(lifecycle: Lifecycle, here: str, goal: str) -> list[Transition] | None:
    """The fewest arrows without an event from a state into another, or into a scope."""
    ways: deque[tuple[str, list[Transition]]] = deque([(here, [])])
    seen = {here}
    while ways:
        at, way = ways.popleft()
        arrows = lifecycle.arrows(at)
        if at == START:
            arrows = (lifecycle.start,)
        for arrow in arrows:
            if goal in lifecycle.path(arrow.dest):
                return [*way, arrow]
            if arrow.dest not in seen and arrow.dest != FAILED:
                seen.add(arrow.dest)
                ways.append((arrow.dest, [*way, arrow]))
    return None


def _asked_now(arrows: Iterable[Transition], ctx: Position) -> Iterator[AskedArrow]:
    for arrow in arrows:
        if arrow.guard is None:
            yield AskedArrow(arrow, True)
            continue
        holds, _ = _answer(arrow.guard, arrow, ctx)
        parts = ((part, *_answer(part, arrow, ctx)) for part in leaves(arrow.guard))
        yield AskedArrow(
            arrow,
            holds,
            tuple(Asked(arrow, part.label, answer, reason) for part, answer, reason in parts),
        )


def _answer(guard: Guard, arrow: Transition, ctx: Position) -> tuple[bool | None, str]:
    try:
        if not strict(guard, guard.bind(arrow.dest)(ctx)):
            return False, ""
        return True, guard.reason(ctx)
    except Exception as error:  # it is asked where the table does not ask it
        return None, f"cannot be asked here: {type(error).__name__}: {error}"
