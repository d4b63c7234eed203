"""Datasets: tensors and arrays with one row a sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import frozen
from torch.utils.data import Dataset, TensorDataset

from statetrain.data.structure import as_tensor, is_array
from statetrain.errors import ConfigError


@frozen
class Columns(Dataset[dict[str, torch.Tensor]]):
    """A dict of tensors as a dataset of dicts.

    Args:
        columns: tensors with one row a sample, by name.
    """

    draws_nothing = True  # loading a sample needs no randomness

    columns: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


def as_dataset(data: Any) -> Dataset[Any] | None:
    """A dataset of data with one row a sample; None for loaders and iterables of batches.

    Raises:
        ConfigError: its columns differ in their number of rows.
    """
    if isinstance(data, Dataset):
        return data
    if is_array(data):
        return TensorDataset(as_tensor(data))
    if isinstance(data, tuple) and data and all(map(is_array, data)):
        numbered = {str(i): as_tensor(column) for i, column in enumerate(data)}
        return TensorDataset(*_same_length(numbered).values())
    if isinstance(data, Mapping) and data and all(map(is_array, data.values())):
        named = {str(name): as_tensor(column) for name, column in data.items()}
        return Columns(_same_length(named))
    return None


def _same_length(columns: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ConfigError(
            f"the columns of the data must have the same number of rows, got {lengths}"
        )
    return columns
