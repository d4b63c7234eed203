"""What torch's deep copy refuses in a model: tensors that its modules have computed."""

from __future__ import annotations

from typing import Any

import torch


def computed_in(*things: Any) -> dict[int, torch.Tensor]:
    """Copies of the tensors with a graph that modules hold, by id, as the memo of `copy.deepcopy`.

    Weights of a spectral or weight norm of the older kind, or of pruning, are such attributes; they
    are computed again in each forward pass.

    Args:
        things: of which those count that are modules.
    """
    return {
        id(value): value.detach().clone()
        for thing in things
        if isinstance(thing, torch.nn.Module)
        for module in thing.modules()
        for value in vars(module).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
