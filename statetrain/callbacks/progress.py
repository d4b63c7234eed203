"""Progress: bars in a terminal and in notebooks, plain lines elsewhere.

Hooks only look at the clock; the bars are drawn at most ten times per second, and less often where drawing is slow. No
thread draws them: it would take turns with the training, and workers that fork would inherit its locks.
"""

from __future__ import annotations

import builtins
import importlib.util
import math
import os
import sys
import warnings
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any, Literal, TextIO, cast

from attrs import frozen

from statetrain.callback import Callback
from statetrain.naming import did_you_mean
from statetrain.outcome import Completed, ConfigError, Failed, Interrupted, Outcome, Stopped

Mode = Literal["auto", "rich", "plain"]

_PAUSE = 0.1  # seconds between two drawings, at least
_SHARE = 50  # a drawing is followed by a pause of so many times its own length: bars take at most 2 % of the time
_WIDTH = 40  # columns of a bar, at most
_TAIL = 50  # columns of what stands after a bar, usually
_COUNTERS = {"epoch", "step", "samples", "seconds", "epoch_complete"}  # of a row; what is not among them is a metric
_STYLES: dict[type, str] = {Completed: "green", Stopped: "green", Interrupted: "yellow", Failed: "red"}


class Progress(Callback):
    """Shows how far a run has got, and how it ended.

    In a terminal and in notebooks that have ipywidgets: a bar for the epochs and one for the batches, with the time
    that is left, batches per second and the mean of the loss since the last row. Elsewhere, and for every recorded row
    above the bars, a line: `epoch 3/20  train_loss 0.2310  valid_loss 0.2980  1.2 s`, the seconds since the row before.
    The last line says the outcome. Control characters in names and reasons are escaped.

    It fits `supervised()`, `evaluation()` and `prediction()`. `verbose=False` shows nothing. Should the output be
    closed, as by `| head`, there is one warning, and training goes on.

    On a device, a drawing reads the loss, which waits for what has been queued.

    Args:
        mode: "auto": bars where they can be drawn, else lines; "rich": bars though no terminal was recognised;
            "plain": lines.
        file: where it goes; None is the standard output of the moment at which the run starts.

    Raises:
        ConfigError: `mode` is none of these, or `file` cannot be written to.
    """

    anywhere = True  # it shows what is there

    reads = ("history", "tally", "epoch", "iter", "valid_iter", "max_epochs")

    def __init__(self, mode: Mode = "auto", *, file: TextIO | None = None) -> None:
        modes = ("auto", "rich", "plain")
        if mode not in modes:
            raise ConfigError(f"Progress: mode must be one of {', '.join(map(repr, modes))}, got {mode!r}{did_you_mean(str(mode), modes)}")
        if file is not None and not hasattr(file, "write"):
            raise ConfigError(f"Progress: file must be an open text stream, got {file!r}; open it first, or give none for the standard output")
        self._mode, self._file = mode, file
        self._reset()

    def _reset(self) -> None:
        self._run = ""  # what is running: fit, evaluation or prediction; empty between runs
        self._stream: _Stream | None = None  # where lines go; None where nothing is shown
        self._bars: _Bars | None = None
        self._due: float | None = None  # the clock at which to draw next; None where nothing is drawn

    # ------------------------------------------------------------ hooks

    def on_enter_fit(self, ctx: Any) -> None:
        """Starts to show a fit."""
        self._start(ctx, "fit")

    def on_enter_epoch(self, ctx: Any) -> None:
        """Notes when the epoch began."""
        self._start(ctx, "fit")
        self._epoch_opened = ctx.clock()

    def on_enter_train(self, ctx: Any) -> None:
        """Begins the bar of the training batches, or goes on with it after a validation that came between."""
        self._rows(ctx)
        self._open(ctx, "train", ctx.train_data, ctx.iter)

    def on_exit_batch(self, ctx: Any) -> None:
        """Draws, if it is time."""
        if self._due is not None and ctx.clock() >= self._due:
            self._draw(ctx, ctx.iter)

    def on_enter_valid(self, ctx: Any) -> None:
        """Begins the bar of the validation batches, or starts to show an evaluation."""
        self._start(ctx, "evaluation")
        self._open(ctx, "valid" if self._run == "fit" else "evaluate", ctx.valid_data, 0)

    def on_exit_valid_batch(self, ctx: Any) -> None:
        """Draws, if it is time."""
        if self._due is not None and ctx.clock() >= self._due:
            self._draw(ctx, ctx.valid_iter)

    def on_enter_predict(self, ctx: Any) -> None:
        """Starts to show a prediction."""
        self._start(ctx, "prediction")
        self._open(ctx, "predict", ctx.valid_data, 0)

    def on_exit_predict_batch(self, ctx: Any) -> None:
        """Draws, if it is time."""
        if self._due is not None and ctx.clock() >= self._due:
            self._draw(ctx, ctx.valid_iter)

    def on_enter_next_epoch(self, ctx: Any) -> None:
        """Prints the row of the epoch, with what was added to it after `record`."""
        self._rows(ctx)

    # ------------------------------------------------------------ from start to end

    def _start(self, ctx: Any, run: str) -> None:
        if self._run:
            return
        self._run = run
        # On every path the run ends with its clean-ups, and by then the outcome is known.
        ctx.defer(partial(self._finish, ctx))
        file = sys.stdout if self._file is None else self._file
        if not ctx.verbose or file is None:  # a process without a console has no standard output
            return
        self._started = self._last_row = self._epoch_opened = ctx.clock()
        self._printed, self._first_epoch = len(ctx.history), ctx.epoch
        self._stream = _Stream(file)
        notebook = self._file is None and _in_notebook()
        if self._mode == "rich" or (self._mode == "auto" and (notebook or _is_terminal(file))):
            self._bars = _Bars(self._stream, notebook)
            self._due = self._started

    def _finish(self, ctx: Any) -> None:
        try:
            if self._bars is not None:
                self._bars.stop()
            if self._stream is not None:
                outcome = ctx.outcome
                self._rows(ctx)
                self._line(_ending(ctx, self._run, outcome, ctx.clock() - self._started), _STYLES.get(type(outcome), ""))
        finally:
            self._reset()

    def _rows(self, ctx: Any) -> None:
        """Prints the rows that are new."""
        if self._stream is None or len(ctx.history) == self._printed:
            return
        now = ctx.clock()
        for row in ctx.history[self._printed :]:
            name = _where(row, ctx.max_epochs) if self._run == "fit" else self._run
            self._line(_row(name, row, now - self._last_row))
        self._printed, self._last_row = len(ctx.history), now

    def _line(self, text: str, style: str = "") -> None:
        if self._bars is not None:
            self._bars.line(_printable(text), style)
        elif self._stream is not None:
            self._stream.write(_printable(text) + "\n")
            self._stream.flush()
        self._check()

    def _check(self) -> None:
        """Falls silent where the output has been closed."""
        if self._stream is None or (error := self._stream.error) is None:
            return
        if self._bars is not None:
            self._bars.stop()
        self._stream = self._bars = self._due = None
        warnings.warn(f"Progress cannot write any more ({error!r}), so it shows nothing from here on; the run goes on", RuntimeWarning, stacklevel=2)

    # ------------------------------------------------------------ bars

    def _open(self, ctx: Any, name: str, data: Any, done: int) -> None:
        """A loop over batches begins."""
        if self._due is None:
            return
        now = ctx.clock()
        self._batches, self._total = name, _length(data)
        self._marks = deque([(now, done)], maxlen=100)  # when how many were done, at the last drawings
        if now >= self._due:
            self._draw(ctx, done)

    def _draw(self, ctx: Any, done: int) -> None:
        assert self._bars is not None
        losses = _losses(ctx)  # first: it may wait for a device, and that is no part of what drawing takes
        before = ctx.clock()
        bars = [self._batch_bar(done, before, losses)]
        if self._run == "fit" and ctx.max_epochs != 1:
            bars.insert(0, self._epoch_bar(ctx, done, before))
        self._bars.draw(bars)
        after = ctx.clock()
        self._due = after + max(_PAUSE, _SHARE * (after - before))
        self._check()

    def _batch_bar(self, done: int, now: float, losses: str) -> _Bar:
        since, then = self._marks[0]
        self._marks.append((now, done))
        rate = (done - then) / (now - since) if now > since else 0.0
        left = (self._total - done) / rate if self._total is not None and rate else None
        return _Bar(self._batches, done, self._total, None if self._total is None else done / self._total, left, f"{_rate(rate)}  {losses}".strip())

    def _epoch_bar(self, ctx: Any, done: int, now: float) -> _Bar:
        part = 1.0 if self._batches != "train" else done / self._total if self._total else 0.0
        whole, here = ctx.epoch - 1 - self._first_epoch, now - self._epoch_opened
        # An epoch takes as long as those before it did; the first, as long as its part so far lets expect.
        each = (self._epoch_opened - self._started) / whole if whole else here / part if part else None
        endless = ctx.max_epochs == math.inf
        left = None if each is None or endless else max(each * (ctx.max_epochs - ctx.epoch + 1) - here, 0.0)
        total = None if endless else int(ctx.max_epochs)
        share = None if total is None else (ctx.epoch - 1 + part) / total
        return _Bar("epoch", ctx.epoch, total, share, left, f"{_clock(now - self._started)} elapsed")


