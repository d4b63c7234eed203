"""`LRScheduler` changes the learning rate as a loop written by hand does, at the times that were asked for."""

from __future__ import annotations

import copy

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler as schedules

import statetrain as st
from statetrain.callbacks.lr_scheduler import LRScheduler
from statetrain.errors import ConfigError


def batches(data, size=8):
    return list(zip(*(column.split(size) for column in data), strict=True))


def fit(model, data, callbacks, **options):
    common = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1, "momentum": 0.9},
        "epochs": 3,
    }
    return st.fit(model, data, callbacks=callbacks, **{**common, **options})


def by_hand(model, data, make, per, epochs=3, monitor=None):
    """The loop that everyone writes, and the rate of each epoch's last step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule, rates = make(optimizer), []
    for _ in range(epochs):
        total = count = 0
        for x, y in data:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            rate = optimizer.param_groups[0]["lr"]
            optimizer.step()
            total, count = total + loss.item() * len(x), count + len(x)
            if per == "step":
                schedule.step()
        rates.append(rate)
        if per == "epoch":
            schedule.step(*([total / count] if monitor else []))
    return optimizer, rates


@pytest.mark.parametrize(
    ("scheduler", "arguments", "per"),
    [
        (schedules.StepLR, {"step_size": 1, "gamma": 0.5}, "epoch"),
        (schedules.CosineAnnealingLR, {"T_max": 9}, "step"),
        (schedules.OneCycleLR, {"max_lr": 0.3, "total_steps": 9}, "step"),
        (schedules.LambdaLR, {"lr_lambda": lambda n: 1 / (1 + n)}, "epoch"),
        (schedules.MultiStepLR, {"milestones": [1, 2]}, "epoch"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_loop_written_by_hand(scheduler, arguments, per, points):
    "Weights and the optimizer's state are those of the usual loop, and each row has the rate of its last step."
    torch.manual_seed(0)
    model, twin = nn.Linear(4, 3), nn.Linear(4, 3)
    twin.load_state_dict(model.state_dict())
    optimizer, rates = by_hand(twin, batches(points), lambda opt: scheduler(opt, **arguments), per)

    run = fit(model, batches(points), LRScheduler(scheduler, per=per, **arguments))

    assert bits(run.model, run.ctx.opt) == bits(twin, optimizer)
    assert run.history["lr"] == rates
    assert len(set(rates)) == 3
    assert run.ctx.opt.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_a_function_can_make_the_schedule(points):
    "Schedules that are made of others are given as a function of the optimizer."

    def warm_up(optimizer):
        return schedules.SequentialLR(
            optimizer,
            [
                schedules.LinearLR(optimizer, 0.25, total_iters=1),
                schedules.ExponentialLR(optimizer, 0.5),
            ],
            milestones=[1],
        )

    model, twin = nn.Linear(4, 3), nn.Linear(4, 3)
    _, rates = by_hand(twin, batches(points), warm_up, "epoch")

    assert fit(model, batches(points), LRScheduler(warm_up)).history["lr"] == rates


def test_a_plateau_is_one_of_the_histories_values(points):
    "ReduceLROnPlateau takes the mean of the epoch from the row, not the loss of the last batch."
    plateau = {"patience": 0, "threshold": 0.3, "factor": 0.1}
    model, twin = nn.Linear(4, 3), nn.Linear(4, 3)
    twin.load_state_dict(model.state_dict())
    _, rates = by_hand(
        twin,
        batches(points),
        lambda opt: schedules.ReduceLROnPlateau(opt, **plateau),
        "epoch",
        6,
        monitor=True,
    )

    run = fit(
        model,
        batches(points),
        LRScheduler(schedules.ReduceLROnPlateau, monitor="train_loss", **plateau),
        epochs=6,
    )

    assert run.history["lr"] == rates
    assert rates[0] > rates[-1]


def test_after_each_validation(points):
    "With validation inside an epoch, a schedule goes on after each of them, with the value of its row."
    seen = []

    class Spy(schedules.ReduceLROnPlateau):
        def step(self, metrics, epoch=None):
            seen.append(metrics)
            super().step(metrics)

    run = fit(
        nn.Linear(4, 3),
        batches(points),
        LRScheduler(Spy, per="valid", monitor="valid_loss"),
        valid=batches(points),
        validate=st.Every(2, "steps"),
        epochs=2,
    )

    assert seen == run.history["valid_loss"]
    assert len(seen) == 3


def test_after_each_validation_without_a_value(points):
    "A schedule that takes no value goes on after each validation, too; a row without one leaves it where it is."
    run = fit(
        nn.Linear(4, 3),
        batches(points),
        LRScheduler(schedules.ExponentialLR, per="valid", gamma=0.5),
        valid=batches(points),
        validate=st.Every(2, "epochs"),
        epochs=5,
    )

    assert run.history["lr"] == [0.1, 0.1, 0.05, 0.05, 0.025]


def test_steps_of_the_optimizer_are_counted_not_batches(points):
    "With accumulation, a schedule per step goes on once a window."
    scheduler = LRScheduler(schedules.ExponentialLR, per="step", gamma=0.5)
    run = fit(nn.Linear(4, 3), batches(points), scheduler, accumulate=2, epochs=1)

    assert run.ctx.step == 2
    assert run.ctx.opt.param_groups[0]["lr"] == 0.1 * 0.5**2


def test_a_step_that_an_event_leaves_is_none(points):
    "Where an event leaves `step` before it was made, the schedule stays where it is."

    class SkipFirst(st.Callback):
        def on_enter_step(self, ctx):
            if ctx.iter == 1:
                raise st.SkipBatch

    run = fit(
        nn.Linear(4, 3),
        batches(points),
        [LRScheduler(schedules.ExponentialLR, per="step", gamma=0.5), SkipFirst()],
        epochs=1,
    )

    assert run.ctx.step == 2
    assert run.ctx.opt.param_groups[0]["lr"] == 0.1 * 0.5**2


def test_an_epoch_that_was_stopped_midway_is_none(points):
    "A schedule per epoch goes on after complete epochs only."
    run = fit(
        nn.Linear(4, 3),
        batches(points),
        LRScheduler(schedules.ExponentialLR, gamma=0.5),
        max_steps=5,
    )

    assert [row["epoch_complete"] for row in run.history] == [True, False]
    assert run.history["lr"] == [0.1, 0.05]
    assert run.ctx.opt.param_groups[0]["lr"] == 0.05


def test_a_fit_that_goes_on_goes_on_with_its_schedule(points):
    "Two epochs and two more are four."
    whole = fit(
        nn.Linear(4, 3),
        batches(points),
        LRScheduler(schedules.CosineAnnealingLR, T_max=5),
        epochs=4,
    )
    parts = fit(
        nn.Linear(4, 3),
        batches(points),
        LRScheduler(schedules.CosineAnnealingLR, T_max=5),
        epochs=2,
    ).fit(2)

    assert parts.history["lr"] == whole.history["lr"]


def test_a_rate_that_is_a_tensor_is_logged_as_a_number_is(points):
    """The column has the rate of the epoch's last step, though the schedule changes the tensor in place."""
    columns = []
    for rate in (0.5, torch.tensor(0.5)):
        torch.manual_seed(0)
        run = fit(
            nn.Linear(4, 3),
            batches(points),
            LRScheduler(schedules.ExponentialLR, gamma=0.5, per="step"),
            opt_hparams={"lr": rate, "foreach": False},
        )
        columns.append(run.history["lr"])
    assert columns[0] == columns[1]


