"""Values that are logged in batches, as means in the rows of the history."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.testing import assert_resumable

X = torch.arange(10.0)[:, None]
COMMON = {"loss": F.mse_loss, "optimizer": torch.optim.SGD, "opt_hparams": {"lr": 0.001}}


class Largest(st.Callback):
    """The largest input of a batch, in training and in validation."""

    reads = ("input", "batch_size")
    writes = ("history.train_largest", "history.valid_largest", "history.batches")

    def on_exit_loss(self, ctx):
        ctx.log_mean("largest", ctx.input.max())
        ctx.log_mean("batches", 1.0, set="", weight=1)

    def on_exit_valid_loss(self, ctx):
        ctx.log_mean("largest", ctx.input.max())


def fit(train, valid=None, **more):
    options = {"epochs": 2, "callbacks": Largest(), **more}
    torch.manual_seed(0)
    return st.fit(nn.Linear(1, 1), train, valid=valid, **COMMON, **options)


def test_it_is_the_mean_over_samples():
    "Batches of 4, 4 and 2: (3 * 4 + 7 * 4 + 9 * 2) / 10, in each row, as any metric is."
    batches = [(X[i : i + 4], X[i : i + 4]) for i in range(0, 10, 4)]
    run = fit(batches, valid=batches[:2], debug=True)
    assert run.history["train_largest"] == pytest.approx([5.8, 5.8])
    assert run.history["valid_largest"] == pytest.approx([5.0, 5.0])
    assert run.history["batches"] == [1.0, 1.0]
    as_metric = fit(
        batches, callbacks=(), train_metrics={"largest": st.Metric(lambda x: x.max(), x="input")}
    )
    assert run.history["train_largest"] == as_metric.history["train_largest"]


def test_a_row_has_what_came_since_the_row_before():
    "With rows every second step, each has the mean of its own batches, and guards read it."
    batches = [(X[i : i + 2], X[i : i + 2]) for i in range(0, 8, 2)]
    run = fit(
        batches,
        edits=st.record_every(2, "steps"),
        stop=st.Threshold("train_largest", 6, mode="max", prompt=True),
    )
    assert run.history["train_largest"] == [2.0, 6.0]


def test_it_is_resumed_exactly():
    "A run that is cut between two batches has the same means."
    assert_resumable(lambda: fit((X, X), seed=1, dataloader_options={"batch_size": 3}, start=False))


def test_columns_that_are_not_declared_are_refused_in_debug_mode():
    "As for log_metric."

    class Undeclared(Largest):
        writes = ("history.train_largest",)

    with pytest.raises(st.ContractError, match=r"writes 'history\.batches'"):
        fit((X, X), callbacks=Undeclared(), debug=True)


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (lambda ctx: ctx.log_mean("loss", 1.0), "log_mean: the column 'train_loss' is written"),
        (lambda ctx: ctx.log_mean("x", torch.ones(3)), r"takes one number, got .* shape \(3,\)"),
    ],
)
def test_what_is_no_mean_is_refused(log, message):
    "A column of the run, and a vector."
    with pytest.raises(st.MachineError, match=message):
        fit((X, X), callbacks=st.on("exit_loss")(log))


def test_outside_of_a_set_it_wants_one():
    "It says which words to give."
    with pytest.raises(st.MachineError, match="outside train and valid; say set='train'"):
        fit((X, X), callbacks=st.on("exit_epoch")(lambda ctx: ctx.log_mean("x", 1.0)))
