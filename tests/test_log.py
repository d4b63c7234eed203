"""Log: what a run tells a machine that reads, and a person."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch
from torch import nn

import statetrain as st
from statetrain.callback import hooks_of
from tests.conftest import Data

fit_options: dict[str, Any] = {
    "loss": nn.functional.cross_entropy,
    "optimizer": torch.optim.SGD,
    "opt_hparams": {"lr": 0.1},
}


def fit(data: Any, *callbacks: st.Callback, **options: Any) -> st.Run:
    """Two epochs of three batches, unless told otherwise; the clock stands still."""
    given = {
        **fit_options,
        "epochs": 2,
        "dataloader_options": {"batch_size": 8},
        "clock": lambda: 5.0,
        "callbacks": callbacks,
        **options,
    }
    return st.fit(nn.Linear(4, 3), data, **given)


def refuse(constant: str) -> None:
    """JSON has no NaN and no infinity, though Python's reader takes them."""
    raise AssertionError(f"{constant} is no JSON")


def events(out: io.StringIO | Path) -> list[dict[str, Any]]:
    """The JSON lines of a log."""
    text = out.read_text() if isinstance(out, Path) else out.getvalue()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def logged(data: Any, *callbacks: st.Callback, **options: Any) -> list[dict[str, Any]]:
    """The events of a fit, without those of its start and its rows."""
    out = io.StringIO()
    with contextlib.suppress(RuntimeError, st.NonFiniteLoss):
        fit(data, *callbacks, st.Log(file=out, timestamps=False), **options)
    return [event for event in events(out) if event["event"] not in ("fit started", "row recorded")]


class Does(st.Callback):
    """Does something on entering the second training batch, or the second of validation."""

    def __init__(self, what: Callable[[Any], None], *, valid: bool = False) -> None:
        self.what, self.valid = what, valid

    def on_enter_batch(self, ctx: Any) -> None:
        if not self.valid and ctx.batches == 2:
            self.what(ctx)

    def on_enter_valid_batch(self, ctx: Any) -> None:
        if self.valid and ctx.valid_iter == 2:
            self.what(ctx)


def raises(error: BaseException) -> Callable[[Any], None]:
    """A function of the context that raises an error."""

    def hook(ctx: Any) -> None:
        raise error

    return hook


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


# ---------------------------------------------------------------- events


def test_a_fit_tells_its_start_its_rows_and_its_end(points: Data) -> None:
    "By default there is an event for the start, one a row with all its columns, and one for the end."
    out = io.StringIO()
    run = fit(points, st.Log(file=out, timestamps=False), valid=points)
    assert events(out) == [
        {
            "level": "info",
            "event": "fit started",
            "device": "cpu",
            "parameters": 15,
            "epochs": 2,
            "batches": 3,
            "valid_batches": 3,
        },
        *({"level": "info", "event": "row recorded", **row} for row in run.history),
        {
            "level": "info",
            "event": "fit ended",
            "outcome": "completed",
            "epoch": 2,
            "step": 6,
            "seconds": 0.0,
        },
    ]


def test_what_nobody_knows_is_null(points: Data) -> None:
    "A generator has no number of batches, `epochs=None` none of epochs, and a lazy model none of parameters."
    out = io.StringIO()

    class Batches:
        def __iter__(self) -> Any:
            return iter([points])

    st.fit(
        nn.LazyLinear(3),
        Batches(),
        **{**fit_options, "optimizer": lazily},
        epochs=None,
        max_steps=1,
        callbacks=st.Log(file=out),
    )
    started = events(out)[0]
    assert (started["parameters"], started["epochs"], started["batches"]) == (None, None, None)
    assert "valid_batches" not in started


def lazily(parameters: Any, **hparams: Any) -> torch.optim.Optimizer:
    """An optimizer of parameters that have no shape yet."""
    return torch.optim.SGD(parameters, **hparams)


def test_a_fit_that_goes_on_says_after_which_epoch(points: Data) -> None:
    "`run.fit` has a start and an end of its own, and repeats no row."
    out = io.StringIO()
    run = fit(points, st.Log(file=out), epochs=1)
    out.truncate(out.seek(0))
    run.fit(1)
    assert [(e["event"], e.get("after_epoch"), e.get("epoch")) for e in events(out)] == [
        ("fit started", 1, None),
        ("row recorded", None, 2),
        ("fit ended", None, 2),
    ]


