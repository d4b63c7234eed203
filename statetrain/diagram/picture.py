"""What a picture of a lifecycle shows, before it is laid out and written in some language.

The states in reading order, the arrows with their labels, and what the eye looks for first: which
arrow is the main way on from a state, and which states are the inner loop, where the time goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Literal

from attrs import Factory, evolve, frozen

from statetrain.guards.agreed import with_ranks
from statetrain.lifecycle.lifecycle import Lifecycle, count_shared
from statetrain.lifecycle.state import FAILED, START
from statetrain.lifecycle.text import is_else, number_of, plain, reading_order
from statetrain.lifecycle.transition import Transition
from statetrain.naming import label_of

BoxKind = Literal["hot", "main", "plain", "failure", "event"]
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
        number: the position of its guard among those of its source, counted from 1; 0 where the
            order does not matter.
        event: the event that it is taken on, or several that are taken alike; empty for an ordinary
            arrow.
        guard: the label of its guard; empty for none.
        effect: the work done on the way; empty for none.
        other: whether it is taken because no guard before it was true.
        count: how often it was taken in a run; None if that is not shown.
        asked: how often its guard was evaluated; None if it has none, or if that is not shown.
        share: of the run's time, what passed from its being taken until the next arrow was; None if
            that is not known.
        recent: whether it stands out: one of the last that were taken, or marked.
        change: what happened to it since another lifecycle.
    """

    tail: str
    head: str
    kind: BoxKind
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
    def stands_out(self) -> bool:
        """Whether it is drawn with a halo."""
        return self.recent or self.change != ""

    @property
    def times(self) -> str:
        """The count as text: how often it was taken, out of how many checks of its guard."""
        if self.count is None:
            return ""
        times = f"\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}{self.count:,}"
        if self.asked is not None and self.asked > self.count:
            times += f" of\N{NO-BREAK SPACE}{self.asked:,}"
        return times


@frozen
class Picture:
    """What is drawn of a lifecycle.

    Attributes:
        life: the lifecycle.
        order: its states in reading order: a scope before what is in it, and each before what comes
            after it.
        scopes: the states that others lie in.
        hot: the states of the inner loops.
        dots: the dots inside scopes that arrows need; see `start_of` and `events_of`.
        arrows: the arrows, in the order of the states that they leave, the events last.
        current: the state that a run is in, if one is shown.
        shares: of the run's time, what passed in each state; empty if that is not known.
        changes: what happened to states since another lifecycle.
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
        """The text in a state's box: its name, and its share of the time."""
        share = self.shares.get(name, 0.0)
        if not share:
            return name
        if share >= 0.005:
            return f"{name}  {share:.0%}"
        return f"{name}  <1%"

    @property
    def finals(self) -> tuple[str, ...]:
        """The final states."""
        return tuple(name for name in self.order if self.life.state(name).final)

    def children(self, scope: str | None) -> tuple[str, ...]:
        """The states directly within a scope, in reading order; of None, the outermost ones."""
        return tuple(self._children.get(scope, ()))

    @cached_property
    def _children(self) -> Mapping[str | None, list[str]]:
        children: dict[str | None, list[str]] = {}
        for name in self.order:
            children.setdefault(self.life.state(name).within, []).append(name)
        return children


def start_of(scope: str) -> str:
    """The dot at which a scope begins; no state can have this name."""
    return f"{scope}.start"


def events_of(scope: str) -> str:
    """The dot from which a scope's events lead to a state in it; no state can have this name."""
    return f"{scope}.events"


