"""What is often wrong with a training run, looked for on one batch and a copy of the model before anything is trained.

Each check is a function of a `Probe` that returns nothing, or what is wrong and how to mend it. They are after A. Karpathy,
A Recipe for Training Neural Networks (2019), and the mistakes that forums are full of.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from attrs import Factory, define
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, Subset, TensorDataset

from statetrain import actions, seeding
from statetrain.losses import bound, unbound
from statetrain.precision import plain

# What a loss function is, for the checks that depend on it.
_KINDS: dict[Any, str] = {
    F.cross_entropy: "cross_entropy", nn.CrossEntropyLoss: "cross_entropy", F.nll_loss: "nll_loss", nn.NLLLoss: "nll_loss",
    F.binary_cross_entropy: "binary_cross_entropy", nn.BCELoss: "binary_cross_entropy",
    F.binary_cross_entropy_with_logits: "binary_cross_entropy_with_logits", nn.BCEWithLogitsLoss: "binary_cross_entropy_with_logits",
    F.mse_loss: "mse_loss", nn.MSELoss: "mse_loss", F.l1_loss: "l1_loss", nn.L1Loss: "l1_loss",
    F.smooth_l1_loss: "smooth_l1_loss", nn.SmoothL1Loss: "smooth_l1_loss", F.huber_loss: "huber_loss", nn.HuberLoss: "huber_loss",
}  # fmt: skip
_BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
_DISTANCES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")


# ---------------------------------------------------------------- what is looked at


@define(eq=False)
class Probe:
    """A run before it starts, and what one batch gave on a copy of its model, losses and optimizers.

    What could not be found out is None, and says nothing.

    Attributes:
        ctx: the run's context; it is not to be changed.
        aside: a copy of it with the copies, and with the batch: `aside.input`, `aside.target`, `aside.pred`, `aside.model`.
        kind: what the loss function is, by its name in `torch.nn.functional`; empty for one of the user's own.
        data_error: why the training data could not be read.
        error: why the model or the loss could not be computed.
        valid_error: why the validation could not.
        before, after: the losses of the batch, by optimizer, before and after one step.
        gradients: for each parameter that is trained, whether the loss depends on it and how large its gradient is at most.
    """

    ctx: Any
    aside: Any = None
    kind: str = ""
    data_error: str | None = None
    error: str | None = None
    valid_error: str | None = None
    before: dict[str, float] = Factory(dict)
    after: dict[str, float] = Factory(dict)
    gradients: dict[str, float | None] = Factory(dict)

    @property
    def pred(self) -> Tensor | None:
        """What the loss takes of the prediction, if that is one tensor."""
        pred = None if self.aside is None else self.aside.pred
        pred = pred if pred is None or self.ctx.pick is None else self.ctx.pick(pred)
        return pred.detach() if isinstance(pred, Tensor) else None

    @property
    def target(self) -> Tensor | None:
        """The target, if it is one tensor."""
        target = None if self.aside is None else self.aside.target
        return target if isinstance(target, Tensor) else None


Check = Callable[[Probe], "str | None"]


def problems(ctx: Any, lifecycle: Any, checks: Iterable[Check]) -> dict[str, str]:
    """What checks find, by their names. The run is left as it was: weights, gradients, generators, data.

    Args:
        ctx: a `Context` that has not run.
        lifecycle: that is to be walked.
        checks: are called in this order.
    """
    with _left_alone(ctx), torch.enable_grad():
        probe = _probed(ctx, lifecycle)
        return {check.__name__: found for check in checks if (found := check(probe))}


@contextmanager
def _left_alone(ctx: Any) -> Iterator[None]:
    """Puts back what drawing a batch and computing with it may move: generators, and gradients of tensors that a loss holds on to."""
    data = [loader for loader in (ctx.train_data, ctx.valid_data) if loader is not None]
    before = [ctx.accelerator.random_states(loader) for loader in data] or [ctx.accelerator.random_states()]
    own = seeding.own_states(*ctx.model.modules())
    gradients = [(parameter, parameter.grad) for parameter in ctx.model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for loader, states in zip(data or [None], before, strict=True):
            ctx.accelerator.set_random_states(states, loader)
        seeding.set_own_states(own, *ctx.model.modules())


def _probed(ctx: Any, lifecycle: Any) -> Probe:
    probe = Probe(ctx)
    try:
        batch = first_batch(ctx.train_data)
        if batch is None:
            return probe
        layout = ctx.read_batch(batch)
        batch = batch if layout.place is None else layout.place(batch)
        given, target = layout.split(batch)
    except Exception as error:
        probe.data_error = _words(error)
        return probe
    try:
        aside = copy.copy(ctx)  # what is assigned to it does not reach the run
        memo: dict[int, Any] = {}
        copies = copy.deepcopy((ctx.accelerator.unwrap(ctx.model), unbound(ctx.loss_fns), ctx.optimizers), memo)
        for optimizer, copied in zip(ctx.optimizers.values(), copies[2].values(), strict=True):
            for name in vars(optimizer).keys() - vars(copied).keys():  # torch leaves out what some have beside their groups, as LBFGS
                setattr(copied, name, copy.deepcopy(vars(optimizer)[name], memo))
    except Exception:
        return probe  # a model that cannot be copied is not computed with
    aside.model, losses, aside.optimizers = copies
    aside.loss_fns = bound(losses, aside)
    aside.layout, aside.batch, aside.input, aside.target, aside.batch_size = layout, batch, given, target, layout.size(given)
    probe.aside = aside
    loss = next(iter(losses.values()), None)
    probe.kind = _KINDS.get(type(loss), "") or (_KINDS.get(loss, "") if callable(loss) and not isinstance(loss, nn.Module) else "")
    done = [plain(state.action) for state in lifecycle.states]
    if actions.pred in done and actions.loss in done and all(each is not None for each in losses.values()):
        _train_once(probe)
        if probe.before and probe.error is None and actions.valid_loss in done and ctx.valid_data is not None:
            _validate_once(probe)
    return probe


def _train_once(probe: Probe) -> None:
    aside = probe.aside
    aside.model.train()
    try:
        _again(aside)
        if labels_in_range(probe) or shapes_of_prediction_and_target(probe):
            return  # the loss would fail, and on some devices take the process with it
        for name, optimizer in aside.optimizers.items():
            aside.opt, aside.opt_name, aside.loss_fn = optimizer, name, aside.loss_fns[name]
            probe.before[name] = _with_gradients(aside)
            for named, parameter in aside.model.named_parameters():
                if parameter.requires_grad:
                    here = None if parameter.grad is None else float(parameter.grad.abs().max())
                    known = probe.gradients.get(named)
                    probe.gradients[named] = here if known is None else known if here is None else max(here, known)
            optimizer.step(lambda: torch.tensor(_with_gradients(aside)))
            _again(aside)
            actions.loss(aside)
            probe.after[name] = float(aside.loss_grad.detach())
    except Exception as error:
        probe.error = _words(error)
    finally:
        aside.model.zero_grad()


def _again(aside: Any) -> None:
    """The prediction, with the same random numbers each time, so that losses can be compared."""
    seeding.seed_all(0, aside.accelerator.device)
    actions.pred(aside)


def _with_gradients(aside: Any) -> float:
    for optimizer in aside.optimizers.values():
        optimizer.zero_grad()
    _again(aside)
    actions.loss(aside)
    aside.loss_grad.backward()
    return float(aside.loss_grad.detach())


def _validate_once(probe: Probe) -> None:
    aside = copy.copy(probe.aside)
    aside.model.eval()
    try:
        batch = first_batch(probe.ctx.valid_data)
        if batch is None:
            return
        aside.layout = probe.ctx.read_batch(batch)
        aside.batch = batch if aside.layout.place is None else aside.layout.place(batch)
        aside.input, aside.target = aside.layout.split(aside.batch)
        with torch.no_grad():
            actions.pred(aside)
            of_valid = Probe(probe.ctx, aside, probe.kind)
            probe.valid_error = labels_in_range(of_valid) or shapes_of_prediction_and_target(of_valid)
            if probe.valid_error is None:  # else the loss would fail, as above
                actions.loss(aside)
    except Exception as error:
        probe.valid_error = _words(error)


def first_batch(data: Any) -> Any:
    """A batch as the first of an epoch would be; None where nobody can look at one without moving the data."""
    if data is None or hasattr(data, "__next__") or (hasattr(data, "state_dict") and hasattr(data, "load_state_dict")):
        return None
    if not isinstance(data, DataLoader):
        return next(iter(data))
    if isinstance(data.dataset, IterableDataset):
        samples: Any = iter(data.dataset)
        if samples is data.dataset:
            return None
        return next(samples) if data.batch_size is None else data.collate_fn(list(itertools.islice(samples, data.batch_size)))
    # Without the loader's workers, which take long to start.
    if data.batch_sampler is None:
        return data.collate_fn(data.dataset[next(iter(data.sampler))])
    return data.collate_fn([data.dataset[index] for index in next(iter(data.batch_sampler))])


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'without a message'}"


def _tensors(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, Mapping):
        yield from itertools.chain.from_iterable(map(_tensors, thing.values()))
    elif isinstance(thing, list | tuple):
        yield from itertools.chain.from_iterable(map(_tensors, thing))


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} others" if len(names) > 4 else "")


# ---------------------------------------------------------------- the data


def training_data_can_be_read(probe: Probe) -> str | None:
    "A batch has an input and a target."
    return probe.data_error and f"no batch could be made of the training data ({probe.data_error}); look at next(iter(train)), and say what is what with input= and target="


def training_data_is_shuffled(probe: Probe) -> str | None:
    "Its order differs from epoch to epoch."
    if isinstance(_sampler(probe.ctx.train_data), SequentialSampler):
        return "the training data comes in the same order in each epoch; give DataLoader(..., shuffle=True)"
    return None


def sets_do_not_overlap(probe: Probe) -> str | None:
    "No sample is in both sets, as far as datasets and indices tell."
    train, valid = (_samples(data) for data in (probe.ctx.train_data, probe.ctx.valid_data))
    if train is None or valid is None or not _same(train[0], valid[0]):
        return None
    total = len(valid[0]) if valid[1] is None else len(valid[1])
    both = total if train[1] is None else len(train[1]) if valid[1] is None else len(set(train[1]) & set(valid[1]))
    return f"{both} of the {total} validation samples are training samples too; hold some back, as by valid=0.2" if both else None


def inputs_are_finite(probe: Probe) -> str | None:
    "No NaN and no infinity."
    bad = any(not bool(part.isfinite().all()) for part in _floats(probe, "input"))
    return "the inputs have NaN or infinite values; fill or drop these, or look at how they are normalized (a division by 0?)" if bad else None


def inputs_are_scaled(probe: Probe) -> str | None:
    "Values of the order of 1, which initial weights are made for."
    largest = max((float(part.abs().max()) for part in _floats(probe, "input") if part.numel() and bool(part.isfinite().all())), default=0.0)
    return f"the inputs go up to {largest:g}; scale them to about -1 to 1, for example pictures by 1/255, columns by their mean and deviation" if largest > 100 else None


def targets_vary(probe: Probe) -> str | None:
    "Not all samples of a batch have one label."
    target = probe.target
    if target is None or target.shape[:1] != (probe.aside.batch_size,) or len(target) < 8 or not bool((target == target[:1]).all()):
        return None
    return f"all {len(target)} targets of a batch are the same; is the data sorted by label? Shuffle it"


def last_batch_is_not_one_sample(probe: Probe) -> str | None:
    "Batch norm needs more than one."
    norms = [module for module in probe.ctx.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    sampler: Any = _batches(probe.ctx.train_data)
    if not norms or sampler is None or not hasattr(sampler.sampler, "__len__"):
        return None
    if sampler.batch_size == 1:
        return "the batch size is 1, and the model has batch norm, which needs several samples; take a larger batch, or GroupNorm or LayerNorm"
    if not sampler.drop_last and len(sampler.sampler) % sampler.batch_size == 1:
        return "the last batch of an epoch has one sample, and the model has batch norm, which needs several; give drop_last=True or another batch_size"
    return None


def _floats(probe: Probe, name: str) -> list[Tensor]:
    return [part for part in _tensors(getattr(probe.aside, name, None)) if part.is_floating_point()]


def _batches(data: Any) -> BatchSampler | None:
    """What makes a loader's batches."""
    sampler = getattr(data, "batch_sampler", None) if isinstance(data, DataLoader) else None
    sampler = sampler.sampler if isinstance(sampler, seeding.KeyedOrder) else sampler
    return sampler if type(sampler) is BatchSampler else None


