"""What components declare that they read and write.

Actions, effects, close work and modes carry an `Access`; a function gets one from the decorator
`access`, an attrs value has a property of that name. A function without one is *unknown*: it may do
anything, and is not checked. Guards declare `reads`, callbacks `reads` and `writes`, for all their
hooks or by hook.

A path begins with a field of the context and may lead into it: `batch`, `batch.image`,
`params.encoder.weight`; its grammar is that of keys, see `statetrain.context.paths`. A path that
ends with `?` is read where it is there.

    @access(reads={"input", "model"}, writes={"buffers.embedding"})
    def embed(ctx):
        "embed the input"
        ctx.buffers["embedding"] = ctx.model.encoder(ctx.input)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any, TypeVar

import attrs
from attrs import field, frozen

from statetrain.context.context import Context
from statetrain.context.fields import Fact, fields_with, sources
from statetrain.context.paths import Wild, parse, written
from statetrain.errors import ContractError
from statetrain.guards.base import Guard, Predicate, leaves

F = TypeVar("F", bound=Callable[..., Any])

# What the fields of the standard context say of themselves
BORN = frozenset(fields_with(Context, Fact.BORN))
ALWAYS_READ = frozenset(fields_with(Context, Fact.OPEN))
NOTED = frozenset(fields_with(Context, Fact.NOTED))
DERIVED = sources(Context)
GIVEN = frozenset(one.name for one in attrs.fields(Context)) - BORN  # there from the start


# ---------------------------------------------------------------- paths


def paths_of(value: Iterable[str]) -> frozenset[str]:
    """Declared paths as a set; a lone one may be given as it is.

    Raises:
        ContractError: one cannot be read.
    """
    try:
        if isinstance(value, str):
            value = (value,)
        return _checked(frozenset(value))
    except TypeError:
        raise ContractError(
            "what is read or written is declared as paths such as 'batch.image', or a set of them,"
            f" got {value!r}"
        ) from None


@lru_cache(maxsize=4096)
def _checked(paths: frozenset[str]) -> frozenset[str]:
    for path in paths:
        try:
            parts = parse(path)
        except ValueError as error:
            raise ContractError(f"a declared path cannot be read: {error}") from None
        if not parts or not isinstance(parts[0], str | Wild):
            raise ContractError(f"a declared path begins with a field of the context, got {path!r}")
    return paths


@lru_cache(maxsize=4096)
def field_of(path: str) -> str:
    """The field that a path begins with; of one that begins with a wildcard, the wildcard."""
    first = parse(path)[0]
    if isinstance(first, Wild):
        return first.value
    return str(first)


def is_everything(path: str) -> bool:
    """Whether a path begins with a wildcard, so that it names every field."""
    return path.startswith("*")


@lru_cache(maxsize=4096)
def followed(path: str) -> str:
    """The part of a path whose coming and going is followed: a field, or a value in `buffers`."""
    parts = parse(path)
    if parts[0] == "buffers" and len(parts) > 1 and isinstance(parts[1], str):
        return written(parts[:2])
    return field_of(path)


def expanded(paths: Iterable[str]) -> frozenset[str]:
    """Paths, and those of the fields that they are made of."""
    out = set(paths)
    for path in tuple(out):
        name = field_of(path)
        made_of = DERIVED.get(name, ())
        if len(made_of) == 1:
            out.add(made_of[0] + path.removeprefix(name))
        else:
            out.update(made_of)
    return frozenset(out)


def listed(paths: Iterable[str]) -> str:
    """Paths for a person."""
    return ", ".join(map(repr, sorted(paths)))


# ---------------------------------------------------------------- actions, effects, guards


@frozen
class Access:
    """What an action, an effect, close work or a mode does with the context.

    Args:
        reads: the paths that it reads.
        writes: the paths that it writes. A field exists from there on.
        drops: the fields whose values end there, whether they are cleared or not.

    Raises:
        ContractError: a path cannot be read.
    """

    reads: frozenset[str] = field(default=frozenset(), converter=paths_of)
    writes: frozenset[str] = field(default=frozenset(), converter=paths_of)
    drops: frozenset[str] = field(default=frozenset(), converter=paths_of)

    def __or__(self, other: Access) -> Access:
        """What two do, one after the other."""
        return Access(
            self.reads | (other.reads - self.writes),
            self.writes | other.writes,
            (self.drops - other.writes) | other.drops,
        )


def access(
    *, reads: Iterable[str] = (), writes: Iterable[str] = (), drops: Iterable[str] = ()
) -> Callable[[F], F]:
    """Declares what a function of the context reads and writes.

    The function stays as it is, and costs what it did.

    Args:
        reads, writes, drops: see `Access`.

    Raises:
        ContractError: a path cannot be read.
    """
    declared = Access(reads, writes, drops)

    def declare(function: F) -> F:
        function.access = declared  # type: ignore[attr-defined]  # a function takes attributes
        return function

    return declare


def access_of(thing: Any) -> Access | None:
    """What an action, an effect or a mode declares; None if nothing is known of it."""
    if isinstance(thing, partial):
        return access_of(thing.func)
    declared = getattr(thing, "access", None)
    if isinstance(declared, Access):
        return declared
    return None


def declares_read(work: Any, field: str) -> bool:
    """Whether an action or an effect declares that it reads a field."""
    declared = access_of(work)
    return declared is not None and field in declared.reads


def declares_write(work: Any, field: str) -> bool:
    """Whether an action or an effect declares that it writes a field."""
    declared = access_of(work)
    return declared is not None and field in declared.writes


def reads_of(guard: Guard) -> Access | None:
    """What a guard declares that it reads; None if a part of it is a function that says nothing.

    Raises:
        ContractError: it declares that it writes, or a path cannot be read.
    """
    reads: set[str] = set()
    known = True
    for leaf in leaves(guard):
        reads |= leaf.reads
        declared = None
        if isinstance(leaf, Predicate):
            declared = access_of(leaf.function)
            known = known and (bool(leaf.reads) or declared is not None)
        if declared is not None:
            reads |= declared.reads
        _refuse_writes(leaf, declared)
    if not known:
        return None
    try:
        return Access(reads)
    except ContractError as error:
        raise ContractError(f"guard [{guard.label}]: {error}") from None


def paths_read(guard: Guard | None) -> frozenset[str]:
    """The paths that a guard is known to read."""
    if guard is None or (read := reads_of(guard)) is None:
        return frozenset()
    return frozenset(read.reads or ())


def _refuse_writes(leaf: Guard, declared: Access | None) -> None:
    writes = getattr(leaf, "writes", ())
    if not writes and declared is not None:
        writes = declared.writes
    if writes:
        raise ContractError(
            f"guard [{leaf.label}] declares that it writes {listed(writes)}; a guard only reads,"
            " so let an effect write it"
        )
