"""Starting a run: from its beginning, or from where a checkpoint was taken."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable

from attrs import define

from statetrain.callback import Callback, unwrapped
from statetrain.callbacks.checkpoint import Checkpoint
from statetrain.callbacks.checkpointing.finding import find
from statetrain.checkpoints.describing import describe_run
from statetrain.checkpoints.differences import read_allowed
from statetrain.checkpoints.restoring import restore
from statetrain.checkpoints.snapshot import Snapshot
from statetrain.contracts.checking import monitors_of
from statetrain.errors import ConfigError
from statetrain.outcome import Completed
from statetrain.ranks.group import Processes
from statetrain.training.run import Run
from statetrain.training.setup.ranks import shared_seed

log = logging.getLogger("statetrain")


@define(eq=False)
class ResumePoint:
    """What a run resumes from.

    Args:
        snapshot: None for a run that starts from its beginning. It serves once, so that its tensors
            need no memory during the run.
        seed: of the run; None without.
        allow: what may differ, as `fit` takes it.
    """

    snapshot: Snapshot | None
    seed: int | None
    allow: bool | str | Collection[str] = ()

    def put_into(self, run: Run) -> None:
        """Restores a run, and forgets the snapshot.

        Raises:
            CheckpointError: it is of another run.
        """
        if self.snapshot is None:
            if any(isinstance(one, Checkpoint) for one in map(unwrapped, run.machine.callbacks)):
                run.ctx.given = describe_run(run.ctx, run.machine)
            return
        restore(run.ctx, run.machine, self.snapshot, self.allow)
        run.at, self.snapshot = self.snapshot["state"], None


def find_saved(
    resume: str | int | os.PathLike[str] | None,
    allow: bool | str | Collection[str],
    callbacks: Iterable[Callback],
    seed: int | None,
    group: Processes | None,
) -> ResumePoint:
    """What `resume` stands for, read before anything is made; see `find`.

    Args:
        resume, allow, seed: as `fit` takes them; `allow` is its `allow_changes`.
        callbacks: what listens.
        group: the processes, which train with one seed; None is one.

    Raises:
        ConfigError: there is no such thing, a word of `allow_changes` is unknown, or there is
            nothing that it could allow.
    """
    if read_allowed(allow) and resume is None:
        raise ConfigError(
            f"allow_changes={allow!r} would not be used: nothing is resumed; give resume="
        )
    snapshot = None
    if resume is not None:
        snapshot = find(resume, callbacks)
    return ResumePoint(snapshot, shared_seed(group, seed, snapshot), allow)


def begin(run: Run, saved: ResumePoint, start: bool) -> Run:
    """Restores a run, if there is something to restore, and walks it unless it is only made."""
    saved.put_into(run)
    if start:
        warn_of_unseen(run.walk())
    return run


def warn_of_unseen(run: Run) -> None:
    """Warns of a column that is watched and that no row of a completed run has.

    Something would write it, but was never reached: a later phase, an evaluation that was not due.
    """
    if not isinstance(run.outcome, Completed) or not run.history:
        return
    for who, column in monitors_of(run.machine):
        if not any(column in row for row in run.history):
            log.warning(
                "%s watches %r, and no row of this run has it: what writes it was never due, so"
                " nothing was judged by it",
                who,
                column,
            )
