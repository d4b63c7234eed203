"""The page: what happened, in the order in which one asks."""

from __future__ import annotations

import html
import math
import os
import platform
from collections.abc import Iterator
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

from statetrain.callback import name_of
from statetrain.context.history import COUNTERS
from statetrain.errors import ConfigError
from statetrain.lifecycle.text import plain
from statetrain.machine.machine import Machine
from statetrain.outcome import Failed as Failure
from statetrain.outcome import Interrupted, Outcome, Stopped
from statetrain.report.charts import bars, curves, strips
from statetrain.trace import Trace
from statetrain.trace.tape import counted
from statetrain.trace.words import by_words, times_asked, words_of
from statetrain.trace.writing import versions

_SLICES = 200  # along the axis of decisions: more marks could not be told apart
_ROWS = 200  # of the history that are listed


def report(trace: Trace, path: str | os.PathLike[str], machine: Machine | None = None) -> None:
    """Writes a page on a run: one HTML file without scripts, which loads nothing.

    It has the outcome and its reason, the lifecycle with what the run did, the curves of the
    history, the time by state, the callbacks and their order, when which guard held, and the
    environment. What was not recorded is not there, and the page says how to get it.

    Args:
        trace: of the run, from memory or from a file.
        path: the file; one that is there is replaced.
        machine: what ran, for the callbacks; None if only the trace is left.

    Raises:
        ConfigError: the trace does not know its lifecycle.
        OSError: the file cannot be written; one that was there is whole.
    """
    if trace.lifecycle is None:
        raise ConfigError(
            "this trace does not know its lifecycle, which the page is about; give it:"
            " Trace.load(path, lifecycle)"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(page(trace, machine), encoding="utf-8", newline="\n")
    beside.replace(path)


def page(trace: Trace, machine: Machine | None = None) -> str:
    """The page as text."""
    assert trace.lifecycle is not None
    style = (files("statetrain.report") / "page.css").read_text(encoding="utf-8")
    title = f"{plain(trace.lifecycle.name)}: {_ended(trace.outcome)[0]}"
    body = "\n".join(_section(name, text) for name, text in _sections(trace, machine) if text)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport"'
        f' content="width=device-width">\n'
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src'
        f" 'unsafe-inline'\">\n"
        f"<title>{_safe(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<h1>{_safe(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _sections(trace: Trace, machine: Machine | None) -> Iterator[tuple[str, str]]:
    yield "", _summary(trace)
    yield "What went wrong", f"<pre>{_safe(trace.error)}</pre>" if trace.error else ""
    yield "Curves", _curves(trace)
    yield "Lifecycle", _lifecycle(trace)
    yield "Time", _time(trace)
    yield "Decisions", _decisions(trace)
    yield "Callbacks", _callbacks(machine)
    yield "History", _history(trace)
    yield "Environment", _environment(trace)


def _section(name: str, text: str) -> str:
    return f"<section>\n{f'<h2>{_safe(name)}</h2>' if name else ''}\n{text}\n</section>"


# ---------------------------------------------------------------- what happened


def _ended(outcome: Outcome | None) -> tuple[str, str]:
    """How a run ended, in a word, and why."""
    if outcome is None:
        return "still running", "or cut off: the trace has no end"
    word = type(outcome).__name__.lower()
    if isinstance(outcome, Failure):
        return word, f"in state {outcome.state}"
    return word, (
        outcome.reason
        if isinstance(outcome, Stopped | Interrupted)
        else "all that was asked for was done"
    )


def _summary(trace: Trace) -> str:
    word, why = _ended(trace.outcome)
    last = trace.rows[-1] if trace.rows else {}
    facts = {name: last[name] for name in COUNTERS if name in last and name != "epoch_complete"}
    cells = "".join(
        f"<div><b>{_safe(_said(value))}</b><span>{_safe(name)}</span></div>"
        for name, value in facts.items()
    )
    remarks = "".join(f"<p>{_safe(remark)}</p>" for remark in trace.remarks)
    return (
        f'<p class="outcome {word.split()[-1]}"><b>{_safe(word)}</b> {_safe(why)}</p>\n<div'
        f' class="facts">{cells}</div>{remarks}'
    )


def _curves(trace: Trace) -> str:
    rows = [row for row in trace.rows if "epoch" in row]
    columns = [
        name for name in dict.fromkeys(name for row in rows for name in row) if name not in COUNTERS
    ]
    groups: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for column in columns:
        points = [
            (float(row["epoch"]), float(row[column])) for row in rows if _is_number(row.get(column))
        ]
        first, _, rest = column.partition("_")
        metric, name = (rest, first) if first in ("train", "valid") and rest else (column, "")
        if points:
            groups.setdefault(metric, {})[name] = points
    charts = "".join(curves(metric, "epoch", lines) for metric, lines in groups.items())
    return f'<div class="charts">{charts}</div>' if charts else ""


def _lifecycle(trace: Trace) -> str:
    life = trace.lifecycle
    assert life is not None
    pictures = {
        "everything": life.svg(trace=trace),
        "the outline": life.svg(trace=trace, detail="outline"),
    }
    shown = "".join(
        f"<details{' open' if number == 0 else ''}><summary>{name}</summary><div"
        f' class="picture">{svg}</div></details>'
        for number, (name, svg) in enumerate(pictures.items())
    )
    missing = (
        ""
        if len(trace)
        else _hint("Counts on the arrows need the transitions", "fit(..., trace=True)")
    )
    return (
        f"{shown}<details><summary>as a"
        f" table</summary><pre>{_safe_lines(str(life))}</pre></details>{missing}"
    )


def _time(trace: Trace) -> str:
    seconds: dict[str, float] = {}
    for arrow, spent in trace.seconds().items():
        seconds[arrow.dest] = seconds.get(arrow.dest, 0.0) + spent
    total = sum(seconds.values())
    if not total:
        return _hint(
            "The time by state needs times",
            "fit(..., trace=Tracing(times=True)) or a trace in a file",
        )
    rows = sorted(
        (
            (name, spent / total, f"{spent:.3g} s, {spent / total:.1%}")
            for name, spent in seconds.items()
        ),
        key=lambda row: -row[1],
    )
    some = (
        f"<p>Of the last {len(trace):,} transitions; {trace.dropped:,} earlier ones were not"
        " kept.</p>"
        if trace.dropped
        else ""
    )
    waiting = sum(seconds.get(name, 0.0) for name in _drawing(trace))
    return f"<p>{waiting / total:.1%} of it was waiting for data.</p>{some}{bars(rows)}"


def _drawing(trace: Trace) -> list[str]:
    """The states in which batches are drawn."""
    roles = ("draw", "valid_draw", "predict_draw")
    life = trace.lifecycle
    return [] if life is None else [state.name for state in life.by_role(*roles)]


def _decisions(trace: Trace) -> str:
    """When which guarded arrow was taken, and how often its guard held, over the run."""
    life = trace.lifecycle
    assert life is not None
    if not len(trace):
        return ""
    guarded = [(arrow, arrow.guard.label) for arrow in life.transitions if arrow.guard is not None]
    labels = [label for _, label in guarded]
    bounds = [-(-part * len(trace) // _SLICES) for part in range(_SLICES + 1)]
    slices = [
        (begin, by_words(counted(trace.transitions[begin:end])))
        for begin, end in pairwise(bounds)
        if begin < end
    ]
    whole = by_words(trace.counts())
    rows, table = [], []
    for arrow, label in guarded:
        words, name = words_of(arrow), f"{label}: {arrow.source} \N{RIGHTWARDS ARROW} {arrow.dest}"
        table.append((name, whole.get(words, 0), times_asked(life, arrow, whole)))
        marks = [
            (float(at), taken[words] / (times_asked(life, arrow, taken) or taken[words]))
            for at, taken in slices
            if words in taken
        ]
        if marks:
            rows.append((label if labels.count(label) == 1 else name, marks))
    cells = "".join(
        "<tr><th"
        f' scope="row">{_safe(name)}</th><td>{held:,}</td><td>{"" if times is None else f"{times:,}"}</td></tr>'
        for name, held, times in table
    )
    head = "<tr><th>guard</th><th>held</th><th>asked</th></tr>"
    return (
        f"{strips(rows, 0.0, float(max(1, len(trace) - 1)), 'transition')}<table>{head}{cells}</table>"
        if table
        else ""
    )


def _callbacks(machine: Machine | None) -> str:
    if machine is None or not machine.callbacks:
        return ""
    names = "".join(
        f"<li>{_safe(name_of(callback))} <code>{_safe(repr(callback))}</code></li>"
        for callback in machine.callbacks
    )
    return (
        f"<ol>{names}</ol><details><summary>who listens"
        f" where</summary><pre>{_safe_lines(str(machine.outline()))}</pre></details>"
    )


def _history(trace: Trace) -> str:
    if not trace.rows:
        return ""
    columns = list(dict.fromkeys(name for row in trace.rows for name in row))
    head = "".join(f"<th>{_safe(name)}</th>" for name in columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{_safe(_said(row[name])) if name in row else str()}</td>' for name in columns)}</tr>"
        for row in trace.rows[-_ROWS:]
    )
    more = (
        f"<p>The last {_ROWS} of {len(trace.rows):,} rows.</p>" if len(trace.rows) > _ROWS else ""
    )
    return f'{more}<div class="wide"><table>{head and f"<tr>{head}</tr>"}{rows}</table></div>'


def _environment(trace: Trace) -> str:
    facts: dict[str, object] = dict(trace.header.get("versions") or versions())
    if not trace.header:
        facts["system"] = f"{platform.system()} {platform.machine()}"
    for name in ("started", "device", "seed", "epochs", "fingerprint"):
        if name in trace.header:
            facts[name] = trace.header[name]
    cells = "".join(
        f'<tr><th scope="row">{_safe(name)}</th><td>{_safe(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    return f"<table>{cells}</table>"


# ---------------------------------------------------------------- words


def _hint(what: str, how: str) -> str:
    return f'<p class="hint">{_safe(what)}: <code>{_safe(how)}</code></p>'


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _said(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _safe(text: str) -> str:
    return html.escape(plain(text)) if "\n" not in text else _safe_lines(text)


def _safe_lines(text: str) -> str:
    return "\n".join(html.escape(plain(line)) for line in text.splitlines())
