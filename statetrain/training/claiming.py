"""Callbacks belong to one live run at a time: what they keep would be that of several."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any
from weakref import ref

from statetrain.callback import Callback, name_of, unwrapped
from statetrain.context.position import Position
from statetrain.errors import ConfigError, MachineError

_LOCK = threading.Lock()
_OWNERS: dict[int, Any] = {}  # by the number of a callback, the context of its live run


def claim(ctx: Position) -> None:
    """Makes a run the owner of its callbacks until it ends.

    Raises:
        MachineError: one is in another live run.
        ConfigError: two write one file.
    """
    _refuse_common_files(ctx)
    with _LOCK:
        for callback in _owned(ctx):
            owner = _OWNERS.get(id(callback), lambda: None)()
            if owner is not None and owner is not ctx and owner.outcome is None:
                raise MachineError(
                    f"callback {name_of(callback)!r} is in another run that has not ended; what it"
                    " keeps would be mixed up. Make a new one for each run"
                )
        for callback in _owned(ctx):
            _OWNERS[id(callback)] = ref(ctx)
    ctx.defer(lambda: _release(ctx))


def _refuse_common_files(ctx: Position) -> None:
    """Raises a `ConfigError` if two callbacks write one file, in which little of both would be."""
    writers: dict[str, str] = {}
    for callback in map(unwrapped, ctx.machine.callbacks):
        for given in callback.destinations():
            path, name = os.path.realpath(given), name_of(callback)
            if path in writers:
                raise ConfigError(
                    f"{writers[path]} and {name} would both write {str(given)!r}; give each a path"
                    " of its own"
                )
            writers[path] = name


def _release(ctx: Position) -> None:
    with _LOCK:
        for callback in _owned(ctx):
            if _OWNERS.get(id(callback), lambda: None)() is ctx:
                del _OWNERS[id(callback)]


def _owned(ctx: Position) -> Iterator[Callback]:
    """The callbacks of a run that keep something, and what they wrap."""
    for callback in ctx.machine.callbacks:
        inner = unwrapped(callback)
        if not getattr(type(inner), "shareable", False):
            yield inner
