"""Limits and looks: fewer batches, rows within an epoch, a row before the training."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.testing import assert_resumable

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(dim=1, keepdim=True)
BATCHES = [(X[i : i + 4], Y[i : i + 4]) for i in range(0, 40, 4)]  # ten


def net():
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def fit(train=BATCHES, **more):
    options = {"epochs": 2, "optimizer": torch.optim.SGD, "opt_hparams": {"lr": 0.05}, **more}
    return st.fit(options.pop("model", None) or net(), train, loss=F.mse_loss, **options)


def by_hand(batches, epochs=2, window=1):
    """The weights of a loop over batches, with a step for each window of them."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(epochs):
        for start in range(0, len(batches), window):
            part = batches[start : start + window]
            optimizer.zero_grad()
            for x, y in part:
                F.mse_loss(model(x), y).backward()
            for p in model.parameters():
                p.grad /= len(part)
            optimizer.step()
    return model


def assert_same(model, other):
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


# ---------------------------------------------------------------- limit


@pytest.mark.parametrize("data", [BATCHES, lambda: iter(BATCHES)], ids=["a list", "no length"])
@pytest.mark.parametrize("window", [1, 2])
def test_a_limited_epoch_is_one_over_its_first_batches(data, window):
    "Three of ten batches, also in windows of two, the last of which is short: a loop over three."
    run = fit(data, edits=st.limit(train=3), accumulate=window)
    assert_same(run.model, by_hand(BATCHES[:3], window=window))
    assert [row["batch"] for row in run.history] == [3, 6]
    assert all(row["epoch_complete"] for row in run.history)


def test_a_limited_validation_is_one_over_its_first_batches():
    "The loss is that of two batches; that of an evaluation, too."
    run = fit(
        valid=BATCHES,
        edits=st.limit(train=1, valid=2),
        evaluations=st.Evaluation("test", BATCHES[4:]),
        epochs=1,
    )
    with torch.no_grad():
        of_two = F.mse_loss(run.model(X[:8]), Y[:8])
        others = F.mse_loss(run.model(X[16:24]), Y[16:24])
    assert run.history[-1]["valid_loss"] == pytest.approx(float(of_two))
    assert run.history[-1]["test_loss"] == pytest.approx(float(others))
    assert run.history[-1]["epoch_complete"]


def test_a_limit_above_the_data_changes_nothing():
    "Twenty of ten batches are ten."
    run = fit(valid=BATCHES, edits=st.limit(train=20, valid=20))
    assert_same(run.model, by_hand(BATCHES))
    assert len(run.history) == 2


def test_schedules_that_take_the_whole_run_take_the_limited_one():
    "Two epochs of three batches are six steps: the last rate of a line to zero over them is a sixth."
    rates = st.Watch("exit_step", rate=lambda ctx: ctx.opt.param_groups[0]["lr"])
    schedule = st.Schedule("opt.lr", st.schedules.linear(0.6, 0.0))
    run = fit(edits=st.limit(train=3), callbacks=[schedule, rates])
    values = [record["value"] for record in run.ctx.records["rate"]]
    assert values == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize("more", [{}, {"accumulate": 2}, {"validate": st.Every(2, "steps")}])
def test_a_limited_run_resumes_exactly(more):
    "Cut at each anchor, it is the run that was not cut."
    assert_resumable(
        lambda: fit(
            (X, Y),
            start=False,
            valid=0.25,
            seed=3,
            dataloader_options={"batch_size": 4},
            edits=[st.limit(train=3, valid=2), st.validate_first, st.record_every(2, "steps")],
            **more,
        )
    )


def test_a_limit_says_so_in_the_table():
    "The arrows that leave the rest out are in the table, with their guards."
    life = st.limit(train=3, valid=1)(st.supervised())
    added = {str(arrow) for arrow in life.transitions} - {
        str(arrow) for arrow in st.supervised().transitions
    }
    assert added == {
        "next_batch -> draw [3 batches drawn] / leave the rest of the data out",
        "next_valid_batch -> valid_draw [1 batch drawn] / leave the rest of the data out",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to limit"),
        ({"train": 0}, "limit: train must be a whole number of batches"),
        ({"valid": 1.5}, "limit: valid must be a whole number of batches"),
    ],
)
def test_limits_that_are_none_are_refused(given, message):
    "Before anything is made."
    with pytest.raises(st.ConfigError, match=message):
        st.limit(**given)


def test_a_limit_of_what_is_not_there_is_refused():
    "Without validation data, valid= would not be used."
    with pytest.raises(st.ConfigError, match="nothing called 'valid', so valid=2 would not be"):
        fit(edits=st.limit(valid=2))
    more = {"valid": BATCHES, "evaluations": st.Evaluation("test", BATCHES)}
    with pytest.raises(st.ConfigError, match="did you mean 'test'"):
        fit(edits=st.limit(tests=2), **more)


