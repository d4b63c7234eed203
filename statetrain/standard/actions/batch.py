"""Actions of a training batch up to its gradients."""

from __future__ import annotations

from typing import Any

from statetrain.context.context import Context
from statetrain.context.fields import UNSET, Fact, fields_with
from statetrain.contracts.composing import without_gradients
from statetrain.contracts.declaring import access
from statetrain.errors import DataError, LossError
from statetrain.standard.parameters import parameters_of


@access(reads={"layout", "batch"}, writes={"input", "target", "batch_size"})
def read_batch(ctx: Context) -> None:
    "find input and target"
    try:
        ctx.input, ctx.target = ctx.layout.split(ctx.batch)
        ctx.batch_size = ctx.layout.size(ctx.batch, ctx.input, ctx.target)
    except (TypeError, LookupError, AttributeError) as error:
        raise _unlike_the_first(ctx, error) from error


@without_gradients
@access(
    reads={"layout", "batch", "samples", "pending", "opt"},
    writes={"input", "target", "batch_size", "samples"},
    drops={"grads"},
)
def open_batch(ctx: Context) -> None:
    "find input and target, clear the gradients"
    read_batch(ctx)
    ctx.samples += ctx.batch_size
    if ctx.pending == 0:
        ctx.accelerator.clear(ctx.opt)


def _unlike_the_first(ctx: Context, error: Exception) -> DataError:
    batch = ctx.batch
    return DataError(
        f"a batch is a {type(batch).__name__} that cannot be read like the first one"
        f" ({type(error).__name__}: {error}); all batches of a loader need the same structure, got"
        f" {batch!r:.80}"
    )


@access(drops=fields_with(Context, Fact.OF_BATCH))
def close_batch(ctx: Context) -> None:
    "release the batch"
    ctx.batch = ctx.input = ctx.target = ctx.pred = ctx.loss_grad = UNSET


@access()
def release_generators(ctx: Context) -> None:
    "let other runs use the generators"
    if ctx.chance is not None:
        ctx.chance.rest()


@access(reads={"layout", "model", "input"}, writes={"pred", "interms"})
def pred(ctx: Context) -> None:
    "run the model"
    forward = ctx.layout.forward
    if forward is None:
        ctx.pred = ctx.model(ctx.input)
    else:
        ctx.pred = forward(ctx.model, ctx.input)


@access(
    reads={"pred", "pick", "loss_fn", "target", "on_host"},
    writes={"loss_grad", "loss_value", "loss_states"},
)
def loss(ctx: Context) -> None:
    "compute the loss"
    pred = ctx.pred
    if ctx.pick is not None:
        pred = ctx.pick(pred)
    try:
        loss = ctx.loss_grad = ctx.loss_fn(pred, ctx.target)
    except Exception as error:
        if not hasattr(pred, "detach") and not getattr(ctx.loss_fn, "by_keys", False):
            error.add_note(_name_the_part(pred))
        raise
    try:
        if ctx.on_host:
            ctx.loss_value = loss.item()
        else:
            ctx.loss_value = ctx.accelerator.exact(loss)
    except (AttributeError, RuntimeError, ValueError) as error:
        if hasattr(loss, "detach") and loss.numel() == 1:
            raise  # the device's own error, which shows where it is waited for
        raise LossError(_bad_loss(ctx, loss)) from error


def _name_the_part(pred: Any) -> str:
    if pred is None:
        return "statetrain: the model returned None; does its forward end with a return?"
    parts, example = "", "'logits'"
    if isinstance(pred, dict):
        parts, example = f" with {', '.join(map(repr, pred))}", repr(next(iter(pred), "logits"))
    elif isinstance(pred, list | tuple):
        parts, example = f" of {len(pred)}", "'[0]'"
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


@without_gradients
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


@without_gradients
@access(reads={"loss_grad", "compute_gradients", "inputs", "pending"}, writes={"grads", "pending"})
def backward(ctx: Context) -> None:
    "compute the gradients"
    loss = ctx.loss_grad
    if not getattr(loss, "requires_grad", False):
        raise LossError(
            "the loss has no gradient: nothing that it was computed from requires one. Is it"
            " detached, computed under no_grad, or is every parameter frozen?"
        )
    try:
        if ctx.compute_gradients is None:
            loss.backward(inputs=ctx.inputs)
        else:
            ctx.compute_gradients(loss, ctx.inputs)
    except RuntimeError as error:
        if loss.is_complex():
            raise LossError(
                f"the loss must be a real number, got {loss.dtype}; take its .real or .abs()"
            ) from error
        raise
    ctx.pending += 1


WINDOW = {"window_unit", "window_count"}


def _weight(ctx: Context) -> Any:
    """By what a batch weighs in its window, relative to the first one, whose weight is 1.

    So gradients have the size that they have without a window.
    """
    count: Any = ctx.batch_size
    if ctx.loss_states:
        count = next(iter(ctx.loss_states.values())).count
    if ctx.on_host:
        count = float(count)
    if ctx.pending == 0:
        ctx.window_unit, ctx.window_count = count + (count == 0), 0.0
    weight = count / ctx.window_unit
    ctx.window_count = ctx.window_count + weight
    return weight


@without_gradients
@access(
    reads={
        *("compute_gradients", "inputs", "pending", "loss_grad", "loss_states", "batch_size"),
        *WINDOW,
    },
    writes={"grads", "pending", *WINDOW},
)
def weighed_backward(ctx: Context) -> None:
    "compute the gradients, weighed by what counts"
    weight, loss = _weight(ctx), ctx.loss_grad
    ctx.accelerator.set_grad(True)
    try:
        ctx.loss_grad = loss * weight
    finally:
        ctx.accelerator.set_grad(False)
    try:
        backward(ctx)
    finally:
        ctx.loss_grad = loss


def set_gradients_aside(ctx: Context) -> list[tuple[Any, Any]]:
    """Takes the window's gradients away, so that those of the next batch stand alone.

    Returns:
        The parameters of the current optimizer with the gradients that they had.
    """
    held = [(one, one.grad) for one in parameters_of(ctx.opt)]
    for parameter, _ in held:
        parameter.grad = None
    return held


def add_weighed(ctx: Context, held: list[tuple[Any, Any]]) -> None:
    """Adds the gradients of a batch to those of its window, by what counts in it."""
    weight = _weight(ctx)
    for parameter, before in held:
        gradient = parameter.grad
        if gradient is not None:
            gradient = gradient.detach() * weight
        if before is not None and gradient is not None:
            gradient += before
        parameter.grad = before if gradient is None else gradient


@access(reads={"pending", "opt", "grads", "window_count"}, writes={"grads"})
def average_by_count(ctx: Context) -> None:
    "average the gradients of the window over what counts"
    if ctx.pending > 1:
        count = ctx.window_count + (ctx.window_count == 0)
        for gradient in ctx.accelerator.gradients(ctx.opt):
            gradient.div_(count)


@access(reads={"pending", "opt", "grads"}, writes={"grads"})
def average_window(ctx: Context) -> None:
    "average the gradients of the window"
    if ctx.pending > 1:
        for gradient in ctx.accelerator.gradients(ctx.opt):
            gradient.div_(ctx.pending)


@without_gradients
@access(reads={"opt", "grads"}, writes={"grad_norm"})
def grad_norm(ctx: Context) -> None:
    "compute the norm of the gradients"
    ctx.grad_norm = ctx.accelerator.grad_norm(ctx.opt)
