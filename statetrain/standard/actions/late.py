"""Actions where the device finds what is not finite, and the host learns of it later."""

from __future__ import annotations

from typing import Any

from statetrain.context.context import Context
from statetrain.contracts.composing import without_gradients
from statetrain.contracts.declaring import access
from statetrain.errors import NonFiniteLoss
from statetrain.standard.actions.ending import guard_at


@access(
    reads={
        "mask",
        "loss_grad",
        "batch_size",
        "tally",
        "opt_name",
        "opt_index",
        "pred?",
        "pick",
        "target",
        "**",
    },
    writes={"mask", "tally"},
)
def count_finite_loss(ctx: Context) -> None:
    "count the loss if it is finite"
    add_to_mean(ctx, *ctx.mask.see(ctx.loss_grad.detach()))


@access(
    reads={"batch_size", "tally", "opt_name", "opt_index", "pred?", "pick", "target", "**"},
    writes={"tally"},
)
def add_to_mean(ctx: Context, loss: Any, counts: Any) -> None:
    """Adds the loss that a mask has checked to the epoch's mean, and updates the metrics."""
    size, mean = ctx.batch_size, ctx.tally.losses[ctx.opt_name]
    if isinstance(mean.count, int):  # a number until the first batch
        mean.total, mean.count = mean.total + loss * size, mean.count + counts * size
    else:
        mean.total, mean.count = (
            mean.total.add(loss, alpha=size),
            mean.count.add(counts, alpha=size),
        )
    if ctx.tally.metrics:
        # On the host there is nothing to wait for
        ctx.tally.update(ctx, bool(counts) if counts.device.type == "cpu" else counts)


@without_gradients
@access(
    reads={"mask", "opt", "step", "held", "grads"},
    writes={"mask", "params", "optimizers", "updates", "update_norms"},
)
def update_finite(ctx: Context) -> None:
    "update the weights, masked where loss or gradients are not finite"
    ctx.mask.step(ctx.opt, ctx.step + 1, ctx.held)


@access(reads={"mask"}, writes={"mask"})
def drop_mask(ctx: Context) -> None:
    "forget what was found in it"
    ctx.mask.drop()


@access(reads={"mask"}, writes={"masked", "first_masked", "mask"})
def report(ctx: Context) -> None:
    "read what the device had found, ask again"
    ctx.masked, ctx.first_masked = ctx.mask.answer()
    ctx.mask.ask()


@access(reads={"mask", "masked", "row_due", "logged"}, writes={"masked", "first_masked", "logged"})
def settle(ctx: Context) -> None:
    "read what the device has found"
    ctx.masked, ctx.first_masked = ctx.mask.now()
    # One that waits for a row which an event left out makes no row by itself.
    ctx.logged.pop("masked", None)
    if ctx.row_due:
        ctx.logged["masked"] = ctx.masked


@access(reads={"epoch", "step", "masked", "first_masked"}, writes={"told", "records"})
def tell_masked(ctx: Context) -> None:
    "say how many steps were masked"
    ctx.log(
        "masked",
        {"epoch": ctx.epoch, "step": ctx.step, "masked": ctx.masked, "first": ctx.first_masked},
    )
    ctx.told = ctx.masked


@access(reads={"**"}, writes={"told", "records"})
def raise_masked(ctx: Context) -> None:
    "raise NonFiniteLoss"
    reason = guard_at(ctx).reason(ctx)
    tell_masked(ctx)
    raise NonFiniteLoss(
        f"{reason}; found out at step {ctx.step}. These steps were not made: the weights are as if"
        " their batches had not been. Lower the learning rate, clip the gradients or look at the"
        " batches; non_finite='skip' continues without them"
    )


@access(reads={"**"}, writes={"told", "records", "stop"})
def stop_masked(ctx: Context) -> None:
    "ask to stop"
    ctx.request_stop(guard_at(ctx).reason(ctx))
    tell_masked(ctx)
