"""The work of the standard lifecycle's states, and the effects of its arrows.

Each is a function of the context. They only call what the context holds, so this file needs no
torch. Their docstrings are what the tables and the pictures say; what they declare of the context
is what the data flow is computed from.
"""

from __future__ import annotations

import math
from typing import Any

from attrs import frozen

from statetrain.context.context import Context
from statetrain.context.fields import UNSET, Fact, fields_with
from statetrain.contracts.declaring import Access, access
from statetrain.data.iterating import END, Unstarted, announce, take_up
from statetrain.data.sizes import length
from statetrain.errors import DataError, LossError, LossSpike, NonFiniteLoss
from statetrain.events import SkipBatch
from statetrain.guards.base import Guard, leaves
from statetrain.guards.criteria import Spike
from statetrain.outcome import Interrupted, Stopped

# ---------------------------------------------------------------- fit and epochs


@access(reads={"seconds"}, writes={"earlier_seconds", "started"})
def begin(ctx: Context) -> None:
    "start the clock"
    # What an earlier phase of this run took stays counted
    ctx.earlier_seconds, ctx.started = (
        ctx.seconds,
        ctx.clock(),
    )


@access(reads={"epoch", "iter", "earlier_batches"}, writes={"epoch", "earlier_batches", "iter"})
def count_epoch(ctx: Context) -> None:
    "count the epoch"
    ctx.epoch += 1
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
        ctx.upcoming = next(ctx.iterator, END)


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
    values.update(ctx.logged)
    ctx.logged.clear()
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


# ---------------------------------------------------------------- train


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
    # Also after a validation inside the epoch that was dropped: the epoch goes on
    ctx.valid_complete = True
    if ctx.iterator is None:
        ctx.iterator = Unstarted(ctx, "train")
        ctx.length = length(ctx.train_data)


# In place of a batch that was drawn ahead, in a run that is continued: it has to be drawn again
AGAIN = object()


@access(
    reads={"iterator", "iter", "layout", "read_batch", "epoch", "train_data", "length", "pending"},
    writes={"iter", "drawn", "exhausted", "layout", "batch"},
)
def draw(ctx: Context) -> None:
    "draw a batch"
    try:
        batch = next(ctx.iterator, END)
    except SkipBatch:
        ctx.iter += 1  # the data gave this one up; it counts towards its length
        raise
    if batch is END:
        _came_to_an_end(ctx)
        return
    ctx.drawn = True
    layout = ctx.layout
    if layout is None:
        layout = ctx.layout = ctx.read_batch(batch)
    ctx.batch = batch if layout.place is None else layout.place(batch)


@access(
    reads={
        "length",
        "upcoming",
        "iterator",
        "iter",
        "layout",
        "read_batch",
        "epoch",
        "train_data",
        "pending",
    },
    writes={"iter", "upcoming", "drawn", "exhausted", "last_batch", "layout", "batch"},
)
def draw_ahead(ctx: Context) -> None:
    "draw a batch, knowing whether it is the last"
    if ctx.length is not None:
        draw(ctx)
        ctx.last_batch = ctx.iter + 1 >= ctx.length
        return
    batch = _drawn_ahead(ctx)
    if batch is not END:
        ctx.batch = batch if ctx.layout.place is None else ctx.layout.place(batch)


@access(
    reads={
        "length",
        "upcoming",
        "iterator",
        "iter",
        "layout",
        "read_batch",
        "epoch",
        "train_data",
        "pending",
    },
    writes={"iter", "upcoming", "drawn", "exhausted", "last_batch", "layout", "batch"},
)
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
    if ctx.upcoming is not END:
        ctx.accelerator.place_ahead(ctx.upcoming, place)


def _drawn_ahead(ctx: Context) -> Any:
    """The batch that was drawn before, and the next one drawn into `ctx.upcoming`; `END` if there is none."""
    try:
        if ctx.upcoming is None:
            ctx.upcoming = _one_more(ctx)
        batch = ctx.upcoming  # kept there until the one after it is known, which may raise
        if batch is not END:
            ctx.upcoming = _one_more(ctx)
    except SkipBatch:
        ctx.iter += 1  # as in `draw`
        raise
    if batch is END:
        _came_to_an_end(ctx)
        return END
    ctx.drawn = True
    ctx.last_batch = ctx.upcoming is END
    if ctx.layout is None:
        ctx.layout = ctx.read_batch(batch)
    return batch


