"""A lifecycle: states and guarded transitions, as a value.

Theory of operation ------------------- A *state* is a node and, at the same time, the scope of the
states `within` it. A state that is entered does its `action`. When that is done, the guards of its
outgoing transitions are asked in the order of the table; the first that holds is taken. Every state
that a transition leads to, unless it is final, ends its list with a transition that has no guard,
so the machine cannot get stuck.

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

An *anchor* is a state in which a run can be saved and continued: whoever saves is called after its
enter hooks and before its action. Continuing at an anchor opens the scopes around it, outermost
first: each scope's mode is set and its `reopen` work done, and no enter hook is called again. Then
the anchor's action is done, and its guards are asked.

A lifecycle says all of this and does none of it: it can be printed, drawn, edited into another one,
compared, walked without a model, explored. `statetrain.machine.machine` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import attrs
from attrs import field, frozen

from statetrain.errors import LifecycleError
from statetrain.guards.base import AnyContext, Guard, as_guard
from statetrain.lifecycle.checks import check
from statetrain.naming import did_you_mean, label_of

Work = Callable[[Any], None]

FAILED = "failed"  # the final state that every lifecycle has without naming it
# Where the transition into the initial state comes from; the pseudo-state's usual sign
START = "[*]"


class Mode(Protocol):
    """Something outside the context that belongs to a scope, such as whether gradients are on.

    It is set when the scope opens and put back when it closes, on failure, and around each pause of
    a stepped run.
    """

    def read(self, ctx: AnyContext) -> Any:
        """The present value."""

    def write(self, ctx: AnyContext, value: Any) -> None:
        """Puts a value back that was read."""

    def begin(self, ctx: AnyContext) -> None:
        """Sets what the scope starts with."""

    def wrap(self, action: Work) -> Work:
        """The action of a state inside the scope, as it is to be run there."""


@frozen
class State:
    """A node of the table, and the scope of the states within it.

    Args:
        name: an identifier; the hooks are `on_enter_<name>` and `on_exit_<name>`.
        role: what the state is, whatever a phase or an evaluation calls it; its own name unless
            given. Callbacks that listen to a role hear every state that has it.
        action: the work of the state, a function of the context. None for a state that only decides
            or groups.
        within: the scope that it lies in; None for the outside.
        final: whether the run ends here.
        anchor: whether a run may be saved and continued here: no autograd graph is alive, all
            progress is in the context.
        mode: what is set while the scope is open.
        close: the work of leaving the state, after its exit hooks.
        reopen: the work of opening the scope again, in place of its enter hooks and its action,
            when a run is continued at an anchor within it; None for a scope whose action leaves
            nothing but what a snapshot holds.
        meets: what all ranks come together for in its action, such as "reduce the gradients"; empty
            if it needs no other rank.
    """

    name: str
    action: Work | None = None
    within: str | None = None
    final: bool = field(default=False, kw_only=True)
    anchor: bool = field(default=False, kw_only=True)
    mode: Mode | None = field(default=None, kw_only=True)
    close: Work | None = field(default=None, kw_only=True)
    reopen: Work | None = field(default=None, kw_only=True)
    meets: str = field(default="", kw_only=True)
    role: str = field(kw_only=True)

    @role.default
    def _own_name(self) -> str:
        return self.name

    def __str__(self) -> str:
        return self.name


@frozen
class Transition:
    """An arrow of the table.

    Args:
        source: the state that it leaves. With an event it may be a scope, and holds for everything
            within.
        dest: the state that it leads to.
        guard: asked before it is taken; None always holds.
        effect: work done between leaving and entering, a function of the context.
        event: the class of exception that it is taken on; None for an ordinary arrow.
    """

    source: str
    dest: str
    guard: Guard | None = field(default=None, converter=attrs.converters.optional(as_guard))
    effect: Work | None = None
    event: type[BaseException] | None = None

    @property
    def label(self) -> str:
        """`event [guard] / effect`, as in UML; empty for a plain arrow."""
        parts = (
            self.event.__name__ if self.event else "",
            f"[{self.guard.label}]" if self.guard is not None else "",
            f"/ {label_of(self.effect)}" if self.effect else "",
        )
        return " ".join(part for part in parts if part)

    def __str__(self) -> str:
        return f"{self.source} -> {self.dest} {self.label}".rstrip()


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
        initial: where a run starts; the first state unless said.
        also: names that a callback's hooks may mention though no state here bears them, because an
            option that is off would bring them. Not part of what the lifecycle is: it does not
            count in comparisons.
        alone: of a lifecycle for several ranks, the one for one process that it was made of. They
            have one fingerprint, so that any number of ranks continues a run.

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

    def __attrs_post_init__(self) -> None:
        if not self.initial and self.states:
            object.__setattr__(self, "initial", self.states[0].name)
        check(self)

    # ------------------------------------------------------------ questions

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all states, in order."""
        return tuple(state.name for state in self.states)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of all states, in order, each once."""
        return tuple(dict.fromkeys(state.role for state in self.states))

    @property
    def start(self) -> Transition:
        """The arrow from nowhere into the initial state."""
        return Transition(START, self.initial)

    def state(self, name: str) -> State:
        """The state of that name.

        Raises:
            LifecycleError: there is none.
        """
        for state in self.states:
            if state.name == name:
                return state
        raise LifecycleError(f"{self.name}: no state {name!r}{did_you_mean(name, self.names)}")

    def role(self, name: str) -> str:
        """The role of the state of that name; those that no table declares have their names as roles.

        Raises:
            LifecycleError: there is no such state.
        """
        return name if name in (FAILED, START) else self.state(name).role

    def by_role(self, *roles: str) -> tuple[State, ...]:
        """The states that have one of these roles, in order: those of all phases and evaluations."""
        return tuple(state for state in self.states if state.role in roles)

    def path(self, name: str) -> tuple[str, ...]:
        """The scopes around a state, outermost first, and the state itself."""
        if name in (FAILED, START):
            return (name,)
        path = [name]
        while (scope := self.state(path[0]).within) is not None:
            path.insert(0, scope)
        return tuple(path)

    def lies_in(self, name: str, *roles: str) -> bool:
        """Whether a state, or a scope around it, has one of these roles."""
        return any(self.role(part) in roles for part in self.path(name))

    def inside(self, scope: str) -> tuple[str, ...]:
        """The names of the states within a scope, at any depth."""
        return tuple(name for name in self.names if name != scope and scope in self.path(name))

    def arrows(self, source: str) -> tuple[Transition, ...]:
        """The ordinary arrows out of a state, in the order in which they are asked."""
        return tuple(t for t in self.transitions if t.source == source and t.event is None)

    def between(self, source: str, dest: str) -> tuple[Transition, ...]:
        """The arrows from one state to another, events included.

        Raises:
            LifecycleError: there is none.
        """
        found = tuple(t for t in self.transitions if (t.source, t.dest) == (source, dest))
        if not found:
            self.state(source)
            ways = [t.dest for t in self.transitions if t.source == source]
            raise LifecycleError(
                f"{self.name}: no arrow {source} -> {dest}{did_you_mean(dest, ways)}"
            )
        return found

    def on_event(self, active: str, error: BaseException) -> Iterator[Transition]:
        """The arrows that an event raised in a state may take, the innermost scope's first."""
        for scope in reversed(self.path(active)):
            yield from (
                t
                for t in self.transitions
                if t.source == scope and t.event and isinstance(error, t.event)
            )

    def crossing(self, active: str, dest: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What taking an arrow leaves and enters.

        Args:
            active: the innermost state that is open; `START` before a run.
            dest: where the arrow leads.

        Returns:
            The states left, innermost first, and the states entered, outermost first.
        """
        here = self.path(active) if active != START else ()
        there = self.path(dest)
        shared = 0
        while shared < min(len(here), len(there) - 1) and here[shared] == there[shared]:
            shared += 1
        return tuple(reversed(here[shared:])), there[shared:]

    # ------------------------------------------------------------ edits

    def insert(self, state: State, *, between: tuple[str, str]) -> Lifecycle:
        """Puts a state on the arrows from one state to another.

        The arrows keep their guards and effects and lead to the new state; one plain arrow leads
        on. A state that names no scope takes the innermost one that both ends share.
        """
        source, dest = between
        onto = self.between(source, dest)
        if state.within is None:
            here, there = self.path(source), self.path(dest)[:-1]
            shared = [a for a, b in zip(here, there, strict=False) if a == b]
            state = attrs.evolve(state, within=shared[-1] if shared else None)
        arrows = [attrs.evolve(t, dest=state.name) if t in onto else t for t in self.transitions]
        last = max(i for i, t in enumerate(arrows) if t.dest == state.name)
        arrows.insert(last + 1, Transition(state.name, dest))
        at = self.names.index(source) + 1
        return attrs.evolve(
            self, states=(*self.states[:at], state, *self.states[at:]), transitions=arrows
        )

    def replace(self, state: State | str, **changes: Any) -> Lifecycle:
        """Replaces a state, or some of its fields: `life.replace("step", action=my_step)`. Its arrows stay."""
        old = self.state(state if isinstance(state, str) else state.name)
        new = attrs.evolve(old if isinstance(state, str) else state, **changes)
        if new.name != old.name:
            raise LifecycleError(
                f"{self.name}: replace keeps a state's name, got {new.name!r} for {old.name!r}; "
                f"insert the new state and use without({old.name!r})"
            )
        return attrs.evolve(self, states=[new if s.name == old.name else s for s in self.states])

    def named(self, name: str) -> Lifecycle:
        """The same table under another name, which errors and pictures use."""
        return attrs.evolve(self, name=name)

    def prefixed(self, prefix: str) -> Lifecycle:
        """The same table with a prefix before every name; see `statetrain.lifecycle.joining`."""
        from statetrain.lifecycle.joining import prefixed

        return prefixed(self, prefix)

    def then(self, other: Lifecycle, effect: Work | None = None) -> Lifecycle:
        """This lifecycle and then another one, as the phases of one run; see `statetrain.lifecycle.joining`."""
        from statetrain.lifecycle.joining import then

        return then(self, other, effect)

    def without(self, *names: str) -> Lifecycle:
        """Removes states, each with the states inside it.

        Arrows that led to a removed state lead to where its last, unguarded arrows led on to. A
        guarded arrow that would then say the same as the one after it falls away.

        Raises:
            LifecycleError: a name is unknown, or a removed state leads nowhere that stays.
        """
        gone = {inner for name in names for inner in (name, *self.inside(self.state(name).name))}
        staying = [arrow for arrow in self.transitions if arrow.source not in gone]
        onward = {
            name: self._onward(name, gone)
            for name in gone
            if any(arrow.dest == name for arrow in staying)
        }
        led = {
            arrow: attrs.evolve(arrow, dest=onward.get(arrow.dest, arrow.dest)) for arrow in staying
        }
        for source in dict.fromkeys(arrow.source for arrow in staying):
            own = self.arrows(source)
            for arrow in reversed(own[:-1]):
                if (
                    arrow.dest == own[-1].dest
                    or led[arrow].effect is not None
                    or led[arrow].dest != led[own[-1]].dest
                ):
                    break
                del led[arrow]
        kept = dict.fromkeys(led.values())  # two arrows may have become one
        return attrs.evolve(
            self, states=[s for s in self.states if s.name not in gone], transitions=kept
        )

    def _onward(self, name: str, gone: set[str]) -> str:
        seen = set()
        while name in gone:
            arrows = self.arrows(name)
            if name in seen or not arrows:
                raise LifecycleError(
                    f"{self.name}: {name!r} leads nowhere that stays; redirect the arrows to it"
                    " first"
                )
            seen.add(name)
            name = arrows[-1].dest
        return name

    def add(
        self, *parts: State | Transition, first: bool = False, before: Transition | None = None
    ) -> Lifecycle:
        """Adds states and arrows, together, so that what they make is sound.

        Args:
            parts: states, and arrows. An arrow goes before its source's unguarded last one, an
                unguarded arrow or one with an event to the end.
            first: whether the arrows are to be asked before all others of their source and kind, in
                the order given.
            before: an arrow that the new arrows of the same source and kind are to be asked before.
        """
        states = [*self.states, *(part for part in parts if isinstance(part, State))]
        arrows, new = (
            list(self.transitions),
            [part for part in parts if isinstance(part, Transition)],
        )
        for part in reversed(new) if first else new:
            own = [
                i
                for i, t in enumerate(arrows)
                if t.source == part.source and (t.event is None) == (part.event is None)
            ]
            if before is not None and (part.source, part.event) == (before.source, before.event):
                at = arrows.index(before)
            elif first and own:
                at = own[0]
            elif part.event is not None or not own:
                at = len(arrows)
            elif part.guard is not None and arrows[own[-1]].guard is None:
                at = own[-1]
            else:
                at = own[-1] + 1
            arrows.insert(at, part)
        return attrs.evolve(self, states=states, transitions=arrows)

    def alter(self, transition: Transition, **changes: Any) -> Lifecycle:
        """Changes an arrow where it stands: `life.alter(life.between("backward", "step")[0], effect=my_effect)`."""
        self._known(transition)
        new = attrs.evolve(transition, **changes)
        return attrs.evolve(
            self, transitions=[new if t == transition else t for t in self.transitions]
        )

    def remove(self, *transitions: Transition) -> Lifecycle:
        """Removes arrows; `life.between(source, dest)` gives them."""
        for arrow in transitions:
            self._known(arrow)
        return attrs.evolve(self, transitions=[t for t in self.transitions if t not in transitions])

    def reorder(self, source: str, dests: Iterable[str]) -> Lifecycle:
        """Asks the arrows out of a state in another order, given by where they lead."""
        own, order = self.arrows(source), list(dests)
        if sorted(order) != sorted(t.dest for t in own):
            raise LifecycleError(
                f"{self.name}: reorder({source!r}) needs each of {[t.dest for t in own]}, got"
                f" {order}"
            )
        pool, ordered = list(own), []
        for dest in order:
            arrow = next(t for t in pool if t.dest == dest)
            pool.remove(arrow)
            ordered.append(arrow)
        queue = iter(ordered)
        return attrs.evolve(
            self, transitions=[next(queue) if t in own else t for t in self.transitions]
        )

    def _known(self, arrow: Transition) -> None:
        if arrow not in self.transitions:
            there = (
                "; ".join(str(t) for t in self.transitions if t.source == arrow.source) or "none"
            )
            raise LifecycleError(f"{self.name}: no arrow {arrow}; its source has: {there}")

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
        """The picture as Mermaid text, for GitHub and notebooks; see `statetrain.diagram.mermaid`."""
        from statetrain.diagram import mermaid

        return mermaid(self, **options)

    def dot(self, **options: Any) -> str:
        """The picture as Graphviz text; see `statetrain.diagram.dot`."""
        from statetrain.diagram import dot

        return dot(self, **options)

    def draw(self, path: str | Path, **options: Any) -> None:
        """Writes the picture to a file, `.svg`, `.png`, `.pdf`, `.dot` or `.mmd`; see `statetrain.diagram.draw`."""
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
        """The lifecycle that `to_dict` described; see `statetrain.lifecycle.registry`."""
        from statetrain.lifecycle.registry import from_dict

        return from_dict(data, registry)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that are equal for equal tables, on every machine; see `statetrain.lifecycle.registry`."""
        from statetrain.lifecycle.registry import fingerprint

        return fingerprint(self)
