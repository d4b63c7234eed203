"""Runs of lifecycles of your own: saved, resumed, shown, logged and stopped as those of `fit` are."""

from __future__ import annotations

import json
import random
from collections import deque
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from attrs import Factory, define
from torch import nn

import statetrain as st
from statetrain.testing import FakeClock, assert_resumable

S, T = st.State, st.Transition


def adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=1e-2)


@define(eq=False)
class Member:
    """One of several models, with what it has reached."""

    model: nn.Module = Factory(lambda: nn.Linear(3, 1))
    optimizer: torch.optim.Optimizer = attrs.field()
    score: float = 0.0

    @optimizer.default
    def _adam(self) -> torch.optim.Optimizer:
        return adam(self.model)


@define(eq=False)
class Everything(st.Position):
    """A field of each kind that can be saved."""

    model: nn.Module = Factory(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
    )
    optimizer: torch.optim.Optimizer = attrs.field()
    schedule: Any = attrs.field()
    members: list[Member] = Factory(lambda: [Member(), Member()])
    best: Member | None = None  # one of the members
    epoch: int = 0
    step: int = 0
    weights: torch.Tensor = Factory(lambda: torch.zeros(3, requires_grad=True))
    seen: deque[Any] = Factory(lambda: deque(maxlen=3))
    totals: dict[str, Any] = Factory(dict)
    coins: random.Random = Factory(lambda: random.Random(1))
    dice: Any = Factory(lambda: np.random.default_rng(2))
    noise: torch.Generator = Factory(lambda: torch.Generator().manual_seed(3))
    data: Any = st.not_saved(factory=lambda: torch.arange(24.0).reshape(8, 3))
    rounds: int = st.not_saved(4)

    @optimizer.default
    def _adam(self) -> torch.optim.Optimizer:
        return adam(self.model)

    @schedule.default
    def _decay(self) -> Any:
        return torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)


def next_round(ctx: Everything) -> None:
    "count the round"
    ctx.epoch += 1


def learn(ctx: Everything) -> None:
    "learn"
    ctx.step += 1
    noise = torch.randn(8, 3, generator=ctx.noise) + torch.rand(1) + ctx.coins.random()
    loss = (ctx.model(ctx.data + noise) - ctx.dice.random()).square().mean()
    loss = loss + (ctx.weights - 1).square().sum()
    ctx.optimizer.zero_grad()
    loss.backward()
    ctx.optimizer.step()
    ctx.weights.data -= 0.1 * ctx.weights.grad
    ctx.weights.grad = None
    for member in ctx.members:
        error = (member.model(ctx.data) - random.random()).square().mean()
        error.backward()  # the gradients add up: they are saved, too
        member.optimizer.step()
        member.score = error.item()
    ctx.best = min(ctx.members, key=lambda one: one.score)
    ctx.seen.append((ctx.step, loss.detach()))
    ctx.totals["loss", ctx.epoch] = ctx.totals.get(("loss", ctx.epoch), 0.0) + loss.item()


def evaluate(ctx: Everything) -> None:
    "record a row"
    ctx.schedule.step()
    ctx.log("seen", len(ctx.seen))
    ctx.add_row({"error": ctx.best.score, "rate": ctx.schedule.get_last_lr()[0]})


@st.guard(reads={"epoch", "rounds"})
def more_rounds(ctx: Everything) -> bool:
    "more rounds"
    return ctx.epoch < ctx.rounds


LIFE = st.Lifecycle(
    "learning",
    [
        S("fit"),
        S("head", within="fit", anchor=True, role="next_epoch"),
        S("round", next_round, within="fit", role="epoch"),
        S("next_step", within="round", anchor=True),
        S("learn", learn, within="round"),
        S("evaluate", evaluate, within="round"),
        S("end", final=True),
    ],
    [
        T("fit", "head"),
        T("head", "end", st.stop_requested),
        T("head", "round", more_rounds),
        T("head", "end"),
        T("round", "next_step"),
        T("next_step", "evaluate", st.Every(3, "steps")),
        T("next_step", "learn"),
        T("learn", "next_step"),
        T("evaluate", "head"),
        T("fit", "end", event=KeyboardInterrupt),
    ],
)


def build(**options: Any) -> st.Run:
    options = {"start": False, **options}
    return st.run(LIFE, Everything(), **options)