def _sampler(data: Any) -> Any:
    if not isinstance(data, DataLoader) or isinstance(data.dataset, IterableDataset):
        return None
    batches = _batches(data)
    sampler = data.sampler if batches is None else batches.sampler
    return sampler.sampler if isinstance(sampler, seeding.KeyedOrder) else sampler


def _samples(data: Any) -> tuple[Any, list[Any] | None] | None:
    """The dataset that a loader's samples come from, and which of it; None for all."""
    dataset = getattr(data, "dataset", None)
    if dataset is None or isinstance(dataset, IterableDataset):
        return None
    chosen: list[Any] | None = None
    while isinstance(dataset, Subset | seeding.KeyedDataset):
        if isinstance(dataset, Subset):
            chosen = list(dataset.indices) if chosen is None else [dataset.indices[i] for i in chosen]
        dataset = dataset.dataset
    return dataset, chosen


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, TensorDataset) and isinstance(other, TensorDataset):
        first, second = one.tensors[0], other.tensors[0]
        return first.data_ptr() == second.data_ptr() and first.shape == second.shape and first.numel() > 0
    return one is other


# ---------------------------------------------------------------- the model and the loss


def model_and_loss_fit(probe: Probe) -> str | None:
    "The model takes the input, and the loss the prediction and the target."
    return probe.error and f"a step on one batch failed ({probe.error}); compare the shapes and types of a batch with what the model and the loss take"


