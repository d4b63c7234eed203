"""Pieces of HTML in which no text can mean anything but itself."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

from statetrain.lifecycle.text import plain
from statetrain.validators import is_whole_number


def escape(text: str) -> str:
    """A text on one line; several lines if it has them."""
    if "\n" in text:
        return escape_lines(text)
    return html.escape(plain(text))


def escape_lines(text: str) -> str:
    """A text line by line."""
    return "\n".join(html.escape(plain(line)) for line in text.splitlines())


def section(name: str, text: str) -> str:
    """A part of the page; nothing for no text."""
    if not text:
        return ""
    head = ""
    if name:
        head = f"<h2>{escape(name)}</h2>"
    return f"<section>\n{head}\n{text}\n</section>"


def hint(what: str, how: str) -> str:
    """What is missing, and the code that records it."""
    return f'<p class="hint">{escape(what)}: <code>{escape(how)}</code></p>'


def row(name: str, *cells: str) -> str:
    """A row of a table with its name."""
    rest = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr><th scope="row">{escape(name)}</th>{rest}</tr>'


def table(head: Sequence[str], rows: Iterable[str]) -> str:
    """A table of rows that are marked up already; without a head for no names."""
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    first = ""
    if names:
        first = f"<tr>{names}</tr>"
    return f"<table>{first}{''.join(rows)}</table>"


def figure(value: object) -> str:
    """A value as a reader wants it."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}"
    if is_whole_number(value):
        return f"{value:,}"
    return str(value)