# ---------------------------------------------------------------- what is said


def _where(row: dict[str, Any], most: float) -> str:
    """`epoch 3/20`, as wide in the first epoch as in the last; with the step, if the epoch was not at its end."""
    total = "" if most == math.inf else f"/{most:.0f}"
    epoch = f"epoch {row['epoch']}{total}"
    return epoch.ljust(len(f"epoch {total}{total}") - 1) if row["epoch_complete"] else f"{epoch}, step {row['step']}"


def _row(name: str, row: dict[str, Any], seconds: float) -> str:
    """The metrics of a row. What is no single number, as a confusion matrix, has no place in a line."""
    metrics = [f"{column} {_number(value)}" for column, value in row.items() if column not in _COUNTERS and isinstance(value, int | float)]
    return "  ".join([name, *metrics, _duration(seconds)])


def _losses(ctx: Any) -> str:
    """The means of the losses since the last row, as `train_loss 0.2310`."""
    tally = ctx.tally
    means = zip(tally.loss_names, tally.losses.values(), strict=True) if tally is not None else ()
    return "  ".join(f"{name} {_number(mean.value())}" for name, mean in means if mean.count)


def _ending(ctx: Any, run: str, outcome: Outcome | None, seconds: float) -> str:
    made = _count(ctx.step, "steps") if run == "fit" else _count(ctx.valid_iter, "batches")
    took = f"{made}, {_duration(seconds)}"
    epoch = f" in epoch {ctx.epoch}" if ctx.epoch else ""
    if isinstance(outcome, Failed):
        # By now the scopes are closed, so the state itself has to say which loop it belongs to.
        batch = ctx.valid_iter if "valid" in outcome.state or "predict" in outcome.state else ctx.iter
        message = next(iter(str(outcome.error).splitlines()), "")
        return f"{run} failed{epoch}, batch {batch}, state {outcome.state!r}: {type(outcome.error).__name__}: {message:.200} ({_duration(seconds)})"
    if isinstance(outcome, Interrupted | Stopped):
        word = "stopped" if isinstance(outcome, Stopped) else "interrupted"
        return f"{run} {word}{epoch}: {outcome.reason} ({took})"
    return f"{run} completed: {_count(ctx.epoch, 'epochs') + ', ' if run == 'fit' else ''}{took}"


