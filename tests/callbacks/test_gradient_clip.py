"""`GradientClip` does what a loop with torch's own clipping does."""

from __future__ import annotations

import math

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

import statetrain as st
from statetrain.callbacks.gradient_clip import GradientClip
from statetrain.errors import ConfigError


def batches(data, size=8):
    return list(zip(*(column.split(size) for column in data), strict=True))


@pytest.mark.parametrize(
    ("callback", "clip"),
    [
        (GradientClip(max_norm=0.1), lambda p: clip_grad_norm_(p, 0.1)),
        (GradientClip(max_norm=1), lambda p: clip_grad_norm_(p, 1.0)),
        (GradientClip(max_norm=0.1, norm_type=1), lambda p: clip_grad_norm_(p, 0.1, 1.0)),
        (
            GradientClip(max_norm=0.1, norm_type=math.inf),
            lambda p: clip_grad_norm_(p, 0.1, math.inf),
        ),
        (GradientClip(max_value=0.01), lambda p: clip_grad_value_(p, 0.01)),
    ],
    ids=lambda value: repr(value) if isinstance(value, GradientClip) else "by hand",
)
def test_the_loop_written_by_hand(callback, clip, digits, cnn):
    "Weights and the optimizer's state are those of a loop that clips before each step; whole numbers are numbers."
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for x, y in batches(digits, 64):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        clip(model.parameters())
        optimizer.step()

    run = st.fit(
        cnn(),
        batches(digits, 64),
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.5, "momentum": 0.9},
        epochs=1,
        callbacks=callback,
    )

    assert bits(run.model, run.ctx.opt) == bits(model, optimizer)


def test_what_is_bounded_is_the_mean_of_a_window(points, net):
    "With accumulation the averaged gradients are clipped, once."
    norms = []

    class Norm(st.Callback):
        def on_enter_step(self, ctx):
            norms.append(ctx.accelerator.grad_norm(ctx.opt))

    before, after = Norm(), Norm()
    st.fit(
        net,
        batches(points),
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 1e-3},
        accumulate=2,
        epochs=1,
        callbacks=[before, GradientClip(max_norm=0.1), after],
    )

    assert len(norms) == 4  # two windows, of two batches and of one
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(0.1, rel=1e-4)


class Two(nn.Module):
    """Two layers, each of which has an optimizer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.first(x) + 10 * self.second(x)


def test_only_the_current_optimizers_gradients_are_looked_at(points):
    "With two optimizers, each one's gradients are bounded by their own norm."
    model = Two()
    optimizers = {
        name: torch.optim.SGD(getattr(model, name).parameters(), lr=0.1)
        for name in ("first", "second")
    }
    for x, y in batches(points):
        for name, optimizer in optimizers.items():
            part = list(getattr(model, name).parameters())
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward(inputs=part)
            clip_grad_norm_(part, 0.5)
            optimizer.step()

    run = st.fit(
        Two(),
        batches(points),
        loss=F.cross_entropy,
        optimizer={"first": torch.optim.SGD, "second": torch.optim.SGD},
        opt_hparams={"lr": 0.1},
        epochs=1,
        callbacks=GradientClip(max_norm=0.5),
    )

    assert bits(run.model) == bits(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "got neither"),
        ({"max_norm": 1.0, "max_value": 1.0}, "got both"),
        ({"max_norm": 0}, "max_norm must be a number above 0, got 0"),
        ({"max_norm": True}, "got True"),
        ({"max_norm": "1"}, "got '1'"),
        ({"max_value": math.nan}, "got nan"),
        ({"max_norm": 1, "norm_type": -2}, "norm_type must be a number above 0, got -2"),
    ],
)
def test_what_cannot_be_a_bound(arguments, message):
    "Bounds that make no sense are refused when the callback is made."
    with pytest.raises(ConfigError, match=message):
        GradientClip(**arguments)
