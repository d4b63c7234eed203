"""Guards on the history: when to stop, by what has been recorded.

Each is a fold over the rows that this fit has recorded: nothing to reset, save or restore. Rows
that do not carry the monitor do not count, and a NaN is never the best. They combine, with each
other and with limits of time and steps: `EarlyStopping("valid_loss", 5) | UP("valid_loss", 3) &
~Threshold("valid_loss", 0.1) | TimeLimit(hours=1)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, Factory, field, frozen

from statetrain.errors import ConfigError
from statetrain.guards.base import Guard, Test, as_guard, leaves
from statetrain.guards.comparing import Direction, better, warn_where_higher_is_better
from statetrain.guards.folding import HISTORY, FoldedRow, Later, folded, rows_of
from statetrain.naming import count_of
from statetrain.validators import column, not_negative, one_of, whole

if TYPE_CHECKING:
    from statetrain.context.context import Context


def _choose_mode(stop: EarlyStopping) -> Direction:
    if isinstance(stop.monitor, str):
        warn_where_higher_is_better("EarlyStopping", stop.monitor, stacklevel=4)
    return "min"


@frozen
class EarlyStopping(Guard):
    """True when a monitored value has not improved for `patience` rows of the history.

    Rows that do not carry the monitor do not count. A NaN is no improvement.

    Args:
        monitor: the exact name of a column of the history.
        patience: rows without improvement that are waited for, at least 1.
        min_delta: an improvement is larger than this.
        mode: "min" (lower is better), "max", or "zero" (nearer to 0 is better). The default is
            "min", with a warning where the column's name says that higher is better.
        baseline: the value to beat from the start; None takes the first row's.
        start_from_epoch: rows of earlier epochs do not count.
        prompt: whether it is asked at every loop head, so that it counts validations inside an
            epoch and stops there; else it is asked between epochs.
        again: whether it begins again with the rows after its arrow was taken, so that it can act
            several times, as one that lowers the learning rate does.
    """

    monitor: str = field(default="valid_loss", validator=column)
    patience: int = field(default=5, validator=whole)
    min_delta: float = field(default=0.0, kw_only=True, validator=not_negative)
    mode: Direction = field(
        default=Factory(_choose_mode, takes_self=True),
        kw_only=True,
        validator=one_of("min", "max", "zero"),
    )
    baseline: float | None = field(default=None, kw_only=True)
    start_from_epoch: int = field(default=0, kw_only=True)
    prompt: bool = field(default=False, kw_only=True)
    again: bool = field(default=False, kw_only=True)

    reads = HISTORY

    @property
    def label(self) -> str:
        return f"{self.monitor} has not improved for {count_of(self.patience, 'row')}"

    @property
    def monitors(self) -> tuple[str, ...]:
        return (self.monitor,)

    def start(self) -> Any:
        return self.baseline, 0

    def step(self, state: Any, row: FoldedRow) -> Any:
        best, waited = state
        if self.monitor not in row or row.get("epoch", 0) < self.start_from_epoch:
            return state
        value = float(row[self.monitor])
        if better(value, best, self.mode, self.min_delta):
            return value, 0
        return best, waited + 1

    def decide(self, state: Any) -> bool:
        return bool(state[1] >= self.patience)

    def test(self, ctx: Context) -> bool:
        return self.decide(folded(self, ctx))

    def waited(self, ctx: Context) -> int:
        """How many rows have gone by without an improvement."""
        return int(folded(self, ctx)[1])

    @property
    def remembers(self) -> bool:
        return self.again

    def bind(self, place: str) -> Test:
        if not self.again:
            return self.test
        key = f"{place} {self.label}"
        return lambda ctx: self.decide(folded(self, ctx, int(ctx.marks.get(key, 0))))

    def marks(self, place: str) -> tuple[Callable[[Any], None], ...]:
        if not self.again:
            return ()
        key = f"{place} {self.label}"

        def mark(ctx: Context) -> None:
            "begin again"
            ctx.marks[key] = len(rows_of(ctx)[0])

        return (mark,)


@frozen
class Threshold(Guard):
    """True when the last recorded value of a monitor has reached a target.

    Before there is a value it is false, so its negation is true: `only_if(~Threshold("valid_loss",
    0.5), callback)` calls from the start. As a `stop` that would end the run before its first
    epoch, and is refused.

    Args:
        monitor: the exact name of a column of the history.
        value: the target.
        mode: "min" (at or below it), "max" (at or above it).
        prompt: whether it is asked at every loop head, so that a row within an epoch stops the run
            there; else it is asked between epochs.
    """

    monitor: str = field(validator=column)
    value: float
    mode: Literal["min", "max"] = field(default="min", kw_only=True, validator=one_of("min", "max"))
    prompt: bool = field(default=False, kw_only=True)

    reads = HISTORY

    @property
    def label(self) -> str:
        words = {"min": "at most", "max": "at least"}[self.mode]
        return f"{self.monitor} {words} {self.value:g}"

    @property
    def monitors(self) -> tuple[str, ...]:
        return (self.monitor,)

    def start(self) -> Any:
        return math.nan  # which is on neither side of a target

    def step(self, state: Any, row: FoldedRow) -> Any:
        return float(row.get(self.monitor, state))

    def decide(self, state: Any) -> bool:
        if self.mode == "min":
            return bool(state <= self.value)
        return bool(state >= self.value)

    def test(self, ctx: Context) -> bool:
        return self.decide(folded(self, ctx))


@frozen
class InvalidValue(Guard):
    """True when a recorded value is NaN or infinite, from then on.

    The loss of each batch is looked at by `fit(..., non_finite=)`, before it reaches the weights;
    this looks at columns.

    Args:
        monitor: the exact name of a column of the history.
    """

    monitor: str = field(default="valid_loss", validator=column)

    reads = HISTORY

    @property
    def label(self) -> str:
        return f"{self.monitor} not finite"

    @property
    def monitors(self) -> tuple[str, ...]:
        return (self.monitor,)

    def start(self) -> Any:
        return False

    def step(self, state: Any, row: FoldedRow) -> Any:
        return state or (self.monitor in row and not math.isfinite(float(row[self.monitor])))

    def decide(self, state: Any) -> bool:
        return bool(state)

    def test(self, ctx: Context) -> bool:
        return self.decide(folded(self, ctx))


@frozen
class NumberLimit(Guard):
    """True when `n` values have been recorded in this fit.

    Args:
        monitor: the exact name of a column of the history.
        n: rows that carry it, at least 1.
    """

    monitor: str = field(default="valid_loss", validator=column)
    n: int = field(default=100, validator=whole)

    reads = HISTORY

    @property
    def label(self) -> str:
        return f"{count_of(self.n, 'row')} of {self.monitor}"

    @property
    def monitors(self) -> tuple[str, ...]:
        return (self.monitor,)

    def start(self) -> Any:
        return 0

    def step(self, state: Any, row: FoldedRow) -> Any:
        return state + (self.monitor in row)

    def decide(self, state: Any) -> bool:
        return bool(state >= self.n)

    def test(self, ctx: Context) -> bool:
        return self.decide(folded(self, ctx))


@frozen
class Never(Guard):
    """Never true: `a | Never()` is `a`.

    For `stop=`, where a criterion is required and none is wanted.
    """

    agree = "same"

    @property
    def label(self) -> str:
        return "never"

    def test(self, ctx: Context) -> bool:
        return False


def _about_rows(instance: Any, attribute: Attribute[Any], value: Guard) -> None:
    for leaf in leaves(value):
        if "history" not in leaf.reads and not isinstance(leaf, Never):
            raise ConfigError(
                f"Warmup leaves out rows of the history, which [{leaf.label}] does not read; put it"
                " outside: Warmup(...) | it"
            )


@frozen
class _Counting:
    """The number of rows up to the end of a warm-up, and of those with the monitor's value."""

    names: tuple[str, ...]
    n: int

    def start(self) -> Any:
        return 0, 0

    def step(self, state: Any, row: FoldedRow) -> Any:
        rows, carrying = state
        if carrying == self.n:
            return state
        counts = not self.names or any(name in row for name in self.names)
        return rows + 1, carrying + counts


@frozen
class Warmup(Guard):
    """Ignores the first `n` rows of this fit, then behaves as a criterion.

        Warmup(EarlyStopping("valid_loss", 3) | GL("valid_loss"), 10)

    Args:
        criterion: a guard on the history, or a combination of such.
        n: rows that are left out, of those that carry one of its monitors; at least 1.
    """

    criterion: Guard = field(converter=as_guard, validator=_about_rows)
    n: int = field(default=1, validator=whole)

    @property
    def label(self) -> str:
        rows = count_of(self.n, "row").removeprefix("1 ")
        return f"{self.criterion.label}, the first {rows} left out"

    def parts(self) -> tuple[Guard, ...]:
        return (self.criterion,)

    def test(self, ctx: Context) -> bool:
        return self.criterion(self._later(ctx))

    def reason(self, ctx: Context) -> str:
        """The criterion's."""
        return self.criterion.reason(self._later(ctx))

    def _later(self, ctx: Context) -> Later:
        skipped, carrying = folded(_Counting(self.monitors, self.n), ctx)
        rows, first = rows_of(ctx)
        if carrying < self.n:
            return Later(ctx, len(rows))
        return Later(ctx, first + skipped)
