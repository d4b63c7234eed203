"""`Logger`: what is collected, when, and where it goes; backends as files that a run goes on with."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import statetrain as st
from statetrain.errors import ConfigError

COUNTERS = {"epoch", "batch", "step", "samples", "seconds"}


def options(**more):
    common = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        "seed": 0,
        "verbose": False,
    }
    return {**common, "dataloader_options": {"batch_size": 8}, **more}


def fit(data, callbacks, model=None, **more):
    return st.fit(
        nn.Linear(4, 3) if model is None else model, data, callbacks=callbacks, **options(**more)
    )


def read(path):
    text = path.read_text()
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


class Kept(st.Callback):
    """A backend that keeps what it is given."""

    takes = frozenset({st.Value, st.Text, st.Image, st.Histogram, st.Settings})
    what = ()

    def __init__(self, **more):
        self.rows, self.closed, self.opened = [], [], []
        vars(self).update(more)

    def check(self):
        pass

    def open(self, ctx, fresh):
        self.opened.append(fresh)
        return True

    def log(self, items, counters):
        self.rows.append((dict(items), dict(counters)))

    def close(self, outcome):
        self.closed.append(outcome)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


# ---------------------------------------------------------------- what, and when


def test_the_simple_case(tmp_path, points):
    "In one line: the rows of the history, and at each interval the loss since the last row and the learning rate."
    path = tmp_path / "runs" / "one" / "log.jsonl"
    run = fit(points, st.Logger(st.JSONLines(path), every=st.Every(2, "steps")))
    rows = read(path)

    assert [(row["epoch"], row["step"], "train_loss" in row) for row in rows] == [
        (1, 2, False),
        (1, 3, True),
        (2, 4, False),
        (2, 6, False),
        (2, 6, True),
    ]
    assert all(set(row) >= COUNTERS for row in rows)
    assert [
        {k: v for k, v in row.items() if k != "lr"} for row in rows if "train_loss" in row
    ] == list(run.history)
    assert [row["lr"] for row in rows if "train_loss" not in row] == [0.1] * 3


def test_a_backend_among_the_callbacks_logs_the_history(tmp_path, points):
    "By itself, a backend is a callback that logs each row of the history; its conditions and its name are its own."
    path = tmp_path / "log.jsonl"
    run = fit(points, st.JSONLines(path), valid=points)

    assert read(path) == list(run.history)
    assert repr(run.machine.callbacks[0]) == f"JSONLines({str(path)!r})"


def test_the_loss_of_a_row_is_the_mean_since_the_row_before(points):
    "Over the samples, from one due row to the next, begun anew with each row of the history."
    losses, backend = [], Kept()

    class Sees(st.Callback):
        def on_exit_loss(self, ctx):
            losses.append((ctx.loss.item(), ctx.batch_size))

    fit(points, [Sees(), st.Logger(backend, every=st.Every(2, "steps"))])
    found = [items["loss"].data for items, _ in backend.rows if "loss" in items]
    means = [
        sum(a * n for a, n in part) / sum(n for _, n in part)
        for part in (losses[:2], losses[3:4], losses[4:6])
    ]
    assert found == pytest.approx(means)


def test_each_interval_fires_once_for_each_logger(points):
    "Two loggers with the same interval do not take the firing from each other; times and epochs are intervals, too."
    one, two, three = Kept(), Kept(), Kept()
    clock = iter(range(10**6))
    every = st.Every(3, "steps")
    fit(
        points,
        [
            st.Logger(one, every=every),
            st.Logger(two, every=every),
            st.Logger(
                three, what=st.LearningRate(), every=st.Every(2, "epochs") | st.Every(5, "batches")
            ),
        ],
        epochs=4,
        clock=lambda: next(clock),
    )
    steps = [counters["step"] for items, counters in one.rows if "lr" in items]
    assert (
        steps
        == [counters["step"] for items, counters in two.rows if "lr" in items]
        == [3, 6, 9, 12]
    )
    assert [counters["step"] for items, counters in three.rows if "lr" in items] == [5, 6, 10, 12]
    # What is due with an epoch is in its row.
    assert {"lr", "train_loss"} <= set(
        next(items for items, counters in three.rows if counters["step"] == 6)
    )


def test_without_an_interval_things_are_collected_with_each_complete_epoch(points):
    "They are in the epoch's own row; a part of an epoch that was stopped has none."
    backend = Kept()
    fit(
        points,
        st.Logger(backend, what=[st.LearningRate(), st.Histograms("weight", gradients="bias")]),
        max_steps=5,
    )

    assert [set(items) for items, _ in backend.rows] == [
        {"train_loss", "lr", "weight", "gradients/bias"},
        {"train_loss"},
    ]
    assert backend.rows[0][0]["weight"].count == 12


def test_functions_of_the_context(points):
    "A function gives values by name: numbers, tensors, texts, pictures; None is left out."
    backend = Kept()

    def look(ctx):
        return {
            "norm": ctx.model.weight.norm(),
            "matrix": torch.eye(2),
            "note": "<b>",
            "nothing": None,
            "picture": st.Image(torch.zeros(2, 3)),
            "step": 1,
        }

    fit(points, st.Logger(backend, what=look), epochs=1)
    items = backend.rows[0][0]
    assert {name: type(item) for name, item in items.items() if name != "train_loss"} == {
        "norm": st.Value,
        "matrix": st.Value,
        "note": st.Text,
        "picture": st.Image,
        "step_": st.Value,
    }
    assert items["matrix"].data == [[1.0, 0.0], [0.0, 1.0]]


def test_summaries_read_the_context_by_keys(points):
    "Keys of the batch are read at its end; a tensor needs a kind, and the error says how to give one."
    backend = Kept()
    parts = {
        "inputs": ("batch[0]", st.Histogram),
        "first": ("pred[0]", lambda row: row.max()),
        "lr": "optimizers.opt.defaults.lr",
    }
    fit(points, st.Logger(backend, what=st.Summaries(parts), every=st.Every(3, "steps")), epochs=1)
    items, counters = backend.rows[0]
    assert (items["inputs"].count, counters["samples"]) == (24, 22)
    assert items["lr"] == st.Value(0.1)
    with pytest.raises(
        ConfigError,
        match=r"'pred', of shape \(8, 3\); say what to make of it: {'p': \('pred', Histogram\)}",
    ):
        fit(points, st.Logger(Kept(), what=st.Summaries({"p": "pred"}), every=st.Every(1, "steps")))


def test_summaries_capture_what_they_name_alone(points):
    "One module's outputs are kept, not all; a misspelt one is an error before training."
    backend, model, hooked = Kept(), nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), []
    count = st.on("enter_train")(
        lambda ctx: hooked.append([len(module._forward_hooks) for module in model])
    )
    summaries = st.Summaries({"hidden": ("interms.1", st.Histogram)})
    fit(
        points,
        [st.Logger(backend, what=summaries, every=st.Every(2, "steps")), count],
        model,
        epochs=1,
    )
    assert hooked == [[0, 1, 0]]
    assert backend.rows[0][0]["hidden"].count == 40
    with pytest.raises(ConfigError, match="the model has no such module"):
        fit(
            points,
            st.Logger(
                Kept(),
                what=st.Summaries({"x": ("interms.9", st.Histogram)}),
                every=st.Every(2, "steps"),
            ),
            model,
        )


def test_records_are_the_last_values(points):
    "What is logged with `ctx.log`, by name or all of it."

    @st.on("exit_step")
    def notes(ctx):
        ctx.log("twice", 2 * ctx.step)
        ctx.log("other", 1)

    some, everything = Kept(), Kept()
    fit(
        points,
        [
            notes,
            st.Logger(some, what=st.Records("twice", "later")),
            st.Logger(everything, what=st.Records()),
        ],
        epochs=1,
    )
    assert some.rows[0][0]["twice"] == st.Value(6)
    assert set(everything.rows[0][0]) == {"train_loss", "twice", "other"}


def test_hyperparameters_are_logged_once(tmp_path, points):
    "When the run begins, and not again when it goes on: the model's, the optimizer's, and the options of the run."
    path = tmp_path / "log.jsonl"

    class Model(nn.Linear):
        def __init__(self, width):
            super().__init__(4, width)

    run = fit(
        points,
        st.Logger(st.JSONLines(path), what=st.HyperParameters({"note": "a try"})),
        model=Model,
        hparams={"width": 3},
        optimizer=torch.optim.SGD,
    )
    run.fit(1)
    first, *others = read(path)
    assert {
        "hparams.width": 3,
        "opt_hparams.lr": 0.1,
        "opt.class": "SGD",
        "epochs": 2,
        "seed": 0,
        "note": "a try",
        "parameters": 15,
    }.items() <= first["hparams"].items()
    assert first["step"] == 0
    assert [row["epoch"] for row in others] == [1, 2, 3]
    assert not any("hparams" in row for row in others)


def test_a_skipped_batch_logs_nothing_and_the_next_one_does(points):
    "An interval that is over at a batch that was given up fires at the one after it."
    backend = Kept()

    class Skips(st.Callback):
        def on_enter_batch(self, ctx):
            if ctx.iter == 2:
                raise st.SkipBatch

    fit(points, [Skips(), st.Logger(backend, every=st.Every(2, "batches"))], epochs=1)
    assert [counters["batch"] for items, counters in backend.rows if "lr" in items] == [3]


# ---------------------------------------------------------------- nothing before it is due


class Reads(TorchDispatchMode):
    """Counts how often a tensor is read by the host."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_values_stay_where_they_are_until_the_logger_is_due(points):
    "Away from the host, batches at which nothing is due read no number; at the one that is due, the loss and the norm are read."
    calls = []

    def norm(ctx):
        calls.append(ctx.step)
        return {"norm": ctx.model.weight.norm()}

    batches = list(zip(points[0].split(2), points[1].split(2), strict=True))
    backend = Kept()
    run = st.fit(
        nn.Linear(4, 3),
        batches,
        callbacks=st.Logger(backend, what=norm, every=st.Every(10, "steps")),
        **options(epochs=1, non_finite="ignore", dataloader_options=None, seed=None),
        start=False,
    )
    run.ctx.on_host = False
    reads: Counter = Counter()
    steps = run.machine.steps(run.ctx)
    while True:
        with Reads() as mode:
            transition = next(steps, None)
        if transition is None:
            break
        reads[run.ctx.step, transition.dest] += mode.count

    assert {place: count for place, count in reads.items() if count} == {
        (10, "next_batch"): 2,
        (11, "record"): 1,
    }
    assert calls == [10]