def test_evaluations_have_limits_of_their_own():
    "By name; one that is not named has the validation's; with a row before the training, too."
    more = {
        "valid": BATCHES,
        "evaluations": [st.Evaluation("test", BATCHES), st.Evaluation("other", BATCHES)],
        "epochs": 0,
    }
    run = fit(edits=[st.validate_first, st.limit(valid=2, test=3)], **more)
    losses = [F.mse_loss(net()(X[:n]), Y[:n]).item() for n in (8, 12, 8)]
    row = run.history[0]
    assert [row["valid_loss"], row["test_loss"], row["other_loss"]] == pytest.approx(losses)
    run = fit(edits=[st.validate_first, st.limit(test=3)], **more)
    assert run.history[0]["valid_loss"] == pytest.approx(F.mse_loss(net()(X), Y).item())


# ---------------------------------------------------------------- rows within an epoch


def test_rows_within_an_epoch_have_the_mean_since_the_row_before():
    "Each row's loss is the mean over its four batches, computed by hand; the weights stay the same."
    run = fit(edits=st.record_every(4, "steps"))
    assert_same(run.model, by_hand(BATCHES))
    assert [row["step"] for row in run.history] == [4, 8, 10, 12, 16, 20]
    assert [row["epoch_complete"] for row in run.history] == [False, False, True] * 2
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for x, y in BATCHES:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    means = [sum(losses[a:b]) / (b - a) for a, b in ((0, 4), (4, 8), (8, 10))]
    assert run.history["train_loss"][:3] == pytest.approx(means)
    assert run.history[2]["epoch_train_loss"] == pytest.approx(sum(losses) / 10)


def test_a_row_that_a_validation_has_written_is_not_written_again():
    "Validation every four steps, rows every two: a row at each second step, and one at the epoch's end."
    run = fit(
        valid=BATCHES[:1],
        validate=st.Every(4, "steps"),
        edits=st.record_every(2, "steps"),
        epochs=1,
    )
    assert [(row["step"], "valid_loss" in row) for row in run.history] == [
        *((2, False), (4, True), (6, False), (8, True), (10, False))
    ]


@pytest.mark.parametrize("unit", ["batches", "steps", "samples"])
def test_rows_by_other_counters(unit):
    "Every two steps, four batches, or sixteen samples, in windows of two batches: the same rows."
    n = {"batches": 4, "steps": 2, "samples": 16}[unit]
    run = fit(edits=st.record_every(n, unit), accumulate=2, epochs=1)
    assert [row["step"] for row in run.history] == [2, 4, 5]


def test_a_prompt_guard_reads_the_running_mean():
    "A run ends within its epoch, at the first row whose mean loss is below the threshold."
    whole = fit(edits=st.record_every(2, "steps"), epochs=3)
    below = [row["train_loss"] for row in whole.history]
    limit = (below[6] + below[7]) / 2
    first = next(i for i, value in enumerate(below) if value < limit)
    run = fit(
        edits=st.record_every(2, "steps"),
        epochs=3,
        stop=st.Threshold("train_loss", limit, prompt=True),
    )
    assert run.history[-1]["step"] == whole.history[first]["step"]
    assert isinstance(run.outcome, st.Stopped)


# ---------------------------------------------------------------- before the training


def test_a_run_validates_before_it_trains():
    "The first row is that of epoch 0, with the loss of the untrained model; the training is as without."
    before = F.mse_loss(net()(X), Y).item()
    run = fit(valid=BATCHES, edits=st.validate_first)
    first, *others = run.history
    assert (first["epoch"], first["step"], first["valid_loss"]) == (0, 0, pytest.approx(before))
    assert "train_loss" not in first
    assert [row["epoch"] for row in others] == [1, 2]
    assert_same(run.model, by_hand(BATCHES))


def test_evaluations_of_the_training_are_in_the_first_row_and_those_of_its_end_are_not():
    "Two sets in one row, in order; a third one is looked at when the training ends."
    run = fit(
        valid=BATCHES,
        edits=st.validate_first,
        evaluations=[
            st.Evaluation("test", BATCHES[:2], st.Every(2, "epochs")),
            st.Evaluation("final", BATCHES[:1], "end"),
        ],
    )
    columns = [{name for name in row if name.endswith("_loss")} for row in run.history]
    assert columns == [
        {"valid_loss", "test_loss"},
        {"train_loss", "valid_loss"},
        {"train_loss", "valid_loss", "test_loss", "final_loss"},
    ]


def test_a_run_that_is_continued_does_not_validate_first_again():
    "Two epochs and one more: one row of epoch 0."
    run = fit(valid=BATCHES, edits=st.validate_first)
    run.fit(epochs=1)
    assert [row["epoch"] for row in run.history] == [0, 1, 2, 3]


