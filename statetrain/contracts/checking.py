"""What can be checked once the context and the columns of the history are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from statetrain.callback import Callback, name_of
from statetrain.context.history import COUNTERS, History
from statetrain.context.paths import parse
from statetrain.contracts.declaring import DERIVED, access_of, field_of, reads_of
from statetrain.contracts.listening import paths_in
from statetrain.errors import ContractError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.naming import did_you_mean

Declaration = tuple[str, str, Iterable[str]]
"""Who declares, for a person; the verb; the paths."""


def check_columns(machine: Any, columns: Iterable[str], hint: str = "") -> None:
    """Sees that all columns of the history that are monitored or read are written.

    Args:
        machine: the lifecycle and the callbacks. Callbacks add the columns that they declare as
            `"history.<column>"`.
        columns: of the history, that the run writes itself.
        hint: what may be the reason, for the error.

    Raises:
        ContractError: nothing writes one of them. A path that ends with `?` may lack its column.
    """
    known = {*columns, *_written_columns(machine.callbacks)}
    for arrow in machine.lifecycle.transitions:
        if arrow.guard is not None:
            _check_monitors(
                arrow.guard.monitors, known, f"{hint} (monitored by [{arrow.guard.label}])"
            )
    for callback in machine.callbacks:
        _check_monitors(callback.monitors, known, f"{hint} (monitored by {callback!r})")
    for who, verb, paths in _declarations(machine):
        for path in paths if verb == "reads" else ():
            column = column_of(path)
            if column and column not in (*known, *COUNTERS) and not path.endswith("?"):
                raise ContractError(
                    f"{who} declares that it reads {path!r}, and nothing writes that column"
                    f"{did_you_mean(column, known)}{hint}; a callback that writes it declares"
                    f" writes={{'history.{column}'}}"
                )


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
    return rest[0] if rest and isinstance(rest[0], str) else ""


def _check_monitors(monitors: Iterable[str], known: Iterable[str], hint: str) -> None:
    for monitor in monitors:
        if monitor not in known:
            raise ContractError(
                f"nothing writes the monitor {monitor!r}{did_you_mean(monitor, known)}{hint}"
            )


def _written_columns(callbacks: Iterable[Callback]) -> Iterator[str]:
    for callback in callbacks:
        yield from filter(None, map(column_of, paths_in(callback.writes)))


def check_fields(machine: Any, context: type) -> None:
    """Sees that a context has all the fields that are declared.

    A machine alone cannot know them: it runs any context.

    Args:
        machine: the lifecycle and the callbacks.
        context: its class.

    Raises:
        ContractError: it lacks one of them. Those that may be missing (`"field?"`) are not asked
            for.
    """
    known = {*dir(context), *DERIVED, "*", "**"}
    for who, verb, paths in _declarations(machine):
        for path in paths:
            name = field_of(path)
            if name not in known and not path.endswith("?"):
                near = did_you_mean(name, known)
                if not near.endswith("?"):
                    near = ""
                raise ContractError(
                    f"{who} declares that it {verb} {path!r}: a context has no {name!r}{near}; what"
                    f" is your own goes into ctx.buffers: {verb}={{'buffers.{name}'}}"
                )


def _declarations(machine: Any) -> Iterator[Declaration]:
    """Everything that is declared, with who declares it."""
    life: Lifecycle = machine.lifecycle
    works = [(f"the action of {state.name!r}", state.action) for state in life.states]
    works += [(f"the close work of {state.name!r}", state.close) for state in life.states]
    works += [
        (f"the effect of {arrow.source} -> {arrow.dest}", arrow.effect)
        for arrow in life.transitions
    ]
    for who, work in works:
        if (declared := access_of(work)) is not None:
            yield from ((who, "reads", declared.reads), (who, "writes", declared.writes))
    for arrow in life.transitions:
        if arrow.guard is not None and (read := reads_of(arrow.guard)) is not None:
            who = f"the guard [{arrow.guard.label}] of {arrow.source} -> {arrow.dest}"
            yield (who, "reads", read.reads)
    for callback in machine.callbacks:
        who = f"Callback {name_of(callback)!r}"
        yield (who, "reads", paths_in(callback.reads))
        yield (who, "writes", paths_in(callback.writes))
