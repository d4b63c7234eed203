"""The running means and metrics of a set of data, as plain data; and putting them back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from statetrain.checkpoints import plain
from statetrain.checkpoints.objects import has_state
from statetrain.data.structure import map_tensors
from statetrain.errors import CheckpointError
from statetrain.losses.metrics import MeanOf, Metric, MetricObject
from statetrain.losses.reducing import torchmetrics_in
from statetrain.losses.tally import Tally

if TYPE_CHECKING:
    from statetrain.context.context import Context


def tally_states(ctx: Context) -> dict[str, Any]:
    """What was summed up so far, by set; of several ranks, all of it. Then it is a meeting."""
    if ctx.news is None:
        return {name: tally_state(tally) for name, tally in ctx.tallies.items()}
    own = {name: tally.sums() for name, tally in ctx.tallies.items()}
    ranks = ctx.news.group.gather("save the sums", own)
    states = {}
    for name, tally in ctx.tallies.items():
        tally.set_sums([sums[name] for sums in ranks])
        with _sync(tally):
            states[name] = copy.deepcopy(tally_state(tally))  # metrics are reset in place
        tally.set_sums([own[name]])
    return states


@contextmanager
def _sync(tally: Tally) -> Iterator[None]:
    """While it is open, the metrics of torchmetrics have the states of all ranks."""
    parts = [part for metric in tally.metrics.values() for part in torchmetrics_in(metric).values()]
    for part in parts:
        part.sync()
    try:
        yield
    finally:
        for part in parts:
            part.unsync()


def tally_state(tally: Tally) -> dict[str, Any]:
    """The sums and counts of a tally, and the states of its metrics."""
    metrics = {}
    # A metric that has seen nothing yet is as good as a new one.
    if any(mean.count for mean in tally.losses.values()):
        metrics = {name: metric_state(metric) for name, metric in tally.metrics.items()}
    return {
        "losses": {name: (mean.total, mean.count) for name, mean in tally.losses.items()},
        "metrics": metrics,
    }


def restore_tally(
    tally: Tally, saved: dict[str, Any], device: torch.device, counts: bool = True
) -> None:
    """Restores what `tally_state` gave; what the tally does not have is left out.

    Args:
        tally: to be filled.
        saved: the state.
        device: where sums are kept.
        counts: whether this rank counts what was saved; of several, the first does.
    """
    tally.reset()
    if not counts:
        return
    for name in tally.losses.keys() & saved["losses"].keys():
        total, count = saved["losses"][name]
        tally.losses[name].total = placed(total, device)
        tally.losses[name].count = placed(count, device)
    for name in tally.metrics.keys() & saved["metrics"].keys():
        restore_metric(tally.metrics[name], saved["metrics"][name], device)


def metric_state(metric: MetricObject) -> dict[str, Any]:
    """What a metric has gathered so far.

    Raises:
        CheckpointError: it has no `state_dict`, and its attributes cannot be saved.
    """
    if isinstance(metric, Metric):
        return metric_state(metric.state)
    if isinstance(metric, MeanOf):
        return {name: (mean.total, mean.count) for name, mean in metric.means.items()}
    if parts := torchmetrics_in(metric):  # whose state_dict leaves out the state
        return {
            name: {"states": dict(part.metric_state), "updates": part.update_count}
            for name, part in parts.items()
        }
    if has_state(metric):
        return dict(metric.state_dict())
    return _attributes(metric)


def _attributes(metric: MetricObject) -> dict[str, Any]:
    """The attributes of a metric that has no `state_dict`.

    Functions are left out, since they do not change.
    """
    attributes = getattr(metric, "__dict__", {})
    found = {name: value for name, value in attributes.items() if not callable(value)}
    why = ""
    try:
        plain.encode(found)
    except CheckpointError as error:
        found, why = {}, f": {error}"
    if not found:
        raise CheckpointError(
            f"metric {type(metric).__name__} cannot be saved within an epoch; give it state_dict()"
            f" and load_state_dict(state){why}"
        )
    return found


def restore_metric(metric: MetricObject, state: dict[str, Any], device: torch.device) -> None:
    """Restores what `metric_state` gave."""
    if isinstance(metric, Metric):
        restore_metric(metric.state, state, device)
    elif isinstance(metric, MeanOf):
        metric.reset()
        for name, (total, count) in state.items():
            metric.add_sum(placed(total, device), placed(count, device), name)
    elif parts := torchmetrics_in(metric):
        for name, part in parts.items():
            for field, value in placed(state[name]["states"], device).items():
                setattr(part, field, value)
            part._update_count, part._computed = state[name]["updates"], None
    elif hasattr(metric, "load_state_dict"):
        metric.load_state_dict(placed(state, device))
    else:
        vars(metric).update(placed(state, device))


def placed(thing: Any, device: torch.device) -> Any:
    """Plain data with its tensors on a device."""
    return map_tensors(thing, lambda tensor: tensor.to(device))
