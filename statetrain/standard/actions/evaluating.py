"""Actions of `valid`, of named evaluations and of `predict`: no training."""

from __future__ import annotations

from attrs import frozen

from statetrain.context.context import Context
from statetrain.context.fields import UNSET
from statetrain.contracts.composing import then
from statetrain.contracts.declaring import Access, access
from statetrain.data.iterating import END, LEFT_OUT, Unstarted, note_error, take_up
from statetrain.data.sizes import length
from statetrain.errors import DataError
from statetrain.events import SkipBatch
from statetrain.standard.actions.batch import count_loss, loss
from statetrain.standard.actions.drawing import RAN_OUT, holds_its_length


def _data(name: str) -> str:
    """What a set is called in a sentence."""
    return "validation" if name == "valid" else name


def _field(name: str) -> str:
    """The field of the context that has the data of a set."""
    return "valid_data" if name == "valid" else "evaluations"


def dropping(name: str) -> str:
    """What the table says of leaving out what was counted of a set."""
    return "drop this validation" if name == "valid" else "drop this evaluation"


@frozen
class OpenData:
    """The action of a scope that goes through data without training.

    Args:
        set: "valid", or the name of an evaluation.
    """

    set: str

    @property
    def label(self) -> str:
        """What the table says."""
        return f"iterate over the {_data(self.set)} data"

    @property
    def access(self) -> Access:
        """What it reads and writes."""
        writes = {"layout", "valid_iterator", "valid_iter", "tallies", "began", "loader_states"}
        if self.set == "valid":
            writes.add("valid_complete")
        return Access({"tallies", _field(self.set), "began", "loader_states", "batches"}, writes)

    def __call__(self, ctx: Context) -> None:
        ctx.layout = None
        ctx.valid_iterator = Unstarted(ctx, self.set)
        ctx.valid_iter = 0
        ctx.tallies[self.set].reset()
        if self.set == "valid":  # an evaluation takes no part in whether an epoch is complete
            ctx.valid_complete = False


@frozen
class ReopenData:
    """The work of opening such a scope again, where a run is continued within it.

    Args:
        set: "valid", or the name of an evaluation.
    """

    set: str

    @property
    def label(self) -> str:
        """What the table says."""
        return f"take up the {_data(self.set)} data where it was"

    @property
    def access(self) -> Access:
        """What it reads and writes."""
        return Access(
            {_field(self.set), "valid_iter", "batches", "began", "loader_states"},
            {"valid_iterator", "began", "loader_states"},
        )

    def __call__(self, ctx: Context) -> None:
        take_up(ctx, self.set, ctx.valid_iter)


@frozen
class DropData:
    """The effect of an arrow that ends such a scope early: a part says nothing of the whole.

    Args:
        set: "valid", or the name of an evaluation.
    """

    set: str

    @property
    def label(self) -> str:
        """What the table says."""
        return dropping(self.set)

    @property
    def access(self) -> Access:
        """What it reads and writes."""
        if self.set == "valid":
            return Access({"tallies"}, {"tallies", "valid_complete"})
        return Access({"tallies"}, {"tallies"})

    def __call__(self, ctx: Context) -> None:
        ctx.tallies[self.set].reset()
        if self.set == "valid":
            ctx.valid_complete = False


@access(writes={"valid_iterator"})
def close_valid(ctx: Context) -> None:
    "release the validation data"
    ctx.valid_iterator = UNSET


@access(
    reads={"valid_iterator", "valid_iter", "layout", "read_batch", "data", "tally"},
    writes={"valid_iter", "valid_iterator", "drawn", "valid_complete", "layout", "batch"},
)
def valid_draw(ctx: Context) -> None:
    "draw a batch"
    try:
        batch = next(ctx.valid_iterator, END)
    except SkipBatch:
        ctx.valid_iter += 1  # as in `draw`
        raise
    except Exception as error:
        ctx.valid_iterator = note_error(ctx.valid_iterator, error)
        raise
    if batch is END:
        _came_to_an_end(ctx, "valid" if ctx.tally is None else ctx.tally.set)
        return
    ctx.drawn = True
    layout = ctx.layout
    if layout is None:
        layout = ctx.layout = ctx.read_batch(batch)
    if layout.place is not None:
        batch = layout.place(batch)
    ctx.batch = batch


def _came_to_an_end(ctx: Context, name: str) -> None:
    ctx.drawn = False
    if name == "valid":
        ctx.valid_complete = True
    if ctx.valid_iterator is LEFT_OUT:
        return
    if holds_its_length(ctx.data) and ctx.valid_iter < (length(ctx.data) or 0):
        raise DataError(
            f"the {_data(name)} data ended after {ctx.valid_iter} of {length(ctx.data)} batches;"
            f" {RAN_OUT}"
        )
    if ctx.valid_iter == 0:
        raise DataError(
            f"the {_data(name)} data gave no batch. Is it empty, or an iterator that was read"
            " before?"
        )


@access(reads={"valid_iter"}, writes={"valid_iter"})
def count_valid_batch(ctx: Context) -> None:
    "count the batch"
    ctx.valid_iter += 1


@access(reads={"valid_iter", "seed", "batches"})
def seed_valid_batch(ctx: Context) -> None:
    "seed its randomness"
    ctx.accelerator.seed(ctx, ("valid batch", ctx.batches), ctx.valid_iter)


valid_loss = then(loss, count_loss)


@access(reads={"pred", "pick"}, writes={"buffers.preds"})
def keep_pred(ctx: Context) -> None:
    "keep the prediction"
    ctx.buffers["preds"].append(ctx.pred if ctx.pick is None else ctx.pick(ctx.pred))
