"""`on` makes callbacks of functions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.errors import CallbackError


def fit(points, callbacks):
    return st.fit(
        nn.Linear(4, 3),
        points,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=2,
        callbacks=callbacks,
    )


def test_a_function_is_called_at_its_event(points):
    "It listens as a method of that name would, under its own name, and can still be called."
    seen = []

    @st.on("exit_epoch", "enter_fit")
    def note(ctx):
        "writes it down"
        seen.append((ctx.state, ctx.epoch))

    run = fit(points, [note])
    assert seen == [("fit", 0), ("next_epoch", 1), ("next_epoch", 2)] or [
        epoch for _, epoch in seen
    ] == [0, 1, 2]
    assert "callbacks note" in repr(run.machine)
    assert note.__doc__ == "writes it down"
    assert repr(note) == "<callback 'note' on exit_epoch, enter_fit>"
    note(run.ctx)
    assert len(seen) == 4


def test_it_declares(points):
    "What it reads, writes and monitors is checked as of any callback."
    writer = st.on("enter_record", writes={"history.score"})(
        lambda ctx: ctx.log_metric("score", 1.0, set="")
    )
    reader = st.on("exit_epoch", monitors={"score"})(lambda ctx: None)
    assert fit(points, [writer, reader]).history["score"] == [1.0, 1.0]
    with pytest.raises(st.ConfigError, match="score"):
        fit(points, [reader])


def test_names_are_hooks(points):
    "Full names of hooks and luz's names are taken too; an unknown state is an error that names the function."
    heard = []
    fit(
        points,
        [
            st.on("on_exit_epoch")(lambda ctx: heard.append("e")),
            st.on("epoch_end")(lambda ctx: heard.append("l")),
        ],
    )
    assert heard == ["e", "l"] * 2

    def shout(ctx):
        raise AssertionError("never called")

    with pytest.raises(
        CallbackError, match=r"Callback 'shout' has 'on_exit_epohc'.*did you mean 'on_exit_epoch'"
    ):
        fit(points, [st.on("exit_epohc")(shout)])


def test_an_error_names_the_function(points):
    "The note on what it raised says which function it was."

    @st.on("exit_step")
    def broken(ctx):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as raised:
        fit(points, broken)
    assert "the hook broken.on_exit_step" in raised.value.__notes__[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: st.on(print),
        lambda: st.on(),
        lambda: st.on("exit_step")(3),
        lambda: st.on("exit_step")(st.Log),
    ],
)
def test_what_it_does_not_take(make):
    "Events are names, and what is decorated is a function."
    with pytest.raises(CallbackError):
        make()
