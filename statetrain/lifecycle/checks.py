"""What makes a table sound: checked when a lifecycle is made, so that a run cannot find it out.

Each check raises a `LifecycleError` that names the lifecycle, the state or the arrow, and the
remedy.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from statetrain.errors import LifecycleError
from statetrain.naming import did_you_mean

if TYPE_CHECKING:  # the values are defined one step up, and call this when they are made
    from statetrain.lifecycle.lifecycle import Lifecycle

_RESERVED = ("failed",)


def check(life: Lifecycle) -> None:
    """Raises a `LifecycleError` unless the table is sound."""
    _names(life)
    _hashable(life)
    _scopes(life)
    _arrows(life)
    _order(life)
    _ways(life)
    _progress(life)


def _names(life: Lifecycle) -> None:
    if not isinstance(life.name, str) or not life.name.isprintable():
        raise LifecycleError(
            "a lifecycle's name is a text of one line without control characters, got"
            f" {life.name!r:.80}"
        )
    for parts, field, kind in (
        (life.states, "name", "State"),
        (life.transitions, "source", "Transition"),
    ):
        for part in parts:
            if not hasattr(part, field):
                raise LifecycleError(f"{life.name}: {part!r} is no {kind}; write {kind}(...)")
    if not life.states:
        raise LifecycleError(
            f"{life.name}: a lifecycle needs states; give at least an initial and a final one"
        )
    seen: set[str] = set()
    for state in life.states:
        if not isinstance(state.name, str) or not state.name.isidentifier():
            raise LifecycleError(
                f"{life.name}: state {state.name!r} is no identifier, and hooks are named after"
                " states; write it like 'next_batch'"
            )
        if not isinstance(state.role, str) or not state.role.isidentifier():
            raise LifecycleError(
                f"{life.name}: state {state.name!r} has the role {state.role!r}, which is not an"
                " identifier; a role is named like a state, such as 'step'"
            )
        if state.role in _RESERVED:
            raise LifecycleError(
                f"{life.name}: state {state.name!r} has the role {state.role!r}, which belongs to"
                " the state that every lifecycle has; choose another role"
            )
        if state.name in _RESERVED:
            raise LifecycleError(
                f"{life.name}: state {state.name!r} is in every lifecycle already; lead arrows to"
                " it, do not declare it"
            )
        if state.name in seen:
            raise LifecycleError(f"{life.name}: two states are called {state.name!r}; rename one")
        seen.add(state.name)
    if life.initial not in seen:
        raise LifecycleError(
            f"{life.name}: the initial state {life.initial!r} is"
            f" unknown{did_you_mean(life.initial, seen)}"
        )
    if not any(state.final for state in life.states):
        raise LifecycleError(
            f"{life.name}: no state is final, so no run could end; add State('end', final=True)"
        )


def _hashable(life: Lifecycle) -> None:
    for part in (*life.states, *life.transitions):
        try:
            hash(part)
        except TypeError as error:
            raise LifecycleError(
                f"{life.name}: {type(part).__name__} {part}: {error}; an action, effect, guard or"
                " mode with parameters is a frozen attrs class, or a function"
            ) from error


def _scopes(life: Lifecycle) -> None:
    within = {state.name: state.within for state in life.states}
    for state in life.states:
        if state.within is None:
            continue
        if state.within not in within:
            raise LifecycleError(
                f"{life.name}: State {state.name!r}: unknown scope"
                f" {state.within!r}{did_you_mean(state.within, within)}"
            )
        scope, chain = within[state.name], [state.name]
        while scope is not None:
            chain.append(scope)
            if scope == state.name:
                raise LifecycleError(
                    f"{life.name}: State {state.name!r} lies within itself:"
                    f" {' within '.join(chain)}; take one of these out"
                )
            if len(chain) > len(within) + 1:
                break  # a cycle further out, which its own member will report
            scope = within[scope]
    for state in life.states:
        if state.within is not None and life.state(state.within).final:
            raise LifecycleError(
                f"{life.name}: State {state.name!r} lies within {state.within!r}, which is final; a"
                " final state is no scope"
            )
        if state.final and (
            state.within is not None or state.mode is not None or state.close is not None
        ):
            raise LifecycleError(
                f"{life.name}: final state {state.name!r} lies within a scope, or has a mode or"
                " close work: nothing would close it; put it outside, and that work into a scope"
            )


def _arrows(life: Lifecycle) -> None:
    known = set(life.names)
    seen: set[tuple[object, ...]] = set()
    for arrow in life.transitions:
        if arrow.event is not None and not (
            isinstance(arrow.event, type) and issubclass(arrow.event, BaseException)
        ):
            raise LifecycleError(
                f"{life.name}: arrow {arrow.source} -> {arrow.dest}: event must be a class of"
                f" exception, got {arrow.event!r}"
            )
        if arrow.source not in known:
            raise LifecycleError(
                f"{life.name}: arrow {arrow}: unknown state"
                f" {arrow.source!r}{did_you_mean(arrow.source, known)}"
            )
        if arrow.dest not in known and arrow.dest not in _RESERVED:
            raise LifecycleError(
                f"{life.name}: arrow {arrow}: unknown state"
                f" {arrow.dest!r}{did_you_mean(arrow.dest, known)}"
            )
        if life.state(arrow.source).final:
            raise LifecycleError(
                f"{life.name}: arrow {arrow} leaves a final state; remove it, or let"
                f" {arrow.source!r} not be final"
            )
        if arrow.dest in _RESERVED and arrow.effect is None:
            raise LifecycleError(
                f"{life.name}: arrow {arrow} leads to 'failed' without an error; give it an effect"
                " that raises one"
            )
        key = (arrow.source, arrow.dest, arrow.guard, arrow.event)
        if key in seen:
            raise LifecycleError(f"{life.name}: arrow {arrow} is there twice; remove one")
        seen.add(key)


def _order(life: Lifecycle) -> None:
    """Every state that can be asked ends its list with an unguarded arrow, and nothing hides behind it."""
    goals = {life.initial} | {arrow.dest for arrow in life.transitions}
    for state in life.states:
        arrows = life.arrows(state.name)
        if state.final:
            continue
        if state.name not in goals:
            if arrows:
                raise LifecycleError(
                    f"{life.name}: {arrows[0]} is never asked: no arrow leads to {state.name!r}"
                    " itself; lead one there, or start the arrow inside it"
                )
            continue
        if not arrows:
            raise LifecycleError(
                f"{life.name}: State {state.name!r} has no arrow out; add one, or make it final"
            )
        for arrow, after in pairwise(arrows):
            if arrow.guard is None:
                raise LifecycleError(
                    f"{life.name}: arrow {after} is hidden behind {arrow}, which always holds; "
                    "put the guarded one first, or give the other a guard"
                )
        if arrows[-1].guard is not None:
            raise LifecycleError(
                f"{life.name}: every guard on {state.name!r} may be false, last"
                f" [{arrows[-1].guard.label}]; end its arrows with one that has no guard"
            )
    for arrow in life.transitions:
        if arrow.event is None:
            continue
        earlier = life.transitions[: life.transitions.index(arrow)]
        for other in earlier:
            if (
                other.source == arrow.source
                and other.event
                and other.guard is None
                and issubclass(arrow.event, other.event)
            ):
                raise LifecycleError(
                    f"{life.name}: arrow {arrow} is hidden behind {other}; put the narrower event"
                    " first"
                )


def _ways(life: Lifecycle) -> None:
    forward: dict[str, set[str]] = {
        name: {t.dest for t in life.arrows(name)} for name in life.names
    }
    reached: set[str] = set()  # entered, perhaps only on the way to a state within
    asked: set[str] = set()  # led to, so that its own arrows are asked
    todo = [life.initial]
    while todo:
        name = todo.pop()
        if name in asked or name in _RESERVED:
            continue
        asked.add(name)
        reached.update(life.path(name))
        todo += forward[name]
        todo += [
            t.dest for t in life.transitions if t.event is not None and t.source in life.path(name)
        ]
    for name in life.names:
        if name not in reached:
            raise LifecycleError(
                f"{life.name}: State {name!r} cannot be reached from {life.initial!r}; lead an"
                " arrow to it, or remove it"
            )
    ends = {state.name for state in life.states if state.final} | set(_RESERVED)
    grown = True
    while grown:
        more = {name for name, dests in forward.items() if name not in ends and dests & ends}
        grown = bool(more)
        ends |= more
    goals = {life.initial} | {arrow.dest for arrow in life.transitions}
    trapped = [name for name in life.names if name not in ends and name in goals]
    if trapped:
        raise LifecycleError(
            f"{life.name}: no way leads from {_listed(trapped)} to a final state; add an arrow out"
        )


def _progress(life: Lifecycle) -> None:
    """A cycle in which nothing is done could only spin: what its guards read never changes."""
    idle = {
        state.name
        for state in life.states
        if state.action is None and state.close is None and state.mode is None
    }

    def leads(name: str) -> Iterable[str]:
        for arrow in life.arrows(name):
            left, entered = (
                life.crossing(name, arrow.dest) if arrow.dest not in _RESERVED else ((), ())
            )
            marks = arrow.guard is not None and arrow.guard.marks("")
            if (
                arrow.effect is None
                and not marks
                and arrow.dest in idle
                and all(n in idle for n in (*left, *entered))
            ):
                yield arrow.dest

    for start in sorted(idle):
        trail, seen = [(start, [start])], {start}
        while trail:
            name, path = trail.pop()
            for dest in leads(name):
                if dest == start:
                    raise LifecycleError(
                        f"{life.name}: {' -> '.join([*path, start])} is a loop in which nothing is"
                        " done, so its guards could never change their answers; give one of its"
                        " states an action or one of its arrows an effect"
                    )
                if dest not in seen:
                    seen.add(dest)
                    trail.append((dest, [*path, dest]))


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)
