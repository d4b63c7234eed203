"""Actions of `fit` and of epochs: the clock, the count, the row of the history."""

from __future__ import annotations

from typing import Any

from statetrain.context.context import Context
from statetrain.context.fields import UNSET
from statetrain.contracts.declaring import access
from statetrain.data.epochs import announce
from statetrain.data.iterating import END, length_now, take_up
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
    writes={"epoch", "earlier_batches", "iter", "epoch_complete", "exhausted"},
)
def count_epoch(ctx: Context) -> None:
    "count the epoch"
    ctx.epoch += 1
    # Until its row says so: an event in a hook of `epoch` may end it before it begins
    ctx.epoch_complete = ctx.exhausted = False
    ctx.earlier_batches += ctx.iter
    ctx.iter = 0


@access(reads={"tallies"}, writes={"tallies"})
def drop_sums(ctx: Context) -> None:
    "drop what was not recorded"
    # An epoch that was left without a record may have begun them
    for tally in ctx.tallies.values():
        tally.reset()


@access(
    reads={"tallies", "began", "train_data", "epoch"},
    writes={
        "pending",
        "iterator",
        "upcoming",
        "exhausted",
        "epoch_complete",
        "valid_complete",
        "epoch_sums",
        "tallies",
        "announced",
        "began",
    },
)
def open_epoch(ctx: Context) -> None:
    "restart the training data"
    ctx.pending = 0
    ctx.iterator = ctx.upcoming = UNSET
    ctx.exhausted = ctx.epoch_complete = False
    ctx.valid_complete = True
    ctx.epoch_sums = {}
    drop_sums(ctx)
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
    ctx.length = length_now(ctx, "train")
    if ctx.exhausted or ctx.upcoming is END:
        ctx.iterator = iter(())
        return
    again = ctx.upcoming is AGAIN
    take_up(ctx, "train", ctx.iter + (ctx.upcoming is not None and not again))
    if again:
        ctx.upcoming = look_ahead(ctx)


@access(writes={"iterator", "upcoming", "valid_iterator", "began"})
def close_epoch(ctx: Context) -> None:
    "release the data"
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
        "logged_means",
        "batches",
        "step",
        "samples",
        "seconds",
        "model",
        "loss_fns",
        "optimizers",
        "epoch_sums",
    },
    writes={"epoch_complete", "tallies", "logged", "logged_means", "history", "epoch_sums"},
)
def record(ctx: Context) -> None:
    "write a row of the history"
    last = _row_of_this_epoch(ctx)
    late = last is not None and ctx.epoch_complete
    # An evaluation is no part of an epoch
    ctx.epoch_complete = (ctx.exhausted or not ctx.epoch) and ctx.valid_complete
    values: dict[str, Any] = {}
    whole: dict[str, float] = {}
    for tally in ctx.tallies.values():
        values.update(tally.compute())
        if tally.set == "train":
            whole = _whole_epoch(ctx, tally)
        tally.reset()
    values.update(ctx.take_logged(values))
    if ctx.epoch:
        ctx.accelerator.warn_of_untrained(ctx)
    if last is not None and (late or (not values and last["step"] == ctx.step)):
        # An evaluation at the end of the training belongs to the row of the last epoch; and where
        # nothing has been trained since a row, the epoch ends with that row.
        last.update(values | whole)
        last["epoch_complete"] = ctx.epoch_complete
    elif values:
        ctx.history.rows.append({**_counters(ctx), **values, **whole})


def _counters(ctx: Context) -> dict[str, Any]:
    """The columns that every row has."""
    return {
        "epoch": ctx.epoch,
        "batch": ctx.batches,
        "step": ctx.step,
        "samples": ctx.samples,
        "seconds": ctx.seconds,
        "epoch_complete": ctx.epoch_complete,
    }


def _row_of_this_epoch(ctx: Context) -> dict[str, Any] | None:
    """The last row, if this fit has written it in this epoch."""
    if len(ctx.history) <= ctx.first_row or ctx.history[-1]["epoch"] != ctx.epoch:
        return None
    return ctx.history.rows[-1]


def _whole_epoch(ctx: Context, tally: Any) -> dict[str, float]:
    """The means of the whole epoch, where rows inside of it have the means of its parts.

    Args:
        ctx: the context; at the end of an epoch its sums are forgotten.
        tally: that of the training.
    """
    parts = ctx.epoch_sums
    if ctx.exhausted and not parts:
        return {}  # the row has them all; no number is read twice
    sums = tally.means()
    for column, terms in parts.items():
        own = sums.setdefault(column, {})
        for name, (total, count) in terms.items():
            more, others = own.get(name, (0.0, 0.0))
            own[name] = (total + more, count + others)
    if not ctx.exhausted:
        ctx.epoch_sums = sums
        return {}
    ctx.epoch_sums = {}
    return {f"epoch_{column}": _mean(terms) for column, terms in sums.items() if _counted(terms)}


def _counted(terms: dict[str, tuple[float, float]]) -> bool:
    return any(count for _, count in terms.values())


def _mean(terms: dict[str, tuple[float, float]]) -> float:
    """The sum of the means of the terms; a term of which nothing counts is 0."""
    return sum(total / count for total, count in terms.values() if count)
