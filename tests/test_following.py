"""The checkpoints of a run, evaluated as they are written."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.commands.cli import main

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(dim=1) > 0).long()


def fit(folder, **more):
    torch.manual_seed(0)
    options = {
        "epochs": 3,
        "callbacks": st.Checkpoint(folder, keep_every=st.Every(1, "epochs")),
        **more,
    }
    return st.fit(
        nn.Linear(4, 2), (X, Y), loss=F.cross_entropy, optimizer=torch.optim.Adam, seed=0, **options
    )


def loss_of(path):
    """The loss of a checkpoint's weights on the data."""
    model = nn.Linear(4, 2)
    st.load_checkpoint(model, path)
    return {"test_loss": st.evaluate(model, (X, Y), loss=F.cross_entropy)["loss"]}


def test_each_checkpoint_has_a_row(tmp_path):
    "Of each epoch, the loss that its weights have, with its counters; in the file they are the same; and no second time."
    expected = []

    @st.on("exit_epoch")
    def note(ctx):
        pred = ctx.model(X)
        expected.append(F.cross_entropy(pred, Y).item())

    fit(tmp_path, callbacks=[st.Checkpoint(tmp_path, keep_every=st.Every(1, "epochs")), note])
    rows = list(st.evaluate_checkpoints(tmp_path, loss_of))
    assert [(row["epoch"], row["step"]) for row in rows if row["step"]] == [(1, 1), (2, 2), (3, 3)]
    assert [row["test_loss"] for row in rows if row["step"]] == pytest.approx(expected)
    written = [
        json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()
    ]
    assert written == rows
    assert list(st.evaluate_checkpoints(tmp_path, loss_of)) == []


def test_it_follows_a_run_until_that_has_ended(tmp_path):
    "While it waits, the run goes on: for an epoch, then to its end. Each epoch has a row."
    run = fit(tmp_path, start=False)
    steps = run.steps()
    next(steps)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 1:
            steps.until(lambda ctx: ctx.epoch == 2)
        else:
            steps.finish()

    rows = list(st.evaluate_checkpoints(tmp_path, loss_of, follow=True, sleep=wait))
    assert run.outcome.ok
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert len(waits) == 2


def test_a_checkpoint_that_is_deleted_meanwhile_has_no_row(tmp_path):
    "The others have theirs; an error of the function while the checkpoint is there is an error."
    import shutil

    fit(tmp_path)

    def deleting(path):
        if "00000002" in path.name:
            shutil.rmtree(path)
        return loss_of(path)

    steps = [row["step"] for row in st.evaluate_checkpoints(tmp_path, deleting)]
    assert 2 not in steps
    assert 3 in steps

    def failing(path):
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        list(st.evaluate_checkpoints(tmp_path, failing, file=tmp_path / "other.jsonl"))


def test_what_it_cannot_use_is_refused(tmp_path):
    "No directory, a file of something else, values without names."
    with pytest.raises(st.ConfigError, match="is not a directory"):
        list(st.evaluate_checkpoints(tmp_path / "nowhere", loss_of))
    fit(tmp_path)
    (tmp_path / "notes").write_text("hello")
    with pytest.raises(st.ConfigError, match="something else than rows"):
        list(st.evaluate_checkpoints(tmp_path, loss_of, file=tmp_path / "notes"))
    with pytest.raises(st.ConfigError, match="values by name"):
        list(st.evaluate_checkpoints(tmp_path, lambda path: 0.3))


def test_the_command_prints_the_rows(tmp_path, monkeypatch, capsys):
    "`statetrain evaluate module:function folder`; a name that is not there is an error that says so."
    fit(tmp_path / "run")
    (tmp_path / "judging_it.py").write_text(
        "def score(path):\n    return {'length': len(path.name)}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "judging_it:score", "run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines] == ["length 24"] * len(lines)
    assert lines
    assert main(["evaluate", "judging_it:scor", "run"]) == 2
    assert "did you mean 'score'" in capsys.readouterr().err
