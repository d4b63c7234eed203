"""Where everything in the picture goes.

The states stand below each other in reading order, so the main way runs straight down. Scopes are
boxes around them; two scopes that follow each other stand side by side. Every other arrow leaves
its state sideways, at a place of its own that carries its words, runs up or down a lane beside the
boxes that it passes, and enters its goal from the side. Arrows of a kind to the same goal share a
lane. So nothing is searched for: words cover nothing, and a small edit of the table is a small
change of the picture.

Lengths are in points; x grows to the right, y downwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Literal

from attrs import define, field

from statetrain.diagram.measure import (
    DOT,
    FIRST,
    GAP,
    HEAD,
    LANE,
    LINE,
    PAD,
    size_of,
    width_of,
    words_of,
)
from statetrain.diagram.picture import Arrow, Picture, events_of, start_of
from statetrain.diagram.route import Point, Route
from statetrain.diagram.theme import NAME
from statetrain.lifecycle.lifecycle import FAILED, START

Side = Literal["left", "right"]
_SIDES: tuple[Side, ...] = ("left", "right")

ROOT = ""  # the outside of all scopes
JOIN = 10.0  # how far an arrow runs along the one that it joins


@define(eq=False)
class Port:
    """A place at the side of a box where one arrow leaves, or where arrows arrive.

    Attributes:
        node: the state, scope or dot that is left or reached.
        above: the space that it needs above its line.
        below: the space that it needs below its line.
        y: the line.
    """

    node: str
    above: float = 5.0
    below: float = 5.0
    y: float = 0.0


@define(eq=False)
class Box:
    """A state or a scope; a scope's head carries its name and its dots.

    Attributes:
        rows: what is in a scope, row by row.
        row: where in its scope it stands.
        column: likewise.
        x: the middle of a state; of a scope, where the main way runs down. Before it is settled,
            from its scope's.
        left: from there to the left border.
        right: from there to the right border.
        top: the upper border.
        bottom: the lower border.
        ports: where arrows meet its sides, by the arrow that leaves or by `_arrival`.
        lanes: of a scope: from its middle to each lane.
    """

    name: str
    rows: list[list[Box]] = field(factory=list)
    row: int = 0
    column: int = 0
    x: float = 0.0
    left: float = 0.0
    right: float = 0.0
    top: float = 0.0
    bottom: float = 0.0
    ports: dict[Side, dict[object, Port]] = field(factory=lambda: {"left": {}, "right": {}})
    lanes: dict[object, float] = field(factory=dict)

    @property
    def cells(self) -> list[Box]:
        """What is in a scope."""
        return [cell for row in self.rows for cell in row]


@define
class Way:
    """How an arrow gets to its goal: straight down, or out at one side, along a lane of a scope, and in at a side.

    Attributes:
        scope: the innermost scope around both ends; the lane is one of its.
        gutter: the strip of lanes left of the scope's column of that number.
    """

    arrow: Arrow
    scope: str
    gutter: int = 1
    out: Side = "right"
    into: Side = "right"
    straight: bool = False

    @property
    def lane(self) -> tuple[int, str, str]:
        """Arrows for which this is equal share a lane."""
        return (self.gutter, self.arrow.head, self.arrow.kind)


class Layout:
    """The places of a picture's boxes, dots and arrows.

    Attributes:
        boxes: by name; `ROOT` is the whole picture.
        dots: by name; their middles.
        routes: the arrows, those that matter most last.
    """

    def __init__(self, picture: Picture) -> None:
        """Places everything."""
        self.picture = picture
        self.boxes: dict[str, Box] = {}
        # What a box or a dot lies in, from the outside, and itself
        self._around: dict[str, tuple[str, ...]] = {}
        root = self._grid(ROOT, (ROOT,))
        self._ways = [self._way(arrow) for arrow in picture.arrows]
        self._straighten()
        self._open_ports()
        self._down(root, 0.0)
        self._across(root)
        self._settle(root, root.left)
        self.dots = {dot: self._dot(dot) for dot in sorted(picture.dots)}
        order = ("event", "plain", "failure", "main", "hot")
        self.routes = [
            self._route(way)
            for way in sorted(self._ways, key=lambda way: order.index(way.arrow.kind))
        ]

    @property
    def size(self) -> Point:
        """The width and the height of the whole."""
        root = self.boxes[ROOT]
        return root.left + root.right, root.bottom

    # -------------------- who stands where, and which way arrows go

    def _grid(self, name: str, around: tuple[str, ...], *, wide: bool = True) -> Box:
        """Sets out a scope; `wide` is whether two scopes may stand side by side in it, which is done on one level only."""
        box = self.boxes[name] = Box(name)
        self._around[name] = around
        self._around.update({dot: (*around, dot) for dot in (start_of(name), events_of(name))})
        scopes = self.picture.scopes
        cells = self.picture.children(name or None) if name in scopes or name == ROOT else ()
        rows: list[list[str]] = []
        for cell in (START, *cells, FAILED) if name == ROOT else cells:
            if wide and cell in scopes and rows and len(rows[-1]) == 1 and rows[-1][0] in scopes:
                rows[-1].append(cell)
            else:
                rows.append([cell])
        for row in rows:
            box.rows.append(
                [self._grid(cell, (*around, cell), wide=wide and len(row) == 1) for cell in row]
            )
            for column, inner in enumerate(box.rows[-1]):
                inner.row, inner.column = len(box.rows) - 1, column
        return box

    def _way(self, arrow: Arrow) -> Way:
        tail, head = self._around[arrow.tail], self._around[arrow.head]
        shared = 1
        while shared < min(len(tail), len(head)) - 1 and tail[shared] == head[shared]:
            shared += 1
        scope, here, there = (
            tail[shared - 1],
            self.boxes.get(tail[shared]),
            self.boxes.get(head[shared]),
        )
        column = here.column if here else 0, there.column if there else 0
        if column[0] < column[1]:
            return Way(arrow, scope, column[1], "right", "left")
        if column[0] > column[1]:
            return Way(arrow, scope, column[0], "left", "right")
        # A dot has its scope's name to its left
        forward = here is None or there is None or there.row > here.row
        usual: Side = "right" if forward and arrow.head != FAILED else "left"
        side = self._open_side(tail[shared:]) or self._open_side(head[shared:]) or usual
        return Way(arrow, scope, column[0] + (side == "right"), side, side)

    def _open_side(self, path: tuple[str, ...]) -> Side | None:
        """The side to which nothing stands beside the scopes around a state; None if both are."""
        for scope, name in itertools.pairwise(path):
            box = self.boxes.get(name)
            if box is not None and len(self.boxes[scope].rows[box.row]) > 1:
                return "left" if box.column == 0 else "right"
        return None

    def _straighten(self) -> None:
        """Lets arrows to the state below run straight down, one to each, the main way first."""
        reached = set()
        for way in sorted(self._ways, key=lambda way: way.arrow.kind not in ("hot", "main")):
            arrow, scope = way.arrow, self.boxes[way.scope]
            tail, head = self.boxes.get(arrow.tail), self.boxes.get(arrow.head)
            row = (
                tail.row
                if tail in scope.cells
                else -1
                if arrow.tail == start_of(scope.name)
                else None
            )
            leaves_scope = tail is not None and tail.name in self.picture.scopes
            if (
                head not in scope.cells
                or head is None
                or row is None
                or leaves_scope
                or head.name in reached
            ):
                continue
            if (head.row, head.column) == (row + 1, 0) and arrow.kind != "event":
                way.straight = True
                reached.add(head.name)

    def _open_ports(self) -> None:
        for way in self._ways:
            if way.straight:
                continue
            words = words_of(way.arrow)
            space = (max(5.0, len(lines) * LINE + 3.0) for lines in (words.when, words.then))
            self._owner(way.arrow.tail).ports[way.out][way.arrow] = Port(way.arrow.tail, *space)
            self._owner(way.arrow.head).ports[way.into].setdefault(
                _arrival(way.arrow), Port(way.arrow.head)
            )
        for box in (
            self.boxes.values()
        ):  # so that few lines cross: arrivals from above first, arrivals from below last
            for side in _SIDES:
                first = side == "right"
                box.ports[side] = dict(
                    sorted(
                        box.ports[side].items(),
                        key=lambda item: isinstance(item[0], Arrow) == first,
                    )
                )

    def _owner(self, node: str) -> Box:
        """The box with the ports of a state, a scope or a dot."""
        return self.boxes.get(node) or self.boxes[self._around[node][-2]]

    # ------------------------------------------------------------ down

    def _down(self, box: Box, top: float) -> None:
        box.top = top
        if not box.rows:
            space = [
                sum(port.above + port.below for port in box.ports[side].values()) for side in _SIDES
            ]
            box.bottom = top + max(
                size_of(self.picture, box.name)[1], *(need + 4.0 for need in space)
            )
            for side, need in zip(_SIDES, space, strict=True):
                _stack(box.ports[side].values(), (top + box.bottom - need) / 2)
            return
        y = top if box.name == ROOT else self._head(box)
        for i, row in enumerate(box.rows):
            if i or box.name != ROOT:
                down = [
                    words_of(way.arrow)
                    for way in self._ways
                    if way.straight and way.arrow.head == row[0].name
                ]
                y += max(
                    GAP if i else 8.0, *(len(words.lines) * LINE + 12.0 for words in down), 0.0
                )
            if row[0].name == FAILED and self._beside(box.rows[i - 1][0]):
                y = box.rows[i - 1][0].top
            for cell in row:
                self._down(cell, y)
            y = max(
                [cell.bottom for cell in row] + [cell.bottom for cell in box.rows[i - 1]] * (i > 0)
            )
        box.bottom = y + (PAD if box.name != ROOT else 0.0)

    def _head(self, box: Box) -> float:
        """Places the ports of a scope's head; returns where it ends."""
        first = next(iter(box.ports["right"].values()), None)
        beside_dot = (
            HEAD / 2 - first.above
            if first is not None and first.node == start_of(box.name)
            else 0.0
        )
        right = _stack(box.ports["right"].values(), box.top + max(2.0, beside_dot))
        arriving = [
            port
            for key, port in box.ports["left"].items()
            if not isinstance(key, Arrow) and port.node == box.name
        ]
        for i, port in enumerate(
            arriving
        ):  # they end at the border, beside the name; all others pass below it
            port.y = box.top + HEAD / 2 + 8.0 * i
        return max(
            right + 2.0,
            _stack(
                (port for port in box.ports["left"].values() if port not in arriving),
                box.top + HEAD,
            ),
        )

    # ------------------------------------------------------------ across

    def _across(self, box: Box) -> None:
        if not box.rows:
            box.left = box.right = size_of(self.picture, box.name)[0] / 2
            return
        for cell in box.cells:
            self._across(cell)
        beside = [
            words_of(way.arrow).width + 8.0
            for way in self._ways
            if way.straight and way.scope == box.name
        ]
        begin = edge = content = 0.0
        for column in range(max(len(row) for row in box.rows)):
            cells = [row[column] for row in box.rows if len(row) > column]
            left = max(cell.left + _outside(cell, "left") for cell in cells)
            right = max(cell.right + _outside(cell, "right") for cell in cells)
            middle = edge + left if column else 0.0
            if column == 0:
                left = max(left, _dots_reach(box, "left"))
                right = max(
                    right,
                    _dots_reach(box, "right"),
                    *beside,
                    self._ends_width() - left if box.name == ROOT else 0.0,
                )
                begin, box.left = -left, left + self._gutter(box, 0, -left, -1)
            for cell in cells:
                cell.x = middle
            content = middle + right
            edge = content + self._gutter(box, column + 1, content, 1)
        box.right = edge
        if box.name != ROOT:
            # Words stand between the middle and the border, and beyond the lanes that pass them.
            left_words = _reach(box, "left") + (
                box.left if self._passes_head(box, "left") else 16.0
            )
            right_words = _reach(box, "right") + (edge if self._passes_head(box, "right") else 16.0)
            box.left = max(box.left, left_words, width_of(box.name, NAME) + 28.0)
            box.right = max(box.right, right_words)
        else:
            self._put_ends(begin, content)

    def _passes_head(self, box: Box, side: Side) -> bool:
        """Whether lanes of a scope pass the words in its head, because they lead to or from its dots."""
        dots = (start_of(box.name), events_of(box.name))
        ways = [way for way in self._ways if not way.straight and way.scope == box.name]
        return any(
            (way.arrow.tail in dots and way.out == side)
            or (way.arrow.head in dots and way.into == side)
            for way in ways
        )

    def _gutter(self, box: Box, gutter: int, edge: float, sign: int) -> float:
        """Sets the lanes of one gutter, short ones nearest; returns its width."""
        spans: dict[object, list[float]] = {}
        for way in self._ways:
            if not way.straight and way.scope == box.name and way.gutter == gutter:
                spans.setdefault(way.lane, []).extend(self._heights(way))
        lanes: list[list[tuple[float, float]]] = []
        for key, ys in sorted(spans.items(), key=lambda item: max(item[1]) - min(item[1])):
            low, high = min(ys) - 6.0, max(ys) + 6.0
            free = (
                i
                for i, lane in enumerate(lanes)
                if all(high < start or end < low for start, end in lane)
            )
            i = next(free, len(lanes))
            if i == len(lanes):
                lanes.append([])
            lanes[i].append((low, high))
            box.lanes[key] = edge + sign * (FIRST + LANE * i)
        return (FIRST + LANE * (len(lanes) - 1) if lanes else 0.0) + PAD

    def _ends_width(self) -> float:
        """The space that final states need below everything."""
        return sum(2 * self.boxes[name].left + GAP for name in self._sides())

    def _put_ends(self, left: float, right: float) -> None:
        """Moves final states that are off the main way to the side that arrows to them come from."""
        for name, side in self._sides().items():
            cell = self.boxes[name]
            cell.x = left + cell.left if side == "left" else right - cell.right

    def _sides(self) -> dict[str, Side]:
        """The final states that the main way does not lead to, if all arrows to them come from one side: which."""
        sides: dict[str, Side] = {}
        if any(len(row) > 1 for row in self.boxes[ROOT].rows):
            return sides
        for name in (*self.picture.order, FAILED):
            ways = [way for way in self._ways if way.arrow.head == name]
            into = {way.into for way in ways} or {"left"}
            if (
                (name == FAILED or self.picture.life.state(name).final)
                and len(into) == 1
                and not any(way.straight for way in ways)
            ):
                sides[name] = next(iter(into))
        return sides

    def _beside(self, end: Box) -> bool:
        """Whether `failed` can stand to the left of the final state that comes before it."""
        sides = self._sides()
        return sides.get(FAILED) == "left" and sides.get(end.name) == "right"

    def _settle(self, box: Box, x: float) -> None:
        box.x += x
        for cell in box.cells:
            self._settle(cell, box.x)

    # ------------------------------------------------------------ arrows

    def _heights(self, way: Way) -> tuple[float, float]:
        out = self._owner(way.arrow.tail).ports[way.out][way.arrow]
        into = self._owner(way.arrow.head).ports[way.into][_arrival(way.arrow)]
        return out.y, into.y

    def _dot(self, dot: str) -> Point:
        box = self._owner(dot)
        if dot == start_of(box.name):
            return box.x, box.top + HEAD / 2
        side, y = next(
            (side, port.y)
            for side in reversed(_SIDES)
            for port in box.ports[side].values()
            if port.node == dot
        )
        return box.x + 3 * DOT * (1 if side == "right" else -1), y

    def _end(self, node: str, side: Side, y: float, *, arrives: bool = False) -> tuple[Point, ...]:
        """Where an arrow meets a node whose port is at height y; a dot is met round a corner, with room for the tip."""
        if node in self.boxes:
            box = self.boxes[node]
            return ((box.x + (box.right if side == "right" else -box.left), y),)
        (x, middle), sign = self.dots[node], 1 if side == "right" else -1
        at, turn = (x + sign * DOT / 2, middle), x + sign * DOT * (2 if arrives else 1)
        return (at,) if middle == y else (at, (turn, middle), (turn, y))

    def _joins(self, way: Way) -> bool:
        """Whether an arrow runs into one that comes along the same lane from further away."""
        out, into = self._heights(way)
        for other in self._ways:
            if (
                other is not way
                and not other.straight
                and (other.scope, other.lane) == (way.scope, way.lane)
            ):
                start, _ = self._heights(other)
                if (start - into) * (out - into) > 0 and abs(start - into) > abs(out - into):
                    return True
        return False

    def _route(self, way: Way) -> Route:
        arrow, words = way.arrow, words_of(way.arrow)
        if way.straight:
            tail, head = self.boxes.get(arrow.tail), self.boxes[arrow.head]
            x, start = (
                (tail.x, tail.bottom)
                if tail
                else (self.dots[arrow.tail][0], self.dots[arrow.tail][1] + DOT / 2)
            )
            y = (
                max(start, head.top - GAP - LINE * len(words.lines))
                + head.top
                - len(words.lines) * LINE
            ) / 2 - 2.0
            return Route(
                arrow,
                ((x, start), (x, head.top)),
                False,
                words,
                (x + 7.0, y),
                (x + 7.0, y + LINE * len(words.when)),
            )
        out, into = self._heights(way)
        lane = self.boxes[way.scope].x + self.boxes[way.scope].lanes[way.lane]
        begin = self._end(arrow.tail, way.out, out)
        joins = self._joins(way)
        if joins:
            points = (
                *begin,
                (lane, out),
                (lane, max(into, out - JOIN) if into < out else min(into, out + JOIN)),
            )
        else:
            points = (
                *begin,
                (lane, out),
                (lane, into),
                *reversed(self._end(arrow.head, way.into, into, arrives=True)),
            )
        # A scope's words stand inside it
        rightwards = (way.out == "right") != (arrow.tail in self.picture.scopes)
        x = begin[-1][0] + (7.0 if rightwards else -7.0 - words.width)
        return Route(
            arrow, points, joins, words, (x, out - LINE * len(words.when) - 1.0), (x, out + 1.0)
        )


def _arrival(arrow: Arrow) -> tuple[str, bool]:
    """Arrows for which this is equal arrive at the same port."""
    return arrow.head, arrow.kind == "event"


def _stack(ports: Iterable[Port], y: float) -> float:
    for port in ports:
        port.y = y + port.above
        y += port.above + port.below
    return y


def _reach(box: Box, side: Side, node: str | None = None) -> float:
    """How far the words of arrows that leave a box at one side reach; with a node, of those that leave the node."""
    leaving = (
        key
        for key, port in box.ports[side].items()
        if isinstance(key, Arrow) and port.node == (node or box.name)
    )
    return max((words_of(arrow).width + 9.0 for arrow in leaving), default=0.0)


def _dots_reach(box: Box, side: Side) -> float:
    """How far the words of arrows that leave a scope's dots at one side reach from its middle."""
    reach = max(_reach(box, side, dot(box.name)) for dot in (start_of, events_of))
    return reach + 4 * DOT if reach else 0.0


def _outside(box: Box, side: Side) -> float:
    """How much space words need beside a box; those of a scope stand inside it."""
    return 0.0 if box.rows else _reach(box, side)
