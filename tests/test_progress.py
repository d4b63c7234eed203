"""Progress: what a person sees of a run, in a terminal and elsewhere."""

from __future__ import annotations

import builtins
import contextlib
import io
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import statetrain as st
from tests.conftest import Data

fit_options: dict[str, Any] = {
    "loss": nn.functional.cross_entropy,
    "optimizer": torch.optim.SGD,
    "opt_hparams": {"lr": 0.1},
}


def fit(
    data: Any, *callbacks: st.Callback, on: io.StringIO | None = None, **options: Any
) -> st.Run:
    """Two epochs of three batches, unless told otherwise; `on` is the standard output."""
    given = {
        **fit_options,
        "epochs": 2,
        "dataloader_options": {"batch_size": 8},
        "callbacks": callbacks,
        **options,
    }
    before = sys.stderr
    with contextlib.redirect_stdout(on if on is not None else sys.stdout) as out:
        try:
            return st.fit(nn.Linear(4, 3), data, **given)
        finally:
            # However it ends, the streams are what they were
            assert (sys.stdout, sys.stderr) == (
                out,
                before,
            )


class Terminal(io.StringIO):
    """A stream that says that it is a terminal, and can tell what would be on its screen."""

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        """The lines on a screen that is wide and high enough, without the empty ones at the end."""
        lines, row, column = [""], 0, 0
        for text, control in re.findall(
            r"([^\x1b\r\n]+)|(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", self.getvalue()
        ):
            if text:
                lines[row] = (
                    lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
                )
                column += len(text)
            elif control == "\r":
                column = 0
            elif control == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            elif control.endswith("A"):
                row -= int(control[2:-1] or 1)
            elif control.endswith("K"):
                assert control == "\x1b[2K"
                lines[row] = ""
            else:
                assert control[-1] in "mhl", (
                    f"a control that this screen does not know: {control!r}"
                )
        while lines and not lines[-1]:
            lines.pop()
        return lines


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    "A terminal of 100 columns."
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Takes(st.Callback):
    """Lets a training take 1 second and a validation 0.25."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_exit_train(self, ctx: Any) -> None:
        self.clock.now += 1.0

    def on_exit_valid(self, ctx: Any) -> None:
        self.clock.now += 0.25


class TakesEachBatch(st.Callback):
    """Lets every batch take some seconds."""

    def __init__(self, clock: Clock, seconds: float = 1.0) -> None:
        self.clock, self.seconds = clock, seconds

    def on_enter_batch(self, ctx: Any) -> None:
        self.clock.now += self.seconds

    def on_enter_valid_batch(self, ctx: Any) -> None:
        self.clock.now += self.seconds


def numbers(run: st.Run, row: int, *columns: str) -> str:
    """Columns of a row as a line shows them."""
    return "  ".join(f"{column} {run.history[row][column]:#.4g}" for column in columns)


# ---------------------------------------------------------------- lines


def test_elsewhere_each_row_is_a_line_and_the_last_line_is_the_outcome(points: Data) -> None:
    "Without a terminal there is one line a row, with all metrics and the seconds since the row before, and one for the end."
    out, clock = io.StringIO(), Clock()
    run = fit(
        points,
        st.Progress(file=out),
        Takes(clock),
        valid=points,
        metrics={"mae": lambda p, t: p.mean()},
        clock=clock,
    )
    columns = ("train_loss", "train_mae", "valid_loss", "valid_mae")
    assert out.getvalue().splitlines() == [
        f"epoch 1/2  {numbers(run, 0, *columns)}  1.2 s",
        f"epoch 2/2  {numbers(run, 1, *columns)}  1.2 s",
        "fit completed: 2 epochs, 6 steps, 2.5 s",
    ]


def test_without_validation_there_is_nothing_of_it(points: Data) -> None:
    "A lifecycle without validation is shown with the same callback."
    out = io.StringIO()
    run = fit(points, st.Progress(file=out), clock=Clock(), epochs=1)
    assert out.getvalue().splitlines() == [
        f"epoch 1/1  {numbers(run, 0, 'train_loss')}  0.0 s",
        "fit completed: 1 epoch, 3 steps, 0.0 s",
    ]


def test_a_row_inside_an_epoch_says_at_which_step(points: Data) -> None:
    "A row whose epoch is not at its end carries the step, so that no two lines of an epoch look the same."
    out = io.StringIO()
    fit(
        points,
        st.Progress(file=out),
        valid=points,
        validate=st.Every(2, "steps"),
        clock=Clock(),
        epochs=1,
    )
    assert [line.partition("  ")[0] for line in out.getvalue().splitlines()[:-1]] == [
        "epoch 1/1, step 2",
        "epoch 1/1",
    ]


def test_lines_of_a_long_run_stand_below_each_other(points: Data) -> None:
    "The columns of the first epoch's line begin where those of the tenth do."
    out = io.StringIO()
    fit(points, st.Progress(file=out), epochs=10, clock=Clock())
    assert {line.index("train_loss") for line in out.getvalue().splitlines()[:-1]} == {
        len("epoch 10/10  ")
    }


def test_what_is_added_to_a_row_late_is_in_its_line(points: Data) -> None:
    "A metric that another callback logs when the epoch is left belongs to the epoch's line."

    class Late(st.Callback):
        writes = {"history.norm"}

        def on_exit_epoch(self, ctx: Any) -> None:
            ctx.log_metric("norm", 3, set="")

    out = io.StringIO()
    fit(points, st.Progress(file=out), Late(), epochs=1, clock=Clock())
    assert "  norm 3  " in out.getvalue().splitlines()[0]


def test_evaluation_and_prediction_are_shown_too(points: Data) -> None:
    "The same callback listens to `evaluate` and `predict`, and says which of them it was."
    run, out = fit(points), io.StringIO()
    progress = st.Progress(file=out)
    st.evaluate(run, points, callbacks=progress)
    st.predict(run, points[0], callbacks=progress)
    lines = [re.sub(r"\d+\.\d s", "0.0 s", line) for line in out.getvalue().splitlines()]
    loss = st.evaluate(run, points)["loss"]
    assert lines == [
        f"evaluation  valid_loss {loss:#.4g}  0.0 s",
        "evaluation completed: 1 batch, 0.0 s",
        "prediction completed: 1 batch, 0.0 s",
    ]


def test_a_fit_that_goes_on_is_shown_by_the_same_callback(points: Data) -> None:
    "`run.fit` starts anew with the lines, counts epochs on, and repeats no row."
    out, clock = io.StringIO(), Clock()
    run = fit(points, st.Progress(file=out), epochs=1, clock=clock)
    out.truncate(out.seek(0))
    run.fit(2)
    assert [line.partition("  ")[0] for line in out.getvalue().splitlines()] == [
        "epoch 2/3",
        "epoch 3/3",
        "fit completed: 3 epochs, 9 steps, 0.0 s",
    ]


def test_several_losses_each_have_their_number(points: Data) -> None:
    "With two optimizers the line has a loss for each."
    model = nn.ModuleDict({"one": nn.Linear(4, 3), "two": nn.Linear(4, 3)})
    out = io.StringIO()

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = model["one"], model["two"]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.one(x) + self.two(x)

    two = {**fit_options, "optimizer": dict.fromkeys(("one", "two"), torch.optim.SGD)}
    st.fit(Two(), points, **two, epochs=1, callbacks=st.Progress(file=out))
    assert re.search(r"train_loss_one \d\.\d+  train_loss_two \d\.\d+", out.getvalue())


def test_no_name_or_reason_can_move_the_cursor_or_break_a_line(points: Data) -> None:
    "Control characters in a metric's name and in a reason are escaped, what cannot be encoded too."

    class Stop(st.Callback):
        def on_enter_next_epoch(self, ctx: Any) -> None:
            if ctx.epoch:
                ctx.request_stop("too\nbad \x1b[2J \u202e")

    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    fit(points, st.Progress(file=out), Stop(), metrics={"\x1b[31mred\r\n é": lambda p, t: p.mean()})
    text = raw.getvalue().decode("ascii")
    assert re.fullmatch(r"[ -~\n]*", text)
    assert r"train_\x1b[31mred\r\n \xe9 " in text
    assert text.splitlines()[-1].startswith(
        r"fit stopped in epoch 1: too\nbad \x1b[2J \u202e (3 steps, "
    )
    assert len(text.splitlines()) == 2


def test_what_is_no_number_has_no_place_in_a_line(points: Data) -> None:
    "A metric that is a matrix is left out of the line; the history has it."

    class Matrix:
        def update(self, pred: Any, target: Any) -> None: ...
        def reset(self) -> None: ...
        def compute(self) -> torch.Tensor:
            return torch.eye(2)

    out = io.StringIO()
    run = fit(points, st.Progress(file=out), metrics={"matrix": Matrix()}, epochs=1)
    assert "train_matrix" in run.history[0]
    assert "matrix" not in out.getvalue()


def test_verbose_false_shows_nothing(points: Data, terminal: Terminal) -> None:
    "`verbose=False` prints neither lines nor bars."
    fit(points, st.Progress(), verbose=False, on=terminal)
    assert terminal.getvalue() == ""


# ---------------------------------------------------------------- how runs end


class Does(st.Callback):
    """Does something when the fifth step is to be made."""

    def __init__(self, what: Callable[[Any], None]) -> None:
        self.what = what

    def on_enter_step(self, ctx: Any) -> None:
        if ctx.step == 4:
            self.what(ctx)


def fail(ctx: Any) -> None:
    raise RuntimeError("it broke\nbadly")


def interrupt(ctx: Any) -> None:
    raise KeyboardInterrupt


def stop(ctx: Any) -> None:
    raise st.StopFit("enough")


def request(ctx: Any) -> None:
    ctx.request_stop("please")


@pytest.mark.parametrize(
    ("what", "last"),
    [
        (fail, "fit failed in epoch 2, batch 2, state 'step': RuntimeError: it broke (0.0 s)"),
        (interrupt, "fit interrupted in epoch 2: KeyboardInterrupt (4 steps, 0.0 s)"),
        (stop, "fit stopped in epoch 2: enough (4 steps, 0.0 s)"),
        (request, "fit stopped in epoch 2: please (5 steps, 0.0 s)"),
    ],
)
def test_on_every_way_out_the_last_line_says_why_and_the_bars_are_gone(
    points: Data, terminal: Terminal, what: Any, last: str
) -> None:
    "However a run ends, the screen holds lines alone and the cursor is shown."
    with pytest.raises(RuntimeError) if what is fail else contextlib.nullcontext():
        fit(points, st.Progress(), Does(what), valid=points, clock=Clock(), on=terminal)
    assert terminal.screen[-1] == last
    assert terminal.screen[0].startswith("epoch 1/2  train_loss")
    assert not [line for line in terminal.screen if "━" in line]
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")


def test_a_run_that_is_stepped_and_closed_ends_its_bars(points: Data, terminal: Terminal) -> None:
    "Closing a stepped run takes the bars away and says that it was interrupted."
    run = fit(points, st.Progress(), epochs=1, on=terminal)
    run.ctx.max_epochs = 2
    with contextlib.redirect_stdout(terminal):
        with run.machine.steps(run.ctx, until="backward"):
            assert sys.stdout is not terminal
        assert sys.stdout is terminal
    assert terminal.screen[-1].startswith(
        "fit interrupted in epoch 2: its steps were closed (3 steps, "
    )


def test_a_failure_before_the_first_batch_leaves_the_terminal_as_it_was(
    points: Data, terminal: Terminal
) -> None:
    "Another callback's error on entering `fit` ends the bars that have just begun."

    class Early(st.Callback):
        def on_enter_fit(self, ctx: Any) -> None:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fit(points, st.Progress(), Early(), clock=Clock(), on=terminal)
    assert terminal.screen == ["fit failed, batch 0, state 'fit': ValueError: no (0.0 s)"]


# ---------------------------------------------------------------- bars


def frames(terminal: Terminal) -> list[tuple[str, str]]:
    """The bars, drawing by drawing, without colours."""
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue().replace("\r", "\n")).split(
        "\n"
    )
    return [
        (first.rstrip(), second.rstrip())
        for first, second in itertools.pairwise(lines)
        if first.startswith("epoch ") and "━" in first
    ]


def ticking(seconds: float) -> Callable[[], float]:
    """A clock that is some seconds later each time somebody looks."""
    times: Iterator[int] = itertools.count()
    return lambda: next(times) * seconds


def test_a_terminal_gets_bars_that_leave_the_same_lines_behind(
    points: Data, terminal: Terminal
) -> None:
    "When the run is over, the screen holds what would have been printed elsewhere."
    out = io.StringIO()
    fit(
        points,
        st.Progress(),
        st.Progress(file=out),
        valid=points,
        clock=Clock(),
        epochs=3,
        on=terminal,
    )
    assert terminal.screen == out.getvalue().splitlines()
    assert frames(terminal)


def test_the_bars_say_epoch_batch_rate_time_left_and_loss(points: Data, terminal: Terminal) -> None:
    "With 4 seconds a batch: where it is, how fast it goes, what is left, and the mean of the loss so far."
    clock, seen = Clock(), []

    class Look(st.Callback):
        def on_exit_batch(self, ctx: Any) -> None:
            seen.append(ctx.tally.losses["opt"].value())

    fit(points, TakesEachBatch(clock, 4.0), Look(), st.Progress(), clock=clock, on=terminal)
    bar = "━" * 35
    assert list(dict.fromkeys(frames(terminal)))[:4] == [
        (f"epoch 1/2 {bar}               0:00 elapsed", f"train 0/3 {bar}"),
        (
            f"epoch 1/2 {bar}    0:20 left  0:04 elapsed",
            f"train 1/3 {bar}    0:08 left  4.0 s/batch  train_loss {seen[0]:#.4g}",
        ),
        (
            f"epoch 1/2 {bar}    0:16 left  0:08 elapsed",
            f"train 2/3 {bar}    0:04 left  4.0 s/batch  train_loss {seen[1]:#.4g}",
        ),
        (
            f"epoch 1/2 {bar}    0:12 left  0:12 elapsed",
            f"train 3/3 {bar}    0:00 left  4.0 s/batch  train_loss {seen[2]:#.4g}",
        ),
    ]
    assert frames(terminal)[-1][0] == f"epoch 2/2 {bar}    0:00 left  0:24 elapsed"


def test_validation_has_the_second_bar_while_it_runs(points: Data, terminal: Terminal) -> None:
    "The bar of the batches is training's and validation's in turn."
    clock = Clock()
    fit(points, st.Progress(), TakesEachBatch(clock), valid=points, clock=clock, on=terminal)
    assert [
        name for name, _ in itertools.groupby(batches.split()[0] for _, batches in frames(terminal))
    ] == ["train", "valid"] * 2


def test_evaluation_and_prediction_have_a_bar_of_their_own(
    points: Data, terminal: Terminal
) -> None:
    "Without epochs there is one bar, which says what is done."
    run = fit(points)
    with contextlib.redirect_stdout(terminal):
        st.evaluate(run, points, callbacks=st.Progress())
        st.predict(run, points[0], callbacks=st.Progress())
    shown = re.findall(
        r"(evaluate|predict|epoch|train) +\d/1 ━",
        re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()),
    )
    assert list(dict.fromkeys(shown)) == ["evaluate", "predict"]
    assert [line.split()[0] for line in terminal.screen] == [
        "evaluation",
        "evaluation",
        "prediction",
    ]


def test_data_of_unknown_length_has_bars_without_an_end(points: Data, terminal: Terminal) -> None:
    "Without a length the batches are counted, and there is a rate but no time left."

    def stream() -> Iterator[Data]:
        return zip(*(column.split(4) for column in points), strict=True)

    clock = Clock()
    fit(
        stream,
        st.Progress(),
        TakesEachBatch(clock),
        dataloader_options=None,
        clock=clock,
        on=terminal,
    )
    last = frames(terminal)[-1][1]
    assert re.match(r"train +\d ━+ ", last)
    assert "batches/s" in last
    assert "left" not in last


def test_epochs_without_an_end_have_no_time_left(points: Data, terminal: Terminal) -> None:
    "`epochs=None` counts the epochs and promises nothing."
    clock = Clock()
    fit(
        points,
        st.Progress(),
        TakesEachBatch(clock),
        epochs=None,
        max_steps=7,
        clock=clock,
        on=terminal,
    )
    assert re.fullmatch(r"epoch +3 ━+ +\d:\d\d elapsed", frames(terminal)[-1][0])
    assert terminal.screen[-1].startswith("fit stopped in epoch 3: 7 steps made")


def test_bars_are_drawn_ten_times_a_second_at_most(points: Data, terminal: Terminal) -> None:
    "Of 300 batches in a bit more than half a second of the clock, six or seven are drawn."
    reads = ticking(0.001)
    clock_reads = []

    def clock() -> float:
        clock_reads.append(reads())
        return clock_reads[-1]

    batches = [(points[0][:8], points[1][:8])] * 300
    fit(batches, st.Progress(), dataloader_options=None, clock=clock, epochs=1, on=terminal)
    drawn = len(set(re.findall(r"train +(\d+)/300", terminal.getvalue())))
    assert 3 <= drawn <= clock_reads[-1] / 0.1 + 2


def test_bars_that_are_slow_to_draw_are_drawn_less_often(points: Data, terminal: Terminal) -> None:
    "Where a drawing takes a second, the next one comes no sooner than 50 seconds later."
    clock, drawings = Clock(), []

    class SlowTerminal(Terminal):
        def write(self, text: str) -> int:
            if "train" in text and "━" in text:
                drawings.append(clock.now)
                clock.now += 1.0
            return super().write(text)

    batches = [(points[0][:8], points[1][:8])] * 120
    fit(
        batches,
        st.Progress(),
        TakesEachBatch(clock),
        dataloader_options=None,
        clock=clock,
        epochs=1,
        on=SlowTerminal(),
    )
    # The last ones are for the row and the end
    between = [b - a for a, b in itertools.pairwise(drawings[:-3])]
    assert between
    assert min(between) >= 50


def test_what_others_print_stands_above_the_bars(points: Data, terminal: Terminal) -> None:
    "A print in a callback is a line of its own, and the bars are drawn below it again."

    class Talks(st.Callback):
        def on_enter_valid(self, ctx: Any) -> None:
            print("hello", ctx.epoch)

    fit(points, st.Progress(), Talks(), valid=points, clock=Clock(), on=terminal)
    assert [line.split("  ")[0] for line in terminal.screen] == [
        "hello 1",
        "epoch 1/2",
        "hello 2",
        "epoch 2/2",
        "fit completed: 2 epochs, 6 steps, 0.0 s",
    ]


def test_a_run_inside_a_run_prints_lines_above_the_bars_of_the_outer_one(
    points: Data, terminal: Terminal
) -> None:
    "Two displays would draw over each other; the inner one takes lines."

    class Inner(st.Callback):
        def on_exit_epoch(self, ctx: Any) -> None:
            st.evaluate(
                ctx.model, points, loss=nn.functional.cross_entropy, callbacks=st.Progress()
            )

    fit(points, st.Progress(), Inner(), clock=Clock(), epochs=1, on=terminal)
    assert [line.split("  ")[0].partition(",")[0] for line in terminal.screen] == [
        "evaluation",
        "evaluation completed: 1 batch",
        "epoch 1/1",
        "fit completed: 1 epoch",
    ]


def test_narrow_terminals_cut_the_bars_and_no_line_is_wrapped(
    points: Data, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    "In 30 columns every drawing keeps within them."
    monkeypatch.setenv("COLUMNS", "30")
    clock = Clock()
    fit(points, st.Progress(), TakesEachBatch(clock), valid=points, clock=clock, on=terminal)
    assert frames(terminal)
    assert max(len(line) for pair in frames(terminal) for line in pair if "━" in line) <= 25
    assert not [line for line in terminal.screen if "━" in line]


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    points: Data, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    "TERM=dumb means lines without a control character."
    monkeypatch.setenv("TERM", "dumb")
    fit(points, st.Progress(), on=terminal)
    assert "\x1b" not in terminal.getvalue()
    assert len(terminal.getvalue().splitlines()) == 3


def test_lines_and_bars_can_be_asked_for(points: Data, terminal: Terminal) -> None:
    "`mode` has the last word: lines in a terminal, bars where none was recognised."
    fit(points, st.Progress("plain"), on=terminal)
    assert "\x1b" not in terminal.getvalue()
    out = io.StringIO()
    fit(points, st.Progress("rich", file=out))
    assert "\x1b[2K" in out.getvalue()


def test_a_notebook_that_cannot_draw_bars_gets_lines(
    points: Data, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    "In a notebook without IPython's displays the lines are printed, and nothing is raised or warned about."
    monkeypatch.setitem(sys.modules, "IPython", None)

    class ZMQInteractiveShell:
        """What IPython calls itself in a notebook."""

    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    fit(points, st.Progress())
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()][:2] == [
        "epoch 1/2",
        "epoch 2/2",
    ]


# ---------------------------------------------------------------- outputs that fail


@pytest.mark.parametrize("mode", ["plain", "rich"])
def test_a_closed_pipe_ends_the_lines_and_not_the_training(points: Data, mode: Any) -> None:
    "When the reader has gone, there is one warning, and the run goes on to its end."
    reading, writing = os.pipe()
    os.close(reading)
    out = os.fdopen(writing, "w")
    try:
        with pytest.warns(
            RuntimeWarning, match="Progress cannot write any more.*BrokenPipeError"
        ) as warned:
            run = fit(points, st.Progress(mode, file=out), valid=points, epochs=3)
    finally:
        with contextlib.suppress(BrokenPipeError):
            out.close()
    assert run.outcome == st.Completed(3)
    assert len(warned) == 1


def test_a_closed_file_ends_the_lines_and_not_the_training(points: Data) -> None:
    "A stream that was closed is an output that fails, not an error of the run."
    out = io.StringIO()
    out.close()
    with pytest.warns(RuntimeWarning, match="closed file"):
        run = fit(points, st.Progress(file=out))
    assert run.outcome == st.Completed(2)


def test_a_process_without_a_standard_output_is_shown_nothing(
    points: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    "Where `sys.stdout` is None the run goes on in silence."
    monkeypatch.setattr(sys, "stdout", None)
    assert fit(points, st.Progress()).outcome == st.Completed(2)


# ---------------------------------------------------------------- arguments and costs


def test_arguments_are_checked_when_it_is_made() -> None:
    "A misspelt mode and a path for a stream are errors that say what to write."
    with pytest.raises(
        st.ConfigError,
        match=r"mode must be one of 'auto', 'rich', 'plain', got 'rihc'; did you mean 'rich'\?",
    ):
        st.Progress("rihc")  # type: ignore[arg-type]
    with pytest.raises(st.ConfigError, match=r"file must be an open text stream, got 'out\.txt'"):
        st.Progress(file="out.txt")  # type: ignore[arg-type]


def test_rich_is_loaded_only_for_bars() -> None:
    "Where lines are printed, rich is not imported; and neither is torch for the callback itself."
    code = (
        "import sys; from statetrain import Context, Progress; p = Progress(); ctx = Context();"
        " p.on_enter_fit(ctx); ctx.outcome = __import__('statetrain').Completed(0);"
        " ctx.deferred.pop()(); sys.exit(bool({'rich', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "fit completed: 0 epochs, 0 steps, 0.0 s\n",
        "",
    )


def test_between_drawings_a_batch_costs_one_look_at_the_clock(points: Data) -> None:
    "With bars the clock is read once a batch, without them not at all."
    batches = [(points[0][:8], points[1][:8])] * 50

    def reads(mode: Any) -> int:
        count = 0

        def clock() -> float:
            nonlocal count
            count += 1
            return 0.0

        fit(
            batches,
            st.Progress(mode, file=io.StringIO()),
            dataloader_options=None,
            clock=clock,
            epochs=1,
        )
        return count

    assert reads("rich") - reads("plain") in range(50, 60)


def test_a_run_that_is_continued_has_its_bars_at_once(
    points: Data, terminal: Terminal, tmp_path: Any
) -> None:
    "In the middle of an epoch the bars begin where it stands, and the time left is that of what is left."
    clock, seen = Clock(), []

    class Look(st.Callback):
        def on_exit_batch(self, ctx: Any) -> None:
            seen.append((ctx.epoch, ctx.iter, terminal.screen[-2:]))

    class Dies(st.Callback):
        def on_enter_step(self, ctx: Any) -> None:
            if ctx.step == 4:
                raise RuntimeError

    saves = {"seed": 0, "clock": clock, "epochs": 3}
    with pytest.raises(RuntimeError):
        fit(points, st.Checkpoint(tmp_path, every=st.Every(1, "steps")), Dies(), **saves)
    fit(
        points,
        TakesEachBatch(clock, 4.0),
        Look(),
        st.Progress(),
        st.Checkpoint(tmp_path),
        on=terminal,
        resume="last",
        **saves,
    )

    epoch, batch, lines = seen[0]
    assert (epoch, batch) == (2, 2)
    assert lines[0].startswith("epoch 2/3")
    assert lines[1].startswith("train 1/3")
    assert "left" not in lines[0]
    lines = seen[1][2]
    assert lines[1].startswith("train 2/3")
    # A batch took four seconds; one is left here, and three in the last epoch
    assert "0:16 left" in lines[0]