def _one_more(ctx: Context) -> Any:
    batch = next(ctx.iterator, END)
    if batch is None:  # here it would pass for "none has been drawn yet"
        raise DataError(
            "the training data gave None for a batch; leave such batches out, or raise SkipBatch"
            " for them"
        )
    return batch


def _came_to_an_end(ctx: Context) -> None:
    ctx.drawn, ctx.exhausted = False, True
    exact = _holds_its_length(ctx.train_data)
    if ctx.length is not None and ctx.iter < ctx.length and (exact or ctx.pending):
        why = (
            _RAN_OUT
            if exact
            else (
                "so the last window was not known to be the last; accumulation needs a length that"
                " holds, or none"
            )
        )
        raise DataError(f"the training data ended after {ctx.iter} of {ctx.length} batches; {why}")
    if ctx.iter == 0:
        once = (
            " An iterator can be read once; give a list, a loader, or a function that makes one"
            if ctx.epoch > 1
            else ""
        )
        raise DataError(
            "the training data gave no batch in epoch"
            f" {ctx.epoch}.{once or ' Is it empty, or smaller than one batch with drop_last?'}"
        )


_RAN_OUT = "did the dataset raise StopIteration? It never ends an epoch"


def _holds_its_length(data: Any) -> bool:
    """Whether a loader gives as many batches as it says: of an iterable dataset, the length is a guess."""
    dataset = getattr(data, "dataset", None)
    return hasattr(dataset, "__getitem__") and not hasattr(dataset, "__iter__")


@access(reads={"iter"}, writes={"iter"})
def count_batch(ctx: Context) -> None:
    "count the batch"
    ctx.iter += 1


@access(reads={"iter", "seed", "batches"}, writes={"iter"})
def count_and_seed_batch(ctx: Context) -> None:
    "count the batch, seed its randomness"
    ctx.iter += 1
    ctx.accelerator.seed(ctx.seed, "batch", ctx.batches)


@access(
    reads={"layout", "batch", "samples", "pending", "opt"},
    writes={"input", "target", "batch_size", "samples"},
    drops={"grads"},
)
def open_batch(ctx: Context) -> None:
    "find input and target, clear the gradients"
    try:
        ctx.input, ctx.target = ctx.layout.split(ctx.batch)
        size = ctx.batch_size = ctx.layout.size(ctx.input)
    except (TypeError, LookupError, AttributeError) as error:
        raise _unlike_the_first(ctx, error) from error
    ctx.samples += size
    if ctx.pending == 0:
        ctx.accelerator.clear(ctx.opt)


def _unlike_the_first(ctx: Context, error: Exception) -> DataError:
    batch = ctx.batch
    return DataError(
        f"a batch is a {type(batch).__name__} that cannot be read like the first one"
        f" ({type(error).__name__}: {error}); all batches of a loader need the same structure, got"
        f" {batch!r:.80}"
    )


@access(reads={"layout", "batch", "samples"}, writes={"input", "target", "batch_size", "samples"})
def open_shared_batch(ctx: Context) -> None:
    "find input and target"
    try:
        ctx.input, ctx.target = ctx.layout.split(ctx.batch)
        ctx.batch_size = ctx.layout.size(ctx.input)
    except (TypeError, LookupError, AttributeError) as error:
        raise _unlike_the_first(ctx, error) from error
    ctx.samples += ctx.batch_size


@access(drops=fields_with(Context, Fact.OF_BATCH))
def close_batch(ctx: Context) -> None:
    "release the batch"
    ctx.batch = ctx.input = ctx.target = ctx.pred = ctx.loss_grad = UNSET


@access(reads={"layout", "model", "input"}, writes={"pred", "interms"})
def pred(ctx: Context) -> None:
    "run the model"
    forward = ctx.layout.forward
    ctx.pred = ctx.model(ctx.input) if forward is None else forward(ctx.model, ctx.input)