def validation_works(probe: Probe) -> str | None:
    "A validation batch can be read, and has a loss."
    return probe.valid_error and f"a validation batch failed ({probe.valid_error}); it needs the structure of a training batch"


def model_is_float(probe: Probe) -> str | None:
    "Weights are kept in float32 or more."
    half = [name for name, p in probe.ctx.model.named_parameters() if p.requires_grad and p.dtype in (torch.float16, torch.bfloat16)]
    return f'the weights {_few(half)} are in half precision, in which small updates are lost; keep them in float32 and give precision="bf16"' if half else None


def weights_are_finite(probe: Probe) -> str | None:
    "No NaN and no infinity to begin with."
    bad = [name for name, p in probe.ctx.model.named_parameters() if p.is_floating_point() and not bool(p.isfinite().all())]
    return f"the weights {_few(bad)} have NaN or infinite values before training; look at how they are made or loaded" if bad else None


def optimizer_has_all_parameters(probe: Probe) -> str | None:
    "What can be trained is trained."
    held = {id(p) for optimizer in probe.ctx.optimizers.values() for group in optimizer.param_groups for p in group["params"]}
    left = [name for name, p in probe.ctx.model.named_parameters() if p.requires_grad and id(p) not in held]
    return f"no optimizer has the parameters {_few(left)}; give it model.parameters() once all layers are made, or freeze these with requires_grad_(False)" if left and held else None


