"""Names of hooks in other libraries, which nothing would call here."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType
from typing import Any

from statetrain.callback import Callback, name_of
from statetrain.errors import CallbackError

_SAME_AS = {
    "setup": "on_enter_fit",
    "teardown": "on_exit_fit",
    "before_fit": "on_enter_fit",
    "after_fit": "on_exit_fit",
    "before_epoch": "on_enter_epoch",
    "after_epoch": "on_exit_epoch",
    "before_train": "on_enter_train",
    "after_train": "on_exit_train",
    "before_validate": "on_enter_valid",
    "after_validate": "on_exit_valid",
    "before_batch": "on_enter_batch",
    "after_batch": "on_exit_batch",
    "after_pred": "on_exit_pred",
    "after_loss": "on_exit_loss",
    "before_backward": "on_enter_backward",
    "after_backward": "on_exit_backward",
    "before_step": "on_enter_step",
    "after_step": "on_exit_step",
}
"""Of Lightning's and fastai's callbacks, without the prefix that all hooks have here."""


def refuse_foreign_hooks(callback: Callback) -> None:
    """Refuses a callback with another library's hook, unless its own methods call it.

    Raises:
        CallbackError: it has one; the message names the hook that is meant.
    """
    for kind in type(callback).__mro__:
        if kind is Callback:
            return
        for name, hook in _SAME_AS.items():
            if name in vars(kind) and not _is_called(callback, name):
                raise CallbackError(
                    f"Callback {name_of(callback)!r} has {name!r}, which is another library's hook"
                    f" and is never called here; write {hook!r}"
                )


def _is_called(callback: Callback, name: str) -> bool:
    """Whether a method of the callback names another one."""
    methods = [one for kind in type(callback).__mro__ for one in _functions_of(kind)]
    return any(name in method.__code__.co_names for method in methods)


def _functions_of(kind: type) -> Iterator[FunctionType]:
    for one in vars(kind).values():
        inner: Any = getattr(one, "__func__", getattr(one, "fget", one))
        if isinstance(inner, FunctionType):
            yield inner
