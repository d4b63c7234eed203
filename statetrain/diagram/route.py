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
        words: what stands beside it.
        when: the upper left corner of the words that say when it is taken.
        then: the upper left corner of the words that say what it does.
    """

    arrow: Arrow
    points: tuple[Point, ...]
    joins: bool
    words: ArrowLabel
    when: Point
    then: Point

    @property
    def curve(self) -> list[Point]:
        """The line with round bends, as a Bezier curve: a point, then three for each piece. The tip is left out."""
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
        turns = after is None or not any(
            last[axis] == point[axis] == after[axis] for axis in (0, 1)
        )
        if turns and point != last:
            yield point
            last = point


def _toward(start: Point, goal: Point, far: float) -> Point:
    """The point that lies so far from the start, and at most halfway to the goal."""
    length = abs(goal[0] - start[0]) + abs(goal[1] - start[1])
    part = min(far / length, 0.5) if length else 0.0
    return start[0] + (goal[0] - start[0]) * part, start[1] + (goal[1] - start[1]) * part
