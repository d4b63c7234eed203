"""Data: making loaders of what users have, and finding out how a batch is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import attrs
import torch
from attrs import frozen
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from statetrain.context import keys
from statetrain.errors import ConfigError, DataError

Key = str | tuple[str, ...] | Mapping[str, str] | None

_INPUT_NAMES = ("input", "inputs", "x")
_TARGET_NAMES = ("target", "targets", "y", "label", "labels")

_PATIENCE = 300  # seconds that a loader made here waits for its workers

# ---------------------------------------------------------------- loaders


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
        options: arguments for a DataLoader made here; its `batch_size` is 32 unless said, and with
            workers its `timeout` 300 seconds, so that one that hangs is an error.
        generator: what a loader made here shuffles with; None is torch's global one.

    Raises:
        ConfigError: it is none of these, is empty, or options were given for a loader that is there
            already.
    """
    dataset = as_dataset(data)
    if dataset is not None:
        chosen = {"batch_size": 32, **(options or {})}
        if not isinstance(dataset, IterableDataset):
            if not len(dataset):  # type: ignore[arg-type]  # map-style datasets have a length
                raise ConfigError(f"{name} is empty: {type(data).__name__} without a sample")
            if "sampler" not in chosen and "batch_sampler" not in chosen:
                chosen.setdefault("shuffle", shuffle)
                chosen.setdefault("generator", generator)
        if "batch_sampler" in chosen:
            chosen.pop("batch_size")
        if chosen.get("num_workers"):
            chosen.setdefault("timeout", _PATIENCE)
        try:
            loader: DataLoader[Any] = DataLoader(dataset, **chosen)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"dataloader_options do not make a DataLoader for {name}: {error}"
            ) from error
        return _not_empty(loader, name)
    if options:
        raise ConfigError(
            f"dataloader_options would not be used: {name} is a {type(data).__name__} already; set"
            " them where it is made"
        )
    if callable(data) and not isinstance(data, Iterable):
        return Fresh(data)
    if not isinstance(data, Iterable) or isinstance(data, str | bytes | torch.Tensor):
        raise ConfigError(
            f"{name} must be a DataLoader, a Dataset, tensors, arrays or an iterable of batches,"
            f" got {type(data).__name__}: {data!r:.80}"
        )
    return _not_empty(data, name)


def _not_empty(data: Iterable[Any], name: str) -> Iterable[Any]:
    try:
        batches = len(data)  # type: ignore[arg-type]  # that it may have none is what is asked
    except TypeError:
        return data
    if batches == 0:
        small = (
            " The dataset is smaller than one batch, and drop_last drops it"
            if getattr(data, "drop_last", False)
            else ""
        )
        raise ConfigError(f"{name} is empty: its {type(data).__name__} has no batch.{small}")
    return data


@frozen
class Fresh:
    """An iterable that calls a function for each iteration: what a generator needs to be read more than once."""

    function: Callable[[], Iterable[Any]]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.function())


@frozen
class Columns(Dataset[dict[str, torch.Tensor]]):
    """A dict of tensors as a dataset of dicts."""

    draws_nothing = True  # loading a sample needs no randomness

    columns: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


def as_dataset(data: Any) -> Dataset[Any] | None:
    """A dataset of what has one row a sample; None for loaders and iterables of batches.

    Raises:
        ConfigError: its columns do not have the same number of rows.
    """
    if isinstance(data, Dataset):
        return data
    if _is_array(data):
        return TensorDataset(as_tensor(data))
    if isinstance(data, tuple) and data and all(map(_is_array, data)):
        return TensorDataset(
            *_same_length({str(i): as_tensor(column) for i, column in enumerate(data)}).values()
        )
    if isinstance(data, Mapping) and data and all(map(_is_array, data.values())):
        return Columns(
            _same_length({str(name): as_tensor(column) for name, column in data.items()})
        )
    return None


