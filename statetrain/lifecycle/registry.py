"""Lifecycles as plain data that JSON can hold, and as a fingerprint.

Functions and classes are written as `{"is": "module:qualified_name"}`, attrs values with their
fields next to it, and a guard that was made from a function by the function's name. What reads it
is in `statetrain.standard.reading`.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable
from typing import Any

import attrs

from statetrain import jsons
from statetrain.errors import LifecycleError
from statetrain.guards.base import Predicate
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.naming import identify

FORMAT = 1


def to_dict(life: Lifecycle) -> dict[str, Any]:
    """A lifecycle as plain data that can be written as JSON.

    Fields with their default value are left out.

    Raises:
        LifecycleError: a part has no name that stays the same from run to run: a lambda, a closure,
            a bound method.
    """
    return {
        "format": FORMAT,
        "name": life.name,
        "initial": life.initial,
        "states": [_written(life, f"State {state.name!r}", state) for state in life.states],
        "transitions": [_written(life, f"arrow {arrow}", arrow) for arrow in life.transitions],
        "also": sorted(life.also),
    }


def _written(life: Lifecycle, what: str, row: State | Transition) -> dict[str, Any]:
    usual = {field.name: field.default for field in attrs.fields(type(row))}
    if isinstance(row, State):
        usual["role"] = row.name
    given = {name: getattr(row, name) for name in usual}
    try:
        return {
            name: _WRITERS.get(name, _plain)(value)
            for name, value in given.items()
            if value != usual[name]
        }
    except ValueError as error:
        raise LifecycleError(f"{life.name}: {what} cannot be written down: {error}") from None


def _plain(thing: Any) -> Any:
    """A function, an attrs value or plain data as JSON holds it.

    Raises:
        ValueError: it has no stable name, or is none of these.
    """
    if isinstance(thing, bool | int | str | None):
        return thing
    if isinstance(thing, float):
        return _plain_float(thing)
    if isinstance(thing, tuple):
        return list(map(_plain, thing))
    if isinstance(thing, frozenset):
        return {"is": "frozenset", "items": sorted(map(_plain, thing), key=jsons.dumps)}
    if isinstance(thing, Predicate):
        return _plain(thing.function)
    if attrs.has(type(thing)):
        fields = {f.alias: _plain(getattr(thing, f.name)) for f in _parameters(type(thing))}
        return {"is": identify(type(thing)), **fields}
    return {"is": _name_of_code(thing)}


def _plain_float(number: float) -> Any:
    if math.isfinite(number):
        return number
    return {"is": "float", "value": str(number)}  # JSON cannot express it


def _name_of_code(thing: Any) -> str:
    """The name of a function or a class."""
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
    return identify(thing)


_WRITERS: dict[str, Callable[[Any], Any]] = {
    "event": identify,  # a class, whose name is enough
    "outcome": identify,
}


def _parameters(kind: type) -> list[attrs.Attribute[Any]]:
    return [field for field in attrs.fields(kind) if field.init and field.eq]


def fingerprint(life: Lifecycle) -> str:
    """16 hexadecimal digits, equal for equal tables on every machine.

    Different tables almost never share them.

    The names of states, actions, guards, effects and events count, their parameters, and the order
    of the arrows. The lifecycle's own name does not, and neither does what the functions do.

    Raises:
        LifecycleError: as for `to_dict`.
    """
    data = to_dict(life.alone or life)
    table = _canonical({key: data[key] for key in ("initial", "states", "transitions")})
    return hashlib.sha256(jsons.dumps(table, sort_keys=True).encode()).hexdigest()[:16]


def _canonical(data: Any) -> Any:
    """Equal numbers alike: `TimeLimit(30)` and `TimeLimit(30.0)` are equal."""
    if isinstance(data, dict):
        return {key: _canonical(value) for key, value in data.items()}
    if isinstance(data, list):
        return list(map(_canonical, data))
    if isinstance(data, float) and data.is_integer():
        return int(data)
    return data
