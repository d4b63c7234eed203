"""Metrics: summed up batch by batch where the data is, turned into numbers once a row."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from attrs import Factory, define

from statetrain.naming import did_you_mean
from statetrain.outcome import ConfigError, LossError


@runtime_checkable
class Metric(Protocol):
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
    count: int = 0

    def value(self) -> float:
        """The mean; NaN of nothing."""
        return float(self.total) / self.count if self.count else float("nan")


@define(eq=False)
class MeanOf:
    """A function of prediction and target as a metric: its mean over samples, weighted by the size of each batch.

    Args:
        function: returns a scalar tensor or a number for a batch.
    """

    function: Callable[[Any, Any], Any]
    mean: Mean = Factory(Mean)

    def update(self, pred: Any, target: Any, size: int = 1) -> None:
        """Takes in a batch of `size` samples."""
        value = self.function(pred, target)
        if isinstance(value, torch.Tensor):
            if value.numel() != 1:
                raise LossError(f"metric {_name(self.function)!r} must return one value for a batch, got shape {tuple(value.shape)}; use .mean()")
            value = value.detach().reshape(()).to(torch.float32 if value.device.type == "mps" else torch.float64)
        self.mean.total = self.mean.total + value * size
        self.mean.count += size

    def compute(self) -> float:
        """The mean over all samples since the last reset."""
        return self.mean.value()

    def reset(self) -> None:
        """Forgets all batches."""
        self.mean = Mean()


@define(eq=False)
class Tally:
    """What is summed up for the next row of the history: the losses and metrics of one set.

    Args:
        set: "train" or "valid"; it begins the names of the columns.
        losses: a mean for each optimizer, by its name.
        metrics: by name, without the set.
    """

    set: str
    losses: dict[str, Mean]
    metrics: dict[str, Metric] = Factory(dict)

    def update(self, ctx: Any) -> None:
        """Lets the metrics take in the present batch; with several optimizers once, for the last."""
        if ctx.opt_index + 1 < len(self.losses):
            return
        if ctx.pred is None:
            raise LossError("metrics take the prediction, and there is none: a computation of your own has to set ctx.pred")
        pred = ctx.pred if ctx.pick is None else ctx.pick(ctx.pred)
        for metric in self.metrics.values():
            if isinstance(metric, MeanOf):
                metric.update(pred, ctx.target, ctx.batch_size)
            else:
                metric.update(pred, ctx.target)

    def compute(self) -> dict[str, Any]:
        """The columns of a row, by name; empty if no batch was counted since the last reset."""
        if not any(mean.count for mean in self.losses.values()):
            return {}
        values: dict[str, Any] = dict(zip(self.loss_names, (mean.value() for mean in self.losses.values()), strict=True))
        for name, metric in self.metrics.items():
            value = metric.compute()
            values[f"{self.set}_{name}"] = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
        return values

    @property
    def loss_names(self) -> list[str]:
        """The columns of the losses: `train_loss`, or `train_loss_<optimizer>` with several."""
        return [f"{self.set}_loss"] if len(self.losses) == 1 else [f"{self.set}_loss_{name}" for name in self.losses]

    @property
    def columns(self) -> list[str]:
        """All columns that it writes."""
        return self.loss_names + [f"{self.set}_{name}" for name in self.metrics]

    def reset(self) -> None:
        """Forgets all batches."""
        for mean in self.losses.values():
            mean.total, mean.count = 0.0, 0
        for metric in self.metrics.values():
            metric.reset()


def named_metrics(*groups: Metrics) -> dict[str, Metric]:
    """Metrics by name: a mapping keeps its names, others take the function's or the class's.

    Args:
        groups: metrics of one set, from several places.

    Raises:
        ConfigError: two have one name, or one is neither a function nor a metric object.
    """
    named: dict[str, Metric] = {}
    for name, metric in (pair for metrics in groups for pair in _pairs(metrics)):
        if name == "loss":
            raise ConfigError("a metric is called 'loss', as the column of the loss is; give it a name of its own: metrics={'my_loss': ...}")
        if name in named:
            raise ConfigError(f"two metrics are called {name!r}; give them names of their own: metrics={{'first': ..., 'second': ...}}")
        named[name] = _as_metric(name, metric)
    return named


def _pairs(metrics: Metrics) -> list[tuple[str, Any]]:
    if metrics is None:
        return []
    if isinstance(metrics, Mapping):
        return list(metrics.items())
    several = isinstance(metrics, Iterable) and not isinstance(metrics, Metric)
    return [(_name(metric), metric) for metric in (list(metrics) if several else [metrics])]  # type: ignore[arg-type]  # as asked


def _as_metric(name: str, metric: Any) -> Metric:
    if isinstance(metric, type):
        raise ConfigError(f"metric {name!r} is the class {metric.__name__}; give an instance: {metric.__name__}(...)")
    if isinstance(metric, MeanOf):
        return MeanOf(metric.function)  # the function is shared: it may be the method of a model
    if isinstance(metric, Metric):
        return copy.deepcopy(metric)
    if callable(metric):
        return MeanOf(metric)
    raise ConfigError(f"metric {name!r} must be a function of prediction and target, or have update, compute and reset; got {metric!r}")


def _name(metric: Any) -> str:
    name = getattr(metric, "__name__", None) or type(metric).__name__
    return str(name).lower().replace("<lambda>", "lambda")


def tally(set_name: str, losses: Iterable[str], metrics: Metrics, device: torch.device, more: Metrics = None) -> Tally:
    """A tally with fresh metrics, on the device where the data will be.

    Args:
        set_name: "train" or "valid".
        losses: the names of the optimizers.
        metrics: see `named_metrics`; objects are copied, so the user's own stay as they are.
        device: where predictions and targets will be.
        more: metrics of this set alone.
    """
    named = named_metrics(metrics, more)
    for metric in named.values():
        if hasattr(metric, "to"):
            metric.to(device)
        metric.reset()
    return Tally(set_name, {name: Mean() for name in losses}, named)


def check_monitors(monitors: Iterable[str], columns: Iterable[str], hint: str = "") -> None:
    """Raises a `ConfigError` for a monitor that nothing writes, before anything runs."""
    known = list(columns)
    for monitor in monitors:
        if monitor not in known:
            raise ConfigError(f"nothing writes the monitor {monitor!r}{did_you_mean(monitor, known)}{hint}")