def _same_length(columns: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ConfigError(
            f"the columns of the data must have the same number of rows, got {lengths}"
        )
    return columns


def _is_array(thing: Any) -> bool:
    return (
        isinstance(thing, torch.Tensor) or (hasattr(thing, "__array__") and hasattr(thing, "shape"))
    ) and len(thing.shape) > 0


def as_tensor(array: Any) -> torch.Tensor:
    """A tensor as it is; an array as a tensor, float64 in torch's default type, which is what models have."""
    if isinstance(array, torch.Tensor):
        return array
    tensor = torch.as_tensor(array)
    return tensor.to(torch.get_default_dtype()) if tensor.dtype is torch.float64 else tensor


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
    """Draws the samples of two loaders anew that `split` has drawn, in place: those that it draws from another state.

    Args:
        train, valid: the loaders of its two parts.
        generator: in the state that it is to be drawn from.
    """
    ours, held = (_subset(loader.dataset) for loader in (train, valid))
    order = torch.randperm(len(ours.indices) + len(held.indices), generator=generator).tolist()
    ours.indices, held.indices = order[len(held.indices) :], order[: len(held.indices)]


def _subset(dataset: Any) -> Subset[Any]:
    while type(dataset) is not Subset:  # it may have been wrapped
        dataset = dataset.dataset
    return dataset


# ---------------------------------------------------------------- batches


@frozen
class Layout:
    """How the batches of one loader are read; found out on the first one.

    Attributes:
        place: puts a batch on the device; None where it lies there already.
        split: gives input and target of a placed batch.
        size: the number of samples of an input.
        forward: calls the model on an input; None is `model(input)`.
    """

    place: Callable[[Any], Any] | None
    split: Callable[[Any], tuple[Any, Any]]
    size: Callable[[Any], int]
    forward: Callable[[Any, Any], Any] | None = None


@frozen
class BatchReader:
    """Finds the layout of a batch.

    Args:
        device: where batches go.
        input: what the model takes: a key into the batch; a tuple of keys for positional arguments,
            a mapping for named ones. None: the first item of a tuple or list, or the one called
            `input`, `inputs` or `x`.
        target: what the loss takes, likewise; None: the second item, or `target`, `targets`, `y`,
            `label`, `labels`.
        target_needed: whether a batch without a target is an error.
    """

    device: torch.device
    input: Key = None
    target: Key = None
    target_needed: bool = True

    def __call__(self, batch: Any) -> Layout:
        """The layout of batches like this one.

        Raises:
            DataError: input or target cannot be found; the message lists what the batch has.
        """
        place = None if _is_placed(batch, self.device) else self.place
        placed = batch if place is None else place(batch)
        take = self._split(placed)
        try:
            given, _ = take(placed)
        except (KeyError, IndexError) as error:
            raise DataError(f"a batch cannot be read: {error.args[0]}") from error
        forward = (
            _spread
            if isinstance(self.input, tuple)
            else _named
            if isinstance(self.input, Mapping)
            else None
        )
        return Layout(
            place,
            take,
            _rows if isinstance(given, torch.Tensor) and given.ndim else size_of,
            forward,
        )

    def place(self, batch: Any) -> Any:
        """A batch on the device, whole."""
        return place(batch, self.device)

    def _split(self, batch: Any) -> Callable[[Any], tuple[Any, Any]]:
        if self.input is None and self.target is None and _is_row(batch) and len(batch) > 1:
            return itemgetter(0, 1)
        take_input = (
            _getter(self.input)
            if self.input is not None
            else _find(batch, 0, _INPUT_NAMES, "input")
        )
        take_target = (
            _getter(self.target)
            if self.target is not None
            else _find(batch, 1, _TARGET_NAMES, "target", self.target_needed)
        )
        return lambda batch: (take_input(batch), take_target(batch))


def _getter(key: Key) -> Callable[[Any], Any]:
    if isinstance(key, tuple):
        parts = [_getter(part) for part in key]
        return lambda batch: tuple(part(batch) for part in parts)
    if isinstance(key, Mapping):
        named = {name: _getter(part) for name, part in key.items()}
        return lambda batch: {name: part(batch) for name, part in named.items()}
    if key == "batch":
        return lambda batch: batch
    return keys.getter(str(key))


def _find(
    batch: Any, position: int, names: tuple[str, ...], what: str, needed: bool = True
) -> Callable[[Any], Any]:
    if isinstance(batch, torch.Tensor):
        if position == 0:
            return lambda batch: batch
    elif _is_row(batch):
        if position < len(batch):
            return itemgetter(position)
    else:
        there = _parts(batch)
        for name in names:
            if name in there:
                return keys.getter(name)
        if needed:
            raise DataError(
                f"a batch is a {type(batch).__name__} with"
                f" {', '.join(map(repr, there)) or 'no parts'}; which is the {what}? Say"
                f" {what}={there[0] if there else 'name'!r}"
            )
    if not needed:
        return lambda batch: None
    raise DataError(
        f"a batch is a {describe_batch(batch)} that has no {what}; give the data as (input,"
        f" target), or say {what}='batch' if it is the whole batch"
    )


def _is_row(batch: Any) -> bool:
    return isinstance(batch, Sequence) and not isinstance(batch, str | bytes)


def _parts(batch: Any) -> list[str]:
    if isinstance(batch, Mapping):
        return [str(key) for key in batch]
    if (fields := _fields(batch)) is not None:
        return fields
    return [
        name
        for name in (
            getattr(batch, "__slots__", None) or vars(batch)
            if hasattr(batch, "__dict__")
            else getattr(batch, "__slots__", ())
        )
        if not name.startswith("_")
    ]


def describe_batch(batch: Any) -> str:
    """A batch's structure for errors: `tuple of (Tensor (32, 64), Tensor (32,))`."""
    if isinstance(batch, torch.Tensor):
        return f"Tensor {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return (
            f"{type(batch).__name__} of"
            f" {{{', '.join(f'{k}: {describe_batch(v)}' for k, v in batch.items())}}}"
        )
    if isinstance(batch, list | tuple):
        return f"{type(batch).__name__} of ({', '.join(map(describe_batch, batch))})"
    return type(batch).__name__


