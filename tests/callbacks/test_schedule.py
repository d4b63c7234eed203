"""`Schedule` sets hyperparameters by the counters of the run."""

from __future__ import annotations

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler as torch_schedules

import statetrain as st
from statetrain.callbacks.schedule import Schedule
from statetrain.errors import CallbackError, ConfigError
from statetrain.schedules import cosine, linear, one_cycle


class Net(nn.Module):
    """A linear layer, dropout and another one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.dropout, self.out = nn.Linear(4, 6), nn.Dropout(0.2), nn.Linear(6, 3)
        self.register_buffer("temperature", torch.tensor(1.0))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, 3)."""
        return self.out(self.dropout(self.first(inputs).relu())) / self.temperature


class Watch(st.Callback):
    """Notes a value at the moment when it is used."""

    def __init__(self, read) -> None:
        self.read, self.seen = read, []

    def on_exit_pred(self, ctx):
        self.seen.append(self.read(ctx))


def fit(points, callbacks, **options):
    torch.manual_seed(0)
    common = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1, "momentum": 0.9},
        "epochs": 3,
        "seed": 1,
    }
    return st.fit(
        options.pop("model", None) or Net(),
        points,
        callbacks=callbacks,
        dataloader_options={"batch_size": 8},
        **{**common, **options},
    )


def rate(ctx):
    return ctx.opt.param_groups[0]["lr"]


def test_a_step_is_made_with_its_value(points):
    "The n-th step, from 0, is made with the schedule's n-th value, and the row of the history shows the last one."
    watch = Watch(rate)
    run = fit(points, [Schedule("opt.lr", lambda n: 1 / (n + 1), column="lr"), watch])
    assert watch.seen == [1 / (n + 1) for n in range(9)]
    assert run.history["lr"] == [1 / 3, 1 / 6, 1 / 9]


def test_an_epoch_is_made_with_its_value(points):
    "Epochs are counted from 0 too, and the value holds for all of one."
    watch = Watch(lambda ctx: ctx.model.dropout.p)
    run = fit(
        points,
        [Schedule("model.dropout.p", linear(0.5, 0.1, 2), per="epoch", column="dropout"), watch],
    )
    assert watch.seen == pytest.approx([0.5] * 3 + [0.3] * 3 + [0.1] * 3)
    assert run.history["dropout"] == pytest.approx([0.5, 0.3, 0.1])


@pytest.mark.parametrize("per", ["step", "epoch"])
def test_it_is_what_torch_does(per, points):
    "Weights and momentum are bit for bit those of a run with torch's own schedule."
    ours = fit(points, Schedule("opt.lr", lambda n: 0.1 * 0.5**n, per=per))
    theirs = fit(
        points, st.LRScheduler(torch_schedules.LambdaLR, per=per, lr_lambda=lambda n: 0.5**n)
    )
    assert bits(ours.model, ours.ctx.opt) == bits(theirs.model, theirs.ctx.opt)


def test_what_can_be_set(points):
    "Any setting of an optimizer, of all groups or one; parts of the loss, the model and the context; tensors in place."
    model, loss = Net(), nn.CrossEntropyLoss(label_smoothing=0.5)
    groups = [
        {"params": model.first.parameters()},
        {"params": model.out.parameters(), "weight_decay": 0.5},
    ]
    targets = {
        "opt.lr": (0.25, lambda ctx: {group["lr"] for group in ctx.opt.param_groups}, {0.25}),
        "opt[1].weight_decay": (
            0.75,
            lambda ctx: [group["weight_decay"] for group in ctx.opt.param_groups],
            [0.0, 0.75],
        ),
        "opt.param_groups[0].eps": (
            1e-3,
            lambda ctx: [group["eps"] for group in ctx.opt.param_groups],
            [1e-3, 1e-8],
        ),
        "opt.betas": (
            lambda n: (0.5, 0.75),
            lambda ctx: [group["betas"] for group in ctx.opt.param_groups],
            [(0.5, 0.75)] * 2,
        ),
        "loss.label_smoothing": (0.125, lambda ctx: loss.label_smoothing, 0.125),
        "model.dropout.p": (0.0, lambda ctx: model.dropout.p, 0.0),
        "model.temperature": (4.0, lambda ctx: model.temperature.item(), 4.0),
        "opt_hparams.note": (3, lambda ctx: ctx.opt_hparams["note"], 3),
        "buffers.beta": (0.5, lambda ctx: ctx.buffers["beta"], 0.5),
    }
    buffer = model.temperature
    run = st.fit(
        model,
        points,
        loss=loss,
        optimizer=torch.optim.Adam(groups, lr=0.1),
        epochs=1,
        start=False,
        callbacks=(watch := Watch(lambda ctx: [read(ctx) for _, read, _ in targets.values()])),
    )
    run.ctx.buffers["beta"], run.ctx.opt_hparams["note"] = 0.0, 0
    run.machine = st.Machine(
        run.lifecycle,
        [
            *run.machine.callbacks,
            *(Schedule(target, value) for target, (value, _, _) in targets.items()),
        ],
    )
    run.walk()
    assert watch.seen[-1] == [wanted for _, _, wanted in targets.values()]
    assert model.temperature is buffer


