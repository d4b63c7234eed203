"""The page: what happened, in the order in which a reader wants to know it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from itertools import pairwise
from typing import Any

from statetrain.callback import name_of
from statetrain.context.history import COUNTERS
from statetrain.contracts.notes import Notes, notes_of
from statetrain.errors import ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.text import plain
from statetrain.lifecycle.transition import Transition
from statetrain.live.chronicle import Chronicle
from statetrain.live.page import block, data_of_runs, policy, script, style
from statetrain.machine.machine import Machine
from statetrain.outcome import Completed, Outcome
from statetrain.outcome import Failed as Failure
from statetrain.report.charts import bars, strips
from statetrain.report.history_charts import charts, charts_style
from statetrain.report.markup import escape, escape_lines, figure, hint, row, section, table
from statetrain.trace import Trace
from statetrain.trace.tape import count_arrows
from statetrain.trace.words import Words, by_words, times_asked, words_of
from statetrain.trace.writing import versions
from statetrain.validators import local_path

_SLICES = 200  # along the axis of decisions: more marks could not be told apart
_ROWS = 200  # of the history that are listed


def report(
    trace: Trace,
    path: str | os.PathLike[str],
    machine: Machine | None = None,
    against: Trace | None = None,
) -> None:
    """Writes a page on a run: one HTML file, which loads nothing.

    It has the outcome and its reason, the lifecycle with the whole way that the run took, the
    curves of the history, the time by state, the callbacks and their order, when which guard was
    true, and the environment. What was not recorded is not there, and the page says how to get it.

    Args:
        trace: of the run, from memory or from a file.
        path: the file; one that is there is replaced.
        machine: what ran, for the callbacks; None if only the trace is left.
        against: of another run, which is shown next to the first; None shows one.

    Raises:
        ConfigError: a trace does not know its lifecycle.
        OSError: the file cannot be written; one that was there is whole.
    """
    for one in (trace, against):
        if one is not None and one.lifecycle is None:
            raise ConfigError(
                "this trace does not know its lifecycle, which the page is about; give it:"
                " Trace.load(path, lifecycle)"
            )
    path = local_path("report", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(page(trace, machine, against), encoding="utf-8", newline="\n")
    beside.replace(path)


def page(trace: Trace, machine: Machine | None = None, against: Trace | None = None) -> str:
    """The page as text."""
    assert trace.lifecycle is not None
    own = (files("statetrain.report") / "page.css").read_text(encoding="utf-8") + charts_style()
    title = escape(f"{plain(trace.lifecycle.name)}: {_describe_ending(trace.outcome)[0]}")
    body = "\n".join(section(name, text) for name, text in _sections(trace, machine, against))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n{policy()}\n'
        f"<title>{title}</title>\n<style>\n{own}{style()}</style>\n</head>\n<body>\n"
        f"<h1>{title}</h1>\n{body}\n<script>{script()}</script>\n</body>\n</html>\n"
    )


def _sections(
    trace: Trace, machine: Machine | None, against: Trace | None
) -> Iterator[tuple[str, str]]:
    yield "", _summary(trace)
    if trace.error:
        yield "What went wrong", f"<pre>{escape_lines(trace.error)}</pre>"
    yield "Curves", charts(trace.rows)
    yield "Lifecycle", _lifecycle(trace, machine, against)
    yield "Time", _time(trace)
    yield "Ranks", _ranks(trace)
    yield "Decisions", _decisions(trace)
    yield "Callbacks", _callbacks(machine)
    yield "History", _history(trace)
    yield "Environment", _environment(trace)


# ---------------------------------------------------------------- what happened


def _describe_ending(outcome: Outcome | None) -> tuple[str, str]:
    """How a run ended, in a word, and why."""
    if outcome is None:
        return "still running", "or cut off: the trace has no end"
    word = type(outcome).__name__.lower()
    if isinstance(outcome, Failure):
        return word, f"in state {outcome.state}"
    if isinstance(outcome, Completed):
        return word, "everything that was asked for was done"
    return word, getattr(outcome, "reason", "") or getattr(outcome, "state", "")


def _summary(trace: Trace) -> str:
    word, why = _describe_ending(trace.outcome)
    last = next(reversed(trace.rows), {})
    facts = [name for name in COUNTERS if name in last and name != "epoch_complete"]
    cells = "".join(
        f"<div><b>{escape(figure(last[name]))}</b><span>{escape(name)}</span></div>"
        for name in facts
    )
    remarks = "".join(f"<p>{escape(remark)}</p>" for remark in trace.remarks)
    return (
        f'<p class="outcome {word.split()[-1]}"><b>{escape(word)}</b> {escape(why)}</p>\n<div'
        f' class="facts">{cells}</div>{remarks}'
    )


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of all columns, in the order in which they came."""
    return list(dict.fromkeys(name for one in rows for name in one))


