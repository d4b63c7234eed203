"""Guards on the history: when to stop, by what has been recorded.

Each is a fold over the rows that this fit has recorded, with no memory of its own: nothing to
reset, save or restore. Rows that do not carry the monitor do not count, and a NaN is never the
best. They combine, with each other and with limits of time and steps: `EarlyStopping("valid_loss",
5) | UP("valid_loss", 3) & ~Threshold("valid_loss", 0.1) | TimeLimit(hours=1)`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import attrs
from attrs import Attribute, field, frozen

from statetrain.guards.base import AllOf, AnyOf, Guard, Named, Not, as_guard, leaves
from statetrain.guards.comparing import Mode, better
from statetrain.validators import column, one_of, whole

if TYPE_CHECKING:
    from statetrain.context.context import Context

HISTORY = frozenset({"history"})


def recorded(ctx: Context, monitor: str, start_from_epoch: int = 0) -> list[float]:
    """What this fit has recorded of a monitor, oldest first."""
    return [
        float(row[monitor])
        for row in ctx.fit_rows()
        if monitor in row and row.get("epoch", 0) >= start_from_epoch
    ]


def holds_of_nothing(guard: Guard) -> bool | None:
    """Whether a guard holds as long as nothing has been recorded; None if that depends on more than the history.

    What reads columns does not, so its negation does.
    """
    if isinstance(guard, Named):
        return holds_of_nothing(guard.guard)
    if isinstance(guard, Not):
        inner = holds_of_nothing(guard.guard)
        return None if inner is None else not inner
    if isinstance(guard, AllOf | AnyOf):
        decisive, parts = (
            isinstance(guard, AnyOf),
            [holds_of_nothing(part) for part in guard.guards],
        )
        return decisive if decisive in parts else None if None in parts else not decisive
    return False if guard.monitors else None


@frozen
class EarlyStopping(Guard):
    """Holds when a monitored value has not improved for `patience` rows of the history.

    It is a fold over the rows of this fit, with no memory of its own: nothing to reset, save or
    restore. Rows that do not carry the monitor do not count. A NaN is no improvement.

    Args:
        monitor: the exact name of a column of the history.
        patience: rows without improvement that are waited for, at least 1.
        min_delta: an improvement is larger than this.
        mode: "min" (lower is better), "max", or "zero" (nearer to 0 is better).
        baseline: the value to beat from the start; None takes the first row's.
        start_from_epoch: rows of earlier epochs do not count.
    """

    monitor: str = field(default="valid_loss", validator=column)
    patience: int = field(default=5, validator=whole)
    min_delta: float = field(default=0.0, kw_only=True)
    mode: Mode = field(default="min", kw_only=True, validator=one_of("min", "max", "zero"))
    baseline: float | None = field(default=None, kw_only=True)
    start_from_epoch: int = field(default=0, kw_only=True)

    reads = HISTORY

    def __attrs_post_init__(self) -> None:
        if not self.min_delta >= 0:
            raise ValueError(
                f"EarlyStopping: min_delta must not be below 0, got {self.min_delta!r}"
            )

    @property
    def label(self) -> str:
        return (
            f"{self.monitor} has not improved for {self.patience}"
            f" row{'s' if self.patience > 1 else ''}"
        )

    @property
    def monitors(self) -> tuple[str, ...]:
        return (self.monitor,)

    def waited(self, ctx: Context) -> int:
        """How many rows have gone by without an improvement."""
        best, waited = self.baseline, 0
        for value in recorded(ctx, self.monitor, self.start_from_epoch):
            if better(value, best, self.mode, self.min_delta):
                best, waited = value, 0
            else:
                waited += 1
        return waited

    def test(self, ctx: Context) -> bool:
        return self.waited(ctx) >= self.patience


@frozen
class Threshold(Guard):
    """Holds when the last recorded value of a monitor has reached a target.

    Before there is a value it does not hold, so its negation does:
    `only_if(~Threshold("valid_loss", 0.5), callback)` calls from the start. As a `stop` that would
    end the run before its first epoch, and is refused.

    Args:
        monitor: the exact name of a column of the history.
        value: the target.
        mode: "min" (at or below it), "max" (at or above it).
    """

    monitor: str = field(validator=column)
    value: float
    mode: Literal["min", "max"] = field(default="min", kw_only=True, validator=one_of("min", "max"))

    reads = HISTORY

    @property
    def label(self) -> str:
        return f"{self.monitor} {'at most' if self.mode == 'min' else 'at least'} {self.value:g}"

    @property
    def monitors(self) -> tuple[str, ...]:
        return (self.monitor,)

    def test(self, ctx: Context) -> bool:
        values = recorded(ctx, self.monitor)
        if not values:
            return False
        return values[-1] <= self.value if self.mode == "min" else values[-1] >= self.value


@frozen
class InvalidValue(Guard):
    """Holds when a recorded value is NaN or infinite, from then on.

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

    def test(self, ctx: Context) -> bool:
        return not all(map(math.isfinite, recorded(ctx, self.monitor)))