def test_it_can_be_used_again(points):
    "A second fit with the same callback has a schedule of its own."
    scheduler = LRScheduler(schedules.ExponentialLR, gamma=0.5)
    first, second = (fit(nn.Linear(4, 3), batches(points), scheduler) for _ in range(2))

    assert first.history["lr"] == second.history["lr"] == [0.1, 0.05, 0.025]
    # A new schedule for the first optimizer, from the rate that it has
    assert first.fit(1).history["lr"][-1] == 0.0125


def test_it_is_continued_from_its_saved_state(points):
    "A callback that is loaded goes on where the saved one was, for a fresh optimizer with the saved rate."
    options = {"max_lr": 0.3, "total_steps": 12}
    model = nn.Linear(4, 3)
    whole = fit(
        copy.deepcopy(model),
        batches(points),
        LRScheduler(schedules.OneCycleLR, per="step", **options),
        epochs=4,
    )
    saved = LRScheduler(schedules.OneCycleLR, per="step", **options)
    run = fit(model, batches(points), saved, epochs=2)
    ctx, loaded = run.ctx, LRScheduler(schedules.OneCycleLR, per="step", **options)
    optimizer = torch.optim.SGD(ctx.model.parameters(), lr=7.0)
    optimizer.load_state_dict(ctx.opt.state_dict())
    ctx.opt, ctx.optimizers, ctx.max_epochs = optimizer, {"opt": optimizer}, 4

    loaded.load_state_dict(saved.state_dict())
    st.Machine(run.lifecycle, [loaded]).run(ctx, at="next_epoch")

    assert ctx.history["lr"] == whole.history["lr"]
    assert bits(model) == bits(whole.model)


