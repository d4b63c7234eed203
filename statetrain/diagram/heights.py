"""Where everything stands from top to bottom: rows below each other, ports along their boxes."""

from __future__ import annotations

from collections.abc import Iterable

from statetrain.diagram.boxes import ROOT, SIDES, Box, Port
from statetrain.diagram.grid import Grid
from statetrain.diagram.measure import GAP, HEAD, LINE, PAD, size_of
from statetrain.diagram.picture import start_of
from statetrain.lifecycle.lifecycle import FAILED


def place_down(grid: Grid, box: Box, top: float) -> None:
    """Sets the upper and lower borders of a box and all that is in it, and the lines of its ports.

    Args:
        grid: the boxes and ways.
        box: the box to place.
        top: its upper border.
    """
    box.top = top
    if not box.rows:
        _place_state(grid, box)
        return
    y = top if box.name == ROOT else _place_head(box)
    for i, row in enumerate(box.rows):
        if i or box.name != ROOT:
            y += _gap_above(grid, row[0], first=i == 0)
        above = box.rows[i - 1] if i else []
        if row[0].name == FAILED and grid.ends_share_a_row:
            y = above[0].top
        for cell in row:
            place_down(grid, cell, y)
        y = max(cell.bottom for cell in (*row, *above))
    box.bottom = y if box.name == ROOT else y + PAD


def _place_state(grid: Grid, box: Box) -> None:
    needed = [sum(port.height for port in box.ports[side]) for side in SIDES]
    height = size_of(grid.picture, box.name)[1]
    box.bottom = box.top + max(height, *(need + 4.0 for need in needed))
    for side, need in zip(SIDES, needed, strict=True):
        _stack(box.ports[side], (box.top + box.bottom - need) / 2)


def _gap_above(grid: Grid, cell: Box, *, first: bool) -> float:
    """The space above a row, with room for the label of the arrow that runs straight down to it."""
    gap = 8.0 if first else GAP
    way = grid.straight.get(cell.name)
    if way is not None:
        gap = max(gap, len(way.label.lines) * LINE + 12.0)
    return gap


def _place_head(box: Box) -> float:
    """Places the ports of a scope's head; returns where the head ends."""
    top = box.top + 2.0
    right = box.ports["right"]
    if right and right[0].node == start_of(box.name):
        top = box.top + max(2.0, HEAD / 2 - right[0].above)  # at the height of the dot
    bottom = _stack(right, top) + 2.0
    # Arrows to the border arrive beside the name, all others pass below it
    at_border = [p for p in box.ports["left"] if not p.leaves and p.node == box.name]
    for i, port in enumerate(at_border):
        port.y = box.top + HEAD / 2 + 8.0 * i
    others = (port for port in box.ports["left"] if port not in at_border)
    return max(bottom, _stack(others, box.top + HEAD))


def _stack(ports: Iterable[Port], y: float) -> float:
    """Places ports below each other from a height on; returns where they end."""
    for port in ports:
        port.y = y + port.above
        y += port.height
    return y
