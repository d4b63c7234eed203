"""Loaders that give each sample once and in the data's order, as predictions come."""

from __future__ import annotations

import logging
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from statetrain.compute.keyed import KeyedDataset, options_of, order_of
from statetrain.data.tensors import TensorLoader, is_plain_order, takes_whole_batches
from statetrain.errors import ConfigError

_RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)

log = logging.getLogger("statetrain")


def in_order(data: Any) -> Any:
    """Data whose batches come in the data's order; a loader that shuffles is made again.

    A loader that drops a short last batch keeps it. Other data is taken as it is.

    Raises:
        ConfigError: a loader draws its samples at random, so it may give some of them never.
    """
    if not isinstance(data, DataLoader) or isinstance(data.dataset, IterableDataset):
        return data
    order = order_of(data)
    batches: Any = data.batch_sampler
    if order is not None:
        batches = order.sampler
    plain = type(batches) is BatchSampler
    if batches is not None and not plain and order is None:
        return _as_it_is(data, batches)
    sampler, drops, size = data.sampler, False, None
    if plain:
        sampler, drops, size = batches.sampler, batches.drop_last, batches.batch_size
    if (type(sampler), drops, order) == (SequentialSampler, False, None):
        return data
    if not is_plain_order(sampler):
        return _as_it_is(data, sampler)
    if type(data) not in (DataLoader, TensorLoader):
        raise ConfigError(_cannot(data, sampler))
    return _made_again(data, size)


def _as_it_is(data: DataLoader[Any], sampler: Any) -> DataLoader[Any]:
    if isinstance(sampler, _RANDOM):
        raise ConfigError(_cannot(data, sampler))
    log.warning(
        "predictions come in the order of the loader's %s, which may not be the data's",
        type(sampler).__name__,
    )
    return data


def _cannot(data: DataLoader[Any], sampler: Any) -> str:
    return (
        f"predictions come in the data's order, and the {type(data).__name__} draws its samples"
        f" with a {type(sampler).__name__}; give its dataset, or a loader with shuffle=False"
    )


def _made_again(data: DataLoader[Any], batch_size: int | None) -> DataLoader[Any]:
    dataset = data.dataset
    if isinstance(dataset, KeyedDataset):
        dataset = dataset.dataset
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=batch_size, **options_of(data))
    if takes_whole_batches(loader):
        return TensorLoader(dataset, batch_size=batch_size, **options_of(data))
    return loader