def test_a_stop_writes_no_row_for_its_sake(points):
    "A run that is stopped when nothing is new gets no row because of the rate."

    class Stops(st.Callback):
        def on_exit_record(self, ctx):
            ctx.request_stop("enough")

    run = fit(
        nn.Linear(4, 3),
        batches(points),
        [LRScheduler(schedules.ExponentialLR, gamma=0.5), Stops()],
        valid=batches(points),
        validate=st.Every(1, "steps"),
    )

    assert len(run.history) == 1


def test_the_saved_state_is_plain_data(points):
    "Tables such as MultiStepLR's, whose keys are numbers, are settings and not saved."
    scheduler = LRScheduler(schedules.MultiStepLR, milestones=[1, 2])
    assert scheduler.state_dict() == {}
    fit(nn.Linear(4, 3), batches(points), scheduler)

    assert "milestones" not in scheduler.state_dict()["schedule"]
    assert scheduler.state_dict()["schedule"]["last_epoch"] == 3


class Two(nn.Module):
    """Two layers, each of which has an optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.first(x) + self.second(x)


TWO = {
    "optimizer": {"first": torch.optim.SGD, "second": torch.optim.SGD},
    "opt_hparams": {"lr": 0.1},
}


@pytest.mark.parametrize(("name", "other"), [("first", "second"), ("second", "first")])
@pytest.mark.parametrize("per", ["step", "epoch"])
def test_one_of_several_optimizers(per, name, other, points):
    "The named optimizer's rate is changed and logged under its name; the other's stays."
    run = fit(
        Two(),
        batches(points),
        LRScheduler(schedules.ExponentialLR, per=per, optimizer=name, gamma=0.5),
        **TWO,
        epochs=2,
    )

    rates = {
        name: optimizer.param_groups[0]["lr"] for name, optimizer in run.ctx.optimizers.items()
    }
    assert rates == {other: 0.1, name: 0.1 * 0.5 ** (6 if per == "step" else 2)}
    assert run.history[f"lr_{name}"] == [
        0.1 * 0.5**n for n in ((2, 5) if per == "step" else (0, 1))
    ]


@pytest.mark.parametrize(
    ("scheduler", "options", "message"),
    [
        (
            LRScheduler(schedules.ExponentialLR, gamma=0.5),
            TWO,
            r"optimizers 'first', 'second'; say which one: optimizer='first'",
        ),
        (
            LRScheduler(schedules.ExponentialLR, optimizer="secnd", gamma=0.5),
            TWO,
            "no optimizer 'secnd'; did you mean 'second'",
        ),
        (
            LRScheduler(schedules.ReduceLROnPlateau, monitor="valid_los"),
            {"valid": 0.5},
            "nothing writes the monitor 'valid_los'; did you mean 'valid_loss'",
        ),
        (
            LRScheduler(schedules.ReduceLROnPlateau, monitor="valid_loss"),
            {},
            "no validation data, give valid=",
        ),
    ],
    ids=["several", "misspelt", "monitor", "no validation"],
)
def test_what_is_wrong_with_a_run_is_said_before_it(scheduler, options, message, points):
    "Optimizers and monitors that are not there are errors before anything runs."
    with pytest.raises(ConfigError, match=message) as caught:
        fit(Two(), points, scheduler, **options)
    assert not hasattr(caught.value, "run")


def made() -> object:
    return schedules.StepLR(torch.optim.SGD([nn.Parameter(torch.zeros(1))]), 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LRScheduler(schedules.StepLR, per="epcoh", step_size=1),
            "per must be .* got 'epcoh'; did you mean 'epoch'",
        ),
        (lambda: LRScheduler(made()), r"made already; write LRScheduler\(StepLR"),
        (lambda: LRScheduler(0.1), "takes a class"),
        (
            lambda: LRScheduler(schedules.StepLR, step=1),
            "StepLR cannot be called with the optimizer",
        ),
        (
            lambda: LRScheduler(schedules.ReduceLROnPlateau),
            "say which column: monitor='valid_loss'",
        ),
        (
            lambda: LRScheduler(schedules.ReduceLROnPlateau, per="step", monitor="valid_loss"),
            "has no value per step",
        ),
    ],
    ids=["per", "an instance", "no class", "arguments", "no monitor", "per step"],
)
def test_arguments_that_do_not_fit_together(make, message):
    "What can be seen without a run is refused when the callback is made."
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (
            LRScheduler(schedules.StepLR, monitor="train_loss", step_size=1),
            "it takes no value; leave monitor out",
        ),
        (
            LRScheduler(lambda optimizer: schedules.ReduceLROnPlateau(optimizer)),
            "say which column it takes",
        ),
        (LRScheduler(lambda optimizer: 3), "must give a schedule, got int"),
        (
            LRScheduler(schedules.OneCycleLR, max_lr=1.0, pct_start=3.0),
            "OneCycleLR with .* makes no schedule",
        ),
    ],
    ids=["monitor", "no monitor", "no schedule", "values"],
)
def test_what_only_making_the_schedule_shows(scheduler, message, points):
    "What a function makes is looked at before the first batch."
    with pytest.raises(ConfigError, match=message) as caught:
        fit(nn.Linear(4, 3), points, scheduler)
    assert caught.value.run.ctx.iter == 0


def test_an_evaluation_moves_no_schedule(points):
    "Beside an evaluation of its run, the schedule stays where it is."
    scheduler = LRScheduler(schedules.ExponentialLR, per="valid", gamma=0.5)
    run = fit(nn.Linear(4, 3), batches(points), scheduler, valid=batches(points), epochs=1)
    run.evaluate(batches(points), callbacks=scheduler)

    assert run.ctx.opt.param_groups[0]["lr"] == 0.05


def test_a_guard_can_monitor_the_rate(points):
    "The column is declared, so a guard may stop the fit by it."
    run = fit(
        nn.Linear(4, 3),
        batches(points),
        LRScheduler(schedules.ExponentialLR, gamma=0.1),
        stop=st.Threshold("lr", 0.02),
        epochs=9,
    )

    assert run.outcome == st.Stopped(2, "lr at most 0.02")


@pytest.mark.parametrize("per", ["epoch", "step", "valid"])
def test_an_epoch_without_a_step_is_no_mistake(points, per):
    "All its batches were refused: the schedule goes on as it says, and torch's warning of a wrong order, which would be an error here, does not come."
    data = batches(points)
    epochs = iter([[(x * torch.nan, y) for x, y in data], data])
    lr = LRScheduler(schedules.ExponentialLR, per=per, gamma=0.5)
    run = fit(
        nn.Linear(4, 3), lambda: iter(next(epochs)), lr, epochs=2, non_finite="skip", valid=data
    )
    assert (run.outcome, run.ctx.step) == (st.Completed(2), 3)
    assert run.ctx.opt.param_groups[0]["lr"] == 0.1 * 0.5 ** (3 if per == "step" else 2)


def test_a_schedule_goes_on_with_any_hook(points):
    "With each batch, though a step takes two of them: by hand, two moves a step."
    model, twin = nn.Linear(4, 3), nn.Linear(4, 3)
    twin.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    found, data = [], batches(points)
    for _ in range(3):
        for i in range(0, len(data), 2):
            pair = data[i : i + 2]
            optimizer.zero_grad()
            for x, y in pair:
                F.cross_entropy(twin(x), y).backward()
            for _ in pair[1:]:
                optimizer.param_groups[0]["lr"] *= 0.9
            for p in twin.parameters():
                p.grad /= len(pair)
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            optimizer.param_groups[0]["lr"] *= 0.9
    rates = st.Watch("exit_step", rate=lambda ctx: ctx.opt.param_groups[0]["lr"])
    run = st.fit(
        model,
        data,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=3,
        accumulate=2,
        callbacks=[LRScheduler(schedules.ExponentialLR, per="exit_batch", gamma=0.9), rates],
    )
    assert [record["value"] for record in run.ctx.records["rate"]] == pytest.approx(found)
    assert bits(run.model) == bits(twin)


@pytest.mark.parametrize(
    ("per", "message"),
    [
        ("batch", "or a hook as 'exit_batch'"),
        ("exit_step", "work of its own on 'on_exit_step'; take one of per='step'"),
        (3, "per"),
    ],
)
def test_hooks_that_it_cannot_use_are_refused(per, message):
    "What is no hook, and those on which it does something else."
    with pytest.raises(ConfigError, match=message):
        LRScheduler(schedules.ExponentialLR, per=per, gamma=0.9)


def test_the_length_of_a_run_is_not_counted_in_other_events(points):
    "It says which argument to give."
    scheduler = LRScheduler(schedules.OneCycleLR, per="exit_batch", max_lr=0.1)
    with pytest.raises(ConfigError, match="is not known before; say total_steps="):
        fit(nn.Linear(4, 3), batches(points), scheduler)
