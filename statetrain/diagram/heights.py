"""Where everything stands from top to bottom: rows below each other, ports along their boxes."""

from __future__ import annotations

from collections.abc import Iterable

from statetrain.diagram.boxes import ROOT, SIDES, Box, Port
from statetrain.diagram.grid import Grid
from statetrain.diagram.measure import GAP, HEAD, LINE, PAD, size_of
from statetrain.diagram.picture import start_of
from statetrain.lifecycle.state import FAILED


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
    y = top
    if box.name != ROOT:
        y = _place_head(box) + _gap_above(grid, box.rows[0][0], 8.0)
    for row in box.rows:
        if row[0].row:
            y += _gap_above(grid, row[0], GAP)
        if row[0].name == FAILED and grid.ends_share_a_row:
            y = box.rows[-2][0].top
        for cell in row:
            place_down(grid, cell, y)
            box.bottom = max(box.bottom, cell.bottom)
        y = box.bottom
    if box.name != ROOT:
        box.bottom += PAD


def _place_state(grid: Grid, box: Box) -> None:
    needed = [sum(port.height for port in box.ports[side]) for side in SIDES]
    height = size_of(grid.picture, box.name)[1]
    box.bottom = box.top + max(height, *(need + 4.0 for need in needed))
    for side, need in zip(SIDES, needed, strict=True):
        _stack(box.ports[side], (box.top + box.bottom - need) / 2)


def _gap_above(grid: Grid, cell: Box, least: float) -> float:
    """The space above a row, with room for the label of the arrow that runs straight down to it."""
    way = grid.straight.get(cell.name)
    if way is None:
        return least
    return max(least, len(way.label.lines) * LINE + 12.0)


def _place_head(box: Box) -> float:
    """Places the ports of a scope's head; returns where the head ends."""
    top = box.top + 2.0
    right = box.ports["right"]
    if right and right[0].node == start_of(box.name):
        top = box.top + max(2.0, HEAD / 2 - right[0].above)  # at the height of the dot
    bottom = _stack(right, top) + 2.0
    # Arrows to the border arrive next to the name, all others pass below it
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
