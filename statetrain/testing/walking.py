"""Walks a lifecycle on scripted answers: no context, no actions, no callbacks, no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TypeAlias

from statetrain.errors import GuardError, LifecycleError
from statetrain.events import Event
from statetrain.guards.base import AllOf, AnyOf, Guard, Not, Renamed
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED
from statetrain.lifecycle.transition import Transition
from statetrain.naming import did_you_mean
from statetrain.testing.moments import in_state
from statetrain.trace import Trace

WalkAsk: TypeAlias = Callable[[], bool]
Answers: TypeAlias = "bool | Iterable[bool] | WalkAsk"
Raised: TypeAlias = "BaseException | type[BaseException] | None"
# For each arrow: what its guard answers (None always holds), the arrow, which states on its way may
# raise, what is next.
WalkRow: TypeAlias = "list[tuple[WalkAsk | None, Transition, tuple[str, ...], WalkRow]]"

_TAIL = 400  # transitions in which a cycle is looked for


def walk(
    lifecycle: Lifecycle,
    answers: Mapping[str, Answers] | None = None,
    events: Mapping[str, Iterable[Raised]] | None = None,
    limit: int = 10_000,
) -> Trace:
    """Takes the transitions of a lifecycle, the guards answering from a script.

        walk(supervised(), {"more epochs": [True], "a batch was drawn": [True, True]})
        walk(supervised(), {"more epochs": True, "next_epoch: stop now": [False, True]})

    Args:
        lifecycle: the table to walk.
        answers: by a guard's label: answers for each time that it is asked, then False forever; or
            one answer for always; or a function without arguments. All guards of that label draw
            from the same answers. A combined guard without answers of its own has those of its
            parts, asked as in a run: in order, up to the one that decides. With the state before
            it, as in "next_batch: stop now", the answers are those of this state's guard alone, and
            the others of that label have their own. A guard without answers is False.
        events: by a state's name: what its action raises each time that the state is entered: an
            exception, a class of one, or None for nothing; then nothing forever.
        limit: transitions, the one into the initial state included, after which the walk is given
            up.

    Returns:
        The trace. It ends in a final state, or in `failed`: by an arrow that leads there, or by an
        exception (not an `Event`) that no arrow takes.

    Raises:
        LifecycleError: a label or a state is unknown, no open scope takes an event, or the limit
            was reached.
        GuardError: an answer is neither True nor False.
    """
    given = _read_answers(lifecycle, answers or {})
    script = _script(lifecycle, events or {})
    rows = _rows(lifecycle, given, script)
    arrow = lifecycle.start
    row, may_raise = rows[arrow.dest], _watched(lifecycle.path(arrow.dest), script)
    taken = [arrow]
    while True:
        if len(taken) > limit:
            raise LifecycleError(_endless(lifecycle, taken, limit))
        if may_raise and (raised := _raise(may_raise, script)):
            active, error = raised
            arrow = _caught(lifecycle, active, error, given)
            may_raise = _watched(lifecycle.crossing(active, arrow.dest)[1], script)
            row = rows[arrow.dest]
        elif row:
            # What the loop ends with is what is taken
            for ask, arrow, may_raise, onward in row:  # noqa: B007
                if ask is None or ask():
                    break
            row = onward
        else:
            return Trace(taken, lifecycle=lifecycle)
        taken.append(arrow)


def _rows(
    lifecycle: Lifecycle, given: dict[str, WalkAsk | bool], script: dict[str, Iterator[Raised]]
) -> dict[str, WalkRow]:
    rows: dict[str, WalkRow] = {name: [] for name in (*lifecycle.names, FAILED)}
    for name in lifecycle.names:
        for arrow in lifecycle.arrows(name):
            ask = _ask(arrow.guard, given, name)
            if ask is not False:
                may_raise = _watched(lifecycle.crossing(name, arrow.dest)[1], script)
                rows[name].append(
                    (None if ask is True else ask, arrow, may_raise, rows[arrow.dest])
                )
    return rows


# ---------------------------------------------------------------- answers


def _read_answers(
    lifecycle: Lifecycle, answers: Mapping[str, Answers]
) -> dict[str, WalkAsk | bool]:
    """For each label, what is called for its next answer, or the answer that never changes."""
    known = {
        name
        for arrow in lifecycle.transitions
        if arrow.guard is not None
        for label in _labels(arrow.guard)
        for name in (label, in_state(arrow.source, label))
    }
    given: dict[str, WalkAsk | bool] = {}
    for label, answer in answers.items():
        if label not in known:
            raise LifecycleError(
                f"{lifecycle.name}: no guard is called {label!r}{did_you_mean(label, known)}"
            )
        if isinstance(answer, bool):
            given[label] = answer
        else:
            given[label] = _answering(label, answer)
    return given


def _labels(guard: Guard) -> Iterator[str]:
    yield guard.label
    for part in guard.parts():
        yield from _labels(part)


def _answering(label: str, answers: Iterable[bool] | WalkAsk) -> WalkAsk:
    if callable(answers):
        return lambda: _strict(label, answers())
    if isinstance(answers, str) or not isinstance(answers, Iterable):
        raise GuardError(
            f"answer [{label}] with True, False, a list of these, or a function without arguments,"
            f" got {answers!r}"
        )
    if isinstance(answers, list | tuple):
        for answer in answers:
            _strict(label, answer)
        return partial(next, iter(answers), False)
    endless = iter(answers)
    return lambda: _strict(label, next(endless, False))


def _strict(label: str, answer: bool) -> bool:
    if answer is True or answer is False:
        return answer
    raise GuardError(
        f"an answer for [{label}] is True or False, got {type(answer).__name__}: {answer!r:.80}"
    )


def _ask(guard: Guard | None, given: dict[str, WalkAsk | bool], state: str) -> WalkAsk | bool:
    """What is called for a guard's next answer in a state, or the answer that never changes."""
    if guard is None:
        return True
    for name in (in_state(state, guard.label), guard.label):
        if name in given:
            return given[name]
    if isinstance(guard, Renamed):
        return _ask(guard.guard, given, state)
    if isinstance(guard, Not):
        inner = _ask(guard.guard, given, state)
        if isinstance(inner, bool):
            return not inner
        return lambda: not inner()
    if isinstance(guard, AllOf | AnyOf):
        parts = [_ask(part, given, state) for part in guard.guards]
        return _combine(parts, isinstance(guard, AnyOf))
    return False


