"""Bars that are drawn in place in a terminal, with rich."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from attrs import frozen

from statetrain.logs.streams import Stream, is_terminal
from statetrain.naming import printable

_WIDTH = 40  # columns of a bar, at most
_TAIL = 50  # columns of what stands after a bar, usually


def draws_in_place(file: Any) -> bool:
    """Whether a stream is a terminal in which lines can be drawn over."""
    # Within another live display the standard output is rich's stand-in: two of them would draw
    # over each other.
    if hasattr(file, "rich_proxied_file") or os.environ.get("TERM", "") in ("dumb", "unknown"):
        return False
    return is_terminal(file)


@frozen
class Bar:
    """What one bar says: `name done/total ━━━━ left  note`."""

    name: str
    done: int
    total: int | None  # None if unknown
    share: float | None  # of the bar that is filled
    left: float | None  # seconds
    note: str

    @property
    def count(self) -> str:
        """How many of how many."""
        if self.total is None:
            return str(self.done)
        return f"{self.done:>{len(str(self.total))}}/{self.total}"


class Bars:
    """Bars that are drawn in place, below the lines, and vanish when they are stopped."""

    def __init__(self, stream: Stream) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        self._text = Text
        self._console = Console(
            file=cast("TextIO", stream), force_terminal=True, force_jupyter=False
        )
        self._bars: Iterable[Bar] = ()
        self._drawings = 0
        # What others print is to appear above the bars, where it goes to the same terminal.
        own = stream.file is sys.stdout
        self._live = Live(
            console=self._console,
            get_renderable=self._picture,
            auto_refresh=False,
            transient=True,
            redirect_stdout=own,
            redirect_stderr=own and draws_in_place(sys.stderr),
        )
        self._live.start()

    def draw(self, bars: Iterable[Bar]) -> None:
        """Draws the bars in the place of those before."""
        self._bars = bars
        self._drawings += 1
        self._live.refresh()

    def line(self, text: str, style: str = "") -> None:
        """Prints a line above the bars."""
        self._console.print(self._text(text, style), soft_wrap=True)

    def stop(self) -> None:
        """Removes the bars and restores the terminal."""
        self._live.stop()

    def _picture(self) -> Any:
        bars = list(self._bars)
        names, counts = _widest(bar.name for bar in bars), _widest(bar.count for bar in bars)
        tails = [
            printable(f" {'' if bar.left is None else clock(bar.left) + ' left':>12}  {bar.note}")
            for bar in bars
        ]
        # Some columns stay free for the ^C that a terminal shows: a line that is pushed over the
        # edge is not taken away.
        most = max(self._console.width - 5, 1)
        # So does what a usual tail needs, so that the bars do not change their length with every
        # number.
        room = most - names - counts - 2 - max(_widest(tails), _TAIL)
        lines = []
        for bar, tail in zip(bars, tails, strict=True):
            line = self._text.assemble(
                f"{bar.name:<{names}} {bar.count:>{counts}} ",
                *self._drawn(bar.share, max(5, min(_WIDTH, room))),
                tail,
            )
            line.truncate(most, overflow="ellipsis")
            lines.append(line)
        return self._text("\n").join(lines)

    def _drawn(self, share: float | None, width: int) -> list[tuple[str, str]]:
        """A bar filled to a share; one of unknown length has a piece that moves at each drawing."""
        rule = "-"
        if self._console.encoding.startswith("utf"):
            rule = "━"
        if share is None:
            piece = max(1, width // 8)
            at = self._drawings % (width - piece + 1)
        else:
            at, piece = 0, round(width * min(share, 1.0))
        return [
            (rule * at, "bar.back"),
            (rule * piece, "bar.complete"),
            (rule * (width - at - piece), "bar.back"),
        ]


def clock(seconds: float) -> str:
    """As on a clock, in whole seconds, begun ones counted: what is not over has time left."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}"


def _widest(texts: Iterable[str]) -> int:
    return max(map(len, texts), default=0)
