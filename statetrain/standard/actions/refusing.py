"""Handling batches whose loss or gradients are not finite, and pending gradients."""

from __future__ import annotations

import math

from statetrain.context.context import Context
from statetrain.contracts.composing import without_gradients
from statetrain.contracts.declaring import access
from statetrain.errors import LossSpike, NonFiniteLoss
from statetrain.guards.base import leaves
from statetrain.guards.batch import Spike
from statetrain.standard.actions.ending import guard_at


@access(reads={"optimizers"}, writes={"pending"}, drops={"grads"})
def discard_window(ctx: Context) -> None:
    "discard the window"
    for optimizer in ctx.optimizers.values():
        optimizer.zero_grad()
    ctx.pending = 0


@access(reads={"optimizers"}, writes={"pending", "exhausted"}, drops={"grads"})
def end_epoch_early(ctx: Context) -> None:
    "end the epoch early"
    discard_window(ctx)
    ctx.exhausted = True


@access(reads={"optimizers", "event"}, writes={"pending", "stop"}, drops={"grads"})
def ask_to_stop(ctx: Context) -> None:
    "discard the window, ask to stop"
    discard_window(ctx)
    ctx.request_stop(str(ctx.event) or type(ctx.event).__name__)


@without_gradients
@access(reads={"held", "model", "loss_fns"}, writes={"held"})
def hold(ctx: Context) -> None:
    "keep a copy of the buffers"
    if ctx.held is None:
        ctx.held = ctx.accelerator.buffers(ctx)
    ctx.held.take()


@without_gradients
@access(reads={"pending", "held", "model", "loss_fns", "mask"}, writes={"held", "mask"})
def hold_window(ctx: Context) -> None:
    "keep a copy of the buffers, once a window"
    if ctx.pending == 0:
        hold(ctx)
        ctx.mask.held = ctx.held
    elif ctx.held is None:  # the run was cut within a window, and is continued
        ctx.held = ctx.accelerator.buffers(ctx)
        ctx.held.load(ctx.mask.saved)
        ctx.mask.held = ctx.held


@access(reads={"held"}, writes={"model"})
def put_buffers_back(ctx: Context) -> None:
    "put the buffers back"
    ctx.held.put_back()


@access(reads={"**"}, writes={"pending", "records"}, drops={"grads"})
def refuse_batch(ctx: Context) -> None:
    "discard the window"
    note_refusal(ctx)
    discard_window(ctx)


@access(reads={"**"}, writes={"records"})
def note_refusal(ctx: Context) -> None:
    """Writes down a batch that was refused, in the records of the run."""
    ctx.log(
        "refused",
        {
            "epoch": ctx.epoch,
            "batch": ctx.iter,
            "step": ctx.step,
            "reason": guard_at(ctx).reason(ctx),
        },
    )


@access(reads={"**"}, writes={"pending", "records", "model"}, drops={"grads"})
def raise_non_finite(ctx: Context) -> None:
    "raise NonFiniteLoss"
    reason, spiked = guard_at(ctx).reason(ctx), _is_spike(ctx)
    refuse_batch(ctx)
    remedy = (
        "Lower the learning rate, clip the gradients or look at the batch; non_finite='skip' goes"
        " on without it, non_finite='stop' ends the run"
    )
    # Earlier gradients may not have been finite though their loss was
    name = ctx.accelerator.first_not_finite(ctx)
    if name is not None:
        raise NonFiniteLoss(
            f"{reason}, and {name} was not finite before this batch: the gradients of an earlier"
            " one were not, though its loss was. check_gradients=True looks at them before each"
            f" step. {remedy}"
        )
    words = f"{reason}; the weights are as they were before this batch. {remedy}"
    if spiked:
        raise LossSpike(words)
    raise NonFiniteLoss(words)


def _is_spike(ctx: Context) -> bool:
    """Whether a batch was refused for a finite loss that is too high."""
    spikes = [leaf for leaf in leaves(guard_at(ctx)) if isinstance(leaf, Spike)]
    return math.isfinite(ctx.loss_value) and any(spike.test(ctx) for spike in spikes)


@access(reads={"**"}, writes={"pending", "records", "model", "stop"}, drops={"grads"})
def stop_non_finite(ctx: Context) -> None:
    "discard the window and ask to stop"
    refuse_batch(ctx)
    ctx.request_stop(guard_at(ctx).reason(ctx))
