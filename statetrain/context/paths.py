"""Paths: the one grammar in which keys are read and contracts are declared.

batch.image              an item or an attribute
history[-1].valid_loss   a position, from the end too
pred[:, 0]               a part of a tensor
batch['two words']       a name that is not an identifier
batch[True], batch[0.5]  a key that is a boolean, a number or None
interms.*                one level, whatever its name
params.**.weight         any depth
batch.mask?              optional: None if it is not there
"""

from __future__ import annotations

import ast
import re
from collections.abc import Hashable
from enum import Enum
from functools import lru_cache
from typing import Any, TypeAlias

from statetrain.errors import ConfigError


class Wild(Enum):
    """The wildcards of a path."""

    ONE = "*"  # one level, whatever its name
    ANY = "**"  # any number of levels, none included


# A name, a position, a boolean, a number, None, a slice, a tuple of these, or a `Wild`
Part: TypeAlias = Any
Parts: TypeAlias = tuple[Part, ...]

_NAME = re.compile(r"[^\W\d]\w*")
_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_WORDS = {"None": None, "True": True, "False": False}
_NUMBER = r"-?(?:\d+\.\d*|\.\d+|\d+)(?:e[-+]?\d+)?"
_ITEM = rf"{_QUOTED}|True|False|{_NUMBER}|[-\d:.,None\s]+"
_PART = re.compile(rf"\.?(\*\*|\*|{_NAME.pattern}|\d+)|\[\s*({_ITEM})\s*\]")
_INDEX = re.compile(r"(-?\d+)|(\.\.\.)|(None)|(-?\d+)?\s*:\s*(-?\d+)?\s*(?::\s*(-?\d+)?)?")


class Piece(str):
    """A piece of a dotted name, written without quotes whatever it is."""

    __slots__ = ()


def parse(path: str) -> Parts:
    """The parts of a path: names, positions, keys, slices, tuples of these, `Wild`.

    Raises:
        TypeError: it is not text.
        ConfigError: it cannot be read.
    """
    if not isinstance(path, str):
        raise TypeError(f"a path is text such as 'batch.image', got {path!r}")
    return _parsed(path)


@lru_cache(maxsize=4096)
def _parsed(path: str) -> Parts:
    parts: list[Part] = []
    text = path.removesuffix("?")
    at = 0
    while at < len(text):
        found = _PART.match(text, at)
        if not found or not _may_follow(found, at):
            raise _unreadable(path, at)
        try:
            parts.append(_name(found[1]) if found[1] else _item(found[2].strip()))
        except ValueError:
            raise _unreadable(path, at) from None
        at = found.end()
    return tuple(parts)


def _may_follow(found: re.Match[str], at: int) -> bool:
    """Whether a name has a dot before it where one is due, and only there."""
    dotted = found[0].startswith(".")
    if at == 0:
        return not dotted
    return dotted or not found[1]


def _unreadable(path: str, at: int) -> ConfigError:
    return ConfigError(
        f"{path!r} is not a path: cannot read {path.removesuffix('?')[at:]!r}; write it like"
        " 'batch.image' or 'batch[0]'"
    )


def _name(word: str) -> Part:
    if word.startswith("*"):
        return Wild(word)
    if word.isdecimal():
        return int(word)
    return word


def _item(word: str) -> Part:
    if word[0] in "'\"":
        return ast.literal_eval(word)
    if word in _WORDS:
        return _WORDS[word]
    if "," in word:
        return tuple(_index(piece.strip()) for piece in word.removesuffix(",").split(","))
    if re.fullmatch(r"-?\d+", word):
        return int(word)
    if re.fullmatch(_NUMBER, word):
        return float(word)
    index = _index(word)
    if index is ...:
        raise ValueError(word)
    return index


def _index(word: str) -> Any:
    found = _INDEX.fullmatch(word)
    if not found:
        raise ValueError(word)
    if found[1]:
        return int(found[1])
    if found[2]:
        return ...
    if found[3]:
        return None
    return slice(*(int(bound) if bound else None for bound in found.group(4, 5, 6)))


def root_of(path: str) -> str:
    """The name that a path begins with; empty if it begins with something else.

    Raises:
        TypeError: it is not text.
    """
    if not isinstance(path, str):
        raise TypeError(f"a path is text such as 'batch.image', got {path!r}")
    found = _NAME.match(path)
    if not found:
        return ""
    return found[0]


def is_key(value: Hashable) -> bool:
    """Whether a path can name a key of a mapping: text, a number, a boolean or None."""
    if type(value) is float:
        return value - value == 0  # finite
    return value is None or type(value) in (str, int, bool)


def written(parts: Parts) -> str:
    """The path that `parse` reads as these parts."""
    path = ""
    for part in parts:
        if isinstance(part, Wild):
            path += f".{part.value}"
        elif isinstance(part, Piece) or (isinstance(part, str) and _NAME.fullmatch(part)):
            path += f".{part}"
        elif isinstance(part, tuple):
            path += f"[{', '.join(map(shown, part))}{',' * (len(part) == 1)}]"
        else:
            path += f"[{shown(part)}]"
    return path.removeprefix(".")


def shown(part: Part) -> str:
    """One part, as it stands between brackets."""
    if isinstance(part, slice):
        bounds = [part.start, part.stop, part.step]
        if part.step is None:
            del bounds[2]
        return ":".join("" if bound is None else str(bound) for bound in bounds)
    if part is ...:
        return "..."
    return repr(part)


# ---------------------------------------------------------------- two paths


def overlap(one: str, other: str) -> bool:
    """Whether two paths may meet.

    They do if they are equal, one lies within the other, or a wildcard of one fits the other.
    """
    for a, b in zip(parse(one), parse(other), strict=False):
        if Wild.ANY in (a, b):
            return True
        if not _may_be_one(a, b):
            return False
    return True


def _may_be_one(a: Part, b: Part) -> bool:
    """Whether two parts may name the same thing, as far as can be known without the value."""
    if a == b or Wild.ONE in (a, b):
        return True
    if any(isinstance(part, slice | tuple | None) for part in (a, b)):
        return not (isinstance(a, str) or isinstance(b, str))
    if isinstance(a, int) and isinstance(b, int):
        return (a < 0) != (b < 0)  # from the front and from the end
    return str(a) == str(b)


def covers(declared: Parts, asked: Parts) -> bool:
    """Whether a declared path allows another one.

    It does if it is the same, what the other lies in, or a wildcard that fits.
    """
    for i, part in enumerate(declared):
        if part is Wild.ANY:
            return True
        if i >= len(asked) or not (part is Wild.ONE or _is_one(part, asked[i])):
            return False
    return True


def _is_one(a: Part, b: Part) -> bool:
    """Whether two parts name the same: a number and its digits do, as in `layers.0`."""
    return bool(a == b) or (not isinstance(a, slice | tuple) and str(a) == str(b))
