"""Composing actions and effects: `then(a, b)` does one after the other.

Labels, contracts and the need for gradients are joined with them, so a table of composed parts says
as much as one of plain functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, TypeVar

from attrs import frozen

from statetrain.context.position import Position
from statetrain.contracts.declaring import Access, access_of
from statetrain.naming import label_of

WorkFunction = Callable[[Any], None]
W = TypeVar("W", bound=WorkFunction)


@frozen
class Then:
    """Several actions or effects, one after the other, as one. `then` makes it.

    Args:
        parts: functions of the context, in order.
    """

    parts: tuple[WorkFunction, ...]

    @property
    def label(self) -> str:
        """What the table says: the labels of all parts."""
        return ", ".join(map(label_of, self.parts))

    @cached_property
    def access(self) -> Access | None:
        """What all of them read and write; None if nothing is known of one."""
        whole = Access()
        for part in self.parts:
            own = access_of(part)
            if own is None:
                return None
            whole |= own
        return whole

    @property
    def gradients(self) -> bool:
        """Whether a part computes with gradients on."""
        return any(map(computes_with_gradients, self.parts))

    def __call__(self, ctx: Position) -> None:
        for part in self.parts:
            part(ctx)


def then(*works: WorkFunction | None) -> WorkFunction:
    """One action or effect that does several, in order.

    Args:
        works: functions of the context; None is nothing.

    Raises:
        ValueError: there are none.
    """
    parts = tuple(part for work in works if work is not None for part in parts_of(work))
    if not parts:
        raise ValueError("then() composes actions or effects, got none")
    if len(parts) == 1:
        return parts[0]
    return Then(parts)


def exchanged(work: WorkFunction, others: Mapping[WorkFunction, WorkFunction]) -> WorkFunction:
    """An action or effect with other parts in the place of some."""
    return then(*(others.get(part, part) for part in parts_of(work)))


def parts_of(work: WorkFunction | None) -> tuple[WorkFunction, ...]:
    """The parts of a composed action or effect; of any other, itself; of None, nothing."""
    if work is None:
        return ()
    if isinstance(work, Then):
        return work.parts
    return (work,)


def without_gradients(action: W) -> W:
    """Declares that an action computes nothing that a gradient flows through.

    In the training, actions run with gradients on, unless they say otherwise with this decorator.
    An action of your own that updates weights in place has to:

        @without_gradients
        def decay(ctx):
            for p in ctx.model.parameters():
                p.mul_(0.99)
    """
    action.gradients = False  # type: ignore[attr-defined]  # a function takes attributes
    return action


def computes_with_gradients(action: WorkFunction) -> bool:
    """Whether an action of the training runs with gradients on: unless it declares otherwise."""
    return bool(getattr(action, "gradients", True))
