"""The work of the standard lifecycle's states, and the effects of its arrows.

Each is a function of the context. They only call what the context holds, so this file needs no torch. Their docstrings
are what the tables and the pictures say.
"""

from __future__ import annotations

import math
from typing import Any

from attrs import frozen

from statetrain.criteria import Spike
from statetrain.guards import leaves
from statetrain.iterating import END, Unstarted, announce, take_up
from statetrain.outcome import DataError, Interrupted, LossError, LossSpike, NonFiniteLoss, SkipBatch, Stopped
from statetrain.sizes import length

# ---------------------------------------------------------------- fit and epochs


def begin(ctx: Any) -> None:
    "start the clock"
    ctx.earlier_seconds, ctx.started = ctx.seconds, ctx.clock()  # what an earlier phase of this run took stays counted


def count_epoch(ctx: Any) -> None:
    "count the epoch"
    ctx.epoch += 1
    ctx.earlier_batches += ctx.iter
    ctx.iter = 0


def open_epoch(ctx: Any) -> None:
    "start the training data anew"
    ctx.pending = 0
    ctx.iterator = ctx.upcoming = None
    ctx.exhausted = ctx.epoch_complete = False
    ctx.valid_complete = True
    for tally in ctx.tallies.values():  # an epoch that was left without a record may have begun them
        tally.reset()
    ctx.began.pop("train", None)
    announce(ctx)


def reopen_epoch(ctx: Any) -> None:
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


def close_epoch(ctx: Any) -> None:
    "let go of the data"
    ctx.iterator = ctx.upcoming = ctx.valid_iterator = None
    ctx.began.clear()


def record(ctx: Any) -> None:
    "write a row of the history"
    late = ctx.epoch_complete and len(ctx.history) > ctx.first_row and ctx.history[-1]["epoch"] == ctx.epoch
    ctx.epoch_complete = (ctx.exhausted or not ctx.epoch) and ctx.valid_complete  # an evaluation is no part of an epoch
    values: dict[str, Any] = {}
    for tally in ctx.tallies.values():
        values.update(tally.compute())
        tally.reset()
    values.update(ctx.logged)
    ctx.logged.clear()
    if values and late:  # an evaluation at the end of the training belongs to the row of the last epoch
        ctx.history[-1].update(values)
    elif values:
        counters = {"epoch": ctx.epoch, "batch": ctx.batches, "step": ctx.step, "samples": ctx.samples, "seconds": ctx.seconds}
        ctx.history.rows.append({**counters, "epoch_complete": ctx.epoch_complete, **values})


# ---------------------------------------------------------------- train


def open_train(ctx: Any) -> None:
    "iterate over the training data"
    ctx.layout = ctx.held = None
    ctx.valid_iter = 0
    ctx.valid_complete = True  # also after a validation inside the epoch that was dropped: the epoch goes on
    if ctx.iterator is None:
        ctx.iterator = Unstarted(ctx, "train")
        ctx.length = length(ctx.train_data)


AGAIN = object()  # in place of a batch that was drawn ahead, in a run that is continued: it has to be drawn again


def draw(ctx: Any) -> None:
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


def draw_ahead(ctx: Any) -> None:
    "draw a batch, knowing whether it is the last"
    if ctx.length is not None:
        draw(ctx)
        ctx.last_batch = ctx.iter + 1 >= ctx.length
        return
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
        return
    ctx.drawn = True
    ctx.last_batch = ctx.upcoming is END
    if ctx.layout is None:
        ctx.layout = ctx.read_batch(batch)
    ctx.batch = batch if ctx.layout.place is None else ctx.layout.place(batch)


def _one_more(ctx: Any) -> Any:
    batch = next(ctx.iterator, END)
    if batch is None:  # here it would pass for "none has been drawn yet"
        raise DataError("the training data gave None for a batch; leave such batches out, or raise SkipBatch for them")
    return batch