def _lifecycle(trace: Trace, machine: Machine | None, against: Trace | None) -> str:
    life = trace.lifecycle
    assert life is not None
    notes: Notes | None = trace.header.get("notes")
    if machine is not None:
        notes = notes_of(machine.dataflow(), machine.outline())
    chronicles = [Chronicle.of(trace, notes)]
    names = ["this run", "the other run"]
    if against is not None:
        chronicles.append(Chronicle.of(against, against.header.get("notes")))
    living = block(data_of_runs(chronicles, names[: len(chronicles)], life.name))
    pictures = "".join(
        f"<details><summary>{name}</summary><div class='picture'>{svg}</div></details>"
        for name, svg in (
            ("everything, as a picture to print", life.svg(trace=trace)),
            ("the outline, as a picture to print", life.svg(trace=trace, detail="outline")),
        )
    )
    text = f"<details><summary>as a table</summary><pre>{escape_lines(str(life))}</pre></details>"
    if not len(trace):
        text += hint("Counts on the arrows need the transitions", "fit(..., trace=True)")
    return f"{living}{pictures}{text}"


def _time(trace: Trace) -> str:
    seconds: dict[str, float] = {}
    for arrow, spent in trace.seconds().items():
        seconds[arrow.dest] = seconds.get(arrow.dest, 0.0) + spent
    total = sum(seconds.values())
    if not total:
        return hint(
            "The time by state needs times",
            "fit(..., callbacks=Tracing(times=True)) or a trace in a file",
        )
    rows = sorted(
        (
            (name, spent / total, f"{spent:.3g} s, {spent / total:.1%}")
            for name, spent in seconds.items()
        ),
        key=lambda found: -found[1],
    )
    some = ""
    if trace.dropped:
        some = (
            f"<p>Of the last {len(trace):,} transitions; {trace.dropped:,} earlier ones were not"
            " kept.</p>"
        )
    share = _waiting(trace, seconds) / total
    return f"<p>{share:.1%} of it was waiting for data.</p>{some}{bars(rows)}"


def _ranks(trace: Trace) -> str:
    """How long each rank waited in each meeting; nothing of one process."""
    words = dict.fromkeys(word for one in trace.waited for word in one)
    spent = {word: [one.get(word, 0.0) for one in trace.waited] for word in words}
    total = sum(map(sum, spent.values())) or 1.0
    parts = []
    for word in sorted(words, key=lambda word: -sum(spent[word])):
        rows = [
            (f"rank {rank}", seconds / total, f"{seconds:.3g} s")
            for rank, seconds in enumerate(spent[word])
        ]
        parts.append(f"<h3>{escape(word)}</h3>{bars(rows)}")
    if not parts:
        return ""
    return (
        "<p>Seconds in the meetings of all ranks, until the last row. A rank with few of them comes"
        f" late, and the others wait for it.</p>{''.join(parts)}"
    )


