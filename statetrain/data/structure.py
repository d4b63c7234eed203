"""The structure of a batch: mappings, sequences, dataclasses and attrs classes, nested."""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch


def is_array(thing: Any) -> bool:
    """Whether something is a tensor or an array with at least one dimension."""
    like_array = hasattr(thing, "__array__") and hasattr(thing, "shape")
    return (isinstance(thing, torch.Tensor) or like_array) and len(thing.shape) > 0


def as_tensor(array: Any) -> torch.Tensor:
    """A tensor as it is; an array as a tensor, float64 as torch's default type, as models have.

    Raises:
        TypeError: it does not hold numbers.
    """
    if isinstance(array, torch.Tensor):
        return array
    if hasattr(array, "to_numpy"):  # a frame or a column of one
        array = array.to_numpy()
    with warnings.catch_warnings():  # it may be read-only, and nothing here writes to it
        warnings.filterwarnings("ignore", "The given NumPy array is not writ", UserWarning)
        tensor = torch.as_tensor(array)
    if tensor.dtype is torch.float64:
        return tensor.to(torch.get_default_dtype())
    return tensor


def is_sequence(batch: Any) -> bool:
    """Whether the parts of a batch have numbers, as those of a tuple or a list."""
    return isinstance(batch, Sequence) and not isinstance(batch, str | bytes)


def fields_of(thing: Any) -> list[str] | None:
    """The fields of an instance of a dataclass or an attrs class; None for anything else."""
    if isinstance(thing, type):
        return None
    if hasattr(thing, "__dataclass_fields__"):
        return list(thing.__dataclass_fields__)
    if attrs.has(type(thing)):
        return [field.name for field in attrs.fields(type(thing))]
    return None


def parts_of(batch: Any) -> list[str]:
    """The names of a batch's parts: the keys of a mapping, or public attributes."""
    if callable(getattr(batch, "keys", None)):  # iterating over a TensorDict gives its rows
        return [str(key) for key in batch.keys()]  # noqa: SIM118
    fields = fields_of(batch)
    if fields is not None:
        return fields
    names = getattr(batch, "__slots__", ()) or getattr(batch, "__dict__", ())
    return [name for name in names if not name.startswith("_")]


def leaves(thing: Any) -> Iterator[Any]:
    """Everything in a batch that is not a container, depth first."""
    if isinstance(thing, Mapping):
        for part in thing.values():
            yield from leaves(part)
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from leaves(part)
    elif (fields := fields_of(thing)) is not None:
        for name in fields:
            yield from leaves(getattr(thing, name))
    else:
        yield thing


def map_leaves(thing: Any, change: Callable[[Any], Any]) -> Any:
    """The same structure with each leaf changed.

    A mapping or tuple that moves itself, by a method `to`, counts as a leaf.
    """
    if isinstance(thing, torch.Tensor):
        return change(thing)
    if isinstance(thing, tuple) and hasattr(thing, "to"):  # a packed sequence
        return change(thing)
    if isinstance(thing, Mapping):
        return _map_mapping(thing, change)
    if isinstance(thing, tuple) and hasattr(thing, "_fields"):
        return type(thing)(*(map_leaves(part, change) for part in thing))
    if isinstance(thing, list | tuple):
        return type(thing)(map_leaves(part, change) for part in thing)
    fields = fields_of(thing)
    if fields is None:
        return change(thing)
    new = copy.copy(thing)
    for name in fields:  # a frozen class refuses setattr
        object.__setattr__(new, name, map_leaves(getattr(thing, name), change))
    return new


def _map_mapping(mapping: Mapping[Any, Any], change: Callable[[Any], Any]) -> Any:
    if type(mapping) is not dict and hasattr(mapping, "to"):
        return change(mapping)
    parts = {key: map_leaves(value, change) for key, value in mapping.items()}
    if type(mapping) is dict:
        return parts
    if isinstance(mapping, defaultdict):  # which is made of its factory
        return defaultdict(mapping.default_factory, parts)
    return type(mapping)(parts)  # type: ignore[call-arg]  # mappings are made of mappings


def describe_batch(batch: Any) -> str:
    """A batch's structure for errors: `tuple of (Tensor (32, 64), Tensor (32,))`."""
    kind = type(batch).__name__
    if isinstance(batch, torch.Tensor):
        return f"Tensor {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        parts = ", ".join(f"{key}: {describe_batch(value)}" for key, value in batch.items())
        return f"{kind} of {{{parts}}}"
    if isinstance(batch, list | tuple):
        return f"{kind} of ({', '.join(map(describe_batch, batch))})"
    return kind
