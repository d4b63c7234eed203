"""The parts of a layout: boxes, the ports at their sides, and the ways that arrows take.

Lengths are in points; x grows to the right, y downwards.
"""

from __future__ import annotations

from typing import Literal

from attrs import define, field

from statetrain.diagram.measure import DOT, ArrowLabel
from statetrain.diagram.picture import Arrow, events_of, start_of

Side = Literal["left", "right"]
SIDES: tuple[Side, ...] = ("left", "right")
SIGN: dict[Side, int] = {"left": -1, "right": 1}

ROOT = ""  # the name of the box around everything


@define(eq=False)
class Port:
    """A place at the side of a box where one arrow leaves, or where arrows arrive.

    Attributes:
        node: the state, scope or dot that is left or reached.
        leaves: whether an arrow leaves here.
        above: the space that it needs above its line.
        below: the space that it needs below its line.
        width: of the label of the arrow that leaves; 0 where arrows arrive.
        y: the line.
    """

    node: str
    leaves: bool = False
    above: float = 5.0
    below: float = 5.0
    width: float = 0.0
    y: float = 0.0

    @property
    def height(self) -> float:
        """The space that it needs."""
        return self.above + self.below


@define(eq=False)
class Box:
    """A state or a scope; a scope's head carries its name and its dots.

    Attributes:
        name: of the state; `ROOT` for the whole picture.
        within: the name of the box around it.
        rows: what is in a scope, row by row.
        row: its row in the box around it.
        column: its column there.
        x: the middle of a state; of a scope, where the main way runs down. Relative to the box
            around it until everything is settled.
        left: from there to the left border.
        right: from there to the right border.
        top: the upper border.
        bottom: the lower border.
        ports: where arrows meet its sides, from top to bottom.
        lanes: of a scope: from its middle to each lane.
    """

    name: str
    within: str = ROOT
    rows: list[list[Box]] = field(factory=list)
    row: int = 0
    column: int = 0
    x: float = 0.0
    left: float = 0.0
    right: float = 0.0
    top: float = 0.0
    bottom: float = 0.0
    ports: dict[Side, list[Port]] = field(factory=lambda: {"left": [], "right": []})
    lanes: dict[Lane, float] = field(factory=dict)

    @property
    def cells(self) -> list[Box]:
        """What is in a scope."""
        return [cell for row in self.rows for cell in row]

    def label_reach(self, side: Side, node: str | None = None) -> float:
        """How far the labels of arrows that leave at one side reach.

        Args:
            side: of the box.
            node: which of its dots they leave; None for the box itself.
        """
        node = node or self.name
        ports = [port for port in self.ports[side] if port.leaves and port.node == node]
        return max((port.width + 9.0 for port in ports), default=0.0)

    def dots_reach(self, side: Side) -> float:
        """How far the labels at a scope's dots reach from its middle."""
        reach = max(self.label_reach(side, dot(self.name)) for dot in (start_of, events_of))
        return reach and reach + 4 * DOT

    def space_beside(self, side: Side) -> float:
        """The space that labels need next to the box; those of a scope are inside it."""
        if self.rows:
            return 0.0
        return self.label_reach(side)


Lane = tuple[int, str, str]  # the gutter, what the arrows lead to, and their kind


@define(eq=False)
class Course:
    """How an arrow runs.

    Straight down, or out at one side of its tail, along a lane of a scope, and in at a side of its
    head.

    Attributes:
        arrow: the arrow.
        label: the text next to it.
        scope: the name of the innermost box around both ends; the lane is in it.
        gutter: the strip of lanes left of the scope's column of that number.
        out: the side at which it leaves.
        into: the side at which it arrives.
        straight: whether it runs straight down.
        start: the port where it leaves; without meaning if it runs straight down.
        end: the port where it arrives; likewise.
    """

    arrow: Arrow
    label: ArrowLabel
    scope: str
    gutter: int
    out: Side
    into: Side
    straight: bool = False
    start: Port = field(factory=lambda: Port(ROOT))
    end: Port = field(factory=lambda: Port(ROOT))

    @property
    def lane(self) -> Lane:
        """Arrows for which this is equal share a lane."""
        return (self.gutter, self.arrow.head, self.arrow.kind)