def test_the_weight_of_a_loss(points):
    "Losses by keys have weights, which can be scheduled: what is trained on is the sum as it is then."
    ones = st.Loss(lambda p: torch.ones(()) + 0 * p.sum(), p="pred", weight=1.0)
    losses = st.Losses(label=st.Loss(F.cross_entropy), more=ones)
    watch = st.Watch(
        "exit_loss", total="loss_value", label=lambda ctx: float(ctx.loss_states["label"].value)
    )
    run = fit(
        points, [Schedule("loss.more.weight", lambda n: 10.0 * n), watch], loss=losses, epochs=1
    )
    more = [
        total["value"] - label["value"]
        for total, label in zip(run.ctx.records["total"], run.ctx.records["label"], strict=True)
    ]
    assert more == pytest.approx([0.0, 10.0, 20.0], abs=1e-5)
    with pytest.raises(ConfigError, match="has no 'mor'; did you mean 'more'"):
        fit(points, Schedule("loss.mor.weight", 1.0), loss=losses)


def test_one_of_several_optimizers(points):
    "The target begins with the optimizer's name; the count is of rounds."
    model = nn.Sequential()
    model.first, model.out = nn.Linear(4, 4), nn.Linear(4, 3)
    model.forward = lambda inputs: model.out(model.first(inputs))
    optimizers = {
        "first": torch.optim.SGD(model.first.parameters(), lr=1.0),
        "out": torch.optim.SGD(model.out.parameters(), lr=1.0),
    }
    watch = Watch(
        lambda ctx: [optimizer.param_groups[0]["lr"] for optimizer in ctx.optimizers.values()]
    )
    fit(
        points,
        [Schedule("out.lr", lambda n: float(n)), watch],
        model=model,
        optimizer=optimizers,
        opt_hparams=None,
        epochs=1,
    )
    assert watch.seen == [[1.0, 0.0]] * 2 + [[1.0, 1.0]] * 2 + [[1.0, 2.0]] * 2


def test_batches_without_a_step_do_not_count(points):
    "A window of accumulated batches is made with one value."
    watch = Watch(rate)
    fit(points, [Schedule("opt.lr", lambda n: 1.0 + n), watch], accumulate=2, epochs=2)
    assert watch.seen == [1.0, 1.0, 2.0, 3.0, 3.0, 4.0]


def test_a_lifecycle_of_ones_own(points):
    "Batches are enough: no state `step` is needed. Without batches or epochs, it says what it needs."

    def compute(ctx):
        "compute and step"
        ctx.opt.zero_grad()
        F.cross_entropy(ctx.model(ctx.input), ctx.target).backward()
        ctx.opt.step()
        ctx.step += 1
        ctx.loss_value = 1.0
        ctx.pred = None

    life = (
        st.supervised(validate=None, non_finite="ignore")
        .insert(st.State("all", compute), between=("batch", "pred"))
        .without("pred", "loss", "backward", "step")
    )
    schedule, seen = Schedule("opt.lr", lambda n: 1.0 + n), []
    fit(
        points,
        [st.on("enter_all")(lambda ctx: seen.append(rate(ctx))), schedule],
        lifecycle=life,
        epochs=2,
    )
    assert seen == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    with pytest.raises(
        CallbackError,
        match="counts in the state 'batch', which lifecycle 'prediction' does not have",
    ):
        st.Machine(st.prediction(), schedule)


