"""Parts of a batch: so many of its samples."""

from __future__ import annotations

from typing import Any

import torch

from statetrain.data.counting import agreed, counts_of
from statetrain.data.structure import map_tensors


def rows_of(input: Any, target: Any) -> int:  # noqa: A002  # the field's word
    """The number of samples on which input and target agree; 1 if they do not."""
    found, others = list(counts_of(input)), list(counts_of(target))
    if not others:
        return next(iter(found), 1)
    return agreed(found, target) or 1


def cut(thing: Any, rows: int, start: int, stop: int) -> Any:
    """The samples from `start` to `stop` of all that has a row for each sample; the rest as it is.

    Args:
        thing: a batch, or a part of one.
        rows: how many samples the batch has.
        start, stop: as in a slice.
    """
    if isinstance(thing, list) and len(thing) == rows and next(counts_of(thing[0]), 1) != rows:
        return thing[start:stop]
    if type(thing) is not dict and hasattr(thing, "items"):
        thing = dict(
            thing.items()
        )  # what a tokenizer returns moves itself, and is cut by its parts

    def part(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim and tensor.shape[0] == rows:
            return tensor[start:stop]
        return tensor

    return map_tensors(thing, part)


def detach(thing: Any) -> Any:
    """The same without graphs."""
    return map_tensors(thing, torch.Tensor.detach)
