"""Actions with a scaled loss, for float16."""

from __future__ import annotations

from statetrain.context.context import Context
from statetrain.contracts.composing import without_gradients
from statetrain.contracts.declaring import access
from statetrain.errors import LossError
from statetrain.standard.actions.batch import backward


@access(
    reads={"loss_grad", "scaler", "compute_gradients", "inputs", "pending"},
    writes={"loss_grad", "grads", "pending"},
)
def scaled_backward(ctx: Context) -> None:
    "compute the gradients of the scaled loss"
    loss = ctx.loss_grad
    ctx.loss_grad = ctx.scaler.scale(loss)
    try:
        backward(ctx)
    finally:
        ctx.loss_grad = loss


@without_gradients
@access(reads={"scaler", "opt", "opt_name", "grads"}, writes={"grads", "overflowed", "scaler"})
def unscale(ctx: Context) -> None:
    "take the scale out of the gradients, adapt it"
    scaler = ctx.scaler
    if not scaler.is_enabled():
        return
    scaler.unscale_(ctx.opt)
    # Where torch keeps what it found. Asking waits for the device once, as the scaler's own step
    # would.
    found = scaler._found_inf_per_device(ctx.opt).values()
    if not found:
        raise LossError(
            f"optimizer {ctx.opt_name!r} has no gradients: the loss was computed from none of its"
            " parameters"
        )
    ctx.overflowed = any(inf.item() for inf in found)
    scaler.update()
