"""Frozen parameters that a checkpoint leaves out: it has their sums, to know them again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from statetrain.checkpoints.snapshot import Snapshot
from statetrain.compute.weights import frozen_in
from statetrain.context.context import Context
from statetrain.context.position import Position


def frozen_sums(ctx: Position) -> dict[str, str]:
    """The sum of each parameter of the model that requires no gradient, by name."""
    if not isinstance(ctx, Context):
        return {}
    model = ctx.accelerator.unwrap(ctx.model)
    named = dict(model.named_parameters(remove_duplicate=False))
    return {name: sum_of(named[name]) for name in sorted(frozen_in(model))}


def sum_of(tensor: torch.Tensor) -> str:
    """The sha256 of a tensor's type, shape and values."""
    values = tensor.detach().cpu().contiguous()
    found = hashlib.sha256(f"{values.dtype} {tuple(values.shape)}".encode())
    found.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def leave_out_frozen(data: Snapshot, ctx: Position, first: Mapping[str, str]) -> None:
    """Replaces the weights of parameters that are frozen, and as they were, by their sums.

    Args:
        data: the snapshot, in place.
        ctx: the context that it is of.
        first: the sums when the run began.
    """
    if not first:
        return
    now = frozen_sums(ctx)
    same = {name: value for name, value in now.items() if first.get(name) == value}
    weights = data["model"]["weights"]
    kept = {name: value for name, value in weights.items() if name not in same}
    left_out = {name: value for name, value in same.items() if name in weights}
    data["model"] = {**data["model"], "weights": kept, "left_out": left_out}


def left_out_of(data: Mapping[str, Any]) -> dict[str, str]:
    """The sums of the parameters that a snapshot leaves out, by name."""
    found: dict[str, str] = data["model"].get("left_out", {})
    return found


def compare_frozen(left_out: Mapping[str, str], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs in a model from the frozen parameters that were left out.

    Args:
        left_out: their sums.
        now: the state of the model that is to resume.
    """
    for name, value in left_out.items():
        if name not in now:
            yield f"model: {name} removed, which was frozen"
        elif sum_of(now[name]) != value:
            yield (
                f"model: {name} has other values; it was frozen, and the checkpoint leaves it out:"
                " load the weights that the run began with"
            )
