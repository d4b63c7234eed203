"""Nested containers: their parts, their leaves by path, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from statetrain.context.named import Named
from statetrain.context.paths import Part, Parts, Piece, is_key, parse, written


def field_names(value: Any) -> list[str]:
    """The fields of a value of an attrs class or a dataclass; of anything else, none."""
    if isinstance(value, type):
        return []
    if dataclasses.is_dataclass(value):
        return [one.name for one in dataclasses.fields(value)]
    if attrs.has(type(value)):
        return [one.name for one in attrs.fields(type(value))]
    return []


def parts(here: Any) -> list[tuple[Any, Any]]:
    """The parts of a mapping, list, tuple, dataclass or attrs value, by name; of a leaf, none."""
    if isinstance(here, Mapping):
        return list(here.items())
    if isinstance(here, tuple) and hasattr(here, "_fields"):
        return list(zip(here._fields, here, strict=True))
    if isinstance(here, list | tuple):
        return list(enumerate(here))
    return [(name, getattr(here, name, None)) for name in field_names(here)]


def children(here: Any) -> list[tuple[Part, Any]]:
    """The parts that a path can name; where it could not name all keys of a mapping, none."""
    if isinstance(here, Mapping) and not all(map(is_key, here)):
        return []
    if names := field_names(here):
        return [(name, getattr(here, name, None)) for name in names if not name.startswith("_")]
    return parts(here)


def flatten(root: Any, prefix: str = "", *, separator: str | None = None) -> dict[str, Any]:
    """All leaves by path, in order. What is empty is a leaf.

    Leaves lie in mappings, lists, tuples, dataclasses and attrs values.

    Args:
        root: what to flatten.
        prefix: a path that all begin with.
        separator: what stands between the parts in place of the grammar of paths, as in
            `"batch/image/0"`; None gives paths that `get` reads.

    Raises:
        ValueError: with that separator, two leaves would have the same name, or it is no text.
    """
    _check_separator(separator)
    leaves = list(_leaves(root, parse(prefix), ()))
    if separator is None:
        return {written(parts): leaf for parts, leaf in leaves}
    flat: dict[str, Any] = {}
    for parts, leaf in leaves:
        name = separator.join(map(str, parts))
        if name in flat:
            raise ValueError(f"two leaves are called {name!r}; take another separator")
        flat[name] = leaf
    return flat


def _check_separator(separator: object) -> None:
    if separator is not None and not isinstance(separator, str):
        raise ValueError(f"separator must be a text such as '/', or None, got {separator!r}")


def _leaves(here: Any, before: Parts, seen: tuple[int, ...]) -> Iterator[tuple[Parts, Any]]:
    below: list[tuple[Part, Any]] = []
    if id(here) not in seen:
        below = children(here)
    for name, child in below:
        pieces: Parts = (name,)
        if isinstance(here, Named):
            pieces = tuple(map(Piece, name.split(".")))
        yield from _leaves(child, (*before, *pieces), (*seen, id(here)))
    if not below:
        yield before, here


def unflatten(flat: Mapping[str, Any], *, separator: str | None = None) -> Any:
    """What `flatten` was given: mappings, and lists where the names are the positions from 0 on.

    Tuples come back as lists, objects as mappings.

    Args:
        flat: leaves by path.
        separator: the one that `flatten` was given; a part of digits is a position.

    Raises:
        ValueError: a path leads through a leaf.
    """
    if "" in flat:
        if len(flat) > 1:
            raise ValueError("the empty path is the whole, so there can be no other path")
        return flat[""]
    root = _Branch()
    for path, leaf in flat.items():
        *way, last = _split(path, separator)
        here = root
        for part in way:
            here = here.setdefault(part, _Branch())
            if not isinstance(here, _Branch):
                # Of paths, not of types
                words = f"{path!r} leads through {part!r}, which is a leaf"
                raise ValueError(words)  # noqa: TRY004
        if isinstance(here.get(last), _Branch):
            # As above
            raise ValueError(f"{path!r} is a leaf, and other paths lead through it")  # noqa: TRY004
        here[last] = leaf
    return _built(root)


def _split(path: str, separator: str | None) -> Iterable[Part]:
    if separator is None:
        return parse(path)
    return map(_position_or_name, path.split(separator))


def _position_or_name(part: str) -> Part:
    if part.isdecimal():
        return int(part)
    return part


class _Branch(dict[Any, Any]):
    """A place with parts, told from a leaf that is a mapping."""


def _built(node: Any) -> Any:
    if not isinstance(node, _Branch):
        return node
    parts = {name: _built(child) for name, child in node.items()}
    positions = list(range(len(parts)))
    whole = all(type(name) is int for name in parts)
    if parts and whole and sorted(parts) == positions:
        return [parts[i] for i in positions]
    return parts
