"""overfit: whether a model can overfit a few batches."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch

from statetrain.compute.copying import computed_in
from statetrain.data.datasets import as_dataset
from statetrain.data.loading import as_loader
from statetrain.data.workers import iterate
from statetrain.errors import ConfigError
from statetrain.training.fitting import fit
from statetrain.training.lr_finder import generators_kept
from statetrain.training.run import Run
from statetrain.validators import check_whole

_OWN = {"allow_changes", "evaluations", "resume", "valid", "validate"}


def overfit(
    model: torch.nn.Module | type[torch.nn.Module],
    train: Any,
    *,
    batches: int = 1,
    epochs: int = 100,
    dataloader_options: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Run:
    """Trains a copy on the same few batches again and again.

    A model and a loss that fit together learn them by heart: the training loss goes to its least.
    If it does not, something is wrong that more data would hide.

        run = st.overfit(model, train, loss=F.cross_entropy, optimizer=Adam)
        print(run.history[0]["train_loss"], run.history[-1]["train_loss"])

    Model, optimizer, loss and generators are afterwards as they were before.

    Args:
        model, train: as in `fit`. The batches are the first ones that the data gives; of a dataset,
            tensors or arrays, they are drawn by `seed`, or 0.
        batches: how many, at least 1.
        epochs: how often they are gone through.
        dataloader_options: as in `fit`.
        arguments: all others of `fit`, but for those about validation and about resuming.

    Returns:
        The run of the copy.

    Raises:
        ConfigError: the arguments cannot make a run.
        BaseException: what the run raised, as `fit`.
    """
    check_whole("overfit: batches", batches)
    if taken := sorted(_OWN & set(arguments)):
        raise ConfigError(
            f"overfit looks at the training data alone, so {', '.join(taken)} would not be used;"
            " leave it out"
        )
    made = {name: arguments.pop(name, None) for name in ("optimizer", "loss")}
    model, made = copy.deepcopy((model, made), computed_in(model))
    with generators_kept(train, arguments.get("device", "auto")):
        drawn = _first(train, batches, arguments.get("seed"), dataloader_options)
        return fit(model, drawn, **made, epochs=epochs, **arguments)


def _first(train: Any, n: int, seed: int | None, options: Mapping[str, Any] | None) -> list[Any]:
    """The first batches of the data."""
    generator = None
    if as_dataset(train) is not None:
        generator = torch.Generator().manual_seed(seed or 0)
    loader = as_loader(train, name="train", shuffle=True, options=options, generator=generator)
    return list(islice(iterate(loader), n))
