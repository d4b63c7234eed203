"""What a picture of a lifecycle shows, before anyone decides where it goes or in which language it is written.

The states in reading order, the arrows with their words, and what the eye wants to know first: which arrow is the main
way on from a state, and which states are the inner loop, where the time goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from attrs import evolve, frozen

from statetrain.lifecycle import FAILED, START, Lifecycle, Transition
from statetrain.naming import did_you_mean, label_of
from statetrain.outcome import ConfigError
from statetrain.table import is_else, number_of, plain, reading_order
from statetrain.trace import Trace
from statetrain.trace.words import Words, words_of

_RECENT = 12  # transitions of a run that stand out

Kind = Literal["hot", "main", "plain", "failure", "event"]
Detail = Literal["full", "states"]


@frozen
class Arrow:
    """An arrow as it is drawn.

    Attributes:
        tail: what it leaves: a state, a scope (its border), or the dot inside a scope (`start_of`, `events_of`).
        head: what it leads to, likewise.
        kind: how it looks. "hot" belongs to the inner loop, "main" is the way on, "event" is dashed.
        number: when it is asked, counted from 1; 0 where the order does not matter.
        event: the event that it is taken on, or several that are taken alike; empty for an ordinary arrow.
        guard: what is asked; empty for nothing.
        effect: the work done on the way; empty for none.
        other: whether it is taken because no guard before it held.
        count: how often it was taken in a run; None if that is not shown.
        recent: whether it stands out: one of the last that were taken, or marked.
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
    recent: bool = False

    @property
    def times(self) -> str:
        """The count in words."""
        return "" if self.count is None else f"\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}{self.count:,}"


@frozen
class Picture:
    """What is drawn of a lifecycle.

    Attributes:
        life: the lifecycle.
        order: its states as they are read: scopes before what is in them, and each before what comes after it.
        scopes: the states that others lie in.
        hot: the states of the inner loops.
        dots: the dots inside scopes that arrows need; see `start_of` and `events_of`.
        arrows: the arrows, in the order of the states that they leave, the events last.
        current: the state that a run is in, if one is shown.
    """

    life: Lifecycle
    order: tuple[str, ...]
    scopes: frozenset[str]
    hot: frozenset[str]
    dots: frozenset[str]
    arrows: tuple[Arrow, ...]
    current: str | None = None

    def children(self, scope: str | None) -> tuple[str, ...]:
        """The states directly within a scope, in reading order; of None, the outermost ones."""
        return tuple(name for name in self.order if self.life.state(name).within == scope)


def start_of(scope: str) -> str:
    """The dot at which a scope begins; no state can be called that."""
    return f"{scope}.start"


def events_of(scope: str) -> str:
    """The dot from which the events of a scope lead to a state inside it; no state can be called that."""
    return f"{scope}.events"


def picture(
    life: Lifecycle,
    detail: Detail = "full",
    counts: Mapping[Transition, int] | None = None,
    trace: Trace | None = None,
    marked: Iterable[Transition] = (),
) -> Picture:
    """What is drawn of a lifecycle.

    Args:
        life: the lifecycle.
        detail: "full", or "states" for the states and the ways between them, without events and without words.
        counts: how often each arrow was taken in a run, such as `run.trace.counts()`; shown beside its words.
        trace: of a run: in place of `counts`, and its last transitions and the state that it is in stand out.
        marked: arrows that are to stand out too.

    Raises:
        ConfigError: the detail is unknown.
    """
    if detail not in get_args(Detail):
        known = get_args(Detail)
        raise ConfigError(f"detail must be one of {', '.join(map(repr, known))}, got {detail!r}{did_you_mean(str(detail), known)}")
    scopes = frozenset(state.within for state in life.states if state.within is not None)
    order = reading_order(life)
    main = {name: _main(life, order, scopes, name) for name in order if life.arrows(name)}
    hot = _loops({name: arrow.dest for name, arrow in main.items()})
    rank = {name: i for i, name in enumerate(order)}
    taken = sorted(life.transitions, key=lambda t: (t.event is not None, rank[t.source]))
    last = {words_of(arrow) for arrow in trace.transitions[-_RECENT:]} if trace is not None else set()
    last |= {words_of(arrow) for arrow in marked}
    if trace is not None:  # its arrows may be those of a file, of which the words alone are known
        taken_by_words: Counter[Words] = Counter()
        for arrow_taken, times in trace.counts().items():
            taken_by_words[words_of(arrow_taken)] += times
        counts = {transition: taken_by_words[words_of(transition)] for transition in life.transitions}
    arrows = [Arrow(START, life.initial, "main", recent=words_of(life.start) in last)]
    for transition in taken if detail == "full" else [t for t in taken if t.event is None]:
        way_on = main.get(transition.source) == transition
        kind: Kind = "main" if way_on else "plain"
        if transition.event is not None:
            kind = "event"
        elif transition.dest == FAILED:
            kind = "failure"
        elif way_on and transition.source in hot:
            kind = "hot"
        arrow = _arrow(life, scopes, transition, kind)
        if detail == "states":
            arrow = Arrow(arrow.tail, arrow.head, kind)
        if counts is not None:
            arrow = evolve(arrow, count=counts.get(transition, 0), recent=words_of(transition) in last)
        alike = [a for a in arrows if evolve(a, event="", count=None, recent=False) == evolve(arrow, event="", count=None, recent=False)]
        if not alike:
            arrows.append(arrow)
            continue
        event = f"{alike[0].event}, {arrow.event}" if kind == "event" else arrow.event
        count = None if arrow.count is None else arrow.count + (alike[0].count or 0)
        arrows[arrows.index(alike[0])] = evolve(alike[0], event=event, count=count, recent=alike[0].recent or arrow.recent)
    ends = {end for arrow in arrows for end in (arrow.tail, arrow.head)}
    dots = frozenset(dot for scope in scopes for dot in (start_of(scope), events_of(scope)) if dot in ends)
    return Picture(life, order, scopes, hot, dots, tuple(arrows), trace.states[-1] if trace is not None and len(trace) else None)


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
