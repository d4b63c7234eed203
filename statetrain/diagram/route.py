"""An arrow in its place, and the line that is drawn for it."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from statetrain.diagram.measure import ArrowLabel
from statetrain.diagram.picture import Arrow

Point = tuple[float, float]

BEND, TIP = 7.0, 7.5  # the radius of a bend, the length of an arrow's tip


@frozen
class Route:
    """An arrow in its place.

    Attributes:
        points: its corners, from its tail to its head.
        joins: whether it ends on another arrow to the same goal.
        label: the text next to it.
        when: the upper left corner of the lines that say when it is taken.
        then: the upper left corner of the lines that say what it does.
    """

    arrow: Arrow
    points: tuple[Point, ...]
    joins: bool
    label: ArrowLabel
    when: Point
    then: Point

    @property
    def curve(self) -> list[Point]:
        """The line with round bends, without the tip, as a Bezier curve.

        A point, then three for each piece.
        """
        points = list(_corners(self.points))
        if not self.joins:
            points[-1] = _toward(points[-1], points[-2], TIP)
        curve = [points[0]]
        for before, bend, after in zip(points, points[1:], points[2:], strict=False):
            begin, end = _toward(bend, before, BEND), _toward(bend, after, BEND)
            curve += [curve[-1], begin, begin, bend, bend, end]
        return [*curve, curve[-1], points[-1], points[-1]]


def _corners(points: tuple[Point, ...]) -> Iterator[Point]:
    """The points without those at which nothing turns."""
    yield points[0]
    last = points[0]
    for point, after in zip(points[1:], (*points[2:], None), strict=True):
        if point != last and (after is None or not _in_line(last, point, after)):
            yield point
            last = point


def _in_line(one: Point, other: Point, third: Point) -> bool:
    """Whether three points lie on a vertical or horizontal line."""
    return one[0] == other[0] == third[0] or one[1] == other[1] == third[1]


def _toward(start: Point, goal: Point, far: float) -> Point:
    """The point at a distance from the start, but at most halfway to the goal."""
    length = abs(goal[0] - start[0]) + abs(goal[1] - start[1])
    part = 0.0
    if length:
        part = min(far / length, 0.5)
    return start[0] + (goal[0] - start[0]) * part, start[1] + (goal[1] - start[1]) * part
