"""Placing a batch: on a device, or in pinned memory."""

from __future__ import annotations

from typing import Any

import torch

from statetrain.data.structure import as_tensor, is_array, leaves, map_leaves


def is_placed(batch: Any, device: torch.device) -> bool:
    """Whether a batch can be used as it is: on the CPU, all tensors there and no arrays."""
    if device.type != "cpu":
        return False
    return all(
        leaf.device == device if isinstance(leaf, torch.Tensor) else not is_array(leaf)
        for leaf in leaves(batch)
    )


def place(batch: Any, device: torch.device) -> Any:
    """A batch with everything on a device, arrays as tensors; other objects stay as they are.

    The host does not wait for the copies.
    """
    return map_leaves(batch, lambda part: _move(part, device))


def pin(batch: Any) -> Any:
    """A batch with its tensors in pinned memory, arrays as tensors.

    Tensors that are pinned already, or on a device, stay as they are. So do containers that move
    themselves, by a method `to`, unless they have a method `pin_memory`.
    """
    return map_leaves(batch, _in_pinned_memory)


def _move(part: Any, device: torch.device) -> Any:
    if isinstance(part, torch.Tensor):
        return part.to(device, non_blocking=True)
    if callable(getattr(part, "to", None)):
        try:
            return part.to(device, non_blocking=True)
        except TypeError:  # its own method, which may take a device only
            return part.to(device)
    if is_array(part):
        return as_tensor(part).to(device, non_blocking=True)
    return part


def _in_pinned_memory(part: Any) -> Any:
    if isinstance(part, torch.Tensor):
        if part.device.type != "cpu":
            return part
        return part.pin_memory()
    if callable(getattr(part, "pin_memory", None)):
        return part.pin_memory()
    if is_array(part):
        return as_tensor(part).pin_memory()
    return part
