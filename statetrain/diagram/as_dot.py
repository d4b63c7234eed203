"""The picture as Graphviz text."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Unpack

from statetrain.diagram.boxes import ROOT, Box
from statetrain.diagram.layout import Placement
from statetrain.diagram.legend import about_state, height_of, legend_of, place_entries
from statetrain.diagram.measure import DOT, HEAD, LINE, RING, width_of
from statetrain.diagram.picture import events_of, start_of
from statetrain.diagram.route import Point, Route
from statetrain.diagram.showing import Shown, picture
from statetrain.diagram.theme import FONT, NAME, PEN, WORDS, ThemeName, theme_of
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, START
from statetrain.lifecycle.text import OTHER_ERRORS


def dot(
    life: Lifecycle,
    *,
    theme: ThemeName = "light",
    placed: bool = True,
    **options: Unpack[Shown],
) -> str:
    """The picture of a lifecycle in the language of Graphviz.

    Args:
        life: the lifecycle.
        theme: "light" or "dark".
        placed: whether everything is put in its place, as in the other formats. False leaves that
            to Graphviz, which is easier to edit by hand and harder to read.
        options: what is shown; see `Shown`.

    Returns:
        Text for `dot`; the same for the same lifecycle.

    Raises:
        ConfigError: the theme, the detail or a scope to fold is unknown.
    """
    return "\n".join(_DotWriter(Placement(picture(life, **options)), theme, placed).lines()) + "\n"


class _DotWriter:
    def __init__(self, layout: Placement, theme: ThemeName, placed: bool) -> None:
        self.layout = layout
        self.shown = layout.picture
        self.theme = theme_of(theme)
        self.placed = placed
        self.size = layout.size
        self.entries = legend_of(layout.picture)
        self.below = height_of(self.entries, layout.size[0])

    def lines(self) -> Iterator[str]:
        theme, (width, height) = self.theme, self.size
        place = {"newrank": "true", "nodesep": "0.4", "label": self.legend(), "labeljust": "l"}
        if self.placed:
            top = f"{width:.1f},{height:.1f}"
            place = {"layout": "nop2", "bb": f"0,{-self.below:.1f},{top}", "label": self.legend()}
            place["lp"] = f"{width / 2:.1f},{-self.below / 2:.1f}"
        font = {"fontname": FONT, "fontsize": f"{NAME:g}"}
        paper = {
            "compound": "true",
            "outputorder": "edgesfirst",
            "pad": "0.15",
            "bgcolor": theme.paper,
            "fontcolor": theme.soft,
        }
        node = {
            "shape": "box",
            "style": "rounded,filled",
            "penwidth": "1.2",
            "fontcolor": theme.ink,
        }
        yield "digraph {"
        yield f"    graph {_attributes(place | paper | font)}"
        yield f"    node {_attributes(node | font)}"
        edge = {"arrowsize": "0.65"} | font | {"fontsize": f"{WORDS:g}"}
        yield f"    edge {_attributes(edge)}"
        for box in self.layout.boxes[ROOT].cells:
            yield from self.box(box, "    ", 0)
        for route in self.layout.routes:
            yield f"    {self.edge(route)}"
        yield "}"

    def legend(self) -> str:
        """The meanings of the colours as a table, flush left."""
        if not self.entries:
            return ""
        rows: dict[float, str] = {}
        for entry, _, y in place_entries(self.entries, self.size[0]):
            sign = "\N{BLACK SQUARE}"
            if entry.kind in ("line", "halo"):
                sign = "\N{RIGHTWARDS ARROW}"
            colour = entry.colour_in(self.theme)
            rows[y] = (
                f'{rows.get(y, "")}<font color="{colour}">{sign}</font> {html.escape(entry.text)}'
                f"{4 * '&#160;'}"
            )
        cells = "".join(f'<tr><td align="left">{row}</td></tr>' for row in rows.values())
        return (
            f'<<font point-size="{WORDS:g}"><table border="0" cellspacing="0" cellpadding="1"'
            f' width="{self.size[0]:.0f}">{cells}</table></font>>'
        )

    def box(self, box: Box, indent: str, depth: int) -> Iterator[str]:
        """The lines of a state, or of a scope with all that is in it."""
        if not box.rows:
            yield f"{indent}{self.state(box)}"
            return
        name, dots = box.name, self.layout.dots
        yield f"{indent}subgraph {quote(f'cluster_{name}')} {{"
        yield f"{indent}    graph {_attributes(self.scope(box, depth))}"
        for point, colour in (
            (start_of(name), self.theme.ink),
            (events_of(name), self.theme.arrows["event"]),
        ):
            if point in dots:
                yield f"{indent}    {self.point(point, dots[point], colour)}"
        for cell in box.cells:
            yield from self.box(cell, f"{indent}    ", depth + 1)
        yield f"{indent}}}"

    def scope(self, box: Box, depth: int) -> dict[str, str]:
        """The attributes of a scope."""
        look = {
            "label": box.name,
            "labeljust": "l",
            "style": "rounded,filled",
            "color": self.theme.border,
            "fillcolor": self.theme.scope(depth),
        }
        if self.placed:
            left = box.x - box.left
            low, high = self.at((left, box.bottom)), self.at((box.x + box.right, box.top))
            middle = left + 11.0 + width_of(box.name, NAME) / 2
            look |= {"bb": f"{low},{high}", "lp": self.at((middle, box.top + HEAD / 2 + 1.0))}
        return look

    def state(self, box: Box) -> str:
        middle = (box.x, (box.top + box.bottom) / 2)
        if box.name == START:
            return self.point(START, middle, self.theme.ink)
        look, ring = self.look(box.name), 0.0
        if "peripheries" in look:
            ring = 2 * RING
        if self.placed:
            look |= _size(box.left + box.right - ring, box.bottom - box.top - ring)
        return f"{quote(box.name)} {_attributes(look | self.place('pos', middle))}"

    def look(self, name: str) -> dict[str, str]:
        """The attributes of a state, but for its place."""
        fill, line = self.theme.state(self.shown, name)
        about = "; ".join(about_state(self.shown, name).splitlines())
        look = {"color": line, "fillcolor": fill, "tooltip": about}
        if (title := self.shown.title(name)) != name:
            look["label"] = title
        if name == self.shown.current:
            look |= {"color": self.theme.recent, "penwidth": "4"}
        if name == FAILED or self.shown.life.state(name).final:
            look["peripheries"] = "2"
        if name == FAILED:
            look["label"] = (
                f'<{FAILED}<br/><font point-size="{WORDS:g}"'
                f' color="{self.theme.soft}">{OTHER_ERRORS}</font>>'
            )
        return look

    def point(self, name: str, middle: Point, colour: str) -> str:
        look = {
            "shape": "circle",
            "label": "",
            "style": "filled",
            "color": colour,
            "fillcolor": colour,
        }
        return f"{quote(name)} {_attributes(look | _size(DOT, DOT) | self.place('pos', middle))}"

    def edge(self, route: Route) -> str:
        arrow = route.arrow
        look = {"color": self.theme.arrows[arrow.kind], "penwidth": f"{PEN[arrow.kind]:g}"}
        if halo := self.theme.halo(arrow):
            look |= {"color": halo, "penwidth": f"{PEN[arrow.kind] + 1.5:g}"}
        if arrow.kind == "event":
            look["style"] = "dashed"
        if self.placed:
            look |= self.line(route)
        if route.label.lines:
            look |= self.label(route)
        for end, node in (("ltail", arrow.tail), ("lhead", arrow.head)):
            if node in self.shown.scopes:
                look[end] = f"cluster_{node}"
        return f"{self.node(arrow.tail)} -> {self.node(arrow.head)} {_attributes(look)}"

    def line(self, route: Route) -> dict[str, str]:
        curve = self.at(*route.curve)
        if route.joins:
            return {"pos": curve, "arrowhead": "none"}
        return {"pos": f"e,{self.at(route.points[-1])} {curve}"}

    def label(self, route: Route) -> dict[str, str]:
        """The label of an arrow, and its place."""
        label, (x, y) = route.label, route.when
        gap = max(0.0, route.then[1] - y - LINE * len(label.when))
        middle = (x + label.width / 2, y + (LINE * len(label.lines) + gap) / 2)
        return {"label": self.table(route, gap), **self.place("lp", middle)}

    def table(self, route: Route, gap: float) -> str:
        """A label as a table: flush left, with room for the arrow's line to run through it."""
        words, theme = route.label, self.theme
        cell = f'<tr><td align="left" height="{LINE:g}"><font color="{{}}">{{}}</font></td></tr>'
        rows = [cell.format(theme.words(route.arrow), html.escape(line)) for line in words.when]
        rows += [f'<tr><td height="{gap:g}"></td></tr>'] if gap else []
        rows += [cell.format(theme.soft, f"<i>{html.escape(line)}</i>") for line in words.then]
        return (
            '<<table border="0" cellborder="0" cellspacing="0" cellpadding="0"'
            f' width="{words.width:.0f}">{"".join(rows)}</table>>'
        )

    def node(self, name: str) -> str:
        """The node that stands for the end of an arrow; for a scope, one inside it."""
        if name in self.shown.scopes and start_of(name) in self.shown.dots:
            return quote(start_of(name))
        while name in self.shown.scopes:
            name = self.shown.children(name)[0]
        return quote(name)

    def place(self, key: str, point: Point) -> dict[str, str]:
        if self.placed:
            return {key: self.at(point)}
        return {}

    def at(self, *points: Point) -> str:
        """Points as Graphviz counts them: upwards."""
        return " ".join(f"{x:.1f},{self.size[1] - y:.1f}" for x, y in points)


def _attributes(attributes: dict[str, str]) -> str:
    """Attributes in brackets; what begins and ends with angle brackets is marked-up text."""
    parts = []
    for key, value in attributes.items():
        marked_up = value[:1] == "<" and value[-1:] == ">"
        parts.append(f"{key}={value if marked_up else quote(value)}")
    return f"[{' '.join(parts)}]"


def _size(width: float, height: float) -> dict[str, str]:
    return {"width": f"{width / 72:.3f}", "height": f"{height / 72:.3f}", "fixedsize": "true"}


def quote(text: str) -> str:
    """A text as a string of Graphviz, in which every character stands for itself."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
