"""The size of data and models, where it can be known."""

from __future__ import annotations

from typing import Any


def length(data: Any) -> int | None:
    """Batches in an epoch; None if it is unknown."""
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None


def parameters_of(model: Any) -> int | None:
    """How many numbers a model learns or keeps; None while a lazy module has seen no batch."""
    try:
        return sum(int(parameter.numel()) for parameter in model.parameters())
    except ValueError:
        return None
