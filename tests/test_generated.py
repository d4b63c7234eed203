"""Generated tests for callbacks and guards: they pass what is sound, and name the way and the hook of what is not."""

from __future__ import annotations

import random

import attrs
import pytest
import torch
from hypothesis import given, settings
from strategies import runs

import statetrain as st
from statetrain import Lifecycle, State, Transition
from statetrain.context.position import Position
from statetrain.testing import callback_cases, check_callback, check_guard, guard_cases, toy_problem


class Counting(st.Callback):
    """Counts batches, and logs the count with each row."""

    def __init__(self) -> None:
        self.n = 0

    def on_exit_batch(self, ctx):
        self.n += 1

    def on_exit_record(self, ctx):
        ctx.log("n", self.n)


class Saved(Counting):
    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, state):
        self.n = state["n"]


@pytest.mark.parametrize("case", callback_cases(Saved), ids=str)
def test_a_sound_callback_passes(case):
    """What counts and saves its count gets along with every way of the standard lifecycle."""
    case.check()


def test_the_ways_cover_the_lifecycle_and_every_failure():
    """All arrows are taken by some way, and each state that is not final fails on one; names are readable."""
    life = st.supervised(non_finite="skip")
    cases = callback_cases(Saved)
    assert {t for case in cases for t in case.path.transitions} >= set(life.transitions)
    assert {f"fails in {state.name}" for state in life.states if not state.final} <= {
        str(case).partition(":")[0] for case in cases
    }
    assert "reaches next_batch: batch > pred > loss [loss not finite]" in map(str, cases)


def test_what_is_lost_when_a_run_is_continued_is_noticed():
    """A callback whose memory is not saved ends with other records when it is cut at an anchor, and the message says so."""
    with pytest.raises(
        AssertionError,
        match=(
            r"(?s)Counting on the way that .*cut at anchor 'next_\w+'.*Counting has no"
            r" state_dict.*records.n"
        ),
    ) as caught:
        check_callback(Counting)
    assert "does not go on exactly either" not in str(caught.value)


def test_a_state_that_does_not_come_back_is_noticed():
    """A load_state_dict that forgets is found, though the class has one."""

    class Forgets(Saved):
        def load_state_dict(self, state):
            pass

    with pytest.raises(
        AssertionError,
        match=(
            r"cut at anchor 'next_\w+' and continued with a fresh callback, the run ends"
            r" differently:"
        ),
    ):
        check_callback(Forgets)


def test_a_state_that_cannot_be_saved_is_noticed():
    """What is not plain data is named with its place."""

    class Sets(Saved):
        def state_dict(self):
            return {"n": {1, 2}}

    with pytest.raises(
        AssertionError, match=r"state_dict\(\) at anchor 'next_epoch': .*own.n' is a builtins.set"
    ):
        check_callback(Sets)


class DividesByBatches(st.Callback):
    def on_exit_train(self, ctx):
        ctx.log("mean", 1 / ctx.iter)


class ReadsTheLastRow(st.Callback):
    def on_exit_record(self, ctx):
        ctx.log("last", ctx.history[-1]["valid_loss"])


class Returns(st.Callback):
    def on_enter_step(self, ctx):
        return ctx.step


class FailsWhenARunFailed(st.Callback):
    def on_enter_failed(self, ctx):
        raise ValueError("and this too")


class DefersWhatFails(st.Callback):
    def on_enter_fit(self, ctx):
        ctx.defer(lambda: 1 / 0)


class TakesTheModelAway(st.Callback):
    def on_enter_pred(self, ctx):
        ctx.model = None