def shared_scopes(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many scopes two paths share; the last of a path is not one."""
    return count_shared(one[:-1], other[:-1])


def picture_of(life: Lifecycle) -> Picture:
    """All of a lifecycle, and nothing else; its arrows in the order of `transitions_of`."""
    scopes = frozenset(state.within for state in life.states if state.within is not None)
    order = reading_order(life)
    main = _main_ways(life, order, scopes)
    hot = _loops({name: arrow.dest for name, arrow in main.items()})
    arrows = [Arrow(START, life.initial, "main")]
    for transition in transitions_of(life)[1:]:
        is_main = main.get(transition.source) == transition
        kind = _kind_of(transition, is_main=is_main, is_hot=transition.source in hot)
        arrows.append(_arrow(life, scopes, transition, kind))
    return Picture(life, order, scopes, hot, frozenset(), tuple(arrows))


def transitions_of(life: Lifecycle) -> list[Transition]:
    """The transitions in the order of `drawn`'s arrows.

    The one into the initial state is first, then by the states that they leave, the events last.
    """
    rank = {name: i for i, name in enumerate(reading_order(life))}
    return [
        life.start,
        *sorted(life.transitions, key=lambda t: (t.event is not None, rank[t.source])),
    ]


def _kind_of(transition: Transition, *, is_main: bool, is_hot: bool) -> BoxKind:
    if transition.event is not None:
        return "event"
    if transition.dest == FAILED:
        return "failure"
    if not is_main:
        return "plain"
    if is_hot:
        return "hot"
    return "main"


def _main_ways(
    life: Lifecycle, order: tuple[str, ...], scopes: frozenset[str]
) -> dict[str, Transition]:
    """The main way on from each state that has one."""
    rank = {name: i for i, name in enumerate(order)}
    return {name: _main_way(life, rank, scopes, name) for name in order if life.arrows(name)}


def _main_way(
    life: Lifecycle, rank: Mapping[str, int], scopes: frozenset[str], name: str
) -> Transition:
    """The arrow to the next state onward in the same scope, else the one without a guard."""
    arrows = life.arrows(name)
    scope: str | None = name
    if name not in scopes:
        scope = life.state(name).within
    ahead: list[tuple[bool, int, Transition]] = []
    for arrow in arrows:
        if arrow.dest == FAILED or rank[arrow.dest] <= rank[name]:
            continue
        if scope is None or scope in life.path(arrow.dest)[:-1]:
            ends = life.state(arrow.dest).final and arrow.guard is not None
            ahead.append((ends, rank[arrow.dest] - rank[name], arrow))
    if not ahead:
        return arrows[-1]
    return min(ahead, key=lambda way: way[:2])[2]


def _loops(onward: Mapping[str, str]) -> frozenset[str]:
    """The states from which the main way leads back to themselves."""
    loops: set[str] = set()
    done: set[str] = set()
    for name in onward:
        trail: dict[str, int] = {}  # the states on the way from here, with their positions
        here: str | None = name
        while here is not None and here not in trail and here not in done:
            trail[here] = len(trail)
            here = onward.get(here)
        if here in trail:
            loops.update(list(trail)[trail[here] :])
        done.update(trail)
    return frozenset(loops)


def _arrow(life: Lifecycle, scopes: frozenset[str], transition: Transition, kind: BoxKind) -> Arrow:
    tail, head = _ends(life, scopes, transition)
    arrow = Arrow(
        tail,
        head,
        kind,
        number=number_of(life, transition),
        other=is_else(life, transition),
    )
    if transition.event is not None:
        arrow = evolve(arrow, event=plain(transition.event.__name__))
    if transition.guard is not None:
        arrow = evolve(arrow, guard=plain(with_ranks(transition.guard)))
    if transition.effect is not None:
        arrow = evolve(arrow, effect=plain(label_of(transition.effect)))
    return arrow


def _ends(life: Lifecycle, scopes: frozenset[str], transition: Transition) -> tuple[str, str]:
    """What an arrow leaves and reaches in the picture."""
    source, dest = transition.source, transition.dest
    tail, head = source, dest
    if source in scopes and transition.event is None:
        tail = start_of(source)
    elif source in scopes and source in life.path(dest):
        tail = events_of(source)
    if dest in scopes and dest in life.path(source):
        head = start_of(dest)  # from within, a scope is closed and begun again
    return tail, head
