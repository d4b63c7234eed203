"""The function that `compile="step"` compiles: a batch, from the model to the step.

Torch's compiler follows the calls of this module into one graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from attrs import define, frozen
from torch.utils import _pytree as pytree

from statetrain.losses.losses import InContext, total

Update = Callable[[Any, Any, Any, Any, int], Any]
"""Takes how the model is called (None calls it), input, target, batch and batch size."""


@frozen
class MaskedStep:
    """What decides whether a step is left out; see `Mask`.

    Args:
        found: how many steps were masked, and the number of the first, or infinity.
        number: of the step that was made last, shape ().
        buffers: those that are put back.
    """

    found: torch.Tensor
    number: torch.Tensor
    buffers: list[torch.Tensor]


@define
class _Seen:
    """What losses by keys read, in the place of a context."""

    pred: Any
    pick: Any
    input: Any
    target: Any
    batch: Any
    batch_size: int


def make_update(
    model: Any,
    pick: Any,
    loss_fn: Any,
    optimizer: Any,
    weights: list[Any],
    masked: MaskedStep | None,
    dtype: str | None,
) -> Update:
    """The function that is compiled.

    Args:
        model: as the user gave it.
        pick: picks what the loss compares out of the prediction; None takes all of it.
        loss_fn: of prediction and target, or losses by keys.
        optimizer: whose step is made.
        weights: those that it trains.
        masked: what a step that is not finite is left out with; None makes every step.
        dtype: torch's name of the type that autocast computes in; None is without autocast.

    Returns:
        A function of a batch. It gives the prediction, the loss, how the loss counts and whether
        it is finite (None without a mask), and the values of each of several losses (None
        without).
    """
    # As it is written; around it torch keeps its compiler out
    step = inspect.unwrap(type(optimizer).step)
    by_name = None
    if isinstance(loss_fn, InContext):
        by_name = loss_fn.by_name
    device = weights[0].device.type
    shorter = None
    if dtype is not None:
        shorter = getattr(torch, dtype)

    def run_model(forward: Any, batch_input: Any) -> Any:
        if forward is None:
            return model(batch_input)
        return forward(model, batch_input)

    def compute_loss(pred: Any, seen: _Seen) -> tuple[Any, Any]:
        if by_name is not None:
            context: Any = seen
            return total(by_name, context)
        if pick is not None:
            pred = pick(pred)
        return loss_fn(pred, seen.target), None

    # The field's name
    def update(forward: Any, input: Any, target: Any, batch: Any, size: int) -> Any:  # noqa: A002
        buffers = []
        if masked is not None:
            buffers = _copy(masked.buffers)
        with torch.enable_grad():
            with torch.autocast(device, shorter, enabled=shorter is not None):
                pred = run_model(forward, input)
                seen = _Seen(pred, pick, input, target, batch, size)
                loss, states = compute_loss(pred, seen)
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        loss = loss.detach()
        _write_gradients(weights, gradients)
        counted = None
        if masked is None:
            step(optimizer)
        else:
            finite = torch.isfinite(loss)
            refused = ~(finite & _are_finite(gradients))
            before = [*_copy(_trained_tensors(optimizer, weights)), *buffers]
            step(optimizer)
            _put_back(before, refused)
            _count(masked, refused)
            counted = (torch.where(finite, loss, 0.0).to(masked.found.dtype), finite)
        return pytree.tree_map(_detach, pred), loss, counted, states

    return update


def _write_gradients(weights: list[Any], gradients: tuple[torch.Tensor | None, ...]) -> None:
    for weight, gradient in zip(weights, gradients, strict=True):
        if (gradient is None) != (weight.grad is None):
            raise NotImplementedError(
                "other weights have gradients than in the first step; give the optimizer those"
                " that always have one"
            )
        if gradient is not None:
            weight.grad.copy_(gradient)


def _are_finite(gradients: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
    there = [gradient for gradient in gradients if gradient is not None]
    return torch.isfinite(torch.nn.utils.get_total_norm(there))


def _trained_tensors(optimizer: Any, weights: list[Any]) -> list[torch.Tensor]:
    """The weights, each with its tensors of the optimizer's state."""
    parts = (part for weight in weights for part in (weight, *optimizer.state[weight].values()))
    return [part for part in parts if isinstance(part, torch.Tensor)]


def _copy(tensors: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(tensor, tensor.clone()) for tensor in tensors]


def _put_back(before: list[tuple[torch.Tensor, torch.Tensor]], refused: torch.Tensor) -> None:
    for tensor, old in before:
        tensor.copy_(torch.where(refused, old, tensor))


def _count(masked: MaskedStep, refused: torch.Tensor) -> None:
    masked.number.add_(1)
    first = torch.where(refused, torch.minimum(masked.found[1], masked.number), masked.found[1])
    masked.found.copy_(torch.stack([masked.found[0] + refused, first]))


def _detach(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return leaf.detach()
    return leaf
