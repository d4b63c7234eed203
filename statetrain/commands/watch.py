"""Watching a run from outside: its trace file, in a terminal. It only reads, so starting and stopping it touches nothing."""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from attrs import frozen

from statetrain.context.history import COUNTERS, format_value
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED
from statetrain.lifecycle.text import reading_order
from statetrain.logs.streams import printable
from statetrain.outcome import Completed, Failed, Interrupted, Outcome, Stopped
from statetrain.trace.reading import Following, Reading
from statetrain.trace.tape import Row, moments_of

_PAUSE = 0.5  # seconds between two looks at the file
_WINDOW = 10.0  # seconds over which rates are taken
_QUIET = 5.0  # seconds without a word after which that is said
_POINTS = 40  # of a sparkline, at most
_CURVES = 6  # of columns, at most
_BLOCKS = "▁▂▃▄▅▆▇█"
_STYLES: dict[type, str] = {
    Completed: "green",
    Stopped: "green",
    Interrupted: "yellow",
    Failed: "bold red",
}


def watch(
    path: str | Path,
    *,
    once: bool = False,
    file: TextIO | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], object] = time.sleep,
) -> Outcome | None:
    """Follows a run until it has ended, or until Ctrl-C.

    In a terminal a screen is drawn again and again: where the run is in its table, how often each
    state was entered, rates, what guards answered, curves. Elsewhere there is a line for each row
    of the history and for the outcome.

    Args:
        path: the trace file of the run, or a directory in which the newest is followed.
        once: show how things are, and return.
        file: where it goes; None is the standard output.
        clock: seconds since the epoch, as files have them.
        sleep: waits for so many seconds.

    Returns:
        How the run ended; None if it has not.

    Raises:
        TraceError: it is no trace, or there is none.
        OSError: it cannot be read.
    """
    out = sys.stdout if file is None else file
    following: Following[Reading] = Following(Path(path))
    following.poll()
    if once or not out.isatty():
        return _print(following, out, once, clock, sleep)
    from rich.console import Console
    from rich.live import Live

    console = Console(file=out)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        try:
            while True:
                live.update(_drawn(following, clock()), refresh=True)
                if _outcome(following) is not None:
                    break
                _wait(following, sleep)
        except KeyboardInterrupt:
            pass
    return _outcome(following)


def _print(
    following: Following[Reading],
    out: TextIO,
    once: bool,
    clock: Callable[[], float],
    sleep: Callable[[float], object],
) -> Outcome | None:
    """What is shown where nothing can be drawn."""
    if once or _outcome(following) is not None:
        for line in screen(following, clock()):
            print(line.text, file=out)
        return _outcome(following)
    told: Reading | None = None
    rows = 0
    try:
        while True:
            reading = following.reading
            if reading is not None and reading.header:
                if reading is not told:
                    print(printable(_title(reading)), file=out)
                    told, rows = reading, 0
                for row in reading.rows[rows:]:
                    print(printable(_row(row)), file=out)
                rows = len(reading.rows)
            out.flush()
            if (outcome := _outcome(following)) is not None:
                assert reading is not None
                print(printable(_ending(reading)), file=out)
                return outcome
            _wait(following, sleep)
    except KeyboardInterrupt:
        return _outcome(following)


def _wait(following: Following[Reading], sleep: Callable[[float], object]) -> None:
    sleep(_PAUSE)
    try:
        following.poll()
    except FileNotFoundError:  # it is being replaced
        following.reading = None


def _outcome(following: Following[Reading]) -> Outcome | None:
    return following.reading.outcome if following.reading is not None else None


# ---------------------------------------------------------------- what is shown


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


def screen(following: Following[Reading], now: float) -> list[Line]:
    """All that is known of a run, for a person.

    Args:
        following: the run.
        now: seconds since the epoch.
    """
    reading = following.reading
    if reading is None or not reading.header:
        return [Line("nothing has been written yet", "dim")]
    lines = [Line(_title(reading), "bold"), *_numbers(reading, now), Line("")]
    lines += [Line(f"states{'':18}times entered", "dim", left=True), *_table(reading)]
    for name, part in (("guards", _guards(reading)), ("curves", _curves(reading))):
        if part:
            lines += [Line(""), Line(name, "dim"), *part]
    lines += [Line(f"note: {remark}", "yellow") for remark in reading.remarks]
    return [Line(printable(line.text), line.style, line.left) for line in lines]


