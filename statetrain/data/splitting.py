"""Drawing a validation set from the training data."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, Subset

from statetrain.data.datasets import as_dataset
from statetrain.errors import ConfigError


def split(
    data: Any, share: float, generator: torch.Generator | None = None
) -> tuple[Dataset[Any], Dataset[Any]]:
    """Draws a validation set from the training data, without replacement.

    Args:
        data: a map-style dataset, tensors or arrays.
        share: of the samples, above 0 and below 1, that go to validation; rounded down.
        generator: draws them; None is torch's global one.

    Returns:
        The training and the validation part.

    Raises:
        ConfigError: the share is out of range or leaves a side empty, or the data has no samples to
            draw.
    """
    if not 0 < share < 1:
        raise ConfigError(
            f"valid={share!r}: a share of the training data must lie between 0 and 1; or give the"
            " validation data itself"
        )
    dataset = as_dataset(data)
    if dataset is None or isinstance(dataset, IterableDataset):
        raise ConfigError(
            f"valid={share!r} draws samples from the training data, which a {type(data).__name__}"
            " does not allow; give a Dataset, tensors or arrays, or split before making the loader"
        )
    total = len(dataset)  # type: ignore[arg-type]  # map-style datasets have a length
    held = int(total * share)
    if held == 0 or held == total:
        raise ConfigError(
            f"valid={share!r} of {total} samples leaves {total - held} for training and {held} for"
            " validation; each needs one"
        )
    order = torch.randperm(total, generator=generator).tolist()
    return Subset(dataset, order[held:]), Subset(dataset, order[:held])


def split_again(train: Any, valid: Any, generator: torch.Generator) -> None:
    """Draws the samples of both parts again, in place.

    Args:
        train, valid: the loaders of the two parts that `split` returned.
        generator: in the state to draw from.
    """
    ours, held = (_subset(loader.dataset) for loader in (train, valid))
    order = torch.randperm(len(ours.indices) + len(held.indices), generator=generator).tolist()
    ours.indices, held.indices = order[len(held.indices) :], order[: len(held.indices)]


def _subset(dataset: Any) -> Subset[Any]:
    while type(dataset) is not Subset:  # it may have been wrapped
        dataset = dataset.dataset
    return dataset