@access(
    reads={"pred", "pick", "loss_fn", "target", "on_host"},
    writes={"loss_grad", "loss_value", "loss_states"},
)
def loss(ctx: Context) -> None:
    "compute the loss"
    pred = ctx.pred if ctx.pick is None else ctx.pick(ctx.pred)
    try:
        loss = ctx.loss_grad = ctx.loss_fn(pred, ctx.target)
    except Exception as error:
        if not hasattr(pred, "detach") and not getattr(ctx.loss_fn, "by_keys", False):
            error.add_note(_name_the_part(pred))
        raise
    try:
        ctx.loss_value = loss.item() if ctx.on_host else ctx.accelerator.exact(loss)
    except (AttributeError, RuntimeError, ValueError) as error:
        if hasattr(loss, "detach") and loss.numel() == 1:
            raise  # the device's own error, which shows where it is waited for
        raise LossError(_bad_loss(ctx, loss)) from error


def _name_the_part(pred: Any) -> str:
    if pred is None:
        return "statetrain: the model returned None; does its forward end with a return?"
    parts = (
        f" with {', '.join(map(repr, pred))}"
        if isinstance(pred, dict)
        else f" of {len(pred)}"
        if isinstance(pred, list | tuple)
        else ""
    )
    example = (
        repr(next(iter(pred), "logits"))
        if isinstance(pred, dict)
        else "'[0]'"
        if isinstance(pred, list | tuple)
        else "'logits'"
    )
    return (
        f"statetrain: the model returned a {type(pred).__name__}{parts}; name the part that the"
        f" loss takes with pred={example}"
    )


def _bad_loss(ctx: Context, loss: Any) -> str:
    if not hasattr(loss, "detach"):
        return (
            f"the loss must be a tensor of shape (), got {type(loss).__name__}: {loss!r:.80};"
            " return it as a tensor, without .item()"
        )
    return (
        f"the loss must be a scalar, got shape {tuple(loss.shape)}; reduce it, for example with"
        " .mean()"
    )


@access(
    reads={
        "batch_size",
        "tally",
        "opt_name",
        "loss_value",
        "opt_index",
        "pred?",
        "pick",
        "target",
        "**",
    },
    writes={"tally"},
)
def count_loss(ctx: Context) -> None:
    "count the loss"
    size, tally = ctx.batch_size, ctx.tally
    mean = tally.losses[ctx.opt_name]
    mean.total += ctx.loss_value * size
    mean.count += size
    if tally.metrics:
        tally.update(ctx)


@access(reads={"loss_grad", "backward", "inputs", "pending"}, writes={"grads", "pending"})
def backward(ctx: Context) -> None:
    "compute the gradients"
    loss = ctx.loss_grad
    if not getattr(loss, "requires_grad", False):
        raise LossError(
            "the loss has no gradient: nothing that it was computed from requires one. Is it"
            " detached, computed under no_grad, or is every parameter frozen?"
        )
    try:
        if ctx.backward is None:
            loss.backward(inputs=ctx.inputs)
        else:
            ctx.backward(loss, ctx.inputs)
    except RuntimeError as error:
        if loss.is_complex():
            raise LossError(
                f"the loss must be a real number, got {loss.dtype}; take its .real or .abs()"
            ) from error
        raise
    ctx.pending += 1


@access(
    reads={"step_opt", "opt", "step", "grads"},
    writes={"params", "optimizers", "updates", "update_norms", "step", "pending"},
)
def step(ctx: Context) -> None:
    "update the weights"
    if ctx.step_opt is None:
        ctx.opt.step()
    else:
        ctx.step_opt(ctx.opt)
    ctx.step += 1
    ctx.pending = 0


@access(
    reads={
        "loss_grad",
        "opt",
        "layout",
        "model",
        "input",
        "pick",
        "loss_fn",
        "target",
        "on_host",
        "backward",
        "inputs",
        "pending",
        "step",
        "grads",
    },
    writes={
        "pred",
        "interms",
        "loss_grad",
        "loss_value",
        "loss_states",
        "grads",
        "params",
        "optimizers",
        "updates",
        "update_norms",
        "step",
        "pending",
    },
)
def step_with_closure(ctx: Context) -> None:
    "update the weights, replaying pred, loss and backward"
    _replay(ctx)
    ctx.step += 1
    ctx.pending = 0


