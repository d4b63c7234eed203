"""What makes a table sound: checked when a lifecycle is made, before any run.

Each check raises a `LifecycleError` that names the lifecycle, the state or the arrow, and the
remedy. `check_parts` comes first: the others look things up in the index, which needs unique names
and scopes that are known.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from itertools import pairwise
from types import FunctionType
from typing import TYPE_CHECKING, Any

from statetrain.errors import LifecycleError
from statetrain.guards.base import Guard, Predicate, leaves
from statetrain.lifecycle.deciding import hidden
from statetrain.lifecycle.state import FAILED, State
from statetrain.lifecycle.transition import Transition
from statetrain.naming import did_you_mean
from statetrain.outcome import Outcome

if TYPE_CHECKING:  # the lifecycle calls these when it is made
    from statetrain.lifecycle.lifecycle import Lifecycle

_MODE = ("read", "write", "begin", "wrap")


# ---------------------------------------------------------------- the parts


def check_parts(life: Lifecycle) -> None:
    """Raises a `LifecycleError` unless each part of a table can be what it is said to be."""
    if not isinstance(life.name, str) or not life.name.isprintable():
        raise LifecycleError(
            "a lifecycle's name is a text of one line without control characters, got"
            f" {life.name!r:.80}"
        )
    _check_kinds(life, life.states, State)
    _check_kinds(life, life.transitions, Transition)
    if not life.states:
        raise LifecycleError(
            f"{life.name}: a lifecycle needs states; give at least an initial and a final one"
        )
    _check_names(life)
    _check_roles(life)
    _check_scopes(life)


def _check_kinds(life: Lifecycle, parts: Iterable[Any], kind: type) -> None:
    for part in parts:
        if not isinstance(part, kind):
            word = kind.__name__
            raise LifecycleError(f"{life.name}: {part!r} is not a {word}; write {word}(...)")


def _check_names(life: Lifecycle) -> None:
    seen: set[str] = set()
    for state in life.states:
        if not isinstance(state.name, str) or not state.name.isidentifier():
            raise LifecycleError(
                f"{life.name}: state {state.name!r} is not an identifier, and hooks are named after"
                " states; write it like 'next_batch'"
            )
        if state.name == FAILED:
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
    if not [state for state in life.states if state.final]:
        raise LifecycleError(
            f"{life.name}: no state is final, so no run could end; add State('end', final=True)"
        )


def _check_roles(life: Lifecycle) -> None:
    for state in life.states:
        if not isinstance(state.role, str) or not state.role.isidentifier():
            raise LifecycleError(
                f"{life.name}: state {state.name!r} has the role {state.role!r}, which is not an"
                " identifier; a role is named like a state, such as 'step'"
            )
        if state.role == FAILED:
            raise LifecycleError(
                f"{life.name}: state {state.name!r} has the role {state.role!r}, which belongs to"
                " the state that every lifecycle has; choose another role"
            )


def _check_scopes(life: Lifecycle) -> None:
    states = {state.name: state for state in life.states}
    for state in life.states:
        if state.within is not None:
            _check_scope(life, state, state.within, states)
    _check_circles(life, states)
    for state in life.states:
        if state.outcome is not None:
            _check_outcome(life, state)
        if state.final and state.anchor:
            raise LifecycleError(
                f"{life.name}: final state {state.name!r} is an anchor, and a run that has ended"
                " cannot be resumed; let the state that decides to end be one"
            )
        if state.final and (state.within, state.mode, state.close) != (None, None, None):
            raise LifecycleError(
                f"{life.name}: final state {state.name!r} lies within a scope, or has a mode or"
                " close work: nothing would close it; put it outside, and that work into a scope"
            )


def _check_scope(life: Lifecycle, state: State, scope: str, states: dict[str, State]) -> None:
    if scope not in states:
        raise LifecycleError(
            f"{life.name}: State {state.name!r}: unknown scope"
            f" {scope!r}{did_you_mean(scope, states)}"
        )
    if states[scope].final:
        raise LifecycleError(
            f"{life.name}: State {state.name!r} lies within {scope!r}, which is final; a"
            " final state cannot be a scope"
        )


def _check_outcome(life: Lifecycle, state: State) -> None:
    kind = state.outcome
    if not (isinstance(kind, type) and issubclass(kind, Outcome)):
        raise LifecycleError(
            f"{life.name}: the outcome of state {state.name!r} is a class of outcomes, got"
            f" {kind!r:.80}; write a subclass of statetrain.Outcome"
        )
    if not state.final:
        raise LifecycleError(
            f"{life.name}: state {state.name!r} has an outcome and is not final; only a final state"
            " ends a run"
        )


def _check_circles(life: Lifecycle, states: dict[str, State]) -> None:
    """No state lies within itself."""
    grounded: set[str] = set()  # these lead to the outside
    for state in life.states:
        chain: list[str] = []
        name: str | None = state.name
        while name is not None and name not in grounded:
            if name in chain:
                ring = [*chain[chain.index(name) :], name]
                raise LifecycleError(
                    f"{life.name}: State {name!r} lies within itself: {' within '.join(ring)}; take"
                    " one of these out"
                )
            chain.append(name)
            name = states[name].within
        grounded.update(chain)


_RUN_LATER = inspect.CO_COROUTINE | inspect.CO_GENERATOR


def _check_works(life: Lifecycle) -> None:
    for state in life.states:
        works = {"action": state.action, "close": state.close, "reopen": state.reopen}
        for kind, work in works.items():
            if work is not None:
                _check_work(life, f"the {kind} of state {state.name!r}", work)
        if state.mode is not None:
            _check_mode(life, state)
    for arrow in life.transitions:
        place = f"arrow {arrow.source} -> {arrow.dest}"
        if arrow.effect is not None:
            _check_work(life, f"the effect of {place}", arrow.effect)
        if arrow.guard is not None:
            _check_guard(life, f"the guard of {place}", arrow.guard)
    _check_hashable(life)


def _check_guard(life: Lifecycle, what: str, guard: Guard) -> None:
    for leaf in leaves(guard):
        if isinstance(leaf, Predicate):
            _check_work(life, what, leaf.function)


def _check_work(life: Lifecycle, what: str, work: Any) -> None:
    """Raises a `LifecycleError` unless something can be called with the context."""
    if isinstance(work, type):
        raise LifecycleError(
            f"{life.name}: {what} is the class {work.__name__}; give an instance:"
            f" {work.__name__}(...)"
        )
    if not callable(work):
        raise LifecycleError(
            f"{life.name}: {what} must be a function of the context, got {work!r:.80}"
        )
    code = getattr(getattr(work, "func", work), "__code__", None)  # of a partial, its function's
    if code is not None and code.co_flags & _RUN_LATER:
        raise LifecycleError(
            f"{life.name}: {what} is a coroutine or a generator, which a call does not run; make"
            f" {work.__name__} a plain function"
        )
    if isinstance(work, FunctionType) and not _takes_one(work):
        raise LifecycleError(
            f"{life.name}: {what} must take the context as its only argument: def"
            f" {work.__name__}(ctx), got {work.__name__}{inspect.signature(work)}"
        )


def _takes_one(function: Any) -> bool:
    """Whether a plain function can be called with one argument."""
    code = function.__code__
    needed = code.co_argcount - len(function.__defaults__ or ())
    keywords = code.co_kwonlyargcount - len(function.__kwdefaults__ or {})
    takes_more = bool(code.co_flags & inspect.CO_VARARGS)
    if hasattr(function, "__wrapped__"):  # its own signature says little
        return True
    return needed <= 1 and keywords <= 0 and (code.co_argcount >= 1 or takes_more)


def _check_mode(life: Lifecycle, state: State) -> None:
    missing = [name for name in _MODE if not callable(getattr(state.mode, name, None))]
    if missing or isinstance(state.mode, type):
        raise LifecycleError(
            f"{life.name}: the mode of state {state.name!r} must be an instance with"
            f" {', '.join(_MODE)}, got {state.mode!r:.80}"
        )


def _check_hashable(life: Lifecycle) -> None:
    parts: tuple[State | Transition, ...] = (*life.states, *life.transitions)
    try:
        for part in parts:
            hash(part)
    except TypeError as error:
        raise LifecycleError(
            f"{life.name}: {type(part).__name__} {part}: {error}; an action, effect, guard or mode"
            " with parameters is a frozen attrs class, or a function"
        ) from error


# ---------------------------------------------------------------- the table


def check(life: Lifecycle) -> None:
    """Raises a `LifecycleError` unless a table of sound parts can be walked to its end."""
    _check_works(life)
    _check_arrows(life)
    goals = {life.initial} | {arrow.dest for arrow in life.transitions}
    for state in life.states:
        _check_order(life, state, goals)
    for source in {arrow.source: None for arrow in life.transitions if arrow.event is not None}:
        _check_events(life, source)
    _check_reached(life)
    _check_ends(life, goals)
    _check_progress(life)


def _check_arrows(life: Lifecycle) -> None:
    sources = dict.fromkeys(life.names)
    dests = {**sources, FAILED: None}
    seen: set[tuple[object, ...]] = set()
    for arrow in life.transitions:
        if arrow.event is not None:
            _check_event(life, arrow, arrow.event)
        if arrow.source not in sources:
            raise _unknown_state(life, arrow, arrow.source)
        if arrow.dest not in dests:
            raise _unknown_state(life, arrow, arrow.dest)
        if life.state(arrow.source).final:
            raise LifecycleError(
                f"{life.name}: arrow {arrow} leaves a final state; remove it, or let"
                f" {arrow.source!r} not be final"
            )
        if arrow.dest == FAILED and arrow.effect is None:
            raise LifecycleError(
                f"{life.name}: arrow {arrow} leads to 'failed' without an error; give it an effect"
                " that raises one"
            )
        key = (arrow.source, arrow.dest, arrow.guard, arrow.event)
        if key in seen:
            raise LifecycleError(f"{life.name}: arrow {arrow} is there twice; remove one")
        seen.add(key)


def _check_event(life: Lifecycle, arrow: Transition, event: Any) -> None:
    if not (isinstance(event, type) and issubclass(event, BaseException)):
        raise LifecycleError(
            f"{life.name}: arrow {arrow.source} -> {arrow.dest}: event must be a class of"
            f" exception, got {event!r}"
        )


def _unknown_state(life: Lifecycle, arrow: Transition, name: str) -> LifecycleError:
    near = did_you_mean(name, life.names)
    return LifecycleError(f"{life.name}: arrow {arrow}: unknown state {name!r}{near}")


def _check_order(life: Lifecycle, state: State, goals: set[str]) -> None:
    """A state reached by an arrow has an unguarded arrow last, and no arrow is hidden."""
    arrows = life.arrows(state.name)
    if state.final:
        return
    if state.name not in goals:
        if arrows:
            raise LifecycleError(
                f"{life.name}: {arrows[0]} is never asked: no arrow leads to {state.name!r}"
                " itself; lead one there, or start the arrow inside it"
            )
        return
    if not arrows:
        raise LifecycleError(
            f"{life.name}: State {state.name!r} has no arrow out; add one, or make it final"
        )
    for arrow, after in pairwise(arrows):
        if arrow.guard is None:
            raise LifecycleError(
                f"{life.name}: arrow {after} is hidden behind {arrow}, which is always true; "
                "put the guarded one first, or give the other a guard"
            )
    if arrows[-1].guard is not None:
        raise LifecycleError(
            f"{life.name}: every guard on {state.name!r} may be false, last"
            f" [{arrows[-1].guard.label}]; end its arrows with one that has no guard"
        )
    _check_guards(life, arrows)


def _check_guards(life: Lifecycle, arrows: tuple[Transition, ...]) -> None:
    """Each of the arrows that are asked together can be taken, and labels tell them apart."""
    never = hidden(arrows)
    if never is not None:
        raise LifecycleError(
            f"{life.name}: arrow {never} can never be taken: whenever its guard is true, one"
            " before it is, or it contradicts itself; remove it, or change a guard"
        )
    labels: dict[str, Transition] = {}
    for arrow in arrows:
        if arrow.guard is None:
            continue
        other = labels.setdefault(arrow.guard.label, arrow)
        if other.guard != arrow.guard:
            raise LifecycleError(
                f"{life.name}: arrows {other} and {arrow} have different guards with one label, so"
                " pictures, traces and tests could not tell them apart; give one another name:"
                " guard.named(...)"
            )


def _check_events(life: Lifecycle, source: str) -> None:
    """No arrow is hidden behind another that takes its event first."""
    earlier: list[Transition] = []
    for arrow in life.events(source):
        for other in earlier:
            same = other.guard == arrow.guard and not _remembers(arrow)
            # Both have an event here
            takes_it = issubclass(arrow.event, other.event)  # type: ignore[arg-type]
            if takes_it and (other.guard is None or same):
                raise LifecycleError(
                    f"{life.name}: arrow {arrow} is hidden behind {other}; put the narrower event"
                    " first"
                )
        earlier.append(arrow)


def _remembers(arrow: Transition) -> bool:
    return arrow.guard is not None and arrow.guard.remembers


def _check_reached(life: Lifecycle) -> None:
    """Every state is entered, perhaps only on the way to a state within."""
    _, opened = find_reached(life)
    for name in life.names:
        if name not in opened:
            raise LifecycleError(
                f"{life.name}: State {name!r} cannot be reached from {life.initial!r}; lead an"
                " arrow to it, or remove it"
            )


def find_reached(life: Lifecycle) -> tuple[set[str], set[str]]:
    """The states that arrows lead to, whose own arrows are asked; and with the scopes around."""
    asked: set[str] = set()
    opened: set[str] = set()
    todo = [life.initial]
    while todo:
        name = todo.pop()
        if name in asked or name == FAILED:
            continue
        asked.add(name)
        todo += [arrow.dest for arrow in life.arrows(name)]
        entered = set(life.path(name)) - opened
        opened |= entered
        todo += [arrow.dest for scope in entered for arrow in life.events(scope)]
    return asked, opened


def _check_ends(life: Lifecycle, goals: set[str]) -> None:
    """From every state that an arrow leads to, some way leads to a final one."""
    back: dict[str, list[str]] = {}
    for name in life.names:
        for arrow in life.arrows(name):
            back.setdefault(arrow.dest, []).append(name)
    finals = [state.name for state in life.states if state.final]
    ends = _all_behind([FAILED, *finals], back)
    trapped = [repr(name) for name in life.names if name in goals - ends]
    if trapped:
        raise LifecycleError(
            f"{life.name}: no way leads from {', '.join(trapped)} to a final state; add an arrow"
            " out"
        )


def _all_behind(starts: list[str], ways: dict[str, list[str]]) -> set[str]:
    """All that ways lead to from somewhere, the starts included."""
    found: set[str] = set()
    todo = list(starts)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += ways.get(name, ())
    return found


def _check_progress(life: Lifecycle) -> None:
    """A circle in which nothing is done could only spin: what its guards read never changes."""
    idle = {
        state.name
        for state in life.states
        if (state.action, state.close, state.mode) == (None, None, None)
    }
    done: set[str] = set()
    for start in sorted(idle):
        ring = _idle_ring(life, start, idle, done)
        if ring:
            raise LifecycleError(
                f"{life.name}: {' -> '.join(ring)} is a loop in which nothing is done, so its"
                " guards could never change their answers; give one of its states an action or"
                " one of its arrows an effect"
            )


def _idle_ring(life: Lifecycle, start: str, idle: set[str], done: set[str]) -> list[str]:
    """A loop of idle states that is found from one of them, the first again at its end.

    Args:
        life: the table.
        start: an idle state.
        idle: all of them.
        done: those from which no loop was found; what is looked through here is added.

    Returns:
        The names; empty if there is no loop.
    """
    if start in done:
        return []
    trail = {start: _idle_steps(life, start, idle)}  # the way so far, each with where it leads on
    while trail:
        last = next(reversed(trail))
        step = next(trail[last], None)
        if step is None:
            done.add(last)
            del trail[last]
        elif step in trail:
            names = list(trail)
            return [*names[names.index(step) :], step]
        elif step not in done:
            trail[step] = _idle_steps(life, step, idle)
    return []


def _idle_steps(life: Lifecycle, name: str, idle: set[str]) -> Iterator[str]:
    """Where the arrows of a state lead that do nothing on the way."""
    for arrow in life.arrows(name):
        marks = arrow.guard is not None and arrow.guard.marks("")
        if arrow.effect is not None or marks or arrow.dest not in idle:
            continue
        left, entered = life.crossing(name, arrow.dest)
        if idle.issuperset(left) and idle.issuperset(entered):
            yield arrow.dest
