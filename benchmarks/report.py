"""The suite's numbers as a page of Markdown and a plot."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Result = dict[str, Any]

_NAMES = {
    "by_hand": "the loop against itself",
    "ours": "**statetrain**",
    "ignite": "Ignite",
    "fabric": "Lightning Fabric",
    "skorch": "skorch",
    "accelerate": "Accelerate",
    "pytorch_accelerated": "pytorch-accelerated",
    "fastai": "fastai",
    "lightning": "Lightning Trainer",
    "transformers": "transformers Trainer",
    "keras": "Keras on torch",
}
_CONFIGS = {
    "lean": "Lean: nothing on",
    "typical": (
        "Typical: loss mean and accuracy of each epoch, early stopping, NaN guard, a line printed"
        " and a line of CSV an epoch"
    ),
    "heavy": (
        "Heavy: 100 callbacks, a log line every 10 steps, a checkpoint every 1,000, EMA, clipping,"
        " schedule"
    ),
}
_MODELS = {"mlp": "tiny MLP", "cnn": "small CNN on digits", "transformer": "small transformer"}

_HEAD = """# What it costs

Written by `make bench`; do not edit. Each comparison runs in a process of its own, in blocks that alternate with the
hand-written loop that does the same work (`loops.py`), each pair in random order; each library is compared with the loop
that computes what it computes, and draws from the same kind of data. The clocks sit in the data: what is counted runs
from the draw of an epoch's first batch to that of its last; "between epochs" is what one epoch takes beyond its batches, and
"with it" is the ratio of the two together, in epochs of so many batches as are named. CPU time is of all threads; ratios and
differences are medians over the pairs, with 95 % bootstrap bounds of the median, and ± is half the spread of the middle half.
Weights are compared after a whole run: "same bits", or the largest difference.

"""


def name(result: Result) -> str:
    """What a row is called."""
    own = result["config"] not in _CONFIGS
    return f"{_NAMES[result['peer']]}{', ' + result['config'].replace('_', ' ') if own else ''}"


def group(result: Result) -> str:
    """Under which configuration a variant is listed: those of a peer's own are lean ones."""
    config: str = result["config"]
    return config if config in _CONFIGS else "lean"


def page(
    results: Iterable[Result],
    sections: dict[str, list[Result]],
    about: dict[str, str],
    plot: str | None,
    head: str = _HEAD,
) -> str:
    """The whole page.

    Args:
        results: of `versus.py`; one with `skipped` or `failed` is said to be so.
        sections: rows of the other scripts, by title; or comparisons of two ways, each with a
            `ratio`.
        about: the environment.
        plot: the picture's file name, if there is one.
        head: what the page is and how its numbers came about.
    """
    results = list(results)
    parts = [head, "".join(f"- {what}: {value}\n" for what, value in about.items()), "\n"]
    if plot is not None:
        parts.append(f"![CPU time against the hand-written loop]({plot})\n\n")
    measured = [result for result in results if "cpu_us" in result]
    for config, title in _CONFIGS.items():
        for model, words in _MODELS.items():
            chosen = [
                result for result in measured if group(result) == config and result["task"] == model
            ]
            if chosen:
                parts.append(f"## {title}; {words}\n\n{_table(chosen)}\n")
    for title, rows in sections.items():
        parts.append(f"## {title}\n\n{_compared(rows) if 'ratio' in rows[0] else _rows(rows)}\n")
    missing = [result for result in results if "cpu_us" not in result]
    if missing:
        parts.append("## Not measured\n\n")
        parts += [
            f"- {name(result)}, {result['config']}, {result['task']}:"
            f" {result.get('skipped') or result.get('failed')}\n"
            for result in missing
        ]
    notes = {
        f"{name(result)}, {group(result)}": f"{result['version']}; {result['note']}"
        for result in measured
    }
    if notes:
        parts.append(
            "\n## How each was used\n\n"
            + "".join(f"- {who}: {what}\n" for who, what in notes.items())
        )
    return "".join(parts)


