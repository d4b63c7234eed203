"""Actions of `step`: updating weights, counting steps, the turns of optimizers."""

from __future__ import annotations

from typing import Any

from statetrain.context.context import Context
from statetrain.contracts.composing import then, without_gradients
from statetrain.contracts.declaring import access
from statetrain.standard.actions.batch import backward, loss, pred
from statetrain.standard.parameters import parameters_of

_STEPPED = {"params", "optimizers", "updates", "update_norms"}


@without_gradients
@access(reads={"step_opt", "opt", "grads"}, writes=_STEPPED)
def update_weights(ctx: Context) -> None:
    "update the weights"
    if ctx.step_opt is None:
        ctx.opt.step()
    else:
        ctx.step_opt(ctx.opt)


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
        "compute_gradients",
        "inputs",
        "pending",
        "grads",
    },
    writes={
        "pred",
        "interms",
        "loss_grad",
        "loss_value",
        "loss_states",
        "grads",
        "pending",
        *_STEPPED,
    },
)
def replay(ctx: Context) -> None:
    "update the weights, replaying pred, loss and backward"
    # The first time, it has been computed, unless the optimizer begins by moving the weights
    fresh, before = [ctx.loss_grad], ctx.accelerator.versions(ctx.opt)

    def closure() -> Any:
        loss_there = fresh.pop() if fresh else None
        if loss_there is not None and ctx.accelerator.versions(ctx.opt) == before:
            return loss_there
        ctx.accelerator.clear(ctx.opt)
        pred(ctx)
        loss(ctx)
        backward(ctx)
        return ctx.loss_grad

    ctx.opt.step(closure)


@without_gradients
@access(reads={"step"}, writes={"step", "pending"})
def count_step(ctx: Context) -> None:
    "count the step"
    ctx.step += 1
    ctx.pending = 0


@without_gradients
@access(reads={"step", "opt_index", "optimizers"}, writes={"step", "pending"})
def count_round(ctx: Context) -> None:
    "count the round"
    ctx.pending = 0
    ctx.step += ctx.opt_index + 1 == len(ctx.optimizers)


step = then(update_weights, count_step)


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
        ctx.inputs = [one for one in parameters_of(ctx.opt) if one.requires_grad]
        ctx.accelerator.clear(ctx.opt)