def test_evaluation_and_prediction_have_their_own_names(points: Data) -> None:
    "The same callback listens to `evaluate` and `predict`."
    run, out = fit(points), io.StringIO()
    log = st.Log(file=out, transitions="end")
    st.evaluate(run, points, callbacks=log)
    st.predict(run, points[0], callbacks=log)
    assert [e["event"] for e in events(out)] == [
        *("evaluation started", "transition", "row recorded", "evaluation ended"),
        *("prediction started", "transition", "prediction ended"),
    ]


def test_what_is_added_to_a_row_late_is_in_its_event(points: Data) -> None:
    "A metric that another callback logs when the epoch is left is a column of the epoch's event."

    class Late(st.Callback):
        writes = {"history.norm"}

        def on_exit_epoch(self, ctx: Any) -> None:
            ctx.log_metric("norm", 3, set="")

    out = io.StringIO()
    fit(points, st.Log(file=out), Late())
    assert [e["norm"] for e in events(out) if e["event"] == "row recorded"] == [3, 3]


def test_rows_inside_an_epoch_are_told_when_they_are_made(points: Data) -> None:
    "With validation inside epochs, the row comes before what happens after it."
    out = io.StringIO()
    log = st.Log(file=out, transitions="record -> train")
    run = fit(points, log, valid=points, validate=st.Every(2, "steps"), epochs=1)
    assert [e["event"] for e in events(out)] == [
        "fit started",
        "transition",
        "row recorded",
        "row recorded",
        "fit ended",
    ]
    assert (
        [e["step"] for e in events(out) if e["event"] == "row recorded"]
        == run.history["step"]
        == [2, 3]
    )


@pytest.mark.parametrize(
    ("what", "event", "fields"),
    [
        (
            raises(st.SkipBatch("odd one")),
            "batch skipped",
            {"by": "SkipBatch", "reason": "odd one", "epoch": 1, "batch": 2, "step": 1},
        ),
        (
            raises(st.SkipEpoch()),
            "epoch skipped",
            {"by": "SkipEpoch", "reason": None, "epoch": 1, "batch": 2, "step": 1},
        ),
    ],
)
@pytest.mark.parametrize("valid", [False, True])
def test_what_is_skipped_is_told_with_the_reason(
    points: Data, what: Any, event: str, fields: dict[str, Any], valid: bool
) -> None:
    "SkipBatch and SkipEpoch are a warning each, with and without validation after them."
    skipped, ended = logged(points, Does(what), valid=points if valid else None)
    assert skipped == {"level": "warning", "event": event, **fields}
    assert ended["outcome"] == "completed"


def test_an_epoch_that_is_skipped_before_its_first_batch_is_told(points: Data) -> None:
    "SkipEpoch on entering the epoch leads past training, and is told."

    class Even(st.Callback):
        def on_enter_epoch(self, ctx: Any) -> None:
            if ctx.epoch == 2:
                raise st.SkipEpoch("even")

    skipped, ended = logged(points, Even())
    assert (skipped["event"], skipped["reason"], skipped["epoch"]) == ("epoch skipped", "even", 2)
    assert ended["step"] == 3


def test_what_is_skipped_of_a_validation_is_told_as_such(points: Data) -> None:
    "The same events in validation speak of it, and count its batches."
    first, second, _ = logged(points, Does(raises(st.SkipBatch("odd")), valid=True), valid=points)
    assert (first["event"], first["batch"], first["epoch"], second["epoch"]) == (
        "validation batch skipped",
        2,
        1,
        2,
    )
    first, second, _ = logged(points, Does(raises(st.SkipEpoch("long")), valid=True), valid=points)
    assert (first["event"], first["reason"], second["epoch"]) == ("validation skipped", "long", 2)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_finite_and_is_skipped_is_told(points: Data, accumulate: int) -> None:
    "With `non_finite='skip'` the batch is a warning with the loss; batches that wait for their step are none."
    inputs = points[0].clone()
    inputs[9] = torch.nan
    batches = [(inputs[i : i + 8], points[1][i : i + 8]) for i in (0, 8, 16)]
    skipped, ended = logged(
        batches, dataloader_options=None, non_finite="skip", epochs=1, accumulate=accumulate
    )
    why = {
        "level": "warning",
        "event": "batch skipped",
        "by": "loss not finite",
        "reason": "the loss is nan",
    }
    assert skipped == {**why, "epoch": 1, "batch": 2, "step": 1 if accumulate == 1 else 0}
    assert ended["event"] == "fit ended"


