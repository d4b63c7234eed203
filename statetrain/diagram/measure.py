"""Sizes in the picture, in points."""

from __future__ import annotations

import textwrap
import unicodedata

from attrs import frozen

from statetrain.diagram.picture import Arrow, Picture
from statetrain.diagram.theme import NAME, WORDS
from statetrain.lifecycle.state import FAILED, START
from statetrain.lifecycle.text import OTHER_ERRORS

LINE = 11.5  # from one line of words to the next
WRAP = 30  # characters of a line of words
BOX, HEAD, DOT = 26.0, 24.0, 8.0  # heights of a state, of a scope's head, of a dot
RING = 4.0  # the space in a double border
GAP, PAD = 16.0, 12.0  # between states, inside a border
FIRST, LANE = 15.0, 11.0  # from boxes to the first lane, from lane to lane

_WIDTHS = {  # of the letters of Helvetica and Arial, in thousandths of the size
    191: "'", 222: "ijl`", 260: "|", 278: " !,./:;I[\\]ft", 333: "()-r{}", 355: '"', 389: "*",
    469: "^", 500: "Jcksvxyz", 556: "#$0123456789?L_abdeghnopqu", 584: "+<=>~", 611: "FTZ",
    667: "&ABEKPSVXY", 722: "CDHNRUw", 778: "GOQ", 833: "Mm", 889: "%", 944: "W", 1015: "@",
}  # fmt: skip
_WIDTH = {letter: width for width, letters in _WIDTHS.items() for letter in letters}


def width_of(text: str, size: float) -> float:
    """The width of a line of text."""
    return sum(map(_width_of_letter, text)) * size / 1000


def _width_of_letter(letter: str) -> int:
    known = _WIDTH.get(letter)
    if known is not None:
        return known
    if unicodedata.east_asian_width(letter) in "WF":
        return 1000
    return 600


@frozen
class ArrowLabel:
    """The text next to an arrow: lines for when it is taken, and lines for what it does."""

    when: tuple[str, ...]
    then: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.when, *self.then)

    @property
    def width(self) -> float:
        """The width of the longest line, with room for a font that is a little wider."""
        return max((width_of(line, WORDS) * 1.05 for line in self.lines), default=0.0)


def label_of_arrow(arrow: Arrow) -> ArrowLabel:
    """An arrow's label. The main way needs no "else": it can be seen."""
    parts = [str(arrow.number or ""), arrow.event, _condition(arrow), arrow.times]
    when = " ".join(filter(None, parts))
    then = ""
    if arrow.effect:
        then = f"/ {arrow.effect}"
    return ArrowLabel(tuple(textwrap.wrap(when, WRAP)), tuple(textwrap.wrap(then, WRAP)))


def _condition(arrow: Arrow) -> str:
    if arrow.guard:
        return f"[{arrow.guard}]"
    if arrow.other and arrow.kind == "plain":
        return "else"
    return ""


def size_of(shown: Picture, name: str) -> tuple[float, float]:
    """The width and the least height of a state."""
    if name == START:
        return DOT, DOT
    if name == FAILED:
        return width_of(OTHER_ERRORS, WORDS) + 20.0 + 2 * RING, BOX + LINE + 2 * RING
    ring = RING * shown.life.state(name).final
    return width_of(shown.title(name), NAME) + 24.0 + 2 * ring, BOX + 2 * ring
