"""Lifecycles made of others: one after the other, as the phases of one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from statetrain.errors import LifecycleError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, State
from statetrain.lifecycle.transition import Transition


def prefixed(life: Lifecycle, prefix: str) -> Lifecycle:
    """The same table with a prefix before every state's name, so that it can stand next to another.

    Args:
        life: any lifecycle.
        prefix: what is put before, such as "pretrain_". The hooks follow:
            `on_exit_pretrain_epoch`. Roles stay, so a callback that listens to `step` hears
            `pretrain_step`.

    Raises:
        LifecycleError: names would be no identifiers.
    """
    if not isinstance(prefix, str) or not f"{prefix}state".isidentifier():
        raise LifecycleError(
            f"{life.name}: a prefix is the beginning of an identifier, such as 'pretrain_', got"
            f" {prefix!r:.80}"
        )
    renamed = {name: f"{prefix}{name}" for name in life.names} | {FAILED: FAILED}
    states = [
        attrs.evolve(state, name=renamed[state.name], within=state.within and renamed[state.within])
        for state in life.states
    ]
    arrows = [
        attrs.evolve(arrow, source=renamed[arrow.source], dest=renamed[arrow.dest])
        for arrow in life.transitions
    ]
    also = life.also | {f"{prefix}{role}" for role in life.also}
    return Lifecycle(life.name, states, arrows, renamed[life.initial], also)


def then(
    first: Lifecycle, second: Lifecycle, effect: Callable[[Any], None] | None = None
) -> Lifecycle:
    """Two lifecycles one after the other, as one.

    Every arrow that led to a final state of the first and is asked, not raised, leads to where the
    second begins: a phase that has come to its end, has been stopped early or has reached its limit
    is over, and the run continues. Its effect, which set the outcome, is replaced by `effect`.
    Events still end the run: arrows with an event lead to the second's final state. A request to
    stop goes through: the second phase sees it at its first loop head.

    Args:
        first: its final states fall away.
        second: its names are others; see `prefixed`.
        effect: the work between the two, such as choosing the second's optimizer.

    Raises:
        LifecycleError: both have states of one name, or the second has no one final state for the
            first's events.
    """
    if not isinstance(second, Lifecycle):
        raise LifecycleError(
            f"{first.name}: then takes the Lifecycle that follows, got {second!r:.80}"
        )
    inner = [state for state in first.states if not state.final]
    _refuse_common_names(first, second, inner)
    ends = {state.name for state in first.states if state.final}
    arrows: list[Transition] = []
    for arrow in first.transitions:
        if arrow.dest in ends and arrow.event is None:
            arrow = attrs.evolve(arrow, dest=second.initial, effect=effect)
        elif arrow.dest in ends:
            arrow = attrs.evolve(arrow, dest=_only_end(first, second, arrow))
        arrows.append(arrow)
    return Lifecycle(
        f"{first.name} then {second.name}",
        [*inner, *second.states],
        [*arrows, *second.transitions],
        first.initial,
        first.also | second.also,
    )


def _refuse_common_names(first: Lifecycle, second: Lifecycle, inner: list[State]) -> None:
    both = [state.name for state in inner if state.name in second.names]
    if not both:
        return
    others = ""
    if len(both) > 1:
        others = f" and {len(both) - 1} others"
    raise LifecycleError(
        f"{first.name} then {second.name}: both have a state {both[0]!r}{others}; give one of them"
        f' other names: {first.name}.prefixed("pre_")'
    )


def _only_end(first: Lifecycle, second: Lifecycle, arrow: Transition) -> str:
    """The one final state of the second lifecycle, where an event of the first leads."""
    last = [state.name for state in second.states if state.final]
    if len(last) != 1:
        raise LifecycleError(
            f"{first.name} then {second.name}: where is {arrow} to lead? {second.name} ends in"
            f" {', '.join(map(repr, last))}; remove that arrow first"
        )
    return last[0]
