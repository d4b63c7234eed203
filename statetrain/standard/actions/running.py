"""Actions of `fit` and of epochs: the clock, the count, the row of the history."""

from __future__ import annotations

from typing import Any

from statetrain.context.context import Context
from statetrain.context.fields import UNSET
from statetrain.contracts.declaring import access
from statetrain.data.epochs import announce
from statetrain.data.iterating import END, take_up
from statetrain.data.sizes import length
from statetrain.standard.actions.drawing import AGAIN, look_ahead


@access(reads={"seconds"}, writes={"earlier_seconds", "started"})
def begin(ctx: Context) -> None:
    "start the clock"
    # What an earlier phase of this run took stays counted
    ctx.earlier_seconds, ctx.started = (
        ctx.seconds,
        ctx.clock(),
    )


@access(
    reads={"epoch", "iter", "earlier_batches"},
    writes={"epoch", "earlier_batches", "iter", "epoch_complete"},
)
def count_epoch(ctx: Context) -> None:
    "count the epoch"
    ctx.epoch += 1
    ctx.epoch_complete = False  # until its row says so: it may be skipped as a whole
    ctx.earlier_batches += ctx.iter
    ctx.iter = 0


@access(
    reads={"tallies", "began", "train_data", "epoch"},
    writes={
        "pending",
        "iterator",
        "upcoming",
        "exhausted",
        "epoch_complete",
        "valid_complete",
        "tallies",
        "announced",
        "began",
    },
)
def open_epoch(ctx: Context) -> None:
    "start the training data anew"
    ctx.pending = 0
    ctx.iterator = ctx.upcoming = UNSET
    ctx.exhausted = ctx.epoch_complete = False
    ctx.valid_complete = True
    for (
        tally
    ) in ctx.tallies.values():  # an epoch that was left without a record may have begun them
        tally.reset()
    ctx.began.pop("train", None)
    announce(ctx)


@access(
    reads={
        "train_data",
        "epoch",
        "exhausted",
        "upcoming",
        "iter",
        "batches",
        "began",
        "loader_states",
    },
    writes={"length", "iterator", "upcoming", "began", "loader_states"},
)
def reopen_epoch(ctx: Context) -> None:
    "take up the training data where it was"
    announce(ctx)
    ctx.length = length(ctx.train_data)
    if ctx.exhausted or ctx.upcoming is END:
        ctx.iterator = iter(())
        return
    again = ctx.upcoming is AGAIN
    take_up(ctx, "train", ctx.iter + (ctx.upcoming is not None and not again))
    if again:
        ctx.upcoming = look_ahead(ctx)


@access(writes={"iterator", "upcoming", "valid_iterator", "began"})
def close_epoch(ctx: Context) -> None:
    "let go of the data"
    ctx.iterator = ctx.upcoming = ctx.valid_iterator = UNSET
    ctx.began.clear()


@access(
    reads={
        "exhausted",
        "epoch",
        "epoch_complete",
        "first_row",
        "history",
        "valid_complete",
        "tallies",
        "logged",
        "batches",
        "step",
        "samples",
        "seconds",
        "model",
        "loss_fns",
        "optimizers",
    },
    writes={"epoch_complete", "tallies", "logged", "history"},
)
def record(ctx: Context) -> None:
    "write a row of the history"
    late = (
        ctx.epoch_complete
        and len(ctx.history) > ctx.first_row
        and ctx.history[-1]["epoch"] == ctx.epoch
    )
    # An evaluation is no part of an epoch
    ctx.epoch_complete = (ctx.exhausted or not ctx.epoch) and ctx.valid_complete
    values: dict[str, Any] = {}
    for tally in ctx.tallies.values():
        values.update(tally.compute())
        tally.reset()
    values.update(ctx.take_logged(values))
    if ctx.epoch:
        ctx.accelerator.warn_of_untrained(ctx)
    if (
        values and late
    ):  # an evaluation at the end of the training belongs to the row of the last epoch
        ctx.history[-1].update(values)
    elif values:
        counters = {
            "epoch": ctx.epoch,
            "batch": ctx.batches,
            "step": ctx.step,
            "samples": ctx.samples,
            "seconds": ctx.seconds,
        }
        ctx.history.rows.append({**counters, "epoch_complete": ctx.epoch_complete, **values})
