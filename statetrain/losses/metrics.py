"""Metrics: summed up batch by batch where the data is, turned into numbers once a row."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from attrs import Factory, define, evolve, field

from statetrain.context.keys import root_of
from statetrain.errors import ConfigError, LossError
from statetrain.losses.keyed import Weights, elementwise, keyed, parsed
from statetrain.losses.losses import LossMean, exact, means_of, picked

if TYPE_CHECKING:
    from statetrain.context.context import Context


@runtime_checkable
class MetricObject(Protocol):
    """What a metric object has to offer; torchmetrics' objects do."""

    def update(self, pred: Any, target: Any) -> Any:
        """Takes in a batch."""

    def compute(self) -> Any:
        """The value over all batches since the last reset."""

    def reset(self) -> Any:
        """Forgets all batches."""


Metrics = Mapping[str, Any] | Iterable[Any] | Callable[..., Any] | None


@define(eq=False)
class Mean:
    """A mean over samples, summed up as a number or, on a device, as a tensor."""

    total: Any = 0.0
    # Of samples; a tensor where a mask says how many count, or the device how many are finite
    count: Any = 0

    def value(self) -> float:
        """The mean; NaN of nothing."""
        count = float(self.count)
        if count:
            return float(self.total) / count
        return float("nan")


@define(eq=False)
class MeanOf:
    """A function of prediction and target as a metric: its mean over samples.

    Args:
        function: returns a scalar tensor or a number for a batch.
    """

    function: Callable[[Any, Any], Any]
    mean: Mean = Factory(Mean)

    def update(self, pred: Any, target: Any, size: int = 1) -> None:
        """Takes in a batch of `size` samples."""
        self.add(self.function(pred, target), size)

    def add(self, value: Any, size: Any) -> None:
        """Takes in the value of a batch that stands for `size` samples."""
        if isinstance(value, torch.Tensor):
            if value.numel() != 1:
                raise LossError(
                    f"metric {_name(self.function)!r} must return one value for a batch, got shape"
                    f" {tuple(value.shape)}; use .mean()"
                )
            value = exact(value)
        self.mean.total = self.mean.total + value * size
        self.mean.count += size

    def compute(self) -> float:
        """The mean over all samples since the last reset."""
        return self.mean.value()

    def reset(self) -> None:
        """Forgets all batches."""
        self.mean = Mean()


Moment = Literal["loss", "step", "stepped"]

_MOMENTS: dict[str, Moment] = {
    "grads": "step",
    "grad_norms": "step",
    "updates": "stepped",
    "update_norms": "stepped",
}


class Metric:
    """A metric whose arguments are named by keys.

        metrics={"accuracy": Metric(accuracy, pred="pred.logits", target="batch.label",
        mask="batch.valid")} metrics={"spread": Metric(torch.std, input="interms.encoder")}
        train_metrics={"update": Metric(torch.linalg.vector_norm, x="updates.encoder.weight")}

    Keys go to arguments as those of a `Loss`. What reads gradients or their norms is taken in when
    a step is about to be made, what reads updates when it has been made, everything else with the
    loss. Validation makes no steps, so there such metrics are left out.

    Args:
        function: gives a scalar, which is averaged over samples (over steps, if it reads gradients
            or updates); with a mask or weights of samples a value for each element. Or an object
            with `update`, `compute` and `reset`, whose `update` takes the arguments.
        mask, sample_weight: as of a `Loss`; the metric is the mean over what counts.
        keys: the paths of the arguments; none stands for the prediction and the target.

    Attributes:
        moment: when it takes in a batch: "loss"; "step", when a step is about to be made;
            "stepped", when it has been made.

    Raises:
        ConfigError: the keys do not fit the arguments, or an object has a mask.
    """

    def __init__(
        self,
        function: Any,
        /,
        *,
        mask: str | None = None,
        sample_weight: str | None = None,
        **keys: str,
    ) -> None:
        self.function, self.keys = function, dict(keys)
        self._who = f"metric {_name(function)!r}"
        self._weights = Weights(
            *(None if key is None else parsed(key, self._who) for key in (mask, sample_weight))
        )
        self._object = isinstance(function, MetricObject) and not isinstance(function, type)
        if self._object and self._weights.keys:
            raise ConfigError(
                f"{self._who} is an object, which has to do with a mask itself; give it to its"
                " update, by a key of that name"
            )
        self._keyed = keyed(
            function.update if self._object else function,
            keys or {"pred": "pred", "target": "target"},
            self._who,
        )
        self._more = {}
        if self._weights.keys:
            self._more = elementwise(function, self._who)
        self._mean = MeanOf(function)
        found = {_MOMENTS.get(root_of(path), "loss") for path in self.reads}
        # The last of the moments at which what it reads is there
        self.moment: Moment = max(found, key=("loss", "step", "stepped").index, default="loss")

    @property
    def reads(self) -> frozenset[str]:
        """The paths that it reads."""
        return self._keyed.reads | {key.path for key in self._weights.keys}

    @property
    def state(self) -> MetricObject:
        """What sums up."""
        if self._object:
            found: MetricObject = self.function
            return found
        return self._mean

    def fresh(self, name: str) -> Metric:
        """One like it that has taken in nothing, under a name for errors."""
        other = copy.copy(self)
        other._who, other._mean = f"metric {name!r}", MeanOf(self.function)
        if self._object:
            other.function = copy.deepcopy(self.function)
        other._keyed = evolve(
            self._keyed,
            who=other._who,
            function=other.function.update if self._object else self.function,
        )
        return other

    def take(self, ctx: Context) -> None:
        """Takes in the present batch."""
        if self.keys:
            first, named = self._keyed.arguments(ctx)
        else:
            first, named = [picked(ctx), ctx.target], {}
        value = self._keyed.function(*first, **named, **self._more)
        if self._object:
            return
        if self._weights.keys:
            total, count = (exact(part) for part in self._weights.sums(ctx, value, self._who))
            self._mean.mean.total = self._mean.mean.total + total
            self._mean.mean.count = self._mean.mean.count + count
        else:
            self._mean.add(value, ctx.batch_size if self.moment == "loss" else 1)

    def update(self, *arguments: Any, **named: Any) -> None:
        """Takes in a batch by its arguments, without the context."""
        value = self._keyed.function(*arguments, **named)
        if not self._object:
            self._mean.add(value, 1)

    def compute(self) -> Any:
        """The value over all batches since the last reset."""
        return self.state.compute()

    def reset(self) -> None:
        """Forgets all batches."""
        self.state.reset()

    def to(self, device: torch.device) -> None:
        """Moves an object that can be moved."""
        if hasattr(self.function, "to"):
            self.function.to(device)

    def __repr__(self) -> str:
        keys = (f"{name}={path!r}" for name, path in self.keys.items())
        return f"Metric({', '.join([_name(self.function), *keys])})"


