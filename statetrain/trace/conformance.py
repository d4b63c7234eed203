"""Whether a trace could be one of a lifecycle."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, START
from statetrain.lifecycle.transition import Transition
from statetrain.naming import nearest
from statetrain.trace.value import Trace, shorten
from statetrain.trace.words import Words, words_of


@frozen(repr=False)
class Conformance:
    """Whether a trace could be one of a lifecycle: true or false, and in words.

    Attributes:
        at: the number of the first step that is no arrow of the table, counted from 1; None if
            there is none.
        words: what was found.
    """

    at: int | None
    words: str

    def __bool__(self) -> bool:
        return self.at is None

    def _repr_html_(self) -> str:
        from statetrain.notebook import text

        return text(str(self))

    def __repr__(self) -> str:
        return self.words

    def __str__(self) -> str:
        return self.words


def conforms(trace: Trace | Iterable[str], lifecycle: Lifecycle) -> Conformance:
    """Whether each step of a trace is an arrow of a table, taken where the table has it.

        assert conforms(run.trace, life)

    Arrows are the same if source, dest, guard, effect and event are, as text. An exception that no
    arrow takes may lead to `failed` from everywhere.

    Args:
        trace: a trace; or the names of states, of which each has to be reached from the one before
            by any arrow.
        lifecycle: the table.

    Returns:
        True if it conforms; else false, and printed it says which step does not, and what would
        have been possible there.
    """
    if not isinstance(trace, Trace):
        return _states_conform(list(trace), lifecycle)
    table = {words_of(arrow) for arrow in lifecycle.transitions}
    # What was looked at, by identity: a run takes few arrows often
    fine: set[tuple[str | None, int]] = set()
    here: str | None = None
    for number, arrow in enumerate(trace.transitions, trace.dropped + 1):
        if (here, id(arrow)) not in fine:
            anywhere = here is None and trace.dropped > 0
            if not _possible(lifecycle, table, here, arrow, anywhere):
                before = trace.states[: number - trace.dropped - 1]
                return _refuse(lifecycle, number, here, str(arrow), before)
            fine.add((here, id(arrow)))
        here = arrow.dest
    return _fine(len(trace), lifecycle)


def _possible(
    lifecycle: Lifecycle, table: set[Words], here: str | None, arrow: Transition, anywhere: bool
) -> bool:
    if arrow.dest not in (*lifecycle.names, FAILED):
        return False
    if arrow.source == START:  # another fit begins where one has ended
        return (here is None or not _ways(lifecycle, here)) and arrow.dest == lifecycle.initial
    known = words_of(arrow) in table
    if anywhere:
        return known or arrow.dest == FAILED
    if here is None or here == FAILED or lifecycle.state(here).final:
        return False
    if arrow.event is None and known:
        return arrow.source == here
    # On an event, or by an error that no arrow takes, from anywhere within the source
    return (known or arrow.dest == FAILED) and arrow.source in lifecycle.path(here)


def _states_conform(states: list[str], lifecycle: Lifecycle) -> Conformance:
    here: str | None = None
    for number, state in enumerate(states, 1):
        expected = {lifecycle.initial}
        if here is not None:
            expected = {FAILED, *(arrow.dest for arrow in _ways(lifecycle, here))}
        if state not in expected:
            return _refuse(lifecycle, number, here, state, states[: number - 1])
        here = state
    return _fine(len(states), lifecycle)


def _ways(lifecycle: Lifecycle, here: str) -> list[Transition]:
    """The arrows that can be taken in a state, those on events last."""
    if here not in lifecycle.names or lifecycle.state(here).final:
        return []
    events = (
        arrow
        for scope in reversed(lifecycle.path(here))
        for arrow in lifecycle.transitions
        if arrow.source == scope and arrow.event
    )
    return [*lifecycle.arrows(here), *events]


def _refuse(
    lifecycle: Lifecycle, number: int, here: str | None, got: str, before: list[str]
) -> Conformance:
    place, ways = "at its beginning", [lifecycle.start]
    if here is not None:
        place, ways = f"in {here!r}", _ways(lifecycle, here)
    lines = [f"step {number} is no arrow that {lifecycle.name!r} has {place}"]
    if before:
        lines.append(f"  after     {shorten(before)}")
    lines.append(f"  got       {got}{_hint(lifecycle, got)}")
    possible = list(map(str, ways)) or ["nothing: it is a final state"]
    lines.append(f"  possible  {possible[0]}")
    lines += [f"            {way}" for way in possible[1:]]
    return Conformance(number, "\n".join(lines))


def _hint(lifecycle: Lifecycle, got: str) -> str:
    dest = got.split(" -> ")[-1].split(" ")[0]
    if dest in (*lifecycle.names, FAILED):
        return ""
    return f": there is no state {dest!r}{nearest(dest, lifecycle.names)}"


def _fine(steps: int, lifecycle: Lifecycle) -> Conformance:
    return Conformance(None, f"all {steps} steps are arrows of {lifecycle.name!r}")
