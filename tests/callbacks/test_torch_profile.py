"""torch's profiler on a schedule of batches."""

from __future__ import annotations

import json

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F

import statetrain as st


def fit(points, callbacks=(), **more):
    torch.manual_seed(0)
    return st.fit(
        nn.Linear(4, 3),
        points,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        dataloader_options={"batch_size": 2},
        callbacks=callbacks,
        seed=0,
        **more,
    )


def test_each_cycle_is_a_file_of_its_batches(points, tmp_path):
    "Of eleven batches, 3 and 4, then 7 and 8 are recorded: each file has two calls of the loss; the weights are the same."
    profile = st.TorchProfile(tmp_path / "out", wait=1, warmup=1, active=2, repeat=2)
    run = fit(points, profile, epochs=1)
    assert run.ctx.batches == 11
    assert [path.name for path in profile.files] == ["batch-4.json", "batch-8.json"]
    for path in profile.files:
        events = json.loads(path.read_text())["traceEvents"]
        assert sum(event["name"] == "aten::cross_entropy_loss" for event in events) == 2
    assert "aten::cross_entropy_loss" in profile.table
    assert bits(run.model) == bits(fit(points, epochs=1).model)


def test_it_ends_with_a_run_that_fails(points, tmp_path):
    "The profiler is stopped, so another run may have one."
    failing = st.on("enter_step")(lambda ctx: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fit(points, [st.TorchProfile(tmp_path), failing], epochs=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"active": 0}, "TorchProfile: active must be a whole number"),
        ({"wait": -1}, "TorchProfile: wait"),
        ({"schedule": None}, "TorchProfile sets schedule itself"),
    ],
)
def test_cycles_that_are_none_are_refused(given, message, tmp_path):
    "Before anything runs."
    with pytest.raises(st.ConfigError, match=message):
        st.TorchProfile(tmp_path, **given)