def test_an_interval_in_epochs_listens_to_no_batch(points):
    "A logger that is due with epochs only has no hook that a batch would call."
    for logger in (
        st.Logger(Kept()),
        st.Logger(Kept(), every=st.Every(1, "epochs")),
        st.JSONLines("x").wrapped,
    ):
        assert not hasattr(logger, "on_exit_batch")


# ---------------------------------------------------------------- several backends, bad arguments


def test_each_backend_gets_what_it_takes(tmp_path, points):
    "A table of numbers gets the numbers, and another backend the histograms; the last row of a backend is closed with the outcome."
    backend = Kept()
    run = fit(
        points,
        st.Logger(st.CSVLogger(tmp_path / "log.csv"), backend, what=st.Histograms()),
        epochs=1,
    )
    assert set(backend.rows[0][0]) == {"train_loss", "weight", "bias"}
    with (tmp_path / "log.csv").open(newline="") as file:
        assert set(next(csv.DictReader(file))) == set(run.history.columns)
    assert backend.closed == [run.outcome]


def test_what_nobody_can_hold(tmp_path, points):
    "It is an error at construction where a source says what it makes, else when it is first collected."
    with pytest.raises(
        ConfigError, match=r"Histograms\(.*\) makes Histograms, which CSVLogger\('x'\) cannot hold"
    ):
        st.Logger(st.CSVLogger("x"), what=st.Histograms())
    with pytest.raises(
        ConfigError,
        match=(
            r"'a' is of the kind Image, which CSVLogger.* cannot hold. Among those that do are"
            r" TensorBoard"
        ),
    ):
        fit(
            points,
            st.Logger(
                st.CSVLogger(tmp_path / "x"), what=lambda ctx: {"a": st.Image(torch.zeros(2, 2))}
            ),
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: st.Logger(), "needs to know where to"),
        (lambda: st.Logger("log.jsonl"), "takes backends, got 'log.jsonl'; write JSONLines"),
        (lambda: st.Logger(st.JSONLines), r"write JSONLines\(...\)"),
        (lambda: st.Logger(Kept(), every=100), r'write Every\(100, "steps"\)'),
        (lambda: st.Logger(Kept(), what=st.LearningRate), r"write LearningRate\(\)"),
        (
            lambda: st.Logger(Kept(), what="lr"),
            "what takes sources and functions of the context, got 'l'",
        ),
        (
            lambda: st.Logger(Kept(), what=st.Summaries({"x": "pred.logits"})),
            r"within a batch only; say when: every=Every\(100, 'steps'\)",
        ),
        (lambda: st.Summaries({"x": 3}), "'x' must be a key such as 'batch.image'"),
        (lambda: st.Summaries({"x": "..a"}), "'x': .* is not a path"),
    ],
)
def test_bad_arguments(make, message):
    "Each is refused when the logger is made, with what to write instead."
    with pytest.raises(ConfigError, match=message):
        make()