def labels_in_range(probe: Probe) -> str | None:
    "Class labels are 0 to classes - 1; targets of binary losses 0 to 1."
    pred, target = probe.pred, probe.target
    if pred is None or target is None or not target.numel() or not pred.dim():
        return None
    if probe.kind in ("cross_entropy", "nll_loss") and not target.is_floating_point():
        classes = pred.shape[1] if pred.dim() > 1 else pred.shape[0]
        labels = target[target != getattr(_loss(probe), "ignore_index", -100)]
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            return f"labels go from {int(labels.min())} to {int(labels.max())}, and the model tells {classes} classes, 0 to {classes - 1}; count labels from 0, or give the last layer as many outputs"
    if probe.kind in _BINARY and not 0 <= float(target.min()) <= float(target.max()) <= 1:
        return f"targets go from {float(target.min()):g} to {float(target.max()):g}, and {probe.kind} takes 0 to 1; map them, for example -1 and 1 to 0 and 1"
    return None


def shapes_of_prediction_and_target(probe: Probe) -> str | None:
    "A loss of differences takes the same shape twice; others would be repeated into each other."
    pred, target = probe.pred, probe.target
    if pred is None or target is None or probe.kind not in (*_DISTANCES, *_BINARY) or pred.shape == target.shape:
        return None
    fix = "target.unsqueeze(1)" if pred.dim() == target.dim() + 1 else "pred.squeeze(1)"
    return f"the prediction has shape {tuple(pred.shape)} and the target {tuple(target.shape)}, which {probe.kind} compares each with each, or refuses; make them the same, as by {fix}"


def prediction_is_finite(probe: Probe) -> str | None:
    "The prediction and the loss are finite to begin with."
    bad = any(not bool(part.isfinite().all()) for part in _floats(probe, "pred") if not weights_are_finite(probe))
    bad = bad or any(not math.isfinite(loss) for loss in probe.before.values())
    return "the prediction or the loss of the first batch is not finite; look for a log or a division of 0 in the model and the loss, and at the inputs" if bad else None


