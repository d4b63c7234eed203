"""What an edit or an option does to a lifecycle, as a picture: what was added, removed, changed."""

from __future__ import annotations

from attrs import evolve, frozen

from statetrain.diagram.picture import Change, Picture, picture_of, transitions_of
from statetrain.errors import MachineError
from statetrain.guards.base import Guard
from statetrain.lifecycle.checks import find_reached
from statetrain.lifecycle.lifecycle import Draft, Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.text import number_of
from statetrain.lifecycle.transition import Transition
from statetrain.naming import label_of
from statetrain.trace.words import words_of


@frozen
class _Gone(Guard):
    """On a removed arrow that had no guard: next to its successor, the table needs one."""

    @property
    def label(self) -> str:
        return ""

    def test(self, ctx: object) -> bool:
        raise MachineError("this arrow was removed: it is in the picture, and cannot be taken")


def compare_lifecycles(before: Lifecycle, after: Lifecycle) -> Picture:
    """The later of two lifecycles with what was removed, each part with its change.

    Args:
        before: the earlier one.
        after: the later one.
    """
    known, kept = set(map(words_of, before.transitions)), set(map(words_of, after.transitions))
    both, removed = _together(
        before, after, [arrow for arrow in before.transitions if words_of(arrow) not in kept]
    )
    shown, arrows = picture_of(both), []
    for transition, arrow in zip(transitions_of(both), shown.arrows, strict=True):
        change: Change = ""
        if transition in removed:
            change = "removed"
        elif transition != both.start and words_of(transition) not in known:
            change = "added"
        number = 0
        if transition in after.transitions:
            number = number_of(after, transition)
        arrows.append(evolve(arrow, number=number, change=change))
    return evolve(shown, arrows=tuple(arrows), changes=_changes(before, after, both))


def _changes(before: Lifecycle, after: Lifecycle, both: Lifecycle) -> dict[str, Change]:
    """The states that were removed, added, or do something else."""
    old, new = frozenset(before.names), frozenset(after.names)
    changes: dict[str, Change] = {}
    for state in both.states:
        if state.name not in new:
            changes[state.name] = "removed"
        elif state.name not in old:
            changes[state.name] = "added"
        elif _content(state) != _content(before.state(state.name)):
            changes[state.name] = "changed"
    return changes


def _together(
    before: Lifecycle, after: Lifecycle, gone: list[Transition]
) -> tuple[Lifecycle, set[Transition]]:
    """A lifecycle with the arrows of both, and which of them the later one no longer has.

    What nothing leads to is left out.
    """
    removed_states = [state for state in before.states if state.name not in after.names]
    states = [*after.states, *removed_states]
    # It is looked at only, so it need not be sound
    both = Draft(after.name, states, [*after.transitions, *gone], after.initial)
    entered, opened = find_reached(both)
    arrows, removed = list(after.transitions), set()
    for arrow in gone:
        if arrow.source not in (entered if arrow.event is None else opened):
            continue
        stays = arrow.source in after.names
        if stays and arrow.guard is None:
            # What took its place must still be reachable
            arrow = evolve(arrow, guard=_Gone())
        place = len(arrows)
        if stays:
            place = _place_of(arrow, arrows)
        arrows.insert(place, arrow)
        removed.add(arrow)
    kept = [state for state in states if state.name in opened]
    return Draft(after.name, kept, arrows, after.initial, after.also), removed


def _place_of(arrow: Transition, arrows: list[Transition]) -> int:
    """Where a removed arrow goes: before its source's first event, or its last other arrow."""
    alike = [
        i
        for i, other in enumerate(arrows)
        if other.source == arrow.source and (other.event is None) == (arrow.event is None)
    ]
    if not alike:
        return len(arrows)
    if arrow.event is not None:
        return alike[0]
    return alike[-1]


def _content(state: State) -> tuple[object, ...]:
    """What two states of one name are compared by."""
    labels = [
        label_of(work) if work is not None else None
        for work in (state.action, state.close, state.reopen)
    ]
    return (*labels, state.within, state.final, state.anchor, state.mode)
