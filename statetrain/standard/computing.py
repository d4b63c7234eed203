"""A user's own computation in place of the standard states."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from statetrain.context.fields import UNSET
from statetrain.contracts.declaring import Access, access_of
from statetrain.errors import LossError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.naming import label_of
from statetrain.standard import actions as do
from statetrain.standard.parameters import parameters_of

if TYPE_CHECKING:
    from statetrain.context.context import Context

log = logging.getLogger("statetrain")

_MADE_OF_LOSS = Access(
    {"on_host", "pending", "opt", "compute_gradients", "inputs"},
    {"loss_grad", "loss_value", "interms", "grads", "pending"},
)
_MADE_OF_VALID_LOSS = Access(
    {"on_host", "batch_size", "tally", "opt_name", "opt_index", "pred?", "pick", "target", "**"},
    {"loss_grad", "loss_value", "tally"},
)


@frozen
class Compute:
    """A user's function as the action of `compute` or `valid_compute`.

    In the training, gradients of the loss that it returns are computed, unless the function did
    that itself: called backward, or stepped.

    Args:
        function: of the context; the loss is what it returns.
        training: whether it trains.
    """

    function: Callable[[Any], Any]
    training: bool = True
    _warned: list[bool] = field(factory=list, init=False, eq=False, repr=False)

    @property
    def label(self) -> str:
        """What the table says."""
        return label_of(self.function)

    @property
    def access(self) -> Access | None:
        """What the function declares, and what is made of the loss; None if it declares nothing."""
        own = access_of(self.function)
        if own is None:
            return None
        return own | {True: _MADE_OF_LOSS, False: _MADE_OF_VALID_LOSS}[self.training]

    def __call__(self, ctx: Context) -> None:
        before = None
        if self.training:
            before = _versions(ctx)
        loss = self.function(ctx)
        if loss is None:
            raise LossError(
                f"{self.label} must return the loss of the batch, got None; end it with: return"
                " loss"
            )
        ctx.loss_grad = UNSET
        if hasattr(loss, "detach"):
            ctx.loss_grad = loss
        ctx.loss_value = self._number(ctx, loss)
        if not self.training:
            do.count_loss(ctx)
            return
        if before == _versions(ctx):
            self._train_on(ctx, loss)
        ctx.pending += 1

    def _train_on(self, ctx: Context, loss: Any) -> None:
        """Computes the gradients of a loss whose function left that to the run."""
        if getattr(loss, "requires_grad", False):
            ctx.backward(loss)
        elif not self._warned:
            self._warned.append(True)
            log.warning(
                "%s returned a loss without a gradient and called no backward, so its batch trains"
                " nothing; return the loss as a tensor with its graph, without .item() or"
                " .detach()",
                self.label,
            )

    def _number(self, ctx: Context, loss: Any) -> Any:
        """The loss as it is counted: a number on the host, a tensor where it is not read."""
        tensor = hasattr(loss, "detach")
        try:
            if not tensor:
                return float(loss)
            if ctx.on_host:
                return loss.item()
            return ctx.accelerator.exact(loss)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            if tensor and loss.numel() == 1:
                raise  # the device's own error, which shows where it is waited for
            raise LossError(
                f"{self.label} must return the loss as a scalar tensor or a number, got"
                f" {type(loss).__name__}: {loss!r:.80}"
            ) from error


def _versions(ctx: Context) -> list[tuple[int, Any, int | None]]:
    """What changes when gradients are computed or weights are updated: which tensors, how often."""
    if ctx.opt is None:
        return []
    return [
        (one._version, id(one.grad), getattr(one.grad, "_version", None))
        for one in parameters_of(ctx.opt)
    ]


def computing(life: Lifecycle, function: Callable[[Any], Any]) -> Lifecycle:
    """A lifecycle with `compute` in place of `pred`, `loss` and `backward`."""
    life = life.insert(State("compute", Compute(function)), between=("batch", "pred"))
    life = life.without("pred", "loss", "backward")
    return life.alter(life.between("compute", "step")[0], effect=do.count_loss)


def computing_in(life: Lifecycle, scope: str, function: Callable[[Any], Any]) -> Lifecycle:
    """A lifecycle with a user's function in place of the model and the loss of an evaluation."""
    state = State(f"{scope}_compute", Compute(function, training=False), role="valid_compute")
    life = life.insert(state, between=(f"{scope}_batch", f"{scope}_pred"))
    return life.without(f"{scope}_pred", f"{scope}_loss")


@frozen
class Predicting:
    """A user's function as the action of `predict_pred`.

    Args:
        function: of the context; the prediction is what it returns.
    """

    function: Callable[[Any], Any]

    @property
    def label(self) -> str:
        """What the table says."""
        return label_of(self.function)

    @property
    def access(self) -> Access | None:
        """What the function declares, and the prediction; None if it declares nothing."""
        own = access_of(self.function)
        if own is None:
            return None
        return own | Access(writes={"pred"})

    def __call__(self, ctx: Context) -> None:
        ctx.pred = self.function(ctx)