@frozen
class NumberLimit(Guard):
    """Holds when `n` values have been recorded in this fit.

    Args:
        monitor: the exact name of a column of the history.
        n: rows that carry it, at least 1.
    """

    monitor: str = field(default="valid_loss", validator=column)
    n: int = field(default=100, validator=whole)

    reads = HISTORY

    @property
    def label(self) -> str:
        return f"{self.n} row{'s' if self.n > 1 else ''} of {self.monitor}"

    @property
    def monitors(self) -> tuple[str, ...]:
        return (self.monitor,)

    def test(self, ctx: Context) -> bool:
        return len(recorded(ctx, self.monitor)) >= self.n


@frozen
class Never(Guard):
    """Holds never: what `stop=` takes where a criterion is wanted and none is meant. `a | Never()` is `a`."""

    agree = "same"

    @property
    def label(self) -> str:
        return "never"

    def test(self, ctx: Context) -> bool:
        return False


def _about_rows(instance: Any, attribute: Attribute[Any], value: Guard) -> None:
    for leaf in leaves(value):
        if "history" not in leaf.reads and not isinstance(leaf, Never):
            raise ValueError(
                f"Warmup leaves out rows of the history, which [{leaf.label}] does not read; put it"
                " beside: Warmup(...) | it"
            )


@frozen
class Warmup(Guard):
    """Holds when a criterion does that has not seen the first rows of this fit.

        Warmup(EarlyStopping("valid_loss", 3) | GL("valid_loss"), 10)

    Args:
        criterion: a guard on the history, or a combination of such.
        n: rows that are left out, of those that carry one of its monitors; at least 1.
    """

    criterion: Guard = field(converter=as_guard, validator=_about_rows)
    n: int = field(default=1, validator=whole)

    @property
    def label(self) -> str:
        return (
            f"{self.criterion.label}, the first {f'{self.n} rows' if self.n > 1 else 'row'}"
            " left out"
        )

    def parts(self) -> tuple[Guard, ...]:
        return (self.criterion,)

    def test(self, ctx: Context) -> bool:
        return self.criterion(_Later(ctx, self._seen(ctx)))

    def reason(self, ctx: Context) -> str:
        """The criterion's."""
        return self.criterion.reason(_Later(ctx, self._seen(ctx)))

    def _seen(self, ctx: Context) -> list[dict[str, Any]]:
        rows, monitors = ctx.fit_rows(), self.monitors
        counted = [
            i
            for i, row in enumerate(rows)
            if not monitors or any(monitor in row for monitor in monitors)
        ]
        return rows[counted[self.n - 1] + 1 :] if len(counted) >= self.n else []


@frozen
class _Later:
    """A context in which nothing was recorded before some row."""

    ctx: Context
    rows: list[dict[str, Any]]

    def fit_rows(self) -> list[dict[str, Any]]:
        return self.rows

    @property
    def history(self) -> Any:
        return attrs.evolve(self.ctx.history, rows=self.rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ctx, name)
