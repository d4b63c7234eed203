"""The picture as Mermaid text, which GitHub and notebooks draw themselves.

Mermaid draws an arrow across a scope's border badly, and one between a scope and its own inside
wrongly. So each arrow is drawn between two neighbours in one scope, and its label begins with the
state that it really leaves: what leaves `train` from `next_batch` is drawn from `train` and says
`next_batch`. Arrows between the same two are drawn as one with several lines. A scope's own first
step starts at the dot inside it; a diamond stands for the dot if it has several ways on, or if
something leads back to it. Lines cannot be dashed, so events carry a sign.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from typing import Unpack

from attrs import evolve, frozen

from statetrain.diagram.picture import Arrow, Picture, events_of, shared_scopes, start_of
from statetrain.diagram.showing import Shown, picture
from statetrain.diagram.theme import CHANGED, Theme, ThemeName, theme_of
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, START
from statetrain.lifecycle.text import OTHER_ERRORS

EVENT = "\N{HIGH VOLTAGE SIGN}"
RECENT = "\N{BLACK RIGHT-POINTING TRIANGLE}"  # before what was taken among the last

# Names with a meaning for Mermaid, or for the JavaScript under it, where a state's is expected
_RESERVED = frozenset(
    """
    accdescr acctitle as class classdef click default direction hide href note root scale state
    statediagram style constructor hasownproperty isprototypeof propertyisenumerable tolocalestring
    tostring valueof __proto__ __definegetter__ __definesetter__ __lookupgetter__ __lookupsetter__
    """.split()  # noqa: SIM905  # easier to read than thirty strings
)
_MEANING = (
    r"""[^\w\s(),.'!?+=/-]"""  # signs, but for a few that mean nothing
    # Emphasis, or part of an arrow, unless within a word
    r"""|(?<![^\W_])[_-]|[_-](?![^\W_])"""
    r"""|\.(?=[^\W\d])"""  # part of a web address
    r"""|(?<=directio)n(?=\s)"""  # a keyword, wherever it stands in a line
)


def mermaid(life: Lifecycle, *, theme: ThemeName = "light", **options: Unpack[Shown]) -> str:
    """The picture of a lifecycle as a Mermaid `stateDiagram-v2`.

    Args:
        life: the lifecycle.
        theme: the colours of the states; either can be read on either background.
        options: what is shown; see `Shown`.

    Returns:
        Text for a code block of the language `mermaid`; the same for the same lifecycle.

    Raises:
        ConfigError: the theme, the detail or a scope to fold is unknown.
    """
    shown = picture(life, **options)
    writer = _MermaidWriter(shown)
    lines = ["stateDiagram-v2", "    direction TB", *writer.inside(None, "    ")]
    lines += _classes(shown, writer.ids, theme_of(theme))
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- colours


def _classes(shown: Picture, ids: dict[str, str], theme: Theme) -> Iterator[str]:
    """The colours of the states."""
    hot = theme.arrows["hot"]
    leaves = [name for name in shown.order if name not in shown.scopes]
    anchors = [name for name in leaves if shown.life.state(name).anchor]
    loops = [name for name in leaves if name in shown.hot and name not in anchors]
    for kind, fill, line, members in (
        ("anchor", theme.anchor, hot, anchors),
        ("hot", theme.paper, hot, loops),
        ("done", theme.good_fill, theme.good, shown.finals),
    ):
        yield from _class(kind, fill, line, [ids[name] for name in members], theme)
    yield from _class("bad", theme.bad_fill, theme.bad, [ids[FAILED]], theme)
    for name in leaves:
        fill, line = theme.state(shown, name)
        unheated = theme.state(evolve(shown, shares={}), name)[0]
        if name in shown.changes or fill != unheated:
            yield from _class(f"of_{ids[name]}", fill, line, [ids[name]], theme)
    if shown.current in leaves:
        yield f"    classDef here stroke:{theme.recent},stroke-width:4px"
        yield f"    class {ids[str(shown.current)]} here"


def _class(name: str, fill: str, stroke: str, members: list[str], theme: Theme) -> Iterator[str]:
    if members:
        yield f"    classDef {name} fill:{fill},stroke:{stroke},color:{theme.ink}"
        yield f"    class {','.join(members)} {name}"


# ---------------------------------------------------------------- states and arrows


@frozen
class _MermaidEdge:
    """A line between two neighbours in a scope."""

    scope: str | None
    tail: str
    head: str


