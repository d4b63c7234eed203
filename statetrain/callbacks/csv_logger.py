"""CSVLogger: the history as a file that spreadsheets read."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statetrain.callback import Callback
from statetrain.callbacks.logger import Counters, Items, alone
from statetrain.callbacks.row_file import RowFile
from statetrain.logs.loggables import Text, Value
from statetrain.logs.sources import Source
from statetrain.naming import printable
from statetrain.outcome import Outcome
from statetrain.validators import check_switches, local_path

if TYPE_CHECKING:
    from statetrain.context.context import Context

_FORMULA = ("=", "+", "-", "@", "\t")  # a spreadsheet would compute what begins with these

Cells = dict[str, str]  # cells by column


class CSVLogger(Callback):
    """Writes each row of the history as a line of a CSV file.

    A row is written as soon as all its values are there.

    Among the callbacks it logs the history; in a `Logger`, what that is told to log. It holds
    numbers and texts.

    The first line names the columns. Control characters in texts are escaped, but for tabs and line
    breaks. Where a later row brings a new column, the file is rewritten with it, and earlier
    lines leave it empty. Lines appear whole or not at all, also if the process is killed: a line is
    appended in one write, and a file that is rewritten replaces the old one when it is complete.
    Texts that a spreadsheet would take for a formula get an apostrophe before them; numbers stay
    numbers, with all their digits.

    A new fit replaces the file when its first row is there. A fit that continues adds to it, and
    one that resumes from a checkpoint first removes the lines that came after it.

    Args:
        path: the file; folders that are missing are made.
        append: whether to write below the lines that the file has, whatever run they came from.

    Raises:
        ConfigError: a file cannot be written there.
    """

    ranks = "first"
    anywhere = True  # it logs what is there

    takes: frozenset[type] = frozenset({Value, Text})
    what: tuple[Source, ...] = ()

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        check_switches("CSVLogger", append=append)
        self.path = local_path("CSVLogger", path)
        self.append = append
        self._file = RowFile(self.path, "CSVLogger", append, _records, head=1)
        self._columns: list[str] = []  # of the file, once it has been brought into shape
        self.wrapped = alone(self)

    def destinations(self) -> tuple[str, ...]:
        """The files that it writes."""
        return (str(self.path),)

    def redirect(self, folder: Path) -> None:
        """Writes a file of the same name in another folder."""
        self.path = self._file.path = folder / self.path.name

    def check_context(self, ctx: Context) -> None:
        """Makes the folders, and sees whether the file can be written."""
        self.check()

    # ------------------------------------------------------------ what a logger calls

    def check(self) -> None:
        """Makes the folders, and sees whether the file can be written."""
        self._file.check()

    def open(self, ctx: Context, fresh: bool) -> bool:
        """Removes the lines that came after the point where a run resumes."""
        self._columns = []
        return self._file.open(fresh)

    def log(self, items: Items, counters: Counters) -> None:
        """Adds a line."""
        cells = {name: _cell(value) for name, value in counters.items()}
        line = cells | {
            _cell(name): _cell(item.data)
            for name, item in items.items()
            if isinstance(item, Value | Text)
        }
        if any(name not in self._columns for name in line):
            self._widen(line)
        self._file.add(_text(self._columns, line))

    def _widen(self, line: Cells) -> None:
        """Rewrites the file, with columns for a line."""
        records = [
            next(csv.reader(io.StringIO(record, newline=""))) for record in self._file.kept()
        ]
        # Whatever wrote a line of another length, its cells belong to no columns.
        lines = [
            dict(zip(records[0], cells, strict=True))
            for cells in records[1:]
            if len(cells) == len(records[0])
        ]
        self._columns = list(dict.fromkeys([*(records[0] if records else ()), *line]))
        head = dict(zip(self._columns, self._columns, strict=True))
        self._file.replace(_text(self._columns, head, *lines))

    def close(self, outcome: Outcome | None) -> None:
        """Nothing is open between two lines."""

    def state_dict(self) -> dict[str, Any]:
        """How many lines the file has."""
        return self._file.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._file.load_state_dict(state)

    def __repr__(self) -> str:
        return f"CSVLogger({str(self.path)!r}{', append=True' if self.append else ''})"


def _records(text: str) -> list[str]:
    """The complete lines; a line break between quotes does not end one."""
    records, begun = [], ""
    for part in text.split("\n")[:-1]:  # what follows the last break has not come to its end
        begun += part + "\n"
        if begun.count('"') % 2 == 0:
            records.append(begun)
            begun = ""
    return records


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value)
    # A carriage return would end the line for many readers, though not for the writer.
    text = printable(value, keep="\n\t")
    if text.startswith(_FORMULA):
        return f"'{text}"
    return text


def _text(columns: list[str], *lines: Cells) -> str:
    buffer = io.StringIO()
    csv.DictWriter(buffer, columns, restval="", lineterminator="\n").writerows(lines)
    return buffer.getvalue()
