"""Watching a run from outside by its trace file, in a terminal.

It only reads, so starting and stopping it touches nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from statetrain.commands.screen import ending_of, row_of, screen, title_of
from statetrain.naming import printable
from statetrain.outcome import Outcome
from statetrain.trace.following import Following
from statetrain.trace.reading import TraceFile

_PAUSE = 0.5  # seconds between two looks at the file
_STILL = 4  # looks without news after which the screen is drawn again all the same


def watch(
    path: str | Path,
    *,
    once: bool = False,
    file: TextIO | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], object] = time.sleep,
) -> Outcome | None:
    """Follows a run until it has ended, or until Ctrl-C.

    In a terminal a screen is drawn again and again: where the run is in its table, how often each
    state was entered, rates, what guards answered, curves. Elsewhere there is a line for each row
    of the history and for the outcome.

    Args:
        path: the trace file of the run, or a directory in which the newest is followed.
        once: show how things are, and return.
        file: where it goes; None is the standard output.
        clock: seconds since the epoch, as files have them.
        sleep: waits for so many seconds.

    Returns:
        How the run ended; None if it has not.

    Raises:
        TraceError: it is not a trace, or there is none.
        OSError: it cannot be read.
    """
    out = file or sys.stdout
    following: Following[TraceFile] = Following(Path(path))
    following.poll()
    if once or (not out.isatty() and _outcome(following) is not None):
        for line in screen(following, clock()):
            print(line.text, file=out)
        return _outcome(following)
    try:
        if out.isatty():
            return _draw(following, out, clock, sleep)
        return _print(following, out, sleep)
    except KeyboardInterrupt:
        return _outcome(following)


def _draw(
    following: Following[TraceFile],
    out: TextIO,
    clock: Callable[[], float],
    sleep: Callable[[float], object],
) -> Outcome | None:
    """Redraws the screen whenever there is something new."""
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(file=out), auto_refresh=False, vertical_overflow="crop") as live:
        still = _STILL
        while True:
            if still >= _STILL:
                live.update(_render(following, clock()), refresh=True)
                still = 0
            if _outcome(following) is not None:
                return _outcome(following)
            if _wait(following, sleep):
                still = _STILL
            else:
                still = still + 1


def _print(
    following: Following[TraceFile], out: TextIO, sleep: Callable[[float], object]
) -> Outcome | None:
    """Prints a line for each row, where nothing can be drawn."""
    shown: TraceFile | None = None
    rows = 0
    while True:
        reading = following.reading
        if reading is not None and reading.header:
            if reading is not shown:
                print(printable(title_of(reading)), file=out)
                shown, rows = reading, 0
            history = reading.rows
            for row in history[rows:]:
                print(printable(row_of(row)), file=out)
            rows = len(history)
        out.flush()
        if reading is not None and reading.outcome is not None:
            print(printable(ending_of(reading)), file=out)
            return reading.outcome
        _wait(following, sleep)


def _wait(following: Following[TraceFile], sleep: Callable[[float], object]) -> bool:
    """Waits a moment; returns whether there is something new."""
    sleep(_PAUSE)
    try:
        return following.poll()
    except FileNotFoundError:  # it is being replaced
        following.reading = None
        return True


def _outcome(following: Following[TraceFile]) -> Outcome | None:
    if following.reading is not None:
        return following.reading.outcome
    return None


def _render(following: Following[TraceFile], now: float) -> Any:
    """The screen for rich: the table on the left, the rest on the right."""
    from rich.table import Table
    from rich.text import Text

    lines = screen(following, now)

    def column(left: bool) -> Text:
        return Text("\n", no_wrap=True, overflow="ellipsis").join(
            Text(line.text, style=line.style) for line in lines if line.left == left
        )

    grid = Table.grid(padding=(0, 3))
    grid.add_row(column(True), column(False))
    return grid
