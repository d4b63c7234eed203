"""What can be named in a run: states, arrows, guards, events and effects, as the table prints them.

- `step`: a state is entered, scopes on the way included
- `loss -> next_batch`: an arrow is taken
- `[loss not finite]`: an arrow is taken whose guard this is
- `next_batch: stop now`: the same, in that state only
- `SkipBatch`: an event is taken
- `/ count the batch`: an effect is done, or a part of one that `then` composed
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import field, frozen

from statetrain.contracts.composing import parts_of
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED
from statetrain.lifecycle.transition import Transition
from statetrain.naming import label_of


@frozen
class Taken:
    """An arrow that a run takes, and all that happens with it.

    Attributes:
        transition: the arrow.
        lifecycle: its table.
        entered: the states that it enters, scopes on the way included, outermost first.
        moments: the names of everything that happens, in order; those of `entered` come last.
    """

    transition: Transition
    lifecycle: Lifecycle
    entered: tuple[str, ...] = field(init=False)
    moments: tuple[str, ...] = field(init=False)

    @entered.default
    def _entered(self) -> tuple[str, ...]:
        if self.transition.dest == FAILED:
            return (FAILED,)
        return self.lifecycle.crossing(self.transition.source, self.transition.dest)[1]

    @moments.default
    def _moments(self) -> tuple[str, ...]:
        return (*_passed(self.transition), *self.entered)


def _passed(arrow: Transition) -> Iterator[str]:
    yield f"{arrow.source} -> {arrow.dest}"
    if arrow.event is not None:
        yield arrow.event.__name__
    if arrow.guard is not None:
        yield f"[{arrow.guard.label}]"
        yield in_state(arrow.source, arrow.guard.label)
    if arrow.effect is not None:
        yield f"/ {label_of(arrow.effect)}"
    parts = parts_of(arrow.effect)
    if len(parts) > 1:
        yield from (f"/ {label_of(part)}" for part in parts)


def in_state(state: str, label: str) -> str:
    """What a guard is called where it is meant in one state only."""
    return f"{state}: {label}"


def known_moments(lifecycle: Lifecycle) -> set[str]:
    """Everything in a lifecycle that has a name."""
    arrows = {name for arrow in lifecycle.transitions for name in Taken(arrow, lifecycle).moments}
    failures = {f"{name} -> {FAILED}" for name in lifecycle.names}
    return {*arrows, *failures, *lifecycle.names, FAILED}