def test_a_stop_is_told_with_its_reason(points: Data) -> None:
    "The end says that the run was stopped, and why."
    (ended,) = logged(points, stop=st.MaxSteps(4))
    assert ended == {
        "level": "info",
        "event": "fit ended",
        "outcome": "stopped",
        "reason": "4 steps made",
        "epoch": 2,
        "step": 4,
        "seconds": 0.0,
    }


def test_an_interrupt_is_a_warning(points: Data) -> None:
    "Ctrl-C ends the log in order."
    (ended,) = logged(points, Does(raises(KeyboardInterrupt())))
    assert (ended["level"], ended["outcome"], ended["reason"]) == (
        "warning",
        "interrupted",
        "KeyboardInterrupt",
    )


def test_a_failure_is_told_once_with_error_state_and_place(points: Data) -> None:
    "An exception is the last event: its type, its message and where it happened."
    (failed,) = logged(points, Does(raises(RuntimeError("it broke"))), valid=points)
    what = {"level": "error", "event": "fit failed", "error": "RuntimeError", "message": "it broke"}
    assert failed == {**what, "state": "batch", "epoch": 1, "batch": 2, "step": 1, "seconds": 0.0}
    (failed,) = logged(points, Does(raises(RuntimeError("it broke")), valid=True), valid=points)
    assert (failed["state"], failed["batch"]) == ("valid_batch", 2)


def test_a_failure_before_the_log_heard_of_the_run_is_told(points: Data) -> None:
    "A callback that comes earlier may fail on entering `fit`; the failure is logged all the same."

    class Early(st.Callback):
        def on_enter_fit(self, ctx: Any) -> None:
            raise RuntimeError("no")

    (failed,) = logged(points, Early())
    assert (failed["event"], failed["state"]) == ("fit failed", "fit")


# ---------------------------------------------------------------- transitions that were asked for


def test_transitions_are_listened_to_only_if_asked_for() -> None:
    "Without `transitions` there is no hook that every arrow would call."
    life = st.supervised()
    assert "on_transition" not in hooks_of(st.Log(), life)
    assert "on_transition" in hooks_of(st.Log(transitions="valid"), life)


def test_arrows_and_states_can_be_asked_for(points: Data) -> None:
    "An arrow is logged whenever it is taken, a state whenever an arrow leads to it."
    out = io.StringIO()
    fit(
        points,
        st.Log(file=out, timestamps=False, transitions=("pred -> loss", "epoch", "[*] -> fit")),
        epochs=1,
    )
    taken = [e for e in events(out) if e["event"] == "transition"]
    assert [(e["source"], e["dest"], e["batch"]) for e in taken] == [
        ("[*]", "fit", 0),
        ("next_epoch", "epoch", 0),
        *(("pred", "loss", batch) for batch in (1, 2, 3)),
    ]
    arrow = {"source": "next_epoch", "dest": "epoch", "label": "[more epochs] / count the epoch"}
    assert taken[1] == {
        "level": "info",
        "event": "transition",
        **arrow,
        "epoch": 1,
        "batch": 0,
        "step": 0,
    }


def test_names_in_transitions_are_checked_against_the_lifecycle() -> None:
    "A misspelt state is an error with the nearest name; one of an option that is off is none."
    st.Log(transitions=("loss -> next_batch", "valid", "[*] -> fit", "failed")).check_lifecycle(
        st.supervised(validate=None)
    )
    with pytest.raises(
        st.CallbackError,
        match=(
            r"Log: transitions mention 'bach': no state 'bach' in lifecycle 'supervised'; did you"
            r" mean 'batch'\?"
        ),
    ):
        st.Log(transitions="bach -> pred").check_lifecycle(st.supervised())


# ---------------------------------------------------------------- how it is written


