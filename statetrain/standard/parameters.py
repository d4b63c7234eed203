"""What optimizers train."""

from __future__ import annotations

from typing import Any


def parameters_of(optimizer: Any) -> list[Any]:
    """The parameters of all groups of an optimizer, in order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
