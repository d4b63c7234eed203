"""Where everything in the picture goes.

The states stand below each other in reading order, so the main way runs straight down. Scopes are
boxes around them; two scopes that follow each other stand side by side. Every other arrow leaves
its state sideways, at a place of its own that carries its label, runs up or down a lane beside the
boxes that it passes, and enters its goal from the side. Arrows of a kind to the same goal share a
lane. So nothing is searched for: labels cover nothing, and a small edit of the table is a small
change of the picture.

`grid` decides rows, columns and ways, `heights` and `widths` place them, `routing` draws the lines.
"""

from __future__ import annotations

from statetrain.diagram.boxes import ROOT
from statetrain.diagram.grid import arrange
from statetrain.diagram.heights import place_down
from statetrain.diagram.picture import Picture
from statetrain.diagram.route import Point
from statetrain.diagram.routing import routes_of, where_dot
from statetrain.diagram.widths import place_across, settle


class Placement:
    """The places of a picture's boxes, dots and arrows.

    Attributes:
        picture: what is shown.
        boxes: by name; `ROOT` is the whole picture.
        dots: by name; their middles.
        routes: the arrows, those that matter most last.
    """

    def __init__(self, picture: Picture) -> None:
        """Places everything."""
        self.picture = picture
        grid = arrange(picture)
        self.boxes = grid.boxes
        root = grid.boxes[ROOT]
        place_down(grid, root, 0.0)
        place_across(grid, root)
        settle(root, root.left)
        self.dots = {dot: where_dot(grid, dot) for dot in sorted(picture.dots)}
        self.routes = routes_of(grid, self.dots)

    @property
    def size(self) -> Point:
        """The width and the height of the whole."""
        root = self.boxes[ROOT]
        return root.left + root.right, root.bottom
