"""Batches that look at the clocks when an epoch's first one and its last one are drawn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from attrs import Factory, define, frozen
from torch.utils.data import DataLoader


@frozen
class Mark:
    """One look at the clocks.

    Args:
        cpu, wall: seconds; of the process with all its threads, and of the wall.
        seen: how often the model had been called.
    """

    cpu: float
    wall: float
    seen: int


@frozen
class Cost:
    """What a block took.

    Args:
        cpu, wall: microseconds a batch, within epochs.
        between: milliseconds of CPU time beyond the batches, from one epoch's batches to the next
            epoch's; NaN of a lone epoch.
        epoch: microseconds of CPU time a batch from the first epoch's first batch to the last
            epoch's: with what is between.
    """

    cpu: float
    wall: float
    between: float
    epoch: float


@define(eq=False)
class Feed(Sequence[Any]):
    """The same batches every epoch, for every loop: clocks that sit in the data are alike for all of them.

    It is a sequence, which says that it holds batches, not samples.

    Args:
        batches: what an epoch yields.
        called: how often the model has been called, where that is counted.
        wait: waits for a device before the clock of the wall is looked at; what the host waits is
            no CPU time of the loop.
        marks: two for each epoch.
    """

    batches: Sequence[Any]
    called: Callable[[], int] = lambda: 0
    wait: Callable[[], None] = lambda: None
    marks: list[Mark] = Factory(list)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: Any) -> Any:
        return self.batches[index]

    def __iter__(self) -> Iterator[Any]:
        return self._marked(self.batches)

    def order(self) -> Order:
        """The indices, as a sampler for a DataLoader."""
        return Order(self)

    def loader(self, pin_memory: bool = False) -> DataLoader[Any]:
        """A DataLoader for those who insist on one: each sample of it is a batch."""
        return DataLoader(
            self,  # type: ignore[arg-type]  # it has what a dataset needs
            batch_size=1,
            sampler=self.order(),
            collate_fn=_first,
            pin_memory=pin_memory,
        )

    def _marked(self, what: Sequence[Any]) -> Iterator[Any]:
        # The end of the data is no place to look: some loops count, and never ask for the batch
        # after the last.
        first, last = what[:-1], what[-1]
        self._look()
        yield from first
        self._look()
        yield last

    def _look(self) -> None:
        cpu = time.process_time()
        self.wait()
        self.marks.append(Mark(cpu, time.perf_counter(), self.called()))

    def ahead(self) -> int:
        """By how many batches the loop draws ahead of the model, as counted in this run."""
        return len(self.batches) - 1 - (self.marks[1].seen - self.marks[0].seen)

    def cost(self, ahead: int = 0) -> Cost:
        """What the run took.

        Args:
            ahead: see there; as many batches fewer are trained between the two marks of an epoch.

        Raises:
            RuntimeError: the epochs were not drawn one after the other.
        """
        pairs = list(zip(self.marks[::2], self.marks[1::2], strict=True))
        if not pairs or any(one.wall > other.wall for one, other in pairwise(self.marks)):
            raise RuntimeError(f"the epochs were not drawn one after the other: {self.marks}")
        between = 1 + ahead  # batches that are trained after an epoch's second mark
        trained = len(pairs) * (len(self.batches) - between)
        cpu, wall = (
            sum(getattr(end, clock) - getattr(begin, clock) for begin, end in pairs) / trained * 1e6
            for clock in ("cpu", "wall")
        )
        gaps = [begin.cpu - end.cpu for (_, end), (begin, _) in pairwise(pairs)]
        if not gaps:
            return Cost(cpu, wall, math.nan, math.nan)
        whole = (pairs[-1][0].cpu - pairs[0][0].cpu) / (len(gaps) * len(self.batches)) * 1e6
        return Cost(cpu, wall, 1e3 * sum(gaps) / len(gaps) - between * cpu / 1e3, whole)


@frozen(eq=False)
class Order:
    """A sampler in the batches' own order, which marks the epochs."""

    feed: Feed

    def __len__(self) -> int:
        return len(self.feed)

    def __iter__(self) -> Iterator[int]:
        return self.feed._marked(range(len(self.feed)))


def _first(samples: list[Any]) -> Any:
    return samples[0]
