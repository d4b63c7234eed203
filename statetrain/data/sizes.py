"""How large data and models are, where anybody can know."""

from __future__ import annotations

from typing import Any


def length(data: Any) -> int | None:
    """Batches in an epoch; None if nobody can know."""
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None


def parameters_of(model: Any) -> int | None:
    """How many numbers a model has to learn or keep; None while a lazy module has not seen a batch."""
    try:
        return sum(int(parameter.numel()) for parameter in model.parameters())
    except ValueError:
        return None
