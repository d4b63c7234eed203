"""A guard that several ranks agree on: each answers for itself, and all get the same answer.

The exchange is the machine's work (`statetrain.machine.agreeing`), at the moment when the row is
due. The guard itself only reads what was agreed, so it may be asked as often as anything likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from statetrain.guards.base import Agree, Guard, Test

if TYPE_CHECKING:
    from statetrain.context.position import Position

WORDS: dict[Agree, str] = {"any": "any rank", "all": "all ranks", "first": "rank 0"}
"""What a picture says of each way to agree."""


def with_ranks(guard: Guard) -> str:
    """The label of a guard, and which ranks are asked where they have to agree."""
    asked = dict.fromkeys(WORDS[one.how] for one in _agreed(guard))
    if not asked:
        return guard.label
    return f"{guard.label} \u27f5 {', '.join(asked)}"


def _agreed(guard: Guard) -> Iterator[Agreed]:
    if isinstance(guard, Agreed):
        yield guard
        return
    for part in guard.parts():
        yield from _agreed(part)


@frozen
class Agreed(Guard):
    """A guard whose answer is that of all ranks.

    Args:
        leaf: the guard that each rank answers for itself.
        how: "any", "all" or "first".
        source: the state that asks it.
    """

    leaf: Guard
    how: Agree = field()
    source: str

    @property
    def label(self) -> str:
        return self.leaf.label

    @property
    def reads(self) -> frozenset[str]:
        return self.leaf.reads

    @property
    def monitors(self) -> tuple[str, ...]:
        return self.leaf.monitors

    @property
    def prompt(self) -> bool:
        return self.leaf.prompt

    @property
    def remembers(self) -> bool:
        return self.leaf.remembers

    @property
    def agree(self) -> Agree:
        return "same"

    def key(self, place: str) -> str:
        """Under which its answer is kept; only a guard with a memory cares about the place."""
        key = f"{self.source}: {self.label}"
        if self.remembers:
            key += f" at {place}"
        return key

    def test(self, ctx: Position) -> bool:
        return self.bind("")(ctx)

    def bind(self, place: str) -> Test:
        key, alone = self.key(place), self.leaf.bind(place)

        def agreed(ctx: Position) -> bool:
            if ctx.news is None:  # one process
                return alone(ctx)
            return ctx.news.answers.get(key, False)

        return agreed

    def reason(self, ctx: Position) -> str:
        """The reason of the rank that had it."""
        if ctx.news is None:
            return self.leaf.reason(ctx)
        own = f"{self.source}: {self.label}"
        reasons = ctx.news.reasons.items()
        return next((reason for key, reason in reasons if key.startswith(own)), self.label)

    def marks(self, place: str) -> tuple[Callable[[Any], None], ...]:
        return self.leaf.marks(place)
