"""The picture as Graphviz text."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Unpack

from statetrain.diagram.boxes import ROOT, Box
from statetrain.diagram.layout import Layout
from statetrain.diagram.measure import DOT, HEAD, LINE, RING, width_of
from statetrain.diagram.picture import events_of, start_of
from statetrain.diagram.route import Point, Route
from statetrain.diagram.showing import Shown, picture
from statetrain.diagram.theme import FONT, NAME, PEN, WORDS, ThemeName, theme_of
from statetrain.lifecycle.lifecycle import FAILED, START, Lifecycle
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
    return "\n".join(_Writer(Layout(picture(life, **options)), theme, placed).lines()) + "\n"


class _Writer:
    def __init__(self, layout: Layout, theme: ThemeName, placed: bool) -> None:
        self.layout = layout
        self.shown = layout.picture
        self.theme = theme_of(theme)
        self.placed = placed
        self.size = layout.size

    def lines(self) -> Iterator[str]:
        theme, (width, height) = self.theme, self.size
        place = (
            {"layout": "nop2", "bb": f"0,0,{width:.1f},{height:.1f}"}
            if self.placed
            else {"newrank": "true", "nodesep": "0.4"}
        )
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
        yield f"    graph {_listed(place | paper | font)}"
        yield f"    node {_listed(node | font)}"
        yield f"    edge {_listed({'arrowsize': '0.65'} | font | {'fontsize': f'{WORDS:g}'})}"
        for box in self.layout.boxes[ROOT].cells:
            yield from self.box(box, "    ", 0)
        for route in self.layout.routes:
            yield f"    {self.edge(route)}"
        yield "}"

    def box(self, box: Box, indent: str, depth: int) -> Iterator[str]:
        """The lines of a state, or of a scope with all that is in it."""
        name, theme, layout = box.name, self.theme, self.layout
        if not box.rows:
            yield f"{indent}{self.state(box)}"
            return
        place = {
            "bb": (
                f"{self.at((box.x - box.left, box.bottom))},{self.at((box.x + box.right, box.top))}"
            ),
            "lp": self.at(
                (box.x - box.left + 11.0 + width_of(name, NAME) / 2, box.top + HEAD / 2 + 1.0)
            ),
        }
        look = {
            "label": name,
            "labeljust": "l",
            "style": "rounded,filled",
            "color": theme.border,
            "fillcolor": theme.scope(depth),
        }
        yield f"{indent}subgraph {quoted(f'cluster_{name}')} {{"
        yield f"{indent}    graph {_listed(look | (place if self.placed else {}))}"
        for point, colour in (
            (start_of(name), theme.ink),
            (events_of(name), theme.arrows["event"]),
        ):
            if point in layout.dots:
                yield f"{indent}    {self.point(point, layout.dots[point], colour)}"
        for cell in box.cells:
            yield from self.box(cell, f"{indent}    ", depth + 1)
        yield f"{indent}}}"

    def state(self, box: Box) -> str:
        middle = (box.x, (box.top + box.bottom) / 2)
        if box.name == START:
            return self.point(START, middle, self.theme.ink)
        fill, line = self.theme.state(self.shown, box.name)
        look = {"color": line, "fillcolor": fill}
        if (title := self.shown.title(box.name)) != box.name:
            look["label"] = title
        if box.name == self.shown.current:
            look |= {"color": self.theme.recent, "penwidth": "4"}
        ring = 0.0
        if box.name == FAILED or self.shown.life.state(box.name).final:
            look["peripheries"] = "2"
            ring = 2 * RING
        if box.name == FAILED:
            look["label"] = (
                f'<{FAILED}<br/><font point-size="{WORDS:g}"'
                f' color="{self.theme.soft}">{OTHER_ERRORS}</font>>'
            )
        size = (
            _size(box.left + box.right - ring, box.bottom - box.top - ring) if self.placed else {}
        )
        return f"{quoted(box.name)} {_listed(look | size | self.place('pos', middle))}"

    def point(self, name: str, middle: Point, colour: str) -> str:
        look = {
            "shape": "circle",
            "label": "",
            "style": "filled",
            "color": colour,
            "fillcolor": colour,
        }
        return f"{quoted(name)} {_listed(look | _size(DOT, DOT) | self.place('pos', middle))}"

    def edge(self, route: Route) -> str:
        arrow, words = route.arrow, route.words
        look = {"color": self.theme.arrows[arrow.kind], "penwidth": f"{PEN[arrow.kind]:g}"}
        if halo := self.theme.halo(arrow):
            look |= {"color": halo, "penwidth": f"{PEN[arrow.kind] + 1.5:g}"}
        if arrow.kind == "event":
            look["style"] = "dashed"
        if self.placed:
            tip = "" if route.joins else f"e,{self.at(route.points[-1])} "
            look["pos"] = tip + self.at(*route.curve)
            if route.joins:
                look["arrowhead"] = "none"
        if words.lines:
            gap = max(0.0, route.then[1] - route.when[1] - LINE * len(words.when))
            look["label"] = self.label(route, gap)
            look |= self.place(
                "lp",
                (
                    route.when[0] + words.width / 2,
                    route.when[1] + (LINE * len(words.lines) + gap) / 2,
                ),
            )
        for end, node in (("ltail", arrow.tail), ("lhead", arrow.head)):
            if node in self.shown.scopes:
                look[end] = f"cluster_{node}"
        return f"{self.node(arrow.tail)} -> {self.node(arrow.head)} {_listed(look)}"

    def label(self, route: Route, gap: float) -> str:
        """The words of an arrow as a table: flush left, and with room for the line to run between them."""
        words, theme = route.words, self.theme
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
        if name in self.shown.scopes:
            inside = self.shown.life.inside(name)
            leaves = (
                leaf
                for leaf in self.shown.order
                if leaf in inside and leaf not in self.shown.scopes
            )
            name = start_of(name) if start_of(name) in self.shown.dots else next(leaves)
        return quoted(name)

    def place(self, key: str, point: Point) -> dict[str, str]:
        return {key: self.at(point)} if self.placed else {}

    def at(self, *points: Point) -> str:
        """Points as Graphviz counts them: upwards."""
        return " ".join(f"{x:.1f},{self.size[1] - y:.1f}" for x, y in points)


def _listed(attributes: dict[str, str]) -> str:
    """Attributes in brackets; what begins and ends with angle brackets is marked-up text."""
    values = (
        (key, value if value[:1] == "<" and value[-1:] == ">" else quoted(value))
        for key, value in attributes.items()
    )
    return f"[{' '.join(f'{key}={value}' for key, value in values)}]"


def _size(width: float, height: float) -> dict[str, str]:
    return {"width": f"{width / 72:.3f}", "height": f"{height / 72:.3f}", "fixedsize": "true"}


def quoted(text: str) -> str:
    """A text as a string of Graphviz, in which every character stands for itself."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
