"""Tables that differ from one in a single place: would your tests notice?

    def test_my_properties_notice_what_matters():
        alive = survivors(life, lambda mutant: check(mutant, precedes("backward", "step")))
        assert not [mutant for mutant in alive if mutant.kind == "arrow"]

A mutant that a test does not notice is a change that could be made by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import attrs
from attrs import frozen

from statetrain.contracts.composing import parts_of, then
from statetrain.errors import LifecycleError
from statetrain.guards.base import Guard, Not
from statetrain.lifecycle.difference import diff
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, StateWork
from statetrain.lifecycle.transition import Transition
from statetrain.testing.paths import paths

MutantKind = Literal["arrow", "guard", "order", "event", "effect", "action"]


@frozen(repr=False)
class Mutant:
    """A table with one change.

    Attributes:
        lifecycle: the changed table.
        kind: what was changed: "arrow" (led elsewhere, or removed), "guard" (removed, or negated),
            "order" (of two arrows out of one state), "event" (another one), "effect" or "action"
            (removed, another one, or a part of a composed one removed).
        words: what was changed.
    """

    lifecycle: Lifecycle
    kind: MutantKind
    words: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.words}"

    def __repr__(self) -> str:
        return f"<Mutant {self}>"


def mutants(
    lifecycle: Lifecycle,
    kinds: Iterable[MutantKind] = ("arrow", "guard", "order", "event", "effect", "action"),
) -> Iterator[Mutant]:
    """All sound tables that differ from one in a single place.

    What the checks of a table refuse, such as a state that nothing leads to, is not among them.

    Args:
        lifecycle: the table.
        kinds: what is changed.

    Raises:
        LifecycleError: there is no such kind.
    """
    for kind in kinds:
        if kind not in _CHANGES:
            raise LifecycleError(
                f"mutants: a kind is one of {', '.join(_CHANGES)}, got {kind!r:.80}"
            )
        for arrows in _CHANGES[kind](lifecycle):
            mutant = _sound(lifecycle, arrows)
            if mutant is not None and (words := diff(lifecycle, mutant)):
                yield Mutant(mutant, kind, "; ".join(words))


def survivors(
    lifecycle: Lifecycle,
    test: Callable[[Lifecycle], object] | None = None,
    kinds: Iterable[MutantKind] = ("arrow", "guard", "order", "event", "effect", "action"),
) -> list[Mutant]:
    """The mutants of a table that a test does not notice.

    Args:
        lifecycle: the table, which the test has to pass.
        test: called with each mutant; it notices one by raising an exception. None: the generated
            paths of the table (see `paths`).
        kinds: what is changed; see `mutants`.

    Raises:
        Exception: what the test raises on the table itself.
    """
    if test is None:
        test = _paths_of(lifecycle)
    test(lifecycle)
    return [mutant for mutant in mutants(lifecycle, kinds) if not _notices(test, mutant.lifecycle)]


def _paths_of(lifecycle: Lifecycle) -> Callable[[Lifecycle], object]:
    suite = paths(lifecycle)

    def test(mutant: Lifecycle) -> None:
        for i, path in enumerate(suite):
            try:
                path.check(mutant)
            except BaseException:
                suite.insert(0, suite.pop(i))  # the next mutant differs near this one
                raise

    return test


def _notices(test: Callable[[Lifecycle], object], mutant: Lifecycle) -> bool:
    try:
        test(mutant)
    except Exception:
        return True
    return False


# ---------------------------------------------------------------- changes

MutantChange = dict[str, object]  # what is put in the place of a table's states or transitions


def _sound(lifecycle: Lifecycle, changed: MutantChange) -> Lifecycle | None:
    try:
        return attrs.evolve(lifecycle, **changed)  # type: ignore[arg-type]  # names and parts fit
    except LifecycleError:
        return None


def _with(arrows: Sequence[Transition], i: int, *new: Transition) -> MutantChange:
    """The arrows with others in the place of one."""
    return {"transitions": (*arrows[:i], *new, *arrows[i + 1 :])}


def _arrow_changes(life: Lifecycle) -> Iterator[MutantChange]:
    """Each arrow leads elsewhere, or is not there."""
    for i, arrow in enumerate(life.transitions):
        for dest in (*life.names, FAILED):
            if dest != arrow.dest:
                yield _with(life.transitions, i, attrs.evolve(arrow, dest=dest))
        yield _with(life.transitions, i)


def _guard_changes(life: Lifecycle) -> Iterator[MutantChange]:
    """Each guard is not there, or answers the opposite."""
    for i, arrow in enumerate(life.transitions):
        if arrow.guard is not None:
            for guard in (None, _opposite(arrow.guard)):
                yield _with(life.transitions, i, attrs.evolve(arrow, guard=guard))


def _opposite(guard: Guard) -> Guard:
    """The guard that answers the opposite."""
    if guard.remembers:
        return _Opposite(guard)
    return ~guard


@frozen
class _Opposite(Not):
    """True where an interval is not due, which `~` refuses: it forgets when it was true."""

    def __attrs_post_init__(self) -> None:
        """Takes any guard: what it forgets is for a test to notice."""


def _order_changes(life: Lifecycle) -> Iterator[MutantChange]:
    """Two arrows out of one state that rival each other change places."""
    arrows = life.transitions
    for i, first in enumerate(arrows):
        for j in range(i + 1, len(arrows)):
            if (first.source, first.event) == (arrows[j].source, arrows[j].event):
                swapped = list(arrows)
                swapped[i], swapped[j] = arrows[j], first
                yield {"transitions": tuple(swapped)}


def _event_changes(life: Lifecycle) -> Iterator[MutantChange]:
    """Each event is another one of the table."""
    events = dict.fromkeys(arrow.event for arrow in life.transitions if arrow.event is not None)
    for i, arrow in enumerate(life.transitions):
        for event in events:
            if arrow.event is not None and event is not arrow.event:
                yield _with(life.transitions, i, attrs.evolve(arrow, event=event))


def _effect_changes(life: Lifecycle) -> Iterator[MutantChange]:
    """Each effect is not there, lacks a part, or is another one of the table."""
    effects = [arrow.effect for arrow in life.transitions]
    for i, arrow in enumerate(life.transitions):
        for effect in _other_works(arrow.effect, effects):
            yield _with(life.transitions, i, attrs.evolve(arrow, effect=effect))


def _action_changes(life: Lifecycle) -> Iterator[MutantChange]:
    """Each action is not there, lacks a part, or is another one of the table."""
    actions = [state.action for state in life.states]
    for i, state in enumerate(life.states):
        for action in _other_works(state.action, actions):
            changed = attrs.evolve(state, action=action)
            yield {"states": (*life.states[:i], changed, *life.states[i + 1 :])}


def _other_works(
    work: StateWork | None, others: Sequence[StateWork | None]
) -> Iterator[StateWork | None]:
    """What may stand in the place of an action or effect."""
    if work is None:
        return
    yield None
    parts = parts_of(work)
    for i in range(len(parts)):
        if len(parts) > 1:
            yield then(*parts[:i], *parts[i + 1 :])
    different = [other for other in others if other is not None and other != work]
    yield from different[:1]


_CHANGES: dict[MutantKind, Callable[[Lifecycle], Iterator[MutantChange]]] = {
    "arrow": _arrow_changes,
    "guard": _guard_changes,
    "order": _order_changes,
    "event": _event_changes,
    "effect": _effect_changes,
    "action": _action_changes,
}