def _combine(asks: list[WalkAsk | bool], decisive: bool) -> WalkAsk | bool:
    """The first part that answers `decisive` decides; what comes after it is not asked."""
    parts: list[WalkAsk] = []
    for ask in asks:
        if ask is decisive:
            if not parts:
                return decisive
            parts.append(lambda: decisive)
            break
        if not isinstance(ask, bool):
            parts.append(ask)
    if not parts:
        return not decisive
    if decisive:
        return lambda: any(ask() for ask in parts)
    return lambda: all(ask() for ask in parts)


# ---------------------------------------------------------------- events


def _script(
    lifecycle: Lifecycle, events: Mapping[str, Iterable[Raised]]
) -> dict[str, Iterator[Raised]]:
    for name, raised in events.items():
        if name not in lifecycle.names:
            raise LifecycleError(
                f"{lifecycle.name}: events: no state {name!r}{did_you_mean(name, lifecycle.names)}"
            )
        if not isinstance(raised, Iterable):
            raise LifecycleError(
                f"{lifecycle.name}: events of {name!r} are a list with one for each visit, got"
                f" {raised!r}"
            )
    return {name: iter(raised) for name, raised in events.items()}


def _watched(entered: Iterable[str], script: dict[str, Iterator[Raised]]) -> tuple[str, ...]:
    return tuple(name for name in entered if name in script)


def _raise(
    entered: tuple[str, ...], script: dict[str, Iterator[Raised]]
) -> tuple[str, BaseException] | None:
    """The first entered state that raises, and what; the states within it are not entered."""
    for name in entered:
        raised = next(script[name], None)
        if isinstance(raised, type) and issubclass(raised, BaseException):
            raised = raised()
        if isinstance(raised, BaseException):
            return name, raised
        if raised is not None:
            raise LifecycleError(
                f"events of {name!r}: an entry is an exception, a class of one, or None; got"
                f" {raised!r}"
            )
    return None


def _caught(
    lifecycle: Lifecycle, active: str, error: BaseException, given: dict[str, WalkAsk | bool]
) -> Transition:
    for arrow in lifecycle.on_event(active, error):
        ask = _ask(arrow.guard, given, arrow.source)
        if ask if isinstance(ask, bool) else ask():
            return arrow
    if isinstance(error, Event):
        searched = ", ".join(repr(scope) for scope in reversed(lifecycle.path(active)))
        raise LifecycleError(
            f"{lifecycle.name}: no open scope takes {type(error).__name__} (searched {searched})"
        )
    return Transition(active, FAILED)


# ---------------------------------------------------------------- a walk without an end


def _endless(lifecycle: Lifecycle, taken: list[Transition], limit: int) -> str:
    cycle = _cycle([transition.dest for transition in taken[-_TAIL:]])
    guards = [
        arrow.guard.label
        for name in dict.fromkeys(cycle)
        for arrow in lifecycle.arrows(name)
        if arrow.guard is not None
    ]
    ways = ""
    if guards:
        labels = ", ".join(f"[{label}]" for label in dict.fromkeys(guards))
        ways = f"; the guards on its way: {labels}"
    return (
        f"{lifecycle.name}: the walk has not ended after {limit} transitions; it goes round "
        f"{' -> '.join((*cycle, cycle[0]))}{ways}. Give answers that let it out, or a larger limit="
    )


def _cycle(states: list[str]) -> list[str]:
    """The cycle that the states end in, else those since the last state's previous visit."""
    for period in range(1, len(states) // 2 + 1):
        if states[-period:] == states[-2 * period : -period]:
            return states[-period:]
    before = [i for i, state in enumerate(states[:-1]) if state == states[-1]]
    if before:
        return states[before[-1] + 1 :]
    return states
