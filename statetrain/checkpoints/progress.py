"""How far a run has got, and what it trains: of a `Context`, and of a context of your own."""

from __future__ import annotations

from typing import Any

import torch

from statetrain.checkpoints.objects import custom_values, found_in
from statetrain.context.context import Context
from statetrain.context.position import Position

_COUNTERS = ("epoch", "iter", "valid_iter", "samples")


def number_of(ctx: Position) -> int:
    """The number that a checkpoint is named by: the step, else the epoch, else 0."""
    return int(getattr(ctx, "step", getattr(ctx, "epoch", 0)))


def counters_of(ctx: Position) -> dict[str, Any]:
    """The counters that a context has; `step` is the number that its checkpoint is named by."""
    found = {name: getattr(ctx, name) for name in _COUNTERS if hasattr(ctx, name)}
    return {**found, "step": number_of(ctx), "seconds": ctx.seconds}


def is_fresh(ctx: Position) -> bool:
    """Whether a run starts from scratch; with a context without epochs, each run does."""
    return not getattr(ctx, "epoch", 0)


def has_begun(ctx: Position) -> bool:
    """Whether anything has been done yet; of a context without epochs that is taken for granted."""
    return bool(getattr(ctx, "epoch", 1))


def is_epoch_complete(ctx: Position) -> bool:
    """Whether an epoch has ended; of a custom context, at states of the role `next_epoch`.

    Where a lifecycle has none, each anchor is as good as another.
    """
    if isinstance(ctx, Context):
        return ctx.epoch_complete
    return ctx.role == "next_epoch" or not ctx.machine.lifecycle.by_role("next_epoch")


def resumes_here(ctx: Position) -> bool:
    """Whether a run that is asked to stop can be resumed from here."""
    if not isinstance(ctx, Context):
        return True
    return is_epoch_complete(ctx) or is_fresh(ctx) or ctx.iterator is not None


def modules_of(ctx: Position) -> list[torch.nn.Module]:
    """The modules that a run trains, without what an accelerator wraps around them."""
    if isinstance(ctx, Context):
        return [ctx.accelerator.unwrap(ctx.model)]
    return list(found_in(custom_values(ctx), torch.nn.Module).values())


def optimizers_of(ctx: Position) -> dict[str, Any]:
    """The optimizers by name; of a custom context, by their paths."""
    if isinstance(ctx, Context):
        return ctx.optimizers
    return found_in(custom_values(ctx), torch.optim.Optimizer)


def divides_weights(ctx: Position) -> bool:
    """Whether each rank holds and writes a part of the weights; a custom context is one rank's."""
    if not isinstance(ctx, Context):
        return False
    return ctx.accelerator.sharing is not None and ctx.accelerator.sharing.shards
