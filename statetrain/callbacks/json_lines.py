"""JSONLines: a log that programs read, one JSON object a line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statetrain import jsons
from statetrain.callback import Callback
from statetrain.callbacks.logger import Counters, Items, alone
from statetrain.callbacks.row_file import RowFile
from statetrain.logs.loggables import Histogram, Loggable, Settings, Text, Value
from statetrain.logs.sources import Source
from statetrain.outcome import Outcome
from statetrain.validators import check_switches, local_path

if TYPE_CHECKING:
    from statetrain.context.context import Context


class JSONLines(Callback):
    """Writes each row as a line of JSON: an object with all counters and what was logged.

        {"epoch": 1, "batch": 100, "step": 100, "samples": 3200, "seconds": 1.9, "loss": 0.71, "lr":
        0.001}

    Among the callbacks it logs the rows of the history; in a `Logger`, what that logs. It
    holds numbers, arrays of numbers, texts, settings, and histograms as their edges and counts.
    Numbers that are not finite are the strings "nan", "inf" and "-inf", since JSON has no numbers
    for them; `float` reads them.

    A line appears whole or not at all. A new fit replaces the file when its first row is there. A
    fit that continues adds to it, and one that is resumed from a checkpoint removes the lines
    that came after that.

    Args:
        path: the file; folders that are missing are made.
        append: whether to write below the lines that the file has, whatever run they came from.

    Raises:
        ConfigError: a file cannot be written there.
    """

    ranks = "first"
    anywhere = True  # it logs what is there

    takes: frozenset[type] = frozenset({Value, Text, Settings, Histogram})
    what: tuple[Source, ...] = ()

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        check_switches("JSONLines", append=append)
        self.path = local_path("JSONLines", path)
        self.append = append
        self._file = RowFile(self.path, "JSONLines", append)
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
        return self._file.open(fresh)

    def log(self, items: Items, counters: Counters) -> None:
        """Adds a line."""
        self._file.add(_line({**counters, **{name: _plain(item) for name, item in items.items()}}))

    def close(self, outcome: Outcome | None) -> None:
        """Nothing is open between two lines."""

    def state_dict(self) -> dict[str, Any]:
        """How many lines the file has."""
        return self._file.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._file.load_state_dict(state)

    def __repr__(self) -> str:
        return f"JSONLines({str(self.path)!r}{', append=True' if self.append else ''})"


def _plain(item: Loggable) -> Any:
    if isinstance(item, Histogram):
        return {"edges": item.edges, "counts": item.counts}
    if isinstance(item, Value | Text | Settings):
        return item.data
    return None


def _line(fields: dict[str, Any]) -> str:
    return jsons.dumps(jsons.jsonable(fields)) + "\n"