def test_a_context_of_your_own_is_resumed_to_the_last_bit():
    "Modules with buffers and dropout, optimizers, a schedule, generators, containers, gradients, aliases: at every anchor."
    assert assert_resumable(build, anchors=None) == 5 + 4 * 4


def test_what_is_the_same_object_is_the_same_object_again(tmp_path):
    "The best member is one of the members, not a copy."
    st.run(LIFE, Everything(rounds=2), [st.Checkpoint(tmp_path)])
    run = st.run(LIFE, Everything(), [st.Checkpoint(tmp_path)], resume="last", start=False)
    assert any(run.ctx.best is member for member in run.ctx.members)
    assert run.ctx.epoch == 2


def test_a_run_is_cut_and_resumed_from_the_disk(tmp_path):
    "Cut in its second round, it ends like the one that was not."
    torch.manual_seed(0), random.seed(0)
    whole = st.run(LIFE, Everything())

    @st.on("exit_evaluate", reads={"epoch"})
    def fail(ctx):
        if ctx.epoch == 2:
            raise ZeroDivisionError

    torch.manual_seed(0), random.seed(0)
    with pytest.raises(ZeroDivisionError):
        st.run(LIFE, Everything(), [fail, st.Checkpoint(tmp_path)])
    torch.manual_seed(7), random.seed(7)
    run = st.run(LIFE, Everything(), [st.Checkpoint(tmp_path)], resume="last")
    assert run.ctx.epoch == 4
    for a, b in zip(run.ctx.model.parameters(), whole.ctx.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert run.history["error"] == whole.history["error"]
    assert run.ctx.records["seen"] == whole.ctx.records["seen"] == [3, 3, 3, 3]


def test_debug_mode_saves_the_same(tmp_path):
    "What a component sees of the context in debug mode has all its fields: they are in the checkpoint."
    for debug in (False, True):
        folder = tmp_path / str(debug)
        st.run(LIFE, Everything(rounds=2), [st.Checkpoint(folder)], debug=debug)
        run = st.run(LIFE, Everything(), [st.Checkpoint(folder)], resume="last", start=False)
        assert (run.ctx.epoch, run.ctx.step, len(run.ctx.seen)) == (2, 6, 3)


def test_a_fresh_run_does_not_overwrite_another_one(tmp_path):
    "The directory has its checkpoints."
    st.run(LIFE, Everything(rounds=1), [st.Checkpoint(tmp_path)])
    with pytest.raises(st.CheckpointError, match=r"has checkpoints of an earlier run"):
        st.run(LIFE, Everything(rounds=1), [st.Checkpoint(tmp_path)])


@define(eq=False)
class Small(st.Position):
    rate: float = 0.1
    epoch: int = 0
    things: Any = None


def count(ctx):
    "count"
    ctx.epoch += 1


@st.guard(reads={"epoch"})
def three(ctx) -> bool:
    "three"
    return ctx.epoch == 3


SMALL = st.Lifecycle(
    "small",
    [S("fit"), S("head", within="fit", anchor=True), S("work", count, "fit"), S("end", final=True)],
    [T("fit", "head"), T("head", "end", three), T("head", "work"), T("work", "head")],
)


@pytest.mark.parametrize(
    ("things", "words"),
    [
        (
            print,
            r"'things' is a builtins.builtin_function_or_method, which cannot be saved; .*not_saved",
        ),
        ([{"a": {1, 2}}], r"'things.0.a' is a builtins.set, which cannot be saved"),
    ],
)
def test_what_cannot_be_saved_is_known_before_the_run(things, words, tmp_path):
    "The error names the field, the place in it and the remedy; nothing has been done."
    ctx = Small(things=things)
    with pytest.raises(st.CheckpointError, match=words):
        st.run(SMALL, ctx, [st.Checkpoint(tmp_path)])
    assert ctx.epoch == 0


def test_what_is_in_no_field_cannot_be_lost(tmp_path):
    "A subclass without `define` keeps its attributes where no snapshot finds them: it is refused."

    class Loose(st.Position):
        epoch = 0

    ctx = Loose()
    ctx.turns = 3
    with pytest.raises(st.CheckpointError, match=r"Loose.turns is not a field"):
        st.run(SMALL, ctx, [st.Checkpoint(tmp_path)])


def test_a_field_may_not_hide_what_the_machine_calls():
    "It would fail in the middle of a run."

    @define(eq=False)
    class Hiding(Small):
        defer: bool = False

    with pytest.raises(st.ContractError, match=r"'defer' of Hiding hides ctx.defer"):
        st.Machine(SMALL).run(Hiding())

    @define(eq=False)
    class Erring(Small):
        error: float = 0.0

    with pytest.raises(st.ContractError, match=r"'error' of Erring hides ctx.error, which every"):
        st.Machine(SMALL).run(Erring())


def test_a_field_may_have_the_name_of_what_loggers_call():
    "A context may keep a log of its own: a machine runs it."

    @define(eq=False)
    class Keeping(Small):
        log: list[str] = Factory(list)
        add_row: int = 0
        get_log: int = 0

    ctx = Keeping()
    st.Machine(SMALL).run(ctx)
    assert isinstance(ctx.outcome, st.Completed)
    assert ctx.log == []


def test_a_value_that_is_given_differently_is_noticed(tmp_path):
    "It is refused by name, or used if that is allowed; what the run has counted stays."
    with pytest.raises(ZeroDivisionError):
        st.run(SMALL, Small(), [st.Checkpoint(tmp_path), stop_at_two])
    with pytest.raises(st.CheckpointError, match=r"context: rate was 0.1, is 0.2"):
        st.run(SMALL, Small(rate=0.2), [st.Checkpoint(tmp_path)], resume="last", start=False)
    run = st.run(
        SMALL,
        Small(rate=0.2),
        [st.Checkpoint(tmp_path)],
        resume="last",
        allow_changes="context",
        start=False,
    )
    assert (run.ctx.rate, run.ctx.epoch) == (0.2, 1)


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ([3, 4], [3], r"\[3, 4\], is \[3\]"),
        ({"lr": (1, 2)}, {"lr": (1, 3)}, r"\{'lr': \(1, 2\)\}, is \{'lr': \(1, 3\)\}"),
        (list(range(1000)), [*range(999), 0], r"\[0, 1, .* #\w+, is \[0, 1, .* #\w+"),
    ],
)
def test_a_container_that_is_given_differently_is_noticed(before, now, words, tmp_path):
    "Lists and dicts of plain data, also long ones, are compared as the run was given them."

    @define(eq=False)
    class Holding(Small):
        chosen: Any = None

    with pytest.raises(ZeroDivisionError):
        st.run(SMALL, Holding(chosen=before), [st.Checkpoint(tmp_path), stop_at_two])
    with pytest.raises(st.CheckpointError, match=rf"context: chosen was {words}"):
        st.run(SMALL, Holding(chosen=now), [st.Checkpoint(tmp_path)], resume="last", start=False)
    same = type(before)(before)
    st.run(SMALL, Holding(chosen=same), [st.Checkpoint(tmp_path)], resume="last", start=False)