def test_what_cannot_be_collected(points):
    "A pattern without a match is refused before training; a function that gives no names, when it is called."
    with pytest.raises(
        ConfigError, match="'wieght' matches no parameter of the model; did you mean 'weight'"
    ) as caught:
        fit(points, st.Logger(Kept(), what=st.Histograms("wieght")))
    assert not hasattr(caught.value, "run")
    with pytest.raises(ConfigError, match="a source gives values by name"):
        fit(points, st.Logger(Kept(), what=lambda ctx: 3))


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("backend", [st.CSVLogger, st.JSONLines])
@pytest.mark.parametrize("append", [False, True])
def test_a_killed_run_that_goes_on_has_each_row_once(backend, append, tmp_path, points):
    "Rows after the last checkpoint are taken back, also half a row; the file is that of a run that was never cut."

    class Dies(st.Callback):
        def on_enter_step(self, ctx):
            if ctx.step == 5:
                raise SystemExit

    def go(path, *more, **options):
        torch.manual_seed(0)
        logger = st.Logger(backend(path, append=append), every=st.Every(1, "steps"))
        return fit(
            points,
            [logger, st.Checkpoint(path.parent / "saved", every=st.Every(4, "steps")), *more],
            epochs=3,
            clock=lambda: 0.0,
            **options,
        )

    whole, cut = tmp_path / "whole" / "log", tmp_path / "cut" / "log"
    go(whole)
    if append:
        cut.parent.mkdir()
        cut.write_text(whole.read_text())
    with pytest.raises(SystemExit):
        go(cut, Dies())
    with cut.open("a") as file:
        file.write("3,1")
    go(cut, resume="last")

    lines = whole.read_text().splitlines()
    head = lines[: backend is st.CSVLogger]
    assert cut.read_text().splitlines() == (lines if not append else [*lines, *lines[len(head) :]])
    assert [file.name for file in cut.parent.iterdir() if file.name != "saved"] == ["log"]


