"""Prechelt's criteria for early stopping: `GL`, `PQ` and `UP`.

They are from Lutz Prechelt: Early Stopping - But When? In: Neural Networks: Tricks of the Trade,
LNCS 1524, Springer 1998, pp. 55-69, doi:10.1007/3-540-49430-8_3; there E_va is the error on the
validation set, E_tr on the training set. Which to choose, by the same: GL or PQ where a good result
matters more than time, UP where it is to be fast.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from statetrain.errors import ConfigError
from statetrain.guards.base import Guard
from statetrain.guards.folding import HISTORY, FoldedRow, folded
from statetrain.naming import count_of
from statetrain.validators import column, positive, whole

if TYPE_CHECKING:
    from statetrain.context.context import Context


def generalization_loss(values: list[float]) -> float:
    """The percentage by which the last value exceeds the minimum so far.

    GL(t) = 100 (E_va(t) / E_opt(t) - 1).

    Written with the distance over the absolute value, so that it also serves a loss below 0. NaN if
    there is none.
    """
    if not values:
        return math.nan
    least = min((value for value in values if not math.isnan(value)), default=math.nan)
    return _percent_above(values[-1], least)


def progress(values: list[float]) -> float:
    """By how many per mill the mean of some training losses lies above the least of them: P_k(t).

    It is large while training is unstable or goes down fast, and goes to 0 when training stalls.
    Finite values only.
    """
    least = min(values)
    return 1000 * _ratio(sum(values) / len(values) - least, abs(least))


def _percent_above(value: float, least: float) -> float:
    return 100 * _ratio(value - least, abs(least))


def _ratio(above: float, least: float) -> float:
    if least != 0:
        return above / least
    if above > 0:
        return math.inf
    return 0.0


_NOTHING = (math.nan, math.nan)
"""The least of no values, and the last of them."""


def _with_value(least_and_last: tuple[float, float], value: float) -> tuple[float, float]:
    """The least of some values, and the last, after another one. NaN is never the least."""
    least = least_and_last[0]
    if math.isnan(least) or value < least:
        least = value
    return least, value


@frozen
class GL(Guard):
    """Prechelt's GL: true when the generalization loss is above `alpha` percent.

    The generalization loss is how far the last value lies above the least so far, in percent.

    Args:
        monitor: the exact name of a column of the history, of which lower is better.
        alpha: percent, above 0.
    """

    monitor: str = field(default="valid_loss", validator=column)
    alpha: float = field(default=2.0, validator=positive)

    reads = HISTORY

    @property
    def label(self) -> str:
        return f"{self.monitor} more than {self.alpha:g} % above its best"

    @property
    def monitors(self) -> tuple[str, ...]:
        return (self.monitor,)

    def start(self) -> Any:
        return _NOTHING

    def step(self, state: Any, row: FoldedRow) -> Any:
        if self.monitor not in row:
            return state
        return _with_value(state, float(row[self.monitor]))

    def decide(self, state: Any) -> bool:
        return self._above(state) > self.alpha

    def test(self, ctx: Context) -> bool:
        return self.decide(folded(self, ctx))

    def reason(self, ctx: Context) -> str:
        """Says how far it has got."""
        return (
            f"{self.monitor} is {self._above(folded(self, ctx)):.3g} % above its best, more than"
            f" {self.alpha:g} %"
        )

    @staticmethod
    def _above(state: Any) -> float:
        least, last = state
        return _percent_above(last, least)


@frozen
class PQ(Guard):
    """Prechelt's PQ: true when the generalization loss is large relative to training progress.

    The quotient of the generalization loss (percent, as in `GL`) and the training progress (per
    mill: how far the mean of the last `k` training losses lies above the least of them) is above
    `alpha`; or training has stalled. It is asked of rows with a validation, once there are `k`
    training losses.

    Args:
        monitor: the column of the error on the validation set.
        train: the column of the error on the training set.
        alpha: the quotient, above 0. Prechelt's experiments use 0.5 to 3.
        k: training losses that make a strip, at least 2; Prechelt's use 5.
        tol: a progress of at most this is none.
    """

    monitor: str = field(default="valid_loss", validator=column)
    train: str = field(default="train_loss", validator=column, kw_only=True)
    alpha: float = field(default=0.75, validator=positive, kw_only=True)
    k: int = field(default=5, validator=whole, kw_only=True)
    tol: float = field(default=2.220446049250313e-16, validator=positive, kw_only=True)

    reads = HISTORY

    def __attrs_post_init__(self) -> None:
        if self.k < 2:
            raise ConfigError(
                f"PQ: k must be at least 2, got {self.k}: one training loss shows no progress"
            )

    @property
    def label(self) -> str:
        return f"{self.monitor} rises faster than {self.train} falls, PQ above {self.alpha:g}"

    @property
    def monitors(self) -> tuple[str, ...]:
        return (self.monitor, self.train)

    def start(self) -> Any:
        return _NOTHING, (), False

    def step(self, state: Any, row: FoldedRow) -> Any:
        valid, strip, validated = state
        if self.monitor in row or self.train in row:
            validated = self.monitor in row
        if self.monitor in row:
            valid = _with_value(valid, float(row[self.monitor]))
        if self.train in row:
            strip = (*strip, float(row[self.train]))[-self.k :]
        return valid, strip, validated

    def decide(self, state: Any) -> bool:
        (least, last), strip, validated = state
        if not validated or len(strip) < self.k:
            return False
        if not all(map(math.isfinite, strip)):
            return True
        made = progress(list(strip))
        return made <= self.tol or _percent_above(last, least) / made > self.alpha

    def test(self, ctx: Context) -> bool:
        return self.decide(folded(self, ctx))


@frozen
class UP(Guard):
    """Prechelt's UP: true when the last `n` values each lay above the one before, however little.

    He measures the error at the ends of strips of epochs; here, validate at these intervals. An
    equal value begins again.

    Args:
        monitor: the exact name of a column of the history, of which lower is better.
        n: increases in a row, at least 1.
    """

    monitor: str = field(default="valid_loss", validator=column)
    n: int = field(default=5, validator=whole)

    reads = HISTORY

    @property
    def label(self) -> str:
        return f"{self.monitor} has risen {count_of(self.n, 'time')} in a row"

    @property
    def monitors(self) -> tuple[str, ...]:
        return (self.monitor,)

    def start(self) -> Any:
        return math.nan, 0

    def step(self, state: Any, row: FoldedRow) -> Any:
        if self.monitor not in row:
            return state
        before, rises = state
        value = float(row[self.monitor])
        if not before < value:
            return value, 0
        return value, rises + 1

    def decide(self, state: Any) -> bool:
        return bool(state[1] >= self.n)

    def test(self, ctx: Context) -> bool:
        return self.decide(folded(self, ctx))