def test_callbacks_take_the_first_row_for_what_it_is():
    "Weights that only get worse: the best are those before the training. No schedule moves for it."
    callbacks = [
        st.KeepBest("valid_loss"),
        st.LRScheduler(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5, per="epoch"),
        st.Watch("exit_step", rate=lambda ctx: ctx.opt.param_groups[0]["lr"]),
    ]
    run = fit(
        BATCHES[:1],
        valid=BATCHES,
        edits=st.validate_first,
        opt_hparams={"lr": 1e3},
        callbacks=callbacks,
    )
    assert_same(run.model, net())
    assert [record["value"] for record in run.ctx.records["rate"]] == [1e3, 5e2]


def test_what_evaluates_nothing_cannot_validate_first():
    "It says what to give."
    with pytest.raises(st.ConfigError, match="evaluates nothing while it trains; give valid="):
        fit(edits=st.validate_first)


# ---------------------------------------------------------------- windows


def test_a_short_last_window_is_dropped_if_asked():
    "Of ten batches in windows of four, by hand over the first eight: the same weights; the row has the loss of all ten."
    run = fit(accumulate=4, edits=st.whole_windows)
    assert_same(run.model, by_hand(BATCHES[:8], window=4))
    assert (run.ctx.step, run.ctx.batches) == (4, 20)
    assert [row["samples"] for row in run.history] == [40, 80]
    assert all(row["epoch_complete"] for row in run.history)


def test_schedules_know_how_many_steps_whole_windows_make():
    "Two epochs of two steps each."
    rates = st.Watch("exit_step", rate=lambda ctx: ctx.opt.param_groups[0]["lr"])
    schedule = st.Schedule("opt.lr", st.schedules.linear(0.4, 0.0))
    run = fit(accumulate=4, edits=st.whole_windows, callbacks=[schedule, rates])
    assert [one["value"] for one in run.ctx.records["rate"]] == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_whole_windows_need_windows():
    "It says which option makes them."
    with pytest.raises(st.ConfigError, match="accumulates nothing; give accumulate="):
        fit(edits=st.whole_windows)


# ---------------------------------------------------------------- with other options


@pytest.mark.parametrize(
    "more",
    [
        {"finite_check": "late", "non_finite": "skip"},
        {"non_finite": st.RollBack()},
        {"precision": "bf16"},
        {"check_gradients": True, "accumulate": 2},
        {"optimizer": torch.optim.LBFGS},
        {"compile": "step"},
    ],
    ids=lambda more: "-".join(more),
)
def test_all_edits_go_with_other_options(more):
    "The rows are at their places, whatever else changes the table."
    edits = [st.validate_first, st.limit(train=6, valid=2), st.record_every(2, "steps")]
    if more.get("compile"):
        more = {"compile": {"what": "step", "backend": "eager"}}
    run = fit(valid=BATCHES, edits=edits, **more)
    steps = 3 if "accumulate" in more else 6
    whole = [(1, n) for n in range(2, steps, 2)] + [(1, steps)]
    rows = [(row["epoch"], row["step"]) for row in run.history]
    assert rows[: 1 + len(whole)] == [(0, 0), *whole]
    assert run.ctx.step == 2 * steps
    assert [row["epoch"] for row in run.history if "valid_loss" in row] == [0, 1, 2]


def test_edited_tables_are_written_and_read():
    "As JSON and pickled; the fingerprint tells the limits apart."

    def life(n):
        edits = [
            st.whole_windows,
            st.validate_first,
            st.limit(train=n),
            st.record_every(2, "steps"),
        ]
        return st.supervised(accumulate=2, edits=edits)

    halved = st.halving(st.supervised(), 2)
    of_torch = {"torch:OutOfMemoryError": torch.OutOfMemoryError}
    assert st.Lifecycle.from_dict(halved.to_dict(), of_torch) == halved
    assert st.Lifecycle.from_dict(json.loads(json.dumps(life(3).to_dict()))) == life(3)
    assert pickle.loads(pickle.dumps(life(3))) == life(3)
    assert life(3).fingerprint != life(4).fingerprint


# ---------------------------------------------------------------- guards of your own


@st.guard(reads={"step"}, prompt=True)
def at_squares(ctx) -> bool:
    "the step is a square"
    return ctx.step in (1, 4, 9)


@st.guard(reads={"step"})
def at_squares_of_epochs(ctx) -> bool:
    "the step is a square"
    return ctx.step in (1, 4, 9)


@pytest.mark.parametrize("what", ["validate", "evaluation"])
def test_a_guard_of_your_own_that_is_prompt_is_asked_inside_an_epoch(what):
    "It validates, or evaluates, after these steps; one that is not prompt is asked when an epoch ends."

    def rows(guard):
        more = {"valid": BATCHES[:1], "validate": guard}
        if what == "evaluation":
            more = {"evaluations": st.Evaluation("valid2", BATCHES[:1], guard)}
        run = fit(epochs=1, **more)
        return [row["step"] for row in run.history if {"valid_loss", "valid2_loss"} & row.keys()]

    assert rows(at_squares) == [1, 4, 9]
    assert rows(at_squares_of_epochs) == []
    assert rows(at_squares | st.Every(1, "epochs")) == [1, 4, 9, 10]
    assert rows(at_squares & st.Every(1, "epochs")) == []
