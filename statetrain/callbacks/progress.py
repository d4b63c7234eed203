"""Progress: bars in a terminal and in notebooks, plain lines elsewhere.

Hooks only look at the clock; the bars are drawn at most ten times per second, and less often where
drawing is slow. No thread draws them: it would take turns with the training, and workers that fork
would inherit its locks.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TextIO

from statetrain.callback import Callback
from statetrain.callbacks.beginning import check_beginning
from statetrain.context.history import COUNTERS
from statetrain.errors import ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.logs.bars import Bar, Bars, clock, draws_in_place
from statetrain.logs.cell import CellBars, in_notebook
from statetrain.logs.streams import Stream
from statetrain.naming import printable
from statetrain.outcome import Completed, Failed, Interrupted, Outcome, Stopped
from statetrain.report.history_charts import cell_charts
from statetrain.standard.limiting import batches_taken
from statetrain.validators import check_switches, check_word

if TYPE_CHECKING:
    from statetrain.context.context import Context
    from statetrain.context.history import History

ProgressMode = Literal["auto", "rich", "plain"]

_PAUSE = 0.1  # seconds between two drawings, at least
# A drawing is followed by a pause of so many times its own length: bars take at most 2 % of the
# time
_SHARE = 50
_ONE = {"steps": "step", "batches": "batch", "epochs": "epoch"}
_STYLES: dict[type, str] = {
    Completed: "green",
    Stopped: "green",
    Interrupted: "yellow",
    Failed: "red",
}


# What it shows where it is there: a context of your own has its own counters
_SHOWN = (
    "history",
    *("epoch?", "max_epochs?", "step?", "iter?", "valid_iter?"),
    *("data?", "train_data?", "tally?"),
)


class Progress(Callback):
    """Shows how far a run has got, and how it ended.

    In a terminal and in notebooks: a bar for the epochs and one for the batches, with the remaining
    time, batches per second and the mean of the loss since the last row. Elsewhere, and for every
    recorded row above the bars, a line: `epoch 3/20  train_loss 0.2310  valid_loss 0.2980  1.2 s`,
    with the seconds since the row before. The last line says the outcome. Control characters in
    names and reasons are escaped.

    It fits `supervised()`, `evaluation()`, `prediction()`, and lifecycles of your own: a line at
    each state of the role `next_epoch` for the rows that are new, and bars where the roles `train`
    and `batch` are. `verbose=False` shows nothing. Should
    the output be closed, as by `| head`, there is one warning, and training continues.

    On a device, a drawing reads the loss, which waits for what has been queued.

    Args:
        mode: "auto": bars where they can be drawn, else lines; "rich": bars though no terminal was
            recognised; "plain": lines.
        file: where it goes; None is the standard output of the moment at which the run starts.
        plot: whether, in a notebook, curves of the history grow below the lines: a chart for each
            metric, training and validation in one.

    Raises:
        ConfigError: `mode` is none of these, or `file` cannot be written to.
    """

    ranks = "first"

    anywhere = True  # it shows what is there

    reads = {
        "on_enter_fit": ("history", "epoch?"),
        "on_resume": _SHOWN,
        "on_enter_epoch": _SHOWN,
        "on_enter_train": (*_SHOWN, "train_data", "iter"),
        "on_exit_batch": (*_SHOWN, "iter", "epoch", "max_epochs"),
        "on_enter_valid": _SHOWN,
        "on_exit_valid_batch": (*_SHOWN, "valid_iter"),
        "on_enter_predict": _SHOWN,
        "on_exit_predict_batch": (*_SHOWN, "valid_iter"),
        "on_enter_next_epoch": _SHOWN,
        "defer": (*_SHOWN, "outcome"),
    }
    writes = ()

    def __init__(
        self, mode: ProgressMode = "auto", *, file: TextIO | None = None, plot: bool = False
    ) -> None:
        check_word("Progress: mode", mode, ("auto", "rich", "plain"))
        check_switches("Progress", plot=plot)
        if file is not None and not hasattr(file, "write"):
            raise ConfigError(
                f"Progress: file must be an open text stream, got {file!r}; open it first, or give"
                " none for the standard output"
            )
        self._mode, self._file, self._plot = mode, file, plot
        self._reset()

    def _reset(self) -> None:
        self._run = ""  # what is running: fit, evaluation or prediction; empty between runs
        self._stream: Stream | None = None  # where lines go; None where nothing is shown
        self._bars: Bars | CellBars | None = None
        # The clock at which to draw next; None where nothing is drawn
        self._due: float | None = None
        self._plot_due = -math.inf  # the clock at which to draw curves next
        self._had = 0.0  # the part of this epoch that was made before the run was continued

    def check_lifecycle(self, lifecycle: Lifecycle) -> None:
        """Looks for the state in which a run begins."""
        check_beginning("Progress", lifecycle)

    # ------------------------------------------------------------ hooks

    def on_enter_fit(self, ctx: Context) -> None:
        """Starts to show a fit."""
        self._start(ctx, "fit")

    def on_resume(self, ctx: Context) -> None:
        """Starts to show a run that is continued, with the bar of the loop that it is in."""
        self._start(ctx, _kind_of_run(ctx))
        in_loop = ctx.scope("train") or ctx.scope("valid") or ctx.scope("predict")
        if self._due is None or in_loop is None:
            return
        if ctx.epoch:
            batches = batches_taken(ctx.machine.lifecycle, "next_batch", ctx.train_data)
            self._first_epoch, self._had = ctx.epoch - 1, ctx.iter / (batches or math.inf)
        scope = ctx.scope("valid") or ctx.scope("predict")
        if scope is None:
            self._open(ctx, str(ctx.scope("train")), ctx.train_data, ctx.iter, training=True)
        else:
            name = scope
            if self._run == "evaluation":
                name = "evaluate"
            self._open(ctx, name, ctx.data, ctx.valid_iter)

    def on_enter_epoch(self, ctx: Context) -> None:
        """Notes when the epoch began."""
        self._epoch_opened, self._had = ctx.clock(), 0.0

    def on_enter_train(self, ctx: Context) -> None:
        """Begins the bar of the training batches, or continues it after a validation in between."""
        self._rows(ctx)
        self._open(ctx, ctx.state, ctx.train_data, ctx.iter, training=True)

    def on_exit_batch(self, ctx: Context) -> None:
        """Draws, if it is time."""
        if self._due is not None and ctx.clock() >= self._due:
            self._draw(ctx, ctx.iter)

    def on_enter_valid(self, ctx: Context) -> None:
        """Begins the bar of the validation batches, or starts to show an evaluation."""
        self._start(ctx, "evaluation")
        self._open(ctx, ctx.state if self._run == "fit" else "evaluate", ctx.data, 0)

    def on_exit_valid_batch(self, ctx: Context) -> None:
        """Draws, if it is time."""
        if self._due is not None and ctx.clock() >= self._due:
            self._draw(ctx, ctx.valid_iter)

    def on_enter_predict(self, ctx: Context) -> None:
        """Starts to show a prediction."""
        self._start(ctx, "prediction")
        self._open(ctx, "predict", ctx.data, 0)

    def on_exit_predict_batch(self, ctx: Context) -> None:
        """Draws, if it is time."""
        if self._due is not None and ctx.clock() >= self._due:
            self._draw(ctx, ctx.valid_iter)

    def on_enter_next_epoch(self, ctx: Context) -> None:
        """Prints the row of the epoch, with what was added to it after `record`."""
        self._rows(ctx)

    # ------------------------------------------------------------ from start to end

    def _start(self, ctx: Context, run: str) -> None:
        if self._run:
            return
        self._run = run
        # On every path the run ends with its clean-ups, and by then the outcome is known.
        ctx.defer(partial(self._finish, ctx))
        if self._file is None:
            file = sys.stdout
        else:
            file = self._file
        if not ctx.verbose or file is None:  # a process without a console has no standard output
            return
        self._started = self._last_row = self._epoch_opened = ctx.clock()
        self._printed, self._first_epoch = len(ctx.history), _epoch_of(ctx)
        self._stream = Stream(file)
        notebook = self._file is None and in_notebook()
        if self._mode == "rich" or (self._mode == "auto" and (notebook or draws_in_place(file))):
            if notebook:
                self._bars = CellBars()
            else:
                self._bars = Bars(self._stream)
            self._due = self._started

    def _finish(self, ctx: Context) -> None:
        try:
            if self._bars is not None:
                self._bars.stop()
            if self._stream is not None:
                outcome = ctx.outcome
                self._rows(ctx)
                self._draw_curves(ctx)
                self._line(
                    _ending(ctx, self._run, outcome, ctx.clock() - self._started),
                    _STYLES.get(type(outcome), ""),
                )
        finally:
            self._reset()

    def _rows(self, ctx: Context) -> None:
        """Prints the rows that are new."""
        if self._stream is None or len(ctx.history) == self._printed:
            return
        now = ctx.clock()
        for row in ctx.history[self._printed :]:
            if self._run == "fit":
                name = _where(row, getattr(ctx, "max_epochs", math.inf))
            else:
                name = self._run
            self._line(_row(name, row, ctx.history, now - self._last_row))
        self._printed, self._last_row = len(ctx.history), now
        if now >= self._plot_due:
            self._draw_curves(ctx)

    def _draw_curves(self, ctx: Context) -> None:
        """Draws all rows in a notebook; the longer that takes, the more seldom."""
        if not self._plot or not isinstance(self._bars, CellBars):
            return
        before = ctx.clock()
        self._bars.below(cell_charts(ctx.history.rows))
        after = ctx.clock()
        self._plot_due = after + _SHARE * (after - before)

    def _line(self, text: str, style: str = "") -> None:
        if self._bars is not None:
            self._bars.line(printable(text), style)
        elif self._stream is not None:
            self._stream.line(printable(text))
        self._check()

    def _check(self) -> None:
        """Stops printing where the output has been closed."""
        if self._stream is None or (error := self._stream.error) is None:
            return
        if self._bars is not None:
            self._bars.stop()
        self._stream = self._bars = self._due = None
        warnings.warn(
            f"Progress cannot write any more ({error!r}), so it shows nothing from here on; the run"
            " goes on",
            RuntimeWarning,
            stacklevel=2,
        )

    # ------------------------------------------------------------ bars

    def _open(self, ctx: Context, name: str, data: Any, done: int, training: bool = False) -> None:
        """A loop over batches begins."""
        if self._due is None:
            return
        now = ctx.clock()
        head = "next_valid_batch"
        if training:
            head = "next_batch"
        self._batches, self._training = name, training
        self._total = batches_taken(ctx.machine.lifecycle, head, data)
        # When how many were done, at the last drawings
        self._marks = deque([(now, done)], maxlen=100)
        if now >= self._due:
            self._draw(ctx, done)

    def _draw(self, ctx: Context, done: int) -> None:
        assert self._bars is not None
        # First: it may wait for a device, and that is no part of what drawing takes
        losses = _losses(ctx)
        before = ctx.clock()
        bars = [self._batch_bar(done, before, losses)]
        if self._run == "fit" and ctx.max_epochs != 1:
            bars.insert(0, self._epoch_bar(ctx, done, before))
        self._bars.draw(bars)
        after = ctx.clock()
        self._due = after + max(_PAUSE, _SHARE * (after - before))
        self._check()

    def _batch_bar(self, done: int, now: float, losses: str) -> Bar:
        since, then = self._marks[0]
        self._marks.append((now, done))
        rate = 0.0
        if now > since:
            rate = (done - then) / (now - since)
        left = None
        if self._total is not None and rate:
            left = (self._total - done) / rate
        return Bar(
            self._batches,
            done,
            self._total,
            None if self._total is None else done / self._total,
            left,
            f"{_rate(rate)}  {losses}".strip(),
        )

    def _epoch_bar(self, ctx: Context, done: int, now: float) -> Bar:
        if not self._training:
            part = 1.0
        elif self._total:
            part = done / self._total
        else:
            part = 0.0
        seen = part - self._had
        whole, here = ctx.epoch - 1 - self._first_epoch, now - self._epoch_opened
        # An epoch takes as long as those before it did; the first, as long as its part so far lets
        # expect.
        if whole:
            each = (self._epoch_opened - self._started) / whole
        elif seen > 0:
            each = here / seen
        else:
            each = None
        endless = ctx.max_epochs == math.inf
        if each is None or endless:
            left = None
        else:
            left = max(each * (ctx.max_epochs - ctx.epoch + 1 - self._had) - here, 0.0)
        if endless:
            total = None
        else:
            total = int(ctx.max_epochs)
        if total is None:
            share = None
        else:
            share = (ctx.epoch - 1 + part) / total
        return Bar("epoch", ctx.epoch, total, share, left, f"{clock(now - self._started)} elapsed")


# ---------------------------------------------------------------- lines


def _kind_of_run(ctx: Context) -> str:
    """What a resumed run is: a fit has counted an epoch, a prediction has states of its own."""
    if _epoch_of(ctx) or ctx.scope("fit"):
        return "fit"
    if ctx.scope("predict"):
        return "prediction"
    return "evaluation"


def _epoch_of(ctx: Context) -> int:
    """The epoch; 0 of a context that counts none."""
    return int(getattr(ctx, "epoch", 0))


def _where(row: dict[str, Any], most: float) -> str:
    """`epoch 3/20`, padded to one width; with the step, if the epoch is not complete."""
    if "epoch" not in row:  # of a context that counts none
        return f"step {row['step']}" if "step" in row else "row"
    if most == math.inf:
        total = ""
    else:
        total = f"/{most:.0f}"
    epoch = f"epoch {row['epoch']}{total}"
    if row.get("epoch_complete", True):
        return epoch.ljust(len(f"epoch {total}{total}") - 1)
    return f"{epoch}, step {row['step']}"


def _row(name: str, row: dict[str, Any], history: History, seconds: float) -> str:
    """The metrics of a row. What is not a single number, like a confusion matrix, is left out."""
    metrics = [
        f"{column} {_value(value, history.format_of(column))}"
        for column, value in row.items()
        if column not in COUNTERS and isinstance(value, int | float)
    ]
    return "  ".join([name, *metrics, _duration(seconds)])


def _losses(ctx: Context) -> str:
    """The means of the losses since the last row, as `train_loss 0.2310`."""
    tally = ctx.tally
    if tally is None:
        return ""
    means = zip(tally.loss_names, tally.losses.values(), strict=True)
    return "  ".join(f"{name} {_number(mean.value())}" for name, mean in means if mean.count)


def _ending(ctx: Context, run: str, outcome: Outcome | None, seconds: float) -> str:
    name, took = run, _duration(seconds)
    if run == "fit" and not hasattr(ctx, "valid_iter"):
        name = ctx.machine.lifecycle.name
    epoch = ""
    if _epoch_of(ctx):
        epoch = f" in epoch {ctx.epoch}"
    if isinstance(outcome, Failed):
        message = next(iter(str(outcome.error).splitlines()), "")
        return (
            f"{name} failed{epoch}{_batch_of(ctx, outcome)}, state {outcome.state!r}:"
            f" {type(outcome.error).__name__}: {message:.200} ({took})"
        )
    counts = _made(ctx, run)
    if isinstance(outcome, Completed):
        return f"{name} completed: {', '.join([*counts, took])}"
    word = type(outcome).__name__.lower()
    reason = getattr(outcome, "reason", "") or getattr(outcome, "state", "")
    return f"{name} {word}{epoch}: {reason} ({', '.join([*counts[-1:], took])})"


def _batch_of(ctx: Context, outcome: Failed) -> str:
    """The batch of the loop in which a run failed: by now the scopes are closed."""
    if not hasattr(ctx, "iter"):
        return ""
    if ctx.machine.lifecycle.lies_in(outcome.state, "valid", "predict"):
        return f", batch {ctx.valid_iter}"
    return f", batch {ctx.iter}"


def _made(ctx: Context, run: str) -> list[str]:
    """How much a run has done, in the counters that its context has."""
    if run != "fit":
        return [_count(ctx.valid_iter, "batches")]
    counted = {"epochs": "epoch", "steps": "step"}
    return [
        _count(getattr(ctx, name), things) for things, name in counted.items() if hasattr(ctx, name)
    ]


def _count(n: int, things: str) -> str:
    if n != 1:
        return f"{n} {things}"
    return f"1 {_ONE[things]}"


def _value(value: float, form: str) -> str:
    """A number as its metric says, else with four digits."""
    return f"{value:{form}}" if form else _number(value)


def _number(value: float) -> str:
    """Four digits, so that numbers that change do not change their width."""
    return str(value) if isinstance(value, int) else f"{value:#.4g}".rstrip(".")


def _rate(rate: float) -> str:
    if not rate:
        return ""
    if rate >= 100:
        return f"{rate:.0f} batches/s"
    if rate >= 1:
        return f"{rate:.1f} batches/s"
    return f"{1 / rate:.1f} s/batch"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return clock(seconds)
