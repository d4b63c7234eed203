"""What is shown of a run that is watched in a terminal."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from attrs import frozen

from statetrain.context.history import COUNTERS, format_value
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, START
from statetrain.lifecycle.text import reading_order
from statetrain.lifecycle.transition import Transition
from statetrain.naming import printable
from statetrain.outcome import Completed, Failed, Interrupted, Stopped
from statetrain.trace.following import Following
from statetrain.trace.reading import TraceFile
from statetrain.trace.tape import KnownFacts, TapeRow, moments_of
from statetrain.validators import is_number

_WINDOW = 10.0  # seconds over which rates are taken
_QUIET = 5.0  # seconds without a line after which that is shown
_POINTS = 40  # of a sparkline, at most
_CURVES = 6  # of columns, at most
_BLOCKS = "▁▂▃▄▅▆▇█"
_STYLES: dict[type, str] = {
    Completed: "green",
    Stopped: "green",
    Interrupted: "yellow",
    Failed: "bold red",
}


@frozen
class Line:
    """A line of the screen.

    Attributes:
        text: what it says, safe to print.
        style: how rich shows it.
        left: whether it stands on the left, where the table is.
    """

    text: str
    style: str = ""
    left: bool = False


def screen(following: Following[TraceFile], now: float) -> list[Line]:
    """All that is known of a run, for a person.

    Args:
        following: the run.
        now: seconds since the epoch.
    """
    reading = following.reading
    if reading is None or not reading.header:
        return [Line("nothing has been written yet", "dim")]
    counts = reading.tape.counts()
    lines = [Line(title_of(reading), "bold"), *_numbers(reading, now), Line("")]
    lines += [Line(f"states{'':18}times entered", "dim", left=True), *_table(reading, counts)]
    for name, part in (("guards", _guards(reading, counts)), ("curves", _curves(reading))):
        if part:
            lines += [Line(""), Line(name, "dim"), *part]
    lines += [Line(f"note: {remark}", "yellow") for remark in reading.remarks]
    return [Line(printable(line.text), line.style, line.left) for line in lines]


def title_of(reading: TraceFile) -> str:
    """Which run it is, and when it started."""
    header = reading.header
    try:
        started = f"{datetime.fromisoformat(str(header['started'])).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, LookupError, OverflowError):
        started = "at an unknown time"
    begun = "started"
    if "resumed" in header:
        begun = "resumed"
    name, identity = header.get("name", "a run"), str(header.get("id", ""))[:12]
    return f"{name}, run {identity}, {begun} {started}"


def row_of(row: TapeRow) -> str:
    """A row of the history on one line."""
    parts = []
    if "epoch" in row:
        parts.append(f"epoch {row['epoch']}")
    for name, value in row.items():
        if name not in COUNTERS and is_number(value):
            parts.append(f"{name} {format_value(value)}")
    return "  ".join(parts)


def ending_of(reading: TraceFile) -> str:
    """How the run ended, and after how long."""
    seconds = reading.seconds
    if seconds is None and reading.tape.moments:
        seconds = reading.tape.moments[-1][0]
    outcome, took = reading.outcome, ""
    if seconds is not None:
        took = f" after {_clock(seconds)}"
    if outcome is None:
        return f"running{took.replace('after', 'for')}"
    if not isinstance(outcome, Failed):
        return f"{outcome!r}{took}"
    error = (reading.error.splitlines() or ["unknown"])[0]
    return f"failed in {outcome.state!r}, epoch {outcome.epoch}{took}: {error}"


# ---------------------------------------------------------------- numbers


def _numbers(reading: TraceFile, now: float) -> Iterator[Line]:
    yield Line(f"outcome  {ending_of(reading)}", _STYLES.get(type(reading.outcome), ""))
    if not reading.tape.moments:
        return
    yield from _counts(reading)
    rates = _rates(reading.tape.moments)
    if rates is not None:
        yield Line(f"speed    {rates[0]:,.1f} batches/s   {rates[1]:,.0f} samples/s")
    try:
        quiet = now - Path(reading.name).stat().st_mtime
    except OSError:
        return
    if reading.outcome is None and quiet > _QUIET:
        yield Line(f"         nothing was written for {quiet:,.0f} s", "yellow")


def _counts(reading: TraceFile) -> Iterator[Line]:
    last = moments_of(reading.tape.moments[-1:])[0]
    if last.epoch is None:
        return
    epoch, batch = str(last.epoch), str(last.iter)
    about = reading.header.get("run")
    if isinstance(about, dict) and isinstance(about.get("epochs"), int):
        epoch += f"/{about['epochs']}"
    if reading.length:
        batch += f"/{reading.length}"
    yield Line(
        f"counts   epoch {epoch}   batch {batch}   step {last.step:,}   samples"
        f" {last.samples or 0:,}"
    )


def _rates(known: Sequence[KnownFacts]) -> tuple[float, float] | None:
    """Training batches and samples per second, over the last seconds of the run."""
    window: list[tuple[float, tuple[int, int], int]] = []  # the latest first
    for time, epoch, batch, _, _, samples, *_ in reversed(known):
        if time is None or epoch is None:
            continue
        if window and time < window[0][0] - _WINDOW:
            break
        window.append((time, (epoch, batch), samples or 0))
    if not window or window[0][0] <= window[-1][0]:
        return None
    seconds = window[0][0] - window[-1][0]
    places = [place for _, place, _ in window]
    batches = sum(one != other and one[1] != 0 for one, other in itertools.pairwise(places))
    return batches / seconds, (window[0][2] - window[-1][2]) / seconds


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    if minutes:
        return f"{minutes}:{rest:02}"
    return f"{seconds:.1f} s"


# ---------------------------------------------------------------- states and guards


def _table(reading: TraceFile, counts: Mapping[Transition, int]) -> Iterator[Line]:
    """The nested states with how often each was entered; the one that the run is in is marked."""
    life = reading.table
    here = next((arrow.dest for arrow in reading.tape.taken[-1:]), None)
    entered = _count_entered(life, counts)
    names = list(entered)
    path: Sequence[str | None] = [here]
    depths: dict[str, int] = {}
    if life is not None:
        names = [*reading_order(life)]
        if FAILED in entered:
            names.append(FAILED)
        if here in names:
            path = life.path(here)
        depths = {name: len(life.path(name)) - 1 for name in names}
    for name in names:
        depth = depths.get(name, 0)
        sign, style = _look(name, here, path, entered)
        text = f"{sign} {'  ' * depth + name:<22} {entered[name]:>10,}"
        yield Line(text, style, left=True)


def _look(
    name: str, here: str | None, path: Sequence[str | None], entered: Mapping[str, int]
) -> tuple[str, str]:
    """The sign before a state, and its style."""
    if name == here:
        return "=>", "bold reverse"
    if name in path:
        return " >", "bold"
    if not entered[name]:
        return "  ", "dim"
    return "  ", ""


def _count_entered(life: Lifecycle | None, counts: Mapping[Transition, int]) -> Counter[str]:
    """How often each state was entered, scopes on the way included."""
    entered: Counter[str] = Counter()
    known = {START, FAILED}
    if life is not None:
        known |= set(life.names)
    for arrow, times in counts.items():
        names: Sequence[str] = (arrow.dest,)
        if life is not None and arrow.source in known and arrow.dest in known:
            names = life.crossing(arrow.source, arrow.dest)[1]
        for name in names:
            entered[name] += times
    return entered


def _guards(reading: TraceFile, counts: Counter[Transition]) -> list[Line]:
    """What each guard answered when its state was last left, and how often it was true.

    The answer is `-` if it was not asked.
    """
    life = reading.table
    if life is None:
        return []
    last = {arrow.source: arrow for arrow in reading.tape.taken if arrow.event is None}
    lines = []
    for name in reading_order(life):
        arrows = life.arrows(name)
        asked = sum(counts[arrow] for arrow in arrows)
        for place, arrow in enumerate(arrows):
            if arrow.guard is not None and asked:
                answer = _answer(arrows, place, last.get(name))
                question = f"{name}: {arrow.guard.label}"
                text = f"  {question:<44.44} {answer:<4} {counts[arrow]:>8,} of {asked:>9,}"
                lines.append(Line(text, "" if counts[arrow] else "dim"))
            asked -= counts[arrow]
    return lines


def _answer(arrows: Sequence[Transition], place: int, last: Transition | None) -> str:
    """What the guard at a place of a state's arrows answered, when the last one was taken."""
    if last is None or last not in arrows or arrows.index(last) < place:
        return "-"
    return {True: "yes", False: "no"}[arrows.index(last) == place]


