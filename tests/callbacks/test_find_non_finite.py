"""Which module a loss that is not finite comes from."""

from __future__ import annotations

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F

import statetrain as st

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
Y = torch.zeros(16, 1)


class Log(nn.Module):
    """NaN of what is negative."""

    def forward(self, x):
        return x.log()


class Rooted(nn.Linear):
    """Computes something of its own with what a layer returns."""

    def __init__(self):
        super().__init__(4, 1)

    def forward(self, x):
        return (super().forward(x) - 1e3).sqrt()


def net(*middle):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), *middle, nn.Linear(4, 1)
    )


def fit(model, data=(X, Y), *callbacks, **more):
    options = {"loss": F.mse_loss, "epochs": 2, "non_finite": "skip", "seed": 0, **more}
    return st.fit(
        model,
        data,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.01},
        dataloader_options={"batch_size": 4},
        callbacks=list(callbacks),
        **options,
    )


def found_in(model, data=(X, Y), **more):
    finder = st.FindNonFinite(times=1)
    fit(model, data, finder, **more)
    assert len(finder.found) == 1
    return finder.found[0]


def test_the_first_module_is_named(caplog):
    "The logarithm of negative numbers: not the layers after it, which return NaN too; and the log has it once."
    words = found_in(net(Log()), debug=True)
    assert words.startswith("the loss is nan (epoch 1, batch 1, step 0): ")
    assert words.endswith("that of '3' (Log); its input and its weights are finite")
    assert [one.getMessage() for one in caplog.records if "first output" in one.getMessage()] == [
        words
    ]


def test_weights_inputs_targets_and_the_loss_are_told_apart():
    "Each is found where it is; the outermost model is named if it has no parts."
    broken = net()
    with torch.no_grad():
        broken[3].weight[0, 0] = torch.inf
    assert found_in(broken).endswith(
        "'3' (Linear); its weight had values that are not finite before"
    )
    assert found_in(net(), (X.clone().fill_(torch.nan), Y)).endswith(
        "the input of the batch has values that are not finite"
    )
    assert found_in(net(), (X, Y * torch.nan)).endswith(
        "the model's output is finite, and the target is not"
    )
    assert found_in(net(), loss=lambda pred, target: (pred - target).sum() / 0).endswith(
        "so it is computed in the loss"
    )
    words = found_in(Rooted())
    assert "that of 'model' (Rooted); its input and its weights are finite" in words


def test_the_training_is_what_it_is_without():
    "Weights, statistics and generators, where some batches have a loss that is not finite."
    bad = X.clone()
    bad[::4] *= 1e30
    with_it = fit(
        net(), (bad, Y), st.FindNonFinite(), loss=lambda p, t: (p.square() * 1e30).square().mean()
    )
    without = fit(net(), (bad, Y), loss=lambda p, t: (p.square() * 1e30).square().mean())
    assert bits(with_it.model) == bits(without.model)


def test_nothing_is_said_where_all_is_finite(caplog):
    "And nothing is computed twice."
    finder = st.FindNonFinite()
    fit(net(), (X, Y), finder)
    assert finder.found == []


def test_it_is_asked_for_a_number_of_batches():
    "At least one."
    with pytest.raises(st.ConfigError, match="FindNonFinite: times"):
        st.FindNonFinite(0)
