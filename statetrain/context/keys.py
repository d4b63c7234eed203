"""Path keys: the names by which any part of a context, a batch or a model is read and set.

    batch.image             an item or an attribute         history[-1].valid_loss   a position,
    from the end too pred[:, 0]              a part of a tensor              batch['two words']
    a name that is no identifier interms.*               one level, whatever its name
    params.**.weight         any depth batch.mask?             optional: None if it is not there

A name is looked up as an item first, then as an attribute. None is nothing: a path that ends at
None finds as little as one that leads through it. A path with a wildcard gives all that matches, by
its concrete path.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, MutableSequence
from enum import Enum
from typing import Any, TypeAlias

import attrs
from attrs import frozen

from statetrain.naming import did_you_mean


class Wild(Enum):
    """The wildcards of a path."""

    ONE = "*"  # one level, whatever its name
    ANY = "**"  # any number of levels, none included


Part: TypeAlias = Any  # a name, a position, a slice, a tuple of these, or a `Wild`
Parts: TypeAlias = tuple[Part, ...]

_NAME = re.compile(r"[^\W\d]\w*")
_PART = re.compile(
    rf"\.?(\*\*|\*|{_NAME.pattern}|\d+)|\[\s*('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[-\d:.,None\s]+)\s*\]"
)
_INDEX = re.compile(r"(-?\d+)|(\.\.\.)|(None)|(-?\d+)?\s*:\s*(-?\d+)?\s*(?::\s*(-?\d+)?)?")


class Named(dict[str, Any]):
    """A mapping by dotted names, as torch gives them to parameters and modules: `{"encoder.0.weight": ...}`.

    In a path each piece of a name is a part: `params.encoder.0.weight`. What is left of the path
    goes on in the value.
    """


class _Piece(str):
    """A piece of a dotted name, written without quotes whatever it is."""

    __slots__ = ()


# ---------------------------------------------------------------- the grammar


def parse(path: str) -> Parts:
    """The parts of a path: names for items and attributes, numbers for positions, slices, tuples of these, `Wild`.

    Raises:
        ValueError: it is no path.
    """
    parts: list[Part] = []
    path = path.removesuffix("?")
    at = 0
    while at < len(path):
        found = _PART.match(path, at)
        if (
            not found
            or (found[0].startswith(".") and at == 0)
            or (at and found[1] and not found[0].startswith("."))
        ):
            raise _no_path(path, at)
        try:
            parts.append(_name(found[1]) if found[1] else _item(found[2].strip()))
        except ValueError:
            raise _no_path(path, at) from None
        at = found.end()
    return tuple(parts)


def _no_path(path: str, at: int) -> ValueError:
    return ValueError(
        f"{path!r} is no path: cannot read {path[at:]!r}; write it like 'batch.image' or 'batch[0]'"
    )


def _name(word: str) -> Part:
    return Wild(word) if word.startswith("*") else int(word) if word.isdecimal() else word


def _item(word: str) -> Part:
    if word[0] in "'\"":
        return ast.literal_eval(word)
    if "," in word:
        return tuple(_index(piece.strip()) for piece in word.removesuffix(",").split(","))
    index = _index(word)
    if index is None or index is ...:
        raise ValueError(word)
    return index


def _index(word: str) -> Any:
    found = _INDEX.fullmatch(word)
    if not found:
        raise ValueError(word)
    if found[1]:
        return int(found[1])
    if found[2] or found[3]:
        return ... if found[2] else None
    return slice(*(int(bound) if bound else None for bound in found.group(4, 5, 6)))


def root_of(path: str) -> str:
    """The name that a path begins with; empty if it begins with something else."""
    found = _NAME.match(path)
    return found[0] if found else ""


def written(parts: Parts) -> str:
    """The path that `parse` reads as these parts."""
    path = ""
    for part in parts:
        if isinstance(part, Wild | _Piece) or (isinstance(part, str) and _NAME.fullmatch(part)):
            path += ("." if path else "") + (part.value if isinstance(part, Wild) else part)
        else:
            path += f"[{', '.join(map(_shown, part)) + ',' * (len(part) == 1) if isinstance(part, tuple) else _shown(part)}]"
    return path


def _shown(part: Any) -> str:
    if isinstance(part, slice):
        ends = ["" if bound is None else str(bound) for bound in (part.start, part.stop, part.step)]
        return ":".join(ends if ends[2] else ends[:2])
    return "..." if part is ... else repr(part)


# ---------------------------------------------------------------- reading


@frozen
class Getter:
    """A path that is parsed once and read from many roots.

    Attributes:
        path: as it was written.
        parts: see `parse`.
        optional: whether what is not there gives None; written with a `?` at the end.
        glob: whether it has a wildcard, so that it gives a mapping of all that matches.
    """

    path: str
    parts: Parts
    optional: bool
    glob: bool

    def __call__(self, root: Any) -> Any:
        """What lies there.

        Raises:
            KeyError: there is nothing, and the path is not optional; the message lists what is
                there.
        """
        try:
            if self.glob:
                found = dict(_matches(root, self.parts, (), self.path, sure=True))
                if not found and not self.optional:
                    raise KeyError(f"{self.path!r} matches nothing{_below(root, self.parts)}")
                return {written(parts): value for parts, value in found.values()} if found else None
            return _follow(root, self.parts, self.path)
        except KeyError:
            if self.optional:
                return None
            raise


def getter(path: str) -> Getter:
    """A path, parsed once.

    Raises:
        ValueError: it is no path.
    """
    parts = parse(path)
    return Getter(path, parts, path.endswith("?"), any(isinstance(part, Wild) for part in parts))


_RAISE = object()


def get(root: Any, path: str, default: Any = _RAISE) -> Any:
    """What lies at a path; of a path with a wildcard, all that matches, by concrete path.

    Args:
        root: anything: mappings, lists, tuples, objects, tensors, modules, nested.
        path: see the module.
        default: what is given where there is nothing; else that is an error, unless the path ends
            with `?`.

    Raises:
        KeyError: there is nothing; the message lists what is there.
    """
    try:
        return getter(path)(root)
    except KeyError:
        if default is _RAISE:
            raise
        return default


def filter(root: Any, path: str) -> dict[str, Any]:  # noqa: A001  # what it is called everywhere
    """All that a path matches, by concrete path; nothing matched is no error.

    What comes before the first wildcard has to be there; after it, branches that lack the rest are
    left out. `**` at the end gives the leaves.

    Raises:
        KeyError: what comes before the first wildcard is not there.
    """
    return {written(parts): value for parts, value in _found(root, path)}


def _found(root: Any, path: str) -> list[tuple[Parts, Any]]:
    return list(dict(_matches(root, parse(path), (), path, sure=True)).values())


def _follow(here: Any, parts: Parts, path: str) -> Any:
    at = 0
    while at < len(parts):
        if isinstance(here, Named):
            here, used = _in_names(here, parts[at:], path)
            at += used
        else:
            here = _step(here, parts[at], path)
            at += 1
        if here is None:
            rest = "" if at == len(parts) else f", so it has no {written(parts[at:])!r}"
            raise KeyError(
                f"{path!r}: {written(parts[:at])!r} is None{rest}; nothing is there yet, or at all"
            )
    return here


def _in_names(here: Named, parts: Parts, path: str) -> tuple[Any, int]:
    """What the longest name in front of these parts stands for, or the group of names below it; and how many parts it took."""
    plain = next((i for i, part in enumerate(parts) if not isinstance(part, str | int)), len(parts))
    for used in range(plain, 0, -1):
        name = ".".join(map(str, parts[:used]))
        if name in here:
            return here[name], used
    for used in range(plain, 0, -1):
        start = ".".join(map(str, parts[:used])) + "."
        if used == len(parts) and (
            group := Named(
                {
                    name.removeprefix(start): value
                    for name, value in here.items()
                    if name.startswith(start)
                }
            )
        ):
            return group, used
    name = ".".join(map(str, parts[:plain]))
    raise KeyError(
        f"{path!r}: there is no {name!r}{did_you_mean(name, groups(here, name.count('.') + 1))}"
    )


def groups(names: Iterable[str], depth: int) -> list[str]:
    """Dotted names, each cut to that many pieces."""
    return list(dict.fromkeys(".".join(name.split(".")[:depth]) for name in names))


def _step(here: Any, part: Part, path: str) -> Any:
    try:
        if not (
            isinstance(part, str) and hasattr(here, "untyped_storage")
        ):  # torch warns before it says that a tensor has no names
            return here[part]
    except (TypeError, KeyError, IndexError, ValueError):
        pass
    if isinstance(part, int) and isinstance(here, Mapping) and str(part) in here:
        return here[str(part)]
    if isinstance(part, str) and (
        not isinstance(here, Mapping | list | tuple) or part in getattr(here, "_fields", ())
    ):
        found = getattr(here, part, _RAISE)
        if found is not _RAISE:
            return found
    raise KeyError(f"{path!r}: {_a(here)} has no {_shown(part)}{_known(here, part)}")


def _a(thing: Any) -> str:
    name = type(thing).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _known(here: Any, part: Part) -> str:
    if isinstance(here, Mapping):
        return did_you_mean(str(part), [str(key) for key in here])
    if isinstance(here, list | tuple):
        fields = getattr(here, "_fields", ())
        return (
            did_you_mean(str(part), fields)
            if fields
            else f"; it has {len(here)} items, counted from 0"
        )
    return (
        did_you_mean(str(part), [name for name in dir(here) if not name.startswith("_")])
        if isinstance(part, str)
        else ""
    )


# ---------------------------------------------------------------- wildcards


def children(here: Any) -> list[tuple[Part, Any]]:
    """The parts that a mapping, a list, a tuple, a dataclass or an attrs value has; none of anything else, which is a leaf."""
    if isinstance(here, Mapping):
        return list(here.items()) if all(type(key) in (str, int) for key in here) else []
    if isinstance(here, tuple) and hasattr(here, "_fields"):
        return list(zip(here._fields, here, strict=True))
    if isinstance(here, list | tuple):
        return list(enumerate(here))
    if isinstance(here, type):
        return []
    if hasattr(here, "__dataclass_fields__"):
        return [(name, getattr(here, name, None)) for name in here.__dataclass_fields__]
    if attrs.has(type(here)):
        return [
            (field.name, getattr(here, field.name, None))
            for field in attrs.fields(type(here))
            if not field.name.startswith("_")
        ]
    return []


# By a mark that is the same for the same place
Matches: TypeAlias = Iterator[tuple[str, tuple[Parts, Any]]]


def _matches(
    here: Any, parts: Parts, before: Parts, path: str, *, sure: bool, seen: tuple[int, ...] = ()
) -> Matches:
    """All that the parts match below a place.

    Args:
        here: the place.
        parts: what is left of the path.
        before: how the place was reached.
        path: the whole, for errors.
        sure: whether no wildcard has come yet, so that a part that is missing is an error.
        seen: the objects on the way, so that a circle ends.
    """
    if here is None:
        return
    if not parts:
        yield repr(before), (before, here)
        return
    if isinstance(here, Named) and any(isinstance(part, Wild) for part in parts):
        for name, used in _matched(here, parts):
            yield from _matches(
                here[name],
                parts[used:],
                (*before, *map(_Piece, name.split("."))),
                path,
                sure=False,
                seen=seen,
            )
        return
    part, rest = parts[0], parts[1:]
    if not isinstance(part, Wild):
        try:
            taken = 1
            if isinstance(here, Named):
                child, taken = _in_names(here, parts, path)
            else:
                child = _step(here, part, path)
            if child is None and sure:
                raise KeyError(
                    f"{path!r}: {written((*before, part))!r} is None; nothing is there yet, or"
                    " at all"
                )
        except KeyError:
            if sure:
                raise
            return
        yield from _matches(
            child, parts[taken:], (*before, *parts[:taken]), path, sure=sure, seen=seen
        )
        return
    below = children(here) if id(here) not in seen else []
    seen = (*seen, id(here))
    if part is Wild.ANY:
        if rest or not below:
            yield from _matches(here, rest, before, path, sure=False, seen=seen[:-1])
        rest = parts
    for name, child in below:
        yield from _matches(child, rest, (*before, name), path, sure=False, seen=seen)


def _matched(names: Iterable[str], parts: Parts) -> list[tuple[str, int]]:
    """The dotted names that parts with wildcards match, with how many parts each takes; the rest goes on in the value.

    If some match with no name left over, only these do: `interms.encoder.*` are the modules in the
    encoder, not the parts of what it returned.
    """
    found = [(name, used) for name in names for used in _consumed(parts, name.split("."))]
    whole = [
        (name, used)
        for name, used in found
        if not any(isinstance(part, str | Wild) for part in parts[used:])
    ]
    return whole or found


def _consumed(parts: Parts, pieces: list[str]) -> Iterator[int]:
    """How many parts it may take to match all pieces of a name."""
    if parts and parts[0] is Wild.ANY:
        yield from (1 + used for used in _consumed(parts[1:], pieces))
        if pieces:
            yield from _consumed(parts, pieces[1:])
    elif not pieces:
        yield 0
    elif parts and parts[0] is Wild.ONE:
        yield from (1 + used for used in _consumed(parts[1:], pieces[1:]))
    elif parts and isinstance(parts[0], str | int):
        own = str(parts[0]).split(".")
        if pieces[: len(own)] == own:
            yield from (1 + used for used in _consumed(parts[1:], pieces[len(own) :]))


def select(names: Iterable[str], key: Getter, *, deep: bool = True) -> list[str]:
    """The dotted names that a key needs: the longest name that it begins with, else the group below it; all that its wildcards match.

    Args:
        names: what there is.
        key: a path that begins with a name; an empty one needs all.
        deep: whether what they stand for has parts with names, in which the key may go on.

    Raises:
        KeyError: there is none, and the key is not optional.
    """
    named = Named(dict.fromkeys(names, True))
    if not key.parts:
        return list(named)
    if key.glob:
        matched = _matched(named, key.parts)
        found = list(
            dict.fromkeys(
                name
                for name, used in matched
                if deep or not any(isinstance(part, str | Wild) for part in key.parts[used:])
            )
        )
        if not found and not key.optional:
            raise KeyError(
                "it matches nothing; there"
                f" {'are ' + ', '.join(groups(named, 1)) if named else 'is none at all'}"
            )
        return found
    try:
        _, used = _in_names(named, key.parts, key.path)
    except KeyError:
        if key.optional:
            return []
        raise
    name = ".".join(map(str, key.parts[:used]))
    if not deep and any(isinstance(part, str) for part in key.parts[used:]):
        raise KeyError(
            f"{key.path!r}: {name!r} has no"
            f" {written(key.parts[used:])!r}{did_you_mean('.'.join(map(str, key.parts)), named)}"
        )
    return [name] if name in named else [other for other in named if other.startswith(name + ".")]


def _below(root: Any, parts: Parts) -> str:
    """What there is where the first wildcard stands, for errors."""
    first = next(i for i, part in enumerate(parts) if isinstance(part, Wild))
    here = _follow(root, parts[:first], "")
    names = [str(name) for name, _ in children(here)]
    return (
        f"; there are {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
        if names
        else f": {_a(here)} has no parts"
    )


# ---------------------------------------------------------------- setting


# What it is called everywhere
def set(root: Any, path: str, value: Any) -> list[str]:  # noqa: A001
    """Sets what lies at a path, in place; of a path with a wildcard, all that matches.

    The last part may be new in a mapping; elsewhere it has to be there.

    Returns:
        The concrete paths that were set.

    Raises:
        KeyError: there is nothing to set; the message lists what is there.
        TypeError: it lies in a tuple, which cannot be changed.
        ValueError: the path is empty, or no path.
    """
    parts = parse(path)
    if not parts:
        raise ValueError(
            "an empty path is the thing itself, which cannot be set; name a part of it"
        )
    if not any(isinstance(part, Wild) for part in parts):
        _set_one(root, parts, value, path)
        return [written(parts)]
    found = [concrete for concrete, _ in _found(root, path)]
    for concrete in found:
        _set_one(root, concrete, value, path)
    return [written(concrete) for concrete in found]


def _set_one(here: Any, parts: Parts, value: Any, path: str) -> None:
    at = 0
    while at < len(parts):
        if isinstance(here, Named):
            name = ".".join(map(str, parts[at:]))
            if name in here:
                here[name] = value
                return
            inner, used = _in_names(here, parts[at:], path)
            if at + used == len(parts):
                raise KeyError(
                    f"{path!r}: {name!r} is a group of {len(inner)}; set its parts, or all of them"
                    f" with {path}.**"
                )
        elif at == len(parts) - 1:
            _assign(here, parts[at], value, path)
            return
        else:
            inner, used = _step(here, parts[at], path), 1
        here, at = inner, at + used


def _assign(here: Any, part: Part, value: Any, path: str) -> None:
    if isinstance(here, tuple):
        raise TypeError(
            f"{path!r}: a tuple cannot be changed; set the whole of it, or make it a list"
        )
    if isinstance(here, MutableMapping):
        here[
            str(part) if isinstance(part, int) and part not in here and str(part) in here else part
        ] = value
        return
    if isinstance(part, str):
        if isinstance(here, MutableSequence) or not hasattr(here, part):
            raise KeyError(f"{path!r}: {_a(here)} has no {part!r}{_known(here, part)}")
        setattr(here, part, value)
        return
    try:
        here[part] = value
    except IndexError:
        raise KeyError(f"{path!r}: {_a(here)} has no {_shown(part)}{_known(here, part)}") from None


# ---------------------------------------------------------------- flat and nested


def flatten(root: Any, prefix: str = "") -> dict[str, Any]:
    """All leaves by path, in order: what lies in mappings, lists, tuples, dataclasses and attrs values. What is empty is a leaf.

    Args:
        root: what to flatten.
        prefix: a path that all begin with.
    """
    return {written(parts): leaf for parts, leaf in _leaves(root, parse(prefix), ())}


def _leaves(here: Any, before: Parts, seen: tuple[int, ...]) -> Iterator[tuple[Parts, Any]]:
    below = children(here) if id(here) not in seen else []
    for name, child in below:
        pieces = map(_Piece, name.split(".")) if isinstance(here, Named) else (name,)
        yield from _leaves(child, (*before, *pieces), (*seen, id(here)))
    if not below:
        yield before, here


def unflatten(flat: Mapping[str, Any]) -> Any:
    """What `flatten` was given: mappings, and lists where the names are the positions from 0 on.

    Tuples come back as lists, objects as mappings.

    Raises:
        ValueError: a path leads through a leaf.
    """
    if "" in flat:
        if len(flat) > 1:
            raise ValueError("the empty path is the whole, so there can be no other beside it")
        return flat[""]
    root = _Node()
    for path, leaf in flat.items():
        here = root
        *way, last = parse(path)
        for part in way:
            here = here.setdefault(part, _Node())
            if not isinstance(here, _Node):
                # Of paths, not of types
                raise ValueError(f"{path!r} leads through {part!r}, which is a leaf")  # noqa: TRY004
        if isinstance(here.get(last), _Node):
            # As above
            raise ValueError(f"{path!r} is a leaf, and other paths lead through it")  # noqa: TRY004
        here[last] = leaf
    return _built(root)


class _Node(dict[Any, Any]):
    """A place with parts, told from a leaf that is a mapping."""


def _built(node: Any) -> Any:
    if not isinstance(node, _Node):
        return node
    parts = {name: _built(child) for name, child in node.items()}
    positions = all(type(name) is int for name in parts) and sorted(parts) == list(
        range(len(parts))
    )
    return [parts[i] for i in range(len(parts))] if positions and parts else parts
