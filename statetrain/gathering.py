"""Predictions of many batches as one, without having them twice where they are large."""

from __future__ import annotations

from typing import Any

import torch
from attrs import Factory, define, field
from torch.utils.data import DataLoader

from statetrain.data import join
from statetrain.sizes import length

LARGE = 2**24
"""Bytes of all predictions from which on each batch is written to its place at once. Below, joining them in the end is faster."""


def samples_of(loader: Any) -> int | None:
    """How many samples a loader gives at most; None if nobody can know."""
    return length(loader.sampler) if isinstance(loader, DataLoader) and loader.batch_size is not None else None


@define(eq=False)
class Gathering:
    """Takes the predictions of batches, one after the other.

    Args:
        samples: how many there will be at most; None if that is not known.
        large: bytes; see `LARGE`.
    """

    samples: int | None
    large: int = LARGE
    _parts: list[Any] = field(default=Factory(list), init=False)
    _whole: torch.Tensor | None = field(default=None, init=False)
    _filled: int = field(default=0, init=False)

    def append(self, part: Any) -> None:
        """Takes the predictions of a batch."""
        if self._whole is None:
            if not self._parts and self.samples and isinstance(part, torch.Tensor) and part.ndim:
                self._begin(part, self.samples)
            if self._whole is None:
                self._parts.append(part)
                return
        rows = len(part) if isinstance(part, torch.Tensor) and part.ndim else 0
        fits = rows and self._filled + rows <= len(self._whole) and part.shape[1:] == self._whole.shape[1:] and part.dtype == self._whole.dtype
        if not fits:  # more than the loader said, or others than the first: as ever
            self._parts, self._whole = [self._whole[: self._filled], part], None
            return
        self._whole[self._filled : self._filled + rows] = part
        self._filled += rows

    def _begin(self, part: torch.Tensor, samples: int) -> None:
        if samples * (part.numel() // max(len(part), 1)) * part.element_size() >= self.large:
            with torch.inference_mode(False):
                self._whole = torch.empty((samples, *part.shape[1:]), dtype=part.dtype, device=part.device)

    def joined(self) -> Any:
        """All of them, along the first dimension.

        Raises:
            DataError: they cannot be joined.
        """
        return join(self._parts) if self._whole is None else self._whole[: self._filled]