def _spread(model: Any, args: Any) -> Any:
    return model(*args)


def _named(model: Any, kwargs: Any) -> Any:
    return model(**kwargs)


def _rows(tensor: torch.Tensor) -> int:
    return tensor.shape[0]


def size_of(thing: Any) -> int:
    """The number of samples of an input: the first dimension of its first tensor that has one; else 1."""
    for leaf in _leaves(thing):
        if isinstance(leaf, torch.Tensor) and leaf.ndim:
            return leaf.shape[0]
    return 1


def _leaves(thing: Any) -> Iterator[Any]:
    if isinstance(thing, Mapping):
        for part in thing.values():
            yield from _leaves(part)
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from _leaves(part)
    elif (fields := _fields(thing)) is not None:
        for name in fields:
            yield from _leaves(getattr(thing, name))
    else:
        yield thing


def _fields(thing: Any) -> list[str] | None:
    """The fields of a dataclass or attrs instance."""
    if isinstance(thing, type):
        return None
    if hasattr(thing, "__dataclass_fields__"):
        return list(thing.__dataclass_fields__)
    return [field.name for field in attrs.fields(type(thing))] if attrs.has(type(thing)) else None


def _is_placed(batch: Any, device: torch.device) -> bool:
    leaves = list(_leaves(batch))
    there = all(leaf.device == device for leaf in leaves if isinstance(leaf, torch.Tensor))
    return (
        device.type == "cpu"
        and there
        and not any(_is_array(leaf) and not isinstance(leaf, torch.Tensor) for leaf in leaves)
    )


def place(thing: Any, device: torch.device) -> Any:
    """Everything in a batch on a device, arrays as tensors; what is no data stays as it is. The host does not wait for the copies."""
    return _changed(thing, lambda part: _moved(part, device))


def pinned(thing: Any) -> Any:
    """A batch with its tensors in pinned memory, arrays as tensors; what is there already, or on a device, stays as it is.

    Containers that move themselves, by a method `to`, stay as they are unless they have a method
    `pin_memory`.
    """
    return _changed(thing, _in_pinned_memory)


def _changed(thing: Any, change: Callable[[Any], Any]) -> Any:
    """The same structure with everything in it changed."""
    if isinstance(thing, torch.Tensor):
        return change(thing)
    if isinstance(thing, Mapping):
        if type(thing) is dict:
            return {key: _changed(value, change) for key, value in thing.items()}
        # Mappings are made of mappings
        return (
            change(thing)
            if hasattr(thing, "to")
            else type(thing)({key: _changed(value, change) for key, value in thing.items()})  # type: ignore[call-arg]
        )
    if isinstance(thing, tuple) and hasattr(thing, "_fields"):
        return type(thing)(*(_changed(part, change) for part in thing))
    if isinstance(thing, list | tuple):
        return type(thing)(_changed(part, change) for part in thing)
    fields = _fields(thing)
    if fields is not None:
        return _evolve(thing, {name: _changed(getattr(thing, name), change) for name in fields})
    return change(thing)


def _moved(part: Any, device: torch.device) -> Any:
    if isinstance(part, torch.Tensor):
        return part.to(device, non_blocking=True)
    if callable(getattr(part, "to", None)):
        try:
            return part.to(device, non_blocking=True)
        except TypeError:  # its own method, which may know of a device alone
            return part.to(device)
    return as_tensor(part).to(device, non_blocking=True) if _is_array(part) else part


def _in_pinned_memory(part: Any) -> Any:
    if isinstance(part, torch.Tensor):
        return part.pin_memory() if part.device.type == "cpu" else part
    if callable(getattr(part, "pin_memory", None)):
        return part.pin_memory()
    return as_tensor(part).pin_memory() if _is_array(part) else part


def _evolve(thing: Any, changes: dict[str, Any]) -> Any:
    import copy

    new = copy.copy(thing)
    for name, value in changes.items():
        object.__setattr__(new, name, value)
    return new


def join(parts: list[Any]) -> Any:
    """Predictions of several batches as one: tensors along the first dimension, containers part by part.

    Raises:
        DataError: the parts cannot be joined.
    """
    first = parts[0]
    if isinstance(first, torch.Tensor):
        try:
            return torch.cat(parts) if first.ndim else torch.stack(parts)
        except RuntimeError as error:
            shapes = ", ".join(sorted({str(tuple(part.shape)) for part in parts}))
            raise DataError(
                f"predictions of shapes {shapes} cannot be joined along the first dimension; take"
                " them batch by batch with stack=False"
            ) from error
    if isinstance(first, Mapping):
        return {key: join([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(join(list(column)) for column in zip(*parts, strict=True)))
    if isinstance(first, list | tuple):
        return type(first)(join(list(column)) for column in zip(*parts, strict=True))
    raise DataError(
        f"predictions of type {type(first).__name__} cannot be joined; take them batch by batch"
        " with stack=False"
    )
