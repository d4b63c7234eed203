"""OptimizerModes: optimizers that keep other weights while they train than are to be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from statetrain.callback import Callback

if TYPE_CHECKING:
    from statetrain.context.context import Context


class OptimizerModes(Callback):
    """Puts optimizers with modes into train mode while a run trains, into eval mode elsewhere.

    Schedule-Free optimizers (Defazio et al. 2024, arXiv 2405.15682) are such: the weights at which
    they compute gradients are not those that are to be evaluated and kept, and `optimizer.train()`
    and `optimizer.eval()` turn one into the other. `fit` adds this callback by itself, before all
    others, where an optimizer has both methods. So validation, evaluations, what is kept or saved
    after an epoch, and the model at the end have the weights of eval mode.
    """

    anywhere = True
    writes = {"on_enter_train": ("model",), "on_exit_train": ("model",), "on_resume": ("model",)}
    reads = dict.fromkeys(writes, ("optimizers",))
    # It comes first on entering and, since exits undo enters, last on leaving
    commutes_with = ("Callback",)

    def on_enter_train(self, ctx: Context) -> None:
        """Trains with the weights of train mode."""
        for optimizer in _with_modes(ctx.optimizers.values()):
            optimizer.train()

    def on_exit_train(self, ctx: Context) -> None:
        """Leaves the weights of eval mode to all that is no training."""
        for optimizer in _with_modes(ctx.optimizers.values()):
            optimizer.eval()

    def on_resume(self, ctx: Context) -> None:
        """Continues in the mode of the checkpoint, which the optimizer's own state says."""
        if ctx.scope("train"):
            self.on_enter_train(ctx)


def with_modes(callbacks: tuple[Callback, ...], optimizers: Iterable[Any]) -> tuple[Callback, ...]:
    """The callbacks and, if an optimizer has modes, what turns these, before the others."""
    if any(_with_modes(optimizers)):
        return (OptimizerModes(), *callbacks)
    return callbacks


def _with_modes(optimizers: Iterable[Any]) -> Iterator[Any]:
    for optimizer in optimizers:
        if callable(getattr(optimizer, "train", None)) and callable(
            getattr(optimizer, "eval", None)
        ):
            yield optimizer