def _came_to_an_end(ctx: Any) -> None:
    ctx.drawn, ctx.exhausted = False, True
    exact = _holds_its_length(ctx.train_data)
    if ctx.length is not None and ctx.iter < ctx.length and (exact or ctx.pending):
        why = _RAN_OUT if exact else "so the last window was not known to be the last; accumulation needs a length that holds, or none"
        raise DataError(f"the training data ended after {ctx.iter} of {ctx.length} batches; {why}")
    if ctx.iter == 0:
        once = " An iterator can be read once; give a list, a loader, or a function that makes one" if ctx.epoch > 1 else ""
        raise DataError(f"the training data gave no batch in epoch {ctx.epoch}.{once or ' Is it empty, or smaller than one batch with drop_last?'}")


_RAN_OUT = "did the dataset raise StopIteration? It never ends an epoch"


def _holds_its_length(data: Any) -> bool:
    """Whether a loader gives as many batches as it says: of an iterable dataset, the length is a guess."""
    dataset = getattr(data, "dataset", None)
    return hasattr(dataset, "__getitem__") and not hasattr(dataset, "__iter__")


def count_batch(ctx: Any) -> None:
    "count the batch"
    ctx.iter += 1


def count_and_seed_batch(ctx: Any) -> None:
    "count the batch, seed its randomness"
    ctx.iter += 1
    ctx.accelerator.seed(ctx.seed, "batch", ctx.batches)


def open_batch(ctx: Any) -> None:
    "find input and target, clear the gradients"
    try:
        ctx.input, ctx.target = ctx.layout.split(ctx.batch)
        size = ctx.batch_size = ctx.layout.size(ctx.input)
    except (TypeError, LookupError, AttributeError) as error:
        raise _unlike_the_first(ctx, error) from error
    ctx.samples += size
    if ctx.pending == 0:
        ctx.opt.zero_grad()


def _unlike_the_first(ctx: Any, error: Exception) -> DataError:
    batch = ctx.batch
    return DataError(
        f"a batch is a {type(batch).__name__} that cannot be read like the first one ({type(error).__name__}: {error}); "
        f"all batches of a loader need the same structure, got {batch!r:.80}"
    )


def open_shared_batch(ctx: Any) -> None:
    "find input and target"
    try:
        ctx.input, ctx.target = ctx.layout.split(ctx.batch)
        ctx.batch_size = ctx.layout.size(ctx.input)
    except (TypeError, LookupError, AttributeError) as error:
        raise _unlike_the_first(ctx, error) from error
    ctx.samples += ctx.batch_size


def close_batch(ctx: Any) -> None:
    "let go of the batch"
    ctx.batch = ctx.input = ctx.target = ctx.pred = ctx.loss_grad = None


def pred(ctx: Any) -> None:
    "run the model"
    forward = ctx.layout.forward
    ctx.pred = ctx.model(ctx.input) if forward is None else forward(ctx.model, ctx.input)


def loss(ctx: Any) -> None:
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
    parts = f" with {', '.join(map(repr, pred))}" if isinstance(pred, dict) else f" of {len(pred)}" if isinstance(pred, list | tuple) else ""
    example = repr(next(iter(pred), "logits")) if isinstance(pred, dict) else "'[0]'" if isinstance(pred, list | tuple) else "'logits'"
    return f"statetrain: the model returned a {type(pred).__name__}{parts}; name the part that the loss takes with pred={example}"


def _bad_loss(ctx: Any, loss: Any) -> str:
    if not hasattr(loss, "detach"):
        return f"the loss must be a tensor of shape (), got {type(loss).__name__}: {loss!r:.80}; return it as a tensor, without .item()"
    return f"the loss must be a scalar, got shape {tuple(loss.shape)}; reduce it, for example with .mean()"


def count_loss(ctx: Any) -> None:
    "count the loss"
    size, tally = ctx.batch_size, ctx.tally
    mean = tally.losses[ctx.opt_name]
    mean.total += ctx.loss_value * size
    mean.count += size
    if tally.metrics:
        tally.update(ctx)