def test_a_log_that_is_gone_is_begun_anew_with_the_history(tmp_path, points):
    "A run that goes on without its file writes the rows of the history again."
    path, saved = tmp_path / "log.jsonl", tmp_path / "saved"
    fit(points, [st.JSONLines(path), st.Checkpoint(saved)], epochs=2)
    path.unlink()
    run = fit(points, [st.JSONLines(path), st.Checkpoint(saved)], epochs=3, resume="last")
    assert read(path) == list(run.history)
    assert len(read(path)) == 3


@pytest.mark.parametrize("backend", [st.CSVLogger, st.JSONLines])
def test_half_a_row_is_no_data(backend, tmp_path, points):
    "However a file is cut short, a run that appends keeps the whole rows before the cut, and loses the rest."

    def note(ctx):
        return {"note": f'a "{ctx.epoch}",\nb'}

    first = tmp_path / "first"
    fit(points, st.Logger(backend(first), what=note), epochs=2, clock=lambda: 0.0)
    text = first.read_text()
    for cut in range(len(text) - 40, len(text)):
        path = tmp_path / "log"
        path.write_text(text[:cut])
        fit(points, st.Logger(backend(path, append=True), what=note), epochs=1, clock=lambda: 0.0)
        if backend is st.CSVLogger:
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
        else:
            rows = read(path)
        assert [(int(row["epoch"]), row["note"]) for row in rows] == [
            (1, 'a "1",\nb'),
            (1, 'a "1",\nb'),
        ]


