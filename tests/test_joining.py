"""Lifecycles of which one follows the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.context.position import Position
from statetrain.errors import LifecycleError
from statetrain.events import SkipBatch, StopFit
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.machine.machine import Machine
from statetrain.standard import actions
from statetrain.standard.modes import Quiet
from statetrain.testing import walk
from statetrain.trace import Tracing


def test_a_prefix_is_put_before_every_name():
    "The table is the same in everything but the names: taking the prefix away gives it back."
    life = st.supervised(
        stop=st.EarlyStopping(), accumulate=2, non_finite="raise", validate=st.Every(3, "steps")
    )
    other = life.prefixed("pre_")
    assert other.names == tuple(f"pre_{name}" for name in life.names)
    assert other.initial == "pre_fit"
    assert [str(arrow).replace("pre_", "") for arrow in other.transitions] == [
        str(arrow) for arrow in life.transitions
    ]
    assert [(state.action, state.final, state.anchor, state.mode) for state in other.states] == [
        (state.action, state.final, state.anchor, state.mode) for state in life.states
    ]
    assert other.path("pre_pred") == ("pre_fit", "pre_epoch", "pre_train", "pre_batch", "pre_pred")


def a_phase(name: str, turns: int = 2) -> Lifecycle:
    """Some turns in a scope, which may end by a stop, by an event, or because there were enough."""
    enough = st.guard(lambda ctx: ctx.turns[name] >= turns).named("enough")

    def turn(ctx: Any) -> None:
        ctx.turns[name] += 1
        if (error := ctx.raising.pop((name, ctx.turns[name]), None)) is not None:
            raise error

    return Lifecycle(
        name,
        [
            State("all"),
            State("turn", turn, within="all"),
            State("over", within="all"),
            State("end", final=True),
        ],
        [
            Transition("all", "turn"),
            Transition("turn", "end", st.stop_requested, actions.say_why),
            Transition("turn", "over", enough),
            Transition("turn", "turn"),
            Transition("over", "end"),
            Transition("all", "end", event=StopFit, effect=actions.say_why),
            Transition("turn", "turn", event=SkipBatch),
        ],
    ).prefixed(f"{name}_")


class Ctx(Position):
    """It counts turns by phase, and raises what it is told to."""

    def __init__(self, raising=None) -> None:
        super().__init__()
        self.turns = {"a": 0, "b": 0, "c": 0}
        self.raising = dict(raising or {})
        self.epoch = 0
        self.between: list[str] = []


def between(ctx):
    "go on"
    ctx.between.append(ctx.transition.source)


def test_one_phase_after_the_other():
    "The first ends, its scope is closed, the effect is done, and the second begins; only the second ends the run."
    life = a_phase("a").then(a_phase("b", 3), effect=between)
    assert life.name == "a then b"
    assert [state.name for state in life.states if state.final] == ["b_end"]
    tracing, heard, ctx = Tracing(), [], Ctx()
    hooks = [
        st.on("exit_a_all")(lambda ctx: heard.append("left a")),
        st.on("enter_b_all")(lambda ctx: heard.append("in b")),
    ]
    Machine(life, [tracing, *hooks]).run(ctx)
    assert tracing.trace.states == [
        "a_all",
        "a_turn",
        "a_turn",
        "a_over",
        "b_all",
        "b_turn",
        "b_turn",
        "b_turn",
        "b_over",
        "b_end",
    ]
    assert heard == ["left a", "in b"]
    assert ctx.between == ["a_over"]
    assert ctx.outcome.ok


def test_three_phases():
    "What was joined can be joined again, either way, with the same table."
    a, b, c = a_phase("a"), a_phase("b"), a_phase("c")
    left, right = a.then(b).then(c), a.then(b.then(c))
    assert left.states == right.states
    assert left.transitions == right.transitions
    ctx = Ctx()
    Machine(left).run(ctx)
    assert ctx.turns == {"a": 2, "b": 2, "c": 2}


def test_what_ends_the_first_phase_and_what_the_run():
    "A stop that is asked for goes through both phases; an event ends the run; one that is taken within stays there."
    life = a_phase("a").then(a_phase("b"), effect=between)
    ctx = Ctx()
    ctx.request_stop("enough")
    Machine(life).run(ctx)
    assert ctx.outcome == st.Stopped(0, "enough")
    assert ctx.turns == {"a": 1, "b": 1, "c": 0}
    ctx = Ctx({("a", 2): StopFit("now")})
    Machine(life).run(ctx)
    assert ctx.outcome == st.Stopped(0, "now")
    assert ctx.turns["b"] == 0
    assert ctx.between == []
    ctx = Ctx({("a", 2): SkipBatch()})
    Machine(life).run(ctx)
    assert ctx.outcome.ok
    assert ctx.turns == {"a": 3, "b": 2, "c": 0}


def test_what_cannot_be_joined():
    "Two states of one name, and an end that the first one's events could not be led to, are errors that say what to do."
    with pytest.raises(
        LifecycleError,
        match=(
            r"both have a state 'fit' and 11 others; give one of them other names:"
            r" supervised.prefixed\(\"pre_\"\)"
        ),
    ):
        st.supervised(validate=None).then(st.supervised())
    two_ends = Lifecycle(
        "b",
        [State("go"), State("good", final=True), State("bad", final=True)],
        [
            Transition("go", "bad", st.stop_requested),
            Transition("go", "good"),
        ],
    )
    with pytest.raises(
        LifecycleError,
        match=r"where is a_all -> a_end StopFit .* to lead\? b ends in 'good', 'bad'",
    ):
        a_phase("a").then(two_ends)


def test_it_is_a_lifecycle_like_any_other():
    "It can be walked without a model, drawn and written down."
    life = st.supervised(validate=None).prefixed("pre_").then(st.supervised(validate=None))
    script = {"more epochs": [True, False], "a batch was drawn": [True, False]}
    assert walk(life, script).states[-3:] == ["fit", "next_epoch", "end"]
    assert life.mermaid().count("pre_fit")
    from statetrain.lifecycle.registry import to_dict
    from statetrain.standard.reading import from_dict

    assert from_dict(to_dict(life)) == life
    assert isinstance(life.state("pre_fit").mode, Quiet)


# ---------------------------------------------------------------- in training


def reconstruct(ctx):
    "reconstruct the input"
    loss = F.mse_loss(ctx.model.back(ctx.model.first(ctx.input)), ctx.input)
    loss.backward()
    return loss


class Net(nn.Module):
    """An encoder with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.back, self.out = (
            nn.Linear(4, 6),
            nn.Dropout(0.2),
            nn.Linear(6, 4),
            nn.Linear(6, 3),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, 3)."""
        return self.out(self.drop(self.first(inputs)))


def two_phases(pretrain_stop=None):
    first = st.supervised(compute=reconstruct, validate=None, stop=pretrain_stop).prefixed("pre_")
    first = first.alter(first.between("pre_next_epoch", "pre_epoch")[0], guard=~st.MinEpochs(2))
    return first.then(st.supervised(), effect=actions.select_next)


def fit(points, epochs=4, **options):
    torch.manual_seed(0)
    model = Net()
    optimizers = {
        "pre": torch.optim.Adam([*model.first.parameters(), *model.back.parameters()], lr=0.01),
        "out": torch.optim.SGD(
            [*model.first.parameters(), *model.out.parameters()], lr=0.1, momentum=0.9
        ),
    }
    options = {
        "lifecycle": two_phases(),
        "seed": 3,
        "dataloader_options": {"batch_size": 8},
        **options,
    }
    return st.fit(
        model,
        points,
        valid=points,
        loss=F.cross_entropy,
        optimizer=optimizers,
        epochs=epochs,
        **options,
    )


def test_two_phases_of_training(points):
    "Each phase trains its part with its optimizer, its loss has a column in its own rows, and counters go on."
    run = fit(points)
    assert [[name for name in row if "loss" in name] for row in run.history] == [
        ["train_loss_pre"]
    ] * 2 + [["train_loss_out", "valid_loss_out"]] * 2
    assert run.history["epoch"] == [1, 2, 3, 4]
    assert run.history["step"] == [3, 6, 9, 12]
    assert run.history["seconds"] == sorted(run.history["seconds"])
    assert run.outcome == st.Completed(4)


@pytest.mark.parametrize(
    ("options", "there"),
    [({"precision": "fp16"}, "scaler"), ({"finite_check": "late", "non_finite": "skip"}, "mask")],
    ids=["fp16", "late"],
)
def test_a_phase_under_other_names_has_what_it_needs(options, there, points):
    "The scaler of float16 and the mask of late checks are there whatever the states are called, and the weights are the same."
    runs = []
    for life in (
        st.supervised(validate=None, **options),
        st.supervised(validate=None, **options).prefixed("pre_"),
    ):
        torch.manual_seed(0)
        common = {
            "loss": F.cross_entropy,
            "optimizer": torch.optim.SGD,
            "opt_hparams": {"lr": 0.1},
            "epochs": 2,
        }
        runs.append(st.fit(nn.Linear(4, 3), points, lifecycle=life, **common))
        assert getattr(runs[-1].ctx, there) is not None
    assert bits(runs[0].model) == bits(runs[1].model)


def test_a_phase_under_other_names_has_its_gradients(points):
    "Metrics of gradients and updates, and norms for callbacks, are those of the states without a prefix."
    rows = []
    for prefix in ("", "pre_"):
        life = (
            st.supervised(validate=None).prefixed(prefix)
            if prefix
            else st.supervised(validate=None)
        )
        torch.manual_seed(0)
        common = {
            "loss": F.cross_entropy,
            "optimizer": torch.optim.SGD,
            "opt_hparams": {"lr": 0.1},
            "epochs": 2,
        }
        metrics = {
            name: st.Metric(lambda value: value.norm(), value=f"{name}.weight")
            for name in ("grads", "updates")
        }
        run = st.fit(
            nn.Linear(4, 3),
            points,
            lifecycle=life,
            train_metrics=metrics,
            callbacks=st.Watch(f"exit_{prefix}step", norm="grad_norms.weight"),
            **common,
        )
        rows.append(
            [(row["train_grads"], row["train_updates"]) for row in run.history]
            + [entry["value"].item() for entry in run.ctx.records["norm"]]
        )
    assert rows[0] == rows[1]
    assert rows[0][0][0] > 0


def test_a_callback_for_states_under_other_names_is_heard():
    "Clipping hears the step of a phase with a prefix; a misspelt hook is an error that knows names and roles."
    pre = st.supervised(validate=None).prefixed("pre_")
    assert Machine(pre, [st.GradientClip(1.0)]).explain("enter pre_step").callbacks

    class Misspelt(st.Callback):
        def on_enter_pre_stpe(self, ctx):
            pass

    with pytest.raises(
        st.CallbackError,
        match="no state 'pre_stpe' in lifecycle 'supervised'; did you mean 'on_enter_pre_step'",
    ):
        Machine(pre, [Misspelt()])


def test_the_clock_goes_on(points):
    "What the first phase took is part of the run's seconds."
    now = [0.0]

    @st.on("exit_pre_batch", "exit_batch")
    def a_second_passes(ctx):
        now[0] += 1.0

    assert fit(points, clock=lambda: now[0], callbacks=a_second_passes).history["seconds"] == [
        3.0,
        6.0,
        9.0,
        12.0,
    ]


def test_the_first_phase_may_stop_early(points):
    "Then the second begins earlier, and has the more epochs."
    run = fit(points, lifecycle=two_phases(st.Threshold("train_loss_pre", 100.0)))
    assert [row["epoch"] for row in run.history if "train_loss_pre" in row] == [1]
    assert [row["epoch"] for row in run.history if "train_loss_out" in row] == [2, 3, 4]


@pytest.mark.parametrize("step", [2, 4, 8, 10])
def test_it_is_continued_in_either_phase(step, points, tmp_path):
    "A run that is cut in the first or the second phase goes on to the same weights, momentum and rows."

    def checkpoint(name):
        return st.Checkpoint(tmp_path / name, every=st.Every(1, "steps"))

    class Cut(Exception):
        pass

    @st.on("exit_pre_batch", "exit_batch")
    def cut(ctx):
        if ctx.step == step:
            raise Cut

    whole = fit(points, callbacks=checkpoint("whole"))
    with pytest.raises(Cut):
        fit(points, callbacks=[checkpoint("cut"), cut])
    again = fit(points, callbacks=checkpoint("cut"), resume="last")
    assert bits(again.model, *again.ctx.optimizers.values()) == bits(
        whole.model, *whole.ctx.optimizers.values()
    )
    assert [{**row, "seconds": 0} for row in again.history] == [
        {**row, "seconds": 0} for row in whole.history
    ]
