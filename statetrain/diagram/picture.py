"""What a picture of a lifecycle shows, before anyone decides where it goes or in which language it is written.

The states in reading order, the arrows with their words, and what the eye wants to know first:
which arrow is the main way on from a state, and which states are the inner loop, where the time
goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import Factory, frozen

from statetrain.lifecycle.lifecycle import FAILED, START, Lifecycle, Transition
from statetrain.lifecycle.text import is_else, number_of, plain, reading_order
from statetrain.naming import label_of

Kind = Literal["hot", "main", "plain", "failure", "event"]
Change = Literal["", "added", "removed", "changed"]


@frozen
class Arrow:
    """An arrow as it is drawn.

    Attributes:
        tail: what it leaves: a state, a scope (its border), or the dot inside a scope (`start_of`,
            `events_of`).
        head: what it leads to, likewise.
        kind: how it looks. "hot" belongs to the inner loop, "main" is the way on, "event" is
            dashed.
        number: when it is asked, counted from 1; 0 where the order does not matter.
        event: the event that it is taken on, or several that are taken alike; empty for an ordinary
            arrow.
        guard: what is asked; empty for nothing.
        effect: the work done on the way; empty for none.
        other: whether it is taken because no guard before it held.
        count: how often it was taken in a run; None if that is not shown.
        asked: how often it was asked, where it has a guard; None if that is not shown.
        share: of the run's time, what passed from its being taken until the next arrow was; None if
            that is not known.
        recent: whether it stands out: one of the last that were taken, or marked.
        change: what became of it since another lifecycle.
    """

    tail: str
    head: str
    kind: Kind
    number: int = 0
    event: str = ""
    guard: str = ""
    effect: str = ""
    other: bool = False
    count: int | None = None
    asked: int | None = None
    share: float | None = None
    recent: bool = False
    change: Change = ""

    @property
    def times(self) -> str:
        """The count in words: how often it was taken, of how many times that it was asked."""
        if self.count is None:
            return ""
        of = (
            f" of\N{NO-BREAK SPACE}{self.asked:,}"
            if self.asked is not None and self.asked > self.count
            else ""
        )
        return f"\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}{self.count:,}{of}"


@frozen
class Picture:
    """What is drawn of a lifecycle.

    Attributes:
        life: the lifecycle.
        order: its states as they are read: scopes before what is in them, and each before what
            comes after it.
        scopes: the states that others lie in.
        hot: the states of the inner loops.
        dots: the dots inside scopes that arrows need; see `start_of` and `events_of`.
        arrows: the arrows, in the order of the states that they leave, the events last.
        current: the state that a run is in, if one is shown.
        shares: of the run's time, what passed in each state; empty if that is not known.
        changes: what became of states since another lifecycle.
    """

    life: Lifecycle
    order: tuple[str, ...]
    scopes: frozenset[str]
    hot: frozenset[str]
    dots: frozenset[str]
    arrows: tuple[Arrow, ...]
    current: str | None = None
    shares: Mapping[str, float] = Factory(dict)
    changes: Mapping[str, Change] = Factory(dict)

    def title(self, name: str) -> str:
        """What a state's box says: its name, and its share of the time."""
        share = self.shares.get(name, 0.0)
        return name if not share else f"{name}  {share:.0%}" if share >= 0.005 else f"{name}  <1%"

    def children(self, scope: str | None) -> tuple[str, ...]:
        """The states directly within a scope, in reading order; of None, the outermost ones."""
        return tuple(name for name in self.order if self.life.state(name).within == scope)


def start_of(scope: str) -> str:
    """The dot at which a scope begins; no state can be called that."""
    return f"{scope}.start"


def events_of(scope: str) -> str:
    """The dot from which the events of a scope lead to a state inside it; no state can be called that."""
    return f"{scope}.events"


def drawn(life: Lifecycle) -> Picture:
    """All of a lifecycle, and nothing else. Arrows stand in the order in which they are read; see `transitions_of`."""
    scopes = frozenset(state.within for state in life.states if state.within is not None)
    order = reading_order(life)
    main = {name: _main(life, order, scopes, name) for name in order if life.arrows(name)}
    hot = _loops({name: arrow.dest for name, arrow in main.items()})
    arrows = [Arrow(START, life.initial, "main")]
    for transition in transitions_of(life)[1:]:
        way_on = main.get(transition.source) == transition
        kind: Kind = "main" if way_on else "plain"
        if transition.event is not None:
            kind = "event"
        elif transition.dest == FAILED:
            kind = "failure"
        elif way_on and transition.source in hot:
            kind = "hot"
        arrows.append(_arrow(life, scopes, transition, kind))
    return Picture(life, order, scopes, hot, frozenset(), tuple(arrows))


def transitions_of(life: Lifecycle) -> list[Transition]:
    """The transitions in the order of `drawn`'s arrows: the first one of all, then by the states that they leave, the events last."""
    rank = {name: i for i, name in enumerate(reading_order(life))}
    return [
        life.start,
        *sorted(life.transitions, key=lambda t: (t.event is not None, rank[t.source])),
    ]


def _main(life: Lifecycle, order: tuple[str, ...], scopes: frozenset[str], name: str) -> Transition:
    """The main way on: the arrow to the next state that lies onward in the same scope, else the one without a guard."""
    arrows = life.arrows(name)
    scope = name if name in scopes else life.state(name).within
    onward: list[tuple[bool, int, Transition]] = []
    for arrow in arrows:
        if arrow.dest != FAILED and (scope is None or scope in life.path(arrow.dest)[:-1]):
            ends = life.state(arrow.dest).final and arrow.guard is not None
            onward.append((ends, order.index(arrow.dest) - order.index(name), arrow))
    ahead = [way for way in onward if way[1] > 0]
    return min(ahead, key=lambda way: way[:2])[2] if ahead else arrows[-1]


def _loops(onward: Mapping[str, str]) -> frozenset[str]:
    """The states from which the main way leads back to themselves."""
    loops: set[str] = set()
    for name in onward:
        trail = [name]
        while trail[-1] in onward and onward[trail[-1]] not in trail:
            trail.append(onward[trail[-1]])
        back = onward.get(trail[-1])
        loops.update(trail[trail.index(back) :] if back in trail else ())
    return frozenset(loops)


def _arrow(life: Lifecycle, scopes: frozenset[str], transition: Transition, kind: Kind) -> Arrow:
    source, dest = transition.source, transition.dest
    around = life.path(source)
    tail, head = source, dest
    if source in scopes and transition.event is None:
        tail = start_of(source)
    elif source in scopes and source in life.path(dest):
        tail = events_of(source)
    if dest in scopes and dest in around:
        head = start_of(dest)  # from within, a scope is closed and begun anew
    return Arrow(
        tail,
        head,
        kind,
        number=number_of(life, transition),
        event=plain(transition.event.__name__) if transition.event is not None else "",
        guard=plain(transition.guard.label) if transition.guard is not None else "",
        effect=plain(label_of(transition.effect)) if transition.effect is not None else "",
        other=is_else(life, transition),
    )
