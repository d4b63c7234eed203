"""The ways between the states of a lifecycle, and what is done on each, in the order of a machine.

An event can be raised before a state has done its work. Exit hooks then find less than on the
ordinary way out, and each of them would have to say so; this is not asked of them. What follows an
event is followed.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from statetrain.contracts.declaring import GIVEN, Access, access_of
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, START
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
        found += [
            table.way(arrow, active) for active, path in table.paths.items() if arrow.source in path
        ]
    return tuple(found)


class _Table:
    """A lifecycle, with what many ways share laid out once."""

    def __init__(self, life: Lifecycle) -> None:
        self.states = {state.name: state for state in life.states}
        self.paths: dict[str, tuple[str, ...]] = {START: ()}
        for name, state in self.states.items():
            path, scope = [name], state.within
            while scope is not None:
                path.insert(0, scope)
                scope = self.states[scope].within
            self.paths[name] = tuple(path)
        self.entering = {name: tuple(self._enter(name)) for name in self.states}
        self.leaving = {name: tuple(self._leave(name)) for name in self.states}

    def way(self, arrow: Transition, active: str) -> Way:
        """The way of an arrow, as the machine lays it out."""
        effect: list[Doing] = []
        if arrow.effect is not None:
            effect = [Doing(("effect", arrow), access_of(arrow.effect))]
        if arrow.dest == FAILED:
            return Way(arrow, active, tuple(effect))
        here, there = self.paths[active], self.paths[arrow.dest]
        shared = 0
        while shared < min(len(here), len(there) - 1) and here[shared] == there[shared]:
            shared += 1
        doings = [doing for name in reversed(here[shared:]) for doing in self.leaving[name]]
        doings += [*effect, _PASSING]
        doings += [doing for name in there[shared:] for doing in self.entering[name]]
        return Way(arrow, active, tuple(doings))

    def _enter(self, name: str) -> list[Doing]:
        state = self.states[name]
        doings = [Doing(None, None, f"on_enter_{name}")]
        if state.mode is not None:
            doings.insert(0, Doing(("mode", name), access_of(state.mode) or _NOTHING))
        if state.anchor:
            doings.append(Doing(None, None, "on_anchor"))
        work: Access | None = _NOTHING
        if state.action is not None:
            work = access_of(state.action)
        return [*doings, Doing(("action", name), work, begins=name)]

    def _leave(self, name: str) -> list[Doing]:
        state = self.states[name]
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
        own, *outer = [
            access_of(self.states[scope].mode) or _NOTHING for scope in reversed(self.paths[name])
        ]
        return Access(drops=own.writes - GIVEN.union(*(one.writes for one in outer)))