@st.on("enter_work", reads={"epoch"})
def stop_at_two(ctx):
    if ctx.epoch == 1:
        raise ZeroDivisionError


# ---------------------------------------------------------------- callbacks and guards


def shown(callbacks, **fields):
    """A run of three rounds, each with a row, by a clock that stands still."""

    @define(eq=False)
    class Rows(Small):
        step: int = 0

    def work(ctx):
        "work"
        ctx.epoch += 1
        ctx.step += 2
        ctx.add_row({"error": 1 / ctx.epoch})

    life = SMALL.replace("work", action=work).replace("head", role="next_epoch")
    return st.run(life, Rows(clock=FakeClock(), **fields), callbacks)


def test_progress_shows_a_run_of_your_own(capsys):
    "A line for each row, and how it ended."
    shown([st.Progress("plain")])
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1  error 1.000  0.0 s",
        "epoch 2  error 0.5000  0.0 s",
        "epoch 3  error 0.3333  0.0 s",
        "small completed: 3 epochs, 6 steps, 0.0 s",
    ]
    shown([st.Progress("plain")], verbose=False)
    assert capsys.readouterr().out == ""


def test_logs_of_a_run_of_your_own(tmp_path):
    "Structured events, lines of JSON, and a file for spreadsheets have its rows with its counters."
    log, lines, table = tmp_path / "log", tmp_path / "rows.jsonl", tmp_path / "rows.csv"
    shown(
        [
            st.Log(file=log, timestamps=False, format="json"),
            st.JSONLines(lines),
            st.CSVLogger(table),
        ]
    )
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["event"] for event in events] == [
        "fit started",
        *["row recorded"] * 3,
        "fit ended",
    ]
    assert events[0]["lifecycle"] == "small"
    assert events[-1]["outcome"] == "completed"
    assert (events[-1]["epoch"], events[-1]["step"]) == (3, 6)
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert rows[1] == {"epoch": 2, "step": 4, "seconds": 0.0, "error": 0.5}
    assert table.read_text().splitlines()[:2] == ["epoch,step,seconds,error", "1,2,0.0,1.0"]


