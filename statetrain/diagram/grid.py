"""Which box stands in which row and column, and which way each arrow goes; no lengths yet."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from attrs import define, field

from statetrain.diagram.boxes import ROOT, Box, Course, Port, Side
from statetrain.diagram.measure import LINE, label_of_arrow
from statetrain.diagram.picture import Arrow, Picture, events_of, shared_scopes, start_of
from statetrain.lifecycle.state import FAILED, START


@define(eq=False)
class Grid:
    """Boxes in rows and columns, and the ways between them.

    Attributes:
        picture: what is shown.
        boxes: by name; `ROOT` is the whole picture.
        around: the boxes around each box or dot, outermost first, and itself.
        ways: of all arrows.
        straight: the ways that run straight down, by what they lead to.
        by_scope: the other ways, by the box that their lanes are in.
        sides: the final states that are off the main way, each with the side that it is reached
            from.
    """

    picture: Picture
    boxes: dict[str, Box] = field(factory=dict)
    around: dict[str, tuple[str, ...]] = field(factory=dict)
    ways: list[Course] = field(factory=list)
    straight: dict[str, Course] = field(factory=dict)
    by_scope: dict[str, list[Course]] = field(factory=dict)
    sides: dict[str, Side] = field(factory=dict)

    def owner(self, node: str) -> Box:
        """The box with the ports of a state, a scope or a dot."""
        return self.boxes.get(node) or self.boxes[self.around[node][-2]]

    @property
    def ends_share_a_row(self) -> bool:
        """Whether `failed` stands to the left of the final state that comes before it."""
        above = self.boxes[ROOT].rows[self.boxes[FAILED].row - 1][0]
        return self.sides.get(FAILED) == "left" and self.sides.get(above.name) == "right"


def arrange(picture: Picture) -> Grid:
    """Puts the boxes into rows and columns, and decides which way each arrow goes."""
    grid = Grid(picture)
    _add_box(grid, ROOT, (ROOT,), wide=True)
    grid.ways = [_way_of(grid, arrow) for arrow in picture.arrows]
    _straighten(grid)
    for way in grid.ways:
        if not way.straight:
            grid.by_scope.setdefault(way.scope, []).append(way)
    _open_ports(grid)
    grid.sides = _sides_of_ends(grid)
    return grid


# ---------------------------------------------------------------- boxes


def _add_box(grid: Grid, name: str, around: tuple[str, ...], *, wide: bool) -> Box:
    """Adds a state, or a scope with all that is in it.

    Args:
        grid: gets the boxes.
        name: of the state.
        around: the boxes around it, and itself.
        wide: whether two scopes may stand side by side in it, which is done on one level only.
    """
    box = grid.boxes[name] = Box(name, (ROOT, *around)[-2])
    grid.around[name] = around
    for dot in (start_of(name), events_of(name)):
        grid.around[dot] = (*around, dot)
    for row in _rows_of(grid.picture, name, wide=wide):
        inner = [_add_box(grid, cell, (*around, cell), wide=wide and len(row) == 1) for cell in row]
        for column, cell in enumerate(inner):
            cell.row, cell.column = len(box.rows), column
        box.rows.append(inner)
    return box


def _rows_of(picture: Picture, name: str, *, wide: bool) -> list[list[str]]:
    """What is in a box, row by row.

    Two scopes that follow each other may share a row; three or more would be read in the wrong
    order, and stand below each other.
    """
    rows: list[list[str]] = []
    cells = _cells_of(picture, name)
    for are_scopes, group in itertools.groupby(cells, lambda cell: cell in picture.scopes):
        following = list(group)
        if wide and are_scopes and len(following) == 2:
            rows.append(following)
        else:
            rows += [[cell] for cell in following]
    return rows


def _cells_of(picture: Picture, name: str) -> Iterable[str]:
    if name == ROOT:
        return (START, *picture.children(None), FAILED)
    if name in picture.scopes:
        return picture.children(name)
    return ()


# ---------------------------------------------------------------- ways


def _way_of(grid: Grid, arrow: Arrow) -> Course:
    tail, head = grid.around[arrow.tail], grid.around[arrow.head]
    shared = shared_scopes(tail, head)
    # A dot stands above the rows, and has its scope's name to its left
    here = grid.boxes.get(tail[shared]) or Box(arrow.tail, row=-1)
    there = grid.boxes.get(head[shared]) or Box(arrow.head, row=len(grid.boxes))
    label, scope = label_of_arrow(arrow), tail[shared - 1]
    if here.column < there.column:
        return Course(arrow, label, scope, there.column, "right", "left")
    if here.column > there.column:
        return Course(arrow, label, scope, here.column, "left", "right")
    usual: Side = "left"
    if there.row > here.row and arrow.head != FAILED:
        usual = "right"
    side = _open_side(grid, tail[shared:]) or _open_side(grid, head[shared:]) or usual
    return Course(arrow, label, scope, here.column + (side == "right"), side, side)


def _open_side(grid: Grid, path: tuple[str, ...]) -> Side | None:
    """The side on which the scopes around a state are free; None if both are."""
    for scope, name in itertools.pairwise(path):
        box = grid.boxes.get(name)
        if box is not None and len(grid.boxes[scope].rows[box.row]) > 1:
            if box.column == 0:
                return "left"
            return "right"
    return None


def _straighten(grid: Grid) -> None:
    """Lets arrows to the state below run straight down, one to each, the main way first."""
    for way in sorted(grid.ways, key=lambda way: way.arrow.kind not in ("hot", "main")):
        head = way.arrow.head
        if way.arrow.kind != "event" and head not in grid.straight and _leads_below(grid, way):
            way.straight = True
            grid.straight[head] = way


def _leads_below(grid: Grid, way: Course) -> bool:
    """Whether an arrow leads from a state, or a scope's dot, to the first box of the next row."""
    head, row = grid.boxes.get(way.arrow.head), _row_of_tail(grid, way)
    if head is None or head.within != way.scope or row is None:
        return False
    return (head.row, head.column) == (row + 1, 0)


