"""The losses that a run trains on, and what is summed up for each set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from attrs import frozen

from statetrain.compute.accelerator import Accelerator
from statetrain.context.context import Context
from statetrain.context.history import COUNTERS, History
from statetrain.context.keys import root_of
from statetrain.data.passing import arguments_of
from statetrain.errors import ConfigError
from statetrain.losses.foreseeing import Foreseen
from statetrain.losses.losses import Loss as KeyedLoss
from statetrain.losses.losses import Losses, bound, modules_of
from statetrain.losses.metrics import Metrics
from statetrain.losses.of_output import own_loss
from statetrain.losses.tally import Tally, tally
from statetrain.standard.evaluations import Evaluation
from statetrain.training.setup.data import Data, refuse_without_validation
from statetrain.training.setup.model import Trained

AnyLoss = Callable[..., Any]


@frozen(eq=False)
class Objective:
    """What a run trains on and sums up.

    Attributes:
        losses: by optimizer, as they were given; None where a computation has its own.
        tallies: what sums up losses and metrics, by set.
    """

    losses: dict[str, Any]
    tallies: dict[str, Tally]

    @property
    def modules(self) -> list[torch.nn.Module]:
        """The losses that are modules, or have some."""
        return [part for loss in self.losses.values() for part in modules_of(loss).values()]

    @property
    def columns(self) -> list[str]:
        """Those of the history that the run writes itself."""
        found = [column for counted in self.tallies.values() for column in counted.columns]
        return found + [f"epoch_{column}" for column in self.tallies["train"].columns]

    @property
    def foreseen(self) -> Foreseen:
        """What is known of the columns of all metrics."""
        return sum((counted.foreseen for counted in self.tallies.values()), Foreseen())

    @property
    def reads_target(self) -> bool:
        """Whether a batch without a target is of no use."""
        return reads_target(self.losses, self.tallies)

    def readers(self) -> dict[str, Any]:
        """The paths that are read by losses and metrics, by who reads them."""
        found = {
            f"the loss for {name!r}": getattr(loss, "reads", ())
            for name, loss in self.losses.items()
        }
        for name, counted in self.tallies.items():
            found[f"a metric of the set {name!r}"] = counted.reads
        return found


def make_objective(
    loss: Any,
    trained: Trained,
    data: Data,
    metrics: tuple[Metrics, Metrics, Metrics],
    free: bool,
) -> Objective:
    """Makes the losses and what sums them up.

    Args:
        loss: as `fit` takes it.
        trained: the model and its optimizers.
        data: the sets.
        metrics: of all sets, of the training, of the validation.
        free: whether a run may do without a loss, since the user's own code computes it.

    Raises:
        ConfigError: there is no loss where one is needed, or it is something else.
    """
    losses = losses_of(loss, trained.model, trained.optimizers, free, trained.accelerator)
    everywhere, train, valid = metrics
    if data.valid is None:
        refuse_without_validation({"valid_metrics": valid})
    if isinstance(everywhere, Iterator):
        everywhere = list(everywhere)  # they are read for each set
    device = trained.accelerator.device
    tallies = {"train": tally("train", losses, everywhere, device, train)}
    if data.valid is not None:
        tallies["valid"] = tally("valid", losses, everywhere, device, valid)
    for one in data.evaluations:
        shared = everywhere if one.metrics is None else None
        own = losses if one.loss is None else _losses_of_evaluation(one, trained)
        tallies[one.name] = tally(one.name, own, shared, device, one.metrics)
        if own is not losses:
            (tallies[one.name].loss_fn,) = own.values()
    _check_columns(tallies)
    return Objective(losses, tallies)


def _losses_of_evaluation(one: Evaluation, trained: Trained) -> dict[str, Any]:
    """The loss that an evaluation has of its own, by optimizer."""
    if len(trained.optimizers) > 1:
        raise ConfigError(
            f"evaluation {one.name!r}: loss= is for one optimizer, and there are"
            f" {len(trained.optimizers)}; give it as a metric"
        )
    return losses_of(one.loss, trained.model, trained.optimizers, False, trained.accelerator)


def _check_columns(tallies: Mapping[str, Tally]) -> None:
    """Raises a `ConfigError` if a column could be mistaken for another set's or a counter."""
    history = History(sets=tuple(tallies))
    for name, counted in tallies.items():
        for column in (*counted.columns, *counted.foreseen.others):
            if column in COUNTERS:
                raise ConfigError(
                    f"the set {name!r} would write the column {column!r}, which is a counter of"
                    " every row; give the evaluation or the metric another name"
                )
            if (other := history.set_of(column)) != name:
                raise ConfigError(
                    f"the column {column!r} of the set {name!r} reads as one of the set {other!r};"
                    " give the evaluation or the metric another name"
                )


def losses_of(
    given: Any,
    model: torch.nn.Module,
    optimizers: Mapping[str, Any],
    free: bool,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """The loss for each optimizer, on its device.

    Args:
        given: as `fit` takes it; None is the model's own: its method `loss`, else the part `loss`
            of its output.
        model: as the user knows it.
        optimizers: by name.
        free: whether there may be none.
        accelerator: where loss modules are placed.
    """
    names = list(optimizers) or ["opt"]
    if given is None:
        given = getattr(model, "loss", None)
    if given is None and free:
        return dict.fromkeys(names)
    if given is None and _may_compute_its_own(model):
        given = own_loss()
    losses = _by_optimizer(given, names)
    for loss in losses.values():
        _check_loss(loss)
        for module in modules_of(loss).values():
            module.to(accelerator.device)
    return losses


def _by_optimizer(given: Any, names: list[str]) -> dict[str, Any]:
    """The loss for each optimizer: one for all, or those of a mapping."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    if set(given) != set(names):
        raise ConfigError(
            f"loss names {sorted(given)} must be those of the optimizers, {sorted(names)}"
        )
    return {name: given[name] for name in names}


def _may_compute_its_own(model: torch.nn.Module) -> bool:
    """Whether a model can be given the target in addition to the input, as its loss needs it."""
    arguments = arguments_of(model)
    return len(arguments.names) > 1 or arguments.others


def _check_loss(loss: Any) -> None:
    if isinstance(loss, type):
        raise ConfigError(
            f"loss must be a function of prediction and target, got the class {loss.__name__};"
            f" write {loss.__name__}()"
        )
    if not callable(loss):
        got = "none" if loss is None else repr(loss)
        raise ConfigError(
            f"loss must be a function of prediction and target, got {got}; for example"
            " loss=torch.nn.functional.cross_entropy"
        )


def set_losses(ctx: Context, losses: Mapping[str, Any]) -> None:
    """Gives a context its losses, and those of its sets; those by keys read it."""
    ctx.loss_fns = bound(losses, ctx)
    for counted in ctx.tallies.values():
        (counted.loss_fn,) = bound({"": counted.loss_fn}, ctx).values()
    # There may be none now
    ctx.loss_fn = next(iter(ctx.loss_fns.values()), None)  # type: ignore[assignment]


def reads_target(losses: Mapping[str, Any], tallies: Mapping[str, Tally]) -> bool:
    """Whether a batch without a target is of no use: a loss or a metric takes it."""
    keyed = [loss for loss in losses.values() if isinstance(loss, KeyedLoss | Losses)]
    if len(keyed) < sum(loss is not None for loss in losses.values()):
        return True
    named = any(root_of(path) == "target" for loss in keyed for path in loss.reads)
    return named or (bool(keyed) and any(counted.takes_pred for counted in tallies.values()))
