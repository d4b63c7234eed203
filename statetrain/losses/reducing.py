"""Metric objects on several ranks: which can be reduced, and by whom."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from statetrain.losses.metrics import Metric

if TYPE_CHECKING:
    from statetrain.losses.tally import Tally


def object_of(metric: Any) -> Any:
    """What sums up: of a `Metric`, what it holds."""
    if isinstance(metric, Metric):
        return metric.state
    return metric


def is_reduced_by_itself(metric: Any) -> bool:
    """Whether a metric is torchmetrics', which asks the other ranks when it computes its value."""
    own = object_of(metric)
    return hasattr(own, "_reductions") or hasattr(own, "compute_groups")


def merges(metric: Any) -> bool:
    """Whether a metric is an object that takes in what others like it have gathered."""
    own = object_of(metric)
    return not is_reduced_by_itself(own) and callable(getattr(own, "merge_state", None))


def torchmetrics_in(metric: Any) -> dict[str, Any]:
    """The torchmetrics objects in a metric, including itself, by name."""
    own = object_of(metric)
    if not isinstance(own, torch.nn.Module):
        return {}
    if hasattr(own, "compute_groups"):
        # A collection lets metrics share states; this gives each its own
        list(own.items())  # type: ignore[operator]
    return {
        name: module
        for name, module in own.named_modules()
        if hasattr(module, "metric_state") and hasattr(module, "_update_count")
    }


def has_objects(tally: Tally) -> bool:
    """Whether some metrics of a set are objects, which may keep sums, not only means."""
    return any(merges(one) or is_reduced_by_itself(one) for one in tally.metrics.values())


def count_alone(metrics: Iterable[Any]) -> None:
    """Keeps torchmetrics from adding up over ranks, where each rank has seen all of the data."""
    for metric in metrics:
        for part in torchmetrics_in(metric).values():
            part.distributed_available_fn = _is_alone


def _is_alone() -> bool:
    """What torchmetrics asks before it asks other ranks."""
    return False
