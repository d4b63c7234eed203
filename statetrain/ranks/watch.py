"""A rank that fails, is killed or hangs ends all, with a message that says which and why.

A thread on each rank writes down in the launcher's store where its rank is, and reads what the
others have written. No collective is needed for that, so it works while the ranks wait in one. It
ends the process where the main thread cannot: a collective that another rank will never come to
does not return.

Failures that all ranks have alike, such as a loss that is not finite, end nothing: each raises its
error, and the script continues as it likes.
"""

from __future__ import annotations

import datetime
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from attrs import define, field
from torch.distributed import DistError

from statetrain import jsons

EXIT_CODE = 75  # "temporary failure": a launcher may start the job again


@define(eq=False)
class RankWatch:
    """Watches over the ranks of a job.

    Args:
        connect: connects to the store of all ranks.
        rank, size: which this is, of how many.
        patience: seconds after which ranks that do not move are given up.
        grace: seconds that a rank has to end by itself when another one has failed.
        served: whether rank 0 keeps the store, not the launcher.
        pulse: seconds between two looks.
    """

    connect: Callable[[], Any]
    rank: int
    size: int
    patience: float = 600.0
    grace: float = 2.0
    served: bool = False
    pulse: float = 0.25
    run: int = 0
    """The number of the run, evaluation or prediction, counted from 1; the same on all ranks."""
    meeting: str = ""
    """What the main thread waits for; empty while it computes."""
    whereabouts: Callable[[], str] = field(default=lambda: "the script, outside of a run")
    _failed: bool = field(default=False, init=False)
    _over: threading.Event = field(factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def start(self) -> None:
        """Begins to watch."""
        self._thread = threading.Thread(target=self._work, name="statetrain ranks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends watching: this rank is done, in order."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(5 * self.pulse + 1)

    def begin(self, place: Callable[[], str]) -> None:
        """A run begins, on all ranks.

        Args:
            place: says where it is.
        """
        self.run += 1
        self.whereabouts, self._failed = place, False

    def fail(self, words: str, rank: int | None = None) -> None:
        """This rank has failed.

        Args:
            words: with what, and where.
            rank: another rank, if it is that one's failure that this one has met with.
        """
        if self._failed:
            return
        self._failed = True
        try:
            store = self.connect()
            store.add(f"failures/{self.run}", 1)
            self.tell(store, self.rank if rank is None else rank, words)
        except (RuntimeError, DistError):  # the store is gone, and with it the job
            return

    def tell(self, store: Any, rank: int, words: str) -> bool:
        """Records whose failure ends the run; whether this rank was the first to say so."""
        if store.add(f"first/{self.run}", 1) > 1:
            return False
        store.set("failed", jsons.dumps([rank, self.run, words]))
        return True

    def find_gone(self) -> tuple[int, str] | None:
        """A rank that gives no sign of life any more, and where it was; None if all do."""
        try:
            store = self.connect()
            before = _rows(store, self.size)
            time.sleep(4 * self.pulse)
            after = _rows(store, self.size)
        except (RuntimeError, DistError):
            return None
        for rank, (one, two) in enumerate(zip(before, after, strict=True)):
            if rank != self.rank and one.beat == two.beat:
                return rank, two.place
        return None

    # ------------------------------------------------------------ the thread

    def _work(self) -> None:
        try:
            store = self.connect()
            looks = _Looks(self)
            while not self._over.wait(self.pulse):
                looks.look(store)
            store.set(f"at/{self.rank}", jsons.dumps(["", _ENDED, 0.0, -1]))
        except (RuntimeError, DistError):
            self._end_without_store()

    def _end_without_store(self) -> None:
        """The store is gone. If rank 0 kept it, that is gone too, and a collective may not return.

        Without its launcher, a job can continue.
        """
        if not self.served or self._over.wait(self.grace):
            return
        self.end(
            f"rank {self.rank} ends in {self.whereabouts()}: rank 0, which kept the store of all"
            " ranks, has failed, or was killed"
        )

    def end(self, words: str) -> None:
        """Ends this process at once."""
        if self._over.is_set():
            return
        sys.stdout.flush()
        print(f"statetrain: {words}", file=sys.stderr, flush=True)
        os._exit(EXIT_CODE)


@define(eq=False)
class _Looks:
    """What one thread has seen so far."""

    watch: RankWatch
    here: tuple[str, str, int] = ("", "", 0)
    since: float = field(factory=time.monotonic)
    noticed: float | None = None
    beat: int = 0

    def look(self, store: Any) -> None:
        """Records where this rank is, and looks at the others."""
        watch, now = self.watch, time.monotonic()
        here = (watch.meeting, watch.whereabouts(), watch.run)
        if here != self.here:
            self.here, self.since = here, now
        still = now - self.since
        self.beat += 1
        store.set(f"at/{watch.rank}", jsons.dumps([here[0], here[1], still, self.beat]))
        if store.check(["failed"]):
            self._end_with(store, now)
        if here[0] and still > watch.grace:
            self._look_for_the_gone(store, still)

    def _end_with(self, store: Any, now: float) -> None:
        """Another rank has failed: this one has some seconds to end by itself."""
        watch = self.watch
        rank, run, words = jsons.loads(store.get("failed"))
        alike = store.add(f"failures/{run}", 0) == watch.size
        if alike or (watch._failed and run == watch.run):
            self.noticed = None
            return
        self.noticed = self.noticed or now
        if now - self.noticed > watch.grace:
            watch.end(f"rank {watch.rank} ends because of rank {rank}: {words}")

    def _look_for_the_gone(self, store: Any, still: float) -> None:
        """This rank waits: for one that has ended, or for one that does not move."""
        watch = self.watch
        at = _rows(store, watch.size)
        ended = [rank for rank, row in enumerate(at) if row.is_over]
        if ended and watch.rank not in ended:
            words = (
                f"rank {watch.rank} waits to {self.here[0]}, in {self.here[1]}, and rank {ended[0]}"
                " has come to the end of its script; all ranks call fit, evaluate and predict alike"
            )
            if watch.tell(store, ended[0], words):
                watch.end(words)
        if still > watch.patience and min(row.still for row in at) > watch.patience:
            busy = next((rank for rank, row in enumerate(at) if not row.meeting), watch.rank)
            words = _standstill(at, watch.patience)
            if watch.tell(store, busy, words):
                watch.end(words)


LEAVING = "leave"
_ENDED = "has ended"


class _RankRow(NamedTuple):
    """Where a rank is, as it has recorded."""

    meeting: str = ""
    place: str = "no place yet"
    still: float = 0.0  # seconds since it moved
    beat: int = 0

    @property
    def is_over(self) -> bool:
        """Whether it has come to the end of its script."""
        return self.meeting == LEAVING or self.place == _ENDED


def _rows(store: Any, size: int) -> list[_RankRow]:
    keys = [f"at/{rank}" for rank in range(size)]
    return [
        _RankRow(*jsons.loads(store.get(key))) if store.check([key]) else _RankRow() for key in keys
    ]


def _standstill(at: Sequence[_RankRow], patience: float) -> str:
    """Who is where, and who it is that the others wait for."""
    rows = []
    for rank, row in enumerate(at):
        waits = ""
        if row.meeting:
            waits = f", waiting to {row.meeting}"
        rows.append(f"rank {rank} is in {row.place} for {row.still:.0f} s{waits}")
    busy = [str(rank) for rank, row in enumerate(at) if not row.meeting]
    last = "all wait, each for something else"
    if busy:
        last = f"it is rank {', '.join(busy)} that the others wait for"
    return f"no rank has moved for {patience:g} s: {'; '.join(rows)}; {last}"


def patience_of(seconds: float) -> datetime.timedelta:
    """After how long torch itself gives up, which is behind the watch."""
    return datetime.timedelta(seconds=2 * seconds + 60)
