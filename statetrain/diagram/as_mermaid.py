"""The picture as Mermaid text, which GitHub and notebooks draw themselves.

Mermaid draws an arrow across a scope's border badly, and one between a scope and its own inside
wrongly. So each arrow is drawn between two neighbours in one scope, and its words begin with the
state that it really leaves: what leaves `train` from `next_batch` is drawn from `train` and says
`next_batch`. Arrows between the same two are drawn as one with several lines. A scope's own first
step starts at the dot inside it; a diamond stands for the dot if it has several ways on, or if
something leads back to it. Lines cannot be dashed; events bear a sign instead.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Unpack

from attrs import evolve, frozen

from statetrain.diagram.picture import Arrow, Picture, events_of, start_of
from statetrain.diagram.showing import Shown, picture
from statetrain.diagram.theme import CHANGED, ThemeName, theme_of
from statetrain.lifecycle.lifecycle import FAILED, START, Lifecycle
from statetrain.lifecycle.text import OTHER_ERRORS

EVENT = "\N{HIGH VOLTAGE SIGN}"
RECENT = "\N{BLACK RIGHT-POINTING TRIANGLE}"  # before what was taken among the last

# What means something to Mermaid, or to the JavaScript under it, where a state's name is expected.
_TAKEN = {
    *(
        "accdescr",
        "acctitle",
        "as",
        "class",
        "classdef",
        "click",
        "default",
        "direction",
        "hide",
        "href",
        "note",
        "root",
        "scale",
    ),
    *(
        "state",
        "statediagram",
        "style",
        "constructor",
        "hasownproperty",
        "isprototypeof",
        "propertyisenumerable",
        "tolocalestring",
    ),
    *(
        "tostring",
        "valueof",
        "__proto__",
        "__definegetter__",
        "__definesetter__",
        "__lookupgetter__",
        "__lookupsetter__",
    ),
}


def mermaid(
    life: Lifecycle,
    *,
    theme: ThemeName = "light",
    **options: Unpack[Shown],
) -> str:
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
    neighbours = _Neighbours(shown)
    colours = theme_of(theme)
    lines = ["stateDiagram-v2", "    direction TB"]
    lines += neighbours.inside(None, "    ")
    for name, members, fill, stroke in (
        (
            "anchor",
            [n for n in shown.order if shown.life.state(n).anchor],
            colours.anchor,
            colours.arrows["hot"],
        ),
        (
            "hot",
            [n for n in shown.order if n in shown.hot and not shown.life.state(n).anchor],
            colours.paper,
            colours.arrows["hot"],
        ),
        (
            "done",
            [n for n in shown.order if shown.life.state(n).final],
            colours.good_fill,
            colours.good,
        ),
        ("bad", [FAILED], colours.bad_fill, colours.bad),
    ):
        ids = ",".join(neighbours.ids[member] for member in members if member not in shown.scopes)
        if ids:
            lines += [
                f"    classDef {name} fill:{fill},stroke:{stroke},color:{colours.ink}",
                f"    class {ids} {name}",
            ]
    for name in shown.order if shown.shares or shown.changes else ():
        fill, line = colours.state(shown, name)
        if name not in shown.scopes and (
            name in shown.changes or fill != colours.state(evolve(shown, shares={}), name)[0]
        ):
            lines += [
                (
                    f"    classDef of_{neighbours.ids[name]}"
                    f" fill:{fill},stroke:{line},color:{colours.ink}"
                ),
                f"    class {neighbours.ids[name]} of_{neighbours.ids[name]}",
            ]
    if shown.current is not None and shown.current not in shown.scopes:
        lines += [
            f"    classDef here stroke:{colours.recent},stroke-width:4px",
            f"    class {neighbours.ids[shown.current]} here",
        ]
    return "\n".join(lines) + "\n"


@frozen
class _Way:
    """An arrow between two neighbours in a scope."""

    scope: str | None
    tail: str
    head: str


class _Neighbours:
    """The picture with each arrow between two neighbours."""

    def __init__(self, shown: Picture) -> None:
        self.shown = shown
        around: dict[str, tuple[str, ...]] = {
            name: shown.life.path(name) for name in (*shown.order, START, FAILED)
        }
        around |= {
            dot(scope): (*around[scope], dot(scope))
            for scope in shown.scopes
            for dot in (start_of, events_of)
        }
        self.ways: dict[_Way, list[str]] = {}
        for arrow in shown.arrows:
            tail, head = around[arrow.tail], around[arrow.head]
            i = 0
            while i < min(len(tail), len(head)) - 1 and tail[i] == head[i]:
                i += 1
            leaves = tail[-2] if arrow.tail in shown.dots else arrow.tail
            way = _Way(tail[i - 1] if i else None, tail[i], head[i])
            words = _words(
                arrow,
                "" if tail[i] in (arrow.tail, leaves) else leaves,
                "" if head[i] == arrow.head else arrow.head,
            )
            self.ways.setdefault(way, []).extend([words] if words else [])
            for scope, inner in itertools.pairwise(head[i:]):
                if (
                    start_of(scope) not in shown.dots
                ):  # it is only ever entered on the way to something inside: shown there
                    self.ways.setdefault(_Way(scope, START, inner), [])
        self.diamonds = {scope for scope in shown.scopes if self.needs_diamond(start_of(scope))}
        dots = [start_of(scope) for scope in self.diamonds] + [
            dot for dot in shown.dots if dot.endswith(".events")
        ]
        self.ids = _ids((*shown.order, FAILED), sorted(dots))

    def needs_diamond(self, dot: str) -> bool:
        return (
            any(way.head == dot for way in self.ways)
            or sum(way.tail == dot for way in self.ways) > 1
        )

    def depth(self, name: str) -> int:
        """How many scopes lie in each other here."""
        return 1 + max(map(self.depth, self.shown.children(name)), default=-1)

    def inside(self, scope: str | None, indent: str) -> Iterator[str]:
        """The lines of what is in a scope; for None, of everything."""
        shown, ids = self.shown, self.ids
        if scope in self.diamonds:
            begin = ids[start_of(scope)]
            yield f"{indent}state {begin} <<choice>>"
            yield f"{indent}[*] --> {begin}"
        if scope is not None and events_of(scope) in shown.dots:
            yield f'{indent}state "{EVENT}" as {ids[events_of(scope)]}'
        for name in shown.children(scope):
            sign = f"{CHANGED[shown.changes[name]]} " if name in shown.changes else ""
            title = f"{sign}{shown.title(name)}"
            named = f'"{title}" as {ids[name]}' if ids[name] != title else name
            if name in shown.scopes:
                yield f"{indent}state {named} {{"
                if self.depth(name) <= 2:
                    yield f"{indent}    direction LR"
                yield from self.inside(name, indent + "    ")
                yield f"{indent}}}"
            else:
                yield f"{indent}state {named}" if ids[name] != title else f"{indent}{name}"
        if scope is None:
            yield f'{indent}state "{FAILED}<br/>{OTHER_ERRORS}" as {FAILED}'
        for way, words in self.ways.items():
            if way.scope == scope:
                yield f"{indent}{ids.get(way.tail, '[*]')} --> {ids[way.head]}" + (
                    f" : {'<br/>'.join(words)}" if words else ""
                )
        if scope is None:
            for name in (*(name for name in shown.order if shown.life.state(name).final), FAILED):
                yield f"{indent}{ids[name]} --> [*]"


def _words(arrow: Arrow, leaves: str, reaches: str) -> str:
    guard = f"[{escaped(arrow.guard)}]" if arrow.guard else "else" if arrow.other else ""
    parts = (
        CHANGED[arrow.change] if arrow.change else RECENT if arrow.recent else "",
        escaped(leaves),
        str(arrow.number) if arrow.number else "",
        f"{EVENT} {escaped(arrow.event)}" if arrow.event else "",
        guard,
        arrow.times,
        f"/ {escaped(arrow.effect)}" if arrow.effect else "",
        f"to {escaped(reaches)}" if reaches else "",
    )
    return " ".join(part for part in parts if part)


def _ids(names: tuple[str, ...], dots: list[str]) -> dict[str, str]:
    """What each state is called in the text: its name, unless that would mean something else there."""
    ids: dict[str, str] = {}
    for name in (*names, *dots):
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)
        while (
            plain in ids.values()
            or plain.lower() in _TAKEN
            or plain.lower().endswith(("_start", "_end", "direction"))
        ):
            plain += "_"
        ids[name] = plain
    return ids


def escaped(text: str) -> str:
    """A text in which every character stands for itself."""
    return re.sub(_MEANING, lambda found: f"#{ord(found[0])};", text, flags=re.IGNORECASE)


_MEANING = (
    r"""[^\w\s(),.'!?+=/-]"""  # signs, but for a few that mean nothing
    # What emphasises, or is part of an arrow, unless within a word
    r"""|(?<![^\W_])[_-]|[_-](?![^\W_])"""
    r"""|\.(?=[^\W\d])"""  # what makes a web address
    r"""|(?<=directio)n(?=\s)"""  # a keyword, wherever it stands in a line
)
