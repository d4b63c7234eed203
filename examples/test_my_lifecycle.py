"""Tests of a lifecycle of one's own, to be copied: run it with `pytest examples/test_my_lifecycle.py --statetrain-cov`.

The lifecycle trains with gradient accumulation and distrusts sudden jumps of the loss: a batch
whose loss is far above the best one so far is not learnt from, and the weights go back to the copy
made after the last good step. (`fit(..., spike=st.Spike(), non_finite=st.RollBack())` does this
better; here it is the thing to be tested.)
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings

import statetrain as st
from statetrain.standard import actions
from statetrain.testing import (
    CallbackCase,
    Path,
    Recording,
    always,
    assert_trace,
    balanced,
    between,
    callback_cases,
    check,
    check_guard,
    counters_agree,
    ends,
    eventually,
    followed_by,
    paths,
    precedes,
    simulate,
    survivors,
    toy_problem,
    walk,
)
from statetrain.testing.programs import random_programs
from statetrain.testing.strategies import runs

# -------------------- what is tested: a lifecycle, its guard and its effects


@st.guard(reads={"loss_value", "buffers"})
def spike(ctx: Any) -> bool:
    "loss spikes"
    return bool(ctx.loss_value > 10 * ctx.buffers.get("best_loss", float("inf")) + 1e-6)


def remember(ctx: Any) -> None:
    "keep a copy of the weights"
    ctx.buffers["copy"] = {name: value.clone() for name, value in ctx.model.state_dict().items()}
    ctx.buffers["best_loss"] = min(ctx.loss_value, ctx.buffers.get("best_loss", float("inf")))


def roll_back(ctx: Any) -> None:
    "go back to the copy"
    if "copy" in ctx.buffers:
        ctx.model.load_state_dict(ctx.buffers["copy"])
    actions.discard_window(ctx)  # what the window has gathered came from weights that are gone


def my_lifecycle() -> st.Lifecycle:
    """Accumulation over two batches; after each step a copy; on a spike, back to it and on with the next batch."""
    life = st.supervised(accumulate=2, non_finite="skip")
    # Within the scope `batch`: outside of it the loss of the batch is gone.
    life = life.insert(st.State("copy", remember, "batch"), between=("step", "next_batch"))
    return life.add(
        st.Transition("loss", "next_batch", spike, roll_back),
        before=life.between("loss", "backward")[0],
    ).named("mine")


LIFE = my_lifecycle()


class CountSpikes(st.Callback):
    """Writes into each row of the history how often the weights went back; it keeps counting in a resumed run."""

    writes = ("history.spikes",)

    def __init__(self) -> None:
        self.spikes = 0

    def on_transition(self, ctx: Any) -> None:
        self.spikes += ctx.transition.effect is roll_back

    def on_enter_record(self, ctx: Any) -> None:
        ctx.log_metric("spikes", self.spikes, set="")

    def state_dict(self) -> dict[str, Any]:
        return {"spikes": self.spikes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.spikes = state["spikes"]


# -------------------- its properties, on every run that there can be


def test_what_holds_on_every_run() -> None:
    "Proved by the graph: no step without a backward, no copy without a step, a spike never reaches the weights, all is closed."
    verdicts = check(
        LIFE,
        precedes("backward", "step"),
        between("copy", "copy", "step"),
        always(
            "a spike leads past backward",
            lambda taken: taken.effect is not roll_back or taken.dest == "next_batch",
        ),
        followed_by("/ go back to the copy", "next_batch", "failed"),
        eventually("end", "failed"),
        balanced(),
        ends(),
        counters_agree(),
    )
    assert all(verdict.proof for verdict in verdicts)


def test_a_spike_skips_backward() -> None:
    "One batch whose loss spikes: from loss on to the next batch."
    trace = walk(LIFE, {"more epochs": [True], "a batch was drawn": [True], "loss spikes": [True]})
    assert_trace(
        trace, "fit next_epoch epoch train next_batch draw batch pred loss next_batch draw ..."
    )


# -------------------- generated paths: the table does what it was designed to do


@pytest.mark.parametrize("path", paths(LIFE), ids=str)
def test_the_lifecycle_goes_this_way(path: Path) -> None:
    "States, hooks and guards come in the order of the table, with as few and as many guards holding as possible."
    path.check()


def copied(ctx: Any) -> None:
    "After `copy`, the copy is what the model is."
    weights = ctx.model.state_dict()
    assert all(torch.equal(weights[name], kept) for name, kept in ctx.buffers["copy"].items())


@pytest.mark.parametrize("path", paths(LIFE), ids=str)
def test_the_actions_do_their_work_on_this_way(path: Path) -> None:
    "Real actions on the toy problem: each copy is that of the weights, and steps are counted."
    ctx = path.run(states={"copy": copied, "train": lambda ctx: ctx.model.training})
    assert ctx.step == path.states.count("step")


programs = random_programs(
    LIFE, bounds={"a batch was drawn": 3, "more epochs": 2}, states={"copy": copied}
)
programs.TestCase.settings = settings(max_examples=10, stateful_step_count=15, deadline=None)
TestPrograms = programs.TestCase


def test_no_effect_is_lost_unnoticed() -> None:
    "The paths notice each effect and each action that is removed or exchanged."
    assert survivors(LIFE, kinds=["effect", "action"]) == []


@given(runs(LIFE, {"more epochs": 2, "a batch was drawn": 3}))
@settings(max_examples=50, deadline=None)
def test_steps_never_outnumber_batches(trace: st.Trace) -> None:
    "On any run, however events and failures come."
    assert trace.states.count("step") <= trace.states.count("batch")


# -------------------- generated tests: a guard and a callback


def test_the_guard_keeps_what_guards_promise() -> None:
    "It is pure, answers True or False, and reads what it says it reads."
    assert check_guard(spike, LIFE)


@pytest.mark.parametrize("case", callback_cases(CountSpikes, LIFE), ids=str)
def test_the_callback_gets_along(case: CallbackCase) -> None:
    "No hook fails on any short way, and a run that is cut at an anchor and continued counts the same."
    case.check()


# -------------------- real runs; these are what the coverage counts


def test_the_schedule() -> None:
    "Five batches in windows of two make three steps, each followed by a copy, and the epoch ends with a validation and a row."
    schedule = simulate(LIFE, epochs=1, batches=5, states=["copy", "valid", "record"])
    assert [(event.state, event.batch) for event in schedule.events] == [
        ("copy", 2),
        ("copy", 4),
        ("copy", 5),
        ("valid", 5),
        ("record", 5),
    ]


def test_a_poisoned_batch_does_no_harm() -> None:
    "With one batch of nonsense in the data, the weights go back once in each epoch, and training still finds the optimum."
    toy = toy_problem(batches=6)
    toy.train[3] = (toy.train[3][0], torch.full_like(toy.train[3][1], 1e6))
    heard = Recording(LIFE, only=["on_enter_copy"])
    run = toy.fit(lifecycle=LIFE, epochs=12, callbacks=[CountSpikes(), heard])
    assert run.history[-1]["spikes"] == 12
    assert toy.distance < 0.05
    assert len(heard.calls) == run.ctx.step


def test_a_loss_that_is_not_finite_is_skipped() -> None:
    "A batch of NaN is discarded with its window."
    toy = toy_problem(batches=3)
    toy.train[1] = (toy.train[1][0], toy.train[1][1] * float("nan"))
    run = toy.fit(lifecycle=LIFE, epochs=2)
    assert run.outcome == st.Completed(2)
    assert toy.distance < 3


@pytest.mark.parametrize(
    "hook", ["on_enter_fit", "on_enter_epoch", "on_enter_batch", "on_enter_valid_batch"]
)
@pytest.mark.parametrize("how", ["ask", st.StopFit, KeyboardInterrupt])
def test_it_can_be_stopped_anywhere(how: Any, hook: str) -> None:
    "By a request, by an event, or by Ctrl-C: the run ends in its final state, and says that it did not complete."

    def stop(ctx: Any) -> None:
        if how == "ask":
            ctx.request_stop("enough")
        else:
            raise how

    callback = st.Callback()
    setattr(callback, hook, stop)
    run = toy_problem().fit(lifecycle=LIFE, epochs=2, callbacks=callback)
    assert run.ctx.state == "end"
    assert isinstance(run.outcome, st.Stopped | st.Interrupted)


@pytest.mark.parametrize("event", [st.SkipBatch, st.SkipEpoch])
@pytest.mark.parametrize(
    "hook", ["on_enter_draw", "on_enter_batch", "on_enter_valid_draw", "on_enter_valid_batch"]
)
def test_what_is_skipped_does_not_end_the_run(event: type[st.Event], hook: str) -> None:
    "A callback that skips once, wherever a batch is under way, costs that batch or that part of the epoch, and no more."
    raised: list[st.Event] = []

    def skip_once(ctx: Any) -> None:
        if not raised:
            raised.append(event("not this one"))
            raise raised[0]

    callback = st.Callback()
    setattr(callback, hook, skip_once)
    run = toy_problem().fit(lifecycle=LIFE, epochs=3, callbacks=callback)
    assert raised
    assert run.outcome == st.Completed(3)
