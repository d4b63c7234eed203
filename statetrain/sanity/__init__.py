"""What is often wrong with a training run, looked for on one batch and a copy of the model before anything is trained.

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

from statetrain.compute import seeding
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
def _left_alone(ctx: Context) -> Iterator[None]:
    """Puts back what drawing a batch and computing with it may move: generators, and gradients of tensors that a loss holds on to."""
    data = [loader for loader in (ctx.train_data, ctx.valid_data) if loader is not None]
    before = [ctx.accelerator.random_states(loader) for loader in data] or [
        ctx.accelerator.random_states()
    ]
    own = seeding.own_states(*ctx.model.modules())
    gradients = [(parameter, parameter.grad) for parameter in ctx.model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for loader, states in zip(data or [None], before, strict=True):  # type: ignore[list-item]  # the generators alone
            ctx.accelerator.set_random_states(states, loader)
        seeding.set_own_states(own, *ctx.model.modules())


def _probed(ctx: Context, lifecycle: Any) -> Probe:
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
        copies = copy.deepcopy(
            (ctx.accelerator.unwrap(ctx.model), unbound(ctx.loss_fns), ctx.optimizers), memo
        )
        for optimizer, copied in zip(ctx.optimizers.values(), copies[2].values(), strict=True):
            for name in (
                vars(optimizer).keys() - vars(copied).keys()
            ):  # torch leaves out what some have beside their groups, as LBFGS
                setattr(copied, name, copy.deepcopy(vars(optimizer)[name], memo))
    except Exception:
        return probe  # a model that cannot be copied is not computed with
    aside.model, losses, aside.optimizers = copies
    aside.loss_fns = bound(losses, aside)
    aside.layout, aside.batch, aside.input, aside.target, aside.batch_size = (
        layout,
        batch,
        given,
        target,
        layout.size(given),
    )
    probe.aside = aside
    loss = next(iter(losses.values()), None)
    loss = getattr(loss, "function", loss)  # of a loss by keys
    probe.kind = KINDS.get(type(loss), "") or (
        KINDS.get(loss, "") if callable(loss) and not isinstance(loss, nn.Module) else ""
    )
    done = [plain(state.action) for state in lifecycle.states]
    if (
        actions.pred in done
        and actions.loss in done
        and all(each is not None for each in losses.values())
    ):
        _train_once(probe)
        if (
            probe.before
            and probe.error is None
            and actions.valid_loss in done
            and ctx.valid_data is not None
        ):
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
                    probe.gradients[named] = (
                        here if known is None else known if here is None else max(here, known)
                    )
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
            probe.valid_error = labels_in_range(of_valid) or shapes_of_prediction_and_target(
                of_valid
            )
            if probe.valid_error is None:  # else the loss would fail, as above
                actions.loss(aside)
    except Exception as error:
        probe.valid_error = _words(error)


def first_batch(data: Any) -> Any:
    """A batch as the first of an epoch would be; None where nobody can look at one without moving the data."""
    if (
        data is None
        or hasattr(data, "__next__")
        or (hasattr(data, "state_dict") and hasattr(data, "load_state_dict"))
    ):
        return None
    if not isinstance(data, DataLoader):
        return next(iter(data))
    if isinstance(data.dataset, IterableDataset):
        samples: Any = iter(data.dataset)
        if samples is data.dataset:
            return None
        return (
            next(samples)
            if data.batch_size is None
            else data.collate_fn(list(itertools.islice(samples, data.batch_size)))
        )
    # Without the loader's workers, which take long to start.
    if data.batch_sampler is None:
        return data.collate_fn(data.dataset[next(iter(data.sampler))])
    return data.collate_fn([data.dataset[index] for index in next(iter(data.batch_sampler))])


def _words(error: Exception) -> str:
    return (
        f"{type(error).__name__}:"
        f" {str(error).splitlines()[0] if str(error) else 'without a message'}"
    )
