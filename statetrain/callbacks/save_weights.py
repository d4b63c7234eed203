"""SaveWeights: files of weights alone, under names that say what they are."""

from __future__ import annotations

import logging
import os
import string
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define

from statetrain.callback import Callback
from statetrain.callbacks.monitoring import is_whole, read_monitor
from statetrain.callbacks.peers import peers_in, place_among
from statetrain.checkpoints.files import create
from statetrain.checkpoints.weightsfile import frozen_unless_all, write_weights
from statetrain.compute.keeping import first_not_finite
from statetrain.compute.weights import judged_modules, modules_of
from statetrain.context.history import COUNTERS
from statetrain.errors import ConfigError
from statetrain.guards.base import Guard, as_guard, strict
from statetrain.guards.comparing import Direction
from statetrain.validators import check_switches, check_whole, local_path

if TYPE_CHECKING:
    from statetrain.context.context import Context
    from statetrain.context.history import Row

log = logging.getLogger("statetrain")

_WHOLE = ("epoch", "batch", "step", "samples")  # counters that are whole numbers

NamedColumns = dict[str, int | float | str]


@define(eq=False)
class _KeptFile:
    """A file of weights.

    Args:
        columns: what its path names, out of its row.
        value: of the monitored column.
        step: whose weights they are.
    """

    columns: NamedColumns
    value: float | None
    step: int


