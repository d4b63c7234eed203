"""Mappings by dotted names, as torch names parameters and modules, and how paths read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from statetrain.context.paths import Part, Parts, Wild, written
from statetrain.naming import did_you_mean


class Named(dict[str, Any]):
    """A mapping by dotted names: `{"encoder.0.weight": ...}`.

    In a path each piece of a name is a part: `params.encoder.0.weight`. What is left of the path
    continues in the value.
    """


def look_up(here: Named, parts: Parts, path: str) -> tuple[Any, int]:
    """What the longest name in front of these parts stands for, or the group of names below it.

    Returns:
        The value, and how many parts its name took.

    Raises:
        KeyError: there is no such name.
    """
    plain = next((i for i, part in enumerate(parts) if not isinstance(part, str | int)), len(parts))
    for used in range(plain, 0, -1):
        name = joined(parts[:used])
        if name in here:
            return here[name], used
    name = joined(parts[:plain])
    start = f"{name}."
    group = {key.removeprefix(start): value for key, value in here.items() if key.startswith(start)}
    if group and plain == len(parts):
        return Named(group), plain
    raise KeyError(
        f"{path!r}: there is no {name!r}{did_you_mean(name, groups(here, name.count('.') + 1))}"
    )


def joined(parts: Iterable[Part]) -> str:
    """Parts of a path as one dotted name."""
    return ".".join(map(str, parts))


def groups(names: Iterable[str], depth: int) -> list[str]:
    """Dotted names, each cut to that many pieces."""
    return list(dict.fromkeys(joined(name.split(".")[:depth]) for name in names))


def matched(names: Iterable[str], parts: Parts) -> list[tuple[str, int]]:
    """The names that parts with wildcards match, and how many of the parts each takes.

    If some match with no name left over, only these do: `interms.encoder.*` are the modules in the
    encoder, not the parts of what it returned.
    """
    found = [(name, used) for name in names for used in _consumed(parts, name.split("."))]
    whole = [(name, used) for name, used in found if not _goes_on(parts[used:])]
    return whole or found


def _goes_on(parts: Parts) -> bool:
    """Whether parts lead on by names."""
    return any(isinstance(part, str | Wild) for part in parts)


def _consumed(parts: Parts, pieces: list[str]) -> Iterator[int]:
    """How many parts it may take to match all pieces of a name."""
    first = next(iter(parts), None)
    if first is Wild.ANY and pieces:
        yield from _consumed(parts, pieces[1:])
    if not pieces and first is not Wild.ANY:
        yield 0
    elif (taken := _taken_by(first, pieces)) is not None:
        yield from (1 + used for used in _consumed(parts[1:], pieces[taken:]))


def _taken_by(part: Part | None, pieces: list[str]) -> int | None:
    """How many pieces of a name a part matches; None if it matches none."""
    if isinstance(part, Wild):
        return {Wild.ANY: 0, Wild.ONE: 1}[part]
    if not isinstance(part, str | int):
        return None
    own = str(part).split(".")
    if pieces[: len(own)] != own:
        return None
    return len(own)


def select(names: Iterable[str], parts: Parts, path: str, *, deep: bool = True) -> list[str]:
    """The names that a path needs: the longest that it begins with, else the group below it.

    Args:
        names: the names that exist.
        parts: of the path, from the names on; without any, all names are needed.
        path: the whole, for errors. One that ends with `?` may need none.
        deep: whether what they stand for has parts with names, into which the path may lead.

    Raises:
        KeyError: there is none, and the path is not optional.
    """
    named = Named(dict.fromkeys(names, True))
    try:
        if not parts:
            return list(named)
        if any(isinstance(part, Wild) for part in parts):
            return _select_all(named, parts, deep)
        return _select_one(named, parts, path, deep)
    except KeyError:
        if path.endswith("?"):
            return []
        raise


def _select_all(named: Named, parts: Parts, deep: bool) -> list[str]:
    found = [name for name, used in matched(named, parts) if deep or not _goes_on(parts[used:])]
    if found:
        return list(dict.fromkeys(found))
    if not named:
        raise KeyError("it matches nothing; there is none at all")
    raise KeyError(f"it matches nothing; there are {', '.join(groups(named, 1))}")


def _select_one(named: Named, parts: Parts, path: str, deep: bool) -> list[str]:
    _, used = look_up(named, parts, path)
    name = joined(parts[:used])
    if not deep and any(isinstance(part, str) for part in parts[used:]):
        raise KeyError(
            f"{path!r}: {name!r} has no {written(parts[used:])!r}"
            f"{did_you_mean(joined(parts), named)}"
        )
    if name in named:
        return [name]
    return [one for one in named if one.startswith(f"{name}.")]