def _count(n: int, things: str) -> str:
    return f"{n} {things if n != 1 else things.removesuffix('es' if things == 'batches' else 's')}"


def _number(value: float) -> str:
    """Four digits, so that numbers that change do not change their width."""
    return str(value) if isinstance(value, int) else f"{value:#.4g}".rstrip(".")


def _rate(rate: float) -> str:
    if not rate:
        return ""
    return f"{rate:.{0 if rate >= 100 else 1}f} batches/s" if rate >= 1 else f"{1 / rate:.1f} s/batch"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else _clock(seconds)


def _clock(seconds: float) -> str:
    """As on a clock, in whole seconds, begun ones counted: what is not over has time left."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _widest(texts: Iterable[str]) -> int:
    return max(map(len, texts), default=0)


def _printable(text: str) -> str:
    """A text on one line that moves no cursor: control characters are escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None


# ---------------------------------------------------------------- where it goes


def _is_terminal(file: Any) -> bool:
    # Within another live display the standard output is rich's stand-in: two of them would draw over each other.
    if hasattr(file, "rich_proxied_file") or os.environ.get("TERM", "") in ("dumb", "unknown"):
        return False
    try:
        return bool(file.isatty())
    except (AttributeError, ValueError):  # no such method, or closed
        return False


def _in_notebook() -> bool:
    """Whether this is a notebook that can draw bars; rich is asked where IPython has left its mark."""
    if not hasattr(builtins, "get_ipython") or importlib.util.find_spec("ipywidgets") is None:
        return False
    import rich

    return rich.get_console().is_jupyter


