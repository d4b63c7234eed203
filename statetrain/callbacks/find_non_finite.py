"""FindNonFinite: which module a loss that is not finite comes from."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from attrs import define

from statetrain.callback import Callback
from statetrain.data.structure import tensors_in
from statetrain.validators import check_whole

if TYPE_CHECKING:
    from statetrain.context.context import Context

log = logging.getLogger("statetrain")


class FindNonFinite(Callback):
    """Names the module that a NaN or infinite loss comes from, in a warning.

    When the loss of a training batch is not finite, the model is called on that batch once more,
    and each module's output is looked at as it is computed. The first one that is not finite is
    named, with whether its input and its weights were. Statistics of batch norm and generators are
    afterwards as they were, so the training is what it is without.

    What becomes of the batch is the policy's, `non_finite=`. Gradients that are not finite though
    the loss is are found by `check_gradients=True`, and the operation by
    `torch.autograd.detect_anomaly()` around `fit`. On a device, each loss is waited for.

    Args:
        times: batches that are looked into, at least 1; after that there are no more warnings.

    Attributes:
        found: what was said, a text for each of these batches.
    """

    reads = ("epoch", "input", "iter", "layout", "loss_value", "model", "pred", "step", "target")
    writes = ()

    def __init__(self, times: int = 3) -> None:
        check_whole("FindNonFinite: times", times)
        self.times = times
        self.found: list[str] = []

    def on_exit_loss(self, ctx: Context) -> None:
        """Examines the batch, if its loss is not finite."""
        if len(self.found) >= self.times or math.isfinite(ctx.loss_value):
            return
        words = f"the loss is {ctx.loss_value} ({ctx.where()}): {_source(ctx)}"
        self.found.append(words)
        log.warning("%s", words)

    def state_dict(self) -> dict[str, Any]:
        """What was found so far."""
        return {"found": self.found}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.found = list(state["found"])


@define
class _FirstFound:
    """The first module of a call whose output is not finite."""

    name: str = ""
    kind: str = ""
    words: str = ""

    def look(self, name: str, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        """Called with what a module was given, and what it returned."""
        if self.name or _is_finite(output):
            return
        self.name, self.kind = name, type(module).__name__
        bad = [own for own, p in module.named_parameters(recurse=False) if not _is_finite(p)]
        if bad:
            self.words = f"its {' and '.join(bad)} had values that are not finite before"
        elif _is_finite(inputs):
            self.words = "its input and its weights are finite"
        else:
            self.words = "its input is not finite, and no module before it returned that"


def _source(ctx: Context) -> str:
    """What a loss that is not finite comes from, as text."""
    if not _is_finite(ctx.input):
        return "the input of the batch has values that are not finite"
    found = _first_in(ctx)
    if found.name:
        return (
            f"the first output that is not finite is that of {found.name!r} ({found.kind});"
            f" {found.words}"
        )
    if not _is_finite(ctx.pred):
        return "the prediction is not finite, though the model's output was when called once more"
    if not _is_finite(ctx.target):
        return "the model's output is finite, and the target is not"
    return "the model's output and the target are finite, so it is computed in the loss"


def _first_in(ctx: Context) -> _FirstFound:
    """Calls the model on the batch again."""
    model, found = ctx.accelerator.unwrap(ctx.model), _FirstFound()
    forward = ctx.layout.forward or _call
    with _as_before(model), ExitStack() as until:
        for name, module in model.named_modules():
            look = partial(found.look, name or "model")
            until.callback(module.register_forward_hook(look).remove)
        forward(ctx.model, ctx.input)
    return found


def _call(model: Any, given: Any) -> Any:
    return model(given)


@contextmanager
def _as_before(model: torch.nn.Module) -> Iterator[None]:
    """Puts buffers and generators back, whatever a call of the model does to them."""
    kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        with torch.no_grad():
            for buffer, copy in kept:
                buffer.copy_(copy)


def _is_finite(thing: Any) -> bool:
    """Whether all floating-point numbers in it are finite."""
    return all(bool(one.isfinite().all()) for one in tensors_in(thing) if one.is_floating_point())
