"""`CSVLogger`: the file is the history, whatever happens to the run."""

from __future__ import annotations

import csv

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.callbacks.csv_logger import CSVLogger
from statetrain.errors import ConfigError


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def fit(data, callbacks, **options):
    common = {"loss": F.cross_entropy, "optimizer": torch.optim.SGD, "epochs": 3}
    return st.fit(nn.Linear(4, 3), data, callbacks=callbacks, **{**common, **options})


def as_text(history, columns=None):
    return [
        {name: str(row[name]) if name in row else "" for name in columns or history.columns}
        for row in history
    ]


class Logs(st.Callback):
    """Adds a column in some epochs, when the row is there already."""

    def __init__(self, name: str, values: dict[int, object]) -> None:
        self.name, self.values = name, values

    def on_exit_epoch(self, ctx):
        if ctx.epoch in self.values:
            ctx.log_metric(self.name, self.values[ctx.epoch], set="")


def test_one_line_per_row(tmp_path, points):
    "Each row is a line under its columns, numbers with all their digits; folders are made."
    path = tmp_path / "runs" / "one" / "log.csv"
    run = fit(points, CSVLogger(path), valid=0.3)

    assert read(path) == as_text(run.history)
    assert [float(line["valid_loss"]) for line in read(path)] == run.history["valid_loss"]


def test_rows_of_validations_within_an_epoch(tmp_path, points):
    "Rows that close no epoch are lines too, in order, and so is the part of an epoch that was stopped."
    path = tmp_path / "log.csv"
    run = fit(
        points,
        CSVLogger(path),
        valid=points,
        validate=st.Every(1, "steps"),
        dataloader_options={"batch_size": 8},
        max_steps=5,
    )

    assert len(run.history) == 5
    assert read(path) == as_text(run.history)


def test_a_new_column_is_added_to_the_file(tmp_path, points):
    "A column that comes later is in the header, and earlier lines leave it empty; columns logged after the row are there."
    path = tmp_path / "log.csv"
    run = fit(points, [CSVLogger(path), Logs("score", {2: 0.5}), Logs("other", {2: 1, 3: 2})])

    assert [(line["score"], line["other"]) for line in read(path)] == [
        ("", ""),
        ("0.5", "1"),
        ("", "2"),
    ]
    assert read(path) == as_text(run.history)
    assert [file.name for file in tmp_path.iterdir()] == ["log.csv"]


def test_the_file_is_whole_at_every_moment(tmp_path, points):
    "After each epoch the file has a line for it, ended, though the run is going on."
    path, lengths = tmp_path / "log.csv", []

    class Reads(st.Callback):
        def on_enter_epoch(self, ctx):
            lengths.append(len(read(path)) if path.exists() else 0)
            assert not path.exists() or path.read_text().endswith("\n")

    fit(points, [CSVLogger(path), Reads(), Logs("score", {2: 1.0})])

    assert lengths == [0, 1, 2]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx"])
def test_texts_are_no_formulas(text, tmp_path, points):
    "Texts that a spreadsheet would compute get an apostrophe, in the header too; negative numbers stay numbers."
    path = tmp_path / "log.csv"
    fit(
        points,
        [
            CSVLogger(path),
            Logs("note", {1: text, 2: text}),
            Logs("number", {1: -1.5}),
            Logs(text, {1: 'a, "b"\nc'}),
        ],
        epochs=2,
    )
    lines = read(path)

    assert [line["note"] for line in lines] == ["'" + text] * 2
    assert [line["number"] for line in lines] == ["-1.5", ""]
    # A name is on one line, so a tab in it is escaped
    name = "\\tx" if text == "\tx" else "'" + text
    assert [line[name] for line in lines] == ['a, "b"\nc', ""]


def test_a_fit_that_goes_on_adds_lines(tmp_path, points):
    "`run.fit` writes the new rows below the old ones."
    path = tmp_path / "log.csv"
    run = fit(points, CSVLogger(path), epochs=2).fit(2)

    assert read(path) == as_text(run.history)
    assert len(read(path)) == 4


def test_a_new_fit_replaces_the_file(tmp_path, points):
    "The same callback, and another one, begin the file anew."
    logger = CSVLogger(tmp_path / "log.csv")
    fit(points, logger)
    for again in (logger, CSVLogger(logger.path)):
        run = fit(points, again, epochs=1)
        assert read(logger.path) == as_text(run.history)


def test_appending_keeps_the_lines_of_other_runs(tmp_path, points):
    "With append=True the lines of both runs are there under the columns of both; a line that was cut short is dropped."
    path = tmp_path / "log.csv"
    first = fit(points, CSVLogger(path), epochs=2)
    with path.open("a") as file:
        file.write("3,6")
    second = fit(points, CSVLogger(path, append=True), valid=0.3, epochs=2)

    columns = [*first.history.columns, "valid_loss"]
    assert read(path) == as_text(first.history, columns) + as_text(second.history, columns)


def test_a_failure_leaves_what_was_recorded(tmp_path, points):
    "The row of the epoch in whose end the run fails is in the file."
    path = tmp_path / "log.csv"

    class Fails(st.Callback):
        def on_exit_epoch(self, ctx):
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more") as caught:
        fit(points, [CSVLogger(path), Fails()])

    assert read(path) == as_text(caught.value.run.history)
    assert len(read(path)) == 1


@pytest.mark.parametrize("append", [False, True])
def test_a_run_that_is_continued_takes_later_lines_back(append, tmp_path, points):
    "Lines that a process wrote after the point where its run is continued are written again, not twice."
    path = tmp_path / "log.csv"
    fit(points, CSVLogger(path), epochs=1)
    before = len(read(path)) if append else 0
    saved, state = CSVLogger(path, append=append), {}

    class Saves(st.Callback):
        def on_anchor(self, ctx):
            if ctx.state == "next_epoch" and ctx.epoch == 2:
                state.update(saved.wrapped.state_dict())

    run = fit(points, [saved, Saves()], epochs=3)
    assert len(read(path)) == before + 3
    ctx, loaded = run.ctx, CSVLogger(path, append=append)
    del ctx.history.rows[2:]
    ctx.epoch, ctx.max_epochs = 2, 4
    loaded.wrapped.load_state_dict(state)
    st.Machine(run.lifecycle, [loaded]).run(ctx, at="next_epoch")

    assert [line["epoch"] for line in read(path)] == ["1"] * (before > 0) + ["1", "2", "3", "4"]
    assert read(path)[before:] == as_text(ctx.history)


def test_an_evaluation_is_a_line(tmp_path, points):
    "`evaluate` writes its row."
    path = tmp_path / "log.csv"
    found = st.evaluate(nn.Linear(4, 3), points, loss=F.cross_entropy, callbacks=CSVLogger(path))

    assert [float(line["valid_loss"]) for line in read(path)] == [found["loss"]]


def test_a_path_that_cannot_be_written(tmp_path, points):
    "A folder, or a path below a file, is refused before training."
    (tmp_path / "file").write_text("")
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "file" / "log.csv", "file")):
        with pytest.raises(ConfigError, match=f"CSVLogger cannot write .*{message}") as caught:
            fit(points, CSVLogger(path))
        assert not hasattr(caught.value, "run")
