"""How two lifecycles differ, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from statetrain.errors import LifecycleError
from statetrain.guards.agreed import with_ranks
from statetrain.guards.base import Guard, Renamed
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.naming import signature_of


def diff(a: Lifecycle, b: Lifecycle) -> list[str]:
    """What it takes to get from one lifecycle to another, in words; empty if they are equal.

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
    return words + _different_states(a, b) + _different_arrows(a, b)


def _different_states(a: Lifecycle, b: Lifecycle) -> list[str]:
    words = [f"state {name!r} removed" for name in a.names if name not in b.names]
    for state in b.states:
        if state.name not in a.names:
            words.append(
                f"state {state.name!r} added"
                + (f" within {state.within!r}" if state.within else "")
            )
        else:
            words += [
                f"state {state.name!r}: {change}" for change in _changes(a.state(state.name), state)
            ]
    order = [name for name in b.names if name in a.names]
    if order != [name for name in a.names if name in b.names]:
        words.append(f"the states are listed in another order: {', '.join(order)}")
    return words


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
        new = (
            old
            if old in after
            else next((new for new in left if (new.dest, new.event) == (old.dest, old.event)), None)
        )
        if new is not None:
            pairs[old] = new
            if new in left:
                left.remove(new)
    return pairs


def _changes(old: State | Transition, new: State | Transition) -> list[str]:
    changes = []
    for field in attrs.fields(type(old)):
        was, now = getattr(old, field.name), getattr(new, field.name)
        if was != now:
            words = ((call(was), call(now)) for call in (_called, _called_in_full, repr))
            before, after = next((pair for pair in words if pair[0] != pair[1]), ("one", "another"))
            changes.append(f"{field.name} was {before}, is {after}")
    return changes


def _called(part: Any) -> str:
    if isinstance(part, Guard):
        return f"[{with_ranks(part)}]"
    if attrs.has(type(part)) and isinstance(getattr(part, "label", None), str):
        return repr(part.label)
    if attrs.has(type(part)) and isinstance(getattr(part, "label", None), str):
        return repr(part.label)
    if part == "":
        return "nothing"
    if part is None or isinstance(part, bool | str) or attrs.has(type(part)):
        return str(part)
    return signature_of(part)


def _called_in_full(part: Any) -> str:
    return f"[{part.name}: {part.guard.label}]" if isinstance(part, Renamed) else _called(part)
