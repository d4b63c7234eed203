"""Guards that fold over the history.

They read each row once, and are functions of the history alone.

A fold is a start, a step from one row to the next, and what the last state says. How far one has
read is noted in the context, with the rows that it has read: if the history is another one, or
shorter, it is read from the start. So there is nothing to reset, save or restore, and a row costs
the same however many there are. The last row may still get columns, so it is read each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from attrs import define, evolve, frozen

if TYPE_CHECKING:
    from statetrain.context.context import Context

HISTORY = frozenset({"history"})

FoldedRow = dict[str, Any]


class Fold(Protocol):
    """What reads rows one after the other.

    A guard of your own on the history has these three, and asks `folded`:

        @frozen
        class Worse(Guard):
            monitor: str
            reads = HISTORY
            ...

            def start(self):
                return None, None

            def step(self, state, row):
                first, last = state
                value = row.get(self.monitor, last)
                return (value if first is None else first), value

            def decide(self, state):
                first, last = state
                return first is not None and last > first

            def test(self, ctx):
                return self.decide(folded(self, ctx))
    """

    def start(self) -> Any:
        """The state before the first row."""

    def step(self, state: Any, row: FoldedRow) -> Any:
        """The state after a row; the one before it is not changed."""


def folded(fold: Fold, ctx: Context | Later, first: int = 0) -> Any:
    """The state of a fold after all rows of this fit.

    Args:
        fold: hashable, as a frozen attrs class is.
        ctx: the context.
        first: the row to begin with, if that is a later one than the fit's own.
    """
    rows, own = rows_of(ctx)
    return _read(ctx, fold, rows, max(own, first))


def rows_of(ctx: Context | Later) -> tuple[list[FoldedRow], int]:
    """All rows of the history, and which is the first of this fit."""
    if isinstance(ctx, Later):
        return rows_of(ctx.ctx)[0], ctx.first_row
    return ctx.history.rows, ctx.first_row


@frozen
class Later:
    """A context in which nothing was recorded before some row."""

    ctx: Context | Later
    first_row: int

    def fit_rows(self) -> list[FoldedRow]:
        """The rows from there on."""
        return rows_of(self.ctx)[0][self.first_row :]

    @property
    def history(self) -> Any:
        """A history of these rows alone."""
        return evolve(self.ctx.history, rows=self.fit_rows())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ctx, name)


@define(eq=False)
class _Known:
    """How far a fold has read.

    Attributes:
        rows: the list of all rows.
        read: how many have been read, from the first of the list on.
        last: the last of them.
        state: after it.
    """

    rows: list[FoldedRow]
    read: int
    last: FoldedRow | None
    state: Any

    def is_of(self, rows: list[FoldedRow]) -> bool:
        """Whether these are the rows that were read, and perhaps more."""
        if self.rows is not rows or self.read >= len(rows):
            return False
        return self.last is None or rows[self.read - 1] is self.last


def _read(ctx: Context | Later, fold: Fold, rows: list[FoldedRow], first: int) -> Any:
    """The state of a fold after all rows from one on."""
    if len(rows) <= first:
        return fold.start()
    noted: dict[Any, _Known] = getattr(ctx, "folds", {})
    known = noted.get((fold, first))
    if known is None or not known.is_of(rows):
        known = noted[fold, first] = _Known(rows, first, None, fold.start())
    while known.read < len(rows) - 1:
        known.last = rows[known.read]
        known.state = fold.step(known.state, known.last)
        known.read += 1
    return fold.step(known.state, rows[-1])