class SaveWeights(Callback):
    """Saves the model's weights when a row of the history is written.

    They are for other programs, or to choose from later. A run is resumed from a `Checkpoint`,
    which holds everything; these files hold the weights under the model's own names, as
    safetensors.

        SaveWeights("weights/epoch-{epoch:02d}-{valid_loss:.3f}.safetensors", monitor="valid_loss",
        keep=3)

    A row counts if nothing cut it short: that of a complete epoch and, where the columns are those
    of a validation, that of each complete validation within an epoch.

    Args:
        path: of the files. What stands in braces is a column of the row, with a format as in
            Python's format strings.
        monitor: the exact name of the column by which files are kept; None keeps all.
        mode: "min" (lower is better), "max", or "zero" (nearer to 0 is better). None is "min", with
            a warning for columns such as "valid_accuracy".
        keep: how many of the best to keep, at least 1, and the latest in addition; only with a
            monitor. None keeps all.
        best_only: whether only rows that improve on all before are saved.
        min_delta: a row improves only if it is better by more than this, at least 0.
        every: an interval such as `Every(2, "epochs")`; None is every row that has all that the
            path names.
        trained_only: whether parameters that require no gradient are left out, as in
            `save_weights`.

    Raises:
        ConfigError: an argument is out of range, or the path cannot be read as a format. Before the
            first batch: a file cannot be written there.
    """

    ranks = "first"

    writes = ()

    def __init__(
        self,
        path: str | Path,
        monitor: str | None = None,
        mode: Direction | None = None,
        *,
        keep: int | None = None,
        best_only: bool = False,
        min_delta: float = 0.0,
        every: Guard | None = None,
        trained_only: bool = False,
    ) -> None:
        if keep is not None:
            check_whole("SaveWeights: keep", keep, also=", or None")
        check_switches("SaveWeights", best_only=best_only, trained_only=trained_only)
        for name, value in (("keep", keep), ("best_only", best_only)):
            if value and monitor is None:
                raise ConfigError(
                    f"SaveWeights: {name} needs a monitor to know what is best; give"
                    " monitor='valid_loss'"
                )
        # Without a monitor nothing is compared, but what is given has to be sound
        self._by = read_monitor("SaveWeights", monitor or "nothing", mode, min_delta)
        self.path = str(local_path("SaveWeights", path))
        self.monitor, self.keep, self.best_only = monitor, keep, best_only
        self.trained_only = trained_only
        self.saved: list[Path] = []
        self._files: list[_KeptFile] = []
        self._every = None
        self.reads: tuple[str, ...] = ("epoch", "history", "loss_fns", "model", "step")
        if every is not None:
            self._every = as_guard(every)
            self.reads += tuple(self._every.reads)
        self._named = _columns(self.path)
        columns = list(self._named)
        if monitor is not None:
            columns.append(monitor)
        self.monitors = tuple(dict.fromkeys(name for name in columns if name not in COUNTERS))

    def destinations(self) -> tuple[str, ...]:
        """The files that it writes."""
        return (self.path,)

    def redirect(self, folder: Path) -> None:
        """Saves below another folder."""
        self.path = str(folder / self.path.lstrip(os.sep))

    def check_context(self, ctx: Context) -> None:
        """Makes the folder of the files, and sees whether one can be written there.

        Raises:
            ConfigError: it cannot.
        """
        head = self.path.partition("{")[0]
        if head.endswith((os.sep, "/")):
            folder = Path(head)
        else:
            folder = Path(head).parent
        trial = folder / f".statetrain.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.close(create(trial))
            trial.unlink()
        except (OSError, ValueError) as error:  # a name with a null character is a ValueError
            raise ConfigError(f"SaveWeights cannot write to {str(folder)!r}: {error}") from error

    def on_enter_fit(self, ctx: Context) -> None:
        """Forgets the files of an earlier run, which stay."""
        if ctx.epoch == 0:
            self._files, self.saved = [], []

    def on_exit_record(self, ctx: Context) -> None:
        """Saves the weights of the row that was written, if it is to be saved."""
        row = ctx.history.last
        if not self._counts(ctx, row) or not self._is_due(ctx):
            return
        value = None
        if self.monitor is not None:
            value = float(row[self.monitor])
        if self.best_only and not self._improves(value):
            return
        self._save(ctx, _KeptFile({name: row[name] for name in self._named}, value, ctx.step))

    def _save(self, ctx: Context, new: _KeptFile) -> None:
        judged = judged_modules(ctx)
        if (name := first_not_finite(*judged)) is not None:
            log.warning("the weights of %s are not saved: %s is not finite", ctx.where(), name)
            return
        if self._is_there(new):
            return  # an evaluation at the end has only added columns to the row
        left_out: set[str] = set()
        if self.trained_only:  # of an average, nothing requires a gradient
            left_out = frozen_unless_all(modules_of(ctx)[0])
        write_weights(self._path(new), judged[0], left_out)
        self._files = [one for one in self._files if self._path(one) != self._path(new)] + [new]
        self._thin_out()
        self.saved = [self._path(one) for one in self._files]

    def _counts(self, ctx: Context, row: Row) -> bool:
        needed = (*self._named, *self.monitors)
        if not row or any(name not in row for name in needed):
            return False
        if row["epoch_complete"] or (self._every is not None and self.monitor is None):
            return True  # an interval that is asked for may fall within an epoch
        return bool(self.monitors) and all(is_whole(ctx, row, name) for name in self.monitors)

    def _is_due(self, ctx: Context) -> bool:
        if self._every is None:
            return True
        place = place_among(peers_in(ctx, SaveWeights), self, "SaveWeights")
        if not strict(self._every, self._every.bind(place)(ctx)):
            return False
        for mark in self._every.marks(place):
            mark(ctx)
        return True

    def _is_there(self, new: _KeptFile) -> bool:
        path = self._path(new)
        steps = [one.step for one in self._files if self._path(one) == path]
        return new.step in steps and path.exists()

    def _improves(self, value: float | None) -> bool:
        if value is None:
            return False
        best = min((one.value for one in self._files), key=self._by.rank, default=None)
        return self._by.improves(value, best)

    def _path(self, one: _KeptFile) -> Path:
        return Path(self.path.format_map(one.columns))

    def _thin_out(self) -> None:
        """Deletes what is neither among the best nor the latest; the latest is there by now."""
        if self.keep is None:
            return
        best = sorted(self._files, key=lambda one: self._by.rank(one.value))[: self.keep]
        kept = [one for one in self._files if one in (*best, self._files[-1])]
        for path in (self._path(one) for one in self._files if one not in kept):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # a run is worth more than room on the disk
                log.warning("weights %s could not be deleted: %s", path, error)
        self._files = kept

    def state_dict(self) -> dict[str, Any]:
        """What the names of the files that are kept say, with their values.

        The paths are not in it: a run that was branched off has its own files.
        """
        return {"files": [[one.columns, one.value, one.step] for one in self._files]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, if this callback's path names the same columns.

        A checkpoint may have been changed by hand: what is not like that is left out.
        """
        self._files = [_KeptFile(*one) for one in state["files"] if self._is_own(one)]
        self.saved = [self._path(one) for one in self._files]

    def _is_own(self, saved: Any) -> bool:
        """Whether a saved entry is one of this callback's: columns of its path, a value, a step."""
        match saved:
            case [dict(columns), float() | int() | None, int()]:
                return set(columns) == set(self._named) and all(map(_is_harmless, columns.values()))
        return False

    def __repr__(self) -> str:
        return f"SaveWeights({self.path!r}, {self.monitor!r})"


def _is_harmless(value: Any) -> bool:
    """Whether a saved value leads only into the folder that the path names."""
    if isinstance(value, str):
        return not any(mark in value for mark in ("/", "\\", "\0", ".."))
    return isinstance(value, int | float)


def _columns(path: str) -> tuple[str, ...]:
    """The columns that a path names.

    Raises:
        ConfigError: it cannot be read as a format, or a format does not suit numbers.
    """
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(path) if field is not None]
    except ValueError as error:
        raise _unreadable(path, error) from error
    for field in fields:
        if not field.isidentifier():
            raise ConfigError(
                f"SaveWeights: {{{field}}} in the path names no column; write columns as"
                " {epoch:02d} or {valid_loss:.3f}"
            )
    sample: Mapping[str, Any] = {name: 1 if name in _WHOLE else 1.0 for name in fields}
    try:
        path.format_map(sample)
    except ValueError as error:
        raise _unreadable(path, error) from error
    return tuple(dict.fromkeys(fields))


def _unreadable(path: str, error: ValueError) -> ConfigError:
    return ConfigError(
        f"SaveWeights: the path {path!r} cannot be read: {error}; write columns as {{epoch:02d}} or"
        " {valid_loss:.3f}"
    )
