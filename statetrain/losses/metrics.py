"""Metrics: summed up batch by batch where the data is, turned into numbers once a row."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from attrs import Factory, define, evolve

from statetrain.context.keys import root_of
from statetrain.errors import ConfigError, LossError
from statetrain.losses.keyed import Weights, elementwise, keyed
from statetrain.losses.losses import exact, pick_pred, where_it_counts

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
        function: returns a scalar tensor or a number for a batch, or several by name.
    """

    function: Callable[[Any, Any], Any]
    # By name, as the function gives them; of a lone number under ""
    means: dict[str, Mean] = Factory(dict)

    def update(self, pred: Any, target: Any, size: int = 1) -> None:
        """Takes in a batch of `size` samples."""
        self.add(self.function(pred, target), size)

    def add(self, value: Any, size: Any, counts: Any = True) -> None:
        """Takes in the value of a batch that stands for `size` samples, if it counts."""
        parts: Mapping[Any, Any] = {"": value}
        if isinstance(value, Mapping):
            parts = value
        for name, part in parts.items():
            total, count = where_it_counts(self._scalar(part) * size, size, counts)
            self.add_sum(total, count, str(name))

    def add_sum(self, total: Any, count: Any, name: str = "") -> None:
        """Takes in a sum over `count` samples."""
        mean = self.means.get(name)
        if mean is None:
            mean = self.means[name] = Mean()
        mean.total = mean.total + total
        mean.count = mean.count + count

    def _scalar(self, value: Any) -> Any:
        if isinstance(value, int | float):
            return value
        if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
            return exact(value)
        try:
            return float(value.item())  # a number of numpy
        except (AttributeError, TypeError, ValueError, RuntimeError):
            raise LossError(
                f"metric {name_of_metric(self.function)!r} must return one number for a batch, or a"
                f" mapping of some by name, got {_described(value)}"
            ) from None

    def compute(self) -> Any:
        """The mean over all samples since the last reset; of several values, by name."""
        if not self.means:
            return Mean().value()
        if "" in self.means:
            return self.means[""].value()
        return {name: mean.value() for name, mean in self.means.items()}

    def reset(self) -> None:
        """Forgets all batches."""
        self.means = {}


def _described(value: Any) -> str:
    """What a metric returned that is not one number, and what may mend it."""
    if value is None:
        return "None; does the function end with a return?"
    shape = getattr(value, "shape", ())
    if shape:
        return f"shape {tuple(shape)}; use .mean()"
    return f"{type(value).__name__}: {value!r:.80}"


UpdateMoment = Literal["loss", "step", "stepped"]

_MOMENTS: dict[str, UpdateMoment] = {
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
        format: how its numbers are shown, as `format(value, ".1%")` takes it; None is four digits.
        keys: the paths of the arguments; none stands for the prediction and the target.

    Attributes:
        moment: when it takes in a batch: "loss"; "step", when a step is about to be made;
            "stepped", when it has been made.

    Raises:
        ConfigError: the keys do not fit the arguments, an object has a mask, or `format` is none
            for numbers.
    """

    def __init__(
        self,
        function: Any,
        /,
        *,
        mask: str | None = None,
        sample_weight: str | None = None,
        format: str | None = None,  # noqa: A002  # Python's own word
        **keys: str,
    ) -> None:
        self.function, self.keys, self.format = function, dict(keys), format
        self._who = f"metric {name_of_metric(function)!r}"
        _check_format(self._who, format)
        self._weights = Weights.parse(mask, sample_weight, self._who)
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
        self.moment: UpdateMoment = max(
            found, key=("loss", "step", "stepped").index, default="loss"
        )

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

    def take(self, ctx: Context, counts: Any = True) -> None:
        """Takes in the present batch; where a device says that it does not count, nothing."""
        if self.keys:
            first, named = self._keyed.arguments(ctx)
        else:
            first, named = [pick_pred(ctx), ctx.target], {}
        value = self._keyed.function(*first, **named, **self._more)
        if self._object:
            return
        if self._weights.keys:
            total, count = (exact(part) for part in self._weights.sums(ctx, value, self._who))
            self._mean.add_sum(*where_it_counts(total, count, counts))
        else:
            self._mean.add(value, ctx.batch_size if self.moment == "loss" else 1, counts)

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
        return f"Metric({', '.join([name_of_metric(self.function), *keys])})"


def _check_format(who: str, given: str | None) -> None:
    if given is None:
        return
    try:
        format(0.5, given)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{who}: format={given!r} shows no number ({error}); write one such as '.1%' or '.3f'"
        ) from error


def named_metrics(*groups: Metrics) -> dict[str, MetricObject]:
    """Metrics by name: a mapping keeps its names, others take the function's or the class's.

    Lambdas are called "metric", "metric_2", and so on.

    Args:
        groups: metrics of one set, from several places.

    Raises:
        ConfigError: two have one name, or one is neither a function nor a metric object.
    """
    named: dict[str, MetricObject] = {}
    for name, metric in (pair for metrics in groups for pair in pairs_of(metrics)):
        if name == "loss":
            raise ConfigError(
                "a metric is called 'loss', as the column of the loss is; give it a name of its"
                " own: metrics={'my_loss': ...}"
            )
        if name in named and _is_nameless(metric):
            name = next(free for n in itertools.count(2) if (free := f"{name}_{n}") not in named)
        if name in named:
            raise ConfigError(
                f"two metrics are called {name!r}; give them names of their own: metrics={{'first':"
                " ..., 'second': ...}"
            )
        named[name] = _as_metric(name, metric)
    return named


def pairs_of(metrics: Metrics) -> list[tuple[str, Any]]:
    """Metrics with their names, as they were given."""
    if metrics is None:
        return []
    if isinstance(metrics, Mapping):
        return list(metrics.items())
    if isinstance(metrics, str):
        raise ConfigError(
            f"metrics={metrics!r}: a metric is a function of prediction and target, or an object of"
            " torchmetrics; give metrics={name: function}"
        )
    if isinstance(metrics, Iterable) and not isinstance(metrics, MetricObject):
        return [(name_of_metric(metric), metric) for metric in metrics]
    return [(name_of_metric(metrics), metrics)]


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
        _check_kind(name, metric)
        return copy.deepcopy(metric)
    if callable(metric):
        return MeanOf(metric)
    raise ConfigError(
        f"metric {name!r} must be a function of prediction and target, or have update, compute and"
        f" reset; got {metric!r}"
    )


def name_of_metric(metric: Any) -> str:
    """What a metric is called that was given no name: as its function or its class."""
    if isinstance(metric, partial):
        return name_of_metric(metric.func)
    if _is_nameless(metric):
        return "metric"
    name = getattr(metric, "__name__", None) or type(metric).__name__
    return str(name).lower()


def _is_nameless(metric: Any) -> bool:
    return getattr(metric, "__name__", None) == "<lambda>"


def _check_kind(name: str, metric: Any) -> None:
    """Raises a `ConfigError` for objects that want to live longer than a row of the history."""
    kind = type(metric).__name__
    if kind in ("MetricTracker", "MinMaxMetric") and "torchmetrics" in type(metric).__module__:
        raise ConfigError(
            f"metric {name!r} is a {kind}, which compares values over epochs, and each row of the"
            " history has a metric that starts over; give the metric itself, and ask"
            f" run.history.best('valid_{name}')"
        )
