"""Checkpoints that all ranks write together, each the parts of the tensors that it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from statetrain.checkpoints import checkpoint, plain
from statetrain.checkpoints.checkpoint import Log, Saved
from statetrain.checkpoints.shards import divided, own_parts, shard_name
from statetrain.checkpoints.tensorfile import Digest
from statetrain.errors import CheckpointError
from statetrain.machine.agreeing import Group

T = TypeVar("T")


def attempt(group: Group, word: str, work: Callable[[], T]) -> list[T]:
    """What work gives on each rank. If it fails on one, it fails on all. A meeting.

    Args:
        group: the ranks.
        word: what the meeting is for.
        work: of this rank.

    Raises:
        CheckpointError: it failed on another rank; the message names it.
        OSError: it failed on this one.
    """
    value, problem = None, None
    try:
        value = work()
    except (CheckpointError, OSError) as error:
        problem = error
    told = group.gather(word, (value, problem and f"{type(problem).__name__}: {problem}"))
    if problem is not None:
        raise problem
    for rank, (_, words) in enumerate(told):
        if words:
            raise CheckpointError(f"{words} (rank {rank})")
    return [found for found, _ in told]


def write_together(
    group: Group,
    folder: Path,
    name: str,
    data: Any,
    about: Mapping[str, Any],
    log: Log | None = None,
    check: Callable[[], None] = lambda: None,
) -> Saved:
    """Writes a checkpoint as `checkpoint.write` does, of ranks that hold parts of its tensors.

    Rank 0 makes the directory, on a disk that all ranks share, and writes all that is not in parts.
    Each writes a file with its parts. When all are on the disk, rank 0 publishes the manifest.

    Args:
        group: the ranks.
        folder, name, data, about, log: as of `checkpoint.write`; of other ranks than 0, only the
            parts in `data` count.
        check: whether rank 0 may still write to the folder; raises if not.

    Raises:
        CheckpointError: a part of the data cannot be saved, or another rank could not write.
        OSError: the disk is full, or the like; nothing is left of the checkpoint.
    """
    first = group.rank == 0
    structure, tensors = plain.encode(data)

    def begin() -> tuple[bytes, Path] | None:
        if not first:
            return None
        check()
        text = checkpoint.state_text(structure)
        return text, checkpoint.make(folder, name)

    begun = attempt(group, "begin a checkpoint", begin)[0]
    assert begun is not None
    text, path = begun
    try:
        put = partial(_put, group, path, tensors, text, log)
        written = attempt(group, "write the parts of a checkpoint", put)
        files = {file: digest for own in written for file, digest in own.items()}

        def publish() -> Saved | None:
            return checkpoint.publish(path, about, files) if first else None

        saved = attempt(group, "publish a checkpoint", publish)[0]
    except BaseException:
        if first:
            checkpoint.remove_unfinished(path)
        raise
    assert saved is not None
    return saved


def _put(
    group: Group, path: Path, tensors: Mapping[str, Any], text: bytes, log: Log | None
) -> dict[str, Digest]:
    """This rank's files, under temporary names."""
    rest, parts = divided(tensors)
    own = shard_name(group.rank, group.size)
    files = {own: checkpoint.put(path / own, *own_parts(parts, group.rank))}
    if group.rank == 0:
        files |= checkpoint.put_files(path, rest, text, log)
    return files