def prediction_suits_the_loss(probe: Probe) -> str | None:
    "Losses that take logits get logits, and those that take probabilities these."
    pred = probe.pred
    if pred is None or not pred.numel() or not pred.is_floating_point():
        return None
    low, high = float(pred.min()), float(pred.max())
    if probe.kind == "cross_entropy" and pred.dim() > 1 and low >= 0 and bool(torch.allclose(pred.sum(1), torch.ones(()).to(pred), atol=1e-3)):
        return "the model ends with a softmax, and cross_entropy takes one itself; leave it out of the model, for training hardly gets on with two"
    if probe.kind == "nll_loss" and high > 0:
        return "nll_loss takes logarithms of probabilities, and the prediction has values above 0; end the model with log_softmax, or take cross_entropy"
    if probe.kind == "binary_cross_entropy_with_logits" and low >= 0 and high <= 1 and any(isinstance(m, nn.Sigmoid) for m in list(probe.ctx.model.modules())[-1:]):
        return "the model ends with a sigmoid, and binary_cross_entropy_with_logits takes one itself; leave it out of the model"
    if probe.kind == "binary_cross_entropy" and not 0 <= low <= high <= 1:
        return "binary_cross_entropy takes probabilities, and the prediction goes beyond 0 to 1; take binary_cross_entropy_with_logits"
    return None


def first_loss_is_that_of_guessing(probe: Probe) -> str | None:
    "Before training, a classifier is not surer than one that guesses."
    pred, loss = probe.pred, next(iter(probe.before.values()), math.nan)
    if probe.kind != "cross_entropy" or pred is None or pred.dim() < 2 or pred.shape[1] < 2:
        return None
    guess = math.log(pred.shape[1])
    return f"the first loss is {loss:.3g}, where guessing among {pred.shape[1]} classes gives {guess:.3g}; scale the inputs, or make the last layer's weights smaller" if loss > 3 * guess else None


def gradients_reach_all_parameters(probe: Probe) -> str | None:
    "The loss depends on all that is trained, and the gradients are finite."
    if none := [name for name, size in probe.gradients.items() if size is None]:
        return f"the loss does not depend on {_few(none)}; are these used in forward, and nothing on the way detached? Freeze what is not meant to be trained"
    if bad := [name for name, size in probe.gradients.items() if size is not None and not math.isfinite(size)]:
        return f"the gradients of {_few(bad)} are not finite; look for a root or a log at 0 in the loss"
    if len(zero := [name for name, size in probe.gradients.items() if size == 0]) and any(loss for loss in probe.before.values()):
        return f"the gradients of {_few(zero)} are all 0; are the units before them dead, or the output saturated? Look at initial weights and the scale of the inputs"
    return None


def one_step_lowers_the_loss(probe: Probe) -> str | None:
    "On the very batch that it was made with."
    for name, before in probe.before.items():
        after = probe.after.get(name, math.nan)
        rate = probe.ctx.optimizers[name].param_groups[0].get("lr")
        if not math.isfinite(before) or before == 0 or after < before:
            continue
        if after == before:
            return f"a step changes nothing: the loss stays {before:.4g}; is the learning rate ({rate}) 0, or everything frozen?"
        return f"a step raises the loss of its own batch from {before:.4g} to {after:.4g}; the learning rate ({rate}) may be too large, or the loss has the wrong sign"
    return None


def samples_do_not_mix(probe: Probe) -> str | None:
    "In eval mode, what comes out for one sample depends on that one alone."
    aside, pred = probe.aside, probe.pred
    if pred is None or not isinstance(aside.input, Tensor) or not aside.input.is_floating_point() or not 2 <= len(aside.input) == len(pred):
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
    return "the prediction for a sample depends on the others of its batch; look for a view, a transpose or a mean over the first dimension" if mixed else None


def _loss(probe: Probe) -> Any:
    return next(iter(probe.ctx.loss_fns.values()), None)


CHECKS: tuple[Check, ...] = (
    *(training_data_can_be_read, training_data_is_shuffled, sets_do_not_overlap, inputs_are_finite, inputs_are_scaled, targets_vary),
    *(last_batch_is_not_one_sample, model_and_loss_fit, validation_works, model_is_float, weights_are_finite, optimizer_has_all_parameters),
    *(labels_in_range, shapes_of_prediction_and_target, prediction_is_finite, prediction_suits_the_loss, first_loss_is_that_of_guessing),
    *(gradients_reach_all_parameters, one_step_lowers_the_loss, samples_do_not_mix),
)