def _table(results: list[Result]) -> str:
    lines = [
        (
            "| | CPU time, ratio | bounds | difference, µs a batch | bounds | ± | wall time, ratio"
            " | loop, µs | between epochs, ms | with it, ratio | pairs, epochs, batches | weights |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for result in sorted(results, key=lambda each: (each["peer"] != "by_hand", each["cpu_ratio"])):
        low, high = result["cpu_ratio_bounds"]
        least, most = result["cpu_us_bounds"]
        weights = "same bits" if result["difference"] == 0 else f"{result['difference']:.0e}"
        lines.append(
            f"| {name(result)} | {result['cpu_ratio']:.3f} | {low:.3f} to {high:.3f} |"
            f" {result['cpu_us']:+.1f} | {least:+.1f} to {most:+.1f} |"
            f" {result['cpu_us_iqr'] / 2:.1f} | {result['wall_ratio']:.3f} |"
            f" {result['cpu_hand']:.0f} | {result['between_ms']:.2f} | {result['epoch_ratio']:.3f}"
            f" | {result['pairs']}, {result['epochs']}, {result['batches']} | {weights} |"
        )
    return "\n".join(lines) + "\n"


def _rows(rows: list[Result]) -> str:
    lines = ["| | | bounds | at most |", "|---|---:|---:|---:|"]
    for row in rows:
        bounds = "" if row["bounds"] is None else "{} to {}".format(*map(_number, row["bounds"]))
        goal = "" if row["goal"] is None else f"{row['goal']:g}"
        lines.append(
            f"| {row['what']} | {_number(row['value'])} {row['unit']} | {bounds} | {goal} |"
        )
    return "\n".join(lines) + "\n"


def _compared(results: list[Result]) -> str:
    lines = [
        (
            "| | wall time, ratio | bounds | at most | of, µs a batch | CPU time of the host,"
            " difference, µs a batch | bounds | weights |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for result in results:
        (low, high), (least, most) = result["bounds"], result["host_bounds"]
        goal = "" if result["goal"] is None else f"{result['goal']:g}"
        weights = (
            "same bits"
            if result["difference"] == 0
            else f"{result['difference']:.0e}{'' if result['exact'] else ' (need not be the same)'}"
        )
        lines.append(
            f"| {result['what']} | {result['ratio']:.3f} | {low:.3f} to {high:.3f} | {goal} |"
            f" {_number(result['wall_us'])} | {result['host_us']:+.1f} | {least:+.1f} to"
            f" {most:+.1f} | {weights} |"
        )
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return (
        f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
        if abs(value) >= 0.001
        else f"{value:.1g}"
    )


def draw(results: Iterable[Result], path: Path) -> bool:
    """Draws the ratios on the tiny MLP, lean and typical side by side; whether there was matplotlib to do so.

    Args:
        results: of `versus.py`.
        path: the SVG file.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return False
    measured = [result for result in results if "cpu_us" in result and result["task"] == "mlp"]
    columns = [
        config
        for config in ("lean", "typical", "heavy")
        if any(group(result) == config for result in measured)
    ]
    with rc_context({"svg.hashsalt": "statetrain", "svg.fonttype": "none", "font.size": 9}):
        most = max(
            (sum(group(result) == config for result in measured) for config in columns), default=1
        )
        figure = Figure(figsize=(4.2 * max(len(columns), 1), 4.6), layout="constrained")
        for axes, config in zip(
            figure.subplots(1, max(len(columns), 1), squeeze=False)[0], columns, strict=False
        ):
            chosen = sorted(
                (result for result in measured if group(result) == config),
                key=lambda each: -each["cpu_ratio"],
            )
            ratios = [result["cpu_ratio"] for result in chosen]
            bounds = [
                [max(result["cpu_ratio"] - result["cpu_ratio_bounds"][0], 0) for result in chosen],
                [max(result["cpu_ratio_bounds"][1] - result["cpu_ratio"], 0) for result in chosen],
            ]
            colors = ["#2a78d6" if result["peer"] == "ours" else "#a8a8a8" for result in chosen]
            places = list(range(len(chosen)))
            axes.barh(
                places,
                [ratio - 1 for ratio in ratios],
                left=1,
                color=colors,
                xerr=bounds,
                error_kw={"linewidth": 0.8, "ecolor": "#555555"},
            )
            axes.set_yticks(places, [name(result).replace("**", "") for result in chosen])
            for place, ratio, above in zip(places, ratios, bounds[1], strict=True):
                axes.annotate(
                    f"{ratio:.2f}",
                    (max(ratio, 1) + above, place),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                )
            axes.set_xlim(
                min(0.95, *ratios),
                max(1.2, *(ratio + above for ratio, above in zip(ratios, bounds[1], strict=True)))
                * 1.15,
            )
            # Bars of one height everywhere
            axes.set_ylim(len(chosen) - 0.4 - most, len(chosen) - 0.4)
            axes.axvline(1, color="#555555", linewidth=0.8)
            axes.set_title(config)
            axes.set_xlabel("CPU time a batch, ratio to the loop by hand")
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})
    return True
