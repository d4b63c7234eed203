"""The history of a run: one row per `record`, with all counters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

from attrs import Factory, define

from statetrain.context.columns import shown_shape
from statetrain.guards.comparing import Direction, better
from statetrain.naming import count_of, did_you_mean, printable

Row = dict[str, Any]

COUNTERS = ("epoch", "batch", "step", "samples", "seconds", "epoch_complete")
"""The columns of a row that are no metrics, in their order."""


@define(eq=False, repr=False)
class History(Sequence[Row]):
    """Rows of metrics and counters, oldest first.

    `history[0]` is a row, `history[-1]` the last one, `history["valid_loss"]` a column: the values
    of the rows that have it. Every row carries `epoch`, `batch` (training batches since the first
    epoch), `step`, `samples`, `seconds` and `epoch_complete`.
    """

    rows: list[Row] = Factory(list)
    # The names of several optimizers, each with a loss column of its own
    optimizers: tuple[str, ...] = ()
    sets: tuple[str, ...] = ("train", "valid")  # what the names of the columns begin with
    formats: dict[str, str] = Factory(dict)  # how numbers are shown, of metrics that say so

    @overload
    def __getitem__(self, key: int) -> Row: ...
    @overload
    def __getitem__(self, key: slice) -> list[Row]: ...
    @overload
    def __getitem__(self, key: str) -> list[Any]: ...
    def __getitem__(self, key: int | slice | str) -> Any:
        """A row, some rows, or a column.

        Raises:
            KeyError: no row has such a column.
        """
        if not isinstance(key, str):
            return self.rows[key]
        column = [row[key] for row in self.rows if key in row]
        if not column:
            raise KeyError(f"no row of the history has {key!r}{did_you_mean(key, self.columns)}")
        return column

    @property
    def last(self) -> Row:
        """The last row; empty if there is none yet."""
        if self.rows:
            return self.rows[-1]
        return {}

    @property
    def columns(self) -> list[str]:
        """The names of all columns, in the order in which they came."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def best(self, monitor: str, mode: Direction = "min") -> Row:
        """The row in which a column is best; a NaN never is. The first of equals.

        Raises:
            KeyError: no row has such a column, or all its values are NaN.
        """
        self[monitor]  # an unknown name is an error
        found: Row = {}
        for row in self.rows:
            if monitor in row and better(row[monitor], found.get(monitor), mode):
                found = row
        if not found:
            raise KeyError(f"no value of {monitor!r} is a number")
        return found

    def set_of(self, column: str) -> str:
        """The set of a column: "train", "valid" or an evaluation's name; empty if it has none."""
        sets = (name for name in self.sets if column.startswith(f"{name}_"))
        return max(sets, key=len, default="")

    def split(self, column: str) -> tuple[str, str, str | None]:
        """The set, the metric and the optimizer of a column; the last of a loss among several."""
        set_name = self.set_of(column)
        if not set_name:
            return "", column, None
        metric = column.removeprefix(f"{set_name}_")
        for name in self.optimizers:
            if metric == f"loss_{name}":
                return set_name, "loss", name
        return set_name, metric, None

    # The field's own word
    def metrics(self, set: str = "valid", epoch: int | None = None) -> Row:  # noqa: A002
        """The metrics of a set in an epoch's last row that has any, by name without the set.

        Args:
            set: "train" or "valid".
            epoch: counted from 1; None is the last one that has any.
        """
        for row in reversed(self.rows):
            found = {
                name.removeprefix(f"{set}_"): value
                for name, value in row.items()
                if self.set_of(name) == set
            }
            if found and epoch in (None, row["epoch"]):
                return found
        return {}

    def table(self) -> list[Row]:
        """All columns in long form: a row for each set, metric, epoch and optimizer, in that order.

        Returns:
            Rows of `set` ("" of a column that belongs to none, such as `lr`), `metric`,
            `optimizer` (None but for losses of several optimizers), `epoch`, `step`, `value`.
        """
        long: list[Row] = []
        for column in self.columns:
            if column in COUNTERS:
                continue
            set_name, metric, optimizer = self.split(column)
            long += [
                {
                    "set": set_name,
                    "metric": metric,
                    "optimizer": optimizer,
                    "epoch": row["epoch"],
                    "step": row["step"],
                    "value": row[column],
                }
                for row in self.rows
                if column in row
            ]
        return sorted(long, key=lambda row: row["set"])

    def to_pandas(self) -> Any:
        """The long form of `table` as a pandas DataFrame.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "to_pandas needs pandas; install it with: pip install pandas. table() gives the"
                " same as plain rows"
            ) from error
        return pandas.DataFrame(
            self.table(), columns=["set", "metric", "optimizer", "epoch", "step", "value"]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return self.rows == list(other)

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __repr__(self) -> str:
        return (
            f"<History: {count_of(len(self), 'row')} of"
            f" {printable(', '.join(self.columns)) or 'nothing yet'}>"
        )

    def _repr_html_(self) -> str:
        from statetrain.notebook import table

        columns = self.columns
        rows = [[self.shown(name, row.get(name, "")) for name in columns] for row in self.rows]
        return table(columns, rows)

    def __str__(self) -> str:
        return self.text()

    def format_of(self, column: str) -> str:
        """How a column's numbers are shown, if its metric says how; else empty.

        Args:
            column: its name; the columns of a metric of several values are `<name>_...`.
        """
        name = column
        while name and name not in self.formats:
            name = name.rpartition("_")[0]
        return self.formats.get(name, "")

    def shown(self, column: str, value: Any) -> str:
        """A value of a column for a person: as its metric says, else numbers with four digits."""
        form = self.format_of(column)
        if form and isinstance(value, int | float):
            return f"{value:{form}}"
        return format_value(value)

    def text(self, most: int | None = None) -> str:
        """The rows as a table for a terminal.

        Args:
            most: how many rows are shown; of more, the middle is left out. None shows all.
        """
        columns, shown, left_out = self.columns, self.rows, 0
        first = 0
        if most is not None and len(shown) > most:
            first = most // 3
            left_out = len(shown) - most
            shown = [*shown[:first], *shown[first - most :]]
        lines = [list(map(printable, columns))]
        lines += [[self.shown(name, row.get(name, "")) for name in columns] for row in shown]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        texts = ["  ".join(map(str.rjust, line, widths)) for line in lines]
        if left_out:
            texts.insert(first + 1, f"[{left_out:,} rows more]")
        return "\n".join(texts)


def format_value(value: Any) -> str:
    """A value of a row for a person: numbers with four digits."""
    if shape := shown_shape(value):
        return f"of shape {shape}"
    if isinstance(value, bool) or not isinstance(value, float):
        return printable(str(value))
    return f"{value:.4g}"
