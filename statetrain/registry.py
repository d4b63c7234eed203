"""Lifecycles as plain data: into JSON and back, fingerprints, differences in words.

A file holds names, never code. A name becomes a function or a class only through a registry, a dictionary that the
reader hands over (the library's own parts are always in it); nothing is imported because a file says so.

    text = json.dumps(to_dict(life))
    same = from_dict(json.loads(text), registry={"my_module:my_action": my_action})

Named are functions and classes as `module:qualified_name`, and attrs values as `{"is": <name of the class>, field: value}`.
"""

from __future__ import annotations

import builtins
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Any, TypeAlias

import attrs

from statetrain import criteria, guards, outcome
from statetrain.guards import Guard, Predicate
from statetrain.lifecycle import Lifecycle, State, Transition
from statetrain.naming import did_you_mean, identify, signature_of
from statetrain.outcome import LifecycleError

Registry: TypeAlias = Mapping[str, Any]

_FORMAT = 1
_PARTS = ("action", "mode", "close", "guard", "effect", "event")  # the fields that hold functions, classes and values


# ---------------------------------------------------------------- writing


def to_dict(life: Lifecycle) -> dict[str, Any]:
    """A lifecycle as plain data that fits into JSON. What has its default value is left out.

    Raises:
        LifecycleError: a part has no name that stays the same from run to run (a lambda, a closure, a bound method).
    """
    return {
        "format": _FORMAT,
        "name": life.name,
        "initial": life.initial,
        "states": [_written(life, state, f"State {state.name!r}") for state in life.states],
        "transitions": [_written(life, arrow, f"arrow {arrow}") for arrow in life.transitions],
        "also": sorted(life.also),
    }


def _written(life: Lifecycle, row: State | Transition, what: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for field in attrs.fields(type(row)):
        value = getattr(row, field.name)
        if value == field.default:
            continue
        try:
            out[field.name] = _named(value) if field.name in _PARTS else value
        except ValueError as error:
            raise LifecycleError(f"{life.name}: {what}: its {field.name} cannot be kept in a file: {error}") from None
    return out


def _named(part: Any) -> Any:
    """A function or class by its name, an attrs value with its fields; guards made of functions by the function's name."""
    if isinstance(part, Predicate):
        return _named(part.function)
    if attrs.has(type(part)):
        return {"is": identify(type(part)), **{f.name: _plain(getattr(part, f.name)) for f in _parameters(type(part))}}
    if inspect.ismethod(part) and not isinstance(part.__self__, type):
        raise ValueError(f"{part!r} belongs to one object, which has no name; write it as an attrs class with fields for its parameters")
    return identify(part)
