"""Checks of the model and the loss."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from statetrain.compute.weights import untrained
from statetrain.sanity.probe import BINARY, DISTANCES, Probe, few, floats
from statetrain.standard import actions


def model_and_loss_fit(probe: Probe) -> str | None:
    "The model takes the input, and the loss the prediction and the target."
    if probe.error is None:
        return None
    return (
        f"a step on one batch failed ({probe.error}); compare the shapes and types of a batch with"
        " what the model and the loss take"
    )


def validation_works(probe: Probe) -> str | None:
    "A validation batch can be read, and has a loss."
    if probe.valid_error is None:
        return None
    return (
        f"a validation batch failed ({probe.valid_error}); it needs the structure of a training"
        " batch"
    )


def model_is_float(probe: Probe) -> str | None:
    "Weights are kept in float32 or more."
    half = [
        name
        for name, p in probe.ctx.params.items()
        if p.requires_grad and p.dtype in (torch.float16, torch.bfloat16)
    ]
    if half:
        return (
            f"the weights {few(half)} are in half precision, in which small updates are lost; keep"
            ' them in float32 and give precision="bf16"'
        )
    return None


def weights_are_finite(probe: Probe) -> str | None:
    "No NaN and no infinity to begin with."
    bad = [
        name
        for name, p in probe.ctx.params.items()
        if p.is_floating_point() and not bool(p.isfinite().all())
    ]
    if bad:
        return (
            f"the weights {few(bad)} have NaN or infinite values before training; look at how they"
            " are made or loaded"
        )
    return None


def optimizer_has_all_parameters(probe: Probe) -> str | None:
    "What can be trained is trained."
    left = untrained(probe.ctx)
    if left and probe.ctx.optimizers:
        return (
            f"no optimizer has the parameters {few(left)}; give it model.parameters() once all"
            " layers are made, and those of the loss, or freeze these with requires_grad_(False)"
        )
    return None


def labels_in_range(probe: Probe) -> str | None:
    "Class labels are 0 to classes - 1; targets of binary losses 0 to 1."
    pred, target = probe.pred, probe.target
    if pred is None or target is None or not target.numel() or not pred.dim():
        return None
    if probe.kind in ("cross_entropy", "nll_loss") and not target.is_floating_point():
        loss = next(iter(probe.ctx.loss_fns.values()), None)
        labels = target[target != getattr(loss, "ignore_index", -100)]
        return _find_other_labels(labels, classes=pred.shape[min(1, pred.dim() - 1)])
    if probe.kind in BINARY and not _in_unit_range(target):
        return (
            f"targets go from {float(target.min()):g} to {float(target.max()):g}, and {probe.kind}"
            " takes 0 to 1; map them, for example -1 and 1 to 0 and 1"
        )
    return None


def _find_other_labels(labels: Tensor, classes: int) -> str | None:
    if not labels.numel():
        return None
    least, most = int(labels.min()), int(labels.max())
    if least >= 0 and most < classes:
        return None
    return (
        f"labels go from {least} to {most}, and the model tells {classes} classes, 0 to"
        f" {classes - 1}; count labels from 0, or give the last layer as many outputs"
    )


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
    fix = "pred.squeeze(1)"
    if pred.dim() == target.dim() + 1:
        fix = "target.unsqueeze(1)"
    return (
        f"the prediction has shape {tuple(pred.shape)} and the target {tuple(target.shape)}, which"
        f" {probe.kind} compares each with each, or refuses; make them the same, as by {fix}"
    )


def prediction_is_finite(probe: Probe) -> str | None:
    "The prediction and the loss are finite to begin with."
    sound = all(map(math.isfinite, probe.before.values()))
    if not weights_are_finite(probe):  # else that is what to mend first
        sound = sound and all(bool(part.isfinite().all()) for part in floats(probe, "pred"))
    if not sound:
        return (
            "the prediction or the loss of the first batch is not finite; look for a log or a"
            " division of 0 in the model and the loss, and at the inputs"
        )
    return None


def prediction_suits_the_loss(probe: Probe) -> str | None:
    "Losses that take logits get logits, and those that take probabilities these."
    pred, suits = probe.pred, _SUITS.get(probe.kind)
    if suits is None or pred is None or not pred.numel() or not pred.is_floating_point():
        return None
    return suits(pred, probe.ctx.model)


def _suits_cross_entropy(pred: Tensor, model: nn.Module) -> str | None:
    if pred.dim() < 2 or float(pred.min()) < 0:
        return None
    if not torch.allclose(pred.sum(1), torch.ones(()).to(pred), atol=1e-3):
        return None
    return (
        "the model ends with a softmax, and cross_entropy applies one itself; remove it from the"
        " model: with two of them training makes little progress"
    )


def _suits_nll_loss(pred: Tensor, model: nn.Module) -> str | None:
    if float(pred.max()) <= 0:
        return None
    return (
        "nll_loss takes logarithms of probabilities, and the prediction has values above 0; end"
        " the model with log_softmax, or take cross_entropy"
    )


def _suits_logits(pred: Tensor, model: nn.Module) -> str | None:
    if not isinstance(list(model.modules())[-1], nn.Sigmoid) or not _in_unit_range(pred):
        return None
    return (
        "the model ends with a sigmoid, and binary_cross_entropy_with_logits applies one itself;"
        " remove it from the model"
    )


def _suits_probabilities(pred: Tensor, model: nn.Module) -> str | None:
    if _in_unit_range(pred):
        return None
    return (
        "binary_cross_entropy takes probabilities, and the prediction goes beyond 0 to 1; take"
        " binary_cross_entropy_with_logits"
    )


def _in_unit_range(pred: Tensor) -> bool:
    return 0 <= float(pred.min()) <= float(pred.max()) <= 1


_SUITS = {
    "cross_entropy": _suits_cross_entropy,
    "nll_loss": _suits_nll_loss,
    "binary_cross_entropy_with_logits": _suits_logits,
    "binary_cross_entropy": _suits_probabilities,
}


def first_loss_is_that_of_guessing(probe: Probe) -> str | None:
    "Before training, a classifier is not surer than one that guesses."
    pred, loss = probe.pred, next(iter(probe.before.values()), math.nan)
    if probe.kind != "cross_entropy" or pred is None or pred.dim() < 2 or pred.shape[1] < 2:
        return None
    guess = math.log(pred.shape[1])
    if loss > 3 * guess:
        return (
            f"the first loss is {loss:.3g}, where guessing among {pred.shape[1]} classes gives"
            f" {guess:.3g}; scale the inputs, or make the last layer's weights smaller"
        )
    return None


def gradients_reach_all_parameters(probe: Probe) -> str | None:
    "The loss depends on all that is trained, and the gradients are finite."
    sizes = {name: size for name, size in probe.gradients.items() if size is not None}
    if none := [name for name in probe.gradients if name not in sizes]:
        return (
            f"the loss does not depend on {few(none)}; are these used in forward, and nothing on"
            " the way detached? Freeze what is not meant to be trained"
        )
    if bad := [name for name, size in sizes.items() if not math.isfinite(size)]:
        return (
            f"the gradients of {few(bad)} are not finite; look for a root or a log at 0 in the loss"
        )
    zero = [name for name, size in sizes.items() if size == 0]
    if zero and any(probe.before.values()):
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
    if pred is None or not isinstance(aside.input, Tensor) or not aside.input.is_floating_point():
        return None
    if not 2 <= len(aside.input) == len(pred):
        return None
    try:
        gradient = _gradient_of_first(probe)
    except Exception:
        return None  # a model that has no such gradient
    if gradient is None or not bool(gradient[1:].nan_to_num().abs().sum() > 0):
        return None
    return (
        "the prediction for a sample depends on the others of its batch; look for a view, a"
        " transpose or a mean over the first dimension"
    )


def _gradient_of_first(probe: Probe) -> Tensor | None:
    """How the prediction for the first sample depends on the inputs of all."""
    alone = copy.copy(probe.aside)
    alone.model.eval()
    alone.input = alone.input.detach().clone().requires_grad_()
    actions.pred(alone)
    out = alone.pred
    if probe.ctx.pick is not None:
        out = probe.ctx.pick(out)
    gradient: Tensor | None
    (gradient,) = torch.autograd.grad(out[0].sum(), alone.input, allow_unused=True)
    return gradient
