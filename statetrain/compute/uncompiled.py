"""What torch's compiler skips, and how it is imported without leaving cycles."""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

Given = ParamSpec("Given")
Returned = TypeVar("Returned")

_COMPILER = "torch._dynamo"


def import_compiler() -> None:
    """Imports what torch imports with its first optimizer, in another thread.

    These imports leave cycles of frames behind, and with them all frames that called them: a model
    in one of these would only be freed by Python's garbage collector.
    """
    if _COMPILER not in sys.modules:
        thread = threading.Thread(target=importlib.import_module, args=(_COMPILER,))
        thread.start()
        thread.join()


def uncompiled(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """A function that runs as it is written where it is called from a compiled one.

    `torch.compiler.disable` is not applied before the first call, since it imports the compiler.
    """
    disabled: list[Callable[Given, Returned]] = []

    @functools.wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        if not disabled:
            import_compiler()
            disabled.append(torch.compiler.disable(function))
        return disabled[0](*args, **kwargs)

    return run


class Uncompiled(torch.nn.Module):
    """A module that torch compiles in place, called as it is written.

    Args:
        module: shares everything with this one.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self._orig_mod = module  # torch's name for what such a module stands for

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the module, with its hooks."""
        return self._orig_mod._call_impl(*args, **kwargs)