ROLES = ("epoch", "train", "next_batch", "draw", "batch", "pred", "loss", "backward", "step")
CHAIN = ("fit", *ROLES, "compute", "valid", "record", "next_epoch", "ending")
STATES = st.Lifecycle(
    "states",
    [*(S(name) for name in CHAIN), S("end", final=True)],
    [T(a, b) for a, b in zip(CHAIN, (*CHAIN[1:], "end"), strict=True)],
)


@pytest.mark.parametrize(
    "callback",
    [
        st.EMA(),
        st.KeepBest("error"),
        st.GradientClip(1.0),
        st.Freeze("a"),
        st.LRScheduler(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9),
        st.Schedule("opt.lr", lambda t: t),
        st.SaveWeights("weights.safetensors"),
        st.SanityCheck(),
        st.Progress(),
        st.Logger(st.JSONLines("rows.jsonl"), what=st.LearningRate()),
        st.Logger(st.JSONLines("rows.jsonl"), every=st.Every(2, "samples")),
    ],
    ids=repr,
)
def test_what_needs_more_is_refused_by_name(callback):
    "A lifecycle with all states, over a context that lacks the fields: the first one missing is named before the run."
    ctx = Small()
    with pytest.raises(st.ContractError, match=r"Callback '\w+' declares .*: Small has no '\w+'"):
        st.run(STATES, ctx, callback)
    assert ctx.state is None
    if not callback.anywhere:
        with pytest.raises(st.CallbackError, match=r"no state '\w+' in lifecycle 'small'"):
            st.run(SMALL, ctx, callback)


def test_a_checkpoint_is_due_by_a_counter_that_is_there(tmp_path):
    "Its interval is looked at before the run, as a guard on an arrow is."
    with pytest.raises(st.ContractError, match=r"'Checkpoint'.* reads 'samples': Small has no"):
        st.run(SMALL, Small(), st.Checkpoint(tmp_path / "runs", st.Every(9, "samples")))
    assert not (tmp_path / "runs").exists()


def test_a_callback_that_is_set_up_at_the_beginning_needs_one():
    "Without the role `fit`, a checkpoint would never be written and nothing be shown."
    life = SMALL.prefixed("my_")
    life = st.Lifecycle(
        "mine", [attrs.evolve(s, role=s.name) for s in life.states], life.transitions
    )
    with pytest.raises(st.CallbackError, match=r"'on_enter_fit': no state 'fit'"):
        st.run(life, Small(), st.Checkpoint("never"))
    for callback in (st.Progress(), st.Log()):
        with pytest.raises(
            st.CallbackError, match=r"no state of lifecycle 'mine' has the role 'fit'.*'my_fit'"
        ):
            st.run(life, Small(), callback)


def test_limits_of_time_need_no_field():
    "The clock is inherited; it starts with the run."
    clock = FakeClock(now=100.0)

    def wait(ctx):
        "wait"
        ctx.epoch += 1
        clock.advance(20)

    life = SMALL.replace("work", action=wait)
    life = life.add(T("head", "end", st.TimeLimit(seconds=30)), first=True)
    ctx = st.run(life, Small(clock=clock)).ctx
    assert (ctx.epoch, ctx.seconds) == (2, 40.0)
    later = st.run(life, ctx, start=False)
    clock.advance(500)  # between two runs no time counts
    assert later.walk().ctx.seconds == 60.0 or later.ctx.epoch == 3


def test_what_only_fit_has_is_refused_by_name():
    "A run of your own has no model to evaluate."
    run = st.run(SMALL, Small())
    for call in (
        lambda: run.model,
        lambda: run.fit(1),
        lambda: run.evaluate([]),
        lambda: run.predict([]),
    ):
        with pytest.raises(st.ConfigError, match=r"is for runs of fit; .* a Small"):
            call()
    assert run.caveats == []
    assert str(run).startswith("Completed(epoch=3) after")
    with pytest.raises(st.ConfigError, match="run takes a context"):
        st.run(SMALL, {})
