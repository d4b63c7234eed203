"""Joining what a model returned for several batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from statetrain.errors import DataError


def join(parts: list[Any]) -> Any:
    """Predictions of several batches as one: tensors along the first dimension, containers by part.

    Raises:
        DataError: the parts cannot be joined.
    """
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return _join_tensors(parts)
    if isinstance(first, Mapping):
        return {key: join([part[key] for part in parts]) for key in first}
    if isinstance(first, list | tuple):
        columns = (join(list(column)) for column in zip(*parts, strict=True))
        if hasattr(first, "_fields"):
            return type(first)(*columns)
        return type(first)(columns)
    raise DataError(
        f"predictions of type {type(first).__name__} cannot be joined; take them batch by batch"
        " with stack=False"
    )


def _join_tensors(parts: list[torch.Tensor]) -> torch.Tensor:
    if not parts[0].ndim:
        return torch.stack(parts)
    try:
        return torch.cat(parts)
    except RuntimeError as error:
        shapes = ", ".join(sorted({str(tuple(part.shape)) for part in parts}))
        raise DataError(
            f"predictions of shapes {shapes} cannot be joined along the first dimension; take"
            " them batch by batch with stack=False"
        ) from error