def _title(reading: Reading) -> str:
    header = reading.header
    try:
        started = f"{datetime.fromisoformat(str(header['started'])).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, LookupError, OverflowError):
        started = "at an unknown time"
    return (
        f"{header.get('name', 'a run')}, run {str(header.get('id', ''))[:12]},"
        f" {'went on' if 'resumed' in header else 'started'} {started}"
    )


def _numbers(reading: Reading, now: float) -> Iterator[Line]:
    yield Line(f"outcome  {_ending(reading)}", _STYLES.get(type(reading.outcome), ""))
    if not reading.tape.moments:
        return
    last = moments_of(reading.tape.moments[-1:])[0]
    if last.epoch is not None:
        epochs, about = "", reading.header.get("run")
        if isinstance(about, dict) and isinstance(about.get("epochs"), int):
            epochs = f"/{about['epochs']}"
        batch = f"{last.iter}" + (f"/{reading.length}" if reading.length else "")
        yield Line(
            f"counts   epoch {last.epoch}{epochs}   batch {batch}   step {last.step:,}   samples"
            f" {last.samples or 0:,}"
        )
    if (rates := _rates(reading)) is not None:
        yield Line(f"speed    {rates[0]:,.1f} batches/s   {rates[1]:,.0f} samples/s")
    try:
        quiet = now - Path(reading.name).stat().st_mtime
    except OSError:
        return
    if reading.outcome is None and quiet > _QUIET:
        yield Line(f"         nothing was written for {quiet:,.0f} s", "yellow")


def _rates(reading: Reading) -> tuple[float, float] | None:
    """Training batches and samples per second, over the last seconds of the run."""
    moments = [
        moment
        for moment in moments_of(reading.tape.moments)
        if moment.time is not None and moment.epoch is not None
    ]
    if not moments:
        return None
    since = (moments[-1].time or 0.0) - _WINDOW
    window = [moment for moment in moments if (moment.time or 0.0) >= since]
    seconds = (window[-1].time or 0.0) - (window[0].time or 0.0)
    if seconds <= 0:
        return None
    places = [(moment.epoch, moment.iter) for moment in window]
    batches = sum(one != other and other[1] != 0 for one, other in itertools.pairwise(places))
    return batches / seconds, ((window[-1].samples or 0) - (window[0].samples or 0)) / seconds


def _table(reading: Reading) -> Iterator[Line]:
    """The states as they lie in each other, with how often each was entered; the one that the run is in is marked."""
    life, taken = reading.table, reading.tape.taken
    here = taken[-1].dest if taken else None
    entered = _entered(reading, life)
    if life is None:
        names, depth, path = list(entered), dict.fromkeys(entered, 0), [here]
    else:
        names = [*reading_order(life), *([FAILED] if FAILED in entered else [])]
        depth = {name: len(life.path(name)) - 1 for name in names}
        path = [*life.path(here)] if here in names else [here]
    for name in names:
        sign = "=>" if name == here else " >" if name in path else "  "
        style = (
            "bold reverse"
            if name == here
            else "bold"
            if name in path
            else ""
            if entered[name]
            else "dim"
        )
        yield Line(f"{sign} {'  ' * depth[name] + name:<22} {entered[name]:>10,}", style, left=True)


def _entered(reading: Reading, life: Lifecycle | None) -> Counter[str]:
    """How often each state was entered, scopes on the way included."""
    taken, _, _, earlier = reading.tape.kept()
    entered: Counter[str] = Counter()
    for arrow, times in (Counter(taken) + earlier).items():
        known = life is not None and {arrow.source, arrow.dest} <= {*life.names, "[*]", FAILED}
        for name in (
            life.crossing(arrow.source, arrow.dest)[1]
            if known and life is not None
            else (arrow.dest,)
        ):
            entered[name] += times
    return entered


