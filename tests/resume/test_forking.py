"""Several runs from one: each goes on from a checkpoint of a trunk, which stays as it is."""

from __future__ import annotations

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F

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
