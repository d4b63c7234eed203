"""Which checkpoints of a directory are kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from attrs import frozen

from statetrain.callbacks.monitoring import Monitor
from statetrain.checkpoints.checkpoint import Saved
from statetrain.guards.counters import Every

# Checkpoints that are always kept: should the newest be damaged, the run resumes from the one
# before.
_LATEST = 2


@frozen
class Retention:
    """Which checkpoints of a directory are kept.

    Args:
        keep: how many of the best; without a monitor, how many of the latest, if more than two.
        monitor: what makes one better than another; None if nothing does.
        keep_every: the first checkpoint at or after each multiple of it is never deleted.
    """

    keep: int
    monitor: Monitor | None = None
    keep_every: Every | None = None

    def rank(self, saved: Sequence[Saved]) -> list[Saved]:
        """The checkpoints with a monitored value, the best first; the earliest of equals.

        Args:
            saved: the newest first.
        """
        if self.monitor is None:
            return []
        monitor = self.monitor
        found = [one for one in reversed(saved) if _has_value(one, monitor.column)]
        return sorted(found, key=lambda one: monitor.rank(one.about["value"]))

    def admits(self, value: float, saved: Sequence[Saved]) -> bool:
        """Whether a value is among the best, so that its checkpoint would be kept."""
        if self.monitor is None or math.isnan(value):
            return False
        ranked = self.rank(saved)
        if len(ranked) < self.keep:
            return True
        return self.monitor.improves(value, ranked[self.keep - 1].about["value"])

    def find_superfluous(self, saved: Sequence[Saved]) -> list[Saved]:
        """The checkpoints that need not be kept.

        Args:
            saved: the newest first.
        """
        latest = _LATEST
        if self.monitor is None:
            latest = max(_LATEST, self.keep)
        kept = [*self.rank(saved)[: self.keep], *saved[:latest], *self._find_milestones(saved)]
        return [one for one in saved if one not in kept]

    def _find_milestones(self, saved: Sequence[Saved]) -> Iterator[Saved]:
        """The first checkpoint at or after each multiple of `keep_every`."""
        if self.keep_every is None:
            return
        counter, reached = self.keep_every.unit.removesuffix("s"), 0
        for one in reversed(saved):
            multiples = one.about[counter] // self.keep_every.n
            if multiples > reached:
                reached = multiples
                yield one


def _has_value(saved: Saved, column: str) -> bool:
    value = saved.about.get("value")
    return saved.about.get("monitor") == column and value is not None and not math.isnan(value)
