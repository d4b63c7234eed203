"""statetrain: train PyTorch models with an explicit state machine.

The machine can be seen, checked, tested and trusted.
"""

from __future__ import annotations

import gc
import importlib
import re
from types import ModuleType
from typing import Any

__version__ = "0.2.0"

_LINE = re.compile(r"^from (\S+) import (\w+) as \2$", re.MULTILINE)


def _homes() -> dict[str, str]:
    """Where each public name is from, read from the stub next to this file."""
    assert __spec__ is not None
    assert __spec__.loader is not None
    stub = __file__.removesuffix("c") + "i"
    text = __spec__.loader.get_data(stub).decode()  # type: ignore[attr-defined]  # also from a zip
    return {name: home for home, name in _LINE.findall(text)}


_HOMES = _homes()

__all__ = sorted([*_HOMES, "__version__"])  # computed from the stub


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        from statetrain.naming import nearest
        from statetrain.training.setup.words import NAMES

        near = f"; here it is {NAMES[name]}" if name in NAMES else nearest(name, _HOMES)
        raise AttributeError(f"module 'statetrain' has no attribute {name!r}{near}")
    home = _load(_HOMES[name])
    try:
        value = vars(home)[name]
    except KeyError:  # a module that is public as a whole
        value = _load(f"{_HOMES[name]}.{name}")
    globals()[name] = value
    return value


def _load(module: str) -> ModuleType:
    """Imports a module, and what it needs.

    Python looks for garbage after so many new objects, torch's hundreds of thousands among them:
    what modules are made of is never garbage. Pausing that takes 40 % off the import of `fit` next
    to torch, and 12 % off both.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        if collects:
            gc.enable()


def __dir__() -> list[str]:
    return list(__all__)
