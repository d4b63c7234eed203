"""Checks of the model and the loss."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from statetrain.sanity.probe import BINARY, DISTANCES, Probe, few, floats
from statetrain.standard import actions


def model_and_loss_fit(probe: Probe) -> str | None:
    "The model takes the input, and the loss the prediction and the target."
    return (
        probe.error
        and f"a step on one batch failed ({probe.error}); compare the shapes and types of a batch with what the model and the loss take"
    )


def validation_works(probe: Probe) -> str | None:
    "A validation batch can be read, and has a loss."
    return (
        probe.valid_error
        and f"a validation batch failed ({probe.valid_error}); it needs the structure of a training batch"
    )


def model_is_float(probe: Probe) -> str | None:
    "Weights are kept in float32 or more."
    half = [
        name
        for name, p in probe.ctx.params.items()
        if p.requires_grad and p.dtype in (torch.float16, torch.bfloat16)
    ]
    return (
        f"the weights {few(half)} are in half precision, in which small updates are lost; keep them"
        ' in float32 and give precision="bf16"'
        if half
        else None
    )


def weights_are_finite(probe: Probe) -> str | None:
    "No NaN and no infinity to begin with."
    bad = [
        name
        for name, p in probe.ctx.params.items()
        if p.is_floating_point() and not bool(p.isfinite().all())
    ]
    return (
        f"the weights {few(bad)} have NaN or infinite values before training; look at how they are"
        " made or loaded"
        if bad
        else None
    )


def optimizer_has_all_parameters(probe: Probe) -> str | None:
    "What can be trained is trained."
    held = {
        id(p)
        for optimizer in probe.ctx.optimizers.values()
        for group in optimizer.param_groups
        for p in group["params"]
    }
    left = [name for name, p in probe.ctx.params.items() if p.requires_grad and id(p) not in held]
    return (
        f"no optimizer has the parameters {few(left)}; give it model.parameters() once all layers"
        " are made, or freeze these with requires_grad_(False)"
        if left and held
        else None
    )


def labels_in_range(probe: Probe) -> str | None:
    "Class labels are 0 to classes - 1; targets of binary losses 0 to 1."
    pred, target = probe.pred, probe.target
    if pred is None or target is None or not target.numel() or not pred.dim():
        return None
    if probe.kind in ("cross_entropy", "nll_loss") and not target.is_floating_point():
        classes = pred.shape[1] if pred.dim() > 1 else pred.shape[0]
        labels = target[
            target != getattr(next(iter(probe.ctx.loss_fns.values()), None), "ignore_index", -100)
        ]
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            return (
                f"labels go from {int(labels.min())} to {int(labels.max())}, and the model tells"
                f" {classes} classes, 0 to {classes - 1}; count labels from 0, or give the last"
                " layer as many outputs"
            )
    if probe.kind in BINARY and not 0 <= float(target.min()) <= float(target.max()) <= 1:
        return (
            f"targets go from {float(target.min()):g} to {float(target.max()):g}, and {probe.kind}"
            " takes 0 to 1; map them, for example -1 and 1 to 0 and 1"
        )
    return None


def shapes_of_prediction_and_target(probe: Probe) -> str | None:
    "A loss of differences takes the same shape twice; others would be repeated into each other."
    pred, target = probe.pred, probe.target
    if (
        pred is None
        or target is None
        or probe.kind not in (*DISTANCES, *BINARY)
        or pred.shape == target.shape
    ):
        return None
    fix = "target.unsqueeze(1)" if pred.dim() == target.dim() + 1 else "pred.squeeze(1)"
    return (
        f"the prediction has shape {tuple(pred.shape)} and the target {tuple(target.shape)}, which"
        f" {probe.kind} compares each with each, or refuses; make them the same, as by {fix}"
    )


def prediction_is_finite(probe: Probe) -> str | None:
    "The prediction and the loss are finite to begin with."
    bad = any(
        not bool(part.isfinite().all())
        for part in floats(probe, "pred")
        if not weights_are_finite(probe)
    )
    bad = bad or any(not math.isfinite(loss) for loss in probe.before.values())
    return (
        "the prediction or the loss of the first batch is not finite; look for a log or a division"
        " of 0 in the model and the loss, and at the inputs"
        if bad
        else None
    )


def prediction_suits_the_loss(probe: Probe) -> str | None:
    "Losses that take logits get logits, and those that take probabilities these."
    pred = probe.pred
    if pred is None or not pred.numel() or not pred.is_floating_point():
        return None
    low, high = float(pred.min()), float(pred.max())
    if (
        probe.kind == "cross_entropy"
        and pred.dim() > 1
        and low >= 0
        and bool(torch.allclose(pred.sum(1), torch.ones(()).to(pred), atol=1e-3))
    ):
        return (
            "the model ends with a softmax, and cross_entropy takes one itself; leave it out of the"
            " model, for training hardly gets on with two"
        )
    if probe.kind == "nll_loss" and high > 0:
        return (
            "nll_loss takes logarithms of probabilities, and the prediction has values above 0; end"
            " the model with log_softmax, or take cross_entropy"
        )
    if (
        probe.kind == "binary_cross_entropy_with_logits"
        and low >= 0
        and high <= 1
        and any(isinstance(m, nn.Sigmoid) for m in list(probe.ctx.model.modules())[-1:])
    ):
        return (
            "the model ends with a sigmoid, and binary_cross_entropy_with_logits takes one itself;"
            " leave it out of the model"
        )
    if probe.kind == "binary_cross_entropy" and not 0 <= low <= high <= 1:
        return (
            "binary_cross_entropy takes probabilities, and the prediction goes beyond 0 to 1; take"
            " binary_cross_entropy_with_logits"
        )
    return None


def first_loss_is_that_of_guessing(probe: Probe) -> str | None:
    "Before training, a classifier is not surer than one that guesses."
    pred, loss = probe.pred, next(iter(probe.before.values()), math.nan)
    if probe.kind != "cross_entropy" or pred is None or pred.dim() < 2 or pred.shape[1] < 2:
        return None
    guess = math.log(pred.shape[1])
    return (
        f"the first loss is {loss:.3g}, where guessing among {pred.shape[1]} classes gives"
        f" {guess:.3g}; scale the inputs, or make the last layer's weights smaller"
        if loss > 3 * guess
        else None
    )


def gradients_reach_all_parameters(probe: Probe) -> str | None:
    "The loss depends on all that is trained, and the gradients are finite."
    if none := [name for name, size in probe.gradients.items() if size is None]:
        return (
            f"the loss does not depend on {few(none)}; are these used in forward, and nothing on"
            " the way detached? Freeze what is not meant to be trained"
        )
    if bad := [
        name
        for name, size in probe.gradients.items()
        if size is not None and not math.isfinite(size)
    ]:
        return (
            f"the gradients of {few(bad)} are not finite; look for a root or a log at 0 in the loss"
        )
    if len(zero := [name for name, size in probe.gradients.items() if size == 0]) and any(
        loss for loss in probe.before.values()
    ):
        return (
            f"the gradients of {few(zero)} are all 0; are the units before them dead, or the output"
            " saturated? Look at initial weights and the scale of the inputs"
        )
    return None


def one_step_lowers_the_loss(probe: Probe) -> str | None:
    "On the very batch that it was made with."
    for name, before in probe.before.items():
        after = probe.after.get(name, math.nan)
        rate = probe.ctx.optimizers[name].param_groups[0].get("lr")
        if not math.isfinite(before) or before == 0 or after < before:
            continue
        if after == before:
            return (
                f"a step changes nothing: the loss stays {before:.4g}; is the learning rate"
                f" ({rate}) 0, or everything frozen?"
            )
        return (
            f"a step raises the loss of its own batch from {before:.4g} to {after:.4g}; the"
            f" learning rate ({rate}) may be too large, or the loss has the wrong sign"
        )
    return None


def samples_do_not_mix(probe: Probe) -> str | None:
    "In eval mode, what comes out for one sample depends on that one alone."
    aside, pred = probe.aside, probe.pred
    if (
        pred is None
        or not isinstance(aside.input, Tensor)
        or not aside.input.is_floating_point()
        or not 2 <= len(aside.input) == len(pred)
    ):
        return None
    alone = copy.copy(aside)
    alone.model.eval()
    alone.input = aside.input.detach().clone().requires_grad_()
    try:
        actions.pred(alone)
        out = alone.pred if probe.ctx.pick is None else probe.ctx.pick(alone.pred)
        (gradient,) = torch.autograd.grad(out[0].sum(), alone.input, allow_unused=True)
    except Exception:
        return None  # a model that has no such gradient
    mixed = gradient is not None and bool(gradient[1:].nan_to_num().abs().sum() > 0)
    return (
        "the prediction for a sample depends on the others of its batch; look for a view, a"
        " transpose or a mean over the first dimension"
        if mixed
        else None
    )
