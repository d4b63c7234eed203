"""Torch's inference mode, where nothing that is made in it can reach the training.

In inference mode torch keeps no count of versions and views: a little is saved on each operation.
What is made in it can never be part of what gradients are computed from. So it is used where only
the model, the loss and the metrics see what is made: hooks and custom functions compute
without gradients alone, and so does what torch compiled, which would be compiled once more. Code of
the data runs outside of it, since a dataset may keep what it has made, and what a module has kept
is given back as a plain tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, TensorDataset

from statetrain.data.datasets import ColumnData
from statetrain.data.tensors import TensorLoader

if TYPE_CHECKING:
    from statetrain.context.context import Context


@contextmanager
def inferring(ctx: Context, modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Inference mode for the evaluation or prediction of a context.

    Args:
        ctx: a `Context` that has not run; its validation data is drawn outside of the mode.
        modules: what computes.
    """
    modules = list(modules)
    if any(
        is_lazy(parameter) for module in modules for parameter in module.parameters()
    ):  # they are made in the first batch
        yield
        return
    if not _makes_nothing_to_keep(ctx.valid_data):
        ctx.valid_data = Outside(ctx.valid_data)
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in modules:
            give_back(module)


def give_back(module: torch.nn.Module) -> None:
    """Replaces inference tensors that modules have kept by plain ones.

    A cached table of positions is one.
    """
    for part in module.modules():
        for owner in (part._buffers, vars(part)):
            for name, value in owner.items():
                if isinstance(value, torch.Tensor) and value.is_inference():
                    owner[name] = value.clone()


def _makes_nothing_to_keep(data: Any) -> bool:
    """Whether drawing a batch runs no code but torch's, or runs it in other processes."""
    if type(data) in (list, tuple):
        return True
    if type(data) is TensorLoader:
        return True
    return type(data) is DataLoader and (
        data.num_workers > 0 or type(data.dataset) in (TensorDataset, ColumnData)
    )


@frozen
class Outside:
    """A loader whose own code runs outside of inference mode.

    Args:
        data: the loader.
    """

    data: Any

    def __iter__(self) -> Iterator[Any]:
        with torch.inference_mode(False), torch.no_grad():
            return _DrawnOutside(iter(self.data))

    def __len__(self) -> int:
        return len(self.data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)


@frozen
class _DrawnOutside(Iterator[Any]):
    iterator: Iterator[Any]

    def __next__(self) -> Any:
        # What torch.inference_mode and torch.no_grad enter, at a fraction of their cost
        with torch._C._InferenceMode(False):
            torch._C._set_grad_enabled(False)
            return next(self.iterator)
