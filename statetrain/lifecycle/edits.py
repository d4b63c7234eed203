"""Edits: functions from one lifecycle to another, which is checked like the first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from statetrain.errors import LifecycleError
from statetrain.guards.base import Guard, Test, as_guard
from statetrain.lifecycle.finding import find_arrow, is_arrow
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.naming import did_you_mean

if TYPE_CHECKING:  # the lifecycle's methods call these
    from statetrain.lifecycle.lifecycle import Lifecycle

P = TypeVar("P", bound=State | Transition)


# ---------------------------------------------------------------- states


def insert(
    life: Lifecycle,
    state: State,
    between: tuple[str, str],
    guard: Guard | Test | None = None,
    otherwise: str | None = None,
) -> Lifecycle:
    """Puts a state on the arrows from one state to another; see `Lifecycle.insert`."""
    if not isinstance(state, State):
        raise LifecycleError(f"{life.name}: insert takes a State, got {state!r}; write State(...)")
    if isinstance(between, str) or len(between) != 2:
        raise LifecycleError(
            f"{life.name}: between= takes the two ends of an arrow, such as ('loss', 'backward'),"
            f" got {between!r}"
        )
    if guard is None and otherwise is not None:
        raise LifecycleError(
            f"{life.name}: otherwise={otherwise!r} is where the arrows lead if guard= is false;"
            " give guard= too"
        )
    source, dest = between
    onto = life.between(source, dest)
    if state.within is None:
        state = attrs.evolve(state, within=_shared_scope(life, source, dest))
    arrows: list[Transition] = []
    for arrow in life.transitions:
        if arrow in onto:
            arrows += _led_onto(arrow, state.name, guard, otherwise)
        else:
            arrows.append(arrow)
    last = max(i for i, arrow in enumerate(arrows) if arrow.dest == state.name)
    arrows.insert(last + 1, Transition(state.name, dest))
    at = life.names.index(source) + 1
    states = (*life.states[:at], state, *life.states[at:])
    return attrs.evolve(life, states=states, transitions=arrows)


def _led_onto(
    arrow: Transition, name: str, guard: Guard | Test | None, otherwise: str | None
) -> list[Transition]:
    """An arrow that leads to an inserted state, and where a guard is given, the one past it."""
    if guard is None:
        return [attrs.evolve(arrow, dest=name)]
    both = as_guard(guard)
    if arrow.guard is not None:
        both = arrow.guard & guard
    past = attrs.evolve(arrow, dest=otherwise or arrow.dest)
    return [attrs.evolve(arrow, dest=name, guard=both), past]


def _shared_scope(life: Lifecycle, source: str, dest: str) -> str | None:
    """The innermost scope around two states; None is the outside."""
    shared = [a for a, b in zip(life.path(source), life.path(dest)[:-1], strict=False) if a == b]
    if not shared:
        return None
    return shared[-1]


def replace(life: Lifecycle, state: State | str, changes: Mapping[str, Any]) -> Lifecycle:
    """Replaces a state, or some of its fields; see `Lifecycle.replace`."""
    if not isinstance(state, State | str):
        raise LifecycleError(
            f"{life.name}: replace takes a State or the name of one, got {state!r:.80}"
        )
    if isinstance(state, str):
        state = life.state(state)
    old = life.state(state.name)
    new = _changed(life, state, changes)
    if new.name != old.name:
        raise LifecycleError(
            f"{life.name}: replace keeps a state's name, got {new.name!r} for {old.name!r}; insert"
            f" the new state and use without({old.name!r})"
        )
    states = {one.name: one for one in life.states} | {old.name: new}
    return attrs.evolve(life, states=states.values())


def _changed(life: Lifecycle, part: P, changes: Mapping[str, Any]) -> P:
    """A state or an arrow with other values in some of its fields.

    Raises:
        LifecycleError: it has no such field.
    """
    what = f"arrow {part}"
    if isinstance(part, State):
        what = f"state {part.name!r}"
    if not isinstance(changes, Mapping):
        raise LifecycleError(
            f"{life.name}: changes of {what} are values by field, such as {{'action': function}},"
            f" got {changes!r:.80}"
        )
    fields = attrs.fields_dict(type(part))
    for name in changes:
        if name not in fields:
            raise LifecycleError(
                f"{life.name}: {what} has no field {name!r}{did_you_mean(str(name), fields)}"
            )
    return attrs.evolve(part, **changes)


def without(life: Lifecycle, names: Iterable[str]) -> Lifecycle:
    """Removes states, each with the states inside it; see `Lifecycle.without`."""
    names = tuple(names)
    gone = {inner for name in names for inner in (name, *life.inside(name))}
    if life.initial in gone:
        raise LifecycleError(
            f"{life.name}: {life.initial!r} is where a run starts, so it cannot be removed; make"
            " a Lifecycle with another initial state, or replace its action"
        )
    staying = [arrow for arrow in life.transitions if arrow.source not in gone]
    goals = {arrow.dest for arrow in staying}
    onward = {name: _onward(life, name, gone) for name in gone & goals}
    _refuse_lost_decisions(life, names, gone, {*onward.values()})
    led = {arrow: attrs.evolve(arrow, dest=onward.get(arrow.dest, arrow.dest)) for arrow in staying}
    states = [state for state in life.states if state.name not in gone]
    for state in states:
        for arrow in _redundant(life.arrows(state.name), led):
            del led[arrow]
    kept = dict.fromkeys(led.values())  # two arrows may have become one
    return attrs.evolve(life, states=states, transitions=kept)


def _refuse_lost_decisions(
    life: Lifecycle, names: Iterable[str], gone: set[str], onward: set[str]
) -> None:
    """Raises a `LifecycleError` if a state that is removed by name decides where a run goes."""
    for name in names:
        for arrow in life.arrows(name):
            if arrow.guard is not None and arrow.dest not in gone | onward:
                raise LifecycleError(
                    f"{life.name}: without {name!r}, arrow {arrow} would be lost, and with it what"
                    " is decided there; remove it first, life.remove(*life.between("
                    f"{name!r}, {arrow.dest!r})), or make a table that has no such arrow"
                )


def _redundant(
    asked: Sequence[Transition], led: Mapping[Transition, Transition]
) -> Iterable[Transition]:
    """The guarded arrows that would lead where the unguarded last one does, and did not before."""
    for arrow in reversed(asked[:-1]):
        last = asked[-1]
        leads_there = led[arrow].dest == led[last].dest
        if arrow.dest == last.dest or arrow.effect is not None or not leads_there:
            return
        yield arrow


def _onward(life: Lifecycle, name: str, gone: set[str]) -> str:
    """The first state that stays, along the last, unguarded arrows."""
    seen = set()
    while name in gone:
        arrows = life.arrows(name)
        if name in seen or not arrows:
            raise LifecycleError(
                f"{life.name}: {name!r} leads nowhere that stays; redirect the arrows to it first"
            )
        seen.add(name)
        name = arrows[-1].dest
    return name


# ---------------------------------------------------------------- several at once


def edit(
    life: Lifecycle,
    remove: Sequence[str | Transition],
    add: Sequence[State | Transition],
    alter: Mapping[str | Transition, Mapping[str, Any]],
) -> Lifecycle:
    """Makes several changes, and checks what they come to; see `Lifecycle.edit`."""
    if not isinstance(alter, Mapping):
        raise LifecycleError(
            f"{life.name}: alter= takes changes by state or arrow, such as {{'step': {{'action':"
            f" function}}}}, got {alter!r:.80}"
        )
    gone = [_named(life, one) for one in remove]
    changes = {_named(life, one): fields for one, fields in alter.items()}
    states = [_changed(life, one, changes.get(one, {})) for one in life.states if one not in gone]
    arrows = [
        _changed(life, one, changes.get(one, {})) for one in life.transitions if one not in gone
    ]
    order = _StateOrder(arrows)
    for part in add:
        if isinstance(part, Transition):
            order.put(part, first=False, before=None)
        else:
            states.append(part)
    return attrs.evolve(life, states=states, transitions=order.arrows)


def parts_of(given: Any) -> tuple[Any, ...]:
    """Parts of a table that were given as one or as several."""
    if isinstance(given, Iterable) and not isinstance(given, str):
        return tuple(given)
    return (given,)


def _named(life: Lifecycle, name: str | Transition) -> State | Transition:
    """The state, or the arrow, of a name."""
    if isinstance(name, str) and not is_arrow(name):
        return life.state(name)
    return _known(life, name)


# ---------------------------------------------------------------- arrows


def add(
    life: Lifecycle,
    parts: Sequence[State | Transition],
    first: bool = False,
    before: str | Transition | None = None,
) -> Lifecycle:
    """Adds states and arrows, together; see `Lifecycle.add`."""
    new = [part for part in parts if isinstance(part, Transition)]
    if before is not None:
        before = _known(life, before)
        if not any(_are_rivals(before, part) for part in new):
            raise LifecycleError(
                f"{life.name}: before={before} orders arrows out of {before.source!r} of the same"
                f" kind, and none of those added is one: {', '.join(map(str, new)) or 'no arrow'}"
            )
    order = _StateOrder(life.transitions)
    if first:
        new.reverse()
    for part in new:
        order.put(part, first, before)
    states = [*life.states, *(part for part in parts if not isinstance(part, Transition))]
    return attrs.evolve(life, states=states, transitions=order.arrows)


def _are_rivals(one: Transition, other: Transition) -> bool:
    """Whether two arrows leave one state and are both ordinary, or are taken on one event."""
    return (one.source, one.event) == (other.source, other.event)


class _StateOrder:
    """Arrows in the order of the table, to which others are added next to those of their source."""

    def __init__(self, arrows: Iterable[Transition]) -> None:
        # A group for each arrow of the table: new ones join the group of the arrow that they are
        # put next to, or begin one at the end.
        self._groups = [[arrow] for arrow in arrows]
        self._group_of = {id(group[0]): group for group in self._groups}
        self._own: dict[tuple[str, bool], list[Transition]] = {}
        for (arrow,) in self._groups:
            self._own_of(arrow).append(arrow)

    @property
    def arrows(self) -> list[Transition]:
        """All of them, in order."""
        return [arrow for group in self._groups for arrow in group]

    def put(self, part: Transition, first: bool, before: Transition | None) -> None:
        """Adds an arrow: before another one, first, or before its source's unguarded last one."""
        own = self._own_of(part)
        at = _place_among(own, part, first, before)
        if at < len(own):
            group = self._group_of[id(own[at])]
            group.insert(_find(group, own[at]), part)
        elif own and part.event is None:
            group = self._group_of[id(own[-1])]
            group.insert(_find(group, own[-1]) + 1, part)
        else:
            group = [part]
            self._groups.append(group)
        own.insert(at, part)
        self._group_of[id(part)] = group

    def _own_of(self, part: Transition) -> list[Transition]:
        """The arrows of the same source and kind."""
        return self._own.setdefault((part.source, part.event is None), [])


