"""`Watch` writes values down at an event, with all counters."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.errors import CallbackError


def fit(points, callbacks, **options):
    torch.manual_seed(0)
    common = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        "seed": 1,
    }
    return st.fit(
        nn.Linear(4, 3),
        points,
        callbacks=callbacks,
        dataloader_options={"batch_size": 8},
        **{**common, **options},
    )


def test_each_event_writes_its_values(points):
    "Functions and paths are read at the event; each record has the counters as they were."
    losses = []
    run = fit(
        points,
        [
            st.Watch("exit_loss", loss="loss", size=lambda ctx: ctx.batch_size),
            st.on("exit_loss")(lambda ctx: losses.append(ctx.loss.item())),
        ],
    )
    written = run.ctx.records
    assert [row["value"].item() for row in written["loss"]] == losses
    assert [row["value"] for row in written["size"]] == [8, 8, 6] * 2
    assert [
        (row["epoch"], row["batch"], row["step"], row["samples"]) for row in written["size"]
    ] == [
        (1, 1, 0, 8),
        (1, 2, 1, 16),
        (1, 3, 2, 22),
        (2, 4, 3, 30),
        (2, 5, 4, 38),
        (2, 6, 5, 44),
    ]
    assert all(row["seconds"] > 0 for row in written["size"])


def test_tensors_are_kept_as_they_were(points):
    "A weight that is written down does not change with the next step, and holds no graph."
    run = fit(points, st.Watch("enter_step", weight=lambda ctx: ctx.model.weight, pred="pred"))
    rows = run.ctx.records["weight"]
    assert not any(torch.equal(one["value"], other["value"]) for one, other in pairwise(rows))
    assert not any(
        row["value"].requires_grad for name in ("weight", "pred") for row in run.ctx.records[name]
    )


def test_at_intervals(points):
    "Under a throttle it writes every n-th time."
    run = fit(points, st.throttle(st.Watch("on_exit_step", step="step"), "on_exit_step", every=2))
    assert [row["value"] for row in run.ctx.records["step"]] == [2, 4, 6]


def test_a_run_that_is_continued_goes_on_writing(points, tmp_path):
    "The records are those of a run that was never cut."

    def values(run):
        return [
            {**row, "seconds": 0, "value": row["value"].item()} for row in run.ctx.records["loss"]
        ]

    def callbacks(name):
        return [st.Watch("exit_loss", loss="loss"), st.Checkpoint(tmp_path / name)]

    fit(points, callbacks("cut"), epochs=1)
    assert values(fit(points, callbacks("cut"), resume="last")) == values(
        fit(points, callbacks("whole"))
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: st.Watch("exit_step"), "nothing to write down"),
        (lambda: st.Watch("exit_step", loss=3), "loss must be a function of the context or a path"),
        (lambda: st.Watch(print, loss="loss"), "takes the name of an event"),
        (
            lambda: st.Machine(st.supervised(), st.Watch("exit_stpe", loss="loss")),
            "did you mean 'on_exit_step'",
        ),
    ],
)
def test_what_it_does_not_take(make, words):
    "Events and values are checked when it is made, and against the lifecycle when a machine is."
    with pytest.raises(CallbackError, match=words):
        make()


def test_a_path_that_cannot_be_read_is_told_by_its_name():
    "When it is made, as an error of the configuration."
    with pytest.raises(st.ConfigError, match=r"Watch: loss=: 'interms\.' is not a path"):
        st.Watch("exit_batch", loss="interms.")


@pytest.mark.parametrize("argument", ["pred", "size", "input", "target"])
def test_so_is_one_that_says_how_batches_are_read(points, argument):
    "Of `fit` and `evaluate`."
    with pytest.raises(st.ConfigError, match=r"'a\[' is not a path"):
        fit(points, [], **{argument: "a["})
    with pytest.raises(st.ConfigError, match=r"'a\[' is not a path"):
        st.evaluate(nn.Linear(4, 3), points, loss=F.cross_entropy, **{argument: "a["})
