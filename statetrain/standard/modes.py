"""What a scope sets outside of the context.

Gradient mode, the model's mode, and which data is in use.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen

from statetrain.contracts.composing import computes_with_gradients
from statetrain.contracts.declaring import Access
from statetrain.data.iterating import data_of
from statetrain.lifecycle.state import StateWork
from statetrain.standard.fusing import Fused

if TYPE_CHECKING:
    from statetrain.context.context import Context


@frozen
class Quiet:
    """Gradients are off: for everything in a run but the computations of the training step.

    With a seed, the global generators are the run's; see `statetrain.compute.chance`.
    """

    access: ClassVar[Access] = Access()

    def read(self, ctx: Context) -> Any:
        generators, chance = None, ctx.accelerator.chance(ctx)
        if chance is not None:
            generators = chance.read()
        return ctx.accelerator.grad_enabled(), generators

    def write(self, ctx: Context, value: Any) -> None:
        grad, generators = value
        ctx.accelerator.set_grad(grad)
        if generators is not None:
            ctx.chance.write(generators)

    def begin(self, ctx: Context) -> None:
        ctx.accelerator.set_grad(False)
        if (chance := ctx.accelerator.chance(ctx)) is not None:
            chance.begin()
            chance.rest()

    def wrap(self, action: StateWork) -> StateWork:
        return action


@frozen
class Training:
    """The model is in train mode, the training data is in use, and actions compute with gradients.

    What is in eval mode inside a model in train mode stays so: a frozen backbone, a teacher. A
    model that is in eval mode as a whole is put into train mode as a whole. Losses and metrics that
    are modules keep the mode that they were given.
    """

    access: ClassVar[Access] = Access(
        {"model", "train_data", "tallies"}, {"training", "data", "tally"}
    )

    def read(self, ctx: Context) -> Any:
        return _read(ctx)

    def write(self, ctx: Context, value: Any) -> None:
        _write(ctx, value)

    def begin(self, ctx: Context) -> None:
        ctx.accelerator.train(ctx)
        ctx.training, ctx.data, ctx.tally = True, ctx.train_data, ctx.tallies["train"]

    def wrap(self, action: StateWork) -> StateWork:
        if isinstance(action, Fused):
            return action.mapped(self.wrap)
        if not computes_with_gradients(action):
            return action

        @functools.wraps(action)
        def differentiable(ctx: Context) -> None:
            set_grad = ctx.accelerator.set_grad
            set_grad(True)
            try:
                return action(ctx)  # what it returns is judged by the machine
            finally:
                set_grad(False)

        return differentiable


@frozen
class Evaluating:
    """The model is in eval mode, the data of a set is in use, gradients are off.

    So are losses and metrics that are modules. A loss of the set's own is in use as well.

    Args:
        set: "valid", or the name of an evaluation.
    """

    set: str = "valid"

    access: ClassVar[Access] = Access(
        {"model", "loss_fns", "valid_data", "evaluations", "tallies"},
        {"training", "data", "tally", "loss_fn"},
    )

    def read(self, ctx: Context) -> Any:
        return (ctx.accelerator.grad_enabled(), ctx.loss_fn, _read(ctx))

    def write(self, ctx: Context, value: Any) -> None:
        grad, loss_fn, rest = value
        ctx.accelerator.set_grad(grad)
        if ctx.tallies[self.set].loss_fn is not None:  # else a callback may have replaced it
            ctx.loss_fn = loss_fn
        _write(ctx, rest)

    def begin(self, ctx: Context) -> None:
        ctx.accelerator.set_grad(False)
        for module in ctx.accelerator.moded(ctx):
            module.eval()
        ctx.training, ctx.data, ctx.tally = False, data_of(ctx, self.set), ctx.tallies[self.set]
        if ctx.tally.loss_fn is not None:
            ctx.loss_fn = ctx.tally.loss_fn

    def wrap(self, action: StateWork) -> StateWork:
        return action


def _read(ctx: Context) -> Any:
    # Each module's own flag: a user may have put a part of the model into eval mode.
    return (
        [(part, part.training) for root in ctx.accelerator.moded(ctx) for part in root.modules()],
        ctx.training,
        ctx.data,
        ctx.tally,
    )


def _write(ctx: Context, value: Any) -> None:
    modes, ctx.training, ctx.data, ctx.tally = value
    ctx.accelerator.set_modes(modes)
