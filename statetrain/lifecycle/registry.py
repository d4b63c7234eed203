"""Lifecycles as plain data: into JSON and back, as a fingerprint, and their differences in words.

A file holds names, never code. A name becomes a function or a class only through a registry, a
dictionary that the reader hands over; the library's own parts are always in it. Nothing is imported
because a file says so.

    text = json.dumps(to_dict(life))
    same = from_dict(json.loads(text), registry={"my_module:my_action": my_action})

Functions and classes are written as `{"is": "module:qualified_name"}`, attrs values with their
fields beside it, and a guard that was made of a function by the function's name.
"""

from __future__ import annotations

import builtins
import hashlib
import inspect
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType, ModuleType
from typing import Any, TypeAlias

import attrs

from statetrain import events, outcome
from statetrain.errors import LifecycleError
from statetrain.guards import base, criteria, stopping
from statetrain.guards.base import Guard, Named, Predicate
from statetrain.lifecycle.lifecycle import Lifecycle, State, Transition
from statetrain.naming import did_you_mean, identify, signature_of

Registry: TypeAlias = Mapping[str, Any]

_FORMAT = 1
# The fields that hold functions, classes and values
_PARTS = (
    "action",
    "close",
    "reopen",
    "mode",
    "guard",
    "effect",
    "event",
)
_CALLED = ("action", "close", "reopen", "effect")


@cache
def standard() -> Registry:
    """All that the library's own lifecycles are made of, by name; and Python's exceptions, which may be events."""
    from statetrain.contracts import composing
    from statetrain.standard import (
        actions,
        computing,
        edits,
        fusing,
        modes,
        precision,
        rollback,
    )  # of higher floors, so looked up when they are asked for

    classes = (thing for thing in vars(builtins).values() if isinstance(thing, type))
    found = {identify(kind): kind for kind in classes if issubclass(kind, BaseException)}
    for module in (
        base,
        criteria,
        stopping,
        events,
        outcome,
        actions,
        computing,
        edits,
        fusing,
        modes,
        precision,
        rollback,
        composing,
    ):
        found.update(_members(module))
    return MappingProxyType(found)


def _members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for thing in vars(module).values():
        named = thing.function if isinstance(thing, Predicate) else thing
        if (inspect.isfunction(named) or isinstance(named, type)) and named.__module__.startswith(
            module.__name__
        ):
            yield identify(named), thing


# ---------------------------------------------------------------- writing


def to_dict(life: Lifecycle) -> dict[str, Any]:
    """A lifecycle as plain data that fits into JSON. Fields that have their default value are left out.

    Raises:
        LifecycleError: a part has no name that stays the same from run to run: a lambda, a closure,
            a bound method.
    """
    return {
        "format": _FORMAT,
        "name": life.name,
        "initial": life.initial,
        "states": [_written(life, f"State {state.name!r}", state) for state in life.states],
        "transitions": [_written(life, f"arrow {arrow}", arrow) for arrow in life.transitions],
        "also": sorted(life.also),
    }


def _written(life: Lifecycle, what: str, row: State | Transition) -> dict[str, Any]:
    values = [(field, getattr(row, field.name)) for field in attrs.fields(type(row))]
    try:  # an event is a class, so its name is enough
        return {
            f.name: identify(value) if f.name == "event" else _plain(value)
            for f, value in values
            if value != (row.name if f.name == "role" else f.default)  # type: ignore[union-attr]
        }
    except ValueError as error:
        raise LifecycleError(f"{life.name}: {what} cannot be written down: {error}") from None