def backward(ctx: Any) -> None:
    "compute the gradients"
    loss = ctx.loss_grad
    if not getattr(loss, "requires_grad", False):
        raise LossError(
            "the loss has no gradient: nothing that it was computed from requires one. Is it detached, computed under "
            "no_grad, or is every parameter frozen?"
        )
    try:
        if ctx.backward is None:
            loss.backward(inputs=ctx.inputs)
        else:
            ctx.backward(loss, ctx.inputs)
    except RuntimeError as error:
        if loss.is_complex():
            raise LossError(f"the loss must be a real number, got {loss.dtype}; take its .real or .abs()") from error
        raise
    ctx.pending += 1


def step(ctx: Any) -> None:
    "update the weights"
    if ctx.step_opt is None:
        ctx.opt.step()
    else:
        ctx.step_opt(ctx.opt)
    ctx.step += 1
    ctx.pending = 0


def step_with_closure(ctx: Any) -> None:
    "update the weights, replaying pred, loss and backward"
    _replay(ctx)
    ctx.step += 1
    ctx.pending = 0


def _replay(ctx: Any) -> None:
    """Steps an optimizer that computes the loss itself, as often as it likes; the first time it has been computed."""
    fresh = [ctx.loss_grad]

    def closure() -> Any:
        if fresh:
            return fresh.pop()
        ctx.opt.zero_grad()
        pred(ctx)
        loss(ctx)
        backward(ctx)
        return ctx.loss_grad

    ctx.opt.step(closure)


def discard_window(ctx: Any) -> None:
    "discard the window"
    for optimizer in ctx.optimizers.values():
        optimizer.zero_grad()
    ctx.pending = 0


def hold(ctx: Any) -> None:
    "keep a copy of the buffers"
    if ctx.held is None:
        ctx.held = ctx.accelerator.buffers(ctx)
    ctx.held.take()


def refuse_batch(ctx: Any) -> None:
    "discard the window, put the buffers back"
    note_refusal(ctx)
    discard_window(ctx)
    if ctx.held is not None:
        ctx.held.put_back()


def refuse_plain_batch(ctx: Any) -> None:
    "discard the window"
    refuse_batch(ctx)


def note_refusal(ctx: Any) -> None:
    """Writes down a batch that was refused, in the records of the run."""
    ctx.log("refused", {"epoch": ctx.epoch, "batch": ctx.iter, "step": ctx.step, "reason": ctx.transition.guard.reason(ctx)})


def end_epoch_early(ctx: Any) -> None:
    "end the epoch early"
    discard_window(ctx)
    ctx.exhausted = True


# ---------------------------------------------------------------- accumulation, gradients


def average_window(ctx: Any) -> None:
    "average the gradients of the window"
    if ctx.pending > 1:
        for gradient in ctx.accelerator.gradients(ctx.opt):
            gradient.div_(ctx.pending)


def grad_norm(ctx: Any) -> None:
    "compute the norm of the gradients"
    ctx.grad_norm = ctx.accelerator.grad_norm(ctx.opt)


# ---------------------------------------------------------------- a scaled loss, for float16


def scaled_backward(ctx: Any) -> None:
    "compute the gradients of the scaled loss"
    loss = ctx.loss_grad
    ctx.loss_grad = ctx.scaler.scale(loss)
    try:
        backward(ctx)
    finally:
        ctx.loss_grad = loss


def unscale(ctx: Any) -> None:
    "take the scale out of the gradients, adapt it"
    scaler = ctx.scaler
    if not scaler.is_enabled():
        return
    scaler.unscale_(ctx.opt)
    # Where torch keeps what it found. Asking waits for the device once, as the scaler's own step would.
    found = scaler._found_inf_per_device(ctx.opt).values()
    if not found:
        raise LossError(f"optimizer {ctx.opt_name!r} has no gradients: the loss was computed from none of its parameters")
    ctx.overflowed = any(inf.item() for inf in found)
    scaler.update()


# ---------------------------------------------------------------- several optimizers


def select_first(ctx: Any) -> None:
    "select the first optimizer"
    _select(ctx, 0)


def select_next(ctx: Any) -> None:
    "select the next optimizer"
    _select(ctx, ctx.opt_index + 1)


