"""Where a run begins, for callbacks that are set up there."""

from __future__ import annotations

from statetrain.errors import CallbackError
from statetrain.lifecycle.lifecycle import Lifecycle

_BEGINNINGS = ("fit", "valid", "predict")


def check_beginning(who: str, lifecycle: Lifecycle) -> None:
    """Checks that a lifecycle says where its run begins, so that a callback is set up at all.

    Args:
        who: the callback.
        lifecycle: the standard ones have a state of the role `fit`, or evaluate or predict.

    Raises:
        CallbackError: no state has such a role.
    """
    if not lifecycle.by_role(*_BEGINNINGS):
        name = lifecycle.initial
        raise CallbackError(
            f"{who} is set up where a run begins, and no state of lifecycle {lifecycle.name!r} has"
            f" the role 'fit'; say which one it is: State({name!r}, ..., role='fit')"
        )
