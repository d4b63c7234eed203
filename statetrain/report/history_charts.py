"""The rows of a history as charts: one for each metric, with a curve for each set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from statetrain.context.history import COUNTERS
from statetrain.report.charts import curves
from statetrain.validators import is_number

_Rows = Sequence[Mapping[str, Any]]


def charts(rows: _Rows) -> str:
    """Charts as HTML, over the epochs, or where several rows are of one epoch over the steps.

    Args:
        rows: of a history.

    Returns:
        Empty where there is no number to draw.
    """
    x, places = _axis(rows)
    groups: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for column in dict.fromkeys(name for row in rows for name in row):
        points = [
            (place, float(row[column]))
            for place, row in zip(places, rows, strict=True)
            if is_number(row.get(column))
        ]
        if points and column not in COUNTERS:
            metric, name = _split(column)
            groups.setdefault(metric, {})[name] = points
    if not groups:
        return ""
    drawn = "".join(curves(metric, x, lines) for metric, lines in groups.items())
    return f'<div class="charts">{drawn}</div>'


def charts_style() -> str:
    """The style that charts have, for a page with the colours `--ink` and `--soft`."""
    from importlib.resources import files  # it takes a while to load, and few runs draw

    return (files("statetrain.report") / "charts.css").read_text(encoding="utf-8")


def cell_charts(rows: _Rows) -> str:
    """Charts for the cell of a notebook, in the colours of its text."""
    drawn = charts(rows)
    if not drawn:
        return ""
    own = (
        "--chart: 400px; --ink: currentColor;"
        " --soft: color-mix(in srgb, currentColor 65%, transparent);"
        " --grid: color-mix(in srgb, currentColor 15%, transparent);"
    )
    return (
        f'<div class="statetrain"><style>.statetrain {{ {own} {charts_style()} }}</style>'
        f"{drawn}</div>"
    )


def _axis(rows: _Rows) -> tuple[str, list[float]]:
    """The counter that grows from row to row, and its values; else the number of the row."""
    for name in ("epoch", "step"):
        values = [float(row[name]) for row in rows if is_number(row.get(name))]
        if len(values) == len(rows) and all(a < b for a, b in pairwise(values)):
            return name, values
    return "row", [float(number) for number in range(1, len(rows) + 1)]


def _split(column: str) -> tuple[str, str]:
    """A column's metric and its set, such as "loss" and "valid"."""
    name, _, metric = column.partition("_")
    if name in ("train", "valid") and metric:
        return metric, name
    return column, ""