def _guards(reading: Reading) -> list[Line]:
    """What each guard answered when its state was last left, `-` if it was not asked; and how often it held."""
    life = reading.table
    if life is None:
        return []
    taken, _, _, earlier = reading.tape.kept()
    counts = Counter(taken) + earlier
    last = {arrow.source: arrow for arrow in taken if arrow.event is None}
    lines = []
    for name in reading_order(life):
        arrows = life.arrows(name)
        asked = sum(counts[arrow] for arrow in arrows)
        for place, arrow in enumerate(arrows):
            if arrow.guard is not None and asked:
                there = arrows.index(last[name]) if name in last and last[name] in arrows else -1
                answer = "-" if there < 0 or there < place else "yes" if there == place else "no"
                question = f"{name}: {arrow.guard.label}"
                lines.append(
                    Line(
                        f"  {question:<44.44} {answer:<4} {counts[arrow]:>8,} of {asked:>9,}",
                        "" if counts[arrow] else "dim",
                    )
                )
            asked -= counts[arrow]
    return lines


def _curves(reading: Reading) -> list[Line]:
    rows = reading.rows
    names = [
        name for name in dict.fromkeys(name for row in rows for name in row) if name not in COUNTERS
    ]
    curves = [(name, [row[name] for row in rows if _is_number(row.get(name))]) for name in names]
    batches = [
        values["loss_value"]
        for *_, values in reading.tape.moments
        if values and "loss_value" in values
    ]
    if batches:
        curves.insert(0, ("loss of a batch", batches[-_POINTS:]))
    return [
        Line(
            f"  {name:<22.22} {sparkline(values):<{_POINTS}} {format_value(float(values[-1]))}",
            "cyan",
        )
        for name, values in curves[: _CURVES + 1]
        if values
    ]


def sparkline(values: Sequence[float], points: int = _POINTS) -> str:
    """Numbers as a line of blocks, the smallest as the lowest; what is no number is a gap.

    Args:
        values: the numbers; of more than `points`, so many are shown, each the mean of its
            neighbours.
        points: characters, at most.
    """
    finite = [value if value - value == 0 else None for value in values]
    if len(finite) > points:
        edges = [i * len(finite) // points for i in range(points + 1)]
        finite = [
            _mean([v for v in finite[a:b] if v is not None]) for a, b in itertools.pairwise(edges)
        ]
    known = [value for value in finite if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(
        " " if value is None else _BLOCKS[min(len(_BLOCKS) - 1, round((value - low) * scale))]
        for value in finite
    )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _row(row: Row) -> str:
    counts = [f"epoch {row['epoch']}"] if "epoch" in row else []
    return "  ".join(
        [
            *counts,
            *(
                f"{name} {format_value(value)}"
                for name, value in row.items()
                if name not in COUNTERS and _is_number(value)
            ),
        ]
    )


def _ending(reading: Reading) -> str:
    last = reading.tape.moments[-1][0] if reading.tape.moments else None
    seconds = reading.seconds if reading.seconds is not None else last
    took = f" after {_clock(seconds)}" if seconds is not None else ""
    if reading.outcome is None:
        return f"running{took.replace('after', 'for')}"
    if isinstance(reading.outcome, Failed):
        return (
            f"failed in {reading.outcome.state!r}, epoch {reading.outcome.epoch}{took}:"
            f" {reading.error.splitlines()[0] if reading.error else 'unknown'}"
        )
    return f"{reading.outcome!r}{took}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}:{minutes:02}:{rest:02}"
        if hours
        else f"{minutes}:{rest:02}"
        if minutes
        else f"{seconds:.1f} s"
    )


def _drawn(following: Following[Reading], now: float) -> Any:
    """The screen for rich: the table on the left, the rest beside it."""
    from rich.table import Table
    from rich.text import Text

    lines = screen(following, now)

    def column(left: bool) -> Text:
        return Text("\n", no_wrap=True, overflow="ellipsis").join(
            Text(line.text, style=line.style) for line in lines if line.left == left
        )

    grid = Table.grid(padding=(0, 3))
    grid.add_row(column(True), column(False))
    return grid