def _replay(ctx: Context) -> None:
    """Steps an optimizer that computes the loss itself, as often as it likes; the first time it has been computed."""
    fresh = [ctx.loss_grad]

    def closure() -> Any:
        if fresh:
            return fresh.pop()
        ctx.accelerator.clear(ctx.opt)
        pred(ctx)
        loss(ctx)
        backward(ctx)
        return ctx.loss_grad

    ctx.opt.step(closure)


@access(reads={"optimizers"}, writes={"pending"}, drops={"grads"})
def discard_window(ctx: Context) -> None:
    "discard the window"
    for optimizer in ctx.optimizers.values():
        optimizer.zero_grad()
    ctx.pending = 0


@access(reads={"held", "model", "loss_fns"}, writes={"held"})
def hold(ctx: Context) -> None:
    "keep a copy of the buffers"
    if ctx.held is None:
        ctx.held = ctx.accelerator.buffers(ctx)
    ctx.held.take()


@access(reads={"**"}, writes={"pending", "records", "model"}, drops={"grads"})
def refuse_batch(ctx: Context) -> None:
    "discard the window, put the buffers back"
    note_refusal(ctx)
    discard_window(ctx)
    if ctx.held is not None:
        ctx.held.put_back()


@access(reads={"**"}, writes={"pending", "records", "model"}, drops={"grads"})
def refuse_plain_batch(ctx: Context) -> None:
    "discard the window"
    refuse_batch(ctx)


@access(reads={"**"}, writes={"records"})
def note_refusal(ctx: Context) -> None:
    """Writes down a batch that was refused, in the records of the run."""
    ctx.log(
        "refused",
        {
            "epoch": ctx.epoch,
            "batch": ctx.iter,
            "step": ctx.step,
            "reason": _guard_at(ctx).reason(ctx),
        },
    )


@access(reads={"optimizers"}, writes={"pending", "exhausted"}, drops={"grads"})
def end_epoch_early(ctx: Context) -> None:
    "end the epoch early"
    discard_window(ctx)
    ctx.exhausted = True


# ---------------------------------------------------------------- accumulation, gradients


@access(reads={"pending", "opt", "grads"}, writes={"grads"})
def average_window(ctx: Context) -> None:
    "average the gradients of the window"
    if ctx.pending > 1:
        for gradient in ctx.accelerator.gradients(ctx.opt):
            gradient.div_(ctx.pending)


@access(reads={"opt", "grads"}, writes={"grad_norm"})
def grad_norm(ctx: Context) -> None:
    "compute the norm of the gradients"
    ctx.grad_norm = ctx.accelerator.grad_norm(ctx.opt)


# ---------------------------------------------------------------- a scaled loss, for float16


