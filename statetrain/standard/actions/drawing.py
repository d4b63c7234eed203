"""Actions of `train`: drawing batches, and counting them."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from statetrain.context.context import Context
from statetrain.contracts.composing import without_gradients
from statetrain.contracts.declaring import access
from statetrain.data.iterating import END, Unstarted, length_now, note_error
from statetrain.errors import DataError
from statetrain.events import SkipBatch


@access(
    reads={"iterator", "train_data", "began", "loader_states", "epoch", "batches"},
    writes={
        "layout",
        "held",
        "valid_iter",
        "valid_complete",
        "iterator",
        "length",
        "began",
        "loader_states",
    },
)
def open_train(ctx: Context) -> None:
    "iterate over the training data"
    ctx.layout = ctx.held = None
    ctx.valid_iter = 0
    # Also after a validation inside the epoch that was dropped: the epoch continues
    ctx.valid_complete = True
    if ctx.iterator is None:
        ctx.iterator = Unstarted(ctx, "train")
        ctx.length = length_now(ctx, "train")


# In place of a batch that was drawn ahead, in a run that is continued: it has to be drawn again
AGAIN = object()


@without_gradients
@access(
    reads={"iterator", "iter", "layout", "read_batch", "epoch", "train_data", "length", "pending"},
    writes={"iter", "iterator", "drawn", "exhausted", "layout", "batch"},
)
def draw(ctx: Context) -> None:
    "draw a batch"
    try:
        batch = next(ctx.iterator, END)
    except SkipBatch:
        ctx.iter += 1  # the data gave this one up; it counts towards its length
        raise
    except Exception as error:
        ctx.iterator = note_error(ctx.iterator, error)
        raise
    if batch is END:
        _came_to_an_end(ctx)
        return
    ctx.drawn = True
    layout = ctx.layout
    if layout is None:
        layout = ctx.layout = ctx.read_batch(batch)
    if layout.place is not None:
        batch = layout.place(batch)
    ctx.batch = batch


# What drawing one batch ahead reads and writes, placed ahead or not.
_ahead = access(
    reads={
        *("length", "upcoming", "iterator", "iter", "layout", "read_batch", "epoch"),
        *("train_data", "pending"),
    },
    writes={"iter", "upcoming", "drawn", "exhausted", "last_batch", "layout", "batch"},
)


@without_gradients
@_ahead
def draw_ahead(ctx: Context) -> None:
    "draw a batch, knowing whether it is the last"
    if ctx.length is not None and holds_its_length(ctx.train_data):
        draw(ctx)
        ctx.last_batch = ctx.iter + 1 >= ctx.length
        return
    batch = _drawn_ahead(ctx)
    if batch is END:
        return
    if ctx.layout.place is not None:
        batch = ctx.layout.place(batch)
    ctx.batch = batch


@without_gradients
@_ahead
def draw_prefetched(ctx: Context) -> None:
    "take the batch that was placed ahead, draw the next one and begin to place it"
    batch = _drawn_ahead(ctx)
    if batch is END:
        return
    place = ctx.layout.place
    if place is None:
        ctx.batch = batch
        return
    ctx.batch = ctx.accelerator.placed(batch, place)
    if ctx.upcoming is not END and not isinstance(ctx.upcoming, Skipped):
        ctx.accelerator.place_ahead(ctx.upcoming, place)


@frozen
class Skipped:
    """In place of a batch that was drawn ahead, where the data gave it up.

    Args:
        event: what it raised, which is raised when the batch would be trained on.
    """

    event: SkipBatch


def _drawn_ahead(ctx: Context) -> Any:
    """The batch that was drawn before; the next one is drawn into `ctx.upcoming`.

    Returns:
        The batch; `END` if there is none.
    """
    if ctx.upcoming is None:
        ctx.upcoming = look_ahead(ctx)
    batch = ctx.upcoming  # kept there until the one after it is known, which may raise
    if isinstance(batch, Skipped):
        ctx.upcoming = None
        ctx.iter += 1  # as in `draw`
        raise batch.event
    if batch is END:
        _came_to_an_end(ctx)
        return END
    ctx.upcoming = look_ahead(ctx)
    ctx.drawn = True
    ctx.last_batch = ctx.upcoming is END
    if ctx.layout is None:
        ctx.layout = ctx.read_batch(batch)
    return batch


def look_ahead(ctx: Context) -> Any:
    """The next batch of the training data; `END` after the last, `Skipped` if it was given up."""
    try:
        batch = next(ctx.iterator, END)
    except SkipBatch as event:
        return Skipped(event)
    except Exception as error:
        ctx.iterator = note_error(ctx.iterator, error)
        raise
    if batch is None:  # here it would pass for "none has been drawn yet"
        raise DataError(
            "the training data gave None for a batch; leave such batches out, or raise SkipBatch"
            " for them"
        )
    return batch


def _came_to_an_end(ctx: Context) -> None:
    ctx.drawn, ctx.exhausted = False, True
    if ctx.length is not None and ctx.iter < ctx.length and holds_its_length(ctx.train_data):
        raise DataError(
            f"the training data ended after {ctx.iter} of {ctx.length} batches; {RAN_OUT}"
        )
    if ctx.iter == 0:
        why = "Is it empty, or smaller than one batch with drop_last?"
        if ctx.epoch > 1:
            why = "An iterator can be read once; give a list, a loader or a function that makes one"
        raise DataError(f"the training data gave no batch in epoch {ctx.epoch}. {why}")


RAN_OUT = "did the dataset raise StopIteration? It never ends an epoch"


def holds_its_length(data: Any) -> bool:
    """Whether data gives as many batches as it says: lists do, and loaders over map-style datasets.

    Of an iterable dataset, or an object of the user's own, the length is a guess.
    """
    if isinstance(data, list | tuple):
        return True
    dataset = getattr(data, "dataset", None)
    return hasattr(dataset, "__getitem__") and not hasattr(dataset, "__iter__")


@access(reads={"iter"}, writes={"iter"})
def count_batch(ctx: Context) -> None:
    "count the batch"
    ctx.iter += 1


@access(reads={"seed", "batches"})
def seed_batch(ctx: Context) -> None:
    "seed its randomness"
    ctx.accelerator.seed(ctx, ("batch",), ctx.batches)