def _plain(thing: Any) -> Any:
    """A function, an attrs value or plain data as JSON holds it.

    Raises:
        ValueError: it has no stable name, or is none of these.
    """
    if (
        thing is None
        or isinstance(thing, bool | int | str)
        or (isinstance(thing, float) and math.isfinite(thing))
    ):
        return thing
    if isinstance(thing, float):  # JSON has no sign for it
        return {"is": "float", "value": str(thing)}
    if isinstance(thing, tuple):
        return [_plain(part) for part in thing]
    if isinstance(thing, frozenset):
        return {
            "is": "frozenset",
            "items": sorted((_plain(part) for part in thing), key=json.dumps),
        }
    if isinstance(thing, Predicate):
        return _plain(thing.function)
    if attrs.has(type(thing)):
        return {
            "is": identify(type(thing)),
            **{f.alias: _plain(getattr(thing, f.name)) for f in _parameters(type(thing))},
        }
    if inspect.ismethod(thing):
        raise ValueError(
            f"{thing!r} is a method of one object, which has no name; write an attrs class with"
            " fields for parameters"
        )
    if not callable(thing) or attrs.has(thing):
        raise ValueError(
            f"{thing!r:.80} is neither plain data that cannot change (a number, a text, a tuple, a"
            " frozenset) nor a function nor an attrs value"
        )
    return {"is": identify(thing)}


def _parameters(kind: type) -> list[attrs.Attribute[Any]]:
    return [field for field in attrs.fields(kind) if field.init and field.eq]