class _Stream:
    """A stream whose failure stops nothing: the first error is kept, and what comes after it is dropped."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.encoding = getattr(file, "encoding", None) or "utf-8"
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        if self.error is None:
            try:
                self.file.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
            except (OSError, ValueError) as error:  # a closed file raises ValueError
                self.error = error
        return len(text)

    def flush(self) -> None:
        if self.error is None:
            try:
                self.file.flush()
            except (OSError, ValueError) as error:
                self.error = error

    def isatty(self) -> bool:
        return _is_terminal(self.file)

    def fileno(self) -> int:
        return int(self.file.fileno())


@frozen
class _Bar:
    """What one bar says: `name done/total ━━━━ left  note`."""

    name: str
    done: int
    total: int | None  # None if nobody knows
    share: float | None  # of the bar that is filled
    left: float | None  # seconds
    note: str

    @property
    def count(self) -> str:
        return str(self.done) if self.total is None else f"{self.done:>{len(str(self.total))}}/{self.total}"


class _Bars:
    """Bars that are drawn in place, below the lines, and vanish when they are stopped."""

    def __init__(self, stream: _Stream, notebook: bool) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        self._text = Text
        self._stream, self._notebook = stream, notebook
        self._console = Console(file=cast("TextIO", stream), force_terminal=not notebook or None, force_jupyter=notebook)
        self._bars: Iterable[_Bar] = ()
        self._drawings = 0
        # What others print is to appear above the bars, where it goes to the same terminal.
        own = stream.file is sys.stdout and not notebook
        self._live = Live(
            console=self._console,
            get_renderable=self._picture,
            auto_refresh=False,
            transient=True,
            redirect_stdout=own,
            redirect_stderr=own and _is_terminal(sys.stderr),
        )
        self._live.start()

    def draw(self, bars: Iterable[_Bar]) -> None:
        """Draws the bars in the place of those before."""
        self._bars = bars
        self._drawings += 1
        self._live.refresh()

    def line(self, text: str, style: str = "") -> None:
        """Prints a line above the bars."""
        if self._notebook:
            self._stream.write(text + "\n")
            self._stream.flush()
        else:
            self._console.print(self._text(text, style), soft_wrap=True)

    def stop(self) -> None:
        """Takes the bars away and gives the terminal back as it was."""
        self._live.stop()

    def _picture(self) -> Any:
        bars = list(self._bars)
        names, counts = _widest(bar.name for bar in bars), _widest(bar.count for bar in bars)
        tails = [_printable(f" {'' if bar.left is None else _clock(bar.left) + ' left':>12}  {bar.note}") for bar in bars]
        # Some columns stay free for the ^C that a terminal shows: a line that is pushed over the edge is not taken away.
        most = max(self._console.width - 5, 1)
        # So does what a usual tail needs, so that the bars do not change their length with every number.
        room = most - names - counts - 2 - max(_widest(tails), _TAIL)
        lines = []
        for bar, tail in zip(bars, tails, strict=True):
            line = self._text.assemble(f"{bar.name:<{names}} {bar.count:>{counts}} ", *self._drawn(bar.share, max(5, min(_WIDTH, room))), tail)
            line.truncate(most, overflow="ellipsis")
            lines.append(line)
        return self._text("\n").join(lines)

    def _drawn(self, share: float | None, width: int) -> list[tuple[str, str]]:
        """A bar that is filled to a share; one of unknown length has a piece that moves with each drawing."""
        rule = "━" if self._console.encoding.startswith("utf") else "-"
        if share is None:
            piece = max(1, width // 8)
            at = self._drawings % (width - piece + 1)
        else:
            at, piece = 0, round(width * min(share, 1.0))
        return [(rule * at, "bar.back"), (rule * piece, "bar.complete"), (rule * (width - at - piece), "bar.back")]
