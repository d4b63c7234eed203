"""Checks of the data."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from statetrain.compute.keyed import KeyedDataset, KeyedOrder
from statetrain.sanity.probe import Probe, floats


def training_data_can_be_read(probe: Probe) -> str | None:
    "A batch has an input and a target."
    if probe.data_error is None:
        return None
    return (
        f"no batch could be made of the training data ({probe.data_error}); look at"
        " next(iter(train)), and say what is what with input= and target="
    )


def training_data_is_shuffled(probe: Probe) -> str | None:
    "Its order differs from epoch to epoch."
    if isinstance(_sampler(probe.ctx.train_data), SequentialSampler):
        return (
            "the training data comes in the same order in each epoch; give DataLoader(...,"
            " shuffle=True)"
        )
    return None


def validation_data_is_given(probe: Probe) -> str | None:
    "Data that is not trained on shows whether training makes progress."
    if probe.ctx.valid_data is None:
        return (
            "there is no validation data, so nothing shows whether the model learns more than its"
            " samples by heart; give valid=0.2"
        )
    return None


def sets_do_not_overlap(probe: Probe) -> str | None:
    "No sample is in both sets, as far as datasets and indices tell."
    train, valid = (_samples(data) for data in (probe.ctx.train_data, probe.ctx.valid_data))
    if train is None or valid is None or not _same(train[0], valid[0]):
        return None
    if valid[1] is None:
        total = len(valid[0])
    else:
        total = len(valid[1])
    if train[1] is None:
        both = total
    elif valid[1] is None:
        both = len(train[1])
    else:
        both = len(set(train[1]) & set(valid[1]))
    if both:
        return (
            f"{both} of the {total} validation samples are training samples too; hold some back, as"
            " valid=0.2"
        )
    return None


def inputs_are_finite(probe: Probe) -> str | None:
    "No NaN and no infinity."
    bad = any(not bool(part.isfinite().all()) for part in floats(probe, "input"))
    if bad:
        return (
            "the inputs have NaN or infinite values; fill or drop these, or look at how they are"
            " normalized (a division by 0?)"
        )
    return None


def inputs_are_scaled(probe: Probe) -> str | None:
    "Values of the order of 1, which initial weights are made for."
    largest = max(
        (
            float(part.abs().max())
            for part in floats(probe, "input")
            if part.numel() and bool(part.isfinite().all())
        ),
        default=0.0,
    )
    if largest > 100:
        return (
            f"the inputs go up to {largest:g}; scale them to about -1 to 1, for example pictures by"
            " 1/255, columns by their mean and deviation"
        )
    return None


def targets_vary(probe: Probe) -> str | None:
    "Not all samples of a batch have one label."
    target = probe.target
    if (
        target is None
        or target.shape[:1] != (probe.aside.batch_size,)
        or len(target) < 8
        or not bool((target == target[:1]).all())
    ):
        return None
    return (
        f"all {len(target)} targets of a batch are the same; is the data sorted by label?"
        " Shuffle it"
    )


def last_batch_is_not_one_sample(probe: Probe) -> str | None:
    "Batch norm needs more than one."
    norms = [
        module
        for module in probe.ctx.model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    sampler: Any = _batches(probe.ctx.train_data)
    if not norms or not hasattr(getattr(sampler, "sampler", None), "__len__"):
        return None
    if sampler.batch_size == 1:
        return (
            "the batch size is 1, and the model has batch norm, which needs several samples; take a"
            " larger batch, or GroupNorm or LayerNorm"
        )
    if not sampler.drop_last and len(sampler.sampler) % sampler.batch_size == 1:
        return (
            "the last batch of an epoch has one sample, and the model has batch norm, which needs"
            " several; give drop_last=True or another batch_size"
        )
    return None


def _batches(data: Any) -> BatchSampler | None:
    """What makes a loader's batches."""
    sampler = None
    if isinstance(data, DataLoader):
        sampler = getattr(data, "batch_sampler", None)
    if isinstance(sampler, KeyedOrder):
        sampler = sampler.sampler
    if type(sampler) is BatchSampler:
        return sampler
    return None


def _sampler(data: Any) -> Any:
    if not isinstance(data, DataLoader) or isinstance(data.dataset, IterableDataset):
        return None
    batches = _batches(data)
    if batches is None:
        sampler = data.sampler
    else:
        sampler = batches.sampler
    if isinstance(sampler, KeyedOrder):
        return sampler.sampler
    return sampler


def _samples(data: Any) -> tuple[Any, list[Any] | None] | None:
    """The dataset that a loader's samples come from, and which of it; None for all."""
    dataset = getattr(data, "dataset", None)
    if dataset is None or isinstance(dataset, IterableDataset):
        return None
    chosen: list[Any] | None = None
    while isinstance(dataset, Subset | KeyedDataset):
        if isinstance(dataset, Subset):
            if chosen is None:
                chosen = list(dataset.indices)
            else:
                chosen = [dataset.indices[i] for i in chosen]
        dataset = dataset.dataset
    return dataset, chosen


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, TensorDataset) and isinstance(other, TensorDataset):
        first, second = one.tensors[0], other.tensors[0]
        return (
            first.data_ptr() == second.data_ptr()
            and first.shape == second.shape
            and first.numel() > 0
        )
    return one is other
