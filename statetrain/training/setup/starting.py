"""Starting a run: from its beginning, or from where a checkpoint was taken.

What saves and resumes is loaded by runs that do, so that others start sooner.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable
from typing import Any

from attrs import define

from statetrain.callback import Callback, unwrapped
from statetrain.contracts.checking import monitors_of
from statetrain.errors import ConfigError
from statetrain.outcome import Completed
from statetrain.training.run import Run
from statetrain.training.setup.ranks import Ranks

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

    snapshot: dict[str, Any] | None
    seed: int | None
    allow: bool | str | Collection[str] = ()

    def put_into(self, run: Run) -> None:
        """Restores a run, and forgets the snapshot.

        Raises:
            CheckpointError: it is of another run.
        """
        if self.snapshot is not None:
            from statetrain.checkpoints.restoring import restore

            restore(run.ctx, run.machine, self.snapshot, self.allow)
            run.at, self.snapshot = self.snapshot["state"], None
        elif any(one.saves_run for one in map(unwrapped, run.machine.callbacks)):
            from statetrain.checkpoints.describing import describe_run

            run.ctx.given = describe_run(run.ctx, run.machine)


def find_saved(
    resume: str | int | os.PathLike[str] | None,
    allow: bool | str | Collection[str],
    callbacks: Iterable[Callback],
    seed: int | None,
    ranks: Ranks,
) -> ResumePoint:
    """What `resume` stands for, read before anything is made; see `find`.

    Args:
        resume, allow, seed: as `fit` takes them; `allow` is its `allow_changes`.
        callbacks: what listens.
        ranks: the processes, which train with one seed.

    Raises:
        ConfigError: there is no such thing, a word of `allow_changes` is unknown, or there is
            nothing that it could allow.
    """
    snapshot = None
    if resume is not None or allow:
        snapshot = _read(resume, allow, callbacks)
    return ResumePoint(snapshot, ranks.seed(seed, snapshot), allow)


def _read(resume: Any, allow: Any, callbacks: Iterable[Callback]) -> dict[str, Any] | None:
    from statetrain.callbacks.checkpointing.finding import find
    from statetrain.checkpoints.differences import read_allowed

    read_allowed(allow)
    if resume is None:
        raise ConfigError(
            f"allow_changes={allow!r} would not be used: nothing is resumed; give resume="
        )
    return find(resume, callbacks)


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
