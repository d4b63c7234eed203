"""Several runs from one: each goes on from a checkpoint of a trunk, which stays as it is."""

from __future__ import annotations

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import statetrain as st


def fit(points, **more):
    torch.manual_seed(0)
    return st.fit(
        nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 3)),
        points,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1, "momentum": 0.9},
        dataloader_options={"batch_size": 4},
        seed=0,
        **more,
    )


def cooling(start):
    """The trunk's rate up to a step, then down to 0 in four."""
    return lambda step: 0.1 * min(1.0, max(0.0, 1 - (step - start) / 4))


@pytest.fixture
def trunk(points, tmp_path, monkeypatch):
    """A run of 24 steps with checkpoints at each fifth."""
    monkeypatch.chdir(tmp_path)
    five = st.Every(5, "steps")
    saving = st.Checkpoint("trunk", five, keep_every=five, monitor="train_loss")
    return fit(points, epochs=4, callbacks=saving)


@pytest.mark.parametrize("start", [5, 10, 15])
def test_each_cool_down_is_the_run_that_had_its_schedule_from_the_start(start, points, trunk):
    "Bit for bit; the trunk's checkpoints are the same files as before."
    before = {path: path.stat() for path in trunk.machine.callbacks[0].folder.rglob("*.*")}
    run = fit(
        points,
        epochs=None,
        max_steps=start + 4,
        resume=f"trunk/step-{start}",
        allow_changes=["callbacks", "lifecycle"],
        callbacks=[st.Schedule("opt.lr", cooling(start)), st.Checkpoint(f"end-{start}")],
    )
    straight = fit(
        points,
        epochs=None,
        max_steps=start + 4,
        callbacks=st.Schedule("opt.lr", cooling(start)),
    )
    assert run.ctx.step == start + 4
    assert bits(run.model) == bits(straight.model)
    after = {path: path.stat() for path in trunk.machine.callbacks[0].folder.rglob("*.*")}
    assert {path: stat.st_mtime_ns for path, stat in before.items()} == {
        path: stat.st_mtime_ns for path, stat in after.items()
    }


def test_the_best_and_the_last_of_a_directory_have_names(points, trunk):
    "As words after its path; a step that was not saved is an error that lists those that were."
    for word in ("best", "last"):
        run = fit(points, epochs=4, resume=f"trunk/{word}", callbacks=st.Checkpoint("other"))
        assert bits(run.model) == bits(trunk.model)
    own = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 3))
    st.load_checkpoint(own, "trunk/last")
    assert bits(own) == bits(trunk.model)
    with pytest.raises(st.CheckpointError, match=r"no checkpoint of step 7 .* the steps .*20"):
        fit(points, epochs=4, resume="trunk/step-7")
    with pytest.raises(st.ConfigError, match="there is no checkpoint"):
        fit(points, epochs=4, resume="trunk/step-x")


# ---------------------------------------------------------------- run.fork


def straight_to(points, start):
    """The run that had the cool-down's schedule from the start."""
    return fit(
        points, epochs=None, max_steps=start + 4, callbacks=st.Schedule("opt.lr", cooling(start))
    )


def test_forks_of_a_run_are_the_runs_that_had_their_schedule_from_the_start(points, trunk):
    "Bit for bit, from several anchors; the trunk's weights, optimizer, history and files stay."
    model, rows = bits(trunk.model), list(trunk.history)
    before = {
        path: path.stat().st_mtime_ns for path in trunk.ctx.arguments["callbacks"].folder.rglob("*")
    }
    for start in (5, 10, 15):
        saving = st.Checkpoint(f"end-{start}")
        run = trunk.fork(
            start,
            epochs=None,
            max_steps=start + 4,
            callbacks=[st.Schedule("opt.lr", cooling(start)), saving],
        )
        assert bits(run.model) == bits(straight_to(points, start).model)
        again = run.fork(epochs=None, max_steps=start + 5)  # a fork of the fork's last
        assert again.ctx.step == start + 5
    assert bits(trunk.model) == model
    assert list(trunk.history) == rows
    after = {
        path: path.stat().st_mtime_ns for path in trunk.ctx.arguments["callbacks"].folder.rglob("*")
    }
    assert after == before


def test_a_fork_walks_a_table_of_its_own(points, trunk):
    "It has the options in it; here two batches make a step, as with accumulate= in a fit that resumes."
    life = st.supervised(accumulate=2, validate=None, max_steps=12)
    run = trunk.fork(10, lifecycle=life, epochs=9)
    resumed = fit(
        points,
        epochs=9,
        max_steps=12,
        accumulate=2,
        resume="trunk/step-10",
        allow_changes="lifecycle",
    )
    assert run.ctx.batches == 10 + 2 * 2
    assert bits(run.model) == bits(resumed.model)


def test_a_fork_of_a_run_with_an_optimizer_that_was_made(points, tmp_path, monkeypatch):
    "Its copy begins with the settings that the optimizer was given, not with those it ended with."
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    halving = st.Schedule("opt.lr", lambda step: 0.1 * 0.5**step)

    def train(**more):
        given = {"loss": F.cross_entropy, "epochs": 2, "seed": 0}
        return st.fit(model, points, optimizer=optimizer, **given, **more)

    one = st.Every(1, "epochs")
    trunk = train(callbacks=[halving, st.Checkpoint("trunk", keep_every=one)])
    ended, steps = bits(model), trunk.ctx.step
    schedule = st.Schedule("opt.lr", lambda step: 0.1 * 0.5**step)
    assert bits(trunk.fork(steps // 2, callbacks=schedule).model) == ended
    assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5**steps
    assert bits(model) == ended


def test_what_cannot_be_forked_is_refused(points, trunk, tmp_path):
    "A run without checkpoints, a step that was not saved, a run that fit did not make, other data."
    plain = fit(points, epochs=1)
    with pytest.raises(st.ConfigError, match=r"fork\(at=3\): this run has no Checkpoint"):
        plain.fork(3)
    with pytest.raises(st.CheckpointError, match="no checkpoint of step 7"):
        trunk.fork(7)
    with pytest.raises(st.ConfigError, match="leave resume= out"):
        trunk.fork(5, resume="last")
    plain.ctx.clean()
    with pytest.raises(st.ConfigError, match="fork takes a run that fit made"):
        plain.fork(5)
    with pytest.raises(st.CheckpointError, match="lr"):
        trunk.fork(5, opt_hparams={"lr": 0.2, "momentum": 0.9})
    run = trunk.fork(
        5, opt_hparams={"lr": 0.2, "momentum": 0.9}, allow_changes="optimizer", epochs=1
    )
    assert run.ctx.opt.param_groups[0]["lr"] == 0.2


def test_a_model_that_holds_computed_weights_is_forked(points, tmp_path):
    "A pruned layer keeps its masked weights, with their graph, which torch's deep copy refuses."
    torch.manual_seed(0)
    model = prune.l1_unstructured(nn.Linear(4, 3), "weight", amount=0.5)
    common = {"loss": F.cross_entropy, "optimizer": torch.optim.SGD, "seed": 0, "verbose": False}
    saving = st.Checkpoint(tmp_path / "trunk", st.Every(2, "steps"))
    trunk = st.fit(model, points, epochs=2, callbacks=saving, **common)
    before = bits(trunk.model)
    forked = trunk.fork("last", epochs=3)
    torch.manual_seed(0)
    twin = prune.l1_unstructured(nn.Linear(4, 3), "weight", amount=0.5)
    straight = st.fit(twin, points, epochs=3, **common)
    assert bits(forked.model) == bits(straight.model)
    assert bits(trunk.model) == before
