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
    _answered: float = field(factory=time.monotonic, init=False)
    """When the store last answered."""

    def start(self) -> None:
        """Begins to watch."""
        self._thread = threading.Thread(target=self._work, name="statetrain ranks", daemon=True)
        self._thread.start()
        if self.served and self.rank:
            threading.Thread(target=self._work_beside, name="statetrain store", daemon=True).start()

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

    def tell(self, store: Any, rank: int, words: str) -> None:
        """Records whose failure ends the run, unless another rank has."""
        if store.add(f"first/{self.run}", 1) == 1:
            store.set("failed", jsons.dumps([rank, self.run, words]))

    def find_gone(self) -> tuple[int, str] | None:
        """A rank that has failed or gives no sign of life, and what is known; None if all do."""
        try:
            store = self.connect()
            before = _rows(store, self.size)
            time.sleep(4 * self.pulse)
            if store.check(["failed"]):
                rank, run, words = jsons.loads(store.get("failed"))
                if run == self.run:
                    return rank, words
            after = _rows(store, self.size)
        except (RuntimeError, DistError):
            return None
        for rank, (one, two) in enumerate(zip(before, after, strict=True)):
            if rank != self.rank and one.beat == two.beat:
                return rank, f"it gives no sign of life, and was last seen in {two.place}"
        return None

    # ------------------------------------------------------------ the thread

    def _work(self) -> None:
        looks = _Looks(self)
        try:
            store = self.connect()
            while not self._over.wait(self.pulse):
                looks.look(store)
                self._answered = time.monotonic()
            store.set(f"at/{self.rank}", jsons.dumps(["", _ENDED, 0.0, -1]))
        except (RuntimeError, DistError):
            self._end_without_store(looks.ending)

    def _work_beside(self) -> None:
        """A call of a store whose process stands still does not return."""
        while not self._over.wait(self.pulse):
            silent = time.monotonic() - self._answered
            if self.meeting and silent > self.patience + self.grace:
                self.end(
                    f"rank {self.rank} waits to {self.meeting}, in {self.whereabouts()}; rank 0,"
                    f" which keeps the store of all ranks, has given no sign of life for"
                    f" {silent:.0f} s"
                )

    def _end_without_store(self, ending: str) -> None:
        """The store is gone. If rank 0 kept it, that is gone too, and a collective may not return.

        Without its launcher, a job can continue.

        Args:
            ending: why this rank would have ended soon; empty if it would not.
        """
        if not self.served or self._over.wait(self.grace):
            return
        self.end(
            ending
            or f"rank {self.rank} ends in {self.whereabouts()}: rank 0, which kept the store of all"
            " ranks, has failed, or was killed"
        )

    def end(self, words: str) -> None:
        """Ends this process at once."""
        if self._over.is_set():
            return
        sys.stdout.flush()
        print(f"statetrain: {words}", file=sys.stderr, flush=True)
        self.let_read()
        os._exit(EXIT_CODE)

    def let_read(self) -> None:
        """Lets the others read why this rank ends, if the store ends with it."""
        if self.served and self.rank == 0:
            time.sleep(4 * self.pulse)


@define(eq=False)
class _Looks:
    """What one thread has seen so far."""

    watch: RankWatch
    here: tuple[str, str, int] = ("", "", 0)
    since: float = field(factory=time.monotonic)
    noticed: float | None = None
    ending: str = ""
    """Why this rank ends soon, once another one has failed."""
    beat: int = 0
    heard: dict[int, tuple[int, float]] = field(factory=dict)
    """The last sign of life of each rank, and when this one first saw it."""

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
        if here[0] and still > watch.grace / 2:
            self._look_for_the_gone(store, still)

    def _end_with(self, store: Any, now: float) -> None:
        """Another rank has failed: this one has some seconds to end by itself."""
        watch = self.watch
        rank, run, words = jsons.loads(store.get("failed"))
        alike = store.add(f"failures/{run}", 0) == watch.size
        if alike or (watch._failed and run == watch.run):
            self.noticed, self.ending = None, ""
            return
        self.noticed = self.noticed or now
        self.ending = f"rank {watch.rank} ends because of rank {rank}: {words}"
        if now - self.noticed > watch.grace:
            watch.end(self.ending)

    def _look_for_the_gone(self, store: Any, still: float) -> None:
        """This rank waits: for one that has ended, or for one that does not move.

        If it is so, the others see it too, and need no time to end by themselves.
        """
        watch = self.watch
        at = [self._with_quiet(rank, row) for rank, row in enumerate(_rows(store, watch.size))]
        ended = [rank for rank, row in enumerate(at) if row.is_over]
        waits = still > watch.grace and not self.ending
        if ended and watch.rank not in ended and waits:
            words = (
                f"rank {watch.rank} waits to {self.here[0]}, in {self.here[1]}, and rank {ended[0]}"
                " has come to the end of its script; all ranks call fit, evaluate and predict alike"
            )
            watch.tell(store, ended[0], words)
            watch.end(words)
        if still > watch.patience and min(row.still for row in at) > watch.patience:
            busy = next((rank for rank, row in enumerate(at) if row.is_busy), watch.rank)
            words = _standstill(at, watch.patience)
            watch.tell(store, busy, words)
            watch.end(words)

    def _with_quiet(self, rank: int, row: _RankRow) -> _RankRow:
        """Where a rank is, and for how long it has not said so: then it has not moved either."""
        now = time.monotonic()
        beat, since = self.heard.get(rank, (-1, now))
        if beat != row.beat:
            self.heard[rank] = row.beat, now
            return row
        return row._replace(still=row.still + now - since, quiet=now - since)


LEAVING = "leave"
_ENDED = "has ended"
_QUIET = 2.0  # seconds; a thread gets its turn more often, unless something holds Python's lock


class _RankRow(NamedTuple):
    """Where a rank is, as it has recorded."""

    meeting: str = ""
    place: str = "no place yet"
    still: float = 0.0  # seconds since it moved
    beat: int = 0
    quiet: float = 0.0  # seconds without a sign of life

    @property
    def is_busy(self) -> bool:
        """Whether the others wait for it: it is in no meeting, or its process stands still."""
        return not self.meeting or self.quiet > _QUIET

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
        if row.quiet > _QUIET:
            waits = ", and its process gives no sign of life"
        rows.append(f"rank {rank} is in {row.place} for {row.still:.0f} s{waits}")
    busy = [str(rank) for rank, row in enumerate(at) if row.is_busy]
    last = "all wait, each for something else"
    if busy:
        last = f"it is rank {', '.join(busy)} that the others wait for"
    return f"no rank has moved for {patience:g} s: {'; '.join(rows)}; {last}"


def patience_of(seconds: float) -> datetime.timedelta:
    """After how long torch itself gives up, which is behind the watch."""
    return datetime.timedelta(seconds=2 * seconds + 60)