def test_a_terminal_gets_lines_for_people_and_a_file_gets_json(
    points: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    "By default it looks at where the events go; colours are for terminals."
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal, out, console = Terminal(), io.StringIO(), io.StringIO()
    fit(
        points,
        st.Log(file=terminal, timestamps=False),
        st.Log(file=out),
        st.Log(file=console, format="console", timestamps=False),
    )
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert plain == console.getvalue() != terminal.getvalue()
    assert re.fullmatch(
        r"\[info +\] fit started +device=cpu parameters=15 epochs=2 batches=3",
        plain.splitlines()[0],
    )
    assert all(
        re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", event["timestamp"])
        for event in events(out)
    )
    assert list(events(out)[0])[:3] == ["timestamp", "level", "event"]


def test_no_colour_where_none_is_wanted(points: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    "NO_COLOR keeps a terminal free of escape sequences."
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    fit(points, st.Log(file=terminal))
    assert "\x1b" not in terminal.getvalue()


@pytest.mark.parametrize("written", ["console", "json"])
def test_no_name_or_reason_can_break_a_line(points: Data, written: Any) -> None:
    "Control characters in names and reasons are escaped, so an event is one line; what cannot be encoded is too."
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    metrics = {"\x1b[31mred\r\n é": lambda p, t: p.mean()}
    fit(
        points,
        Does(raises(st.StopFit("bad\x1b[2J\u202e"))),
        st.Log(file=out, format=written),
        metrics=metrics,
    )
    text = raw.getvalue().decode("ascii")
    assert re.fullmatch(r"[ -~\n]*", text)
    assert len(text.splitlines()) == 2 + ("row recorded" in text)
    fit(points, st.Log(file=out, format=written), metrics=metrics)
    assert re.search(r"train_\\(x1b|u001b)\[31mred\\r\\n ", raw.getvalue().decode("ascii"))


def test_json_has_no_numbers_that_are_not_finite_and_no_tensors(points: Data) -> None:
    "NaN and infinity become strings, and a matrix becomes lists, so that every reader of JSON can read it."

    class Matrix:
        def update(self, pred: Any, target: Any) -> None: ...
        def reset(self) -> None: ...
        def compute(self) -> torch.Tensor:
            return torch.tensor([[1.0, torch.nan], [torch.inf, -torch.inf]])

    out = io.StringIO()
    fit(
        points,
        st.Log(file=out),
        metrics={"matrix": Matrix(), "nan": lambda p, t: float("nan")},
        epochs=1,
    )
    row = events(out)[1]
    assert row["train_matrix"] == [[1.0, "nan"], ["inf", "-inf"]]
    assert row["train_nan"] == "nan"


def test_a_column_with_a_name_of_the_log_itself_keeps_both(points: Data) -> None:
    "A column called `event` or `level` is written with an underscore and hides nothing."

    class Names(st.Callback):
        def on_exit_train(self, ctx: Any) -> None:
            for name in ("event", "level", "self"):
                ctx.log_metric(name, 1, set="")

    out = io.StringIO()
    fit(points, Names(), st.Log(file=out), epochs=1)
    row = events(out)[1]
    assert (row["event"], row["level"], row["event_"], row["level_"], row["self_"]) == (
        "row recorded",
        "info",
        1,
        1,
        1,
    )


# ---------------------------------------------------------------- where it goes


def test_a_path_is_made_appended_to_and_closed(points: Data, tmp_path: Path) -> None:
    "Two runs with one path leave the events of both; its folder is made; the file is closed, also after a failure."
    path = tmp_path / "deep" / "run.jsonl"
    log = st.Log(file=path)
    fit(points, log, epochs=1)
    with pytest.raises(RuntimeError, match="no"):
        fit(points, Does(raises(RuntimeError("no"))), log)
    assert [e["event"] for e in events(path)] == [
        "fit started",
        "row recorded",
        "fit ended",
        "fit started",
        "fit failed",
    ]
    assert log._opened is None


def test_a_path_that_cannot_be_opened_fails_before_the_first_batch(
    points: Data, tmp_path: Path
) -> None:
    "A log that was asked for and cannot be had is an error at once."
    drawn = []
    with pytest.raises(IsADirectoryError):
        fit(points, Does(drawn.append), st.Log(file=tmp_path))
    assert not drawn


def test_verbose_false_silences_the_standard_error_and_nothing_that_was_asked_for(
    points: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    "The default goes to the standard error unless `verbose=False`; a file gets its events in any case."
    fit(points, st.Log(), verbose=False)
    assert capsys.readouterr() == ("", "")
    fit(points, st.Log(file=tmp_path / "log"), verbose=False)
    assert len(events(tmp_path / "log")) == 4
    fit(points, st.Log(file=(out := io.StringIO())), verbose=False)
    assert len(events(out)) == 4
    fit(points, st.Log())
    written = capsys.readouterr()
    assert written.out == ""
    assert len(written.err.splitlines()) == 4


def test_a_logger_of_ones_own_gets_the_events_as_they_are(points: Data) -> None:
    "With `logger=` the user's processors decide, and values come as they are in the history."
    seen: list[dict[str, Any]] = []

    def keep(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
        seen.append({"method": method, **event})
        raise structlog.DropEvent

    run = fit(
        points,
        st.Log(logger=structlog.wrap_logger(None, processors=[keep]).bind(job=7)),
        epochs=1,
        verbose=False,
    )
    assert [e["event"] for e in seen] == ["fit started", "row recorded", "fit ended"]
    assert seen[1] == {"method": "info", "job": 7, "event": "row recorded", **run.history[0]}


def test_structlog_is_configured_for_nobody_else(points: Data) -> None:
    "The global configuration is the same after a run, and one that refuses everything is not asked."
    assert not structlog.is_configured()
    fit(points, st.Log(file=io.StringIO()))
    assert not structlog.is_configured()
    out = io.StringIO()
    structlog.configure(
        processors=[raises(AssertionError("asked"))],
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
    )
    try:
        fit(points, st.Log(file=out))
    finally:
        structlog.reset_defaults()
    assert len(events(out)) == 4


@pytest.mark.parametrize("written", ["console", "json"])
def test_an_output_that_fails_ends_the_log_and_not_the_training(points: Data, written: Any) -> None:
    "When the reader has gone, there is one warning, and the run goes on to its end."
    reading, writing = os.pipe()
    os.close(reading)
    out = os.fdopen(writing, "w")
    try:
        with pytest.warns(
            RuntimeWarning, match="Log cannot write any more.*BrokenPipeError"
        ) as warned:
            run = fit(points, st.Log(file=out, format=written))
    finally:
        with contextlib.suppress(BrokenPipeError):
            out.close()
    assert run.outcome == st.Completed(2)
    assert len(warned) == 1
    with pytest.warns(RuntimeWarning, match="closed file"):
        assert fit(points, st.Log(file=out, format=written)).outcome == st.Completed(2)


def test_a_process_without_a_standard_error_logs_nothing(
    points: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    "Where `sys.stderr` is None the run goes on in silence."
    monkeypatch.setattr(sys, "stderr", None)
    assert fit(points, st.Log()).outcome == st.Completed(2)


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"format": "jsn"},
            r"format must be one of 'auto', 'console', 'json', got 'jsn'; did you mean 'json'\?",
        ),
        ({"file": 3}, "file must be a path or an open text stream, got 3"),
        (
            {"transitions": ("loss => next_batch",)},
            "transitions are written 'source -> dest' or 'state', got 'loss => next_batch'",
        ),
        ({"transitions": (3,)}, "got 3"),
        ({"logger": logging.getLogger("x")}, "wrap it: structlog.stdlib.get_logger"),
        ({"logger": object()}, "logger must be a structlog logger, got .* has no 'info'"),
        ({"logger": structlog.wrap_logger(None), "file": "x"}, "give either a logger or these"),
    ],
)
def test_arguments_are_checked_when_it_is_made(arguments: dict[str, Any], message: str) -> None:
    "What cannot be meant is an error that says what to write."
    with pytest.raises(st.ConfigError, match=message):
        st.Log(**arguments)


def test_structlog_is_loaded_only_when_a_run_starts() -> None:
    "Making a Log imports neither structlog nor torch."
    code = (
        "import sys; from statetrain import Log; Log(file='x', transitions='loss');"
        " sys.exit(bool({'structlog', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
