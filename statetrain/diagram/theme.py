"""Colours and type: calm on a page of text, with enough contrast on either background."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from statetrain.diagram.picture import Arrow, Picture
from statetrain.lifecycle.state import FAILED
from statetrain.validators import check_word

ThemeName = Literal["light", "dark"]

FONT = "Helvetica,Arial,sans-serif"
NAME, WORDS = 12.0, 9.5  # sizes of names and of the text next to arrows, in points


@frozen
class Theme:
    """The colours of a picture, as `#rrggbb`.

    Attributes:
        paper: the background; it is drawn, so that a picture can be read on any page.
        scopes: the fill of scopes, from the outermost inwards; the last for all deeper ones.
        recent: what stands out.
        heat: what the fill of a state turns to with its share of the time.
        arrows: by kind of arrow.
        changes: by what happened to a state or an arrow since another lifecycle.
    """

    paper: str
    ink: str
    soft: str
    anchor: str
    border: str
    good: str
    good_fill: str
    bad: str
    bad_fill: str
    recent: str
    heat: str
    scopes: tuple[str, ...]
    arrows: dict[str, str]
    changes: dict[str, str]

    def scope(self, depth: int) -> str:
        """The fill of a scope that lies in `depth` others."""
        return self.scopes[min(depth, len(self.scopes) - 1)]

    def state(self, shown: Picture, name: str) -> tuple[str, str]:
        """The fill and the line of a state."""
        fill, line = self._plain(shown, name)
        if name in shown.changes:
            line = self.changes[shown.changes[name]]
            fill = mix(self.paper, line, 0.18)
        return mix(fill, self.heat, 0.9 * shown.shares.get(name, 0.0) ** 0.5), line

    def _plain(self, shown: Picture, name: str) -> tuple[str, str]:
        if name == FAILED:
            return self.bad_fill, self.bad
        state = shown.life.state(name)
        if state.final:
            return self.good_fill, self.good
        fill, kind = self.paper, "plain"
        if state.anchor:
            fill, kind = self.anchor, "main"
        if name in shown.hot:
            kind = "hot"
        return fill, self.arrows[kind]

    def halo(self, arrow: Arrow) -> str:
        """The colour around an arrow that stands out; empty around the others."""
        if arrow.change:
            return self.changes[arrow.change]
        if arrow.recent:
            return self.recent
        return ""

    def words(self, arrow: Arrow) -> str:
        """The colour of the text that says when an arrow is taken; grey if it never was."""
        if arrow.count == 0:
            return self.soft
        if arrow.kind in ("event", "failure"):
            return self.arrows[arrow.kind]
        return self.ink


LIGHT = Theme(
    paper="#ffffff",
    ink="#1f2933",
    soft="#66727f",
    anchor="#dbe9f9",
    border="#c3cdd9",
    good="#2f855a",
    good_fill="#e6f6ed",
    bad="#c53030",
    bad_fill="#fdecec",
    recent="#805ad5",
    heat="#f6ad55",
    scopes=("#fafbfd", "#f2f5fa", "#e8eff8", "#dde7f4"),
    arrows={
        "hot": "#2b6cb0",
        "main": "#4a5766",
        "plain": "#8b98a9",
        "failure": "#c53030",
        "event": "#a86a12",
    },
    changes={"added": "#2f855a", "removed": "#c53030", "changed": "#805ad5"},
)
DARK = Theme(
    paper="#0d1117",
    ink="#e6edf3",
    soft="#9aa7b5",
    anchor="#1c3a5e",
    border="#3b4654",
    good="#56d364",
    good_fill="#12321f",
    bad="#ff7b72",
    bad_fill="#3c1618",
    recent="#b794f4",
    heat="#b7601a",
    scopes=("#12171f", "#161d28", "#1b2533", "#202e40"),
    arrows={
        "hot": "#58a6ff",
        "main": "#b3bfcc",
        "plain": "#7d8b9b",
        "failure": "#ff7b72",
        "event": "#e3b341",
    },
    changes={"added": "#56d364", "removed": "#ff7b72", "changed": "#b794f4"},
)
# The sign of a change where colours are not available
CHANGED = {"added": "+", "removed": "\N{MINUS SIGN}", "changed": "*"}
# Widths of lines, in points
PEN = {"hot": 2.0, "main": 1.6, "plain": 1.1, "failure": 1.1, "event": 1.1}
THEMES: dict[str, Theme] = {"light": LIGHT, "dark": DARK}


def theme_of(name: str) -> Theme:
    """The theme of that name.

    Raises:
        ConfigError: there is none.
    """
    check_word("theme", name, THEMES)
    return THEMES[name]


def mix(one: str, other: str, share: float) -> str:
    """A colour between two: `share` is how much of the second is in it, from 0 to 1."""
    if not share:
        return one
    parts = ((int(one[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in parts)