def fingerprint(life: Lifecycle) -> str:
    """16 hexadecimal digits, equal for equal tables on every machine, and as good as never for others.

    The names of states, actions, guards, effects and events count, their parameters, and the order
    of the arrows. The lifecycle's own name does not, and neither does what the functions do.

    Raises:
        LifecycleError: as for `to_dict`.
    """
    data = to_dict(life.alone or life)
    table = _canonical({key: data[key] for key in ("initial", "states", "transitions")})
    return hashlib.sha256(
        json.dumps(table, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()[:16]


def _canonical(data: Any) -> Any:
    """Equal numbers alike: `TimeLimit(30)` and `TimeLimit(30.0)` are equal."""
    if isinstance(data, dict):
        return {key: _canonical(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_canonical(value) for value in data]
    return int(data) if isinstance(data, float) and data.is_integer() else data


# ---------------------------------------------------------------- reading

_Types: TypeAlias = dict[str, type]
_LIFECYCLE: tuple[_Types, _Types] = (
    {"name": str, "states": list, "transitions": list},
    {"format": int, "initial": str, "also": list},
)
_STATE: tuple[_Types, _Types] = (
    {"name": str},
    {
        "action": dict,
        "within": str,
        "final": bool,
        "anchor": bool,
        "mode": dict,
        "close": dict,
        "reopen": dict,
        "role": str,
        "meets": str,
    },
)
_TRANSITION: tuple[_Types, _Types] = (
    {"source": str, "dest": str},
    {"guard": dict, "effect": dict, "event": str},
)


def from_dict(data: Mapping[str, Any], registry: Registry | None = None) -> Lifecycle:
    """The lifecycle that `to_dict` described, checked like any other.

    Args:
        data: plain data, as JSON gives it.
        registry: functions, guards and classes by name, beside the library's own.

    Raises:
        LifecycleError: the data is malformed, a name is not in the registry, or the table is not
            sound.
    """
    known = {**standard(), **(registry or {})}
    given = _fields("a lifecycle", data, *_LIFECYCLE)
    if given.get("format", _FORMAT) != _FORMAT:
        raise LifecycleError(
            f"lifecycle {given['name']!r} is written in format {given['format']}; this version"
            f" reads {_FORMAT}"
        )
    where = f"lifecycle {given['name']!r}: "
    states = [
        _row(f"{where}states[{i}]", row, _STATE, known) for i, row in enumerate(given["states"])
    ]
    arrows = [
        _row(f"{where}transitions[{i}]", row, _TRANSITION, known)
        for i, row in enumerate(given["transitions"])
    ]
    also = given.get("also", [])
    if not all(isinstance(name, str) for name in also):
        raise LifecycleError(f"{where}also: names of states are expected, got {also!r:.80}")
    try:
        return Lifecycle(
            given["name"],
            [State(**row) for row in states],
            [Transition(**row) for row in arrows],
            given.get("initial", ""),
            frozenset(also),
        )
    except TypeError as error:  # what stands for a guard is none
        raise LifecycleError(f"{where}{error}") from error


def _fields(where: str, data: Any, needed: _Types, others: _Types) -> dict[str, Any]:
    """The fields of a mapping, their names and types checked; those that are None are left out."""
    if not isinstance(data, Mapping):
        raise LifecycleError(
            f"{where} is written as a mapping with {', '.join(needed)}; got {type(data).__name__}:"
            f" {data!r:.80}"
        )
    types = needed | others
    for key in data:
        if key not in types:
            raise LifecycleError(f"{where}: unknown key {key!r}{did_you_mean(str(key), types)}")
    for key in needed:
        if key not in data:
            raise LifecycleError(
                f"{where}: {key!r} is missing, got {', '.join(map(repr, data)) or 'nothing'}"
            )
    given = {key: value for key, value in data.items() if value is not None or key in needed}
    for key, value in given.items():
        if not isinstance(value, types[key]):
            raise LifecycleError(
                f"{where}: {key} must be a {types[key].__name__}, got {type(value).__name__}:"
                f" {value!r:.80}"
            )
    return given


def _row(where: str, data: Any, types: tuple[_Types, _Types], known: Registry) -> dict[str, Any]:
    row = _fields(where, data, *types)
    for key in _PARTS:
        if key in row:
            at = f"{where}: {key}"
            row[key] = (
                _resolved(at, row[key], known) if key == "event" else _read(at, row[key], known)
            )
        if key in _CALLED and key in row and not callable(row[key]):
            raise LifecycleError(
                f"{where}: {key} must be a function of the context, got {row[key]!r:.80}"
            )
    return row


def _read(where: str, data: Any, known: Registry) -> Any:
    """What `_plain` wrote."""
    if isinstance(data, list):
        return tuple(_read(where, part, known) for part in data)
    if not isinstance(data, dict):
        return data
    if not isinstance(data.get("is"), str):
        raise LifecycleError(
            f"{where}: a function or a value says by name what it 'is', got {data!r:.80}"
        )
    name, given = (
        data["is"],
        {key: _read(where, value, known) for key, value in data.items() if key != "is"},
    )
    try:
        if name == "float":
            return float(given["value"])
        if name == "frozenset":
            return frozenset(given["items"])
        thing = _resolved(where, name, known)
        if isinstance(thing, type) and attrs.has(thing):
            return thing(**given)
    except LifecycleError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise LifecycleError(f"{where}: {name} cannot be made with {given}: {error}") from error
    if given:
        raise LifecycleError(
            f"{where}: {name} is no value with parameters, got {', '.join(map(repr, given))}"
        )
    return thing


def _resolved(where: str, name: str, known: Registry) -> Any:
    if name not in known:
        near = did_you_mean(name, known)
        hint = near if near.startswith("; did you mean") else "."
        raise LifecycleError(
            f"{where}: unknown name {name!r}{hint} Only a registry says what a name stands for;"
            f" pass registry={{{name!r}: ...}}"
        )
    return known[name]


# ---------------------------------------------------------------- differences


def diff(a: Lifecycle, b: Lifecycle) -> list[str]:
    """What it takes to get from one lifecycle to another, in words; empty if they are equal.

    Args:
        a: the one before.
        b: the one after.
    """
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
        pairs = _paired(before, after)
        words += [f"arrow {old} removed" for old in before if old not in pairs]
        words += [f"arrow {new} added" for new in after if new not in pairs.values()]
        words += [
            f"arrow {old}: {change}" for old, new in pairs.items() for change in _changes(old, new)
        ]
        order = [new for new in after if new in pairs.values()]
        if order != list(pairs.values()):
            words.append(
                f"the arrows out of {source!r} are in another order: {'; '.join(map(str, order))}"
            )
    if not words and a.transitions != b.transitions:
        words.append("the arrows of different states are listed in another order")
    return words


def _paired(
    before: Sequence[Transition], after: Sequence[Transition]
) -> dict[Transition, Transition]:
    """Each arrow that is still there with what it has become: itself, else one with the same end and event."""
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
        return f"[{part.label}]"
    if attrs.has(type(part)) and isinstance(getattr(part, "label", None), str):
        return repr(part.label)
    if part is None or isinstance(part, bool | str) or attrs.has(type(part)):
        return str(part)
    return signature_of(part)


def _called_in_full(part: Any) -> str:
    return f"[{part.name}: {part.guard.label}]" if isinstance(part, Named) else _called(part)
