"""A test of the disk before the first batch."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from statetrain import jsons
from statetrain.checkpoints import checkpoint, plain
from statetrain.checkpoints.checkpoint import Saved
from statetrain.checkpoints.shards import divided
from statetrain.checkpoints.snapshot import Snapshot, join_in, snapshot
from statetrain.checkpoints.together import attempt, write_together
from statetrain.compute.parts import local, part_like
from statetrain.context.position import Position
from statetrain.errors import CheckpointError
from statetrain.machine.agreeing import Group

_FOLDER = "dry-run"


def try_run(ctx: Position, folder: Path, clock: Callable[[], float], shards: bool) -> float:
    """Tries the disk with the run as it starts; if that fails on one rank, it fails on all.

    Args:
        ctx: the run.
        folder: the directory of the checkpoints.
        clock: seconds.
        shards: whether each rank writes the parts of the weights that it holds.

    Returns:
        How many seconds saving took.

    Raises:
        CheckpointError: what is read back is something else, or there is no room.
        OSError: it cannot be written.
    """
    if ctx.news is None:
        return try_disk(folder, snapshot(ctx, ctx.machine), clock)
    group = ctx.news.group

    def try_as_rank() -> float:
        if shards:
            return try_disk_together(group, folder, snapshot(ctx, ctx.machine), clock)
        if group.rank == 0:
            return try_disk(folder, snapshot(ctx, ctx.machine), clock)
        join_in(ctx, ctx.machine)
        return 0.0

    return attempt(group, "try the disk", try_as_rank)[0]


def try_disk(folder: Path, data: Snapshot, clock: Callable[[], float] = time.monotonic) -> float:
    """Saves the run as it starts, reads it back, compares, and looks for room.

    Args:
        folder: the directory of the checkpoints.
        data: of the run.
        clock: seconds.

    Returns:
        How many seconds saving took.

    Raises:
        CheckpointError: what is read back is something else, or the disk has no room for three.
    """
    began = clock()
    try:
        saved = checkpoint.write(folder / _FOLDER, "step-0-dry", data, {})
        seconds = clock() - began
        if not _are_same(checkpoint.read(saved.path), data):
            raise _unsound(folder)
        _refuse_full(folder, saved.size)
    finally:
        clear_trial(folder)
    return seconds


def try_disk_together(
    group: Group, folder: Path, data: Snapshot, clock: Callable[[], float] = time.monotonic
) -> float:
    """The same for ranks that each write the parts of tensors that they hold.

    Args:
        group: the ranks.
        folder, data, clock: as of `try_disk`.
    """
    began, first = clock(), group.rank == 0
    try:
        saved = write_together(group, folder / _FOLDER, "step-0-dry", data, {})
        seconds = clock() - began
        read = partial(_refuse_other, folder, saved, data, first)
        attempt(group, "read back what was written", read)
    finally:
        if first:
            clear_trial(folder)
    return seconds


def _refuse_other(folder: Path, saved: Saved, data: Snapshot, first: bool) -> None:
    """Compares what is read back with what this rank holds."""
    (one, ones), (two, twos) = plain.encode(checkpoint.read(saved.path)), plain.encode(data)
    rest, parts = divided(twos)
    same = all(
        torch.equal(_bits(local(part_like(ones[name], part))), _bits(local(part)))
        for name, part in parts.items()
        if name in ones
    )
    if first:
        same = same and jsons.to_bytes(one) == jsons.to_bytes(two) and ones.keys() == twos.keys()
        same = same and all(torch.equal(_bits(ones[name]), _bits(rest[name])) for name in rest)
    if not same:
        raise _unsound(folder)
    _refuse_full(folder, saved.size)


def _unsound(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"what is written to {folder} is not what is read back; is the disk sound?"
    )


def _refuse_full(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < 3 * size:
        raise CheckpointError(
            f"{folder} has room for {free} bytes, and a checkpoint needs {size} or more; three have"
            " to fit while they are replaced"
        )


def clear_trial(folder: Path) -> None:
    """Removes what a test of the disk left behind, and nothing else.

    Args:
        folder: the directory of the checkpoints.

    Raises:
        CheckpointError: a link has the name of its folder.
    """
    folder = folder / _FOLDER
    if folder.is_symlink():
        raise CheckpointError(
            f"{folder} is a link, and a trial of the disk would write where it leads to; remove it,"
            " or give preflight=False"
        )
    for path in checkpoint.folders_in(folder):
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _are_same(a: Any, b: Any) -> bool:
    """Whether two snapshots are the same, bit for bit."""
    (one, ones), (two, twos) = plain.encode(a), plain.encode(b)
    return jsons.to_bytes(one) == jsons.to_bytes(two) and all(
        torch.equal(_bits(ones[name]), _bits(twos[name])) for name in ones
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
