"""The ways between the states of a lifecycle, and what is done on each, in the order of a machine.

An event can be raised before a state has done its work. Exit hooks then find less than on the
ordinary way out, and each of them would have to say so; this is not asked of them. What follows an
event is followed.
"""

from __future__ import annotations

from typing import Any, Literal

from attrs import frozen

from statetrain.contracts.declaring import GIVEN, Access, access_of
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, START, State
from statetrain.lifecycle.transition import Transition

Doer = Literal["action", "effect", "guard", "close", "mode"]
WorkPlace = tuple[Doer, "str | Transition"]  # where something is done: in a state, or on an arrow


@frozen(eq=False)
class Doing:
    """Something done on a way: a component's own work, or the hooks of a name."""

    place: WorkPlace | None  # None for hooks
    access: Access | None  # None: unknown
    hook: str = ""
    begins: str = ""  # the state that has become the current one, whose action comes next

    @property
    def leaves(self) -> bool:
        """Whether these are exit hooks."""
        return self.hook.startswith("on_exit_")


@frozen(eq=False)
class Way:
    """What lies between two states: an arrow, taken with a certain state open."""

    arrow: Transition
    active: str
    doings: tuple[Doing, ...]


_NOTHING = Access()
_PASSING = Doing(None, None, "on_transition")


def name_place(place: WorkPlace) -> str:
    """What a place is called in errors and tables."""
    kind, of = place
    if kind == "guard":
        assert isinstance(of, Transition)
        assert of.guard is not None
        return f"the guard [{of.guard.label}] of {of.source} -> {of.dest}"
    if isinstance(of, Transition):
        return f"the effect of {of.source} -> {of.dest}"
    if kind == "close":
        return f"the close work of {of!r}"
    return f"the {kind} of {of!r}"


def works_of(life: Lifecycle) -> list[tuple[WorkPlace, Any]]:
    """The actions and close work of states, then the effects of arrows, with their places."""
    works: list[tuple[WorkPlace, Any]] = []
    works += [(("action", state.name), state.action) for state in life.states]
    works += [(("close", state.name), state.close) for state in life.states]
    works += [(("effect", arrow), arrow.effect) for arrow in life.transitions]
    return [(place, work) for place, work in works if work is not None]


def ways_of(life: Lifecycle) -> tuple[Way, ...]:
    """All ways between two states of a lifecycle, events included.

    The way into the initial state comes first.
    """
    table = _Table(life)
    found = [table.way(life.start, START)]
    for arrow in life.transitions:
        if arrow.event is None:
            found.append(table.way(arrow, arrow.source))
            continue
        # Raised by the action or an enter hook of any state within
        within = (arrow.source, *life.inside(arrow.source))
        found += [table.way(arrow, active) for active in within]
    return tuple(found)


class _Table:
    """A lifecycle, with what many ways share laid out once."""

    def __init__(self, life: Lifecycle) -> None:
        self.life = life
        self.entering = {state.name: self._enter(state) for state in life.states}
        self.leaving = {state.name: self._leave(state) for state in life.states}

    def way(self, arrow: Transition, active: str) -> Way:
        """The way of an arrow, as the machine lays it out."""
        effect: list[Doing] = []
        if arrow.effect is not None:
            effect = [Doing(("effect", arrow), access_of(arrow.effect))]
        if arrow.dest == FAILED:
            return Way(arrow, active, tuple(effect))
        left, entered = self.life.crossing(active, arrow.dest)
        leaving = [doing for name in left for doing in self.leaving[name]]
        entering = [doing for name in entered for doing in self.entering[name]]
        return Way(arrow, active, (*leaving, *effect, _PASSING, *entering))

    def _enter(self, state: State) -> list[Doing]:
        name = state.name
        doings = [Doing(None, None, f"on_enter_{name}")]
        if state.mode is not None:
            doings.insert(0, Doing(("mode", name), access_of(state.mode) or _NOTHING))
        if state.anchor:
            doings.append(Doing(None, None, "on_anchor"))
        work: Access | None = _NOTHING
        if state.action is not None:
            work = access_of(state.action)
        return [*doings, Doing(("action", name), work, begins=name)]

    def _leave(self, state: State) -> list[Doing]:
        name = state.name
        doings = [Doing(None, None, f"on_exit_{name}")]
        if state.close is not None:
            doings.append(Doing(("close", name), access_of(state.close)))
        if state.mode is not None:
            doings.append(Doing(("mode", name), self._close_mode(name)))
        return doings

    def _close_mode(self, name: str) -> Access:
        """What leaving a scope with a mode does.

        What the mode wrote ends, unless it was there before, or a mode around writes it.
        """
        modes = [self.life.state(scope).mode for scope in self.life.path(name)]
        *outer, own = [(access_of(mode) or _NOTHING).writes for mode in modes]
        return Access(drops=own - GIVEN.union(*outer))
