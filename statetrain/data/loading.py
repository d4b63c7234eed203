"""Loaders: what a run iterates over, made of the data that a user has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import torch
from attrs import frozen
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from statetrain.data.datasets import Rows, as_dataset, unchanged
from statetrain.data.sizes import length
from statetrain.data.structure import is_array
from statetrain.data.tensors import TensorLoader, takes_whole_batches
from statetrain.errors import ConfigError

_PATIENCE = 300  # seconds that a loader made here waits for its workers


def as_loader(
    data: Any,
    *,
    name: str = "data",
    shuffle: bool = False,
    options: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
) -> Iterable[Any]:
    """Something to iterate over, batch by batch, again in each epoch.

    Args:
        data: a DataLoader or any other iterable of batches, as it is; a Dataset, a tensor or array,
            or a tuple or dict of tensors or arrays with one row a sample, put into a DataLoader; a
            function that makes an iterable.
        name: what the data is called in errors.
        shuffle: whether a loader made here shuffles.
        options: arguments for a DataLoader made here; its `batch_size` is 32 by default, and with
            workers its `timeout` 300 seconds, so that a worker that hangs is an error.
        generator: what a loader made here shuffles with; None is torch's global one.

    Raises:
        ConfigError: it is none of these, is empty, or options were given for a loader that exists
            already.
    """
    dataset = as_dataset(data)
    if dataset is not None:
        if not isinstance(dataset, IterableDataset) and length(dataset) == 0:
            raise ConfigError(f"{name} is empty: {type(data).__name__} without a sample")
        return _not_empty(_loader(dataset, name, shuffle, options or {}, generator), name)
    _refuse_misplaced(data, name)
    if options:
        raise ConfigError(
            f"dataloader_options would not be used: {name} is a {type(data).__name__} already; set"
            " them where it is made"
        )
    if callable(data) and not isinstance(data, Iterable):
        return Fresh(data, name)
    if not isinstance(data, Iterable) or isinstance(data, str | bytes | torch.Tensor):
        raise ConfigError(
            f"{name} must be a DataLoader, a Dataset, tensors, arrays or an iterable of batches,"
            f" got {type(data).__name__}: {data!r:.80}"
        )
    return _not_empty(data, name)


def _makes_batches(kind: type) -> bool:
    """Whether a class may stand for a function that makes an iterable of batches."""
    of_torch = issubclass(kind, (Dataset, Sampler, DataLoader, torch.nn.Module))
    return hasattr(kind, "__iter__") and not hasattr(kind, "__getitem__") and not of_torch


def _refuse_misplaced(data: Any, name: str) -> None:
    """Raises a `ConfigError` for what belongs elsewhere, or is not data but holds it."""
    _refuse_loaders(data, name)
    kind = type(data).__name__
    if isinstance(data, type) and not _makes_batches(data):
        raise ConfigError(f"{name} is the class {data.__name__}; make an instance of it")
    if isinstance(data, torch.nn.Module):
        raise ConfigError(f"{name} is a {kind}; the model is the first argument, the data the next")
    if isinstance(data, Sampler):
        raise ConfigError(
            f"{name} is a {kind}; give the dataset, and dataloader_options={{'sampler': ...}}"
        )
    if isinstance(data, Mapping) and data:
        _refuse_mapping(data, name)
    if callable(data) and not isinstance(data, Iterable) and _needs_arguments(data):
        raise ConfigError(
            f"{name} is a {kind} that takes arguments, and a function that makes"
            " data takes none; a collate function goes to dataloader_options={'collate_fn': ...}"
        )


def _refuse_mapping(data: Mapping[Any, Any], name: str) -> NoReturn:
    kind = type(data).__name__
    if any(map(is_array, data.values())):
        others = [str(key) for key, value in data.items() if not is_array(value)]
        raise ConfigError(
            f"{name} is a {kind} of columns, and {', '.join(map(repr, others))} cannot be one; give"
            " tensors or arrays with one row a sample"
        )
    parts = [repr(str(key)) for key in data]
    raise ConfigError(
        f"{name} is a {kind} of datasets, {', '.join(parts)}; give one of them:"
        f" {name}=data[{parts[0]}]"
    )


def _refuse_loaders(data: Any, name: str) -> None:
    """Raises a `ConfigError` for several loaders, which are no batches."""
    parts: list[Any] = []
    if isinstance(data, Mapping):
        parts = list(data.values())
    elif isinstance(data, list | tuple):
        parts = list(data[:2])
    if parts and all(isinstance(part, DataLoader) for part in parts):
        raise ConfigError(
            f"{name} is a {type(data).__name__} of loaders; for a batch of each at a time, give"
            f" {name}=combine({{'a': ..., 'b': ...}}), and name the parts with input= and target=,"
            " such as input='a[0]'; for one after the other, a function that chains them"
        )


def _needs_arguments(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind()
    except TypeError:
        return True
    except ValueError:  # it has no signature
        return False
    return False


def _loader(
    dataset: Dataset[Any],
    name: str,
    shuffle: bool,
    options: Mapping[str, Any],
    generator: torch.Generator | None,
) -> DataLoader[Any]:
    chosen = {"batch_size": 32, **options}
    if not isinstance(dataset, IterableDataset) and not {"sampler", "batch_sampler"} & set(chosen):
        chosen = {"shuffle": shuffle, "generator": generator, **chosen}
    if "batch_sampler" in chosen:
        chosen.pop("batch_size")
    if isinstance(dataset, Rows):
        chosen.setdefault("collate_fn", unchanged)
    if chosen.get("num_workers"):
        chosen.setdefault("timeout", _PATIENCE)
    try:
        loader: DataLoader[Any] = DataLoader(dataset, **chosen)
        if takes_whole_batches(loader):
            loader = TensorLoader(dataset, **chosen)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"dataloader_options do not make a DataLoader for {name}: {error}"
        ) from error
    return loader


def _not_empty(data: Iterable[Any], name: str) -> Iterable[Any]:
    if length(data) != 0:
        return data
    small = ""
    if getattr(data, "drop_last", False):
        small = " The dataset is smaller than one batch, and drop_last drops it"
    raise ConfigError(f"{name} is empty: its {type(data).__name__} has no batch.{small}")


@frozen
class Fresh:
    """An iterable that calls a function for each iteration, so a generator can be read again.

    Args:
        function: returns an iterable of batches.
        name: what the data is called in errors.
    """

    function: Callable[[], Iterable[Any]]
    name: str = "data"

    def __iter__(self) -> Iterator[Any]:
        """Its batches.

        Raises:
            ConfigError: the function returns samples, or nothing that can be iterated over.
        """
        made = self.function()
        has_samples = not isinstance(made, IterableDataset) and as_dataset(made) is not None
        if has_samples or not isinstance(made, Iterable):
            raise ConfigError(
                f"{self.name} is a function that returns a {type(made).__name__}, and it has to"
                " return an iterable of batches; give a dataset or tensors themselves"
            )
        return iter(made)
