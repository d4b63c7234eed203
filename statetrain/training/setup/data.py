"""The data of a run, as it is iterated over."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from attrs import frozen

from statetrain.compute.keyed import keyed
from statetrain.data import loading, splitting
from statetrain.data.datasets import as_dataset
from statetrain.errors import ConfigError
from statetrain.standard.evaluations import Evaluation
from statetrain.validators import is_number

log = logging.getLogger("statetrain")


@frozen(eq=False)
class Data:
    """What a run iterates over.

    Attributes:
        train: the training data.
        valid: the validation data; None if there is none.
        evaluations: as they were given.
        others: the data of the evaluations, by name.
        split_state: the generator's state with which the validation share was drawn; None if there
            is none.
        divided: whether each of several ranks has its part of the training data.
    """

    train: Any
    valid: Any
    evaluations: list[Evaluation]
    others: dict[str, Any]
    split_state: torch.Tensor | None
    divided: bool = True


def load_data(
    train: Any,
    valid: Any,
    evaluations: Any,
    epochs: float,
    seed: int | None,
    options: Mapping[str, Any] | None,
) -> Data:
    """Makes loaders of data. Iterators that can be read once are refused before a model is moved.

    Args:
        train, valid: as `fit` takes them.
        evaluations: one or several.
        epochs: how often the data is read, at most.
        seed: of the run; None without.
        options: arguments for the loaders that are made here.

    Raises:
        ConfigError: there is nothing to read, or not as often as it has to be.
    """
    evaluated, split_state = evaluations_of(evaluations), None
    if is_number(valid):
        generator = torch.default_generator if seed is None else torch.Generator().manual_seed(seed)
        split_state = generator.get_state()
        train, valid = splitting.split(train, valid, generator)
    train = loading.as_loader(
        _rereadable(train, epochs), name="train", shuffle=True, options=options
    )
    if valid is not None:
        valid = _for_evaluation(valid, epochs, "valid", options)
    train, valid = by_key(train, seed, "train"), by_key(valid, seed, "valid")
    others = {
        one.name: by_key(_for_evaluation(one.data, 2, one.name, options), seed, one.name)
        for one in evaluated
    }
    return Data(train, valid, evaluated, others, split_state)


def evaluations_of(given: Any) -> list[Evaluation]:
    """Evaluations that were given as one or as several.

    Raises:
        ConfigError: one is something else, or two have one name.
    """
    found = [given] if isinstance(given, Evaluation) else list(given)
    names: set[str] = set()
    for one in found:
        if not isinstance(one, Evaluation):
            raise ConfigError(
                f'evaluations are made with their name: Evaluation("test", data); got {one!r:.80}'
            )
        if one.name in names:
            raise ConfigError(
                f"two evaluations are called {one.name!r}; give each a name of its own"
            )
        names.add(one.name)
    return found


def refuse_without_validation(given: Mapping[str, Any]) -> None:
    """Raises a `ConfigError` for an argument that needs validation data."""
    for name, value in given.items():
        if value is not None:
            raise ConfigError(f"{name} would not be used: there is no validation data; give valid=")


def by_key(data: Any, seed: int | None, name: str) -> Any:
    """Data that draws its random numbers by key, if there is a seed and it can."""
    if seed is None or data is None:
        return data
    data, why = keyed(data, seed, name)
    if why:
        log.warning(
            "seed=%s does not reach the %s data: %s. A run that is continued goes through it again,"
            " which is exact if its order is decided when an epoch begins; give a DataLoader over a"
            " map-style dataset for more",
            seed,
            name,
            why,
        )
    return data


def _rereadable(data: Any, epochs: float) -> Any:
    if epochs > 1 and hasattr(data, "__next__") and iter(data) is data:
        raise ConfigError(
            f"a {type(data).__name__} can be read once, and there are more epochs; give a list, a"
            " loader, or a function that makes one"
        )
    return data


_OF_TRAINING = ("shuffle", "sampler", "batch_sampler", "drop_last", "generator")


def _for_evaluation(data: Any, epochs: float, name: str, options: Mapping[str, Any] | None) -> Any:
    """A loader with those of the options that make sense for evaluation."""
    own = None
    if options is not None and as_dataset(data) is not None:
        own = {key: value for key, value in options.items() if key not in _OF_TRAINING}
    elif options:
        log.warning(
            "dataloader_options are not used for %s, which is a %s already; set them where it is"
            " made",
            name,
            type(data).__name__,
        )
    return loading.as_loader(_rereadable(data, epochs), name=name, options=own)
