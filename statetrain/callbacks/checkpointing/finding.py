"""The checkpoint that `resume=` means."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from statetrain.callback import Callback, unwrapped
from statetrain.callbacks.checkpoint import Checkpoint
from statetrain.checkpoints import checkpoint, directory
from statetrain.checkpoints.checkpoint import Saved
from statetrain.checkpoints.snapshot import Snapshot
from statetrain.errors import ConfigError
from statetrain.validators import is_whole_number, local_path

Found = tuple[Saved, Snapshot]


def find(source: str | int | os.PathLike[str], callbacks: Iterable[Callback]) -> Snapshot | None:
    """The snapshot that `resume=` means; None where there is nothing to resume from yet.

    Args:
        source: "last", "best" or the number of a step, of the first `Checkpoint` among the
            callbacks; or the path of a checkpoint, or of a directory of them, of which it is the
            newest, or "<directory>/best", "<directory>/step-<number>".
        callbacks: of the run.

    Raises:
        ConfigError: no such thing is there.
        CheckpointError: what is there is not whole.
    """
    owners = [one for one in map(unwrapped, callbacks) if isinstance(one, Checkpoint)]
    if isinstance(source, int) or source in ("last", "best"):
        found = _find_in(owners, source)
        if found is None:
            return None
    else:
        found = _find_at(local_path("resume", source))
    saved, data = found
    for owner in owners:
        if saved.path.parent.resolve() == owner.folder.resolve():
            owner.resumed = saved
    return data


def _find_in(owners: list[Checkpoint], source: object) -> Found | None:
    """The checkpoint of the first `Checkpoint`; None if it has none yet."""
    if not owners:
        raise ConfigError(
            f"resume={source!r} needs to know where checkpoints are: give"
            " callbacks=[Checkpoint(folder)], or a path as resume"
        )
    if source == "last":
        return owners[0].newest()
    if source == "best":
        return owners[0].best()
    if is_whole_number(source):
        return owners[0].at_step(source)
    raise ConfigError(f"resume takes 'last', 'best', a step or a path, got {source!r}")


def _find_at(path: Path) -> Found:
    """The checkpoint at a path, or the newest one in a directory of them."""
    found: Found | None = None
    path = directory.located(path)
    if (path / checkpoint.MANIFEST).exists():
        found = checkpoint.read_manifest(path), checkpoint.read(path)
    elif path.is_dir():
        there = directory.complete(path, aside=False)
        found = directory.first_usable(path, there, checkpoint.read, aside=False)
    if found is None:
        raise ConfigError(
            f"resume={os.fspath(path)!r}: there is no checkpoint; give 'last', 'best', or the path"
            " of one"
        )
    return found
