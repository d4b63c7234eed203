"""Path keys: the names by which any part of a context is read, such as `batch.image` or `history[-1].valid_loss`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from statetrain.naming import did_you_mean

_PART = re.compile(r"\.?([A-Za-z_][A-Za-z0-9_]*|\d+)|\[(-?\d+|'[^']*'|\"[^\"]*\")\]")


def parse(path: str) -> tuple[str | int, ...]:
    """The parts of a path: names for items and attributes, numbers for positions.

    Raises:
        ValueError: it is no path.
    """
    parts: list[str | int] = []
    at = 0
    while at < len(path):
        found = _PART.match(path, at)
        if not found or (found[0].startswith(".") and at == 0) or (at and found[1] and not found[0].startswith(".")):
            raise ValueError(f"{path!r} is no path: cannot read {path[at:]!r}; write it like 'batch.image' or 'batch[0]'")
        word = found[1] or found[2]
        parts.append(int(word) if re.fullmatch(r"-?\d+", word) else word.strip("'\""))
        at = found.end()
    return tuple(parts)


def get(root: Any, path: str) -> Any:
    """What lies at a path. A name is looked up as an item first, then as an attribute.

    Raises:
        KeyError: there is nothing; the message lists what is there.
    """
    here = root
    for part in parse(path):
        here = _step(here, part, path)
    return here


def getter(path: str) -> Callable[[Any], Any]:
    """A function that reads a path, parsed once."""
    parts = parse(path)
    return partial(_follow, parts=parts, path=path)


def _follow(root: Any, parts: tuple[str | int, ...], path: str) -> Any:
    for part in parts:
        root = _step(root, part, path)
    return root


def _step(here: Any, part: str | int, path: str) -> Any:
    try:
        return here[part]
    except (TypeError, KeyError, IndexError, ValueError):
        pass
    if isinstance(part, str) and not isinstance(here, Mapping | list | tuple) and hasattr(here, part):
        return getattr(here, part)
    if isinstance(part, str) and isinstance(here, tuple) and part in getattr(here, "_fields", ()):
        return getattr(here, part)
    raise KeyError(f"{path!r}: a {type(here).__name__} has no {part!r}{_known(here, part)}")


def _known(here: Any, part: str | int) -> str:
    if isinstance(here, Mapping):
        return did_you_mean(str(part), [str(key) for key in here])
    if isinstance(here, list | tuple):
        fields = getattr(here, "_fields", ())
        return did_you_mean(str(part), fields) if fields else f"; it has {len(here)} items, counted from 0"
    return did_you_mean(str(part), [name for name in dir(here) if not name.startswith("_")]) if isinstance(part, str) else ""
