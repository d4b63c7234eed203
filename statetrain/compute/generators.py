"""Finding the random generators that objects hold: as attributes, nested, in closures, in a module.

A dataset may draw from a generator of its own, from one in a transform that it holds, or from one
that its module has beside it. None of them is among the global generators of torch, Python and
numpy; to save and to seed them, they have to be found. What cannot be found this way is what C code
keeps, and what is made while a sample is loaded.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from functools import cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch

_DEEPEST = 8  # objects within objects
_MOST = 10_000  # objects that are looked at
_ITEMS = 64  # of a list, a tuple or a dict that are looked at
# What holds none, or not one of the user's
_LEAVES = (str, bytes, int, float, complex, type, ModuleType, torch.Tensor, CodeType, type(None))
_LIBRARIES = ("torch", "numpy", "builtins", "random", "collections", "abc", "typing", "functools")
_SKIPPED = ("_parameters", "_buffers", "_iterator", "__weakref__")


def kinds_of_generators() -> tuple[type, ...]:
    """The classes of generators whose state can be saved and set."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return (torch.Generator, random.Random)
    return (torch.Generator, random.Random, numpy.random.Generator, numpy.random.RandomState)


def generators_in(owners: Iterable[Any], depth: int = _DEEPEST) -> Iterator[tuple[str, Any]]:
    """The generators that objects hold, each once, with a path that is the same in each process.

    Args:
        owners: the objects to start from.
        depth: how many objects within objects are gone through.
    """
    kinds = kinds_of_generators()
    # The objects stay alive meanwhile, so a number is that of one object
    seen: dict[int, Any] = {}
    todo = [(str(i), owner, 0) for i, owner in enumerate(owners)]
    while todo and len(seen) < _MOST:
        path, thing, level = todo.pop()
        if isinstance(thing, kinds):
            if id(thing) not in seen and not isinstance(thing, random.SystemRandom):
                seen[id(thing)] = thing
                yield path, thing
            continue
        if level > depth or id(thing) in seen or isinstance(thing, _LEAVES):
            continue
        seen[id(thing)] = thing
        parts = [(f"{path}.{name}", part, level + 1) for name, part in _parts(thing)]
        todo += reversed(parts)  # so that they are gone through in their order


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds, by name."""
    if isinstance(thing, dict):
        items = list(thing.items())[:_ITEMS]
        yield from ((str(key), value) for key, value in items if isinstance(key, str | int))
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from ((str(i), value) for i, value in zip(range(_ITEMS), thing, strict=False))
    elif isinstance(thing, partial):
        yield from (("func", thing.func), ("args", thing.args), ("keywords", thing.keywords))
    elif isinstance(thing, MethodType):
        yield from (("self", thing.__self__), ("func", thing.__func__))
    elif isinstance(thing, FunctionType):
        yield from _parts_of_function(thing)
    else:
        yield from _attributes(thing)


def _parts_of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for i, cell in enumerate(function.__closure__ or ()):
        try:
            yield f"closure{i}", cell.cell_contents
        except ValueError:  # it is empty as yet
            continue
    yield "defaults", (function.__defaults__, function.__kwdefaults__)
    yield from _globals_of(function)


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    for name, value in dict(getattr(thing, "__dict__", {})).items():
        if name not in _SKIPPED:
            yield name, value
    kind = type(thing)
    for base in kind.__mro__:
        if str(base.__module__).partition(".")[0] in _LIBRARIES:
            continue
        for name in getattr(base, "__slots__", ()):
            if isinstance(name, str) and name not in _SKIPPED and hasattr(thing, name):
                yield name, getattr(thing, name)
        for name, value in _of_class(base):
            yield f"{base.__name__}.{name}", value


@cache
def _of_class(kind: type) -> tuple[tuple[str, Any], ...]:
    """The generators that a class has itself, or whose methods name some of its module."""
    kinds = kinds_of_generators()
    found: list[tuple[str, Any]] = []
    for name, value in vars(kind).items():
        if isinstance(value, kinds):
            found.append((name, value))
        function = getattr(value, "__func__", value)
        if isinstance(function, FunctionType):
            found.extend(_globals_of(function))
    return tuple(found)


def _globals_of(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The generators at the level of a module that a function names."""
    if function.__module__ and function.__module__.partition(".")[0] in _LIBRARIES:
        return
    kinds = kinds_of_generators()
    for name in sorted(_names(function.__code__)):
        value = function.__globals__.get(name)
        if isinstance(value, kinds):
            yield name, value
        elif isinstance(value, FunctionType) and value is not function:
            # One step further: a helper that draws
            for other in sorted(_names(value.__code__)):
                drawn = value.__globals__.get(other)
                if isinstance(drawn, kinds):
                    yield other, drawn


def _names(code: CodeType) -> set[str]:
    """The global names in a function's code, and in that of functions within it."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names


def seed_generators(generators: Iterable[Any], number: int) -> None:
    """Seeds each of some generators; see `seed_generator`."""
    for generator in generators:
        seed_generator(generator, number)


def seed_generator(generator: Any, number: int) -> None:
    """Seeds a generator of one of the known kinds.

    Args:
        generator: torch's, Python's or numpy's.
        number: at least 0.
    """
    if isinstance(generator, torch.Generator):
        generator.manual_seed(number)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = type(generator.bit_generator)(number).state
    else:
        generator.seed(number & 0xFFFFFFFF)
