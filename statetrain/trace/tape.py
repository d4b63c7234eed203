"""What a trace is gathered on: transitions in order, bounded, with how often each was dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from attrs import Factory, define

from statetrain.lifecycle.transition import Transition
from statetrain.machine.asking import Asked

COUNTERS = ("epoch", "iter", "valid_iter", "step", "samples")
"""The counters of a context that a trace carries."""

TapeRow = dict[str, Any]
_NO_VALUES: Mapping[str, float] = MappingProxyType({})
UNCOUNTED = (None,) * len(COUNTERS)


class Moment(NamedTuple):
    """What is known of the moment at which an arrow was taken.

    It is after the arrow's effect, and before anything is entered.

    Attributes:
        time: seconds since the run began, without those between an interrupt and the run that went
            on; None if not recorded.
        epoch, iter, valid_iter, step, samples: the context's counters; None if not recorded.
        answers: what each part of each guard answered that was asked before; empty if not recorded,
            or nothing was asked.
        values: numbers from the context, by path, of the state that is being left.
    """

    time: float | None = None
    epoch: int | None = None
    iter: int | None = None
    valid_iter: int | None = None
    step: int | None = None
    samples: int | None = None
    answers: tuple[Asked, ...] = ()
    values: Mapping[str, float] = _NO_VALUES

    @property
    def where(self) -> str:
        """The counters as text; empty if they are not known or say nothing."""
        if not self.epoch:
            if self.valid_iter:
                return f"batch {self.valid_iter}"
            return ""
        return f"epoch {self.epoch}, batch {self.iter}, step {self.step}"


KnownFacts: TypeAlias = tuple[Any, ...]
"""The same as a plain tuple, None for missing answers and values: faster to make, and smaller."""


@define(eq=False)
class Tape:
    """Transitions in the order in which they were taken.

    Attributes:
        last: how many are kept at least; up to twice as many are held. None keeps all.
        taken: those that are held.
        moments: what is known of each; empty if nothing is recorded.
        folded: how many earlier ones are not held.
    """

    last: int | None = None
    taken: list[Transition] = Factory(list)
    moments: list[KnownFacts] = Factory(list)
    folded: int = 0
    # Of the folded, by identity: comparing arrows is slow
    _counts: dict[int, tuple[Transition, int]] = Factory(dict)

    @property
    def count(self) -> int:
        """How many were taken since the beginning."""
        return self.folded + len(self.taken)

    def fold(self) -> None:
        """Releases the oldest if there are twice as many as are kept."""
        if self.last is None or len(self.taken) < 2 * self.last:
            return
        old = self.taken[: -self.last]
        self._counts = _add_counts(self._counts, old)
        del self.taken[: -self.last], self.moments[: -self.last]
        self.folded += len(old)

    def cut(self, count: int) -> None:
        """Goes back to when so many were taken. Counts of what is not held any more stay."""
        if count < self.folded:
            self.taken.clear()
            self.moments.clear()
            self.folded = count
        del self.taken[count - self.folded :], self.moments[count - self.folded :]
        self.folded += count - self.count  # of a run that was recorded elsewhere up to here

    def release(self, count: int) -> None:
        """Forgets the first so many of all, but for how many they were."""
        gone = max(0, min(count - self.folded, len(self.taken)))
        del self.taken[:gone], self.moments[:gone]
        self.folded += gone

    def clear(self) -> None:
        """Forgets everything."""
        self.taken.clear()
        self.moments.clear()
        self._counts.clear()
        self.folded = 0

    def counts(self) -> Counter[Transition]:
        """How often each arrow was taken since the beginning."""
        counts: Counter[Transition] = Counter()
        for arrow, times in _add_counts(self._counts, self.taken).values():
            counts[arrow] += times
        return counts

    def kept(self) -> tuple[list[Transition], list[Moment], int, Counter[Transition]]:
        """What is kept.

        Returns:
            The last transitions, their moments, how many came before, and how often each of those
            was taken.
        """
        surplus = 0
        if self.last is not None:
            surplus = max(0, len(self.taken) - self.last)
        earlier: Counter[Transition] = Counter()
        for arrow, times in _add_counts(self._counts, self.taken[:surplus]).values():
            earlier[arrow] += times
        return (
            self.taken[surplus:],
            moments_of(self.moments[surplus:]),
            self.folded + surplus,
            earlier,
        )


def moments_of(known: Iterable[KnownFacts]) -> list[Moment]:
    """What is known of each moment, under its names."""
    return [Moment._make((*one[:-2], tuple(one[-2] or ()), one[-1] or _NO_VALUES)) for one in known]


def _add_counts(
    counts: dict[int, tuple[Transition, int]], taken: Iterable[Transition]
) -> dict[int, tuple[Transition, int]]:
    counts, known = dict(counts), {id(arrow): arrow for arrow in taken}
    for key, times in Counter(map(id, taken)).items():
        counts[key] = (known[key], counts.get(key, (None, 0))[1] + times)
    return counts


def count_arrows(taken: Iterable[Transition]) -> Counter[Transition]:
    """How often each arrow was taken."""
    counts: Counter[Transition] = Counter()
    for arrow, times in _add_counts({}, list(taken)).values():
        counts[arrow] += times
    return counts
