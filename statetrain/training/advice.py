"""Advice on errors that give none: out of memory, workers that died, loaders that hang."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from statetrain.data.iterating import data_of
from statetrain.training.setup.words import FIELDS

if TYPE_CHECKING:
    from statetrain.context.context import Context

_SHOWN = 12  # indices of samples


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on the host or a device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return "out of memory" in str(error).lower()


def advice(ctx: Context, error: BaseException) -> str:
    """Words for the note of an error, for a person; empty if there is nothing to add.

    Args:
        ctx: a `Context`, as the error left it.
        error: what was raised.
    """
    words = str(error)
    if is_out_of_memory(error):
        return _memory(ctx)
    if isinstance(error, AttributeError):
        return _field_elsewhere(words)
    if ctx.role in ("step", "update"):
        return _stepping(words)
    if ctx.role not in ("draw", "valid_draw", "predict_draw"):
        return ""
    scope = ctx.machine.lifecycle.state(ctx.scope("valid") or ctx.scope("predict") or ctx.state)
    drawing = getattr(scope.mode, "set", "train")
    if "DataLoader worker" in words and (
        "exited unexpectedly" in words or "is killed by signal" in words
    ):
        return (
            f"a worker process of the {drawing} data died, as it does when the system runs out of"
            f" memory or a library crashes; {_due(ctx, drawing)}. Fewer workers need less memory,"
            " and with num_workers=0 the error shows itself"
        )
    if "DataLoader timed out" in words:
        return (
            f"the workers of the {drawing} data gave nothing in time; {_due(ctx, drawing)}. Do they"
            " wait for a lock, a disk or a network? dataloader_options={'timeout': seconds}"
            " waits longer, 0 forever"
        )
    return _due(ctx, drawing)


def _stepping(words: str) -> str:
    """What an optimizer that asks for more than a step has to be given."""
    if "closure" in words.lower():
        return "an optimizer that computes the loss again within its step needs fit(closure=True)"
    if "create_graph" in words or "grad_fn" in words:
        return (
            "an optimizer that needs the graph of the gradients wants a backward of its own: give"
            " an accelerator whose backward calls loss.backward(create_graph=True)"
        )
    return ""


def _field_elsewhere(words: str) -> str:
    """What a field of another library's trainer is called here."""
    found = re.match(r"'Context' object has no attribute '(\w+)'", words)
    if found is None or found[1] not in FIELDS:
        return ""
    return f"what other libraries call {found[1]!r} is here: {FIELDS[found[1]]}"


def _memory(ctx: Context) -> str:
    size = int(ctx.batch_size)
    if size < 2:
        return (
            f"out of memory in state {ctx.state!r}; a smaller model or precision='bf16' needs less"
        )
    half = -(-size // 2)
    training = ctx.epoch and ctx.valid_iterator is None  # `training` itself has been put back
    more = " with accumulate=2 for the same steps" if training else ""
    return (
        f"out of memory in state {ctx.state!r} with a batch of {size} samples; make batches of"
        f" {half}{more}, or use precision='bf16'"
    )


def _due(ctx: Context, name: str) -> str:
    """Which batch was due, and which samples, where the order is known by key."""
    from statetrain.compute.keyed import order_of  # it needs torch, which a context does not

    position, turn = (ctx.iter, ctx.epoch) if name == "train" else (ctx.valid_iter, ctx.batches)
    order = order_of(data_of(ctx, name))
    batches = order.order(turn) if order is not None and order.batched else []
    if position >= len(batches):
        return f"batch {position + 1} was due"
    samples = list(map(str, batches[position]))
    more = ", ..." if len(samples) > _SHOWN else ""
    return f"batch {position + 1} was due, of the samples {', '.join(samples[:_SHOWN])}{more}"
