"""Lifecycles from plain data, as JSON holds them.

A file holds names, never code. A name becomes a function or a class only through a registry, a
dictionary that the reader hands over; the library's own parts are always in it. Nothing is imported
because a file names it.

    text = json.dumps(to_dict(life))
    same = from_dict(json.loads(text), registry={"my_module:my_action": my_action})
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, TypeAlias

import attrs

from statetrain import events, outcome
from statetrain.contracts import composing
from statetrain.errors import LifecycleError
from statetrain.guards import base, batch, clock, counters, history, prechelt, requests
from statetrain.guards.base import Predicate
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.registry import FORMAT
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.naming import did_you_mean, identify, nearest
from statetrain.standard import (
    actions,
    computing,
    edits,
    fusing,
    halving,
    limiting,
    modes,
    nesting,
    precision,
    recording,
    retrying,
    rollback,
    stops,
    validating_first,
    windows,
)

Registry: TypeAlias = Mapping[str, Any]

_CALLED = ("action", "close", "reopen", "effect")  # the fields that hold functions


@cache
def standard() -> Registry:
    """All that the library's own lifecycles are made of, by name.

    Python's exceptions are included, since they may be events.
    """
    classes = (thing for thing in vars(builtins).values() if isinstance(thing, type))
    found = {identify(kind): kind for kind in classes if issubclass(kind, BaseException)}
    for module in (
        *(base, batch, clock, counters, history, prechelt, requests, events, outcome),
        *(actions, computing, edits, fusing, halving, limiting, modes, nesting, precision),
        *(recording, retrying, rollback, stops, validating_first, windows, composing),
    ):
        found.update(_members(module))
    return MappingProxyType(found)


def _members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for thing in vars(module).values():
        named = thing
        if isinstance(thing, Predicate):
            named = thing.function
        is_code = isinstance(named, FunctionType | type)
        if is_code and named.__module__.startswith(module.__name__):
            yield identify(named), thing


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
        "outcome": str,
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
        registry: functions, guards and classes by name, in addition to the library's own.

    Raises:
        LifecycleError: the data is malformed, a name is not in the registry, or the table is not
            sound.
    """
    known = {**standard(), **(registry or {})}
    given = _fields("a lifecycle", data, *_LIFECYCLE)
    if given.get("format", FORMAT) != FORMAT:
        raise LifecycleError(
            f"lifecycle {given['name']!r} is written in format {given['format']}; this version"
            f" reads {FORMAT}"
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
    _check_keys(where, data, needed, others)
    given = {key: value for key, value in data.items() if value is not None or key in needed}
    for key, value in given.items():
        kind = (needed | others)[key]
        if not isinstance(value, kind):
            raise LifecycleError(
                f"{where}: {key} must be a {kind.__name__}, got {type(value).__name__}:"
                f" {value!r:.80}"
            )
    return given


def _check_keys(where: str, data: Mapping[Any, Any], needed: _Types, others: _Types) -> None:
    known = needed | others
    for key in data:
        if key not in known:
            raise LifecycleError(f"{where}: unknown key {key!r}{did_you_mean(str(key), known)}")
    for key in needed:
        if key not in data:
            raise LifecycleError(
                f"{where}: {key!r} is missing, got {', '.join(map(repr, data)) or 'nothing'}"
            )


def _row(where: str, data: Any, types: tuple[_Types, _Types], known: Registry) -> dict[str, Any]:
    row = _fields(where, data, *types)
    for key, read in _READERS.items():
        if key in row:
            row[key] = read(f"{where}: {key}", row[key], known)
    for key in _CALLED:
        if not callable(row.get(key, len)):
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
    given = {key: _read(where, value, known) for key, value in data.items()}
    name = given.pop("is")
    thing = _VALUES.get(name) or _resolved(where, name, known)
    if name in _VALUES or _is_attrs_class(thing):
        try:
            return thing(**given)
        except (KeyError, TypeError, ValueError) as error:
            raise LifecycleError(f"{where}: {name} cannot be made with {given}: {error}") from error
    if given:
        raise LifecycleError(
            f"{where}: {name} is not a value with parameters, got {', '.join(map(repr, given))}"
        )
    return thing


_VALUES: Registry = {
    "float": lambda value: float(value),
    "frozenset": lambda items: frozenset(items),
}
"""What makes the values that JSON has no form for."""


def _is_attrs_class(thing: Any) -> bool:
    return isinstance(thing, type) and attrs.has(thing)


def _resolved(where: str, name: str, known: Registry) -> Any:
    if name not in known:
        hint = nearest(name, known) or "."
        raise LifecycleError(
            f"{where}: unknown name {name!r}{hint} Only a registry says what a name stands for;"
            f" pass registry={{{name!r}: ...}}"
        )
    return known[name]


# How the fields are read that hold functions, values and classes
_READERS: dict[str, Callable[[str, Any, Registry], Any]] = {
    **dict.fromkeys((*_CALLED, "mode", "guard"), _read),
    "event": _resolved,
    "outcome": _resolved,
}
