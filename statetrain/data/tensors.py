"""A loader over tensors that takes whole batches out of them, not one sample after the other.

Order, batches and the numbers that are drawn are those of torch's own DataLoader; only the way
to them is shorter. It costs about as much as slicing the tensors by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from statetrain.data.datasets import ColumnData

TensorRows = slice | torch.Tensor  # the samples of a batch: a range of them, or their numbers

_DRAW = torch.empty((), dtype=torch.int64)  # its shape and type are what torch's loaders draw


class TensorLoader(DataLoader[Any]):
    """A DataLoader over tensors that indexes them once a batch.

    Args:
        dataset: one that `tensors_of` knows.
        options: of a DataLoader that `takes_whole_batches` accepts.
    """

    def __init__(self, dataset: Dataset[Any], **options: Any) -> None:
        super().__init__(dataset, **options)
        self._chosen: tuple[Any, torch.Tensor] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch's is a class of its own
        torch.empty_like(_DRAW).random_(generator=self.generator)  # a DataLoader draws this here
        return self._batches()

    def _batches(self) -> Iterator[Any]:
        take = _taker(self.dataset)
        chosen = self._subset()
        for rows in rows_of(self.batch_sampler):
            yield take(rows if chosen is None else chosen[rows])

    def _subset(self) -> torch.Tensor | None:
        """The numbers of a subset's samples, as a tensor that is made once; None for all."""
        if type(self.dataset) is not Subset:
            return None
        indices = self.dataset.indices
        if self._chosen is None or self._chosen[0] is not indices:
            self._chosen = (indices, torch.as_tensor(indices))
        return self._chosen[1]


def tensors_of(dataset: Any) -> tuple[torch.Tensor, ...] | None:
    """The columns of a dataset, or subset of one, that holds tensors; None for any other."""
    if type(dataset) is Subset:
        if type(dataset.dataset) is Subset:
            return None
        return tensors_of(dataset.dataset)
    if type(dataset) is TensorDataset:
        return dataset.tensors
    if type(dataset) is ColumnData:
        return tuple(dataset.columns.values())
    return None


def takes_whole_batches(loader: DataLoader[Any]) -> bool:
    """Whether a `TensorLoader` gives what a loader gives.

    It does where batches are put together by torch's own function, in this process, from plain
    tensors.
    """
    columns = tensors_of(loader.dataset)
    return (
        columns is not None
        and all(type(column) is torch.Tensor and _is_plain(column) for column in columns)
        and loader.batch_sampler is not None
        and loader.collate_fn is default_collate
        and loader.num_workers == 0
        and not loader.pin_memory
    )


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized


def _taker(dataset: Any) -> Callable[[TensorRows], Any]:
    """What takes samples out of a dataset's columns, as torch would put them together."""
    if type(dataset) is Subset:
        dataset = dataset.dataset
    if type(dataset) is ColumnData:
        named = dataset.columns
        return lambda rows: {name: _take(column, rows) for name, column in named.items()}
    columns = dataset.tensors
    return lambda rows: [_take(column, rows) for column in columns]


def _take(column: torch.Tensor, rows: TensorRows) -> torch.Tensor:
    if isinstance(rows, slice):  # a copy: what is done to a batch must not reach the data
        return torch.narrow_copy(column, 0, rows.start, rows.stop - rows.start)
    if column.device.type == "cpu":
        return column.index_select(0, rows)  # faster than column[rows], which gives the same
    return column[rows]


# ---------------------------------------------------------------- order


def rows_of(sampler: Any) -> Iterator[TensorRows]:
    """The samples of each batch, without a Python number for each where torch's order allows.

    Args:
        sampler: yields lists of indices; or has a method `rows` that gives what this gives.
    """
    if hasattr(sampler, "rows"):
        yield from sampler.rows()
    elif type(sampler) is BatchSampler and is_plain_order(sampler.sampler):
        within = sampler.sampler
        yield from cut(draw_order(within), sampler)
        if type(within) is RandomSampler and within.generator is not None:
            draw_order(within)  # torch draws an order that it does not use; it moves the generator
    else:
        yield from map(torch.tensor, sampler)


def is_plain_order(sampler: Any) -> bool:
    """Whether a sampler gives each sample once, in order or by torch's own shuffling."""
    if type(sampler) is RandomSampler:
        once = sampler.num_samples == len(sampler.data_source)
        return once and not sampler.replacement
    return type(sampler) is SequentialSampler


def draw_order(sampler: Any, generator: torch.Generator | None = None) -> torch.Tensor | None:
    """An order as a plain sampler draws it; None is the order of the data.

    Args:
        sampler: one that `is_plain_order` accepts.
        generator: takes the place of torch's global one.
    """
    if type(sampler) is SequentialSampler:
        return None
    own = sampler.generator
    if own is None:
        seed = torch.empty_like(_DRAW).random_(generator=generator).item()
        own = torch.Generator().manual_seed(int(seed))
    return torch.randperm(len(sampler.data_source), generator=own)


def cut(order: torch.Tensor | None, batches: BatchSampler, start: int = 0) -> Iterator[TensorRows]:
    """An order, batch by batch.

    Args:
        order: what `drawn` returned.
        batches: of a plain order.
        start: the batch to begin with.
    """
    samples, size = len(batches.sampler), batches.batch_size  # type: ignore[arg-type]  # it has one
    for batch in range(start, len(batches)):
        rows = slice(batch * size, min((batch + 1) * size, samples))
        yield rows if order is None else order[rows]
