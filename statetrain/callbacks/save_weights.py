"""SaveWeights: files of weights alone, under names of one's own."""

from __future__ import annotations

import logging
import math
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define

from statetrain.callback import Callback, unwrapped
from statetrain.compute.keeping import first_not_finite
from statetrain.compute.weights import judged_modules
from statetrain.context.history import COUNTERS
from statetrain.errors import ConfigError
from statetrain.guards.base import Guard, as_guard, strict
from statetrain.guards.criteria import Mode
from statetrain.naming import did_you_mean

if TYPE_CHECKING:
    from statetrain.context.context import Context

log = logging.getLogger("statetrain")


@define(eq=False)
class _Saved:
    path: Path
    value: float | None


class SaveWeights(Callback):
    """Saves the model's weights when a row of the history is written: for other programs, or to choose from later.

    A run is continued from a `Checkpoint`, which holds everything; these files hold the weights
    under the model's own names, as safetensors (the extra `checkpoint`).

        SaveWeights("weights/epoch-{epoch:02d}-{valid_loss:.3f}.safetensors", monitor="valid_loss",
        keep=3)

    Args:
        path: of the files. What stands in braces is a column of the row, with a format as in
            Python's format strings.
        monitor: the exact name of the column by which files are kept; None keeps all.
        mode: "min" (lower is better), "max", or "zero" (nearer to 0 is better).
        keep: how many of the best to keep, at least 1, and the latest beside them; only with a
            monitor. None keeps all.
        best_only: whether only rows that improve on all before are saved.
        every: an interval such as `Every(2, "epochs")`; None is every row that has all that the
            path names.

    Raises:
        ConfigError: an argument is out of range, or the path cannot be read as a format.
    """

    writes = ()

    def __init__(
        self,
        path: str | Path,
        monitor: str | None = None,
        mode: Mode = "min",
        *,
        keep: int | None = None,
        best_only: bool = False,
        every: Guard | None = None,
    ) -> None:
        modes = ("min", "max", "zero")
        if mode not in modes:
            raise ConfigError(
                f"SaveWeights: mode must be one of {', '.join(map(repr, modes))}, got"
                f" {mode!r}{did_you_mean(str(mode), modes)}"
            )
        if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
            raise ConfigError(
                f"SaveWeights: keep must be a whole number of at least 1, or None, got {keep!r}"
            )
        if monitor is None and (keep is not None or best_only):
            raise ConfigError(
                f"SaveWeights: {'keep' if keep is not None else 'best_only'} needs a monitor to"
                " know what is best; give monitor='valid_loss'"
            )
        self.path, self.monitor, self.mode, self.keep, self.best_only = (
            str(path),
            monitor,
            mode,
            keep,
            best_only,
        )
        self.saved: list[Path] = []
        self._files: list[_Saved] = []
        self._every = None if every is None else as_guard(every)
        self.reads = ("history", "model", *(self._every.reads if self._every is not None else ()))
        self._named = _columns(self.path)
        self.monitors = tuple(
            dict.fromkeys((*self._named, *((monitor,) if monitor is not None else ())))
        )
        self.monitors = tuple(name for name in self.monitors if name not in COUNTERS)

    def on_exit_record(self, ctx: Context) -> None:
        """Saves the weights of the row that was written, if it is to be saved."""
        row = ctx.history[-1] if len(ctx.history) else {}
        if any(name not in row for name in (*self._named, *self.monitors)) or not self._is_due(ctx):
            return
        value = None if self.monitor is None else float(row[self.monitor])
        best = self._best()
        if self.best_only and (
            value is None
            or math.isnan(value)
            or (best is not None and not self._rank(value) < self._rank(best))
        ):
            return
        judged = judged_modules(ctx)
        if (name := first_not_finite(*judged)) is not None:
            log.warning("the weights of %s are not saved: %s is not finite", ctx.where(), name)
            return
        from statetrain.training.saving import save_weights

        path = Path(self.path.format_map(row))
        save_weights(judged[0], path)
        self._files = [one for one in self._files if one.path != path] + [_Saved(path, value)]
        self._forget_the_worst()
        self.saved = [one.path for one in self._files]

    def _is_due(self, ctx: Context) -> bool:
        if self._every is None:
            return True
        peers = [
            callback
            for callback in map(unwrapped, ctx.machine.callbacks)
            if isinstance(callback, SaveWeights)
        ]
        # Where the interval remembers that it fired
        place = "SaveWeights" if self is peers[0] else f"SaveWeights {1 + peers.index(self)}"
        due = strict(self._every, self._every.bind(place)(ctx))
        for mark in self._every.marks(place) if due else ():
            mark(ctx)
        return due

    def _rank(self, value: float | None) -> float:
        """Lower is better; what is no number is worst."""
        if value is None or math.isnan(value):
            return math.inf
        return {"min": value, "max": -value, "zero": abs(value)}[self.mode]

    def _best(self) -> float | None:
        return min((one.value for one in self._files), key=self._rank, default=None)

    def _forget_the_worst(self) -> None:
        """Deletes what is neither among the best nor the latest; it is called after the latest is there."""
        if self.keep is None:
            return
        kept = sorted(self._files, key=lambda one: self._rank(one.value))[: self.keep]
        for one in self._files[:-1]:
            if one not in kept:
                one.path.unlink(missing_ok=True)
        self._files = [one for one in self._files if one in kept or one is self._files[-1]]

    def state_dict(self) -> dict[str, Any]:
        """The files that are kept, with their values."""
        return {"files": [[str(one.path), one.value] for one in self._files]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        self._files = [_Saved(Path(path), value) for path, value in state["files"]]
        self.saved = [one.path for one in self._files]

    def __repr__(self) -> str:
        return f"SaveWeights({self.path!r}, {self.monitor!r})"


def _columns(path: str) -> tuple[str, ...]:
    """The columns that a path names."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(path) if field is not None]
    except ValueError as error:
        raise ConfigError(
            f"SaveWeights: the path {path!r} cannot be read: {error}; write columns as"
            " {epoch:02d} or {valid_loss:.3f}"
        ) from error
    for field in fields:
        if not field.isidentifier():
            raise ConfigError(
                f"SaveWeights: {{{field}}} in the path names no column; write columns as"
                " {epoch:02d} or {valid_loss:.3f}"
            )
    return tuple(fields)
