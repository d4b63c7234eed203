"""A callback hears the exit of what it heard enter, and only that; exits undo enters in reverse."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as strategies
from reference import bits
from torch.nn import functional as F

import statetrain as st
from statetrain.standard.fusing import fuse

SCOPES = ("epoch", "train", "batch", "valid", "valid_batch")
EVENTS = {"batch": st.SkipBatch, "valid_batch": st.SkipBatch}


class Pairs(st.Callback):
    """Notes what it hears, and raises an event in one of its hooks."""

    def __init__(self, heard, raises=None, at=1):
        self.heard, self.raises, self.at = heard, raises, at
        for scope in SCOPES:
            setattr(self, f"on_enter_{scope}", self.noting("enter", scope))
            setattr(self, f"on_exit_{scope}", self.noting("exit", scope))

    def noting(self, kind, scope):
        def note(ctx):
            self.heard.append((kind, scope))
            times = self.heard.count(("enter", scope))
            if kind == "enter" and scope == self.raises and times == self.at:
                raise EVENTS.get(scope, st.SkipEpoch)("not this one")

        return note


def data():
    generator = torch.Generator().manual_seed(0)
    X, y = torch.randn(12, 4, generator=generator), torch.arange(12) % 3
    return list(zip(X.split(4), y.split(4), strict=True))


def fit(callbacks, model=None, **options):
    torch.manual_seed(1)
    given = {"loss": F.cross_entropy, "optimizer": torch.optim.SGD, "opt_hparams": {"lr": 0.5}}
    model = model or torch.nn.Linear(4, 3)
    given |= {"valid": data(), "epochs": 2, "callbacks": callbacks, "verbose": False}
    return st.fit(model, data(), **{**given, **options})


@settings(deadline=None, max_examples=30)
@given(strategies.integers(0, 2), strategies.sampled_from(SCOPES), strategies.integers(1, 2))
def test_what_is_entered_is_left_and_nothing_else(who, scope, at):
    "Whoever raises an event on entering whatever: what each of three callbacks hears is brackets that fit."
    heard = [[], [], []]
    callbacks = [Pairs(log, scope if i == who else None, at) for i, log in enumerate(heard)]
    fit(callbacks)
    for log in heard:
        open_ = []
        for kind, name in log:
            if kind == "enter":
                open_.append(name)
            else:
                assert open_.pop() == name
        assert not open_
    # Those before it heard that the scope is entered, those after it did not
    entered = [log.count(("enter", scope)) for log in heard]
    assert entered == [entered[0]] * (who + 1) + [entered[0] - 1] * (2 - who)


def test_exits_come_in_reverse_and_an_exit_alone_is_heard():
    "The last that was entered is left first; a callback that hears no entering hears the exit of every state that was open."
    calls = []

    class Named(st.Callback):
        def __init__(self, name):
            self.name = name

        def on_enter_train(self, ctx):
            calls.append(f"enter {self.name}")
            if self.name == "b" and ctx.epoch == 1:
                raise st.SkipEpoch("not this one")

        def on_exit_train(self, ctx):
            calls.append(f"exit {self.name}")

    leaving = st.on("exit_train")(lambda ctx: calls.append("exit alone"))
    fit([Named("a"), Named("b"), leaving, Named("c")])
    assert calls == [
        *("enter a", "enter b", "exit b", "exit alone", "exit a"),
        *("enter a", "enter b", "enter c", "exit c", "exit b", "exit alone", "exit a"),
    ]


@pytest.mark.parametrize("averages", [1, 2, 3])
@pytest.mark.parametrize("skips", [False, True])
def test_averages_that_are_exchanged_leave_the_training_as_it_is(averages, skips):
    "However many look at validation, and though a validation is skipped before they have heard of it."

    @st.on("enter_valid")
    def skip(ctx):
        if skips and ctx.epoch == 1:
            raise st.SkipEpoch("no validation in the first epoch")

    plain = fit([])
    averaging = [st.EMA(0.5 + 0.1 * i, valid=True) for i in range(averages)]
    run = fit([skip, *averaging])
    assert bits(run.model) == bits(plain.model)
    loss = F.cross_entropy(
        averaging[-1].model(torch.cat([x for x, _ in data()])), torch.cat([y for _, y in data()])
    )
    assert run.history[-1]["valid_loss"] == pytest.approx(loss.item(), rel=1e-5)


# ---------------------------------------------------------------- only_if


def by_hand(epochs=5):
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    states = []
    for _ in range(epochs):
        for x, y in data():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        states.append(copy.deepcopy(model.state_dict()))
    return states


def test_a_condition_leaves_setting_up_alone():
    "only_if around callbacks that prepare themselves when a fit begins: they do, and act where the condition holds."
    torch.manual_seed(1)
    second = by_hand()[1]
    keep = st.KeepBest("valid_loss", "max")
    run = fit([st.only_if(st.MinEpochs(2), keep)], epochs=5)
    assert keep.best_epoch == 2
    torch.testing.assert_close(dict(run.model.state_dict()), dict(second))

    halves = st.LRScheduler(torch.optim.lr_scheduler.ExponentialLR, per="epoch", gamma=0.5)
    run = fit([st.only_if(st.MinEpochs(2), halves)], epochs=5)
    assert run.ctx.opt.param_groups[0]["lr"] == 0.5 * 0.5**4  # of the epochs from the second on
    falling = st.Schedule("opt.lr", lambda n: 0.5**n, per="epoch")
    run = fit([st.only_if(st.MinEpochs(3), falling)], epochs=5)
    assert run.ctx.opt.param_groups[0]["lr"] == 0.5**4


@pytest.mark.parametrize("gate", ["only_if", "throttle", "throttle by a guard"])
def test_a_condition_on_entering_counts_for_leaving(gate):
    "EMA(valid=True) behind a condition that changes, even in between: the average and the weights are always exchanged twice."
    asked = []

    def sometimes(ctx):
        asked.append(ctx.state)
        return len(asked) % 2 == 1

    ema = st.EMA(0.5, valid=True)
    wrapped = {
        "only_if": lambda: st.only_if(sometimes, ema, "on_enter_valid"),
        "throttle": lambda: st.throttle(ema, "on_enter_valid", 2),
        "throttle by a guard": lambda: st.throttle(ema, "enter_valid", st.Every(2, "epochs")),
    }[gate]()
    run = fit([wrapped], epochs=4)
    assert bits(run.model) == bits(fit([], epochs=4).model)
    assert set(asked) <= {"valid"}


# ---------------------------------------------------------------- rates


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_was_not_made_advances_no_schedule(fused):
    "Two of three batches are skipped on entering: one step, one advance, and the row has the rate of that step."
    skip = st.Callback()
    model = torch.nn.Linear(4, 3)

    def leave(ctx):
        if ctx.iter > 1:
            raise st.SkipBatch("not this one")

    setattr(skip, "on_enter_update" if fused else "on_enter_step", leave)
    tenth = st.LRScheduler(torch.optim.lr_scheduler.ExponentialLR, per="step", gamma=0.1)
    more = {"edits": [fuse], "non_finite": "ignore"} if fused else {}
    run = fit([skip, tenth], model, epochs=1, valid=None, **more)
    assert run.ctx.step == 1
    assert run.ctx.opt.param_groups[0]["lr"] == pytest.approx(0.05)
    assert run.history["lr"] == [0.5]


SCHEDULES = {
    "Schedule": lambda: st.Schedule("opt.lr", lambda n: 1.0 / (1 + n)),
    "Cyclic": lambda: st.LRScheduler(
        torch.optim.lr_scheduler.CyclicLR,
        per="step",
        base_lr=0.1,
        max_lr=1.0,
        step_size_up=4,
        cycle_momentum=False,
    ),
    "Cosine": lambda: st.LRScheduler(
        torch.optim.lr_scheduler.CosineAnnealingLR, per="step", T_max=10, eta_min=0.1
    ),
    "OneCycle": lambda: st.LRScheduler(
        torch.optim.lr_scheduler.OneCycleLR, per="step", max_lr=1.0, total_steps=20
    ),
    "Lambda": lambda: st.LRScheduler(
        torch.optim.lr_scheduler.LambdaLR, per="step", lr_lambda=lambda n: 0.9**n
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_rate_that_was_lowered_for_good_stays_lower(name):
    "RollBack(factor=0.5): from then on each rate is half of what it is without, to the end, also after a second fit."

    def rates(batches):
        seen = []
        tell = st.on("enter_step")(lambda ctx: seen.append(ctx.opt.param_groups[0]["lr"]))
        torch.manual_seed(0)
        run = st.fit(
            torch.nn.Linear(4, 3),
            batches,
            loss=F.cross_entropy,
            optimizer=torch.optim.SGD,
            opt_hparams={"lr": 1.0},
            epochs=1,
            non_finite=st.RollBack(factor=0.5),
            callbacks=[tell, SCHEDULES[name]()],
            verbose=False,
        )
        if name != "OneCycle":
            run.fit(1)
        return seen

    clean = [*data(), *data()]
    broken = [*clean[:3], (clean[0][0] * float("nan"), clean[0][1]), *clean[3:]]
    ratios = [a / b for a, b in zip(rates(broken), rates(clean), strict=False)]
    assert ratios[:3] == [1.0] * 3
    assert ratios[3:6] == pytest.approx([0.5] * 3)
    assert ratios[9:] == pytest.approx([ratios[9]] * len(ratios[9:])) if ratios[9:] else True


def test_the_column_has_the_rate_with_which_the_step_was_made():
    "Also where a callback sets it on entering the step, after the batch has begun."

    class Sets(st.Callback):
        writes = {"on_enter_step": {"optimizers"}}

        def on_enter_step(self, ctx):
            ctx.opt.param_groups[0]["lr"] = 0.125

    constant = st.LRScheduler(torch.optim.lr_scheduler.ConstantLR, factor=1.0)
    run = fit([constant, Sets()])
    assert run.history["lr"] == [0.125, 0.125]


@pytest.mark.parametrize(
    "make",
    [
        lambda: [st.Schedule("opt.lr", 0.1), st.Schedule("opt[0].lr", 0.2)],
        lambda: [st.Schedule("opt.lr", 0.1), SCHEDULES["Cosine"]()],
        lambda: [SCHEDULES["Lambda"](), st.Schedule("opt.lr", 0.1, per="epoch")],
        lambda: [SCHEDULES["OneCycle"](), st.Schedule("opt.momentum", 0.1)],
    ],
)
def test_two_that_set_one_value_are_refused(make):
    "Before the first batch, by name; what sets different values is not."
    with pytest.raises(st.ConfigError, match="set the same value, so one of them would do nothing"):
        fit(make(), opt_hparams={"lr": 0.1, "momentum": 0.9})
    fit(
        [st.Schedule("opt.momentum", 0.5), SCHEDULES["Cosine"]()],
        opt_hparams={"lr": 0.1, "momentum": 0.9},
    )