@pytest.mark.parametrize("per", ["step", "epoch"])
@pytest.mark.parametrize("cut", [4, 7])
def test_a_run_that_is_continued_is_the_same(per, cut, points, tmp_path):
    "Weights, momentum and history are those of a run that was never cut, wherever it was cut."

    def callbacks(folder):
        scheduled = [
            Schedule(
                "opt.lr",
                one_cycle(0.5, 9) if per == "step" else {0: 0.5, 2: 0.05},
                per=per,
                column="lr",
            ),
            Schedule(
                "model.dropout.p",
                cosine(0.5, 0.0, 9 if per == "step" else 3),
                per=per,
                column="dropout",
            ),
        ]
        return [*scheduled, st.Checkpoint(folder, every=st.Every(1, "steps"))]

    whole = fit(points, callbacks(tmp_path / "whole"), valid=points, validate=st.Every(2, "steps"))
    fit(
        points,
        callbacks(tmp_path / "cut"),
        valid=points,
        validate=st.Every(2, "steps"),
        max_steps=cut,
    )
    again = fit(
        points,
        callbacks(tmp_path / "cut"),
        valid=points,
        validate=st.Every(2, "steps"),
        resume="last",
        allow_changes={"lifecycle"},
    )
    assert bits(again.model, again.ctx.opt) == bits(whole.model, whole.ctx.opt)
    assert {**again.history[-1], "seconds": 0} == {**whole.history[-1], "seconds": 0}


def test_a_fit_that_goes_on_goes_on_with_it(points):
    "The counters go on, so the schedule does."
    watch = Watch(rate)
    run = fit(points, [Schedule("opt.lr", lambda n: 1.0 + n, per="epoch"), watch], epochs=2)
    run.fit(1)
    assert watch.seen == [1.0] * 3 + [2.0] * 3 + [3.0] * 3


@pytest.mark.parametrize(
    ("target", "schedule", "words"),
    [
        ("op.lr", 0.1, "no optimizer and no field of the context 'op'; did you mean 'opt'"),
        ("opt.lrr", 0.1, "a dict has no 'lrr'; did you mean 'lr'"),
        ("opt[2].lr", 0.1, r"one group of parameters, counted from 0; write 'opt\[0\].lr'"),
        ("model.dropuot.p", 0.1, "a Net has no 'dropuot'; did you mean 'dropout'"),
        ("model.dropout.q", 0.1, "a Dropout has no 'q'; known: p"),
        ("model.dropout", 0.1, "a schedule sets numbers, tuples of numbers and tensors"),
        ("loss.weight", 0.1, "has no 'weight'"),
        ("hparams.width", 0.1, "a dict has no 'width'"),
        ("opt.betas[0]", 0.1, "a dict has no 'betas'"),
        ("opt.lr", lambda n: "fast", "must give a finite number, as 0.1 is now, got 'fast'"),
        ("opt.lr", lambda n: float("nan"), "must give a finite number"),
        ("opt.lr", {0: (0.1, 0.2)}, "must give a finite number"),
    ],
)
def test_a_wrong_target_is_found_before_the_first_batch(target, schedule, words, points):
    "The message says what there is; nothing has been trained."
    model = Net()
    before = bits(model)
    with pytest.raises(ConfigError, match=words):
        fit(points, Schedule(target, schedule), model=model)
    assert bits(model) == before


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Schedule("lr", 0.1), "one part of something, such as 'opt.lr'"),
        (lambda: Schedule("opt..lr", 0.1), "must be a path"),
        (lambda: Schedule("model.*.p", 0.1), "one part of something"),
        (lambda: Schedule("opt.lr", 0.1, per="steps"), "did you mean 'step'"),
        (lambda: Schedule("opt.lr", None), "a function of a count, a number, or pieces"),
        (lambda: Schedule("opt.lr", {3: 0.1}), "the first by 0"),
    ],
)
def test_what_cannot_be_meant(make, words):
    "Targets that are no paths and schedules that are none are errors when the callback is made."
    with pytest.raises(ConfigError, match=words):
        make()


def test_a_tuple_is_set_as_a_whole(points):
    "A part of Adam's betas cannot be set alone."
    with pytest.raises(ConfigError, match="lies in a tuple; set that as a whole"):
        fit(
            points,
            Schedule("opt.betas[0]", 0.5),
            optimizer=torch.optim.Adam,
            opt_hparams={"lr": 0.1},
        )


def test_its_column_can_be_monitored(points):
    "The column is declared, so a guard may look at it; without one, the history has none."
    run = fit(
        points,
        Schedule("opt.lr", {0: 0.1, 2: 0.01}, per="epoch", column="rate"),
        stop=st.Threshold("rate", 0.05),
        epochs=9,
    )
    assert isinstance(run.outcome, st.Stopped)
    assert run.history["rate"] == [0.1, 0.1, 0.01]
    assert "rate" not in fit(points, Schedule("opt.lr", 0.1)).history.columns


