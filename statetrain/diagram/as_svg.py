"""The picture as SVG, which needs no other program."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Unpack

from statetrain.diagram.boxes import ROOT, Box
from statetrain.diagram.layout import Placement
from statetrain.diagram.legend import (
    SAMPLE,
    LegendEntry,
    about_arrow,
    about_state,
    height_of,
    legend_of,
    place_entries,
)
from statetrain.diagram.measure import DOT, HEAD, LINE, RING
from statetrain.diagram.route import Point, Route
from statetrain.diagram.showing import Shown, picture
from statetrain.diagram.theme import FONT, NAME, PEN, WORDS, ThemeName, theme_of
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, START
from statetrain.lifecycle.text import OTHER_ERRORS, plain

MARGIN = 12.0


def svg(life: Lifecycle, *, theme: ThemeName = "light", **options: Unpack[Shown]) -> str:
    """The picture of a lifecycle as SVG.

    Args:
        life: the lifecycle.
        theme: "light" or "dark".
        options: what is shown; see `Shown`.

    Returns:
        An SVG document; the same for the same lifecycle.

    Raises:
        ConfigError: the theme, the detail or a scope to fold is unknown.
    """
    return "\n".join(_SvgWriter(Placement(picture(life, **options)), theme).lines()) + "\n"


class _SvgWriter:
    def __init__(self, layout: Placement, theme: ThemeName) -> None:
        self.layout = layout
        self.shown = layout.picture
        self.theme = theme_of(theme)

    def lines(self) -> Iterator[str]:
        layout, theme = self.layout, self.theme
        width, height = (size + 2 * MARGIN for size in layout.size)
        legend = legend_of(self.shown)
        height += height_of(legend, layout.size[0])
        corner = f"{-MARGIN:g} {-MARGIN:g}"
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{corner} {width:.1f} {height:.1f}"'
            f' width="{width * 4 / 3:.0f}" height="{height * 4 / 3:.0f}" font-family="{FONT}"'
            f' font-size="{NAME:g}" role="img">'
        )
        yield f"<title>The lifecycle {html.escape(plain(self.shown.life.name))}</title>"
        yield (
            f'<rect x="{-MARGIN:g}" y="{-MARGIN:g}" width="{width:.1f}" height="{height:.1f}"'
            f' fill="{theme.paper}"/>'
        )
        yield from self.scopes(layout.boxes[ROOT], 0)
        yield from self.ring()
        for route in layout.routes:
            yield from self.arrow(route)
        for name, middle in layout.dots.items():
            if name.endswith(".start"):
                colour = theme.ink
            else:
                colour = theme.arrows["event"]
            yield self.dot(middle, colour)
        for box in layout.boxes.values():
            if not box.rows:
                yield from self.state(box)
        for route in layout.routes:
            yield from self.label(route)
        yield '<g class="legend">'
        for entry, x, y in place_entries(legend, layout.size[0]):
            yield from self.legend(entry, x, layout.size[1] + y + 18.0)
        yield "</g>"
        yield "</svg>"

    def legend(self, entry: LegendEntry, x: float, y: float) -> Iterator[str]:
        """A sample of a colour, and its meaning, around a height."""
        colour = entry.colour_in(self.theme)
        if entry.kind in ("line", "halo"):
            look = f'stroke-width="{PEN["hot"]:g}"'
            if entry.kind == "halo":
                look = 'stroke-width="6" stroke-opacity="0.45"'
            elif entry.colour == "event":
                look += ' stroke-dasharray="5 4"'
            yield f'<path d="M{x:.1f} {y:.1f}h{SAMPLE:g}" stroke="{colour}" {look}/>'
        else:
            look = f'fill="{colour}" stroke="{self.theme.border}"'
            if entry.kind == "ring":
                look = f'fill="none" stroke="{colour}" stroke-width="2.5"'
            yield (
                f'<rect x="{x:.1f}" y="{y - 4.5:.1f}" width="{SAMPLE:g}" height="9" rx="3" {look}/>'
            )
        at = (x + SAMPLE + 6.0, y + 3.2)
        yield _text(entry.text, at, self.theme.soft, f'font-size="{WORDS:g}"')

    def scopes(self, box: Box, depth: int) -> Iterator[str]:
        for cell in box.cells:
            if cell.rows:
                at = (cell.x - cell.left + 11.0, cell.top + HEAD / 2 + 4.0)
                yield f"<g>{_title(about_state(self.shown, cell.name))}"
                yield self.rounded(cell, 12.0, 0.0, self.theme.scope(depth), self.theme.border)
                yield f"{_text(cell.name, at, self.theme.soft)}</g>"
                yield from self.scopes(cell, depth + 1)

    def ring(self) -> Iterator[str]:
        """Around the state that the run is in; below the arrows, so that their heads are seen."""
        box = self.layout.boxes.get(self.shown.current or "")
        if box is not None and not box.rows:
            yield self.rounded(box, 11.0, -3.0, "none", self.theme.recent, 3.5)

    def state(self, box: Box) -> Iterator[str]:
        middle = (box.top + box.bottom) / 2
        if box.name == START:
            yield self.dot((box.x, middle), self.theme.ink)
            return
        yield f"<g>{_title(about_state(self.shown, box.name))}"
        yield from self.border(box)
        baseline = middle + 4.0
        if box.name == FAILED:
            baseline = middle - 1.5
        title, centred = self.shown.title(box.name), 'text-anchor="middle"'
        yield _text(title, (box.x, baseline), self.theme.ink, centred)
        if box.name == FAILED:
            small = f'{centred} font-size="{WORDS:g}"'
            yield _text(OTHER_ERRORS, (box.x, baseline + LINE), self.theme.soft, small)
        yield "</g>"

    def border(self, box: Box) -> Iterator[str]:
        fill, line = self.theme.state(self.shown, box.name)
        if box.name == FAILED or self.shown.life.state(box.name).final:
            yield self.rounded(box, 9.0, 0.0, self.theme.paper, line)
            yield self.rounded(box, 6.0, RING, fill, line)
        else:
            yield self.rounded(box, 9.0, 0.0, fill, line)

    def rounded(
        self, box: Box, radius: float, inset: float, fill: str, line: str, pen: float = 1.2
    ) -> str:
        x, y = box.x - box.left + inset, box.top + inset
        width, height = box.left + box.right - 2 * inset, box.bottom - box.top - 2 * inset
        return (
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
            f' rx="{radius:g}" fill="{fill}" stroke="{line}" stroke-width="{pen:g}"/>'
        )

    def dot(self, middle: Point, colour: str) -> str:
        return (
            f'<circle cx="{middle[0]:.1f}" cy="{middle[1]:.1f}" r="{DOT / 2:g}" fill="{colour}"/>'
        )

    def arrow(self, route: Route) -> Iterator[str]:
        kind = route.arrow.kind
        colour, (start, *rest) = self.theme.arrows[kind], route.curve
        if halo := self.theme.halo(route.arrow):
            yield (
                f'<path d="M{_at(start)}C{_at(*rest)}" fill="none" stroke="{halo}"'
                f' stroke-width="{PEN[kind] + 5:g}" stroke-opacity="0.45"/>'
            )
        dashes = ""
        if kind == "event":
            dashes = ' stroke-dasharray="5 4"'
        end = "/>"
        if about := about_arrow(route.arrow):
            end = f">{_title(about)}</path>"
        yield (
            f'<path d="M{_at(start)}C{_at(*rest)}" fill="none" stroke="{colour}"'
            f' stroke-width="{PEN[kind]:g}"{dashes}{end}'
        )
        if not route.joins:
            (x, y), (fromx, fromy) = route.points[-1], rest[-1]
            along, half = (x - fromx, y - fromy), 0.4 + PEN[kind] / 10
            across = (-along[1] * half, along[0] * half)
            base = [(fromx + across[0], fromy + across[1]), (fromx - across[0], fromy - across[1])]
            yield f'<polygon points="{_at((x, y), *base)}" fill="{colour}"/>'

    def label(self, route: Route) -> Iterator[str]:
        small = f'font-size="{WORDS:g}"'
        for i, line in enumerate(route.label.when):
            at = (route.when[0], route.when[1] + LINE * (i + 0.8))
            yield _text(line, at, self.theme.words(route.arrow), small)
        for i, line in enumerate(route.label.then):
            at = (route.then[0], route.then[1] + LINE * (i + 0.8))
            yield _text(line, at, self.theme.soft, f'{small} font-style="italic"')


def _title(text: str) -> str:
    """A tooltip."""
    return f"<title>{html.escape(text)}</title>"


def _text(text: str, at: Point, colour: str, look: str = "") -> str:
    return (
        f'<text x="{at[0]:.1f}" y="{at[1]:.1f}"'
        f' fill="{colour}"{look and " "}{look}>{html.escape(text)}</text>'
    )


def _at(*points: Point) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
