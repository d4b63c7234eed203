"""A lifecycle: states and guarded transitions, as a value.

A *state* is a node and, at the same time, the scope of the states `within` it. A state that is
entered does its `action`. When that is done, the guards of its outgoing transitions are asked in
the order of the table; the first that is true is taken. Every state that a transition leads to,
unless it is final, ends its list with a transition that has no guard, so the machine cannot get
stuck.

Taking `source -> dest`, the scopes that both have in common stay open:

1. every state left, innermost first: its exit hooks, its `close` work, and its scope's mode is put
    back;
2. the transition's effect;
3. every state entered, outermost first: its mode is set, the state becomes the current one, its
    enter hooks, its action.

Going to a state inside a closed scope opens the scope on the way. Going to an open scope closes and
reopens it. So each enter has its exit, on every path but failure.

A transition with an `event` is not asked: it is taken when that event is raised by an action or an
enter hook anywhere within its source. The innermost match wins.

An exception that no transition takes leads to `failed`, a final state that every lifecycle has.

An *anchor* is a state in which a run can be saved and resumed: callbacks that save are called after
its enter hooks and before its action. Resuming at an anchor opens the scopes around it, outermost
first: each scope's mode is set and its `reopen` work done, and no enter hook is called again. Then
the anchor's action is done, and its guards are asked.

A lifecycle says all of this and does none of it: it can be printed, drawn, edited into another one,
compared, walked without a model, explored. `statetrain.machine.machine` runs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
from attrs import field, frozen

from statetrain.errors import LifecycleError
from statetrain.guards.base import Guard, Test, leaves
from statetrain.lifecycle import edits
from statetrain.lifecycle.checks import check, check_parts
from statetrain.lifecycle.finding import find_arrow
from statetrain.lifecycle.index import Index
from statetrain.lifecycle.state import FAILED, START, State, StateWork
from statetrain.lifecycle.transition import Transition
from statetrain.naming import did_you_mean


def _states(value: Iterable[State]) -> tuple[State, ...]:
    return tuple(value)


def _transitions(value: Iterable[Transition]) -> tuple[Transition, ...]:
    return tuple(value)


@frozen(repr=False)
class Lifecycle:
    """States and transitions. Immutable; every edit returns another one, checked like the first.

    Args:
        name: what it is called in errors and pictures.
        states: the nodes, in the order in which they are listed and drawn.
        transitions: the arrows; those of one source are asked in this order.
        initial: where a run starts; the first state unless given.
        also: roles that a callback's hooks may mention though no state here has them, because an
            option that is off would bring them. It does not count in comparisons.
        alone: of a lifecycle for several ranks, the one for one process that it was made of. They
            have one fingerprint, so that any number of ranks resumes a run.

    Raises:
        LifecycleError: the table is not sound. The message names the lifecycle, the state or the
            arrow, and the remedy.
    """

    name: str
    states: tuple[State, ...] = field(converter=_states)
    transitions: tuple[Transition, ...] = field(converter=_transitions)
    initial: str = field(default="")
    also: frozenset[str] = field(default=frozenset(), eq=False)
    alone: Lifecycle | None = field(default=None, eq=False)
    _index: Index = field(init=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if not self.initial and self.states:
            object.__setattr__(self, "initial", getattr(self.states[0], "name", ""))
        check_parts(self)
        object.__setattr__(self, "_index", Index(self.states, self.transitions))
        self._check()

    def _check(self) -> None:
        """Raises a `LifecycleError` unless the table can be walked to its end."""
        check(self)

    # ------------------------------------------------------------ questions

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all states, in order."""
        return tuple(self._index.states)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of all states, in order, each once."""
        return tuple(self._index.roles)

    @property
    def guards(self) -> tuple[Guard, ...]:
        """What its arrows ask, in order; of a guard that combines others, those."""
        guards = [arrow.guard for arrow in self.transitions if arrow.guard is not None]
        return tuple(leaf for guard in guards for leaf in leaves(guard))

    @property
    def start(self) -> Transition:
        """The arrow from nowhere into the initial state."""
        return Transition(START, self.initial)

    def state(self, name: str) -> State:
        """The state of that name.

        Raises:
            LifecycleError: there is none.
        """
        found = self._index.states.get(name)
        if found is None:
            raise LifecycleError(
                f"{self.name}: no state {name!r}{did_you_mean(str(name), self.names)}"
            )
        return found

    def role(self, name: str) -> str:
        """The role of the state of that name; `failed` and the start have their names as roles.

        Raises:
            LifecycleError: there is no such state.
        """
        if name in (FAILED, START):
            return name
        return self.state(name).role

    def by_role(self, *roles: str) -> tuple[State, ...]:
        """The states that have one of these roles, in order, in all phases and evaluations."""
        if len(roles) == 1:
            return self._index.roles.get(roles[0], ())
        return tuple(state for state in self.states if state.role in roles)

    def path(self, name: str) -> tuple[str, ...]:
        """The scopes around a state, outermost first, and the state itself.

        Raises:
            LifecycleError: there is no such state.
        """
        try:
            return self._index.paths[name]
        except KeyError:
            self.state(name)  # an error that suggests a name
            raise

    def lies_in(self, name: str, *roles: str) -> bool:
        """Whether a state, or a scope around it, has one of these roles."""
        return any(self.role(part) in roles for part in self.path(name))

    def children(self, scope: str | None) -> tuple[str, ...]:
        """The names of the states directly within a scope, in order; None is the outside.

        Raises:
            LifecycleError: there is no such state.
        """
        if scope is not None:
            self.path(scope)  # an unknown name is an error
        return self._index.children.get(scope, ())

    def inside(self, scope: str) -> tuple[str, ...]:
        """The names of the states within a scope, at any depth, in order.

        Raises:
            LifecycleError: there is no such state.
        """
        found: list[str] = []
        todo = list(self.children(self.state(scope).name))
        while todo:
            found.append(todo.pop())
            todo += self.children(found[-1])
        return tuple(sorted(found, key=self._index.order.__getitem__))

    def arrows(self, source: str) -> tuple[Transition, ...]:
        """The ordinary arrows out of a state, in the order in which they are asked.

        Raises:
            LifecycleError: there is no such state.
        """
        found = self._index.asked.get(source)
        if found is None:
            self.path(source)  # an unknown name is an error
            return ()
        return found

    def events(self, source: str) -> tuple[Transition, ...]:
        """The arrows out of a state, or a scope, that are taken on events, in order.

        Raises:
            LifecycleError: there is no such state.
        """
        self.path(source)
        return self._index.raised.get(source, ())

    def between(self, source: str, dest: str) -> tuple[Transition, ...]:
        """The arrows from one state to another, events included.

        Raises:
            LifecycleError: there is none.
        """
        found = self._index.between.get((source, dest))
        if found is None:
            ways = [arrow.dest for arrow in (*self.arrows(source), *self.events(source))]
            raise LifecycleError(
                f"{self.name}: no arrow {source} -> {dest}{did_you_mean(dest, ways)}"
            )
        return found

    def arrow(self, text: str) -> Transition:
        """The arrow of that text, as the table prints it: `"loss -> next_batch [loss not finite]"`.

        Args:
            text: all of it, or its beginning, such as `"loss -> backward"`, where that is enough to
                tell it from others.

        Raises:
            LifecycleError: there is no such arrow, or several.
        """
        return find_arrow(self, text)

    def on_event(self, active: str, error: BaseException) -> Iterator[Transition]:
        """The arrows that an event raised in a state may take, the innermost scope's first."""
        for scope in reversed(self.path(active)):
            for arrow in self._index.raised.get(scope, ()):
                if isinstance(error, arrow.event):  # type: ignore[arg-type]  # these have one
                    yield arrow

    def crossing(self, active: str, dest: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What taking an arrow leaves and enters.

        Args:
            active: the innermost state that is open; `START` before a run.
            dest: where the arrow leads.

        Returns:
            The states left, innermost first, and the states entered, outermost first.
        """
        here, there = self.path(active), self.path(dest)
        if active == START:
            here = ()
        shared = count_shared(here, there[:-1])
        return tuple(reversed(here[shared:])), there[shared:]

    # ------------------------------------------------------------ edits

    def insert(
        self,
        state: State,
        *,
        between: tuple[str, str],
        guard: Guard | Test | None = None,
        otherwise: str | None = None,
    ) -> Lifecycle:
        """Puts a state on the arrows from one state to another.

        The arrows keep their guards and effects and lead to the new state; one plain arrow leads
        on.

        Args:
            state: the new one. If it names no scope, it takes the innermost one that both ends
                share.
            between: the ends of the arrows.
            guard: when the arrows lead to the new state; otherwise they lead on as before. None is
                always.
            otherwise: where they lead if the guard is false; None is where they led before.

        Raises:
            LifecycleError: there is no such arrow.
        """
        return edits.insert(self, state, between, guard, otherwise)

    def edit(
        self,
        *,
        remove: Iterable[str | Transition] | str | Transition = (),
        add: Iterable[State | Transition] | State | Transition = (),
        alter: Mapping[str | Transition, Mapping[str, Any]] = MappingProxyType({}),
    ) -> Lifecycle:
        """Makes several changes at once, so that only what they come to has to be sound.

            life.edit(
                remove=["draw -> record", "loss -> next_batch [loss not finite]"],
                add=[State("refill", refill, "train"), Transition("draw", "refill"),
                     Transition("refill", "next_batch")],
                alter={"pred": {"action": my_pred}, "backward -> step": {"effect": my_effect}},
            )

        Args:
            remove: arrows, and names of states, whose arrows have to be removed or altered too. An
                arrow is given as itself or as its text; see `arrow`.
            add: states, and arrows, which go where `add` puts them.
            alter: changes by arrow, or by name of a state.

        Raises:
            LifecycleError: something is not in the table, or what comes out is not sound.
        """
        return edits.edit(self, edits.parts_of(remove), edits.parts_of(add), alter)

    def replace(self, state: State | str, **changes: Any) -> Lifecycle:
        """Replaces a state or some of its fields: `life.replace("step", action=my_step)`.

        Its arrows stay.
        """
        return edits.replace(self, state, changes)

    def without(self, *names: str) -> Lifecycle:
        """Removes states, each with the states inside it.

        Arrows that led to a removed state lead to where its last, unguarded arrows led on to. A
        guarded arrow that would then say the same as the one after it is dropped.

        Raises:
            LifecycleError: a name is unknown, a removed state leads nowhere that stays, or a state
                that is named has a guarded arrow to elsewhere, such as `loss` to `failed` if the
                loss is not finite: remove that arrow first, knowingly.
        """
        return edits.without(self, names)

    def add(
        self,
        *parts: State | Transition,
        first: bool = False,
        before: str | Transition | None = None,
    ) -> Lifecycle:
        """Adds states and arrows, together, so that what they make is sound.

        Args:
            parts: states, and arrows. An arrow goes before its source's unguarded last one, an
                unguarded arrow or one with an event to the end.
            first: whether the arrows are to be asked before all others of their source and kind, in
                the order given.
            before: an arrow of this lifecycle, or its text, that the new arrows of the same source
                and kind are to be asked before.

        Raises:
            LifecycleError: `before` is not in the table, or no new arrow has its source and kind.
        """
        return edits.add(self, parts, first, before)

    def alter(self, transition: str | Transition, **changes: Any) -> Lifecycle:
        """Changes an arrow in its place: `life.alter("backward -> step", effect=my_effect)`.

        Raises:
            LifecycleError: there is no such arrow, or the table would not be sound.
        """
        return edits.alter(self, transition, changes)

    def remove(self, *transitions: str | Transition) -> Lifecycle:
        """Removes arrows, each given as itself or as its text; see `arrow`.

        Raises:
            LifecycleError: there is no such arrow, or the table would not be sound.
        """
        return edits.remove(self, transitions)

    def reorder(self, source: str, order: Iterable[str | Transition]) -> Lifecycle:
        """Asks the arrows out of a state in another order.

        Args:
            source: the state.
            order: all its arrows: each as where it leads, or, of several that lead to one state, as
                the arrow itself or its text, such as `"next_epoch -> end [stop now]"`.

        Raises:
            LifecycleError: an arrow is missing, or not out of this state.
        """
        return edits.reorder(self, source, order)

    def draft(self) -> Lifecycle:
        """The same table for several edits in a row, which `checked` checks when they are done."""
        return Draft(self.name, self.states, self.transitions, self.initial, self.also, self.alone)

    def checked(self) -> Lifecycle:
        """The lifecycle itself; of a draft, the lifecycle that its edits came to.

        Raises:
            LifecycleError: it is not sound.
        """
        return self

    def named(self, name: str) -> Lifecycle:
        """The same table under another name, which errors and pictures use."""
        return attrs.evolve(self, name=name)

    def prefixed(self, prefix: str) -> Lifecycle:
        """The same table with a prefix before every name; see `statetrain.lifecycle.joining`."""
        from statetrain.lifecycle.joining import prefixed

        return prefixed(self, prefix)

    def then(self, other: Lifecycle, effect: StateWork | None = None) -> Lifecycle:
        """This lifecycle followed by another one, as the phases of one run.

        See `statetrain.lifecycle.joining`.
        """
        from statetrain.lifecycle.joining import then

        return then(self, other, effect)

    # -------------------- showing, comparing, keeping: thin delegates

    def __repr__(self) -> str:
        return (
            f"<Lifecycle {self.name!r}: {len(self.states)} states, {len(self.transitions)}"
            " transitions>"
        )

    def __str__(self) -> str:
        from statetrain.lifecycle.text import table

        return table(self)

    def mermaid(self, **options: Any) -> str:
        """The picture as Mermaid text, for GitHub and notebooks.

        See `statetrain.diagram.mermaid`.
        """
        from statetrain.diagram import mermaid

        return mermaid(self, **options)

    def dot(self, **options: Any) -> str:
        """The picture as Graphviz text; see `statetrain.diagram.dot`."""
        from statetrain.diagram import dot

        return dot(self, **options)

    def draw(self, path: str | Path, **options: Any) -> None:
        """Writes the picture to a file: `.svg`, `.png`, `.pdf`, `.dot` or `.mmd`.

        See `statetrain.diagram.draw`.
        """
        from statetrain.diagram import draw

        draw(self, path, **options)

    def svg(self, **options: Any) -> str:
        """The picture as SVG text; see `statetrain.diagram.svg`."""
        from statetrain.diagram import svg

        return svg(self, **options)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from statetrain.diagram.bundle import bundle

        return bundle(str(self), self)

    def to_dict(self) -> dict[str, Any]:
        """The lifecycle as plain data that fits into JSON; see `statetrain.lifecycle.registry`."""
        from statetrain.lifecycle.registry import to_dict

        return to_dict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any], registry: dict[str, Any] | None = None) -> Lifecycle:
        """The lifecycle that `to_dict` described; see `statetrain.standard.reading`."""
        from statetrain.standard.reading import from_dict

        return from_dict(data, registry)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that are equal for equal tables, on every machine.

        See `statetrain.lifecycle.registry`.
        """
        from statetrain.lifecycle.registry import fingerprint

        return fingerprint(self)


@frozen(repr=False)
class Draft(Lifecycle):
    """A lifecycle between edits: it is read and edited like another, and not checked yet."""

    def _check(self) -> None:
        """Nothing yet."""

    def checked(self) -> Lifecycle:
        """The lifecycle that the edits came to."""
        return Lifecycle(
            self.name, self.states, self.transitions, self.initial, self.also, self.alone
        )


def count_shared(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many scopes two paths have in common, from the outside in."""
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    return shared
