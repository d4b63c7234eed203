"""The structure of a batch: mappings, sequences, dataclasses and attrs classes, nested."""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from statetrain.context.tree import field_names, parts


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


def parts_of(batch: Any) -> list[str]:
    """The names of a batch's parts: the keys of a mapping, or public attributes."""
    if callable(getattr(batch, "keys", None)):  # iterating over a TensorDict gives its rows
        return [str(key) for key in batch.keys()]  # noqa: SIM118
    if fields := field_names(batch):
        return fields
    names = getattr(batch, "__slots__", ()) or getattr(batch, "__dict__", ())
    return [name for name in names if not name.startswith("_")]


def leaves(here: Any) -> Iterator[Any]:
    """Everything that is not a container, depth first. What is empty is a leaf."""
    if isinstance(here, torch.Tensor):
        yield here
        return
    below = parts(here)
    for _, part in below:
        yield from leaves(part)
    if not below:
        yield here


def tensors_in(here: Any) -> Iterator[torch.Tensor]:
    """All tensors in something nested, such as a batch."""
    return (leaf for leaf in leaves(here) if isinstance(leaf, torch.Tensor))


def map_leaves(here: Any, change: Callable[[Any], Any]) -> Any:
    """The same structure with each leaf changed.

    A mapping or tuple that moves itself, by a method `to`, counts as a leaf.
    """
    if isinstance(here, torch.Tensor):
        return change(here)
    if isinstance(here, Mapping | tuple) and hasattr(here, "to"):
        return change(here)
    below = parts(here)
    if not below:
        return change(here)
    return _like(here, {name: map_leaves(part, change) for name, part in below})


def _like(here: Any, changed: dict[Any, Any]) -> Any:
    """A container of the same class with other parts, by name."""
    if isinstance(here, defaultdict):  # which is made of its factory
        return defaultdict(here.default_factory, changed)
    if isinstance(here, Mapping):
        return type(here)(changed)  # type: ignore[call-arg]  # mappings are made of mappings
    if isinstance(here, tuple) and hasattr(here, "_fields"):
        return type(here)(*changed.values())
    if isinstance(here, list | tuple):
        return type(here)(changed.values())
    new = copy.copy(here)
    for name, part in changed.items():  # a frozen class refuses setattr
        object.__setattr__(new, name, part)
    return new


def map_tensors(here: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The same structure with each tensor changed; other leaves stay."""

    def change_tensor(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return change(leaf)
        return leaf

    return map_leaves(here, change_tensor)


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
