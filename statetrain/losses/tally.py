"""Tally: what is summed up for the next row of the history, for one set of data."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import Factory, define, field

from statetrain.context.columns import as_columns, joined, shown_shape
from statetrain.errors import ConfigError, LossError
from statetrain.losses.foreseeing import Foreseen, foresee, prefix_of
from statetrain.losses.losses import LossMean, means_of, pick_pred
from statetrain.losses.metrics import (
    Mean,
    MeanOf,
    Metric,
    MetricObject,
    Metrics,
    UpdateMoment,
    named_metrics,
    pairs_of,
)
from statetrain.losses.reducing import merges, object_of
from statetrain.naming import did_you_mean

if TYPE_CHECKING:
    from statetrain.context.context import Context


@define(eq=False)
class Tally:
    """What is summed up for the next row of the history: the losses and metrics of one set.

    Args:
        set: "train" or "valid"; it begins the names of the columns.
        losses: a mean for each optimizer, by its name.
        metrics: by name, without the set.
        parts: the means of losses by keys, by optimizer; they are among the metrics.
        loss_fn: the loss of this set alone; None is the run's.
    """

    set: str
    losses: dict[str, Mean]
    metrics: dict[str, MetricObject] = Factory(dict)
    parts: dict[str, tuple[LossMean, ...]] = Factory(dict)
    loss_fn: Any = None
    # Whether a metric takes the prediction as it comes, not by keys
    takes_pred: bool = field(init=False)
    # The columns of the metrics, as far as they are known
    foreseen: Foreseen = field(init=False)
    # Columns that guards or callbacks monitor, until the first row has shown that they are numbers
    monitored: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        self.takes_pred = any(
            not (isinstance(metric, LossMean) or (isinstance(metric, Metric) and metric.keys))
            for metric in self.metrics.values()
        )
        self.foreseen = Foreseen()
        for name, metric in self.metrics.items():
            self.foreseen += foresee(joined(self.set, prefix_of(name, metric)), metric)

    def update(self, ctx: Context, counts: Any = True) -> None:
        """Lets the metrics take in the batch; with several optimizers once, for the last.

        Args:
            ctx: the context.
            counts: whether the batch counts, which a device may know alone: then it is a tensor of
                shape () there, and metrics that are objects take in the batch all the same.
        """
        if counts is False:
            return
        for mean in self.parts.get(ctx.opt_name, ()):
            mean.take(ctx, counts)
        if ctx.opt_index + 1 < len(self.losses):
            return
        pred = None
        if self.takes_pred:
            pred = _prediction_in(ctx)
        name = ""
        try:
            for name, metric in self.metrics.items():  # noqa: B007  # the note says it
                if isinstance(metric, MeanOf):
                    metric.add(metric.function(pred, ctx.target), ctx.batch_size, counts)
                elif isinstance(metric, Metric):
                    if metric.moment == "loss":
                        metric.take(ctx, counts)
                elif not isinstance(metric, LossMean):
                    metric.update(pred, ctx.target)
        except Exception as error:
            self._name_metric(name, error)
            raise

    def update_at(self, moment: UpdateMoment, ctx: Context) -> None:
        """Lets the metrics of gradients ("step") or updates ("stepped") do so."""
        if ctx.opt_index + 1 < len(self.losses):
            return
        name = ""
        try:
            for name, metric in self.metrics.items():  # noqa: B007  # the note says it
                if isinstance(metric, Metric) and metric.moment == moment:
                    metric.take(ctx)
        except Exception as error:
            self._name_metric(name, error)
            raise

    def _name_metric(self, name: str, error: Exception) -> None:
        error.add_note(f"statetrain: it was raised by the metric {name!r} of the set {self.set!r}")

    @property
    def reads(self) -> frozenset[str]:
        """The paths that its metrics read, and a loss of its own."""
        return frozenset(getattr(self.loss_fn, "reads", ())).union(
            *(metric.reads for metric in self.metrics.values() if isinstance(metric, Metric))
        )

    @property
    def formats(self) -> dict[str, str]:
        """How the numbers of metrics are shown that say so, by column."""
        return {
            joined(self.set, name): metric.format
            for name, metric in self.metrics.items()
            if isinstance(metric, Metric) and metric.format is not None
        }

    @property
    def own(self) -> dict[str, MetricObject]:
        """The metrics that were given, without the means of losses by keys."""
        return {
            name: metric
            for name, metric in self.metrics.items()
            if not isinstance(metric, LossMean)
        }

    def compute(self) -> dict[str, Any]:
        """The columns of a row, by name; empty if no batch was counted since the last reset.

        The loss of an optimizer that had no batch, as in a phase of another one, has no column.
        """
        values: dict[str, Any] = {
            name: mean.value()
            for name, mean in zip(self.loss_names, self.losses.values(), strict=True)
            if mean.count
        }
        if not values:
            return {}
        for name, metric in self.metrics.items():
            if isinstance(metric, LossMean) and not metric.sums:
                continue
            columns = as_columns(joined(self.set, prefix_of(name, metric)), self._value(name))
            # The total of masked losses takes the place of the mean over samples
            if not isinstance(metric, LossMean):
                _check_new(name, columns, values)
            values |= columns
        if self.monitored:
            self._check_monitored(values)
        return values

    def _value(self, name: str) -> Any:
        try:
            return self.metrics[name].compute()
        except Exception as error:
            self._name_metric(name, error)
            raise

    def _check_monitored(self, values: Mapping[str, Any]) -> None:
        """Checks in the first row that what is monitored is there, and is a number."""
        for column in self.monitored:
            if column not in values:
                raise ConfigError(
                    f"nothing writes the monitor {column!r}{did_you_mean(column, values)}; the set"
                    f" {self.set!r} has {', '.join(values)}"
                )
            if not isinstance(values[column], int | float):
                raise ConfigError(
                    f"the monitor {column!r} is not a number but has shape"
                    f" {shown_shape(values[column])}; monitor a metric that gives one number"
                )
        self.monitored = ()

    def means(self) -> dict[str, dict[str, tuple[float, float]]]:
        """What the means are made of, by column: of each term, the sum and what it counts.

        Metrics that are objects have none here.
        """
        found: dict[str, dict[str, tuple[float, float]]] = {
            name: {"": _numbers(mean)}
            for name, mean in zip(self.loss_names, self.losses.values(), strict=True)
        }
        for name, metric in self.metrics.items():
            column = joined(self.set, prefix_of(name, metric))
            if isinstance(metric, LossMean):
                # The total of masked losses takes the place of the mean over samples
                found[column] = metric.numbers()
            for part, mean in (_means_of(metric) or {}).items():
                found[joined(column, part)] = {"": _numbers(mean)}
        return found

    @property
    def loss_names(self) -> list[str]:
        """The columns of the losses: `train_loss`, or `train_loss_<optimizer>` with several."""
        if len(self.losses) == 1:
            return [f"{self.set}_loss"]
        return [f"{self.set}_loss_{name}" for name in self.losses]

    @property
    def columns(self) -> list[str]:
        """The columns of numbers that it writes, as far as they are known before the first row."""
        return list(dict.fromkeys((*self.loss_names, *self.foreseen.numbers)))

    def sums(self) -> dict[str, Any]:
        """What has been summed up so far, for adding up over ranks: numbers, and metrics."""
        found: dict[str, Any] = {
            f"loss {name}": _numbers(mean) for name, mean in self.losses.items()
        }
        for name, metric in self.metrics.items():
            if isinstance(metric, LossMean):
                found[name] = metric.numbers()
            elif (means := _means_of(metric)) is not None:
                found[name] = {part: _numbers(mean) for part, mean in means.items()}
            elif merges(metric):
                found[name] = copy.deepcopy(object_of(metric))
        return found

    def set_sums(self, ranks: Sequence[Mapping[str, Any]]) -> None:
        """Takes the sums of all ranks in place of its own; metric objects add theirs up themselves.

        Args:
            ranks: what `sums` gave on each rank, in the order of ranks.
        """
        for name, mean in self.losses.items():
            _add_up(mean, [sums[f"loss {name}"] for sums in ranks])
        for name, metric in self.metrics.items():
            if isinstance(metric, LossMean):
                metric.sums = _add_by_part([sums[name] for sums in ranks])
            elif (means := _means_of(metric)) is not None:
                for part, sums in _add_by_part([sums[name] for sums in ranks]).items():
                    mean = means.setdefault(part, Mean())
                    mean.total, mean.count = sums
            elif merges(metric):
                own = object_of(metric)
                own.reset()
                own.merge_state([sums[name] for sums in ranks])

    def reset(self) -> None:
        """Forgets all batches."""
        for mean in self.losses.values():
            mean.total, mean.count = 0.0, 0
        for metric in self.metrics.values():
            metric.reset()


def _check_new(metric: str, columns: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raises a `ConfigError` if a metric's column is there already."""
    for column in columns.keys() & values.keys():
        raise ConfigError(
            f"the metric {metric!r} writes the column {column!r}, which the set has already; give"
            " it another name: metrics={'my_name': ...}"
        )


