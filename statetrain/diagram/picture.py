"""What a picture of a lifecycle shows, before anyone decides where it goes or in which language it is written.

The states in reading order, the arrows with their words, and three things that the eye wants to know: which arrows are
the main way on, which of them are the inner loop where the time goes, and where a scope is entered.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Literal

from attrs import field, frozen

from statetrain.lifecycle import FAILED, START, Lifecycle, Transition
from statetrain.naming import label_of

Kind = Literal["hot", "main", "plain", "failure", "event"]

ANY_ERROR = "any other exception"  # what leads to `failed` without an arrow of its own


def start_of(scope: str) -> str:
    """The id of the dot at which a scope begins."""
    return f"{scope}.start"


def events_of(scope: str) -> str:
    """The id of the dot from which a scope's events lead to its own inside."""
    return f"{scope}.events"


@frozen
class Arrow:
    """An arrow as it is drawn.

    Attributes:
        tail, head: ids of what it joins: a state's name, which for a scope means its border, or the dot inside a scope.
        kind: how it looks. "hot" is the inner loop, "main" the way on from a state, "event" is dashed.
        number: its place among the arrows that are asked in turn; 0 where the order does not matter.
        event, guard, effect: its words; empty for none. A guard that is left out where others are asked first is "else".
    """

    tail: str
    head: str
    kind: Kind
    number: int = 0
    event: str = ""
    guard: str = ""
    effect: str = ""


@frozen
class Picture:
    """What is drawn of one lifecycle."""

    life: Lifecycle
    scopes: frozenset[str] = field(init=False)
    order: tuple[str, ...] = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "scopes", frozenset(s.within for s in self.life.states if s.within is not None))
        object.__setattr__(self, "order", tuple(self._visit(None)))
