"""Where everything in the picture goes.

The states stand below each other in reading order, so the main way runs straight down. Scopes are boxes around them; two
scopes that follow each other stand side by side. Every other arrow leaves its state sideways, at a place of its own that
carries its words, runs up or down a lane beside the boxes that it passes, and enters its goal from the side. Arrows of a
kind to the same goal share a lane. So nothing is searched for: words cover nothing, and a small edit of the table is a
small change of the picture.

Lengths are in points; x grows to the right, y downwards.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator
from typing import Literal

from attrs import define, field, frozen

from statetrain.diagram.picture import OTHER_ERRORS, Arrow, Picture, events_of, start_of
from statetrain.lifecycle import FAILED, START

Side = Literal["left", "right"]
Point = tuple[float, float]

NAME, WORDS = 12.0, 9.5  # sizes of type
LINE = 11.5  # from one line of words to the next
WRAP = 30  # characters of a line of words
BOX, TITLE, DOT = 26.0, 24.0, 8.0  # heights of a state, of a scope's head, of a dot
GAP, PAD, LANE = 16.0, 12.0, 11.0  # between states, inside a border, between lanes
JOIN = 9.0  # how far an arrow follows the one that it joins
ROOT = ""  # the outside of all scopes

_WIDTHS = {  # of the letters of Helvetica and Arial, in thousandths of the size
    191: "'", 222: "ijl`", 260: "|", 278: " !,./:;I[\\]ft", 333: "()-r{}", 355: '"', 389: "*", 469: "^", 500: "Jcksvxyz",
    556: "#$0123456789?L_abdeghnopqu", 584: "+<=>~", 611: "FTZ", 667: "&ABEKPSVXY", 722: "CDHNRUw", 778: "GOQ",
    833: "Mm", 889: "%", 944: "W", 1015: "@",
}  # fmt: skip
_WIDTH = {letter: width for width, letters in _WIDTHS.items() for letter in letters}


def width_of(text: str, size: float) -> float:
    """The width of a line of type."""
    wide = {"W": 1000, "F": 1000}
    return sum(_WIDTH.get(c) or wide.get(unicodedata.east_asian_width(c), 600) for c in text) * size / 1000


@frozen
class Words:
    """What stands beside an arrow: lines that say when it is taken, and lines that say what it does."""

    when: tuple[str, ...]
    then: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.when, *self.then)

    @property
    def width(self) -> float:
        """The width of the longest line; emphasis makes it a little wider."""
        return max((width_of(line, WORDS) * 1.05 for line in (*self.when, *self.then)), default=0.0)


def words_of(arrow: Arrow) -> Words:
    """An arrow's words. The main way needs no "else": it is seen."""
    number = str(arrow.number) if arrow.number else ""
    guard = f"[{arrow.guard}]" if arrow.guard else "else" if arrow.other and arrow.kind == "plain" else ""
    when = " ".join(part for part in (number, arrow.event, guard) if part)
    then = f"/ {arrow.effect}" if arrow.effect else ""
    return Words(tuple(textwrap.wrap(when, WRAP)), tuple(textwrap.wrap(then, WRAP)))


@define
class Port:
    """A place at the side of a box where one arrow leaves, or where arrows arrive."""

    above: float = 5.0
    below: float = 5.0
    y: float = 0.0


@define
class Box:
    """A state or a scope; a scope's head carries its name and its dots.

    Attributes:
        column: which column of its scope it stands in.
        row: likewise.
        rows: what is in a scope.
        x: the middle of a state; of a scope, where its main way runs down.
        left: from there to the left border.
        right: from there to the right border.
        top: the upper border.
        bottom: the lower border.
        head: where a scope's head ends.
        ports: where arrows meet its sides; keyed by the arrow that leaves, or by the kind that arrives.
        reach: how far words reach out at its sides.
        lanes: of a scope, the x of each lane, from its middle.
    """

    id: str
    column: int = 0
    row: int = 0
    rows: list[list[Box]] = field(factory=list)
    x: float = 0.0
    left: float = 0.0
    right: float = 0.0
    top: float = 0.0
    bottom: float = 0.0
    head: float = 0.0
    ports: dict[Side, dict[object, Port]] = field(factory=lambda: {"left": {}, "right": {}})
    reach: dict[Side, float] = field(factory=lambda: {"left": 0.0, "right": 0.0})
    lanes: dict[object, float] = field(factory=dict)
    gutters: list[float] = field(factory=list)

    @property
    def columns(self) -> int:
        return max((len(row) for row in self.rows), default=1)


