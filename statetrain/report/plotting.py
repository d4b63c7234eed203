"""Curves of a history, with matplotlib (the extra `plot`)."""

from __future__ import annotations

from typing import Any

from statetrain.context.history import COUNTERS, History
from statetrain.errors import ConfigError
from statetrain.naming import did_you_mean


def plot(history: History, metrics: str | list[str] | None = None, *, x: str = "epoch") -> Any:
    """Draws each metric over the epochs, training and validation together.

    Args:
        history: of a run.
        metrics: their names without the set, such as "loss"; None is all.
        x: the counter to draw over: "epoch", "batch", "step", "samples" or "seconds".

    Returns:
        A matplotlib `Figure`, one panel a metric; it belongs to no window, so save it or show it as
        you like.

    Raises:
        ImportError: matplotlib is not installed.
        ConfigError: a metric or the counter is unknown, or nothing was recorded.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib; install it with: pip install 'statetrain[plot]'"
        ) from error
    table = history.table()
    names = list(dict.fromkeys(row["metric"] for row in table))
    chosen = names if metrics is None else [metrics] if isinstance(metrics, str) else list(metrics)
    counters = COUNTERS[:-1]
    if x not in counters:
        raise ConfigError(
            f"x must be one of {', '.join(counters)}, got {x!r}{did_you_mean(x, counters)}"
        )
    for name in chosen:
        if name not in names:
            raise ConfigError(f"the history has no metric {name!r}{did_you_mean(name, names)}")
    if not chosen:
        raise ConfigError("nothing was recorded, so there is nothing to plot")
    columns = min(len(chosen), 3)
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(4.8 * columns, 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, name in zip(panels, chosen, strict=False):
        for column in history.columns:
            set_name, _, metric = column.partition("_")
            if set_name in ("train", "valid") and (
                metric == name
                or (name == "loss" and metric.removeprefix("loss_") in history.optimizers)
            ):
                points = [(row[x], row[column]) for row in history if column in row]
                label = column if history.optimizers and name == "loss" else set_name
                panel.plot(
                    *zip(*points, strict=True),
                    marker="o",
                    markersize=3,
                    linestyle="-" if set_name == "train" else "--",
                    label=label,
                )
        panel.set_title(name)
        panel.set_xlabel(x)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    for panel in list(panels):
        panel.set_visible(False)
    return figure
