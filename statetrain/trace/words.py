"""Arrows and lifecycles as a file has them: their names are known, what they do is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import frozen

from statetrain.errors import MachineError
from statetrain.events import Event
from statetrain.guards.base import Guard
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.text import reading_order
from statetrain.lifecycle.transition import Transition
from statetrain.naming import label_of

if TYPE_CHECKING:
    from statetrain.context.context import Context

Words = tuple[str, str, str | None, str | None, str | None]
Number = TypeVar("Number", int, float)


def words_of(arrow: Transition) -> Words:
    """An arrow as text: source, dest, guard, effect, event.

    Arrows with the same words are taken for the same.
    """
    guard = effect = event = None
    if arrow.guard is not None:
        guard = arrow.guard.label
    if arrow.effect is not None:
        effect = label_of(arrow.effect)
    if arrow.event is not None:
        event = arrow.event.__name__
    return arrow.source, arrow.dest, guard, effect, event


def by_words(numbers: Mapping[Transition, Number]) -> dict[Words, Number]:
    """Numbers of arrows, added up by the words of the arrows.

    Of those of a run from a file, no more is known.
    """
    total: dict[Words, Number] = {}
    for arrow, number in numbers.items():
        words = words_of(arrow)
        total[words] = total.get(words, 0) + number
    return total


def times_asked(life: Lifecycle, arrow: Transition, taken: Mapping[Words, int]) -> int | None:
    """How often the guard of an arrow was evaluated.

    As often as the arrow, or one whose guard is evaluated after it, was taken.

    Args:
        life: the table.
        arrow: of the table.
        taken: how often each was.

    Returns:
        The number; None where there is no guard, or where it is asked when an event is raised,
        which says nothing of the others.
    """
    if arrow.guard is None or arrow.event is not None:
        return None
    onward = life.arrows(arrow.source)
    return sum(taken.get(words_of(later), 0) for later in onward[onward.index(arrow) :])


def read_words(row: Any) -> Words:
    """An arrow as text, as JSON gives it.

    Raises:
        TypeError: it is none.
    """
    if (
        not isinstance(row, list)
        or len(row) != 5
        or not all(isinstance(part, str) for part in row[:2])
    ):
        raise TypeError(f"an arrow is [source, dest, guard, effect, event], got {row!r:.80}")
    if not all(part is None or isinstance(part, str) for part in row):
        raise TypeError(f"an arrow is made of words, got {row!r:.80}")
    return (row[0], row[1], row[2], row[3], row[4])


@frozen
class _Spoken:
    """In the place of a function whose name alone is known."""

    label: str

    def __call__(self, ctx: Context) -> None:
        raise MachineError(f"{self.label!r} was read from a trace: it can be looked at, not run")


@frozen
class _SpokenGuard(Guard):
    """In the place of a guard whose name alone is known."""

    name: str

    @property
    def label(self) -> str:
        return self.name

    def test(self, ctx: Context) -> bool:
        raise MachineError(
            f"guard [{self.name}] was read from a trace: it can be looked at, not asked"
        )


@cache
def _event(name: str) -> type[BaseException]:
    return type(name, (Event,), {"__doc__": "In the place of an event whose name alone is known."})


def stand_in(words: Words) -> Transition:
    """An arrow of which the words are all that is known."""
    source, dest, guard, effect, event = words
    made: dict[str, Any] = {}
    if guard is not None:
        made["guard"] = _SpokenGuard(guard)
    if effect is not None:
        made["effect"] = _Spoken(effect)
    if event is not None:
        made["event"] = _event(event)
    return Transition(source, dest, **made)


def make_from(
    written: Any, words: list[Words], registry: Mapping[str, Any] | None
) -> Lifecycle | None:
    """The lifecycle of the file, if it can be made and is the one that the arrows are of."""
    if written is None:
        return None
    try:
        life = Lifecycle.from_dict(written, dict(registry or {}))
    except (ValueError, TypeError, RecursionError):  # made of parts that are not known here
        return None
    found = [words_of(arrow) for arrow in (life.start, *life.transitions)]
    if found == words:
        return life
    return None


def make_by_words(header: Mapping[str, Any], arrows: Sequence[Transition]) -> Lifecycle | None:
    """The lifecycle as far as words go; None if it is not sound, which no run's is."""
    try:
        states = [
            State(
                str(name),
                _Spoken(str(action)) if action is not None else None,
                within,
                final=bool(final),
                anchor=bool(anchor),
            )
            for name, action, within, final, anchor in header["states"]
        ]
        life = Lifecycle(str(header["name"]), states, arrows[1:], arrows[0].dest)
        reading_order(life)  # one that cannot be read cannot be shown
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    return life
