"""CSVLogger: the history as a file that spreadsheets read."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from statetrain.callback import Callback
from statetrain.outcome import ConfigError

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would compute what begins with these


class CSVLogger(Callback):
    """Writes each row of the history as a line of a CSV file, as soon as everything that belongs to it is there.

    The first line names the columns. Where a later row brings a new column, the file is written anew with it, and earlier
    lines leave it empty. Lines appear whole or not at all, also if the process is killed: a line is appended in one write, and
    a file that is written anew replaces the old one when it is complete. Texts that a spreadsheet would take for a
    formula get an apostrophe before them; numbers stay numbers, with all their digits.

    A new fit replaces the file when its first row is there. A fit that goes on adds to it, and one that is continued from
    a checkpoint takes back the lines that came after that.

    Args:
        path: the file; folders that are missing are made.
        append: whether to write below the lines that the file has, whatever run they came from.

    Raises:
        ConfigError: a file cannot be written there.
    """

    reads = ("history",)

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path = Path(path)
        self.append = append
        self._reset()

    def _reset(self) -> None:
        self._written = self._before = 0  # rows of the history, and lines of other runs above them
        self._columns: list[str] | None = None  # of the file; None as long as nothing has been written to it here

    def _begin(self, ctx: Any) -> None:
        self._reset()
        self.check_context(ctx)
        self._before = len(self._lines()) if self.append else 0

    # ------------------------------------------------------------ hooks

    def check_context(self, ctx: Any) -> None:
        """Makes the folders, and sees whether the file can be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_dir():
                raise IsADirectoryError(f"{self.path} is a folder")
            writable = self.path if self.path.exists() else self.path.parent
            if not os.access(writable, os.W_OK):
                raise PermissionError(f"{writable} is not writable")
        except OSError as error:
            raise ConfigError(f"CSVLogger cannot write {str(self.path)!r}: {error}") from error

    def on_enter_fit(self, ctx: Any) -> None:
        """Begins the file, unless this fit goes on."""
        if ctx.epoch == 0:
            self._begin(ctx)

    def on_resume(self, ctx: Any) -> None:
        """Looks at the path again."""
        self.check_context(ctx)

    def on_enter_valid(self, ctx: Any) -> None:
        """Begins the file of an evaluation, which enters no `fit`."""
        if ctx.epoch == 0:
            self._begin(ctx)

    def on_exit_record(self, ctx: Any) -> None:
        """Writes a row that no epoch closes, as an evaluation's; the others may still get columns."""
        if not ctx.epoch_complete or not ctx.epoch:
            self._write(ctx.history)

    def on_enter_next_epoch(self, ctx: Any) -> None:
        """Writes the row of the epoch."""
        self._write(ctx.history)

    def on_enter_failed(self, ctx: Any) -> None:
        """Writes what has been recorded."""
        self._write(ctx.history)

    # ------------------------------------------------------------ saved and put back

    def state_dict(self) -> dict[str, Any]:
        """How many lines of other runs the file has."""
        return {"before": self._before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        self._reset()
        self._before = state["before"]

    # ------------------------------------------------------------ the file

    def _write(self, history: Any) -> None:
        rows = history[self._written :]
        if not rows:
            return
        if self._columns is None:  # of a run that goes on, the lines after the point where it does are written again
            lines, rows = self._lines()[: self._before], list(history)
        elif any(_cell(name) not in self._columns for row in rows for name in row):
            lines = self._lines()
        else:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(_text(self._columns, _cells(rows)))
            self._written = len(history)
            return
        self._replace(lines + _cells(rows))
        self._written = len(history)

    def _replace(self, lines: list[dict[str, str]]) -> None:
        """Writes the file anew."""
        columns = list(dict.fromkeys(name for line in lines for name in line))
        text = _text(columns, [dict(zip(columns, columns, strict=True)), *lines])
        other = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with other.open("w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(other, self.path)
        finally:
            other.unlink(missing_ok=True)
        self._columns = columns

    def _lines(self) -> list[dict[str, str]]:
        """The lines of the file by column; one that a crash has cut short is left out."""
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8", newline="") as file:
            cells = [line for line in csv.reader(file) if line]
        return [dict(zip(cells[0], line, strict=True)) for line in cells[1:] if len(line) == len(cells[0])]

    def __repr__(self) -> str:
        return f"CSVLogger({str(self.path)!r}{', append=True' if self.append else ''})"


def _cells(rows: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    return [{_cell(name): _cell(value) for name, value in row.items()} for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA) else text


def _text(columns: list[str], lines: list[dict[str, str]]) -> str:
    buffer = io.StringIO()
    csv.DictWriter(buffer, columns, restval="", lineterminator="\n").writerows(lines)
    return buffer.getvalue()