@define(eq=False)
class Tally:
    """What is summed up for the next row of the history: the losses and metrics of one set.

    Args:
        set: "train" or "valid"; it begins the names of the columns.
        losses: a mean for each optimizer, by its name.
        metrics: by name, without the set.
        parts: the means of losses by keys, by optimizer; they are among the metrics.
    """

    set: str
    losses: dict[str, Mean]
    metrics: dict[str, MetricObject] = Factory(dict)
    parts: dict[str, tuple[LossMean, ...]] = Factory(dict)
    # Whether a metric takes the prediction as it comes, not by keys
    takes_pred: bool = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.takes_pred = any(
            not (isinstance(metric, LossMean) or (isinstance(metric, Metric) and metric.keys))
            for metric in self.metrics.values()
        )

    def update(self, ctx: Context) -> None:
        """Lets the metrics take in the batch; with several optimizers once, for the last."""
        for mean in self.parts.get(ctx.opt_name, ()):
            mean.take(ctx)
        if ctx.opt_index + 1 < len(self.losses):
            return
        pred = None
        if self.takes_pred:
            if ctx.pred is None:
                raise LossError(
                    "metrics take the prediction, and there is none: a computation of your own has"
                    " to set ctx.pred"
                )
            pred = picked(ctx)
        for metric in self.metrics.values():
            if isinstance(metric, MeanOf):
                metric.update(pred, ctx.target, ctx.batch_size)
            elif isinstance(metric, Metric):
                if metric.moment == "loss":
                    metric.take(ctx)
            elif not isinstance(metric, LossMean):
                metric.update(pred, ctx.target)

    def update_at(self, moment: Moment, ctx: Context) -> None:
        """Lets the metrics of gradients ("step") or updates ("stepped") do so."""
        if ctx.opt_index + 1 >= len(self.losses):
            for metric in self.metrics.values():
                if isinstance(metric, Metric) and metric.moment == moment:
                    metric.take(ctx)

    @property
    def reads(self) -> frozenset[str]:
        """The paths that its metrics read."""
        return frozenset().union(
            *(metric.reads for metric in self.metrics.values() if isinstance(metric, Metric))
        )

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
            value = metric.compute()
            if isinstance(value, torch.Tensor) and value.numel() == 1:
                values[f"{self.set}_{name}"] = value.item()
            else:
                values[f"{self.set}_{name}"] = value
        return values

    @property
    def loss_names(self) -> list[str]:
        """The columns of the losses: `train_loss`, or `train_loss_<optimizer>` with several."""
        if len(self.losses) == 1:
            return [f"{self.set}_loss"]
        return [f"{self.set}_loss_{name}" for name in self.losses]

    @property
    def columns(self) -> list[str]:
        """All columns that it writes."""
        return list(
            dict.fromkeys((*self.loss_names, *(f"{self.set}_{name}" for name in self.metrics)))
        )

    def sums(self) -> dict[str, Any]:
        """What has been summed up so far, as plain numbers, for adding up over several ranks."""
        found: dict[str, Any] = {
            f"loss {name}": _numbers(mean) for name, mean in self.losses.items()
        }
        for name, metric in self.metrics.items():
            if isinstance(metric, LossMean):
                found[name] = {
                    part: (float(total), float(count))
                    for part, (total, count) in metric.sums.items()
                }
            elif (own := _mean_of(metric)) is not None:
                found[name] = _numbers(own)
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
                parts = dict.fromkeys(part for sums in ranks for part in sums[name])
                metric.sums = {
                    part: _added([sums[name][part] for sums in ranks if part in sums[name]])
                    for part in parts
                }
            elif (own := _mean_of(metric)) is not None:
                _add_up(own, [sums[name] for sums in ranks])

    def reset(self) -> None:
        """Forgets all batches."""
        for mean in self.losses.values():
            mean.total, mean.count = 0.0, 0
        for metric in self.metrics.values():
            metric.reset()