def test_only_what_is_asked_for_is_listened_to():
    "A schedule per epoch costs a batch nothing."
    machine = st.Machine(
        st.supervised(), [Schedule("opt.lr", 0.1, per="epoch"), Schedule("opt.momentum", 0.1)]
    )
    assert set(machine.plan.hooks) == {
        "on_enter_fit",
        "on_resume",
        "on_enter_epoch",
        "on_exit_batch",
    }
    assert len(machine.plan.hooks["on_exit_batch"]) == 1


# ---------------------------------------------------------------- schedules that know the run


def rates(callback, **options):
    "The rates with which a run of 5 batches an epoch makes its steps."
    seen = []
    look = st.on("enter_step")(lambda ctx: seen.append(ctx.opt.param_groups[0]["lr"]))
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(4, 3, generator=generator), torch.arange(4) % 2) for _ in range(5)]
    given = {"train": data, "epochs": 4} | options
    st.fit(
        torch.nn.Linear(3, 2),
        given.pop("train"),
        loss=torch.nn.functional.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        callbacks=[callback, look],
        verbose=False,
        **given,
    )
    return seen


@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({}, 20),
        ({"accumulate": 2}, 12),
        ({"max_steps": 7}, 7),
        ({"accumulate": 2, "max_steps": 50}, 12),
    ],
    ids=str,
)
def test_a_schedule_takes_the_whole_run(options, total):
    "Its length follows from the data, the epochs, the accumulation and the limit; torch's are told it, too."
    assert rates(st.Schedule("opt.lr", one_cycle(0.5)), **options) == [
        one_cycle(0.5, total)(n) for n in range(total)
    ]
    approached = st.Schedule("opt.lr", st.schedules.warm_up(0.25, cosine(0.5)))
    rise = max(round(0.25 * total), 1)
    expected = [0.5 * n / rise for n in range(rise)]
    expected += [cosine(0.5, 0.0, total - rise)(n) for n in range(total - rise)]
    assert rates(approached, **options) == pytest.approx(expected)

    def torchs(**more):
        return st.LRScheduler(torch.optim.lr_scheduler.OneCycleLR, per="step", max_lr=0.5, **more)

    assert rates(torchs(), **options) == rates(torchs(total_steps=total), **options)


def test_a_schedule_takes_all_epochs_or_a_share():
    "Per epoch the epochs count; a share is rounded; a half of it leaves the value where it came to."
    by_epoch = rates(st.Schedule("opt.lr", linear(1.0, 0.0), per="epoch"))
    assert by_epoch[::5] == [1.0, 0.75, 0.5, 0.25]
    half = rates(st.Schedule("opt.lr", linear(1.0, 0.0, over=0.5)))
    assert half == [linear(1.0, 0.0, 10)(n) for n in range(20)]
    cosine_of_torch = torch.optim.lr_scheduler.CosineAnnealingLR
    assert rates(st.LRScheduler(cosine_of_torch, per="epoch")) == rates(
        st.LRScheduler(cosine_of_torch, per="epoch", T_max=4)
    )


def test_a_run_of_unknown_length_is_refused():
    "Before the first batch, with the remedy; a limit of steps is a length."

    def endless():
        while True:
            yield torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)

    with pytest.raises(st.ConfigError, match="how many steps that has is not known"):
        rates(st.Schedule("opt.lr", one_cycle(0.5)), train=endless)
    assert len(rates(st.Schedule("opt.lr", one_cycle(0.5)), train=endless, max_steps=6)) == 6
    with pytest.raises(ValueError, match="takes all of a run; say how long it is"):
        st.schedules.pieces({0: 0.1, 5: cosine(0.1)})
    with pytest.raises(ValueError, match=r"a share of the run above 0 and below 1, got 1\.5"):
        cosine(0.1, 0.0, over=1.5)


def test_a_planned_schedule_is_resumed_exactly():
    "At any anchor: the plan is the one of the run that was cut."

    def start():
        torch.manual_seed(0)
        data = [(torch.randn(4, 3), torch.arange(4) % 2) for _ in range(3)]
        return st.fit(
            torch.nn.Linear(3, 2),
            data,
            loss=torch.nn.functional.cross_entropy,
            optimizer=torch.optim.SGD,
            epochs=2,
            callbacks=[st.Schedule("opt.lr", one_cycle(0.5), column="rate")],
            start=False,
            seed=1,
        )

    st.testing.assert_resumable(start, anchors=5)
