"""Columns of the history from sources: norms of gradients, speed, memory, rates."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.testing import assert_resumable
from statetrain.testing.fake_clock import FakeClock

X = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(dim=1, keepdim=True)
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 32, 8)]


def net():
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def fit(train=BATCHES, **more):
    options = {"epochs": 2, "optimizer": torch.optim.SGD, "opt_hparams": {"lr": 0.1}, **more}
    return st.fit(net(), train, loss=F.mse_loss, **options)


def norms_by_hand(epochs=2, clip=None):
    """The norm of all gradients in each step of a loop by hand."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    for x, y in BATCHES * epochs:
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        norms.append(float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm()))
        optimizer.step()
    return norms


@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_row_has_the_mean_of_the_norms_of_its_steps(clip):
    "Eight steps by hand, also clipped: the two rows are the means of four each."
    more = [] if clip is None else [st.GradientClip(clip)]
    run = fit(callbacks=[st.Columns(st.GradientNorm()), *more], debug=True)
    norms = norms_by_hand(clip=clip)
    means = [sum(norms[:4]) / 4, sum(norms[4:]) / 4]
    assert run.history["gradient_norm"] == pytest.approx(means)


def test_a_logger_has_the_norm_of_the_step_at_which_it_is_due(tmp_path):
    "The third and the sixth of eight."
    path = tmp_path / "log.jsonl"
    logger = st.Logger(st.JSONLines(path), what=st.GradientNorm(), every=st.Every(3, "steps"))
    fit(callbacks=logger)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = [row["gradient_norm"] for row in rows if "gradient_norm" in row]
    norms = norms_by_hand()
    assert found == pytest.approx([norms[2], norms[5]])


def test_the_speed_is_that_since_the_row_before():
    "A clock that goes on by the samples' number in each batch, twice as slowly in the second epoch."
    clock = FakeClock()

    @st.on("enter_step")
    def work(ctx):
        clock.advance(8 / 4 * ctx.epoch)  # four samples a second, then two

    run = fit(clock=clock, callbacks=[work, st.Columns(st.Throughput(tokens=10))])
    assert run.history["samples_per_second"] == pytest.approx([4.0, 2.0])
    assert run.history["tokens_per_second"] == pytest.approx([40.0, 20.0])


def test_rates_and_memory_are_columns_that_plots_and_frames_have():
    "The rate as it is set; the memory is that of the process, in MiB."
    run = fit(callbacks=st.Columns(st.LearningRate(), st.Memory()))
    assert run.history["lr"] == [0.1, 0.1]
    assert all(20 < value < 1e6 for value in run.history["peak_memory"])
    names = {row["metric"] for row in run.history.table()}
    assert {"lr", "peak_memory", "loss"} == names


def test_it_is_resumed_exactly():
    "A run that is cut within an epoch has the same mean norms."
    assert_resumable(
        lambda: fit(
            (X, Y),
            seed=1,
            dataloader_options={"batch_size": 8},
            callbacks=st.Columns(st.GradientNorm(), st.Throughput(), st.Memory()),
            start=False,
        )
    )


def test_a_source_of_your_own_says_its_columns():
    "A guard monitors the column; a function that does not say so is refused, as a class is."

    def largest(ctx):
        return {"largest": float(ctx.model.weight.abs().max())}

    with pytest.raises(st.ConfigError, match="an attribute: function"):
        st.Columns(largest)
    with pytest.raises(st.ConfigError, match="which columns they give"):
        st.Columns(st.GradientNorm)
    with pytest.raises(st.ConfigError, match="nothing to add"):
        st.Columns()
    largest.columns = ("largest",)
    run = fit(callbacks=st.Columns(largest), stop=st.Threshold("largest", 0.0, mode="max"))
    assert run.history["largest"][0] > 0
    assert isinstance(run.outcome, st.Stopped)


@pytest.mark.parametrize("tokens", [0, "512", True])
def test_tokens_of_a_sample_are_a_number(tokens):
    "What to do where samples differ is said."
    with pytest.raises(st.ConfigError, match="how many a sample has"):
        st.Throughput(tokens=tokens)