class _MermaidWriter:
    """The picture with each arrow between two neighbours.

    Attributes:
        shown: the picture.
        edges: the lines, each with the labels of the arrows that it stands for.
        diamonds: the scopes whose first dot is a diamond.
        ids: what each state is called in the text.
    """

    def __init__(self, shown: Picture) -> None:
        self.shown = shown
        self.edges: dict[_MermaidEdge, list[str]] = {}
        around = _paths(shown)
        for arrow in shown.arrows:
            self._add(arrow, around[arrow.tail], around[arrow.head])
        self.diamonds = self._find_diamonds()
        dots = [start_of(scope) for scope in self.diamonds]
        dots += [dot for dot in shown.dots if dot.endswith(".events")]
        self.ids = _ids((*shown.order, FAILED), sorted(dots))
        self._by_scope: dict[str | None, list[str]] = {}
        for edge, labels in self.edges.items():
            line = f"{self.ids.get(edge.tail, '[*]')} --> {self.ids[edge.head]}"
            if labels:
                line += f" : {'<br/>'.join(labels)}"
            self._by_scope.setdefault(edge.scope, []).append(line)

    def _add(self, arrow: Arrow, tail: tuple[str, ...], head: tuple[str, ...]) -> None:
        i = shared_scopes(tail, head)
        scope = (None, *tail)[i]
        labels = self.edges.setdefault(_MermaidEdge(scope, tail[i], head[i]), [])
        labels += filter(None, [_label(arrow, self._leaves(arrow, tail, i), head[i])])
        for scope, inner in itertools.pairwise(head[i:]):
            # A scope without a dot is only entered on the way to something inside: shown there
            if start_of(scope) not in self.shown.dots:
                self.edges.setdefault(_MermaidEdge(scope, START, inner), [])

    def _leaves(self, arrow: Arrow, tail: tuple[str, ...], i: int) -> str:
        """What an arrow really leaves, if its line leaves something else."""
        leaves = arrow.tail
        if leaves in self.shown.dots:
            leaves = tail[-2]
        if tail[i] in (arrow.tail, leaves):
            return ""
        return leaves

    def _find_diamonds(self) -> set[str]:
        leaving = Counter(edge.tail for edge in self.edges)
        reached = {edge.head for edge in self.edges}
        starts = {scope: start_of(scope) for scope in self.shown.scopes}
        return {s for s, dot in starts.items() if dot in reached or leaving[dot] > 1}

    def depth(self, name: str) -> int:
        """How many scopes lie in each other here."""
        return 1 + max(map(self.depth, self.shown.children(name)), default=-1)

    def inside(self, scope: str | None, indent: str) -> Iterator[str]:
        """The lines of what is in a scope; for None, of everything."""
        if scope is not None:
            yield from self._dots(scope, indent)
        for name in self.shown.children(scope):
            yield from self._state(name, indent)
        if scope is None:
            yield f'{indent}state "{FAILED}<br/>{OTHER_ERRORS}" as {FAILED}'
        for line in self._by_scope.get(scope, ()):
            yield indent + line
        if scope is None:
            for name in (*self.shown.finals, FAILED):
                yield f"{indent}{self.ids[name]} --> [*]"

    def _dots(self, scope: str, indent: str) -> Iterator[str]:
        if scope in self.diamonds:
            begin = self.ids[start_of(scope)]
            yield f"{indent}state {begin} <<choice>>"
            yield f"{indent}[*] --> {begin}"
        if events_of(scope) in self.shown.dots:
            yield f'{indent}state "{EVENT}" as {self.ids[events_of(scope)]}'

    def _state(self, name: str, indent: str) -> Iterator[str]:
        title, known = self.shown.title(name), self.ids[name]
        if name in self.shown.changes:
            title = f"{CHANGED[self.shown.changes[name]]} {title}"
        named = name
        if known != title:
            named = f'state "{title}" as {known}'
        elif name in self.shown.scopes:
            named = f"state {name}"
        if name not in self.shown.scopes:
            yield indent + named
            return
        yield f"{indent}{named} {{"
        if self.depth(name) <= 2:
            yield f"{indent}    direction LR"
        yield from self.inside(name, indent + "    ")
        yield f"{indent}}}"


def _paths(shown: Picture) -> dict[str, tuple[str, ...]]:
    """The scopes around each state and dot, and itself."""
    paths = {name: shown.life.path(name) for name in (*shown.order, START, FAILED)}
    for scope in shown.scopes:
        for dot in (start_of(scope), events_of(scope)):
            paths[dot] = (*paths[scope], dot)
    return paths


def _label(arrow: Arrow, leaves: str, shown_head: str) -> str:
    """The text on a line for an arrow.

    Args:
        arrow: the arrow.
        leaves: what it really leaves, if the line leaves something else.
        shown_head: what the line leads to.
    """
    reaches = ""
    if arrow.head != shown_head:
        reaches = arrow.head
    parts = (
        _sign(arrow),
        escape(leaves),
        str(arrow.number or ""),
        arrow.event and f"{EVENT} {escape(arrow.event)}",
        _condition(arrow),
        arrow.times,
        arrow.effect and f"/ {escape(arrow.effect)}",
        reaches and f"to {escape(reaches)}",
    )
    return " ".join(filter(None, parts))


def _sign(arrow: Arrow) -> str:
    if arrow.change:
        return CHANGED[arrow.change]
    if arrow.recent:
        return RECENT
    return ""


def _condition(arrow: Arrow) -> str:
    if arrow.guard:
        return f"[{escape(arrow.guard)}]"
    if arrow.other:
        return "else"
    return ""


def _ids(names: tuple[str, ...], dots: list[str]) -> dict[str, str]:
    """The id of each state in the text: its name, unless that means something else there."""
    ids: dict[str, str] = {}
    taken: set[str] = set()
    for name in (*names, *dots):
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)
        while plain in taken or _is_reserved(plain.lower()):
            plain += "_"
        ids[name] = plain
        taken.add(plain)
    return ids


def _is_reserved(name: str) -> bool:
    return name in _RESERVED or name.endswith(("_start", "_end", "direction"))


def escape(text: str) -> str:
    """A text in which every character stands for itself."""
    return re.sub(_MEANING, lambda found: f"#{ord(found[0])};", text, flags=re.IGNORECASE)
