"""The directory of a run's checkpoints, which one run owns."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from attrs import Factory, define, field

from statetrain.callbacks.checkpointing.retention import Retention
from statetrain.callbacks.checkpointing.trial import clear_trial
from statetrain.checkpoints import checkpoint, directory, failure
from statetrain.checkpoints.checkpoint import Log, Saved
from statetrain.checkpoints.lock import Lock
from statetrain.checkpoints.rowlog import LANES, Lane
from statetrain.context.position import Position
from statetrain.errors import CheckpointError
from statetrain.machine.agreeing import Group

_FEW = 200  # rows and records that are part of each checkpoint; more are in a file that grows

log = logging.getLogger("statetrain")


@define(eq=False)
class OwnDirectory:
    """The directory of a run's checkpoints.

    Args:
        path: of the directory; made when it is taken.
    """

    path: Path
    saved: list[Saved] = Factory(list)
    """The checkpoints in it, the newest first."""
    lock: Lock = field(init=False)
    _lanes: list[Lane] = field(init=False)
    _warned: bool = False  # whether it was said that a forked child saves nothing

    def __attrs_post_init__(self) -> None:
        self.lock = Lock(self.path)
        self._lanes = [Lane(self.path / name) for name in LANES]

    def open(self, group: Group | None) -> None:
        """Takes the directory; of several ranks, rank 0 does, and tells the others what is in it.

        Args:
            group: the ranks; None if there is one.

        Raises:
            CheckpointError: another run has it, or it cannot be written.
        """
        if group is None:
            self.take()
            return
        problem: CheckpointError | None = None
        if group.rank == 0:
            try:
                self.take()
            except CheckpointError as error:
                problem = error
        there = [(saved.name, saved.sequence, saved.about) for saved in self.saved]
        told = group.gather("open the directory", (problem and str(problem), there))
        if problem is not None:
            raise problem
        if group.rank > 0:
            self._follow(*told[0])

    def _follow(self, problem: str | None, there: list[tuple[str, int, Any]]) -> None:
        """On the other ranks, takes what rank 0 found in the directory."""
        if problem is not None:
            raise CheckpointError(f"{problem} (rank 0)")
        self.saved = [Saved(self.path / name, n, about, {}) for name, n, about in there]

    def take(self) -> None:
        """Takes the directory, and removes what a run that was killed left unfinished.

        Raises:
            CheckpointError: another run has it, or it cannot be written.
        """
        self._warned = False
        try:
            self.lock.take()
        except OSError as error:
            raise CheckpointError(
                f"checkpoints cannot be written to {self.path}: {error.strerror}; give another"
                " directory"
            ) from error
        directory.sweep(self.path)
        for name in LANES:
            (self.path / name).unlink(missing_ok=True)
        clear_trial(self.path)
        self.saved = directory.complete(self.path)

    def give_back(self) -> None:
        """Releases the directory."""
        for lane in self._lanes:
            lane.restart()
        self.lock.give_back()

    def take_new_lines(self, ctx: Position) -> Log | None:
        """What a long run has logged since the next file to write was last written.

        None while there is little of it: it is part of each checkpoint then.
        """
        rows, records = ctx.history.rows, ctx.records
        if len(rows) + sum(map(len, records.values())) <= _FEW:
            return None
        lane = self._lanes[0]
        self._lanes.reverse()
        return lane, lane.take(rows, records, but_last=min(1, len(rows)))

    def weed_after(self, resumed: Saved) -> None:
        """Sets aside the later checkpoints that are broken."""
        directory.weed(saved for saved in self.saved if saved.sequence > resumed.sequence)
        self.saved = directory.complete(self.path)

    def thin_out(self, retention: Retention) -> None:
        """Deletes what need not be kept, if the newest is sound."""
        superfluous = retention.find_superfluous(self.saved)
        if not superfluous:
            return
        try:
            checkpoint.check_sizes(self.saved[0].path)
        except (CheckpointError, OSError) as error:
            log.warning("no checkpoint is deleted, for the newest is broken: %s", error)
            return
        for saved in superfluous:
            self.saved.remove(saved)
            _delete(saved.path)

    def warn_a_forked_child(self) -> None:
        """Says once that a process that was forked from the owner saves nothing."""
        if self.lock.inherited and not self._warned:
            self._warned = True
            log.warning(
                "this process was forked from the run that owns %s: it saves nothing there",
                self.path,
            )

    def forget_failure(self) -> None:
        """Deletes what an earlier run has noted."""
        (self.path / failure.FILE).unlink(missing_ok=True)

    def note_failure(self, ctx: Position, error: BaseException, newest: Path | None) -> None:
        """Notes in a file what was raised, and where the run can be resumed from."""
        try:
            failure.write(self.path, failure.describe(ctx, error, newest))
        except Exception as second:  # a full disk, say; the error itself is worth more
            log.warning("%s could not be written: %s", self.path / failure.FILE, second)


def _delete(path: Path) -> None:
    if not path.exists():
        return
    try:
        checkpoint.delete(path)
    except OSError as error:  # a run is worth more than room on the disk
        log.warning("checkpoint %s could not be deleted: %s", path, error)