def _means_of(metric: Any) -> dict[str, Mean] | None:
    """The means that a metric consists of; None of an object of its own kind."""
    own = object_of(metric)
    if isinstance(own, MeanOf):
        return own.means
    return None


def _prediction_in(ctx: Context) -> Any:
    if ctx.pred is None:
        raise LossError(
            "metrics take the prediction, and there is none: a custom computation has to set"
            " ctx.pred"
        )
    return pick_pred(ctx)


def _numbers(mean: Mean) -> tuple[float, float]:
    return float(mean.total), float(mean.count)


def _add_up(mean: Mean, ranks: Sequence[tuple[float, float]]) -> None:
    mean.total, mean.count = _add_sums(ranks)


def _add_by_part(
    ranks: Sequence[Mapping[str, tuple[float, float]]],
) -> dict[str, tuple[float, float]]:
    """The sums of all ranks by part; a rank may lack some parts."""
    parts = dict.fromkeys(part for sums in ranks for part in sums)
    return {part: _add_sums([sums[part] for sums in ranks if part in sums]) for part in parts}


def _add_sums(ranks: Sequence[tuple[float, float]]) -> tuple[float, float]:
    totals, counts = zip(*ranks, strict=True)
    return math.fsum(totals), math.fsum(counts)


def tally(
    set_name: str,
    losses: Iterable[str] | Mapping[str, Any],
    metrics: Metrics,
    device: torch.device,
    more: Metrics = None,
) -> Tally:
    """A tally with fresh metrics, on the device where the data will be.

    Args:
        set_name: "train" or "valid".
        losses: the names of the optimizers, or the losses by these.
        metrics: see `named_metrics`; objects are copied, so the user's own stay as they are.
        device: where predictions and targets will be.
        more: metrics of this set alone.

    Raises:
        ConfigError: `more` has what a set other than "train" cannot have, or two metrics have one
            name.
    """
    named = _metrics_of(set_name, metrics, more)
    for metric in named.values():
        if hasattr(metric, "to"):
            metric.to(device)
        metric.reset()
    if not isinstance(losses, Mapping):
        losses = dict.fromkeys(losses)
    of_parts = {
        optimizer: means_of(optimizer * (len(losses) > 1), loss)
        for optimizer, loss in losses.items()
    }
    for means in of_parts.values():
        _check_no_loss(named, means)
        named.update(means)
    parts = {optimizer: tuple(means.values()) for optimizer, means in of_parts.items() if means}
    made = Tally(set_name, {name: Mean() for name in losses}, named, parts)
    for name, metric in made.own.items():
        columns = foresee(joined(set_name, prefix_of(name, metric)), metric).numbers
        _check_new(name, dict.fromkeys(columns), dict.fromkeys(made.loss_names))
    made.reset()  # metrics were asked for a value
    return made


def _needs_steps(metric: Any) -> bool:
    """Whether a metric reads gradients or updates, which validation does not have."""
    return isinstance(metric, Metric) and metric.moment != "loss"


def _metrics_of(set_name: str, metrics: Metrics, more: Metrics) -> dict[str, MetricObject]:
    """The metrics of a set by name; only those of training may need steps."""
    named = named_metrics(metrics, more)
    if set_name == "train":
        return named
    for name, metric in pairs_of(more):
        if _needs_steps(metric):
            raise ConfigError(
                f"metric {name!r} reads {', '.join(sorted(metric.reads))}, which only training"
                " has; give it in train_metrics="
            )
    return {name: metric for name, metric in named.items() if not _needs_steps(metric)}


def _check_no_loss(metrics: Mapping[str, Any], means: Mapping[str, Any]) -> None:
    for name in means.keys() & metrics.keys():
        raise ConfigError(
            f"a metric is called {name!r}, as the column of a loss is; give it another name"
        )
