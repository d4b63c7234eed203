"""Watch: values of the run, written down at one of its events with all counters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from statetrain.callback import Callback
from statetrain.errors import CallbackError
from statetrain.losses.keyed import parse_key

if TYPE_CHECKING:
    from statetrain.context.context import Context


class Watch(Callback):
    """Records values each time that something happens, separately from the history.

        Watch("exit_loss", loss="loss", largest=lambda ctx: ctx.pred.abs().max())
        throttle(Watch("enter_step", norm=grad_norm), "on_enter_step", every=100)

        run.ctx.records["loss"]        # [{"epoch": 1, "batch": 1, "step": 0, "samples": 32,
        "seconds": 0.1, "value": tensor(2.3)}, ...]

    The records are part of the run: they are saved with it, and a resumed run continues
    with them. A tensor is kept where it is, without its graph and apart from what may still change
    it, so nothing waits for a device. What is written down is kept in memory; write less of it with
    `throttle`.

    Args:
        event: "exit_step" or another one, as for `on`.
        values: by the names of the records: functions of the context, or paths into it such as
            "pred.logits".
        reads: the fields of the context that the functions read; those of paths are known.

    Raises:
        CallbackError: there is nothing to write down, or a value is neither.
    """

    def __init__(
        self, event: str, /, *, reads: Iterable[str] = (), **values: Callable[[Any], Any] | str
    ) -> None:
        if not isinstance(event, str):
            raise CallbackError(
                f"Watch takes the name of an event such as 'exit_step', got {event!r}"
            )
        if not values:
            raise CallbackError(
                "Watch has nothing to write down; name the values, as in Watch('exit_loss',"
                " loss='loss')"
            )
        for name, value in values.items():
            if not (isinstance(value, str) or callable(value)):
                raise CallbackError(
                    f"Watch: {name} must be a function of the context or a path into it such as"
                    f" 'pred.logits', got {value!r}"
                )
        self.event = event.removeprefix("on_")
        paths = {name: value for name, value in values.items() if isinstance(value, str)}
        self.values: dict[str, Any] = {
            **values,
            **{name: parse_key(path, f"Watch: {name}=") for name, path in paths.items()},
        }
        counters = ("epoch", "batches", "step", "samples", "seconds")
        self.reads = (*reads, *counters, *paths.values())
        self.writes = tuple(f"records.{name}" for name in values)
        setattr(self, f"on_{self.event}", self._note)

    def _note(self, ctx: Context) -> None:
        counters = {
            "epoch": ctx.epoch,
            "batch": ctx.batches,
            "step": ctx.step,
            "samples": ctx.samples,
            "seconds": ctx.seconds,
        }
        for name, function in self.values.items():
            value = function(ctx)
            if isinstance(value, torch.Tensor):
                value = value.detach().clone()
            ctx.log(name, {**counters, "value": value})

    def __repr__(self) -> str:
        return f"Watch({self.event!r}, {', '.join(self.values)})"
