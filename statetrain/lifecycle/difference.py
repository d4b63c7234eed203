"""How two lifecycles differ, as text."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

import attrs

from statetrain import notebook
from statetrain.errors import LifecycleError
from statetrain.guards.agreed import with_ranks
from statetrain.guards.base import Guard, Renamed
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.naming import signature_of


class Changes(list[str]):
    """Changes as text, one an item; printed, and shown in a notebook, one a line."""

    def __str__(self) -> str:
        return "\n".join(self)

    def _repr_html_(self) -> str:
        return notebook.text(str(self) or "no difference")


def diff(a: Lifecycle, b: Lifecycle) -> Changes:
    """What it takes to get from one lifecycle to another, as text; empty if they are equal.

    Args:
        a: the one before.
        b: the one after.

    Raises:
        LifecycleError: one of them is no lifecycle.
    """
    for one in (a, b):
        if not isinstance(one, Lifecycle):
            raise LifecycleError(f"diff compares two lifecycles, got {one!r:.80}")
    words = []
    if a.name != b.name:
        words.append(f"the name: was {a.name!r}, is {b.name!r}")
    if a.initial != b.initial:
        words.append(f"the initial state: was {a.initial!r}, is {b.initial!r}")
    return Changes(words + _different_states(a, b) + _different_arrows(a, b))


def _different_states(a: Lifecycle, b: Lifecycle) -> list[str]:
    words = [f"state {name!r} removed" for name in a.names if name not in b.names]
    for state in b.states:
        if state.name in a.names:
            changes = _changes(a.state(state.name), state)
            words += [f"state {state.name!r}: {change}" for change in changes]
        else:
            words.append(f"state {state.name!r} added{_place_of(state)}")
    order = _those_in(b.names, a.names)
    if order != _those_in(a.names, b.names):
        words.append(f"the states are listed in another order: {', '.join(order)}")
    return words


def _place_of(state: State) -> str:
    if state.within is None:
        return ""
    return f" within {state.within!r}"


def _those_in(names: Iterable[str], others: Container[str]) -> list[str]:
    """The names that are among others, too."""
    return [name for name in names if name in others]


def _different_arrows(a: Lifecycle, b: Lifecycle) -> list[str]:
    words: list[str] = []
    for source in dict.fromkeys(arrow.source for arrow in (*a.transitions, *b.transitions)):
        before = [arrow for arrow in a.transitions if arrow.source == source]
        after = [arrow for arrow in b.transitions if arrow.source == source]
        words += _changed_row(source, before, after)
    if not words and a.transitions != b.transitions:
        words.append("the arrows of different states are listed in another order")
    return words


def _changed_row(
    source: str, before: Sequence[Transition], after: Sequence[Transition]
) -> list[str]:
    """What has changed among the arrows out of one state."""
    pairs = _paired(before, after)
    kept = [new for new in after if new in pairs.values()]
    words = [f"arrow {old} removed" for old in before if old not in pairs]
    words += [f"arrow {new} added" for new in after if new not in kept]
    for old, new in pairs.items():
        words += [f"arrow {old}: {change}" for change in _changes(old, new)]
    if kept != list(pairs.values()):
        words.append(
            f"the arrows out of {source!r} are in another order: {'; '.join(map(str, kept))}"
        )
    return words


def _paired(
    before: Sequence[Transition], after: Sequence[Transition]
) -> dict[Transition, Transition]:
    """Maps each arrow that is still there to what it has become.

    That is the arrow itself, else one with the same target and event.
    """
    left = [new for new in after if new not in before]
    pairs = {}
    for old in before:
        alike = [new for new in left if (new.dest, new.event) == (old.dest, old.event)]
        if old in after:
            pairs[old] = old
        elif alike:
            pairs[old] = alike[0]
            left.remove(alike[0])
    return pairs


def _changes(old: State | Transition, new: State | Transition) -> list[str]:
    changes = []
    for field in attrs.fields(type(old)):
        was, now = getattr(old, field.name), getattr(new, field.name)
        if was != now:
            before, after = _told_apart(was, now)
            changes.append(f"{field.name} was {before}, is {after}")
    return changes


def _told_apart(was: Any, now: Any) -> tuple[str, str]:
    """What two things are called, as long as it takes to tell them apart."""
    for call in (_called, _called_in_full, repr):
        if call(was) != call(now):
            return call(was), call(now)
    return "one", "another"


def _called(part: Any) -> str:
    if isinstance(part, Guard):
        return f"[{with_ranks(part)}]"
    if part == "":
        return "nothing"
    if part is None or isinstance(part, bool | str):
        return str(part)
    if not attrs.has(type(part)):
        return signature_of(part)
    label = getattr(part, "label", None)
    if isinstance(label, str):
        return repr(label)
    return str(part)


def _called_in_full(part: Any) -> str:
    if isinstance(part, Renamed):
        return f"[{part.name}: {part.guard.label}]"
    return _called(part)
