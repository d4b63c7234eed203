"""Keys: reading and setting any part of a context, a batch or a model by its path.

The grammar of paths is that of `statetrain.context.paths`. A name is looked up as an item first,
then as an attribute. None is nothing: a path that ends at None finds as little as one that leads
through it. A path with a wildcard gives all that matches, by its concrete path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, MutableSequence
from typing import Any, TypeAlias

from attrs import frozen

from statetrain.context.named import Named, joined, look_up, matched
from statetrain.context.paths import Part, Parts, Piece, Wild, parse, root_of, shown, written
from statetrain.context.tree import children, flatten, unflatten
from statetrain.errors import ConfigError
from statetrain.naming import did_you_mean

__all__ = [
    "Getter",
    "Named",
    "Wild",
    "filter",
    "flatten",
    "get",
    "getter",
    "parse",
    "root_of",
    "set",
    "unflatten",
    "written",
]


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
                found = dict(_matches(root, self.parts, _Match(self.path)))
                if not found:
                    raise KeyError(f"{self.path!r} matches nothing{_below(root, self.parts)}")
                return {written(parts): value for parts, value in found.values()}
            return _follow(root, self.parts, self.path)
        except KeyError:
            if self.optional:
                return None
            raise


def getter(path: str) -> Getter:
    """A path, parsed once.

    Raises:
        TypeError: it is not text.
        ConfigError: it is not a path.
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
    return list(dict(_matches(root, parse(path), _Match(path))).values())


def _follow(here: Any, parts: Parts, path: str) -> Any:
    at = 0
    while at < len(parts):
        if isinstance(here, Named):
            here, used = look_up(here, parts[at:], path)
            at += used
        else:
            here = _step(here, parts[at], path)
            at += 1
        if here is None:
            raise KeyError(_none_at(path, parts, at))
    return here


def _none_at(path: str, parts: Parts, at: int) -> str:
    """The error of a path that ends at None, or leads through it."""
    rest = ""
    if at < len(parts):
        rest = f", so it has no {written(parts[at:])!r}"
    return f"{path!r}: {written(parts[:at])!r} is None{rest}; nothing is there yet, or at all"


def _step(here: Any, part: Part, path: str) -> Any:
    # torch warns before it says that a tensor has no names
    if not (isinstance(part, str) and hasattr(here, "untyped_storage")):
        try:
            return here[part]
        except (TypeError, KeyError, IndexError, ValueError):
            pass
    if isinstance(part, int) and isinstance(here, Mapping) and str(part) in here:
        return here[str(part)]
    if isinstance(part, str) and _has_attributes(here, part):
        found = getattr(here, part, _RAISE)
        if found is not _RAISE:
            return found
    raise KeyError(f"{path!r}: {_a(here)} has no {shown(part)}{_known(here, part)}")


def _has_attributes(here: Any, name: str) -> bool:
    """Whether a name may be looked up as an attribute; a container has items only."""
    if isinstance(here, Mapping | list | tuple):
        return name in getattr(here, "_fields", ())
    return True


def _a(thing: Any) -> str:
    name = type(thing).__name__
    if name[0].lower() in "aeiou":
        return f"an {name}"
    return f"a {name}"


def _known(here: Any, part: Part) -> str:
    if isinstance(here, Mapping):
        return did_you_mean(str(part), [str(key) for key in here])
    if isinstance(here, list | tuple):
        fields = getattr(here, "_fields", ())
        if fields:
            return did_you_mean(str(part), fields)
        return f"; it has {len(here)} items, counted from 0"
    if not isinstance(part, str):
        return ""
    return did_you_mean(part, [name for name in dir(here) if not name.startswith("_")])


# ---------------------------------------------------------------- wildcards


# By a mark that is the same for the same place
Matches: TypeAlias = Iterator[tuple[str, tuple[Parts, Any]]]


@frozen
class _Match:
    """Where a search for matches stands.

    Attributes:
        path: the whole, for errors.
        before: how the place was reached.
        sure: whether no wildcard has come yet, so that a part that is missing is an error.
        seen: the objects on the way, so that a circle ends.
    """

    path: str
    before: Parts = ()
    sure: bool = True
    seen: tuple[int, ...] = ()

    def on(self, *parts: Part, sure: bool = False, seen: tuple[int, ...] = ()) -> _Match:
        """The same search, some parts further in."""
        return _Match(self.path, (*self.before, *parts), sure, seen)


def _matches(here: Any, parts: Parts, search: _Match) -> Matches:
    """All that the parts match below a place."""
    if here is None:
        return
    if not parts:
        yield repr(search.before), (search.before, here)
    elif isinstance(here, Named) and any(isinstance(part, Wild) for part in parts):
        for name, used in matched(here, parts):
            pieces = map(Piece, name.split("."))
            yield from _matches(here[name], parts[used:], search.on(*pieces, seen=search.seen))
    elif isinstance(parts[0], Wild):
        yield from _match_wild(here, parts, search)
    else:
        yield from _match_part(here, parts, search)


def _match_part(here: Any, parts: Parts, search: _Match) -> Matches:
    """The matches below one part that is not a wildcard."""
    taken = 1
    try:
        if isinstance(here, Named):
            child, taken = look_up(here, parts, search.path)
        else:
            child = _step(here, parts[0], search.path)
    except KeyError:
        if search.sure:
            raise
        return
    further = search.on(*parts[:taken], sure=search.sure, seen=search.seen)
    if child is None and search.sure:
        raise KeyError(
            f"{search.path!r}: {written(further.before)!r} is None; nothing is there yet, or at all"
        )
    yield from _matches(child, parts[taken:], further)


def _match_wild(here: Any, parts: Parts, search: _Match) -> Matches:
    """The matches of a wildcard, and of what follows it."""
    below: list[tuple[Part, Any]] = []
    if id(here) not in search.seen:
        below = children(here)
    rest = parts[1:]
    if parts[0] is Wild.ANY:
        if rest or not below:
            yield from _matches(here, rest, search.on(seen=search.seen))
        rest = parts
    for name, child in below:
        yield from _matches(child, rest, search.on(name, seen=(*search.seen, id(here))))


def _below(root: Any, parts: Parts) -> str:
    """What there is where the first wildcard stands, for errors."""
    first = next(i for i, part in enumerate(parts) if isinstance(part, Wild))
    here = _follow(root, parts[:first], "")
    names = [str(name) for name, _ in children(here)]
    if not names:
        return f": {_a(here)} has no parts"
    if len(names) > 12:
        names[12:] = ["..."]
    return f"; there are {', '.join(names)}"


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
        ConfigError: the path is empty, or cannot be read.
    """
    parts = parse(path)
    if not parts:
        raise ConfigError(
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
            name = joined(parts[at:])
            if name in here:
                here[name] = value
                return
            inner, used = look_up(here, parts[at:], path)
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
        here[_own_key(here, part)] = value
    elif not isinstance(part, str):
        try:
            here[part] = value
        except IndexError:
            raise _lacks(here, part, path) from None
    elif isinstance(here, MutableSequence) or not hasattr(here, part):
        raise _lacks(here, part, path)
    else:
        setattr(here, part, value)


def _own_key(here: MutableMapping[Any, Any], part: Part) -> Any:
    """The key that a part names: digits may stand for a name."""
    if isinstance(part, int) and part not in here and str(part) in here:
        return str(part)
    return part


def _lacks(here: Any, part: Part, path: str) -> KeyError:
    return KeyError(f"{path!r}: {_a(here)} has no {shown(part)}{_known(here, part)}")
