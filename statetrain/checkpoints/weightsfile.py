"""Weights in one file in the safetensors format, replaced when the new one is complete."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from statetrain.checkpoints import tensorfile
from statetrain.checkpoints.files import create
from statetrain.compute.parts import gathered
from statetrain.errors import CheckpointError


def write_weights(path: Path, module: torch.nn.Module) -> None:
    """Writes a module's state under its own names; see `write_tensors`.

    Raises:
        CheckpointError: the state has parts that are no tensors.
        OSError: the file cannot be written.
    """
    state = module.state_dict()
    if others := [name for name, value in state.items() if not isinstance(value, torch.Tensor)]:
        raise CheckpointError(
            f"a file of weights holds tensors, and {others[0]!r} is a"
            f" {type(state[others[0]]).__name__}; use save(run, path)"
        )
    write_tensors(path, state, {"format": "pt"})


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], texts: Mapping[str, str]
) -> None:
    """Writes tensors, and texts in the header. Folders are made.

    Where ranks hold parts of them, all ranks come, and rank 0 writes the whole ones.

    Raises:
        OSError: the file cannot be written; one that was there is as it was.
    """
    there = gathered(tensors)
    if there is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    file = create(part)
    try:
        try:
            tensorfile.write(file, there, texts)
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
