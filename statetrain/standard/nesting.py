"""Child lifecycles: a state whose work is another lifecycle, which runs to its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from attrs import evolve

from statetrain.context.position import Position
from statetrain.contracts.composing import then
from statetrain.contracts.declaring import access
from statetrain.errors import LifecycleError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.naming import did_you_mean


@access(writes={"outcome"})
def leave_child(ctx: Position) -> None:
    "continue with the outer lifecycle"
    ctx.outcome = None  # that of the child, if an effect has said one


def nest(
    life: Lifecycle,
    name: str,
    child: Lifecycle,
    *,
    prefix: str | None = None,
    leads: Mapping[str, str] = MappingProxyType({}),
) -> Lifecycle:
    """A lifecycle in which the work of a state is another lifecycle, run to its end.

        life = st.nest(folds, "fold", training)

    The state becomes a scope: its own action is done first, then the child begins in it. The final
    states of the child become states in this scope, from where the state's own arrows lead on. So
    the whole is one flat table: the child has its scope in pictures and traces, runs are saved and
    resumed at its anchors, and checks and proofs hold for all of it. Both work on one context.

    Events end the child where the child has an arrow for them. A request to stop ends it, and is
    then heard by the outer lifecycle; an interrupt is the outer lifecycle's.

    Args:
        life: the outer lifecycle.
        name: of its state: it has arrows of its own, and no states within it.
        child: any lifecycle. Its outcome is forgotten: what follows depends on which final state is
            reached, or on the context.
        prefix: what is put before the names of the child's states; `"<name>_"` unless given.
        leads: where to, by final state of the child, in place of the state's own arrows.

    Raises:
        LifecycleError: there is no such state, it has states within it, or the child has no such
            final state.
    """
    _check_place(life, name)
    if not isinstance(child, Lifecycle):
        raise LifecycleError(
            f"{life.name}: the child of {name!r} is a Lifecycle, got {child!r:.80}; a function is"
            f" an action: life.replace({name!r}, action=...)"
        )
    if prefix is None:
        prefix = f"{name}_"
    inner = child.prefixed(prefix)
    ends = [state.name for state in inner.states if state.final]
    ways = {f"{prefix}{end}": dest for end, dest in leads.items()}
    _check_ends(life, child, leads)
    at = life.names.index(name) + 1
    states = [*life.states[:at], *_inside(inner, name), *life.states[at:]]
    arrows = [
        *(arrow for arrow in life.transitions if arrow not in life.arrows(name)),
        Transition(name, inner.initial),
        *(arrow for arrow in inner.transitions if not _is_interrupt(arrow, ends)),
    ]
    for end in ends:
        arrows += _onward(life, name, end, ways)
    return evolve(life, states=states, transitions=arrows, also=life.also | inner.also)


def _check_place(life: Lifecycle, name: str) -> None:
    """Raises a `LifecycleError` unless a state can have a child."""
    if life.state(name).final or life.children(name):
        raise LifecycleError(
            f"{life.name}: a child lifecycle runs in a state without states within it that is not"
            f" final; {name!r} is none; insert a state for it"
        )


def _check_ends(life: Lifecycle, child: Lifecycle, leads: Mapping[str, str]) -> None:
    """Raises a `LifecycleError` unless all these are final states of the child."""
    known = [state.name for state in child.states if state.final]
    for end in leads:
        if end not in known:
            near = did_you_mean(end, known)
            raise LifecycleError(f"{life.name}: {child.name} has no final state {end!r}{near}")


def _inside(inner: Lifecycle, name: str) -> Iterator[State]:
    """The states of a child, within a state of the outer lifecycle."""
    for state in inner.states:
        if state.final:
            work = then(state.action, leave_child)
            state = evolve(state, action=work, final=False, outcome=None, role=state.name)
        yield evolve(state, within=state.within or name)


def _is_interrupt(arrow: Transition, ends: list[str]) -> bool:
    """Whether an arrow would have an interrupt end the child alone."""
    return arrow.event is KeyboardInterrupt and arrow.dest in ends


def _onward(life: Lifecycle, name: str, end: str, ways: Mapping[str, str]) -> Iterator[Transition]:
    """The arrows out of a final state of the child: the outer state's own, or the one given."""
    if end in ways:
        yield Transition(end, ways[end])
        return
    for arrow in life.arrows(name):
        yield evolve(arrow, source=end)