def _place_among(
    own: Sequence[Transition], part: Transition, first: bool, before: Transition | None
) -> int:
    """Where an arrow comes among those of the same source and kind."""
    if before is not None and _are_rivals(part, before):
        return own.index(before)
    if first:
        return 0
    ends_plainly = part.event is None and own and own[-1].guard is None
    if ends_plainly and part.guard is not None:
        return len(own) - 1
    return len(own)


def _find(group: list[Transition], arrow: Transition) -> int:
    return next(i for i, one in enumerate(group) if one is arrow)


def alter(life: Lifecycle, which: str | Transition, changes: Mapping[str, Any]) -> Lifecycle:
    """Changes an arrow where it stands; see `Lifecycle.alter`."""
    arrow = _known(life, which)
    arrows = list(life.transitions)
    arrows[arrows.index(arrow)] = _changed(life, arrow, changes)
    return attrs.evolve(life, transitions=arrows)


def remove(life: Lifecycle, which: Iterable[str | Transition]) -> Lifecycle:
    """Removes arrows; see `Lifecycle.remove`."""
    gone = [_known(life, one) for one in which]
    kept = [arrow for arrow in life.transitions if arrow not in gone]
    return attrs.evolve(life, transitions=kept)


def reorder(life: Lifecycle, source: str, order: Iterable[str | Transition]) -> Lifecycle:
    """Asks the arrows out of a state in another order; see `Lifecycle.reorder`."""
    own, wanted = life.arrows(source), list(order)
    left = list(own)
    ordered = [arrow for one in wanted if (arrow := _take(left, one)) is not None]
    if left or len(ordered) != len(wanted):
        raise LifecycleError(
            f"{life.name}: reorder({source!r}) needs each of {[arrow.dest for arrow in own]}, got"
            f" {[str(one) for one in wanted]}"
        )
    arrows = list(life.transitions)
    places = [arrows.index(arrow) for arrow in own]
    for place, arrow in zip(places, ordered, strict=True):
        arrows[place] = arrow
    return attrs.evolve(life, transitions=arrows)


def _take(left: list[Transition], wanted: str | Transition) -> Transition | None:
    """Takes an arrow out of a list: the arrow itself, its text, or the first that leads there."""
    for arrow in left:
        if wanted in (arrow, str(arrow), arrow.dest):
            left.remove(arrow)
            return arrow
    return None


def _known(life: Lifecycle, arrow: str | Transition) -> Transition:
    """An arrow of the table: itself, or the one of that text.

    Raises:
        LifecycleError: it is not in the table.
    """
    if isinstance(arrow, str):
        return find_arrow(life, arrow)
    if not isinstance(arrow, Transition):
        raise LifecycleError(
            f"{life.name}: an arrow is a Transition or its text, got {arrow!r:.80};"
            " life.between(source, dest) gives the arrows between two states"
        )
    there = (*life.arrows(arrow.source), *life.events(arrow.source))
    if arrow not in there:
        raise LifecycleError(
            f"{life.name}: no arrow {arrow}; its source has: {'; '.join(map(str, there)) or 'none'}"
        )
    return arrow
