"""Checkpoints that leave out frozen parameters."""

from __future__ import annotations

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.checkpoints import checkpoint


def net(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 3))
    model[0].requires_grad_(False)
    return model


class Dies(st.Callback):
    def __init__(self, step):
        self.step = step

    def on_exit_step(self, ctx):
        if ctx.step == self.step:
            raise OSError("lost")


def train(points, folder, *callbacks, model=None, **more):
    return st.fit(
        model or net(),
        points,
        loss=F.cross_entropy,
        optimizer=torch.optim.Adam,
        opt_hparams={"lr": 0.1},
        epochs=3,
        seed=1,
        dataloader_options={"batch_size": 8},
        callbacks=[
            *callbacks,
            st.Checkpoint(folder, st.Every(1, "steps"), trained_only=True, **more),
        ],
        resume="last",
    )


def weights_in(folder):
    [*_, newest] = sorted(folder.glob("step-*"))
    return set(checkpoint.read(newest)["model"]["weights"])


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("extra", [[], [st.EMA(0.5)]], ids=["alone", "average"])
def test_a_run_goes_on_exactly_without_them(background, extra, points, tmp_path):
    "Frozen parameters are in no checkpoint, and a run that was cut twice ends with the bits of one that was not."
    whole = train(points, tmp_path / "whole", *extra)
    for step in (2, 5):
        with pytest.raises(OSError, match="lost"):
            train(points, tmp_path / "cut", Dies(step), *extra, background=background)
        assert weights_in(tmp_path / "cut") == set(net().state_dict()) - {"0.weight", "0.bias"}
    again = train(points, tmp_path / "cut", *extra, background=background)
    assert bits(again.model) == bits(whole.model)
    assert not again.model[0].weight.requires_grad


def test_other_frozen_parameters_are_refused(points, tmp_path):
    "A model that has others is told by name, and nothing of it changes; weights can be loaded into one that has them."
    run = train(points, tmp_path)
    other = net(seed=3)
    before = bits(other)
    with pytest.raises(st.CheckpointError, match=r"0\.weight has other values; it was frozen"):
        train(points, tmp_path, model=other)
    assert bits(other) == before
    with pytest.raises(st.CheckpointError, match=r"does not suit .* 0\.weight has other values"):
        st.load_checkpoint(other, tmp_path)
    assert bits(other) == before
    same = net()
    st.load_checkpoint(same, tmp_path)
    assert bits(same) == bits(run.model)


def test_the_average_comes_out_of_it(points, tmp_path):
    "Put into a model with the same frozen parameters."
    train(points, tmp_path, ema := st.EMA(0.5))
    model = net()
    st.load_checkpoint(model, tmp_path, average=True)
    assert bits(model) == bits(ema.model)


def test_what_was_trained_before_is_kept(points, tmp_path):
    "A parameter that is trained first and frozen later is in every checkpoint, also after a resume."

    class FreezesLast(st.Callback):
        def on_enter_epoch(self, ctx):
            ctx.model[3].requires_grad_(ctx.epoch < 2)

    steps = len(points[0]) // 8
    whole = train(points, tmp_path / "whole", FreezesLast())
    for step in (steps + 1, 2 * steps + 1):
        with pytest.raises(OSError, match="lost"):
            train(points, tmp_path / "cut", FreezesLast(), Dies(step))
        assert "3.weight" in weights_in(tmp_path / "cut")
    assert bits(train(points, tmp_path / "cut", FreezesLast()).model) == bits(whole.model)
