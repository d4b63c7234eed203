"""What an edit or an option does to a lifecycle, as a picture: what it added, what it removed, what it changed."""

from __future__ import annotations

from attrs import evolve, frozen

from statetrain.diagram.picture import Change, Picture, drawn, transitions_of
from statetrain.errors import MachineError
from statetrain.guards.base import Guard
from statetrain.lifecycle.lifecycle import FAILED, Lifecycle, State, Transition
from statetrain.lifecycle.text import number_of
from statetrain.naming import label_of
from statetrain.trace.words import words_of


@frozen
class _Gone(Guard):
    """On a removed arrow that had no guard: beside its successor, the table needs one."""

    @property
    def label(self) -> str:
        return ""

    def test(self, ctx: object) -> bool:
        raise MachineError("this arrow is there to be looked at")


def compared(before: Lifecycle, after: Lifecycle) -> Picture:
    """The later of two lifecycles, and what it no longer has, each part with what became of it.

    Args:
        before: what was there.
        after: what became of it.
    """
    known, kept = set(map(words_of, before.transitions)), set(map(words_of, after.transitions))
    both, removed = _together(
        before, after, [arrow for arrow in before.transitions if words_of(arrow) not in kept]
    )
    shown, arrows = drawn(both), []
    for transition, arrow in zip(transitions_of(both), shown.arrows, strict=True):
        change: Change = ""
        if transition in removed:
            change = "removed"
        elif transition != both.start and words_of(transition) not in known:
            change = "added"
        number = number_of(after, transition) if transition in after.transitions else 0
        arrows.append(evolve(arrow, number=number, change=change))
    changes: dict[str, Change] = {name: "removed" for name in both.names if name not in after.names}
    changes |= {name: "added" for name in after.names if name not in before.names}
    changes |= {
        state.name: "changed"
        for state in after.states
        if state.name in before.names and _told(state) != _told(before.state(state.name))
    }
    return evolve(shown, arrows=tuple(arrows), changes=changes)


def _together(
    before: Lifecycle, after: Lifecycle, gone: list[Transition]
) -> tuple[Lifecycle, set[Transition]]:
    """A lifecycle with the arrows of both, and which of them the later one has no more. What nothing leads to is left out."""
    states = {state.name: state for state in (*before.states, *after.states)}
    reached = {after.initial}
    size = 0
    while size < len(reached):
        size = len(reached)
        reached |= {arrow.dest for arrow in (*after.transitions, *gone) if arrow.source in reached}
        reached |= {
            state.within
            for state in states.values()
            if state.name in reached and state.within is not None
        }
    arrows, removed = list(after.transitions), set()
    for arrow in gone:
        if arrow.source not in reached or not {arrow.dest} <= reached | {FAILED}:
            continue
        ours = arrow.source in after.names
        # Not in the way of what took its place
        shown = evolve(arrow, guard=_Gone()) if ours and arrow.guard is None else arrow
        beside = [
            i
            for i, other in enumerate(arrows)
            if other.source == arrow.source and (other.event is None) == (arrow.event is None)
        ]
        last = beside[0 if arrow.event is not None else -1] if beside and ours else len(arrows)
        arrows.insert(last, shown)
        removed.add(shown)
    kept = [
        state
        for state in (*after.states, *(s for s in before.states if s.name not in after.names))
        if state.name in reached
    ]
    return evolve(after, states=kept, transitions=arrows), removed


def _told(state: State) -> tuple[object, ...]:
    labels = tuple(
        label_of(work) if work is not None else None
        for work in (state.action, state.close, state.reopen)
    )
    return (*labels, state.within, state.final, state.anchor, state.mode)
