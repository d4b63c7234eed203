"""Which columns a metric will write, as far as that can be known before it has seen data."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from attrs import Factory, frozen

from statetrain.context.columns import as_columns, joined, shown_shape
from statetrain.losses.losses import LossMean
from statetrain.losses.metrics import MeanOf, Metric, name_of_metric


@frozen
class Foreseen:
    """The columns of one metric or several.

    Attributes:
        numbers: those that hold numbers.
        others: what is not a number, by name, with what it is instead.
        prefixes: what the names of further columns may begin with: a function may return a mapping,
            and an object of a class that is not known anything.
    """

    numbers: tuple[str, ...] = ()
    others: dict[str, str] = Factory(dict)
    prefixes: tuple[str, ...] = ()

    def __add__(self, other: Foreseen) -> Foreseen:
        return Foreseen(
            (*self.numbers, *other.numbers),
            self.others | other.others,
            (*self.prefixes, *other.prefixes),
        )

    def may_write(self, column: str) -> bool:
        """Whether a column is one of these, or may be."""
        return column in self.numbers or column.startswith(self.prefixes)


def foresee(name: str, metric: Any) -> Foreseen:
    """The columns of a metric that has seen no data; torchmetrics' objects are asked for a value.

    Args:
        name: the column of a metric of one number, with its set.
        metric: as a `Tally` has it. It has to be reset afterwards.
    """
    if isinstance(metric, Metric):
        metric = metric.state
    if isinstance(metric, LossMean):
        return Foreseen((name,))
    if isinstance(metric, torch.nn.ModuleDict):  # a collection of torchmetrics
        found = Foreseen()
        for key, part in metric.items(keep_base=False, copy_state=False):  # type: ignore[call-arg]
            found += foresee(joined(name, key), part)
        return found
    value = _value_of_nothing(metric)
    if value is None:
        return Foreseen((name,), prefixes=(f"{name}_",))
    return _columns_of(name, value)


def _columns_of(name: str, value: Any) -> Foreseen:
    columns = as_columns(name, value)
    numbers = tuple(column for column, part in columns.items() if isinstance(part, int | float))
    others = {column: _describe(part) for column, part in columns.items() if column not in numbers}
    if name not in columns:
        others[name] = f"several values, in the columns {', '.join(columns)}"
    return Foreseen(numbers, others)


def prefix_of(name: str, metric: Any) -> str:
    """What the columns of a metric begin with: its name; nothing for a collection without one."""
    if isinstance(metric, torch.nn.ModuleDict) and name == name_of_metric(metric):
        return ""
    return name


def _is_of_torchmetrics(metric: Any) -> bool:
    bases = type(metric).__mro__
    return any(str(base.__module__).partition(".")[0] == "torchmetrics" for base in bases)


def _value_of_nothing(metric: Any) -> Any:
    """What a metric gives before its first batch; None if it cannot say."""
    if isinstance(metric, MeanOf) or not _is_of_torchmetrics(metric):
        return None
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return None  # it would ask the other ranks
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that it has seen nothing
            return metric.compute()
    except Exception:
        return None  # such as a curve of no points


def _describe(value: Any) -> str:
    shape = shown_shape(value)
    if shape:
        return f"values of shape {shape}"
    return f"a {type(value).__name__}"
