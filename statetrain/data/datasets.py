"""Datasets: tensors and arrays with one row a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch.utils.data import Dataset, TensorDataset

from statetrain.data.structure import as_tensor, is_array
from statetrain.errors import ConfigError


@frozen
class ColumnData(Dataset[dict[str, torch.Tensor]]):
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


@frozen
class Rows(Dataset[Any]):
    """A container that is indexed by rows, as a TensorDict: a batch is what its rows' numbers give.

    Args:
        container: has a length and takes lists of indices.
    """

    draws_nothing = True

    container: Any

    def __len__(self) -> int:
        return len(self.container)

    def __getitem__(self, index: int) -> Any:
        return self.container[index]

    def __getitems__(self, indices: list[int]) -> Any:
        """The rows of a batch, put together already."""
        return self.container[torch.as_tensor(indices)]


def unchanged(batch: Any) -> Any:
    """A batch that is already collated: the `collate_fn` of `Rows`."""
    return batch


def as_dataset(data: Any) -> Dataset[Any] | None:
    """A dataset of data with one row a sample; None for loaders and iterables of batches.

    Map-style is what behaves like it: it has a length and gives a sample by its number, whatever
    its class. A list or tuple holds batches.

    Raises:
        ConfigError: its columns differ in their number of rows, or do not hold numbers.
    """
    if isinstance(data, Dataset):
        return data
    if _is_frame(data):
        return ColumnData({str(name): _column(str(name), data[name]) for name in data.columns})
    if is_array(data):
        return TensorDataset(as_tensor(data))
    if isinstance(shape := getattr(data, "batch_size", None), torch.Size) and shape:
        return Rows(data)
    found = _dataset_of_columns(data)
    if found is None and _is_map_style(data):
        return data  # type: ignore[no-any-return]  # it behaves like one
    return found


def _dataset_of_columns(data: Any) -> Dataset[Any] | None:
    """A dataset of a tuple or a dict of arrays; None for anything else."""
    if isinstance(data, tuple) and data and all(map(is_array, data)):
        numbered = {str(i): _column(str(i), column) for i, column in enumerate(data)}
        return TensorDataset(*_same_length(numbered).values())
    if isinstance(data, Mapping) and data and all(map(is_array, data.values())):
        named = {str(name): _column(str(name), column) for name, column in data.items()}
        return ColumnData(_same_length(named))
    return None


def _is_frame(data: Any) -> bool:
    """Whether data is a table with named columns, as pandas and polars have them."""
    return hasattr(data, "columns") and hasattr(data, "to_numpy")


def _is_map_style(data: Any) -> bool:
    kind = type(data)
    by_number = hasattr(kind, "__len__") and hasattr(kind, "__getitem__")
    is_loader = any(hasattr(data, name) for name in ("batch_size", "batch_sampler"))
    is_batches = isinstance(data, Mapping | Sequence | torch.Tensor)
    return by_number and not is_loader and not is_batches


def _column(name: str, values: Any) -> torch.Tensor:
    try:
        return as_tensor(values)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"column {name!r} of the data has the type {getattr(values, 'dtype', '?')}, and tensors"
            " hold numbers; leave it out, or make numbers of it"
        ) from error


def _same_length(columns: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ConfigError(
            f"the columns of the data must have the same number of rows, got {lengths}"
        )
    return columns