def _select(ctx: Any, index: int) -> None:
    ctx.opt_index = index
    ctx.opt_name = list(ctx.optimizers)[index]
    ctx.opt = ctx.optimizers[ctx.opt_name]
    ctx.loss_fn = ctx.loss_fns[ctx.opt_name]
    if ctx.training:
        # The others' parameters gather no gradients from this one's loss.
        ctx.inputs = [p for group in ctx.opt.param_groups for p in group["params"] if p.requires_grad]
        ctx.opt.zero_grad()


def step_one(ctx: Any) -> None:
    "update this optimizer's weights"
    if ctx.step_opt is None:
        ctx.opt.step()
    else:
        ctx.step_opt(ctx.opt)
    _count_round(ctx)


def step_one_with_closure(ctx: Any) -> None:
    "update this optimizer's weights, replaying pred, loss and backward"
    _replay(ctx)
    _count_round(ctx)


def _count_round(ctx: Any) -> None:
    ctx.pending = 0
    ctx.step += ctx.opt_index + 1 == len(ctx.optimizers)


# ---------------------------------------------------------------- steps masked on the device


def hold_window(ctx: Any) -> None:
    "keep a copy of the buffers, once a window"
    if ctx.pending == 0:
        hold(ctx)


def count_finite_loss(ctx: Any) -> None:
    "count the loss if it is finite"
    total, count = ctx.mask.see(ctx.loss_grad.detach(), ctx.batch_size)
    mean = ctx.tally.losses[ctx.opt_name]
    mean.total = mean.total + total
    mean.count = mean.count + count
    if ctx.tally.metrics:
        ctx.tally.update(ctx)


def masked_step(ctx: Any) -> None:
    "update the weights, masked where loss or gradients are not finite"
    ctx.mask.step(ctx.opt, ctx.step + 1, ctx.held)
    ctx.step += 1
    ctx.pending = 0


def masked_step_one(ctx: Any) -> None:
    "update this optimizer's weights, masked where loss or gradients are not finite"
    ctx.mask.step(ctx.opt, ctx.step + 1, ctx.held)
    _count_round(ctx)


def discard_masked_window(ctx: Any) -> None:
    "discard the window"
    discard_window(ctx)
    ctx.mask.drop()


def end_masked_epoch_early(ctx: Any) -> None:
    "end the epoch early"
    end_epoch_early(ctx)
    ctx.mask.drop()


def report(ctx: Any) -> None:
    "read what the device had found, ask again"
    ctx.masked, ctx.first_masked = ctx.mask.answer()
    ctx.mask.ask()


def settle(ctx: Any) -> None:
    "read what the device has found"
    ctx.masked, ctx.first_masked = ctx.mask.now()
    if ctx.row_due:
        ctx.logged["masked"] = ctx.masked


def tell_masked(ctx: Any) -> None:
    "say how many steps were masked"
    ctx.log("masked", {"epoch": ctx.epoch, "step": ctx.step, "masked": ctx.masked, "first": ctx.first_masked})
    ctx.told = ctx.masked


def raise_masked(ctx: Any) -> None:
    "raise NonFiniteLoss"
    reason = ctx.transition.guard.reason(ctx)
    tell_masked(ctx)
    raise NonFiniteLoss(
        f"{reason}; found out at step {ctx.step}. These steps were not made: the weights are as if their batches "
        f"had not been. Lower the learning rate, clip the gradients or look at the batches; non_finite='skip' goes on without them"
    )


def stop_masked(ctx: Any) -> None:
    "ask to stop"
    ctx.request_stop(ctx.transition.guard.reason(ctx))
    tell_masked(ctx)


# ---------------------------------------------------------------- valid


def open_valid(ctx: Any) -> None:
    "iterate over the validation data"
    ctx.layout = None
    ctx.valid_iterator = Unstarted(ctx, "valid")
    ctx.valid_iter = 0
    ctx.valid_complete = False
    ctx.tallies["valid"].reset()


