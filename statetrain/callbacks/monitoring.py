"""Which of several values of a column is best, for callbacks that keep the best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from attrs import frozen

from statetrain.errors import ConfigError
from statetrain.guards.comparing import Direction, better, rank, warn_where_higher_is_better
from statetrain.validators import check_not_negative, check_word

if TYPE_CHECKING:
    from statetrain.context.context import Context
    from statetrain.context.history import Row

_MODES: tuple[str, ...] = get_args(Direction)


@frozen
class Monitor:
    """A column of the history, and when a value in it is better.

    Attributes:
        column: its exact name.
        mode: "min" (lower is better), "max", or "zero" (nearer to 0 is better).
        min_delta: a value is better only if it is by more than this, at least 0.
    """

    column: str
    mode: Direction = "min"
    min_delta: float = 0.0

    def rank(self, value: float | None) -> float:
        """A number to sort by, the best first; what is not a number comes last."""
        return rank(value, self.mode)

    def improves(self, value: float, best: float | None) -> bool:
        """Whether a value is better than the best so far; a NaN never is."""
        return better(value, best, self.mode, self.min_delta)

    def counts(self, ctx: Context, row: Row) -> bool:
        """Whether a row carries the column, and nothing cut it short.

        A column of the training is whole in the row of a complete epoch; one of a validation, in
        that of each complete validation, also within an epoch.
        """
        if self.column not in row:
            return False
        return is_whole(ctx, row, self.column)


def is_whole(ctx: Context, row: Row, column: str) -> bool:
    """Whether a column of a row is about all of its set of data, not a part of an epoch."""
    return bool(row["epoch_complete"]) or ctx.history.set_of(column) not in ("train", "")


def read_monitor(owner: str, column: Any, mode: Any, min_delta: float = 0.0) -> Monitor:
    """A `Monitor` out of a callback's arguments.

    Args:
        owner: the callback's name, for errors.
        column: the exact name of a column.
        mode: one of the modes; None is "min", with a warning where the name says otherwise.
        min_delta: at least 0.

    Raises:
        ConfigError: an argument is none of these.
    """
    if not isinstance(column, str) or not column:
        raise ConfigError(
            f"{owner}: monitor must be the name of a column such as 'valid_loss', got {column!r}"
        )
    if mode is not None:
        check_word(f"{owner}: mode", mode, _MODES)
    check_not_negative(f"{owner}: min_delta", min_delta)
    if mode is None:
        warn_where_higher_is_better(owner, column, stacklevel=4)
    return Monitor(column, mode or "min", min_delta)