@access(
    reads={"loss_grad", "scaler", "backward", "inputs", "pending"},
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


# ---------------------------------------------------------------- several optimizers


@access(
    reads={"optimizers", "loss_fns", "training"},
    writes={"opt_index", "opt_name", "opt", "loss_fn", "inputs"},
    drops={"grads"},
)
def select_first(ctx: Context) -> None:
    "select the first optimizer"
    _select(ctx, 0)


@access(
    reads={"opt_index", "optimizers", "loss_fns", "training"},
    writes={"opt_index", "opt_name", "opt", "loss_fn", "inputs"},
    drops={"grads"},
)
def select_next(ctx: Context) -> None:
    "select the next optimizer"
    _select(ctx, ctx.opt_index + 1)


def _select(ctx: Context, index: int) -> None:
    ctx.opt_index = index
    ctx.opt_name = list(ctx.optimizers)[index]
    ctx.opt = ctx.optimizers[ctx.opt_name]
    ctx.loss_fn = ctx.loss_fns[ctx.opt_name]
    if ctx.training:
        # The others' parameters gather no gradients from this one's loss.
        ctx.inputs = [
            p for group in ctx.opt.param_groups for p in group["params"] if p.requires_grad
        ]
        ctx.accelerator.clear(ctx.opt)


@access(
    reads={"step_opt", "opt", "step", "opt_index", "optimizers", "grads"},
    writes={"params", "optimizers", "updates", "update_norms", "step", "pending"},
)
def step_one(ctx: Context) -> None:
    "update this optimizer's weights"
    if ctx.step_opt is None:
        ctx.opt.step()
    else:
        ctx.step_opt(ctx.opt)
    _count_round(ctx)


@access(
    reads={
        "loss_grad",
        "opt",
        "layout",
        "model",
        "input",
        "pick",
        "loss_fn",
        "target",
        "on_host",
        "backward",
        "inputs",
        "pending",
        "step",
        "opt_index",
        "optimizers",
        "grads",
    },
    writes={
        "pred",
        "interms",
        "loss_grad",
        "loss_value",
        "loss_states",
        "grads",
        "params",
        "optimizers",
        "updates",
        "update_norms",
        "step",
        "pending",
    },
)
def step_one_with_closure(ctx: Context) -> None:
    "update this optimizer's weights, replaying pred, loss and backward"
    _replay(ctx)
    _count_round(ctx)


def _count_round(ctx: Context) -> None:
    ctx.pending = 0
    ctx.step += ctx.opt_index + 1 == len(ctx.optimizers)


# ---------------------------------------------------------------- steps masked on the device


@access(reads={"pending", "held", "model", "loss_fns"}, writes={"held"})
def hold_window(ctx: Context) -> None:
    "keep a copy of the buffers, once a window"
    if ctx.pending == 0:
        hold(ctx)


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
    """Adds what a mask has seen of a loss to the mean of the epoch, and lets the metrics take in the batch."""
    size, mean = ctx.batch_size, ctx.tally.losses[ctx.opt_name]
    if isinstance(mean.count, int):  # a number until the first batch
        mean.total, mean.count = mean.total + loss * size, mean.count + counts * size
    else:
        mean.total, mean.count = (
            mean.total.add(loss, alpha=size),
            mean.count.add(counts, alpha=size),
        )
    if ctx.tally.metrics:
        ctx.tally.update(ctx)


@access(
    reads={"mask", "opt", "step", "held", "grads"},
    writes={"mask", "params", "optimizers", "updates", "update_norms", "step", "pending"},
)
def masked_step(ctx: Context) -> None:
    "update the weights, masked where loss or gradients are not finite"
    ctx.mask.step(ctx.opt, ctx.step + 1, ctx.held)
    ctx.step += 1
    ctx.pending = 0


@access(
    reads={"mask", "opt", "step", "held", "grads", "opt_index", "optimizers"},
    writes={"mask", "params", "optimizers", "updates", "update_norms", "step", "pending"},
)
def masked_step_one(ctx: Context) -> None:
    "update this optimizer's weights, masked where loss or gradients are not finite"
    ctx.mask.step(ctx.opt, ctx.step + 1, ctx.held)
    _count_round(ctx)


@access(reads={"optimizers", "mask"}, writes={"pending", "mask"}, drops={"grads"})
def discard_masked_window(ctx: Context) -> None:
    "discard the window"
    discard_window(ctx)
    ctx.mask.drop()


@access(reads={"optimizers", "mask"}, writes={"pending", "mask", "exhausted"}, drops={"grads"})
def end_masked_epoch_early(ctx: Context) -> None:
    "end the epoch early"
    end_epoch_early(ctx)
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
    reason = _guard_at(ctx).reason(ctx)
    tell_masked(ctx)
    raise NonFiniteLoss(
        f"{reason}; found out at step {ctx.step}. These steps were not made: the weights are as if"
        " their batches had not been. Lower the learning rate, clip the gradients or look at the"
        " batches; non_finite='skip' goes on without them"
    )


@access(reads={"**"}, writes={"told", "records", "stop"})
def stop_masked(ctx: Context) -> None:
    "ask to stop"
    ctx.request_stop(_guard_at(ctx).reason(ctx))
    tell_masked(ctx)


# ---------------------------------------------------------------- valid


@access(
    reads={"tallies", "valid_data", "began", "loader_states", "batches"},
    writes={
        "layout",
        "valid_iterator",
        "valid_iter",
        "valid_complete",
        "tallies",
        "began",
        "loader_states",
    },
)
def open_valid(ctx: Context) -> None:
    "iterate over the validation data"
    ctx.layout = None
    ctx.valid_iterator = Unstarted(ctx, "valid")
    ctx.valid_iter = 0
    ctx.valid_complete = False
    ctx.tallies["valid"].reset()


@access(
    reads={"valid_data", "valid_iter", "batches", "began", "loader_states"},
    writes={"valid_iterator", "began", "loader_states"},
)
def reopen_valid(ctx: Context) -> None:
    "take up the validation data where it was"
    take_up(ctx, "valid", ctx.valid_iter)


@access(writes={"valid_iterator"})
def close_valid(ctx: Context) -> None:
    "let go of the validation data"
    ctx.valid_iterator = UNSET


@access(
    reads={"valid_iterator", "valid_iter", "layout", "read_batch", "data", "tally"},
    writes={"valid_iter", "drawn", "valid_complete", "layout", "batch"},
)
def valid_draw(ctx: Context) -> None:
    "draw a batch"
    try:
        batch = next(ctx.valid_iterator, END)
    except SkipBatch:
        ctx.valid_iter += 1  # as in `draw`
        raise
    if batch is END:
        ctx.drawn, ctx.valid_complete = False, True
        what = "validation" if ctx.tally is None or ctx.tally.set == "valid" else ctx.tally.set
        if _holds_its_length(ctx.data) and ctx.valid_iter < (length(ctx.data) or 0):
            raise DataError(
                f"the {what} data ended after {ctx.valid_iter} of {length(ctx.data)} batches;"
                f" {_RAN_OUT}"
            )
        if ctx.valid_iter == 0:
            raise DataError(
                f"the {what} data gave no batch. Is it empty, or an iterator that was read before?"
            )
        return
    ctx.drawn = True
    layout = ctx.layout
    if layout is None:
        layout = ctx.layout = ctx.read_batch(batch)
    ctx.batch = batch if layout.place is None else layout.place(batch)


@access(reads={"valid_iter"}, writes={"valid_iter"})
def count_valid_batch(ctx: Context) -> None:
    "count the batch"
    ctx.valid_iter += 1


@access(reads={"valid_iter", "seed", "batches"}, writes={"valid_iter"})
def count_and_seed_valid_batch(ctx: Context) -> None:
    "count the batch, seed its randomness"
    ctx.valid_iter += 1
    ctx.accelerator.seed(ctx.seed, "valid batch", ctx.batches, ctx.valid_iter)


@access(reads={"layout", "batch"}, writes={"input", "target", "batch_size"})
def open_valid_batch(ctx: Context) -> None:
    "find input and target"
    try:
        ctx.input, ctx.target = ctx.layout.split(ctx.batch)
        ctx.batch_size = ctx.layout.size(ctx.input)
    except (TypeError, LookupError, AttributeError) as error:
        raise _unlike_the_first(ctx, error) from error


@access(
    reads={
        "pred",
        "pick",
        "loss_fn",
        "target",
        "on_host",
        "batch_size",
        "tally",
        "opt_name",
        "opt_index",
        "**",
    },
    writes={"loss_grad", "loss_value", "loss_states", "tally"},
)
def valid_loss(ctx: Context) -> None:
    "compute and count the loss"
    loss(ctx)
    count_loss(ctx)


# ---------------------------------------------------------------- evaluations with a name


@frozen
class OpenEvaluation:
    """The action of an evaluation's scope.

    Args:
        set: its name.
    """

    set: str

    @property
    def label(self) -> str:
        """What the table says."""
        return f"iterate over the {self.set} data"

    @property
    def access(self) -> Access:
        """What it reads and writes."""
        return Access(
            {"tallies", "evaluations", "began", "loader_states", "batches"},
            {"layout", "valid_iterator", "valid_iter", "tallies", "began", "loader_states"},
        )

    def __call__(self, ctx: Context) -> None:
        ctx.layout = None
        ctx.valid_iterator = Unstarted(ctx, self.set)
        ctx.valid_iter = 0
        ctx.tallies[self.set].reset()


@frozen
class ReopenEvaluation:
    """The work of taking an evaluation up again.

    Args:
        set: its name.
    """

    set: str

    @property
    def label(self) -> str:
        """What the table says."""
        return f"take up the {self.set} data where it was"

    @property
    def access(self) -> Access:
        """What it reads and writes."""
        return Access(
            {"evaluations", "valid_iter", "batches", "began", "loader_states"},
            {"valid_iterator", "began", "loader_states"},
        )

    def __call__(self, ctx: Context) -> None:
        take_up(ctx, self.set, ctx.valid_iter)


@frozen
class DropEvaluation:
    """The effect of an arrow that ends an evaluation early: a part of the data says nothing of the whole.

    Args:
        set: its name.
    """

    set: str

    @property
    def label(self) -> str:
        """What the table says."""
        return "drop this evaluation"

    @property
    def access(self) -> Access:
        """What it reads and writes."""
        return Access({"tallies"}, {"tallies"})

    def __call__(self, ctx: Context) -> None:
        ctx.tallies[self.set].reset()


@access(
    reads={
        "valid_iterator",
        "valid_iter",
        "valid_complete",
        "layout",
        "read_batch",
        "data",
        "tally",
    },
    writes={"valid_iter", "drawn", "valid_complete", "layout", "batch"},
)
def evaluation_draw(ctx: Context) -> None:
    "draw a batch"
    complete = ctx.valid_complete
    valid_draw(ctx)
    ctx.valid_complete = complete  # the epoch's validation is another matter


@access(reads={"pred", "pick"}, writes={"buffers.preds"})
def keep_pred(ctx: Context) -> None:
    "keep the prediction"
    ctx.buffers["preds"].append(ctx.pred if ctx.pick is None else ctx.pick(ctx.pred))


@access(reads={"tallies"}, writes={"tallies", "valid_complete"})
def drop_validation(ctx: Context) -> None:
    "drop this validation"
    ctx.tallies["valid"].reset()
    ctx.valid_complete = False


# ---------------------------------------------------------------- how it ends


@access(reads={"**"}, writes={"outcome"})  # a guard that says its reason reads what it likes
def say_why(ctx: Context) -> None:
    "say why"
    if ctx.interrupt is not None:
        ctx.outcome = Interrupted(ctx.epoch, ctx.interrupt)
    elif ctx.event is not None and ctx.transition.event is not None:
        kind = type(ctx.event).__name__
        ctx.outcome = (
            Interrupted(ctx.epoch, kind)
            if isinstance(ctx.event, KeyboardInterrupt)
            else Stopped(ctx.epoch, str(ctx.event) or kind)
        )
    else:
        ctx.outcome = Stopped(ctx.epoch, _guard_at(ctx).reason(ctx))


@access(reads={"**"}, writes={"pending", "records", "model"}, drops={"grads"})
def raise_non_finite(ctx: Context) -> None:
    "raise NonFiniteLoss"
    reason = _guard_at(ctx).reason(ctx)
    spiked = any(
        isinstance(leaf, Spike) and leaf.test(ctx) for leaf in leaves(_guard_at(ctx))
    ) and math.isfinite(ctx.loss_value)
    refuse_batch(ctx)
    remedy = (
        "Lower the learning rate, clip the gradients or look at the batch; non_finite='skip' goes"
        " on without it, non_finite='stop' ends the run"
    )
    if (
        name := ctx.accelerator.first_not_finite(ctx)
    ) is not None:  # earlier gradients were not finite though their loss was
        raise NonFiniteLoss(
            f"{reason}, and {name} was not finite before this batch: the gradients of an earlier"
            " one were not, though its loss was. check_gradients=True looks at them before each"
            f" step. {remedy}"
        )
    raise (LossSpike if spiked else NonFiniteLoss)(
        f"{reason}; the weights are as they were before this batch. {remedy}"
    )


@access(reads={"**"}, writes={"pending", "records", "model", "stop"}, drops={"grads"})
def stop_non_finite(ctx: Context) -> None:
    "discard the window and ask to stop"
    refuse_batch(ctx)
    ctx.request_stop(_guard_at(ctx).reason(ctx))


def _guard_at(ctx: Context) -> Guard:
    """The guard of the arrow that is being taken."""
    guard = ctx.transition.guard
    assert guard is not None
    return guard
