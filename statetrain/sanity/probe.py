"""Probe: what the checks look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import Factory, define
from torch import Tensor, nn
from torch.nn import functional as F

from statetrain.data.structure import tensors_in

if TYPE_CHECKING:
    from statetrain.context.context import Context

# What a loss function is, for the checks that depend on it.
KINDS: dict[Any, str] = {
    F.cross_entropy: "cross_entropy",
    nn.CrossEntropyLoss: "cross_entropy",
    F.nll_loss: "nll_loss",
    nn.NLLLoss: "nll_loss",
    F.binary_cross_entropy: "binary_cross_entropy",
    nn.BCELoss: "binary_cross_entropy",
    F.binary_cross_entropy_with_logits: "binary_cross_entropy_with_logits",
    nn.BCEWithLogitsLoss: "binary_cross_entropy_with_logits",
    F.mse_loss: "mse_loss",
    nn.MSELoss: "mse_loss",
    F.l1_loss: "l1_loss",
    nn.L1Loss: "l1_loss",
    F.smooth_l1_loss: "smooth_l1_loss",
    nn.SmoothL1Loss: "smooth_l1_loss",
    F.huber_loss: "huber_loss",
    nn.HuberLoss: "huber_loss",
}
BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
DISTANCES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")


@define(eq=False)
class Probe:
    """A run before it starts, and one batch on a copy of its model, losses and optimizers.

    What could not be found out is None, and says nothing.

    Attributes:
        ctx: the run's context; it is not to be changed.
        aside: a copy of it with the copies, and with the batch: `aside.input`, `aside.target`,
            `aside.pred`, `aside.model`.
        kind: what the loss function is, by its name in `torch.nn.functional`; empty for one of the
            user's own.
        data_error: why the training data could not be read.
        error: why the model or the loss could not be computed.
        valid_error: why the validation could not.
        before, after: the losses of the batch, by optimizer, before and after one step.
        gradients: for each parameter that is trained, whether the loss depends on it and how large
            its gradient is at most.
    """

    ctx: Context
    aside: Any = None
    kind: str = ""
    data_error: str | None = None
    error: str | None = None
    valid_error: str | None = None
    before: dict[str, float] = Factory(dict)
    after: dict[str, float] = Factory(dict)
    gradients: dict[str, float | None] = Factory(dict)

    @property
    def pred(self) -> Tensor | None:
        """What the loss takes of the prediction, if that is one tensor."""
        if self.aside is None:
            pred = None
        else:
            pred = self.aside.pred
        if pred is None or self.ctx.pick is None:
            pred = pred
        else:
            pred = self.ctx.pick(pred)
        if isinstance(pred, Tensor):
            return pred.detach()
        return None

    @property
    def target(self) -> Tensor | None:
        """The target, if it is one tensor."""
        if self.aside is None:
            target = None
        else:
            target = self.aside.target
        if isinstance(target, Tensor):
            return target
        return None


Check = Callable[[Probe], "str | None"]


def few(names: list[str]) -> str:
    """Some names for a person: the first four."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} others" if len(names) > 4 else "")


def floats(probe: Probe, name: str) -> list[Tensor]:
    """The tensors of floating point in a field of the copied context."""
    value = getattr(probe.aside, name, None)
    return [part for part in tensors_in(value) if part.is_floating_point()]