def _mean_of(metric: Any) -> Mean | None:
    """The mean that a metric is; None of an object of its own kind."""
    if isinstance(metric, Metric):
        metric = metric.state
    return metric.mean if isinstance(metric, MeanOf) else None


def _numbers(mean: Mean) -> tuple[float, float]:
    return float(mean.total), float(mean.count)


def _add_up(mean: Mean, ranks: Sequence[tuple[float, float]]) -> None:
    mean.total, mean.count = _added(ranks)


def _added(ranks: Sequence[tuple[float, float]]) -> tuple[float, float]:
    totals, counts = zip(*ranks, strict=True)
    return math.fsum(totals), math.fsum(counts)


def named_metrics(*groups: Metrics) -> dict[str, MetricObject]:
    """Metrics by name: a mapping keeps its names, others take the function's or the class's.

    Args:
        groups: metrics of one set, from several places.

    Raises:
        ConfigError: two have one name, or one is neither a function nor a metric object.
    """
    named: dict[str, MetricObject] = {}
    for name, metric in (pair for metrics in groups for pair in _pairs(metrics)):
        if name == "loss":
            raise ConfigError(
                "a metric is called 'loss', as the column of the loss is; give it a name of its"
                " own: metrics={'my_loss': ...}"
            )
        if name in named:
            raise ConfigError(
                f"two metrics are called {name!r}; give them names of their own: metrics={{'first':"
                " ..., 'second': ...}"
            )
        named[name] = _as_metric(name, metric)
    return named


def _pairs(metrics: Metrics) -> list[tuple[str, Any]]:
    if metrics is None:
        return []
    if isinstance(metrics, Mapping):
        return list(metrics.items())
    if isinstance(metrics, Iterable) and not isinstance(metrics, MetricObject):
        return [(_name(metric), metric) for metric in metrics]
    return [(_name(metrics), metrics)]


def _as_metric(name: str, metric: Any) -> MetricObject:
    if isinstance(metric, type):
        raise ConfigError(
            f"metric {name!r} is the class {metric.__name__}; give an instance:"
            f" {metric.__name__}(...)"
        )
    if isinstance(metric, MeanOf):
        return MeanOf(metric.function)  # the function is shared: it may be the method of a model
    if isinstance(metric, Metric):
        return metric.fresh(name)
    if isinstance(metric, MetricObject):
        return copy.deepcopy(metric)
    if callable(metric):
        return MeanOf(metric)
    raise ConfigError(
        f"metric {name!r} must be a function of prediction and target, or have update, compute and"
        f" reset; got {metric!r}"
    )


def _name(metric: Any) -> str:
    name = getattr(metric, "__name__", None) or type(metric).__name__
    return str(name).lower().replace("<lambda>", "lambda")


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
    named = named_metrics(metrics, more)
    if set_name != "train":
        _check_no_steps(_pairs(more))
        named = {name: metric for name, metric in named.items() if not _needs_steps(metric)}
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
        for name in means.keys() & named.keys():
            raise ConfigError(
                f"a metric is called {name!r}, as the column of a loss is; give it another name"
            )
        named.update(means)
    parts = {optimizer: tuple(means.values()) for optimizer, means in of_parts.items() if means}
    return Tally(set_name, {name: Mean() for name in losses}, named, parts)


def _needs_steps(metric: Any) -> bool:
    """Whether a metric reads gradients or updates, which validation does not have."""
    return isinstance(metric, Metric) and metric.moment != "loss"


def _check_no_steps(metrics: list[tuple[str, Any]]) -> None:
    for name, metric in metrics:
        if _needs_steps(metric):
            raise ConfigError(
                f"metric {name!r} reads {', '.join(sorted(metric.reads))}, which only training"
                " has; give it in train_metrics="
            )
