"""Predictions of many batches as one, without a second copy of large ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import Factory, define, field
from torch.utils.data import DataLoader

from statetrain.data.joining import join
from statetrain.data.sizes import length

LARGE = 2**24
"""Bytes of all predictions from which each batch is written to its place at once.

Below, joining them at the end is faster.
"""


def samples_of(loader: Any) -> int | None:
    """How many samples a loader gives at most; None if it is unknown."""
    if isinstance(loader, DataLoader) and loader.batch_size is not None:
        return length(loader.sampler)
    return None


@define(eq=False)
class Gathering:
    """Takes the predictions of batches, one after the other.

    Args:
        samples: how many there will be at most; None if that is not known.
        large: bytes; see `LARGE`.
    """

    samples: int | None
    large: int = LARGE
    # Takes the predictions of a batch; the first one decides how
    append: Callable[[Any], None] = field(init=False)
    _parts: list[Any] = field(default=Factory(list), init=False)
    _whole: torch.Tensor | None = field(default=None, init=False)
    _filled: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.append = self._first

    def _first(self, part: Any) -> None:
        rows = 0
        if isinstance(part, torch.Tensor) and part.ndim:
            rows = len(part)
        if (
            rows
            and self.samples
            and self.samples * (part.numel() // rows) * part.element_size() >= self.large
        ):
            with torch.inference_mode(False):
                self._whole = torch.empty(
                    (self.samples, *part.shape[1:]), dtype=part.dtype, device=part.device
                )
            self.append = self._into_place
        else:
            self.append = self._parts.append
        self.append(part)

    def _into_place(self, part: Any) -> None:
        assert self._whole is not None
        rows = 0
        if isinstance(part, torch.Tensor) and part.ndim:
            rows = len(part)
        fits = (
            rows
            and self._filled + rows <= len(self._whole)
            and part.shape[1:] == self._whole.shape[1:]
            and part.dtype == self._whole.dtype
        )
        if not fits:  # more than the loader said, or others than the first: joined
            self._parts, self._whole = [self._whole[: self._filled], part], None
            self.append = self._parts.append
            return
        self._whole[self._filled : self._filled + rows] = part
        self._filled += rows

    def joined(self) -> Any:
        """All of them, along the first dimension.

        Raises:
            DataError: they cannot be joined.
        """
        if self._whole is None:
            return join(self._parts)
        return self._whole[: self._filled]
