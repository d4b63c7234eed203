"""What a value of several numbers is in a row of the history: one column for each number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LONGEST = 20
"""A vector of more numbers is kept whole, as a matrix is."""


def as_columns(name: str, value: Any) -> dict[str, Any]:
    """The columns of a value, by name. A tensor of one element is read as a number.

        as_columns("f1", 0.5)                       # {"f1": 0.5}
        as_columns("", {"acc": 1.0, "f1": 0.5})     # {"acc": 1.0, "f1": 0.5}
        as_columns("f1", tensor([0.5, 0.7]))        # {"f1_0": 0.5, "f1_1": 0.7}
        as_columns("confusion", tensor(10, 10))     # {"confusion": tensor(10, 10)}

    Args:
        name: what the names begin with; "" if the value has names of its own.
        value: a number; a tensor or an array; numbers in a mapping, a list or a tuple, nested or
            not. A vector of at most 20 numbers becomes columns; what is larger is kept whole.
    """
    if isinstance(value, Mapping):
        named = {str(key): part for key, part in value.items()}
    elif (numbers := _few_numbers(value)) is not None:
        named = {str(i): number for i, number in enumerate(numbers)}
    else:
        return {name: _plain(value)}
    columns: dict[str, Any] = {}
    for key, part in named.items():
        columns |= as_columns(joined(name, key), part)
    return columns


def joined(*parts: str) -> str:
    """The name of a column, of its parts; those that are empty are left out."""
    return "_".join(filter(None, parts))


def shown_shape(value: Any) -> str:
    """The shape of a value that is kept whole, such as `(10, 10)`; empty of any other."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return ""
    return str(tuple(shape))


def _few_numbers(value: Any) -> list[Any] | None:
    """The numbers of a short vector, or of a list that has nothing else."""
    if len(getattr(value, "shape", ())) == 1 and 2 <= value.shape[0] <= LONGEST:
        found: list[Any] = value.tolist()
        return found
    if isinstance(value, list | tuple) and 0 < len(value) <= LONGEST:
        parts = [_plain(part) for part in value]
        if all(isinstance(part, int | float) for part in parts):
            return parts
    return None


def _plain(value: Any) -> Any:
    """A tensor or an array of one element as a number; what is kept whole without its graph."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return value
    elements = 1
    for size in shape:
        elements *= int(size)
    if elements == 1 and hasattr(value, "item"):
        return value.item()
    if hasattr(value, "detach"):
        return value.detach()
    return value
