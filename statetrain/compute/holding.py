"""Holding a model in eval mode while several threads evaluate it.

An evaluation puts the model into eval mode, and back. If it did so by itself, one that ends would
put the model back into train mode under one that is still computing. So the first one that begins
remembers the modes of the modules, and the last one that ends restores them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from attrs import define

from statetrain.compute.train_modes import set_mode


@define
class _Hold:
    """How many evaluations hold a module, and the mode that it goes back to."""

    count: int
    training: bool


_LOCK = threading.Lock()
_HELD: WeakKeyDictionary[torch.nn.Module, _Hold] = WeakKeyDictionary()


@contextmanager
def held_in_eval(model: torch.nn.Module) -> Iterator[None]:
    """While it is open, a model is in eval mode, whichever thread opened it first."""
    modules = list(model.modules())
    with _LOCK:
        for module in modules:
            _HELD.setdefault(module, _Hold(0, module.training)).count += 1
        model.eval()
    try:
        yield
    finally:
        with _LOCK:
            for module in modules:
                _release(module)


def _release(module: torch.nn.Module) -> None:
    hold = _HELD[module]
    hold.count -= 1
    if not hold.count:
        set_mode(module, hold.training)
        del _HELD[module]
