"""Going uphill: weights a little further where the loss rises, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from attrs import frozen

from statetrain.compute.weights import modules_of
from statetrain.standard.parameters import parameters_of

if TYPE_CHECKING:
    from statetrain.context.context import Context

_Buffers = dict[str, torch.Tensor | None]


@frozen
class WeightCopies:
    """Parameters and buffers, each with a copy of it.

    Attributes:
        copies: the tensors and their copies.
        buffers: where modules keep which of them, by what name; a module may put another there.
    """

    copies: list[tuple[torch.Tensor, torch.Tensor]]
    buffers: list[tuple[_Buffers, str, torch.Tensor]]

    def put_back(self) -> None:
        """Gives them the values of the copies."""
        for owner, name, buffer in self.buffers:
            owner[name] = buffer
        for tensor, copied in self.copies:
            # Unseen by autograd: around a pause between two passes, its graph is still to be used
            tensor.data.copy_(copied)


def weights_of(ctx: Context) -> WeightCopies:
    """A copy of the weights and buffers of model and losses."""
    modules = modules_of(ctx)
    parts = [part for module in modules for part in module.modules()]
    buffers = [
        (part._buffers, name, buffer)
        for part in parts
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    tensors = [*parameters, *(buffer for _, _, buffer in buffers)]
    return WeightCopies([(tensor, tensor.detach().clone()) for tensor in tensors], buffers)


def climb(optimizer: torch.optim.Optimizer, radius: float) -> None:
    """Moves parameters by `radius` along their gradients, all together, and clears these.

    Args:
        optimizer: has the parameters.
        radius: the length of the move, in the 2-norm over all of them.
    """
    moved = [p for p in parameters_of(optimizer) if p.grad is not None]
    gradients = [p.grad for p in moved]
    scale = radius / (torch.nn.utils.get_total_norm(gradients) + 1e-12)
    with torch.no_grad():
        for parameter, gradient in zip(moved, gradients, strict=True):
            parameter.add_(gradient * scale)
            parameter.grad = None
