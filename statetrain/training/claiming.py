"""Callbacks belong to one live run at a time: what they keep would be that of several."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from weakref import ref

from statetrain.callback import Callback, name_of, unwrapped
from statetrain.context.position import Position
from statetrain.errors import MachineError

_LOCK = threading.Lock()
_OWNERS: dict[int, Any] = {}  # by the number of a callback, the context of its live run


def claim(ctx: Position) -> None:
    """Makes a run the owner of its callbacks until it ends.

    Raises:
        MachineError: one is in another live run.
    """
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
