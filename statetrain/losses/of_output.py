"""The loss that a model computes itself and returns with its output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from statetrain.errors import LossError
from statetrain.losses.losses import Loss


def loss_of_output(pred: Any) -> Any:
    """The part `loss` of a model's output, an item or an attribute.

    Raises:
        LossError: it has none, or it is None.
    """
    if isinstance(pred, Mapping):
        loss = pred.get("loss")
    else:
        loss = getattr(pred, "loss", None)
    if loss is None:
        raise LossError(
            f"there is no loss=, and the model returned a {type(pred).__name__} without a loss."
            " Give one, for example loss=torch.nn.functional.cross_entropy; or, if the model"
            " computes its own, give it the target too: input='*' is model(**batch)"
        )
    return loss


def own_loss() -> Loss:
    """What trains on the loss that the model returns."""
    return Loss(loss_of_output, pred="pred")
