"""What can be checked once the context and the columns of the history are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from statetrain.callback import Callback, heard_hooks, name_of
from statetrain.context.context import Context
from statetrain.context.fields import Fact, fields_with
from statetrain.context.history import COUNTERS, History
from statetrain.context.paths import parse
from statetrain.context.position import Position
from statetrain.contracts.declaring import Access, access_of, field_of, reads_of
from statetrain.contracts.listening import contracts_of, paths_in
from statetrain.contracts.ways import name_place, works_of
from statetrain.errors import ContractError
from statetrain.guards.base import Guard, leaves
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.naming import did_you_mean, nearest

if TYPE_CHECKING:
    from statetrain.machine.machine import Machine

Declaration = tuple[str, str, Iterable[str]]
"""Who declares, for a person; the verb; the paths."""


def check_columns(
    machine: Machine,
    columns: Iterable[str],
    hint: str = "",
    *,
    others: Mapping[str, str] = MappingProxyType({}),
    prefixes: tuple[str, ...] = (),
) -> None:
    """Checks that all columns of the history that are monitored or read are written.

    Args:
        machine: the lifecycle and the callbacks. Callbacks add the columns that they declare as
            `"history.<column>"`.
        columns: of numbers in the history, that the run writes itself.
        hint: what may be the reason, for the error.
        others: columns that the run writes and that are not numbers, with what they are.
        prefixes: what the names of further columns may begin with.

    Raises:
        ContractError: nothing writes one of them, or what is monitored is not a number. A path that
            ends with `?` may lack its column.
    """
    known = {*columns, *_written_columns(machine.callbacks)}
    for who, monitor in monitors_of(machine):
        if monitor in known or monitor.startswith(prefixes):
            continue
        if monitor in others:
            raise ContractError(
                f"the monitor {monitor!r} is not a number: its metric gives {others[monitor]}"
                f" (monitored by {who})"
            )
        raise ContractError(
            f"nothing writes the monitor {monitor!r}{did_you_mean(monitor, known)}{hint}"
            f" (monitored by {who})"
        )
    readable = (*known, *others, *COUNTERS)
    for who, path in _needed(machine, "reads"):
        column = column_of(path)
        if column and column not in readable and not column.startswith(prefixes):
            raise ContractError(
                f"{who} declares that it reads {path!r}, and nothing writes that column"
                f"{did_you_mean(column, known)}{hint}; a callback that writes it declares"
                f" writes={{'history.{column}'}}"
            )


def monitors_of(machine: Machine) -> Iterator[tuple[str, str]]:
    """The columns that guards and callbacks monitor, each with who monitors it."""
    for arrow in machine.lifecycle.transitions:
        if arrow.guard is not None:
            for monitor in arrow.guard.monitors:
                yield f"[{arrow.guard.label}]", monitor
    for callback in machine.callbacks:
        for monitor in callback.monitors:
            yield repr(callback), monitor


@lru_cache(maxsize=4096)
def column_of(path: str) -> str:
    """The column of the history that a path reads; empty if it reads none, or all.

    `history.valid_loss`, `history[-1].valid_loss` and `history['valid_loss']` read the same one.
    """
    root, *rest = parse(path)
    if root != "history" or not rest:
        return ""
    if isinstance(rest[0], int | slice):  # of one row, or of some
        rest = rest[1:]
    elif hasattr(History, str(rest[0])):
        return ""
    if rest and isinstance(rest[0], str):
        return rest[0]
    return ""


def _written_columns(callbacks: Iterable[Callback]) -> Iterator[str]:
    for callback in callbacks:
        yield from filter(None, map(column_of, paths_in(callback.writes)))


def check_fields(machine: Machine, context: type) -> None:
    """Checks that a context has all the fields that are declared.

    A machine alone cannot know them: it runs any context.

    Args:
        machine: the lifecycle and the callbacks.
        context: its class.

    Raises:
        ContractError: it lacks one of them. Those that may be missing (`"field?"`) are not asked
            for.
    """
    _check_hiding(context)
    known = {*dir(context), "*", "**"}
    whose, remedy = (
        "a context",
        "what is your own goes into ctx.buffers: {verb}={{'buffers.{name}'}}",
    )
    if not issubclass(context, Context):
        whose, remedy = context.__name__, "give {whose} a field or a property {name!r}"
    for verb in ("reads", "writes"):
        for who, path in _needed(machine, verb):
            name = field_of(path)
            if name in known:
                continue
            near = nearest(name, known)
            raise ContractError(
                f"{who} declares that it {verb} {path!r}: {whose} has no {name!r}{near}; "
                + remedy.format(verb=verb, name=name, whose=whose)
            )


# Others, such as `log`, may be fields of the user's own: only callbacks that log call them
_CALLED = ("advice", "begin", "defer", "request_stop", "rest", "scope", "where")

_TAKEN = frozenset({
    *_CALLED, *fields_with(Position, Fact.OF_MACHINE), *fields_with(Position, Fact.NOTED),
    "interrupt", "stop",
})  # fmt: skip


def _check_hiding(context: type) -> None:
    """Raises a `ContractError` for a field that hides what the machine writes or calls."""
    for one in attrs.fields(context):
        if "facts" not in one.metadata and one.name in _TAKEN:
            raise ContractError(
                f"the field {one.name!r} of {context.__name__} hides ctx.{one.name}, which every"
                " context has for the machine; give the field another name"
            )


def _needed(machine: Machine, wanted: str) -> list[tuple[str, str]]:
    """The paths that are declared to be read, or written, and may not be missing, each with who."""
    return [
        (who, path)
        for who, verb, paths in machine.declarations
        if verb == wanted
        for path in paths
        if not path.endswith("?")
    ]


def _declaring(guard: Guard) -> list[tuple[Guard, Access]]:
    """What a guard declares; what its parts do where one of them declares nothing."""
    whole = reads_of(guard)
    if whole is not None:
        return [(guard, whole)]
    return [(part, read) for part in leaves(guard) if (read := reads_of(part)) is not None]


def declarations_of(life: Lifecycle, callbacks: Iterable[Callback]) -> list[Declaration]:
    """Everything that a lifecycle and callbacks declare, with who declares it."""
    found: list[Declaration] = []
    for place, work in works_of(life):
        if (declared := access_of(work)) is not None:
            who = name_place(place)
            found += [(who, "reads", declared.reads), (who, "writes", declared.writes)]
    for arrow in life.transitions:
        if arrow.guard is not None:
            for guard, declared in _declaring(arrow.guard):
                who = f"the guard [{guard.label}] of {arrow.source} -> {arrow.dest}"
                found.append((who, "reads", declared.reads))
    for callback in callbacks:
        who = f"Callback {name_of(callback)!r}"
        # Of declarations by hook, those for hooks that no state here calls do not count
        for contract in contracts_of(callback, heard_hooks(callback, life)).values():
            found += [(who, "reads", contract.reads or ()), (who, "writes", contract.written)]
    return found
