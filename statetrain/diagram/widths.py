"""Where everything stands from left to right: columns, the lanes next to them, and labels."""

from __future__ import annotations

from statetrain.diagram.boxes import ROOT, Box, Course, Lane, Side
from statetrain.diagram.grid import Grid
from statetrain.diagram.measure import FIRST, GAP, LANE, PAD, size_of, width_of
from statetrain.diagram.picture import events_of, start_of
from statetrain.diagram.theme import NAME


def place_across(grid: Grid, box: Box) -> None:
    """Sets the middles, left and right borders and lanes of a box and all that is in it.

    The middle of a cell is relative to that of the box around it; `settle` adds them up.
    """
    if not box.rows:
        box.left = box.right = size_of(grid.picture, box.name)[0] / 2
        return
    for cell in box.cells:
        place_across(grid, cell)
    begin = edge = content = 0.0
    for column in range(max(len(row) for row in box.rows)):
        cells = [row[column] for row in box.rows if len(row) > column]
        left = max(cell.left + cell.space_beside("left") for cell in cells)
        right = max(cell.right + cell.space_beside("right") for cell in cells)
        middle = 0.0
        if column:
            middle = edge + left
        else:
            left, right = _widen_main_column(grid, box, left, right)
            begin, box.left = -left, left + _place_lanes(grid, box, 0, -left, -1)
        for cell in cells:
            cell.x = middle
        content = middle + right
        edge = content + _place_lanes(grid, box, column + 1, content, 1)
    box.right = edge
    if box.name == ROOT:
        _put_ends_aside(grid, begin, content)
    else:
        _make_room_for_labels(grid, box)


def settle(box: Box, x: float) -> None:
    """Makes the middles of a box and all that is in it absolute.

    Args:
        box: the box.
        x: the middle of the box around it.
    """
    box.x += x
    for cell in box.cells:
        settle(cell, box.x)


def _widen_main_column(grid: Grid, box: Box, left: float, right: float) -> tuple[float, float]:
    """The reach of the main column, with the labels of the dots and of straight arrows."""
    straight = [grid.straight.get(cell.name) for cell in box.cells]
    labels = [way.label.width + 8.0 for way in straight if way is not None]
    left = max(left, box.dots_reach("left"))
    right = max([right, box.dots_reach("right"), *labels])
    if box.name == ROOT:
        ends = sum(2 * grid.boxes[name].left + GAP for name in grid.sides)
        right = max(right, ends - left)
    return left, right


def _make_room_for_labels(grid: Grid, box: Box) -> None:
    """Widens a scope: labels stand between the middle and the border, beyond the lanes there."""
    left = right = 16.0
    if _lanes_pass_head(grid, box, "left"):
        left = box.left
    if _lanes_pass_head(grid, box, "right"):
        right = box.right
    named = width_of(box.name, NAME) + 28.0
    box.left = max(box.left, box.label_reach("left") + left, named)
    box.right = max(box.right, box.label_reach("right") + right)


def _lanes_pass_head(grid: Grid, box: Box, side: Side) -> bool:
    """Whether lanes of a scope pass the labels in its head, as those of its dots do."""
    dots = (start_of(box.name), events_of(box.name))
    ends = [(way.arrow.tail, way.out) for way in grid.by_scope.get(box.name, ())]
    ends += [(way.arrow.head, way.into) for way in grid.by_scope.get(box.name, ())]
    return any(node in dots and at == side for node, at in ends)


def _place_lanes(grid: Grid, box: Box, gutter: int, edge: float, sign: int) -> float:
    """Places the lanes of one gutter, short ones nearest; returns its width.

    Args:
        grid: the ways.
        box: what the lanes are in.
        gutter: its number.
        edge: where it begins, from the middle of the box.
        sign: 1 if it extends to the right, -1 to the left.
    """
    ways = [way for way in grid.by_scope.get(box.name, ()) if way.gutter == gutter]
    taken: list[list[tuple[float, float]]] = []  # of each lane: from where to where
    for lane, (low, high) in sorted(_spans(ways).items(), key=lambda item: item[1][1] - item[1][0]):
        span = (low - 6.0, high + 6.0)
        i = next((i for i, spans in enumerate(taken) if _is_free(spans, span)), len(taken))
        if i == len(taken):
            taken.append([])
        taken[i].append(span)
        box.lanes[lane] = edge + sign * (FIRST + LANE * i)
    if not taken:
        return PAD
    return FIRST + LANE * (len(taken) - 1) + PAD


def _spans(ways: list[Course]) -> dict[Lane, tuple[float, float]]:
    """From where to where each lane reaches."""
    spans: dict[Lane, tuple[float, float]] = {}
    for way in ways:
        low, high = sorted((way.start.y, way.end.y))
        known = spans.get(way.lane, (low, high))
        spans[way.lane] = (min(low, known[0]), max(high, known[1]))
    return spans


def _is_free(spans: list[tuple[float, float]], span: tuple[float, float]) -> bool:
    return all(span[1] < low or high < span[0] for low, high in spans)


def _put_ends_aside(grid: Grid, left: float, right: float) -> None:
    """Moves final states off the main way to the side that arrows to them come from."""
    for name, side in grid.sides.items():
        cell = grid.boxes[name]
        cell.x = right - cell.right
        if side == "left":
            cell.x = left + cell.left