def reopen_valid(ctx: Any) -> None:
    "take up the validation data where it was"
    take_up(ctx, "valid", ctx.valid_iter)


def close_valid(ctx: Any) -> None:
    "let go of the validation data"
    ctx.valid_iterator = None


def valid_draw(ctx: Any) -> None:
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
            raise DataError(f"the {what} data ended after {ctx.valid_iter} of {length(ctx.data)} batches; {_RAN_OUT}")
        if ctx.valid_iter == 0:
            raise DataError(f"the {what} data gave no batch. Is it empty, or an iterator that was read before?")
        return
    ctx.drawn = True
    layout = ctx.layout
    if layout is None:
        layout = ctx.layout = ctx.read_batch(batch)
    ctx.batch = batch if layout.place is None else layout.place(batch)


def count_valid_batch(ctx: Any) -> None:
    "count the batch"
    ctx.valid_iter += 1


def count_and_seed_valid_batch(ctx: Any) -> None:
    "count the batch, seed its randomness"
    ctx.valid_iter += 1
    ctx.accelerator.seed(ctx.seed, "valid batch", ctx.batches, ctx.valid_iter)


def open_valid_batch(ctx: Any) -> None:
    "find input and target"
    try:
        ctx.input, ctx.target = ctx.layout.split(ctx.batch)
        ctx.batch_size = ctx.layout.size(ctx.input)
    except (TypeError, LookupError, AttributeError) as error:
        raise _unlike_the_first(ctx, error) from error


def valid_loss(ctx: Any) -> None:
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

    def __call__(self, ctx: Any) -> None:
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

    def __call__(self, ctx: Any) -> None:
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

    def __call__(self, ctx: Any) -> None:
        ctx.tallies[self.set].reset()


def evaluation_draw(ctx: Any) -> None:
    "draw a batch"
    complete = ctx.valid_complete
    valid_draw(ctx)
    ctx.valid_complete = complete  # the epoch's validation is another matter


def keep_pred(ctx: Any) -> None:
    "keep the prediction"
    ctx.buffers["preds"].append(ctx.pred if ctx.pick is None else ctx.pick(ctx.pred))


def drop_validation(ctx: Any) -> None:
    "drop this validation"
    ctx.tallies["valid"].reset()
    ctx.valid_complete = False


# ---------------------------------------------------------------- how it ends


def say_why(ctx: Any) -> None:
    "say why"
    if ctx.interrupt is not None:
        ctx.outcome = Interrupted(ctx.epoch, ctx.interrupt)
    elif ctx.event is not None and ctx.transition.event is not None:
        kind = type(ctx.event).__name__
        ctx.outcome = (
            Interrupted(ctx.epoch, kind) if isinstance(ctx.event, KeyboardInterrupt) else Stopped(ctx.epoch, str(ctx.event) or kind)
        )
    else:
        ctx.outcome = Stopped(ctx.epoch, ctx.transition.guard.reason(ctx))


def raise_non_finite(ctx: Any) -> None:
    "raise NonFiniteLoss"
    reason = ctx.transition.guard.reason(ctx)
    spiked = any(isinstance(leaf, Spike) and leaf.test(ctx) for leaf in leaves(ctx.transition.guard)) and math.isfinite(ctx.loss_value)
    refuse_batch(ctx)
    remedy = (
        "Lower the learning rate, clip the gradients or look at the batch; non_finite='skip' goes on without it, non_finite='stop' ends the run"
    )
    if (name := ctx.accelerator.first_not_finite(ctx)) is not None:  # earlier gradients were not finite though their loss was
        raise NonFiniteLoss(
            f"{reason}, and {name} was not finite before this batch: the gradients of an earlier one were not, though its loss was. "
            f"check_gradients=True looks at them before each step. {remedy}"
        )
    raise (LossSpike if spiked else NonFiniteLoss)(f"{reason}; the weights are as they were before this batch. {remedy}")


def stop_non_finite(ctx: Any) -> None:
    "discard the window and ask to stop"
    refuse_batch(ctx)
    ctx.request_stop(ctx.transition.guard.reason(ctx))
