"""What a user set, as it was before a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from statetrain.checkpoints import plain
from statetrain.errors import CheckpointError


def settings_of(optimizers: Mapping[str, Any]) -> dict[str, Any]:
    """The optimizers before a run: class, and settings and number of parameters by group."""
    return {
        name: {
            "class": type(optimizer).__name__,
            "groups": [_group_settings(group) for group in optimizer.param_groups],
        }
        for name, optimizer in optimizers.items()
    }


def _group_settings(group: Mapping[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in group.items() if key != "params"}
    return {**lenient(settings), "parameters": len(group["params"])}


def lenient(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as they were given; as text where they are more than plain data."""
    found: dict[str, Any] = {}
    for name, value in hparams.items():
        try:
            plain.encode(value)
            if isinstance(value, torch.Tensor):  # as it is now
                value = value.tolist()
            found[str(name)] = value
        except CheckpointError:
            found[str(name)] = {"words": f"{value!r:.200}"}
    return found
