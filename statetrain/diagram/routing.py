"""The lines of the arrows, from port to port along their lanes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from statetrain.diagram.boxes import SIDES, SIGN, Course, Lane, Side
from statetrain.diagram.grid import Grid
from statetrain.diagram.measure import DOT, GAP, HEAD, LINE
from statetrain.diagram.picture import BoxKind, start_of
from statetrain.diagram.route import Point, Route

JOIN = 10.0  # how far an arrow runs along the one that it joins

_ORDER: tuple[BoxKind, ...] = ("event", "plain", "failure", "main", "hot")

# By lane, and whether it is reached from below: how far the arrow that comes from furthest runs
Reaches = Mapping[tuple[str, Lane, bool], float]


def where_dot(grid: Grid, dot: str) -> Point:
    """The middle of a scope's dot."""
    box = grid.owner(dot)
    if dot == start_of(box.name):
        return box.x, box.top + HEAD / 2
    ports = [(SIGN[side], port) for side in reversed(SIDES) for port in box.ports[side]]
    sign, port = next((sign, port) for sign, port in ports if port.node == dot)
    return box.x + 3 * DOT * sign, port.y


def routes_of(grid: Grid, dots: Mapping[str, Point]) -> list[Route]:
    """The lines of all arrows, those that matter most last.

    Args:
        grid: with everything in its place.
        dots: their middles.
    """
    reaches = _reaches(grid.ways)
    ways = sorted(grid.ways, key=lambda way: _ORDER.index(way.arrow.kind))
    return [_straight(grid, dots, w) if w.straight else _bent(grid, dots, w, reaches) for w in ways]


def _reaches(ways: Iterable[Course]) -> Reaches:
    reaches: dict[tuple[str, Lane, bool], float] = {}
    for way in ways:
        if not way.straight:
            key, length = _approach(way)
            reaches[key] = max(length, reaches.get(key, 0.0))
    return reaches


def _approach(way: Course) -> tuple[tuple[str, Lane, bool], float]:
    """From which side a way comes along its lane, and how far."""
    rise = way.start.y - way.end.y
    return (way.scope, way.lane, rise > 0), abs(rise)


def _straight(grid: Grid, dots: Mapping[str, Point], way: Course) -> Route:
    tail, head = grid.boxes.get(way.arrow.tail), grid.boxes[way.arrow.head]
    if tail is not None:
        x, start = tail.x, tail.bottom
    else:
        x, start = dots[way.arrow.tail]
        start += DOT / 2
    height = len(way.label.lines) * LINE
    y = (max(start, head.top - GAP - height) + head.top - height) / 2 - 2.0
    then = y + LINE * len(way.label.when)
    points = ((x, start), (x, head.top))
    return Route(way.arrow, points, False, way.label, (x + 7.0, y), (x + 7.0, then))


def _bent(grid: Grid, dots: Mapping[str, Point], way: Course, reaches: Reaches) -> Route:
    arrow, label = way.arrow, way.label
    out, into = way.start.y, way.end.y
    scope = grid.boxes[way.scope]
    lane = scope.x + scope.lanes[way.lane]
    begin = _meet(grid, dots, arrow.tail, way.out, out, turn=DOT)
    approach, length = _approach(way)
    # One that stands out does so up to its head
    joins = length > 0 and reaches[approach] > length and not arrow.stands_out
    if joins:
        step = math.copysign(min(JOIN, length), into - out)
        points = (*begin, (lane, out), (lane, out + step))
    else:
        end = _meet(grid, dots, arrow.head, way.into, into, turn=2 * DOT)
        points = (*begin, (lane, out), (lane, into), *reversed(end))
    # The label of a scope's arrow stands inside the scope
    x = begin[-1][0] + 7.0
    if (way.out == "left") != (arrow.tail in grid.picture.scopes):
        x = begin[-1][0] - 7.0 - label.width
    return Route(
        arrow, points, joins, label, (x, out - LINE * len(label.when) - 1.0), (x, out + 1.0)
    )


def _meet(
    grid: Grid, dots: Mapping[str, Point], node: str, side: Side, y: float, *, turn: float
) -> tuple[Point, ...]:
    """Where an arrow meets a node whose port is at height y.

    Args:
        grid: the boxes.
        dots: their middles.
        node: a state, a scope or a dot; a dot is met round a corner.
        side: of the node.
        y: the height of the port.
        turn: how far from a dot the corner is.
    """
    sign = SIGN[side]
    if node in grid.boxes:
        box = grid.boxes[node]
        borders = {"left": box.x - box.left, "right": box.x + box.right}
        return ((borders[side], y),)
    x, middle = dots[node]
    at = (x + sign * DOT / 2, middle)
    if middle == y:
        return (at,)
    return (at, (x + sign * turn, middle), (x + sign * turn, y))
