"""What the colours of a picture mean, and what a box or an arrow says when it is pointed at."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import frozen

from statetrain.diagram.measure import LINE, width_of
from statetrain.diagram.picture import Arrow, Picture
from statetrain.diagram.theme import WORDS, Theme
from statetrain.lifecycle.state import FAILED
from statetrain.lifecycle.text import OTHER_ERRORS, plain
from statetrain.naming import label_of

SAMPLE = 16.0  # the width of a sample of a colour
BETWEEN = 18.0  # from one entry to the next
ROW = LINE + 4.0

LegendTest = Callable[[Picture], bool]


@frozen
class LegendEntry:
    """A colour and its meaning.

    Attributes:
        kind: what has the colour: "state", "ring" around a state, "line" or "halo" of an arrow.
        colour: its name among the attributes of a `Theme`, or a key of `arrows` or `changes`.
        text: what it means.
        applies: whether a picture has it.
    """

    kind: str
    colour: str
    text: str
    applies: LegendTest

    @property
    def width(self) -> float:
        """The space that it needs."""
        return SAMPLE + 6.0 + width_of(self.text, WORDS) * 1.05

    def colour_in(self, theme: Theme) -> str:
        """The colour, as `#rrggbb`."""
        named = {**theme.arrows, **theme.changes}
        return named.get(self.colour) or str(getattr(theme, self.colour))


def _has(kind: str) -> LegendTest:
    return lambda shown: any(arrow.kind == kind for arrow in shown.arrows)


def _has_changed(change: str) -> LegendTest:
    def test(shown: Picture) -> bool:
        return change in {*shown.changes.values(), *(arrow.change for arrow in shown.arrows)}

    return test


def _has_anchor(shown: Picture) -> bool:
    return any(shown.life.state(name).anchor for name in shown.order)


_ENTRIES = (
    LegendEntry("state", "anchor", "a run can be saved and resumed here", _has_anchor),
    LegendEntry("line", "hot", "the inner loop", _has("hot")),
    LegendEntry("line", "event", "when an event is raised", _has("event")),
    LegendEntry("line", "failure", "failure", _has("failure")),
    LegendEntry("ring", "recent", "the run is here", lambda shown: shown.current is not None),
    LegendEntry(
        "halo", "recent", "taken last, or marked", lambda shown: any(a.recent for a in shown.arrows)
    ),
    LegendEntry("state", "heat", "share of the time", lambda shown: bool(shown.shares)),
    LegendEntry("halo", "added", "added", _has_changed("added")),
    LegendEntry("halo", "removed", "removed", _has_changed("removed")),
    LegendEntry("halo", "changed", "does something else", _has_changed("changed")),
)


def legend_of(shown: Picture) -> list[LegendEntry]:
    """The entries for the colours that a picture has."""
    return [entry for entry in _ENTRIES if entry.applies(shown)]


def legend_of_runs() -> list[LegendEntry]:
    """The entries for what a run adds to a picture."""
    return [entry for entry in _ENTRIES if entry.colour in ("recent", "heat")]


def place_entries(
    entries: list[LegendEntry], width: float
) -> Iterator[tuple[LegendEntry, float, float]]:
    """The entries with their places, in as many rows as they need.

    Args:
        entries: from `legend_of`.
        width: of the picture.
    """
    x = y = 0.0
    for entry in entries:
        if x and x + entry.width > width:
            x, y = 0.0, y + ROW
        yield entry, x, y
        x += entry.width + BETWEEN


def height_of(entries: list[LegendEntry], width: float) -> float:
    """The height of the legend, with the space above it; 0 if there is nothing to say."""
    return max((y + ROW + 10.0 for _, _, y in place_entries(entries, width)), default=0.0)


# ---------------------------------------------------------------- tooltips


def about_state(shown: Picture, name: str) -> str:
    """What a state is and does, a line each."""
    if name == FAILED:
        return f"{FAILED}: {OTHER_ERRORS}"
    state = shown.life.state(name)
    lines = [name]
    if state.role != name:
        lines[0] += f" ({state.role})"
    if state.action is not None:
        lines.append(f"does: {plain(label_of(state.action))}")
    if state.close is not None:
        lines.append(f"at exit: {plain(label_of(state.close))}")
    if state.mode is not None:
        lines.append(f"mode: {plain(label_of(state.mode))}")
    if state.anchor:
        lines.append("anchor: a run can be saved and resumed here")
    if name in shown.shares:
        lines.append(f"{shown.shares[name]:.1%} of the time")
    return "\n".join(lines)


def about_arrow(arrow: Arrow) -> str:
    """What an arrow does; empty if the picture says it all."""
    lines = []
    if arrow.count is not None:
        lines.append(f"taken: {arrow.count:,}")
    if arrow.asked is not None:
        lines.append(f"guard evaluated: {arrow.asked:,}")
    if arrow.share:
        lines.append(f"{arrow.share:.1%} of the time")
    return "\n".join(lines)