# ---------------------------------------------------------------- curves


def _curves(reading: TraceFile) -> list[Line]:
    rows = reading.rows
    names = dict.fromkeys(name for row in rows for name in row if name not in COUNTERS)
    curves = {"loss of a batch": _last_losses(reading.tape.moments)}
    for name in names:
        curves[name] = [row[name] for row in rows if is_number(row.get(name))]
    shown = [(name, values) for name, values in curves.items() if values][: _CURVES + 1]
    return [Line(f"  {name:<22.22} {_draw_curve(values)}", "cyan") for name, values in shown]


def _draw_curve(values: Sequence[float]) -> str:
    """The numbers as blocks, and the last one."""
    return f"{sparkline(values):<{_POINTS}} {format_value(float(values[-1]))}"


def _last_losses(known: Sequence[KnownFacts]) -> list[float]:
    found: list[float] = []
    for *_, values in reversed(known):
        if len(found) == _POINTS:
            break
        if values and "loss_value" in values:
            found.append(values["loss_value"])
    return found[::-1]


def sparkline(values: Sequence[float], points: int = _POINTS) -> str:
    """Numbers as a line of blocks, the smallest as the lowest; what is not finite is a gap.

    Args:
        values: the numbers; of more than `points`, so many are shown, each the mean of its
            neighbours.
        points: characters, at most.
    """
    if len(values) > points:
        edges = [i * len(values) // points for i in range(points + 1)]
        values = [_mean(values[a:b]) for a, b in itertools.pairwise(edges)]
    finite = list(filter(math.isfinite, values))
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(_BLOCKS) - 1) / ((high - low) or math.inf)
    return "".join(_block(value, low, scale) for value in values)


def _block(value: float, low: float, scale: float) -> str:
    if not math.isfinite(value):
        return " "
    return _BLOCKS[min(len(_BLOCKS) - 1, round((value - low) * scale))]


def _mean(values: Sequence[float]) -> float:
    """Of those that are finite; NaN if none is."""
    finite = list(filter(math.isfinite, values))
    if finite:
        return sum(finite) / len(finite)
    return math.nan