def _waiting(trace: Trace, seconds: dict[str, float]) -> float:
    """The seconds in the states that draw batches."""
    assert trace.lifecycle is not None
    roles = [role for role in trace.lifecycle.roles if role == "draw" or role.endswith("_draw")]
    drawing = trace.lifecycle.by_role(*roles)
    return sum(seconds.get(state.name, 0.0) for state in drawing)


def _decisions(trace: Trace) -> str:
    """When which guarded arrow was taken, and how often its guard was true, over the run."""
    life = trace.lifecycle
    assert life is not None
    guarded = [(arrow.guard.label, arrow) for arrow in life.transitions if arrow.guard is not None]
    if not len(trace) or not guarded:
        return ""
    labels = [label for label, _ in guarded]
    whole, slices = by_words(trace.counts()), _slices(trace)
    marks, rows = [], []
    for label, arrow in guarded:
        name = f"{label}: {arrow.source} \N{RIGHTWARDS ARROW} {arrow.dest}"
        rows.append(row(name, *_times(life, arrow, whole)))
        found = _shares(life, arrow, slices)
        if not found:
            continue
        if labels.count(label) > 1:
            label = name
        marks.append((label, found))
    axis = strips(marks, 0.0, float(max(1, len(trace) - 1)), "transition")
    return axis + table(("guard", "true", "evaluated"), rows)


def _times(life: Lifecycle, arrow: Transition, counts: dict[Words, int]) -> tuple[str, str]:
    """How often an arrow was taken, and how often its guard was evaluated, if that is known."""
    asked = times_asked(life, arrow, counts)
    taken = f"{counts.get(words_of(arrow), 0):,}"
    if asked is None:
        return taken, ""
    return taken, f"{asked:,}"


def _shares(
    life: Lifecycle, arrow: Transition, slices: list[tuple[int, dict[Words, int]]]
) -> list[tuple[float, float]]:
    """How often a guard was true, of how often it was evaluated, in each part of the run."""
    words = words_of(arrow)
    return [
        (float(at), taken[words] / (times_asked(life, arrow, taken) or taken[words]))
        for at, taken in slices
        if words in taken
    ]


def _slices(trace: Trace) -> list[tuple[int, dict[Words, int]]]:
    """How often each arrow was taken in parts of the run, and where each part begins."""
    bounds = [-(-part * len(trace) // _SLICES) for part in range(_SLICES + 1)]
    return [
        (begin, by_words(count_arrows(trace.transitions[begin:end])))
        for begin, end in pairwise(bounds)
        if begin < end
    ]


def _callbacks(machine: Machine | None) -> str:
    if machine is None or not machine.callbacks:
        return ""
    names = "".join(
        f"<li>{escape(name_of(callback))} <code>{escape(repr(callback))}</code></li>"
        for callback in machine.callbacks
    )
    return (
        f"<ol>{names}</ol><details><summary>who listens"
        f" where</summary><pre>{escape_lines(str(machine.outline()))}</pre></details>"
    )


def _history(trace: Trace) -> str:
    if not trace.rows:
        return ""
    columns = _columns(trace.rows)
    lines = [row(*_cells(one, columns)) for one in trace.rows[-_ROWS:]]
    more = ""
    if len(trace.rows) > _ROWS:
        more = f"<p>The last {_ROWS} of {len(trace.rows):,} rows.</p>"
    return f'{more}<div class="wide">{table(columns, lines)}</div>'


def _cells(one: Mapping[str, Any], columns: list[str]) -> Iterator[str]:
    for name in columns:
        if name in one:
            yield figure(one[name])
        else:
            yield ""


def _environment(trace: Trace) -> str:
    facts: dict[str, object] = dict(trace.header.get("versions") or versions())
    if not trace.header:
        facts["system"] = f"{platform.system()} {platform.machine()}"
    for name in ("started", "device", "seed", "epochs", "fingerprint"):
        if name in trace.header:
            facts[name] = trace.header[name]
    return table((), [row(name, str(value)) for name, value in facts.items()])
