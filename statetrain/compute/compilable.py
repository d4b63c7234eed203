"""What keeps the whole update from being compiled as one function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from statetrain.context.keys import root_of
from statetrain.contracts.composing import parts_of
from statetrain.losses.losses import terms_of
from statetrain.standard import actions
from statetrain.standard.fusing import Fused
from statetrain.standard.parameters import parameters_of
from statetrain.standard.precision import plain

# What the compiled function does itself, or its caller after it.
_KNOWN = (
    actions.pred,
    actions.loss,
    actions.backward,
    actions.update_weights,
    actions.update_finite,
    actions.count_step,
)
_OF_THE_BATCH = ("pred", "input", "target", "batch")
_UNTRACEABLE = ("Adafactor", "SparseAdam")  # their steps ask for numbers, or for sparse gradients
INSTEAD = "use compile='model' for the model alone, or leave compile out"


def can_trace() -> bool:
    """Whether this torch's compiler can trace gradients within a function: 2.11 and later."""
    import torch._dynamo  # loading it takes a second, and most runs do not need it

    return hasattr(torch._dynamo.config, "trace_autograd_ops")


def find_obstacle(
    fused: Fused, optimizers: Mapping[str, Any], losses: Mapping[str, Any], backward: Any = None
) -> str:
    """Why a fused state cannot be compiled as a whole, and what to do; empty if it can be.

    Args:
        fused: its action.
        optimizers: by name.
        losses: by optimizer, as they were given.
        backward: what computes the gradients in place of torch; None is torch.
    """
    if len(optimizers) > 1:
        return f"there are {len(optimizers)} optimizers that take turns; {INSTEAD}"
    if others := find_other_work(fused):
        return (
            f"{getattr(others[0], '__name__', others[0])!r} is more than the model, the loss, their"
            f" gradients and a step; {INSTEAD}"
        )
    if backward is not None:
        return f"the accelerator has its own backward; {INSTEAD}"
    for name, loss in losses.items():
        if why := _find_in_loss(loss):
            return f"the loss for {name!r} {why}; {INSTEAD}"
    for name, optimizer in optimizers.items():
        if why := _find_in_optimizer(name, optimizer):
            return why
    return ""


def find_other_work(fused: Fused) -> list[Any]:
    """The actions of a fused state besides model, loss, gradients and step."""
    parts = (part for action in fused.actions for part in parts_of(action))
    return [part for part in map(plain, parts) if part not in _KNOWN]


def _find_in_loss(loss: Any) -> str:
    """What a loss by keys reads besides the batch, or that changes; empty if nothing."""
    for one in terms_of(loss):
        if one.masked:
            return "has a mask or weights of samples"
        if not isinstance(one.weight, int | float):
            return f"has the weight {one.weight!r:.80}, which may be another one in each batch"
        others = sorted(path for path in one.reads if root_of(path) not in _OF_THE_BATCH)
        if others:
            return f"reads {others[0]!r}, which is more than the batch and the prediction"
    return ""


def _find_in_optimizer(name: str, optimizer: Any) -> str:
    kind = type(optimizer).__name__
    if not type(optimizer).__module__.startswith("torch.optim"):
        return (
            f"{kind} is a custom optimizer, whose step may do what a compiled one leaves out;"
            f" {INSTEAD}"
        )
    if kind in _UNTRACEABLE:
        return f"torch does not compile the step of {kind}; use another optimizer, or {INSTEAD}"
    if any(group.get("differentiable") for group in optimizer.param_groups):
        return (
            f"optimizer {name!r} was made with differentiable=True; make it without, or {INSTEAD}"
        )
    if any(map(_has_gradient_hook, parameters_of(optimizer))):
        return (
            f"a weight of optimizer {name!r} has a hook on its gradient, which would not be"
            f" called; {INSTEAD}"
        )
    return find_step_hook(name, optimizer)


def _has_gradient_hook(weight: Any) -> bool:
    return bool(weight._backward_hooks or weight._post_accumulate_grad_hooks)


def find_step_hook(name: str, optimizer: Any) -> str:
    """The hooks around a step that a compiled one would skip, as text; empty if there are none."""
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return (
            f"optimizer {name!r} has hooks around its step, which would not be called; write a"
            f" callback with on_exit_step, or {INSTEAD}"
        )
    own = vars(optimizer).get("step")
    # Torch's schedules replace the step by their own, to see that steps are made.
    if own is not None and not hasattr(own, "_wrapped_by_lr_sched"):
        return (
            f"optimizer {name!r} has its step replaced, and the new one would not be called; make"
            f" it a method of its class, or {INSTEAD}"
        )
    return ""
