"""KeepBest: the best weights are kept, and are the model's when the run ends."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from statetrain.callback import Callback
from statetrain.callbacks.monitoring import read_monitor
from statetrain.compute.keeping import first_not_finite
from statetrain.compute.parts import part_like
from statetrain.compute.weights import (
    copy_weights,
    judged_modules,
    modules_of,
    put_weights,
    tensors_of,
)
from statetrain.errors import ConfigError
from statetrain.guards.comparing import Direction
from statetrain.outcome import Failed
from statetrain.validators import check_switches

if TYPE_CHECKING:
    from statetrain.context.context import Context

log = logging.getLogger("statetrain")


class KeepBest(Callback):
    """Keeps the weights of the best row of the history, and puts them back when the run ends.

    A row counts if it carries the monitor and nothing cut it short: that of a complete epoch and,
    for a column of the validation or of another evaluation, that of each complete one within an
    epoch. NaN is never best, and neither are weights or buffers that are not finite; of equals the
    first one is. What is kept is what was judged, with `EMA(valid=True)` the average: all
    parameters and buffers of the model and of losses that are modules.

    The weights are put back whether the run completed, was stopped or interrupted, and an
    `Evaluation` at the "end" looks at them. After a failure
    the model stays as the failure left it, to be looked at; `restore(model)` puts them back then.
    Optimizers are left as they are. A fit that continues (`run.fit(...)`) starts from the best
    weights and has that best to beat.

    Args:
        monitor: the exact name of a column of the history.
        mode: "min" (lower is better), "max", or "zero" (nearer to 0 is better). None is "min", with
            a warning for columns such as "valid_accuracy".
        min_delta: a row is the best only if it is better by more than this, at least 0.
        cpu: whether the weights are kept in the memory of the host, not on the device.

    Raises:
        ConfigError: `mode` is none of these, or `min_delta` is below 0.
    """

    reads = {
        "on_enter_fit": ("epoch",),
        "on_resume": ("loss_fns", "model"),
        "on_exit_record": ("history", "loss_fns", "model"),
        "on_enter_next_epoch": ("epoch_complete", "history", "loss_fns", "model"),
        "on_enter_ending": ("loss_fns", "model"),
        "on_exit_ending": ("loss_fns", "model"),
        "defer": ("loss_fns", "model", "outcome"),
    }
    writes = dict.fromkeys(("on_enter_ending", "on_exit_ending", "defer"), ("loss_fns", "model"))

    def __init__(
        self,
        monitor: str = "valid_loss",
        mode: Direction | None = None,
        *,
        min_delta: float = 0.0,
        cpu: bool = False,
    ) -> None:
        check_switches("KeepBest", cpu=cpu)
        self._by = read_monitor("KeepBest", monitor, mode, min_delta)
        self.monitor, self.mode, self.min_delta = monitor, self._by.mode, min_delta
        self.cpu = cpu
        self.monitors = (monitor,)
        self._forget()

    def _forget(self) -> None:
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.best_step: int | None = None
        self._weights: dict[str, Any] | None = None
        # Those of the training, while the model has the best ones before the run ends
        self._own: dict[str, Any] | None = None

    @property
    def is_shown(self) -> bool:
        """Whether the model has the best weights, for the evaluations at the end."""
        return self._own is not None

    # ------------------------------------------------------------ hooks

    def on_enter_fit(self, ctx: Context) -> None:
        """Makes sure that the weights are restored."""
        if ctx.epoch == 0:
            self._forget()
        ctx.defer(partial(self._finish, ctx))

    def on_resume(self, ctx: Context) -> None:
        """Makes sure that the weights are restored."""
        if self._weights is not None:
            own = dict(tensors_of(modules_of(ctx)))
            kept = self._weights["tensors"]
            held = {name: part_like(value, own.get(name)) for name, value in kept.items()}
            self._weights = {**self._weights, "tensors": held}
        ctx.defer(partial(self._finish, ctx))

    def on_exit_record(self, ctx: Context) -> None:
        """Looks at the row of a validation, also within an epoch."""
        if not self.is_shown and ctx.history.set_of(self.monitor) not in ("train", ""):
            self._judge(ctx)

    def on_enter_next_epoch(self, ctx: Context) -> None:
        """Looks at the row of the epoch, when everything that belongs to it is there."""
        if ctx.epoch_complete:
            self._judge(ctx)

    def on_enter_ending(self, ctx: Context) -> None:
        """Gives the model the best weights, for the evaluations at the end."""
        if self._weights is not None:
            self._own = copy_weights(modules_of(ctx))
            put_weights(modules_of(ctx), self._weights)

    def on_exit_ending(self, ctx: Context) -> None:
        """Gives it those of the training, which a checkpoint has."""
        if self._own is not None:
            put_weights(modules_of(ctx), self._own)
            self._own = None

    def _judge(self, ctx: Context) -> None:
        row = ctx.history.last
        if self.monitor not in row:
            return
        value = float(row[self.monitor])
        if not self._by.improves(value, self.best):
            return
        judged = judged_modules(ctx)
        if (name := first_not_finite(*judged)) is not None:
            log.warning(
                "the weights of %s are not kept, though they have the best %s: %s is not finite",
                ctx.where(),
                self.monitor,
                name,
            )
            return
        self.best, self.best_epoch, self.best_step = value, row["epoch"], row["step"]
        device = None
        if self.cpu:
            device = "cpu"
        self._weights = copy_weights(judged, into=self._weights, device=device)

    # ------------------------------------------------------------ putting back

    def _finish(self, ctx: Context) -> None:
        self.on_exit_ending(ctx)  # the run may have failed within
        if self._weights is not None and not isinstance(ctx.outcome, Failed):
            put_weights(modules_of(ctx), self._weights)

    def restore(self, model: torch.nn.Module) -> None:
        """Puts the best weights into a model; those of losses are put back when a run ends.

        Raises:
            ConfigError: no row has been the best so far, or the weights are another model's.
        """
        if self._weights is None:
            raise ConfigError(
                f"KeepBest has no weights: no row with a number in {self.monitor!r} has been"
                " recorded"
            )
        kept = {name for name in self._weights["tensors"] if name.startswith("0.")}
        wrong = kept ^ {name for name, _ in tensors_of([model])}
        if wrong:
            name = min(wrong).removeprefix("0.")
            raise ConfigError(
                f"KeepBest has the weights of another model than {type(model).__name__}: only one"
                f" of them has {name!r}"
            )
        put_weights([model], self._weights)

    # ------------------------------------------------------------ saved and put back

    def state_dict(self) -> dict[str, Any]:
        """The best value, where it was, and the weights."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_step": self.best_step,
            "weights": self._weights,
            "own": self._own,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._forget()
        self.best, self.best_epoch, self.best_step = (
            state["best"],
            state["best_epoch"],
            state["best_step"],
        )
        self._weights, self._own = state["weights"], state["own"]

    def __repr__(self) -> str:
        return f"KeepBest({self.monitor!r}, {self.mode!r})"