def _row_of_tail(grid: Grid, way: Course) -> int | None:
    """The row that an arrow may leave straight down; None if it cannot."""
    if way.arrow.tail == start_of(way.scope):
        return -1
    tail = grid.boxes.get(way.arrow.tail)
    if tail is None or tail.name in grid.picture.scopes or tail.within != way.scope:
        return None
    return tail.row


def _open_ports(grid: Grid) -> None:
    """Makes the ports of all boxes. Arrows of a kind to the same goal arrive at one port."""
    arrivals: dict[tuple[str, Side, bool], Port] = {}
    for way in grid.ways:
        if way.straight:
            continue
        above, below = (
            max(5.0, len(lines) * LINE + 3.0) for lines in (way.label.when, way.label.then)
        )
        tail, head = way.arrow.tail, way.arrow.head
        way.start = Port(tail, True, above, below, way.label.width)
        grid.owner(tail).ports[way.out].append(way.start)
        key = (head, way.into, way.arrow.kind == "event")
        if key not in arrivals:
            arrivals[key] = Port(head)
            grid.owner(head).ports[way.into].append(arrivals[key])
        way.end = arrivals[key]
    for box in grid.boxes.values():
        # So that few lines cross: arrivals from above first, arrivals from below last
        box.ports["right"].sort(key=lambda port: port.leaves)
        box.ports["left"].sort(key=lambda port: not port.leaves)


def _sides_of_ends(grid: Grid) -> dict[str, Side]:
    """The final states off the main way that all arrows reach from one side, and that side."""
    if any(cell.column for cell in grid.boxes[ROOT].cells):
        return {}
    reached: dict[str, set[Side]] = {}
    for way in grid.ways:
        reached.setdefault(way.arrow.head, set()).add(way.into)
    sides: dict[str, Side] = {}
    for name in (*grid.picture.finals, FAILED):
        into = reached.get(name, {"left"})
        if name not in grid.straight and len(into) == 1:
            sides[name] = next(iter(into))
    return sides
