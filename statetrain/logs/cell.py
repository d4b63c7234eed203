"""Bars and lines in the cell of a notebook: one display that is updated, without widgets."""

from __future__ import annotations

import builtins
import html
import importlib.util
from collections.abc import Iterable
from typing import Any

from statetrain.logs.bars import Bar, clock
from statetrain.naming import printable

_FIRST, _LAST = 4, 16  # lines that are shown of many


def in_notebook() -> bool:
    """Whether this is a notebook, whose cells IPython draws."""
    shell = getattr(builtins, "get_ipython", None)
    if shell is None or importlib.util.find_spec("IPython") is None:
        return False
    kind = type(shell())
    return kind.__name__ == "ZMQInteractiveShell" or kind.__module__.startswith("google.colab")


class CellBars:
    """Lines, and bars below them that vanish when they are stopped.

    Of many lines, the middle is left out: no run floods its cell.
    """

    def __init__(self) -> None:
        """Opens the display, which is empty at first."""
        from IPython.display import display

        self._lines: list[str] = []
        self._bars: list[Bar] = []
        self._below = ""  # HTML
        show: Any = display  # untyped where IPython is installed, unknown where it is not
        self._handle: Any = show(self._bundle(), raw=True, display_id=True)

    def draw(self, bars: Iterable[Bar]) -> None:
        """Draws the bars in the place of those before."""
        self._bars = list(bars)
        self._update()

    def line(self, text: str, style: str = "") -> None:
        """Adds a line above the bars."""
        self._lines.append(printable(text))
        self._update()

    def below(self, content: str) -> None:
        """Shows HTML below the bars, in the place of what was there."""
        self._below = content
        self._update()

    def stop(self) -> None:
        """Removes the bars."""
        self._bars = []
        self._update()

    def _update(self) -> None:
        self._handle.update(self._bundle(), raw=True)

    def _bundle(self) -> dict[str, str]:
        lines = self._shown()
        bars = "".join(map(_draw_bar, self._bars))
        return {
            "text/plain": "\n".join(lines),
            "text/html": (
                '<div style="font: 12px/1.5 monospace; white-space: pre; overflow-x: auto">'
                f"{html.escape(chr(10).join(lines))}{bars}</div>{self._below}"
            ),
        }

    def _shown(self) -> list[str]:
        left_out = len(self._lines) - _FIRST - _LAST
        if left_out < 2:
            return self._lines
        more = f"[{left_out:,} lines more]"
        return [*self._lines[:_FIRST], more, *self._lines[-_LAST:]]


def _draw_bar(bar: Bar) -> str:
    left = ""
    if bar.left is not None:
        left = f"{clock(bar.left)} left"
    share = ""
    if bar.share is not None:
        share = f' value="{min(1.0, bar.share):.4f}"'
    head, tail = html.escape(printable(f"{bar.name:<8} {bar.count} ")), printable(bar.note)
    return (
        f'<div>{head}<progress max="1"{share} style="width: 220px; vertical-align: middle">'
        f"</progress> {html.escape(f'{left:>12}  {tail}')}</div>"
    )