@define
class Way:
    """How an arrow gets to its goal: straight down, or out at one side, along a lane of a scope, and in at a side."""

    arrow: Arrow
    straight: bool = False
    scope: str = ROOT
    gutter: int = 0
    out: Side = "right"
    into: Side = "right"

    @property
    def lane(self) -> object:
        return (self.gutter, self.arrow.head, self.arrow.kind)

    @property
    def arrival(self) -> object:
        return "event" if self.arrow.kind == "event" else "arrow"


class Layout:
    """The places of a picture's boxes, arrows and words.

    Attributes:
        boxes: by id.
        ways: one for each arrow.
    """

    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        self.boxes: dict[str, Box] = {}
        self.around: dict[str, tuple[str, ...]] = {}  # the scopes around a box or dot, from the outside, and itself
        self._grid(ROOT, (ROOT,))
        self.ways = [self._way(arrow) for arrow in picture.arrows]
        self._straighten()
        self._ports()
        self._down(self.boxes[ROOT], 0.0)
        self._across(self.boxes[ROOT])
        self._settle(self.boxes[ROOT], 0.0)

    # ------------------------------------------------------------ who is beside whom

    def _grid(self, id: str, around: tuple[str, ...]) -> Box:  # noqa: A002  # the word
        box = self.boxes[id] = Box(id)
        self.around[id] = around
        scopes = self.picture.scopes
        names = self.picture.children(id or None) if id in scopes or id == ROOT else ()
        for dot in (start_of(id), events_of(id)):
            if dot in self.picture.dots:
                self.around[dot] = (*around, dot)
        cells = [START, *names, FAILED] if id == ROOT else list(names)
        for name in cells:
            child = self._grid(name, (*around, name))
            pair = name in scopes and box.rows and len(box.rows[-1]) == 1 and box.rows[-1][0].id in scopes
            if pair:
                box.rows[-1].append(child)
            else:
                box.rows.append([child])
            child.row, child.column = len(box.rows) - 1, len(box.rows[-1]) - 1
        return box

    def _way(self, arrow: Arrow) -> Way:
        tail, head = self.around[arrow.tail], self.around[arrow.head]
        shared = 1
        while shared < min(len(tail), len(head)) - 1 and tail[shared] == head[shared]:
            shared += 1
        scope, here, there = tail[shared - 1], self.boxes.get(tail[shared]), self.boxes.get(head[shared])
        if here is None or there is None:  # a dot; its scope's name is to its left
            other = here or there
            if other is None or other.column == 0:
                return Way(arrow, False, scope, 1)
            return Way(arrow, False, scope, 1, *(("left", "right") if here else ("right", "left")))
        if here.column < there.column:
            return Way(arrow, False, scope, there.column, "right", "left")
        if here.column > there.column:
            return Way(arrow, False, scope, here.column, "left", "right")
        side: Side = "right" if there.row > here.row and arrow.head != FAILED else "left"
        side = self._free(tail[shared:]) or self._free(head[shared:]) or side
        return Way(arrow, False, scope, here.column + (side == "right"), side, side)

    def _free(self, path: tuple[str, ...]) -> Side | None:
        """The side on which an arrow gets out of the scopes that hold two columns; None if either will do."""
        for scope, cell in zip(path, path[1:], strict=False):
            box = self.boxes.get(cell)
            if box is not None and len(self.boxes[scope].rows[box.row]) > 1:
                return "left" if box.column == 0 else "right"
        return None

    def _straighten(self) -> None:
        """Lets the main way run straight down to the next state."""
        taken: set[tuple[str, int]] = set()
        for way in sorted(self.ways, key=lambda way: way.arrow.kind not in ("hot", "main")):
            arrow = way.arrow
            scope, below = self.boxes[way.scope], self.boxes.get(arrow.head)
            if below is None or below.column or self.around[arrow.head][-2:-1] != (scope.id,) or arrow.kind == "event":
                continue
            above = self.boxes.get(arrow.tail)
            row = -1 if arrow.tail == start_of(scope.id) else above.row if above is not None and above.id not in self.picture.scopes else None
            if row is None or (above is not None and self.around[arrow.tail][-2] != scope.id):
                continue
            if below.row == row + 1 and (scope.id, below.row) not in taken:
                taken.add((scope.id, below.row))
                way.straight = True

    def _ports(self) -> None:
        for way in self.ways:
            if way.straight:
                continue
            words = words_of(way.arrow)
            tail, head = self._owner(way.arrow.tail), self._owner(way.arrow.head)
            port = Port(max(5.0, len(words.when) * LINE + 3.0), max(5.0, len(words.then) * LINE + 3.0))
            tail.ports[way.out][way.arrow] = port
            tail.reach[way.out] = max(tail.reach[way.out], words.width + 8.0)
            head.ports[way.into].setdefault(way.arrival, Port())
        for box in self.boxes.values():
            for side, first in (("left", False), ("right", True)):
                ports = box.ports[side]
                order = sorted(ports.items(), key=lambda item: isinstance(item[0], str) != first)
                ports.clear()
                ports.update(order)

    def _owner(self, id: str) -> Box:  # noqa: A002  # the word
        return self.boxes.get(id) or self.boxes[self.around[id][-2]]

    # ------------------------------------------------------------ how far down

    def _down(self, box: Box, top: float) -> None:
        box.top = top
        needs = {side: sum(port.above + port.below for port in box.ports[side].values()) for side in ("left", "right")}
        if not box.rows:
            size = DOT if box.id == START else BOX + (LINE if box.id == FAILED else 0.0)
            box.bottom = top + max(size, *(need + 4.0 for need in needs.values()))
            for side, need in needs.items():
                self._stack(box, side, (top + box.bottom - need) / 2)
            return
        if box.id != ROOT:
            outs = sum(p.above + p.below for key, p in box.ports["left"].items() if isinstance(key, Arrow))
            box.head = top + max(TITLE, TITLE + outs, needs["right"] + 4.0)
            self._stack(box, "right", top + 2.0)
            self._stack(box, "left", top + TITLE)
            for i, port in enumerate(p for key, p in box.ports["left"].items() if not isinstance(key, Arrow)):
                port.y = top + TITLE / 2 + 8.0 * i
        y = box.head or top
        for i, row in enumerate(box.rows):
            gap = 6.0 if i == 0 and box.id != ROOT else GAP
            down = next((w.arrow for w in self.ways if w.straight and w.arrow.head == row[0].id), None)
            if down is not None:
                words = words_of(down)
                gap = max(GAP, (len(words.when) + len(words.then)) * LINE + 12.0)
            y += gap
            for cell in row:
                self._down(cell, y)
            y = max(cell.bottom for cell in row)
        box.bottom = y + (PAD if box.id != ROOT else 0.0)

    def _stack(self, box: Box, side: Side, y: float) -> None:
        for port in box.ports[side].values():
            port.y = y + port.above
            y += port.above + port.below

    # ------------------------------------------------------------ how far across

    def _across(self, box: Box) -> None:
        if not box.rows:
            half = width_of(box.id, NAME) / 2 + 12.0
            if box.id == START:
                half = DOT / 2
            if box.id == FAILED:
                half = width_of(OTHER_ERRORS, WORDS) / 2 + 10.0
            box.left = box.right = half
            return
        for row in box.rows:
            for cell in row:
                self._across(cell)
        edge = 0.0
        middles: list[float] = []
        lanes = self._lanes(box)
        for column in range(box.columns):
            cells = [row[column] for row in box.rows if len(row) > column]
            left = max(cell.left + (cell.reach["left"] if not cell.rows else 0.0) for cell in cells)
            right = max(cell.right + (cell.reach["right"] if not cell.rows else 0.0) for cell in cells)
            if column == 0:
                beside = [words_of(way.arrow).width + 6.0 for way in self.ways if way.straight and way.scope == box.id]
                right = max([right, *beside])
                box.left = left + self._gutter(box, lanes, 0, -left, -1)
                middles.append(0.0)
            else:
                middles.append(edge + left)
            for row in box.rows:
                if len(row) > column:
                    row[column].x = middles[-1]
            edge = middles[-1] + right
            edge += self._gutter(box, lanes, column + 1, edge, 1)
        box.right = edge
        if box.id != ROOT:
            box.left = max(box.left, width_of(box.id, NAME) + 28.0, box.reach["left"] + 14.0)
            box.right = max(box.right, box.reach["right"] + 14.0)

    def _lanes(self, box: Box) -> list[tuple[object, float, float]]:
        spans: dict[object, list[float]] = {}
        for way in self.ways:
            if not way.straight and way.scope == box.id:
                spans.setdefault(way.lane, []).extend(self._heights(way))
        return sorted(((key, min(ys), max(ys)) for key, ys in spans.items()), key=lambda span: span[2] - span[1])

    def _gutter(self, box: Box, lanes: list[tuple[object, float, float]], gutter: int, edge: float, sign: int) -> float:
        """Sets the lanes of one gutter; returns its width."""
        full: list[list[tuple[float, float]]] = []
        for key, low, high in lanes:
            if key[0] != gutter:  # type: ignore[index]
                continue
            for i, spans in enumerate(full):
                if all(high + 6.0 < a or b < low - 6.0 for a, b in spans):
                    break
            else:
                i = len(full)
                full.append([])
            full[i].append((low, high))
            box.lanes[key] = edge + sign * LANE * (i + 1)
        return LANE * len(full) + PAD

    def _heights(self, way: Way) -> tuple[float, float]:
        out = self._owner(way.arrow.tail).ports[way.out][way.arrow].y
        into = self._owner(way.arrow.head).ports[way.into][way.arrival].y
        return out, into

    def _settle(self, box: Box, x: float) -> None:
        box.x += x
        for row in box.rows:
            for cell in row:
                self._settle(cell, box.x)

    # ------------------------------------------------------------ what is drawn

    def points(self, way: Way) -> list[Point]:
        """The corners of an arrow, from its tail to its head."""
        tail, head = self._owner(way.arrow.tail), self._owner(way.arrow.head)
        if way.straight:
            start = tail.top + TITLE / 2 + DOT / 2 if way.arrow.tail != tail.id else tail.bottom
            return [(tail.x, start), (tail.x, head.top)]
        out, into = self._heights(way)
        lane = self.boxes[way.scope].x + self.boxes[way.scope].lanes[way.lane]
        begin, joint = (self._edge(way.arrow.tail, way.out), out), (lane, out)
        if self.joins(way):
            return [begin, joint, (lane, out + (JOIN if into > out else -JOIN))]
        return [begin, joint, (lane, into), (self._edge(way.arrow.head, way.into), into)]

    def joins(self, way: Way) -> bool:
        """Whether an arrow only runs into one that comes along the same lane from further away."""
        out, into = self._heights(way)
        for other in () if way.straight else self.ways:
            if other is not way and not other.straight and (other.scope, other.lane) == (way.scope, way.lane):
                start, _ = self._heights(other)
                if (start - into) * (out - into) > 0 and abs(start - into) > abs(out - into):
                    return True
        return False

    def _edge(self, id: str, side: Side) -> float:  # noqa: A002
        box = self._owner(id)
        if id != box.id:
            return box.x + DOT / 2
        return box.x + (box.right if side == "right" else -box.left)

    def label(self, way: Way) -> tuple[Point, Point]:
        """The upper left corners of an arrow's words: of when it is taken, and of what it does."""
        words = words_of(way.arrow)
        if way.straight:
            (x, low), (_, high) = self.points(way)
            y = (low + high - len(words.lines) * LINE) / 2 - 2.0
            return (x + 6.0, y), (x + 6.0, y + len(words.when) * LINE)
        x, y = self.points(way)[0]
        inward = way.arrow.tail in self.picture.scopes  # the words of a scope's events stand inside it
        x += 6.0 if (way.out == "right") != inward else -6.0 - words.width
        return (x, y - len(words.when) * LINE - 1.0), (x, y + 1.0)
