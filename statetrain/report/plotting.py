"""Curves of a history, with matplotlib (the extra `plot`)."""

from __future__ import annotations

import io
from typing import Any

from statetrain.context.history import COUNTERS, History
from statetrain.errors import ConfigError
from statetrain.naming import did_you_mean
from statetrain.report.charts import thin
from statetrain.validators import check_word

_MARKED = 60  # points of a curve that are marked one by one, at most


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
    lines = _lines(history)
    chosen = list(lines)
    if isinstance(metrics, str):
        chosen = [metrics]
    elif metrics is not None:
        chosen = list(metrics)
    _check(history, list(lines), chosen, x)
    columns = min(len(chosen), 3)
    rows = -(-len(chosen) // columns)
    figure = _make_figure(figsize=(4.8 * columns, 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for name, panel in zip(chosen, panels, strict=False):
        for column, label in lines[name].items():
            _draw_curve(panel, history, x, column, label)
        panel.set_title(name)
        panel.set_xlabel(x)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    for panel in list(panels):
        panel.set_visible(False)
    return figure


def _make_figure(**options: Any) -> Any:
    try:
        import matplotlib.figure
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib; install it with: pip install 'statetrain[plot]'"
        ) from error

    class Curves(matplotlib.figure.Figure):
        """A figure that a notebook shows by itself, though it belongs to no window."""

        def _repr_png_(self) -> bytes:
            picture = io.BytesIO()
            self.savefig(picture, format="png")
            return picture.getvalue()

    return Curves(**options)


def _draw_curve(panel: Any, history: History, x: str, column: str, label: str) -> None:
    points = thin([(row[x], row[column]) for row in history if column in row])
    marker = None
    if len(points) <= _MARKED:
        marker = "o"
    panel.plot(
        *zip(*points, strict=True),
        marker=marker,
        markersize=3,
        linestyle="-" if history.set_of(column) == "train" else "--",
        label=label,
    )


def _lines(history: History) -> dict[str, dict[str, str]]:
    """The columns of numbers and their labels, by metric; other columns have no curve."""
    lines: dict[str, dict[str, str]] = {}
    for column in history.columns:
        if column in COUNTERS or not all(isinstance(v, int | float) for v in history[column]):
            continue
        set_name, metric, optimizer = history.split(column)
        label = set_name or column
        if optimizer is not None:
            label = column
        lines.setdefault(metric, {})[column] = label
    return lines


def _check(history: History, names: list[str], chosen: list[str], x: str) -> None:
    check_word("plot: x", x, COUNTERS[:-1])
    metrics = {history.split(column)[1] for column in history.columns}
    for name in chosen:
        if name in names:
            continue
        if name in metrics:
            raise ConfigError(f"the metric {name!r} is not a number, so it has no curve")
        raise ConfigError(f"the history has no metric {name!r}{did_you_mean(name, names)}")
    if not chosen:
        raise ConfigError("nothing was recorded, so there is nothing to plot")
