"""Weights in one file in the safetensors format, replaced when the new one is complete."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from statetrain.checkpoints import tensorfile
from statetrain.checkpoints.files import create
from statetrain.compute.parts import gathered
from statetrain.compute.weights import frozen_in
from statetrain.errors import CheckpointError


def write_weights(
    path: Path, module: torch.nn.Module, leave_out: Collection[str] = frozenset()
) -> None:
    """Writes a module's state under its own names; see `write_tensors`.

    Args:
        path: of the file.
        module: as it is now.
        leave_out: names that are not written.

    Raises:
        CheckpointError: the state has parts that are no tensors.
        OSError: the file cannot be written.
    """
    state = module.state_dict()
    state = {name: value for name, value in state.items() if name not in leave_out}
    if others := [name for name, value in state.items() if not isinstance(value, torch.Tensor)]:
        raise CheckpointError(
            f"a file of weights holds tensors, and {others[0]!r} is a"
            f" {type(state[others[0]]).__name__}; use save(run, path)"
        )
    write_tensors(path, state, {"format": "pt"})


def frozen_unless_all(module: torch.nn.Module) -> set[str]:
    """The names of a module's frozen parameters, to be left out.

    Raises:
        CheckpointError: all are frozen, so no parameter would be left.
    """
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise CheckpointError(
            f"no parameter of {type(module).__name__} requires a gradient, so trained_only=True"
            " would leave out all; unfreeze those that are trained, or leave it out"
        )
    return frozen_in(module)


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
