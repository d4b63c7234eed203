"""`only_if` and `throttle`: callbacks that are called at some times only, and are in all else what they wrap."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.callback import name_of
from statetrain.callbacks.conditional import only_if, throttle
from statetrain.context.position import Position
from statetrain.errors import CallbackError, ConfigError, GuardError
from statetrain.guards.batch import NonFinite
from statetrain.guards.counters import Every, MinEpochs
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.machine.machine import Machine


class Notes(st.Callback):
    """Writes down when it was called."""

    reads = ("step",)
    writes = ("buffers",)

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def on_enter_fit(self, ctx):
        self.seen.append(("fit", ctx.step))

    def on_exit_step(self, ctx):
        self.seen.append(("step", ctx.step))

    def on_exit_epoch(self, ctx):
        self.seen.append(("epoch", ctx.epoch))

    def at(self, event):
        return [number for name, number in self.seen if name == event]


class Saved(Notes):
    """One that has something to remember."""

    def state_dict(self):
        return {"seen": list(self.seen)}

    def load_state_dict(self, state):
        self.seen = [tuple(entry) for entry in state["seen"]]


def fit(points, callbacks, **options):
    torch.manual_seed(0)
    common = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 4,
        "seed": 1,
    }
    return st.fit(
        nn.Linear(4, 3),
        points,
        callbacks=callbacks,
        dataloader_options={"batch_size": 8},
        **{**common, **options},
    )


@pytest.mark.parametrize(
    ("every", "steps"), [(1, [*range(1, 13)]), (5, [5, 10]), (12, [12]), (13, [])]
)
def test_a_throttle_passes_every_nth_call_on(every, steps, points):
    "The calls of the hook are counted from 1, through all epochs; the other hooks are called as always."
    notes = Notes()
    fit(points, throttle(notes, "on_exit_step", every))
    assert notes.at("step") == steps
    assert notes.at("fit") == [0]
    assert notes.at("epoch") == [1, 2, 3, 4]


@given(n=some.integers(1, 7), events=some.integers(0, 30))
@settings(derandomize=True, database=None, deadline=None, max_examples=30)
def test_a_throttle_on_any_lifecycle(n, events):
    "Of k events, k // n are passed on: the n-th, the 2n-th and so on."
    turn = State("turn", lambda ctx: ctx.buffer.append(len(ctx.buffer) + 1))
    more = st.guard(lambda ctx: len(ctx.buffer) < events)
    life = Lifecycle(
        "turns",
        [State("begin"), turn, State("end", final=True)],
        [
            Transition("begin", "turn", more),
            Transition("begin", "end"),
            Transition("turn", "turn", more),
            Transition("turn", "end"),
        ],
    )
    ctx, heard = _Turns(), []
    Machine(
        life,
        [
            throttle(
                st.on("exit_turn")(lambda ctx: heard.append(len(ctx.buffer))), "on_exit_turn", n
            )
        ],
    ).run(ctx)
    assert heard == [*range(n, events + 1, n)]


class _Turns(Position):
    def __init__(self) -> None:
        super().__init__()
        self.buffer: list[int] = []


def test_a_throttle_by_the_clock(points):
    "An interval in seconds passes the first call after each of them."
    notes, now = Notes(), [0.0]

    @st.on("enter_draw")
    def seven_seconds_pass(ctx):
        now[0] += 7.0

    fit(
        points,
        [seven_seconds_pass, throttle(notes, "on_exit_step", Every(20, "seconds"))],
        epochs=3,
        clock=lambda: now[0],
    )
    # Batches 1, 2, 3 end at 7, 14, 21 seconds; drawing the end of the epoch takes 7 more: 35, 42,
    # 49; 63, 70, 77.
    assert notes.at("step") == [3, 5, 7]


def test_a_condition_is_asked_at_each_call(points):
    "Hooks are called when the condition holds, and only then, but for those that prepare; it may be a guard, a combination of guards or a function."
    by_guard, by_function = Notes(), Notes()
    fit(
        points,
        [
            only_if(MinEpochs(2) & ~MinEpochs(4), by_guard),
            only_if(lambda ctx: 2 <= ctx.epoch < 4, by_function),
        ],
    )
    assert (
        by_guard.seen
        == by_function.seen
        == [
            ("fit", 0),
            ("step", 4),
            ("step", 5),
            ("step", 6),
            ("epoch", 2),
            ("step", 7),
            ("step", 8),
            ("step", 9),
            ("epoch", 3),
        ]
    )


def test_a_condition_may_be_for_some_hooks(points):
    "Hooks that are not named are always called; luz's names are the same hooks, and `on_` may be left out."
    notes, same, short = Notes(), Notes(), Notes()
    fit(
        points,
        [
            only_if(MinEpochs(4), notes, "on_exit_step"),
            only_if(MinEpochs(4), same, ["on_train_batch_after_step"]),
            only_if(MinEpochs(4), short, "exit_step"),
        ],
    )
    assert notes.at("step") == same.at("step") == short.at("step") == [10, 11, 12]
    assert notes.at("epoch") == [1, 2, 3, 4]


def test_two_of_a_kind_do_not_share_what_they_remember(points):
    "Intervals are kept for each callback and each hook, also of callbacks of one class."
    first, second = Notes(), Notes()
    fit(points, [only_if(Every(4, "steps"), first), only_if(Every(4, "steps"), second)])
    # An exit of an epoch asks as well: step 4 has passed by then, and has been noted at the step.
    assert first.at("step") == second.at("step") == [4, 8, 12]
    assert first.at("epoch") == second.at("epoch") == [2, 3, 4]


def test_conditions_within_conditions(points):
    "A wrapped callback can be wrapped again; each layer has its own count."
    notes, named = Notes(), throttle(only_if(MinEpochs(2), Notes()), "on_exit_step", 3)
    fit(points, throttle(throttle(notes, "on_exit_step", 2), "on_exit_step", 3))
    assert notes.at("step") == [6, 12]
    assert name_of(named) == "Notes"


def test_it_declares_what_the_callback_and_the_condition_do():
    "Fields read and written, monitors and everything else that callbacks declare are the wrapped one's, and the guard's."

    class Declared(Notes):
        monitors = ("valid_loss",)
        anywhere = True

    both = only_if(NonFinite() | st.Threshold("train_loss", 0.1), Declared())
    assert set(both.reads) == {"step", "loss_value", "history"}
    assert set(both.writes) == {"buffers"}
    assert set(both.monitors) == {"valid_loss", "train_loss"}
    assert both.anywhere
    assert not only_if(NonFinite(), Notes()).anywhere


def test_its_monitors_are_checked_before_training(points):
    "A column that a condition looks at and nothing writes is an error."
    with pytest.raises(ConfigError, match=r"train_los"):
        fit(points, only_if(st.Threshold("train_los", 0.1), Notes()))


def test_its_own_checks_are_made(points):
    "A wrapped callback still looks at the lifecycle and at the run."
    with pytest.raises(ConfigError, match="no optimizer 'generator'"):
        fit(
            points,
            throttle(
                st.LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1, optimizer="generator"),
                "on_exit_step",
                2,
            ),
        )
    with pytest.raises(
        CallbackError, match=r"'Misspelt' has 'on_exit_stpe'.*did you mean 'on_exit_step'"
    ):
        fit(
            points,
            only_if(
                MinEpochs(1),
                type("Misspelt", (st.Callback,), {"on_exit_stpe": lambda self, ctx: None})(),
            ),
        )


def test_it_has_its_place_in_the_order(points):
    "It is called where it stands among the others."
    heard: list[str] = []
    by_name = {
        name: st.on("exit_step")(lambda ctx, name=name: heard.append(name)) for name in "abc"
    }
    fit(points, [by_name["a"], throttle(by_name["b"], "on_exit_step", 2), by_name["c"]], epochs=1)
    assert heard == [*"ac", *"abc", *"ac"]


def test_it_goes_by_the_name_of_the_callback(points):
    "In listings and in the note on an error."
    assert repr(Machine(st.supervised(), [throttle(Notes(), "on_exit_step", 2)])).endswith(
        "callbacks Notes>"
    )
    assert (
        repr(throttle(st.CollectGarbage(), "on_exit_step", 2))
        == "throttle(CollectGarbage('every 100 steps'), 'on_exit_step', every=2)"
    )
    assert (
        repr(only_if(MinEpochs(2), st.CollectGarbage()))
        == "only_if([2 epochs made], CollectGarbage('every 100 steps'))"
    )

    class Broken(st.Callback):
        def on_exit_step(self, ctx):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as raised:
        fit(points, throttle(Broken(), "on_exit_step", 2))
    assert "raised by the hook Broken.on_exit_step" in raised.value.__notes__[0]


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_run_that_is_continued_goes_on_counting(cut, points, tmp_path):
    "Counts, intervals and the callback's own state are those of a run that was never cut."

    def callbacks(folder):
        counted, crossed = Saved(), Saved()
        return (
            counted,
            crossed,
            [
                throttle(counted, "on_exit_step", 5),
                only_if(Every(5, "steps"), crossed, "on_exit_step"),
                st.Checkpoint(folder),
            ],
        )

    counted, crossed, whole = callbacks(tmp_path / "whole")
    fit(points, whole)
    _, _, first = callbacks(tmp_path / "cut")
    fit(points, first, epochs=cut)
    again, across, second = callbacks(tmp_path / "cut")
    fit(points, second, resume="last")
    assert again.at("step") == counted.at("step") == [5, 10]
    assert across.at("step") == crossed.at("step") == [5, 10]


def test_another_run_begins_anew(points):
    "The count belongs to the run: the same callback serves another one."
    notes = Notes()
    callback = throttle(notes, "on_exit_step", 10)
    fit(points, callback)
    fit(points, callback)
    assert notes.at("step") == [10, 10]


def test_whoever_looks_for_a_callback_finds_it(points, tmp_path):
    "A checkpoint within a condition is found by `resume`, a tracing one by `run.trace`."
    run = fit(
        points,
        [only_if(MinEpochs(1), st.Tracing()), throttle(st.Checkpoint(tmp_path), "on_anchor", 2)],
        epochs=2,
    )
    assert run.trace.states[-1] == "end"
    again = fit(
        points,
        [only_if(MinEpochs(1), st.Tracing()), throttle(st.Checkpoint(tmp_path), "on_anchor", 2)],
        resume="last",
    )
    assert again.history["epoch"] == [1, 2, 3, 4]


def test_what_cannot_be_meant():
    "Hooks that the callback does not have, intervals without a unit and things that are no callback are errors at once."
    for make, words in (
        (
            lambda: throttle(Notes(), "on_exit_stpe", 2),
            "no hook 'on_exit_stpe'; did you mean 'on_exit_step'",
        ),
        (lambda: throttle(Notes(), "on_exit_batch", 2), "no hook 'on_exit_batch'"),
        (lambda: only_if(MinEpochs(1), Notes(), "on_exit_stpe"), "did you mean 'on_exit_step'"),
        (lambda: throttle(Notes(), "on_exit_step", 0), "at least 1, or an interval with its unit"),
        (lambda: throttle(Notes(), "on_exit_step", 2.5), "got 2.5"),
        (lambda: throttle(Notes, "on_exit_step", 2), r"write Notes\(\)"),
        (lambda: only_if(MinEpochs(1), print), r"on\(\.\.\.\)"),
    ):
        with pytest.raises(CallbackError, match=words):
            make()
    with pytest.raises(GuardError, match="a guard is a function"):
        only_if(True, Notes())
    with pytest.raises(CallbackError, match="'Notes' was given twice"):
        Machine(st.supervised(), [notes := Notes(), throttle(notes, "on_exit_step", 2)])


def test_a_condition_answers_true_or_false(points):
    "A tensor is refused, as on an arrow: it would hide a wait for the device."
    with pytest.raises(GuardError, match="must answer True or False, got Tensor"):
        fit(points, only_if(lambda ctx: torch.tensor(True), Notes()))


def test_a_state_nobody_throttles_costs_nothing():
    "Hooks that no condition is for are the callback's own, not wrapped."
    notes = Notes()
    machine = Machine(st.supervised(), [throttle(notes, "on_exit_step", 2)])
    works = machine.plan.works(machine.lifecycle.start, "[*]")
    assert [work.function for work in works if work.kind == "enter"] == [notes.on_enter_fit]
