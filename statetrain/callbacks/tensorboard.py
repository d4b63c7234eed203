"""TensorBoard: the history as events for TensorBoard, and histograms of the weights."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from statetrain.callback import Callback
from statetrain.naming import did_you_mean
from statetrain.outcome import ConfigError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_SETS = ("train", "valid")
_NO_METRICS = ("step", "epoch_complete")


class TensorBoard(Callback):
    """Writes each row of the history as scalars, at the number of steps that it was recorded at.

    Columns of a set are grouped: `valid_loss` is called `valid/loss`. The other columns, `epoch` among them, keep their
    names. What is no number is left out. A fit that goes on writes beside its earlier events; events that an interrupted
    process wrote after the point where its run is continued are hidden.

    Args:
        logdir: the folder of this run's events; it is made if it is missing.
        histograms: whether the weights are written as histograms after each complete epoch: all of them, or those
            whose names match a pattern such as `"encoder.*"`.

    Raises:
        ImportError: tensorboard is not installed.
        ConfigError: a pattern matches no parameter of the model.
    """

    reads = ("history", "model")

    def __init__(self, logdir: str | os.PathLike[str], histograms: bool | str | Iterable[str] = False) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError("TensorBoard needs tensorboard; install it with: pip install 'statetrain[tensorboard]'")
        self.logdir = Path(logdir)
        self._patterns = ("*",) if histograms is True else () if histograms is False else (histograms,) if isinstance(histograms, str) else tuple(histograms)
        self._writer: SummaryWriter | None = None
        self._written = 0  # rows of the history

    def check_context(self, ctx: Any) -> None:
        """Looks the patterns up among the names of the parameters."""
        names = [name for name, _ in ctx.model.named_parameters()]
        for pattern in self._patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(f"TensorBoard: histograms={pattern!r} matches no parameter of the model{did_you_mean(pattern, names)}")

    # ------------------------------------------------------------ hooks

    def on_enter_fit(self, ctx: Any) -> None:
        """Opens a file of events."""
        if ctx.epoch == 0:
            self._written = 0
        self._open(ctx)

    def on_resume(self, ctx: Any) -> None:
        """Opens a file of events."""
        self._open(ctx)

    def on_exit_record(self, ctx: Any) -> None:
        """Writes a row that no epoch closes, as an evaluation's; the others may still get columns."""
        if not ctx.epoch_complete or not ctx.epoch:
            self._write(ctx)

    def on_enter_next_epoch(self, ctx: Any) -> None:
        """Writes the row of the epoch, and the histograms."""
        if self._write(ctx) and ctx.epoch_complete:
            self._draw(ctx)

    def on_enter_failed(self, ctx: Any) -> None:
        """Writes what has been recorded."""
        self._write(ctx)

    # ------------------------------------------------------------ events

    def _open(self, ctx: Any) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # Of a run that goes on, what lies after its last row was written by a process that came to nothing.
            after = ctx.history[self._written - 1]["step"] + 1 if self._written else None
            self._writer = SummaryWriter(str(self.logdir), purge_step=after)
            ctx.defer(self._close)
        return self._writer

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _write(self, ctx: Any) -> bool:
        """Whether there was a row to write."""
        rows = ctx.history[self._written :]
        for row in rows:
            for column, value in row.items():
                if column not in _NO_METRICS and isinstance(value, int | float):
                    self._open(ctx).add_scalar(_tag(column), value, row["step"])
        self._written = len(ctx.history)
        return bool(rows)

    def _draw(self, ctx: Any) -> None:
        writer = self._open(ctx)
        for name, parameter in ctx.model.named_parameters():
            if any(fnmatchcase(name, pattern) for pattern in self._patterns):
                values = parameter.detach().float()
                values = values[torch.isfinite(values)]
                if values.numel():  # a histogram of nothing, or of NaN, has no borders
                    writer.add_histogram(name, values, ctx.step)

    # ------------------------------------------------------------ saved and put back

    def state_dict(self) -> dict[str, Any]:
        """How many rows have been written."""
        return {"written": self._written}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        self._written = state["written"]

    def __repr__(self) -> str:
        return f"TensorBoard({str(self.logdir)!r}{f', histograms={self._patterns!r}' if self._patterns else ''})"


def _tag(column: str) -> str:
    name, _, metric = column.partition("_")
    return f"{name}/{metric}" if name in _SETS and metric else column
