"""What notebooks show of values: tables and text as HTML, in which no text means anything."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

FIRST, LAST = 5, 25  # rows that are shown of many

_TABLE = "border-collapse: collapse; font-variant-numeric: tabular-nums"
_WIDE = "max-width: 100%; overflow-x: auto"
# Notebooks let lines of a `pre` break anywhere, and some give it the font of prose
_LAID_OUT = "font: 12px/1.4 monospace; white-space: pre; word-break: normal"


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str = "",
    first: int = FIRST,
    last: int = LAST,
) -> str:
    """A table; of many rows, the middle is left out.

    Args:
        head: the names of the columns.
        rows: of texts.
        title: what stands above it; empty for nothing.
        first, last: how many rows are shown of its beginning and of its end; with `last=0`, the end
            is left out.
    """
    names = "".join(f'<th style="text-align: right">{_escape(name)}</th>' for name in head)
    body = "".join(_row(row) for row in rows[:first])
    rest = rows[first:]
    if len(rest) > last + 1:
        left_out = f"{len(rest) - last:,} rows more"
        body += f'<tr><td colspan="{len(head)}" style="text-align: center">{left_out}</td></tr>'
        rest = rest[len(rest) - last :]
    body += "".join(_row(row) for row in rest)
    above = ""
    if title:
        above = f"<p>{_escape(title)}</p>"
    return (
        f'{above}<div style="{_WIDE}"><table style="{_TABLE}"><thead><tr>{names}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(cells: Iterable[str]) -> str:
    inner = "".join(f'<td style="text-align: right">{_escape(cell)}</td>' for cell in cells)
    return f"<tr>{inner}</tr>"


def text(content: str) -> str:
    """A text that was laid out for a terminal."""
    return f'<pre style="{_WIDE}; {_LAID_OUT}">{_escape(content)}</pre>'


def badge(word: str, rest: str, colour: str) -> str:
    """A word that stands out, and what there is to say about it."""
    return (
        f'<p><b style="color: {colour}">{_escape(word)}</b>'
        f'<span style="margin-left: 0.8em">{_escape(rest)}</span></p>'
    )


def picture(svg: str) -> str:
    """An SVG that fits the width of the page."""
    fitting = svg.replace("<svg ", '<svg style="max-width: 100%; height: auto" ', 1)
    return f'<div style="{_WIDE}">{fitting}</div>'


def _escape(content: str) -> str:
    shown = "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in content
    )
    return html.escape(shown)