FULL = """
import resource
from pathlib import Path
from statetrain.callbacks.row_file import RowFile
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
file = RowFile(Path("log"), "JSONLines")
file.open(True)
while True:
    file.add(30 * "x" + "\\n")
"""


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    "A row that cannot be written as a whole is not left behind in part."
    done = subprocess.run(
        [sys.executable, "-c", FULL], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "JSONLines cannot write: File too large: 'log'" in done.stderr
    assert (tmp_path / "log").read_text() == 3 * (30 * "x" + "\n")


@pytest.mark.parametrize(
    "make",
    [
        st.CSVLogger,
        st.JSONLines,
        st.TensorBoard,
        lambda path: st.Logger(st.JSONLines(path), every=st.Every(1, "steps")),
    ],
)
def test_what_cannot_be_written_is_refused_before_training(make, tmp_path, points):
    "A path below a file names it, before the first step."
    if make is st.TensorBoard:
        pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write .*file/log") as caught:
        fit(points, make(tmp_path / "file" / "log"))
    assert not hasattr(caught.value, "run")


def test_numbers_that_are_not_finite(tmp_path, points):
    "JSON has no numbers for them, so they are words; a CSV file has Python's."

    def look(ctx):
        return {"a": math.nan, "b": torch.tensor([math.inf, 1.0])}

    fit(
        points,
        [
            st.Logger(st.JSONLines(tmp_path / "log.jsonl"), what=look),
            st.Logger(st.CSVLogger(tmp_path / "log.csv"), what=look),
        ],
        epochs=1,
    )
    row = read(tmp_path / "log.jsonl")[0]
    assert (row["a"], row["b"]) == ("nan", ["inf", 1.0])
    with (tmp_path / "log.csv").open(newline="") as file:
        line = next(csv.DictReader(file))
    assert (line["a"], line["b"]) == ("nan", "[inf, 1.0]")


def test_a_row_that_cannot_be_written_fails_the_run_once(points):
    "The error of the backend is the run's, and what was recorded is not tried again."

    class Full(Kept):
        def log(self, items, counters):
            super().log(items, counters)
            raise OSError(28, "No space left on device", "log")

    backend = Full()
    with pytest.raises(OSError, match="No space left on device: 'log'") as caught:
        fit(points, st.Logger(backend))
    assert len(backend.rows) == 1
    assert isinstance(backend.closed[0], st.Failed)
    assert "while closing" not in "".join(caught.value.__notes__)


# ---------------------------------------------------------------- hostile names

HOSTILE = [
    "../x",
    "/abs/x",
    "a\nb",
    "a\rb",
    "=cmd()",
    "+1",
    "@x",
    "<script>alert(1)</script>",
    "\x1b[2J\x07",
    "\u202egnp",
    "\ud800",
    "a\x00b",
    "",
    ".",
    'q",q',
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_and_texts(name, tmp_path, points, capsys):
    "Whatever a name or a text is made of, it stays one cell, one key, one line, and makes no file."
    csv_path, json_path = tmp_path / "in" / "log.csv", tmp_path / "in" / "log.jsonl"
    source = lambda ctx: {name: 1.5, "text": st.Text(name)}  # noqa: E731  # one for both
    callbacks = [
        st.Logger(st.CSVLogger(csv_path), st.JSONLines(json_path), what=source),
        st.Progress("plain"),
        st.Log(format="console"),
    ]

    class Logs(st.Callback):
        def on_exit_epoch(self, ctx):
            ctx.log_metric(name or "x", 2.5, set="")

    fit(points, [*callbacks, Logs()], epochs=2, verbose=True)

    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == [
        "log.csv",
        "log.jsonl",
    ]
    rows = read(json_path)
    assert len(rows) == 2
    assert {1.5, 2.5} & set(rows[0].values())
    with csv_path.open(newline="", encoding="utf-8") as file:
        table = list(csv.reader(file))
    assert {len(line) for line in table} == {len(table[0])}
    assert len(table) == 3
    assert not any(
        cell.startswith(("=", "+", "-", "@", "\t", "\r")) for line in table for cell in line
    )
    for text in (json_path.read_text(), *capsys.readouterr()):
        assert all(c == "\n" or c.isprintable() for c in text)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_in_tensorboard(name, tmp_path, points):
    "They are tags and texts of the events; the folder has the file of events and nothing else."
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # Short
    def source(ctx):
        return {
            name: 1.5,
            "text": st.Text(name),
            "set": st.Settings({name: name}),
        }

    fit(points, st.Logger(st.TensorBoard(tmp_path / "in"), what=source), epochs=1)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 1
    assert files[0].name.startswith("events.out.tfevents.")
    events = EventAccumulator(str(tmp_path / "in")).Reload()
    assert any(events.Scalars(tag)[0].value == 1.5 for tag in events.Tags()["scalars"])
