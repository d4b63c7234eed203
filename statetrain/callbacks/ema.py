"""EMA: an average of the weights over the steps, for validation and for the end."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from statetrain.callback import Callback
from statetrain.errors import ConfigError
from statetrain.outcome import Failed

if TYPE_CHECKING:
    from statetrain.context.context import Context


class EMA(Callback):
    """Averages the weights over the steps, with `torch.optim.swa_utils.AveragedModel`.

        ema = st.EMA(0.999)
        run = st.fit(..., callbacks=ema)
        ema.model                            # the averaged model: predict with it, save its weights

    With `valid=True`, validation looks at the average: it changes places with the weights when the
    scope `valid` opens, and back when it closes, so `valid_loss` is the average's. (`KeepBest` and
    `SaveWeights` look later and keep the weights of training that the average belongs to; keep the
    average itself by `ema.model`.) With `restore=True` the model has the average when the run ends,
    unless it failed.

    It is part of a checkpoint, and a run that is continued goes on exactly. Batch norm's statistics
    are averaged as well unless `buffers=False`, which takes the model's own.

    Args:
        decay: how much of the old average each step keeps, from 0 up to, not including, 1; None
            averages all steps alike (SWA).
        start: steps before the average begins; until then it is a copy of the weights. At least 0.
        every: steps from one update to the next, at least 1.
        valid: whether validation looks at the average.
        restore: whether the model has the average when the run ends.
        buffers: whether floating-point buffers are averaged too; else they are copied.

    Raises:
        ConfigError: an argument is out of range.
    """

    reads = ("epoch", "model", "outcome", "step")
    writes = ("model",)

    def __init__(
        self,
        decay: float | None = 0.999,
        *,
        start: int = 0,
        every: int = 1,
        valid: bool = False,
        restore: bool = False,
        buffers: bool = True,
    ) -> None:
        if decay is not None and (
            isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 <= decay < 1
        ):
            raise ConfigError(
                "EMA: decay is from 0 up to, not including, 1, or None for a plain mean, got"
                f" {decay!r}"
            )
        for name, value, least in (("start", start, 0), ("every", every, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"EMA: {name} must be a whole number of steps of at least {least}, got"
                    f" {value!r}"
                )
        self.decay, self.start, self.every, self.valid, self.restore, self.buffers = (
            decay,
            start,
            every,
            valid,
            restore,
            buffers,
        )
        self._averaged: AveragedModel | None = None
        # Loaded, for the model that is made when the run goes on
        self._state: dict[str, Any] | None = None
        self._step = 0  # the step that was averaged last
        self._swapped = False  # whether the model has the average at the moment
        if valid:  # hooks that nobody asked for would cost something in each validation
            self.on_enter_valid, self.on_exit_valid = self._show, self._hide

    @property
    def model(self) -> torch.nn.Module:
        """The averaged model, of the model's own class.

        Raises:
            ConfigError: no run has begun.
        """
        if self._averaged is None:
            raise ConfigError("EMA has no average before a run has begun")
        return self._averaged.module

    # ------------------------------------------------------------ hooks

    def on_enter_fit(self, ctx: Context) -> None:
        """Begins with a copy of the weights, unless this fit goes on with an average."""
        if ctx.epoch == 0 or self._averaged is None:
            self._make(ctx)
        ctx.defer(partial(self._finish, ctx))

    def on_resume(self, ctx: Context) -> None:
        """Goes on with the average that was saved."""
        self._make(ctx)
        if self._state is not None and self._averaged is not None:
            self._averaged.load_state_dict(self._state["average"])
            self._swapped, self._state = self._state["swapped"], None
        ctx.defer(partial(self._finish, ctx))

    def on_exit_step(self, ctx: Context) -> None:
        """Takes in the new weights."""
        if ctx.step == self._step or self._averaged is None:
            # A step that was left by an event, or one of several optimizers' that is no round yet
            return
        self._step = ctx.step
        if ctx.step <= self.start:
            self._averaged.module.load_state_dict(ctx.accelerator.unwrap(ctx.model).state_dict())
        elif (ctx.step - self.start) % self.every == 0:
            self._take_in(ctx.accelerator.unwrap(ctx.model), self._averaged)

    def _show(self, ctx: Context) -> None:
        """Gives the model the average while it is validated."""
        self._swap(ctx)

    def _hide(self, ctx: Context) -> None:
        """Gives it its own weights again."""
        self._swap(ctx)

    # ------------------------------------------------------------ the average

    def _make(self, ctx: Context) -> None:
        model = ctx.accelerator.unwrap(ctx.model)
        if self.decay is None:
            average = get_swa_multi_avg_fn()
        else:
            average = get_ema_multi_avg_fn(self.decay)
        self._averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=self.buffers)
        self._averaged.module.eval()
        self._averaged.requires_grad_(False)
        self._step, self._swapped = ctx.step, False

    def _take_in(self, model: torch.nn.Module, averaged: AveragedModel) -> None:
        """Does what `AveragedModel.update_parameters` does, without waiting for a device.

        That one copies its counter to the device in each step.
        """
        count = int(averaged.n_averaged)  # it lies on the host
        average = averaged.multi_avg_fn
        pairs: list[tuple[torch.Tensor, torch.Tensor, bool]] = [
            (mine, own, True)
            for mine, own in zip(averaged.module.parameters(), model.parameters(), strict=True)
        ]
        pairs += [
            (mine, own, self.buffers)
            for mine, own in zip(averaged.module.buffers(), model.buffers(), strict=True)
        ]
        groups: dict[Any, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
        for mine, own, is_averaged in pairs:
            # Batch norm's counter is taken as it is
            moves = count > 0 and is_averaged and (own.is_floating_point() or own.is_complex())
            group = groups.setdefault((moves, own.dtype, own.device), ([], []))
            group[0].append(mine.detach())
            group[1].append(own.detach())
        for (moves, _, _), (mine_, own_) in groups.items():
            (average if moves and average is not None else _copy)(mine_, own_, count)
        averaged.n_averaged += 1

    def _swap(self, ctx: Context) -> None:
        if self._averaged is None:
            return
        own = ctx.accelerator.unwrap(ctx.model).state_dict()
        for name, value in self._averaged.module.state_dict().items():
            if isinstance(value, torch.Tensor):
                mine = own[name].clone()
                own[name].copy_(value)
                value.copy_(mine)
        self._swapped = not self._swapped

    def _finish(self, ctx: Context) -> None:
        if self._swapped:  # the run ended within a validation
            self._swap(ctx)
        if self.restore and self._averaged is not None and not isinstance(ctx.outcome, Failed):
            ctx.accelerator.unwrap(ctx.model).load_state_dict(self._averaged.module.state_dict())

    # ------------------------------------------------------------ saved and put back

    def state_dict(self) -> dict[str, Any]:
        """The average, how many steps are in it, and whether the model has it at the moment."""
        if self._averaged is None:
            return {}
        return {"average": dict(self._averaged.state_dict()), "swapped": self._swapped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keeps a state for the model that is made when the run is continued."""
        self._state = state or None

    def __repr__(self) -> str:
        return f"EMA({self.decay})"


def _copy(mine: list[torch.Tensor], own: list[torch.Tensor], _: Any) -> None:
    torch._foreach_copy_(mine, own)