class StopsInAnExit(st.Callback):
    def on_exit_epoch(self, ctx):
        raise st.StopFit


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (
            DividesByBatches,
            (
                r"reaches record: epoch > train > next_batch \[stop now\]:"
                r" DividesByBatches.on_exit_train failed: ZeroDivisionError"
            ),
        ),
        (
            ReadsTheLastRow,
            (
                r"ReadsTheLastRow.on_exit_record failed: IndexError|ReadsTheLastRow.on_exit_record"
                r" failed: KeyError"
            ),
        ),
        (Returns, r"Returns.on_enter_step failed: TypeError: a hook returns nothing, got int: 0"),
        (
            FailsWhenARunFailed,
            r"fails in fit: on_enter_failed or a clean-up failed: ValueError.*and this too",
        ),
        (
            DefersWhatFails,
            (
                r"the run ended with ZeroDivisionError: division by zero, and without the callback"
                r" with no error"
            ),
        ),
        (
            TakesTheModelAway,
            (
                r"the run ended with TypeError: 'NoneType' object is not callable, and without the"
                r" callback with no error"
            ),
        ),
        (
            StopsInAnExit,
            (
                r"the run ended with LifecycleError: .*events may be raised by actions and enter"
                r" hooks only"
            ),
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_callback_with_a_flaw_fails_and_the_way_and_the_hook_are_named(callback, words):
    """Each kind of flaw is found on some short way."""
    with pytest.raises(
        AssertionError, match=rf"(?s){callback.__name__} on the way that .*(?:{words})"
    ):
        check_callback(callback)


@given(runs(st.supervised(non_finite="skip"), {"more epochs": 2, "a batch was drawn": 2}))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_random_runs_are_gone_too(trace):
    """A sound callback gets along with long runs as they come, several epochs, events and failures included."""
    check_callback(Saved, along=[trace], anchors=1)


def test_steering_is_no_flaw():
    """A callback that skips batches or stops the run passes if it says that it steers; else it is named."""

    class Skips(st.Callback):
        def on_enter_batch(self, ctx):
            if ctx.iter == 1:
                raise st.SkipBatch

    assert check_callback(Skips, cover="states", anchors=1, steers=True) > 15
    with pytest.raises(AssertionError, match="it led the run another way, by batch -> next_batch"):
        check_callback(Skips, cover="states", anchors=0)


def test_what_changes_a_run_without_saying_so_is_found():
    """Weights and requests end as they do without the callback, unless it declares them."""

    class Spoils(st.Callback):
        def on_exit_batch(self, ctx):
            for parameter in ctx.model.parameters():
                parameter.data.add_(1)

    class Stops(st.Callback):
        def on_exit_batch(self, ctx):
            ctx.request_stop("enough")

    class Spoken(Spoils):
        writes = {"params"}

    for kind, words in ((Spoils, "model.weights"), (Stops, "stop is 'enough'")):
        with pytest.raises(AssertionError, match=f"does not declare to write[^@]*{words}"):
            check_callback(kind, cover="states", anchors=0)
    assert check_callback(Spoken, cover="states", anchors=0)


def test_an_own_lifecycle_and_an_own_run():
    """Options of the standard lifecycle, and another model with two optimizers, by a function that makes the run."""
    assert check_callback(
        lambda: Saved(), st.supervised(accumulate=2, validate=None), cover="states", anchors=1
    )

    def build(lifecycle, callbacks):
        toy = toy_problem(batches=2)
        halves = {name: torch.optim.SGD(toy.model.parameters(), lr=0.01) for name in ("a", "b")}
        return toy.fit(optimizer=halves, lifecycle=lifecycle, callbacks=callbacks, start=False)

    assert check_callback(
        Saved(), st.supervised(optimizers=2), build=build, cover="states", anchors=1
    )


def work(ctx):
    "work"


LIFE = Lifecycle(
    "own",
    [State("a", work, anchor=True), State("b", work), State("end", final=True)],
    [
        Transition("a", "b", st.guard(lambda ctx: True)),
        Transition("a", "end"),
        Transition("b", "a"),
    ],
)


def test_a_lifecycle_that_does_not_train():
    """With a context of its own, hooks are called on all ways and the state is put back; a state that changes is noticed."""

    class Watches(st.Callback):
        def __init__(self):
            self.n = 0

        def on_enter_b(self, ctx):
            self.n += 1

        def state_dict(self):
            return {"n": self.n}

        def load_state_dict(self, state):
            self.n = state["n"]

    assert check_callback(Watches, LIFE, context=Position)

    class Twice(Watches):
        def load_state_dict(self, state):
            self.n = 2 * state["n"] + 1

    with pytest.raises(
        AssertionError,
        match=r"what it gave to be saved at anchor 'a' does not come back:\n- n is 1, expected 0",
    ):
        check_callback(Twice, LIFE, context=Position)


def test_what_cannot_be_tested_is_an_error_at_once():
    """Hooks that no state bears, and arguments that exclude each other."""

    class Misspelt(st.Callback):
        def on_exit_epohc(self, ctx):
            pass

    with pytest.raises(st.CallbackError, match="no state 'epohc'"):
        callback_cases(Misspelt)
    with pytest.raises(st.ConfigError, match="not both"):
        callback_cases(Saved, build=lambda life, callbacks: None, context=Position)
    with pytest.raises(
        st.ConfigError, match="no state 'next_epcoh' that asks guards; did you mean 'next_epoch'"
    ):
        guard_cases(st.guard(lambda ctx: True), at="next_epcoh")


# ---------------------------------------------------------------- guards


@pytest.mark.parametrize(
    ("guard", "at"),
    [
        (st.NonFinite(), "loss"),
        (st.TimeLimit(minutes=1), ()),
        (st.EarlyStopping("valid_loss", 2) | st.MaxSteps(3), "next_epoch"),
        (st.Every(2, "steps"), "draw"),
        (st.Threshold("valid_loss", 0.1) & ~st.MaxSteps(3), "next_epoch"),
        (st.stop_requested, ()),
    ],
    ids=lambda value: getattr(value, "label", ""),
)
def test_the_guards_of_the_library_keep_what_guards_promise(guard, at):
    """They are pure, strict, and read what they say they read."""
    assert check_guard(guard, at=at, cover="states")


@st.guard
def remembers(ctx):
    ctx.buffers["asked"] = ctx.buffers.get("asked", 0) + 1
    return False


@st.guard
def moves_weights(ctx):
    with torch.no_grad():
        ctx.model.weight.mul_(1.5)
    return False


@st.guard
def draws(ctx):
    return random.random() < 2


@st.guard
def draws_by_torch(ctx):
    return bool(torch.rand(()) < 2)


@st.guard
def says_one(ctx):
    return 1


@st.guard(reads={"epoch"})
def reads_more(ctx):
    return ctx.batches > 1000


@st.guard
def expects_a_loss(ctx):
    return ctx.loss_value > 2


class Turns:
    """Answers by turns, from a memory of its own."""

    __name__ = "turns"

    def __init__(self) -> None:
        self.last = False

    def __call__(self, ctx):
        self.last = not self.last
        return self.last


@pytest.mark.parametrize(
    ("guard", "words"),
    [
        (
            remembers,
            r"in 'next_epoch': it changed the context:\n- buffers.asked became 2, was None",
        ),
        (moves_weights, r"it changed the context:\n- model.tensors.weight differs"),
        (draws, r"it drew random numbers"),
        (draws_by_torch, r"it drew random numbers"),
        (says_one, r"guard \[says one\] must answer True or False, got int: 1"),
        (
            reads_more,
            (
                r"it read 'earlier_batches', 'iter', and its reads are 'epoch'; declare them:"
                r" reads=\{'earlier_batches', 'epoch', 'iter'\}"
            ),
        ),
        (expects_a_loss, r"in 'next_epoch': it raised TypeError"),
        (st.guard(Turns()), r"it answered True, and asked again at once, False"),
    ],
    ids=lambda value: getattr(value, "label", ""),
)
def test_a_guard_with_a_flaw_fails_and_the_flaw_is_named(guard, words):
    """Each promise that a guard may break is noticed, with the way and the state in which it was asked."""
    with pytest.raises(
        AssertionError,
        match=(
            rf"(?s)\[{guard.label}\] on the way that reaches .*, asked in '\w+'.*:"
            rf" (?:.*){words}|{words}"
        ),
    ):
        check_guard(guard)


def test_a_guard_is_asked_where_it_stands():
    """On the arrows of the lifecycle where it is one of them or part of one; in the states that were named; else everywhere."""
    spike = st.guard(lambda ctx: ctx.loss_value > 100, reads={"loss_value"}).named("spike")
    life = st.supervised(validate=None)
    life = life.add(Transition("loss", "next_batch", spike | st.MaxSteps(10**6)), first=True)
    assert {place for case in guard_cases(spike, life) for place in case.places} == {"loss"}
    assert check_guard(spike, life)
    assert check_guard(expects_a_loss, at="loss")
    assert {len(case.places) > 4 for case in guard_cases(says_one)} == {True}


def test_a_guard_of_a_lifecycle_that_does_not_train():
    """With a context of its own, whatever class it is."""
    assert check_guard(
        st.guard(lambda ctx: ctx.state == "a", reads={"stop"}), LIFE, context=Position
    )
    with pytest.raises(AssertionError, match="it read 'interrupt', and its reads are 'stop'"):
        check_guard(
            st.guard(lambda ctx: ctx.interrupt is None, reads={"stop"}), LIFE, context=Position
        )


@pytest.mark.skipif(
    "debug" not in attrs.fields_dict(st.Machine), reason="machines have no debug mode yet"
)
def test_a_field_that_is_read_where_it_cannot_be_is_noticed():
    """The ways are gone in debug mode, so that a hook that reads a prediction before there is one fails, though nothing raised by itself."""

    class Early(st.Callback):
        def on_enter_pred(self, ctx):
            ctx.buffers["early"] = ctx.pred

    with pytest.raises(AssertionError, match=r"Early.on_enter_pred failed: .*'pred'"):
        check_callback(Early)
