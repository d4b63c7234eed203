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
    # Lightning's
    "on_fit_start": "on_enter_fit",
    "on_train_start": "on_enter_fit",
    "on_train_epoch_start": "on_enter_epoch",
    "on_train_epoch_end": "on_exit_epoch",
    "on_train_batch_start": "on_enter_batch",
    "on_before_backward": "on_enter_backward",
    "on_after_backward": "on_exit_backward",
    "on_before_optimizer_step": "on_enter_step",
    "on_before_zero_grad": "on_exit_step",
    "on_validation_start": "on_enter_valid",
    "on_validation_epoch_start": "on_enter_valid",
    "on_validation_batch_start": "on_enter_valid_batch",
    "on_validation_batch_end": "on_exit_valid_batch",
    "on_validation_epoch_end": "on_exit_valid",
    "on_validation_end": "on_exit_valid",
    "on_exception": "on_enter_failed",
    "on_save_checkpoint": "state_dict",
    "on_load_checkpoint": "load_state_dict",
    # Keras's
    "on_batch_begin": "on_enter_batch",
    "on_batch_end": "on_exit_batch",
    "on_test_begin": "on_enter_valid",
    "on_test_batch_begin": "on_enter_valid_batch",
    "on_test_batch_end": "on_exit_valid_batch",
    "on_test_end": "on_exit_valid",
    # the Hugging Face Trainer's
    "on_init_end": "on_enter_fit",
    "on_step_begin": "on_enter_batch",
    "on_substep_end": "on_exit_batch",
    "on_pre_optimizer_step": "on_enter_step",
    "on_optimizer_step": "on_exit_step",
    "on_step_end": "on_exit_step",
    "on_prediction_step": "on_exit_valid_batch",
    "on_evaluate": "on_exit_valid",
    "on_log": "on_exit_record",
    "on_save": "on_anchor",
    # skorch's
    "on_grad_computed": "on_exit_backward",
}
"""Of Lightning's and fastai's callbacks without a prefix, then of each library with one."""


def refuse_foreign_hooks(callback: Callback) -> None:
    """Refuses a callback with another library's hook, unless its own methods call it.

    Raises:
        CallbackError: it has one; the message names the hook that is meant.
    """
    if not isinstance(callback, Callback):
        return  # which is refused where its hooks are looked up
    kinds = type(callback).__mro__
    own = [vars(kind) for kind in kinds[: kinds.index(Callback)]]
    for name, hook in _SAME_AS.items():
        if any(name in names for names in (vars(callback), *own)) and not _is_called(
            callback, name
        ):
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
