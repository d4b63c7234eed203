"""The usual mistakes, looked for on one batch and a copy of the model before training.

Each check is a function of a `Probe` that returns nothing, or what is wrong and how to mend it.
They are after A. Karpathy, A Recipe for Training Neural Networks (2019), and the mistakes that
forums are full of.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from statetrain.checkpoints.objects import has_state
from statetrain.compute import seeding
from statetrain.compute.copying import computed_in
from statetrain.losses.losses import bound, unbound
from statetrain.sanity.of_data import (
    inputs_are_finite,
    inputs_are_scaled,
    last_batch_is_not_one_sample,
    sets_do_not_overlap,
    targets_vary,
    training_data_can_be_read,
    training_data_is_shuffled,
    validation_data_is_given,
)
from statetrain.sanity.of_model import (
    first_loss_is_that_of_guessing,
    gradients_reach_all_parameters,
    labels_in_range,
    model_and_loss_fit,
    model_is_float,
    one_step_lowers_the_loss,
    optimizer_has_all_parameters,
    prediction_is_finite,
    prediction_suits_the_loss,
    samples_do_not_mix,
    shapes_of_prediction_and_target,
    validation_works,
    weights_are_finite,
)
from statetrain.sanity.probe import KINDS, Check
from statetrain.sanity.probe import Probe as Probe
from statetrain.standard import actions
from statetrain.standard.precision import plain

if TYPE_CHECKING:
    from statetrain.context.context import Context

CHECKS: tuple[Check, ...] = (
    *(
        training_data_can_be_read,
        training_data_is_shuffled,
        validation_data_is_given,
        sets_do_not_overlap,
        inputs_are_finite,
        inputs_are_scaled,
        targets_vary,
    ),
    *(
        last_batch_is_not_one_sample,
        model_and_loss_fit,
        validation_works,
        model_is_float,
        weights_are_finite,
        optimizer_has_all_parameters,
    ),
    *(
        labels_in_range,
        shapes_of_prediction_and_target,
        prediction_is_finite,
        prediction_suits_the_loss,
        first_loss_is_that_of_guessing,
    ),
    *(gradients_reach_all_parameters, one_step_lowers_the_loss, samples_do_not_mix),
)


def problems(ctx: Context, lifecycle: Any, checks: Iterable[Check]) -> dict[str, str]:
    """What checks find, by their names. Weights, gradients, generators and data stay as they were.

    Args:
        ctx: a `Context` that has not run.
        lifecycle: that is to be walked.
        checks: are called in this order.
    """
    with _preserve(ctx), torch.enable_grad():
        probe = _probe(ctx, lifecycle)
        return {check.__name__: found for check in checks if (found := check(probe))}


@contextmanager
def _preserve(ctx: Context) -> Iterator[None]:
    """Restores what drawing and computing a batch changes: generators, and gradients."""
    data = [loader for loader in (ctx.train_data, ctx.valid_data) if loader is not None]
    loaders: list[Any] = data or [None]  # without data, the generators alone
    before = [ctx.accelerator.random_states(loader) for loader in loaders]
    own = seeding.own_states(*ctx.model.modules())
    gradients = [(parameter, parameter.grad) for parameter in ctx.model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for loader, states in zip(loaders, before, strict=True):
            ctx.accelerator.set_random_states(states, loader)
        seeding.set_own_states(own, *ctx.model.modules())


def _probe(ctx: Context, lifecycle: Any) -> Probe:
    """What one batch gives on copies of the model, the losses and the optimizers."""
    probe = Probe(ctx)
    try:
        batch = first_batch(ctx.train_data)
        if batch is None:
            return probe
        aside = copy.copy(ctx)  # what is assigned to it does not reach the run
        _put_batch(aside, batch)
    except Exception as error:
        probe.data_error = _words(error)
        return probe
    try:
        aside.model, losses, aside.optimizers = _copy(ctx)
    except Exception:
        return probe  # a model that cannot be copied is not computed with
    aside.loss_fns = bound(losses, aside)
    probe.aside = aside
    probe.kind = _kind(next(iter(losses.values()), None))
    _compute(probe, [plain(state.action) for state in lifecycle.states])
    return probe


def _put_batch(aside: Context, batch: Any) -> None:
    """Sets the fields of a batch, as `draw` does."""
    layout = aside.read_batch(batch)
    if layout.place is not None:
        batch = layout.place(batch)
    aside.layout, aside.batch = layout, batch
    aside.input, aside.target = layout.split(batch)
    aside.batch_size = layout.size(aside.batch, aside.input, aside.target)


def _copy(ctx: Context) -> tuple[Any, Any, Any]:
    """Copies of the model, the losses and the optimizers, which share tensors as those do."""
    model = ctx.accelerator.unwrap(ctx.model)
    memo: dict[int, Any] = computed_in(model)
    copies = copy.deepcopy((model, unbound(ctx.loss_fns), ctx.optimizers), memo)
    for optimizer, copied in zip(ctx.optimizers.values(), copies[2].values(), strict=True):
        # Torch leaves out what some have besides their groups, as LBFGS
        for name in vars(optimizer).keys() - vars(copied).keys():
            setattr(copied, name, copy.deepcopy(vars(optimizer)[name], memo))
    return copies


def _kind(loss: Any) -> str:
    """The name of a loss function in `torch.nn.functional`, or ""."""
    loss = getattr(loss, "function", loss)  # of a loss by keys
    if isinstance(loss, nn.Module) or not callable(loss):
        return KINDS.get(type(loss), "")
    return KINDS.get(loss, "")


def _compute(probe: Probe, done: list[Any]) -> None:
    """Takes the batch through what the lifecycle does: a step, and a validation."""
    has_losses = all(loss is not None for loss in probe.aside.loss_fns.values())
    if not has_losses or not {actions.pred, actions.loss} <= set(done):
        return
    _train_once(probe)
    worked = probe.error is None and bool(probe.before)
    if worked and actions.valid_loss in done and probe.ctx.valid_data is not None:
        _validate_once(probe)


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
            _note_gradients(probe)
            optimizer.step(lambda: torch.tensor(_with_gradients(aside)))
            _again(aside)
            actions.loss(aside)
            probe.after[name] = float(aside.loss_grad.detach())
    except Exception as error:
        probe.error = _words(error)
    finally:
        aside.model.zero_grad()


def _note_gradients(probe: Probe) -> None:
    """Keeps the largest gradient of each parameter; None as long as there is none."""
    for name, parameter in probe.aside.model.named_parameters():
        if parameter.requires_grad:
            known = probe.gradients.setdefault(name, None)
            if parameter.grad is not None:
                probe.gradients[name] = max(float(parameter.grad.abs().max()), known or 0.0)


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
        _put_batch(aside, batch)
        with torch.no_grad():
            actions.pred(aside)
            of_valid = Probe(probe.ctx, aside, probe.kind)
            probe.valid_error = labels_in_range(of_valid) or shapes_of_prediction_and_target(
                of_valid
            )
            if probe.valid_error is None:  # else the loss would fail, as above
                actions.loss(aside)
    except Exception as error:
        probe.valid_error = _words(error)


def first_batch(data: Any) -> Any:
    """A batch like the first of an epoch; None where drawing one would move the data."""
    if data is None or hasattr(data, "__next__") or has_state(data):
        return None
    if not isinstance(data, DataLoader):
        return next(iter(data))
    # Without the loader's workers, which take long to start
    if isinstance(data.dataset, IterableDataset):
        return _first_of_stream(data)
    if data.batch_sampler is None:
        return data.collate_fn(data.dataset[next(iter(data.sampler))])
    return data.collate_fn([data.dataset[index] for index in next(iter(data.batch_sampler))])


def _first_of_stream(data: DataLoader[Any]) -> Any:
    samples: Any = iter(data.dataset)
    if samples is data.dataset:
        return None
    if data.batch_size is None:
        return next(samples)
    return data.collate_fn(list(itertools.islice(samples, data.batch_size)))


def _words(error: Exception) -> str:
    first, *_ = [*str(error).splitlines(), "without a message"]
    return f"{type(error).__name__}: {first}"
