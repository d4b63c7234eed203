"""Mixed precision is an edit of the table, and does what the loops in torch's own documentation do."""

from __future__ import annotations

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import ExponentialLR

import statetrain as st
from statetrain.callbacks.gradient_clip import GradientClip
from statetrain.callbacks.lr_scheduler import LRScheduler
from statetrain.contracts.composing import parts_of
from statetrain.errors import ConfigError, LossError
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.standard.precision import Autocast, MixedPrecision, mixed_precision


def batches(data, size=8):
    return list(zip(*(column.split(size) for column in data), strict=True))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def fit(data, model=None, **options):
    common = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1, "momentum": 0.9},
        "epochs": 2,
    }
    return st.fit(net() if model is None else model, data, **{**common, **options})


def scaler(**options):
    return torch.amp.GradScaler("cpu", **{"init_scale": 2.0**10, **options})


def by_hand(data, dtype, scaler=None, epochs=2, accumulate=1, max_norm=None):
    """The loop of torch's documentation. Gives the model, the optimizer, the losses of the epochs, and the steps made."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler, losses, skipped = scaler or torch.amp.GradScaler("cpu", enabled=False), [], 0
    for _ in range(epochs):
        total = count = 0
        for i, (x, y) in enumerate(data):
            with torch.autocast("cpu", dtype):
                loss = F.cross_entropy(model(x), y)
            total, count = total + loss.item() * len(x), count + len(x)
            scaler.scale(loss / accumulate).backward()
            if (i + 1) % accumulate:
                continue
            if max_norm is not None:
                scaler.unscale_(optimizer)
                clip_grad_norm_(model.parameters(), max_norm)
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            skipped += scaler.get_scale() < before
            optimizer.zero_grad()
        losses.append(total / count)
    return model, optimizer, losses, epochs * len(data) // accumulate - skipped


def test_bf16_is_the_loop_with_autocast(points):
    "Weights, the optimizer's state and the losses are those of a loop with autocast around the model and the loss."
    model, optimizer, losses, _ = by_hand(batches(points), torch.bfloat16)
    run = fit(batches(points), precision="bf16")

    assert bits(run.model, run.ctx.opt) == bits(model, optimizer)
    assert run.history["train_loss"] == losses
    assert run.ctx.scaler is None
    assert losses != fit(batches(points)).history["train_loss"]


def test_fp16_is_the_loop_with_a_scaler(points):
    "Weights, state, losses and scale are those of a loop with autocast and a gradient scaler; the logged loss has no scale."
    twin = scaler(growth_interval=2)
    model, optimizer, losses, steps = by_hand(batches(points), torch.float16, twin)
    run = fit(batches(points), precision=MixedPrecision("fp16", scaler=scaler(growth_interval=2)))

    assert bits(run.model, run.ctx.opt) == bits(model, optimizer)
    assert run.history["train_loss"] == losses
    assert run.ctx.step == steps == 6
    assert run.ctx.scaler.state_dict() == twin.state_dict()
    assert run.ctx.scaler.get_scale() == 2.0**13


@pytest.mark.parametrize("first", [True, False])
def test_hooks_of_step_see_gradients_without_scale(first, points):
    "Clipping is that of a loop that unscales first, wherever the callback stands."
    norms = []

    class Norm(st.Callback):
        def on_exit_backward(self, ctx):
            norms.append(ctx.accelerator.grad_norm(ctx.opt))

        def on_enter_step(self, ctx):
            norms.append(ctx.accelerator.grad_norm(ctx.opt))

    model, optimizer, *_ = by_hand(batches(points), torch.float16, scaler(), max_norm=0.1)
    clip, norm = GradientClip(max_norm=0.1), Norm()
    run = fit(
        batches(points),
        precision=MixedPrecision("fp16", scaler=scaler()),
        callbacks=[clip, norm] if first else [norm, clip],
    )

    assert bits(run.model, run.ctx.opt) == bits(model, optimizer)
    assert norms[0] > 100
    assert norms[1] == pytest.approx(0.1 if first else norms[0] / 2**10, rel=1e-3)


def test_accumulation_divides_once(points):
    "With accumulation, the mean of a window is that of a loop that scales the loss and divides it."
    data = batches([column[:16] for column in points], 4)
    model, optimizer, losses, steps = by_hand(data, torch.float16, scaler(), accumulate=2)
    run = fit(data, precision=MixedPrecision("fp16", scaler=scaler()), accumulate=2)

    assert bits(run.model, run.ctx.opt) == bits(model, optimizer)
    assert run.history["train_loss"] == losses
    assert run.ctx.step == steps == 4


def test_gradients_that_overflow_make_no_step(points):
    "Steps are skipped until the scale fits, as torch does it; they are not counted, schedules do not move, the trace shows it."
    twin = scaler(init_scale=2.0**20, backoff_factor=2.0**-3)
    model, optimizer, losses, steps = by_hand(batches(points), torch.float16, twin)
    run = fit(
        batches(points),
        precision=MixedPrecision("fp16", scaler=scaler(init_scale=2.0**20, backoff_factor=2.0**-3)),
        callbacks=LRScheduler(ExponentialLR, per="step", gamma=1.0),
        trace=True,
    )
    arrow = run.lifecycle.between("unscale", "next_batch")[0]

    assert bits(run.model, run.ctx.opt) == bits(model, optimizer)
    assert run.ctx.step == steps
    assert run.trace.counts()[arrow] == 6 - steps > 0
    assert run.machine.callbacks[0].state_dict()["schedule"]["last_epoch"] == steps
    assert run.ctx.scaler.get_scale() == twin.get_scale()
    assert run.history["train_loss"] == losses


def test_an_overflow_discards_the_window(points):
    "With accumulation, what overflowed does not leak into the next window."
    left = []

    class Grads(st.Callback):
        def on_enter_pred(self, ctx):
            if not ctx.pending:
                left.extend(p.grad for p in ctx.model.parameters() if p.grad is not None)

    big = MixedPrecision("fp16", scaler=scaler(init_scale=2.0**30, backoff_factor=2.0**-24))
    run = fit(batches(points), precision=big, accumulate=2, epochs=1, callbacks=Grads())

    assert run.ctx.step == 1  # of two windows
    assert not left
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


class Two(nn.Module):
    """Two layers, each of which has an optimizer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.first(x) + self.second(x)


def test_several_optimizers(points):
    "Each optimizer's turn is under autocast, scaled and unscaled; the scale is adapted in each turn."
    twin, model = scaler(growth_interval=3), Two()
    optimizers = {
        name: torch.optim.SGD(getattr(model, name).parameters(), lr=0.1)
        for name in ("first", "second")
    }
    for x, y in batches(points):
        for name, optimizer in optimizers.items():
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = F.cross_entropy(model(x), y)
            twin.scale(loss).backward(inputs=list(getattr(model, name).parameters()))
            twin.step(optimizer)
            twin.update()

    run = fit(
        batches(points),
        Two(),
        optimizer={"first": torch.optim.SGD, "second": torch.optim.SGD},
        opt_hparams={"lr": 0.1},
        epochs=1,
        precision=MixedPrecision("fp16", scaler=scaler(growth_interval=3)),
    )

    assert bits(run.model) == bits(model)
    assert run.ctx.scaler.get_scale() == twin.get_scale() == 2.0**12


def test_the_norm_that_is_checked_has_no_scale(points):
    "With check_gradients, `grad_norm` comes after `unscale`, so an overflow is skipped and not reported as a NaN."
    norms = []

    class Norm(st.Callback):
        def on_exit_grad_norm(self, ctx):
            norms.append(ctx.grad_norm)

    big = MixedPrecision("fp16", scaler=scaler(init_scale=2.0**30, backoff_factor=2.0**-24))
    run = fit(batches(points), precision=big, check_gradients=True, callbacks=Norm(), epochs=1)

    assert run.ctx.step == len(norms) == 2
    assert max(norms) < 10


@pytest.mark.parametrize(
    "precision", ["bf16", torch.bfloat16, MixedPrecision("bf16", valid=False)], ids=str
)
def test_validation(precision, points):
    "Validation is in the same precision, unless said otherwise; metrics are computed outside of it; evaluate is in full."
    seen = []

    def casting(pred, target):
        seen.append((pred.dtype, torch.is_autocast_enabled("cpu")))
        return pred.float().sum()

    given = precision if isinstance(precision, MixedPrecision) else MixedPrecision(precision)
    run = fit(
        batches(points),
        valid=batches(points),
        precision=given,
        metrics=casting,
        opt_hparams={"lr": 0.0},
        epochs=1,
    )
    full, short = torch.float32, torch.bfloat16

    assert seen == [(short, False)] * 3 + [(short if given.valid else full, False)] * 3
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=given.valid):
        by_hand = [F.cross_entropy(run.model(x), y).item() * len(x) for x, y in batches(points)]
    assert run.history["valid_loss"] == [sum(by_hand) / 22]
    seen.clear()
    run.evaluate(batches(points))
    assert seen == [(full, False)] * 3


def test_a_validation_of_ones_own(points):
    "A function in place of validation's model and loss is under autocast in the fit, and not in evaluate."
    seen = []

    def validate(ctx):
        ctx.pred = ctx.model(ctx.input)
        seen.append(ctx.pred.dtype)
        return F.cross_entropy(ctx.pred, ctx.target)

    run = fit(
        batches(points), valid=batches(points), precision="bf16", valid_compute=validate, epochs=1
    )
    run.evaluate(batches(points))

    assert seen == [torch.bfloat16] * 3 + [torch.float32] * 3


# ---------------------------------------------------------------- the table


def test_what_is_off_is_not_there():
    "Without precision the table is the same, state by state; bf16 adds no state and no arrow."
    plain, bf16 = st.supervised(), st.supervised(precision="bf16")

    assert st.supervised(precision=None) == plain
    assert (bf16.names, bf16.transitions) == (plain.names, plain.transitions)
    assert [
        state.name
        for state in bf16.states
        if any(isinstance(part, Autocast) for part in parts_of(state.action))
    ] == [
        "pred",
        "loss",
        "valid_pred",
        "valid_loss",
    ]


@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        ({}, "backward", "step"),
        ({"accumulate": 4}, "backward", "step"),
        ({"check_gradients": True}, "backward", "grad_norm"),
        ({"optimizers": 2}, "backward", "step"),
    ],
    ids=str,
)
def test_fp16_adds_a_state_and_an_arrow(options, before, after):
    "`unscale` stands behind `backward`, before the norm and the step; the other arrows keep their guards and effects."
    plain, fp16 = st.supervised(**options), st.supervised(**options, precision="fp16")
    moved = plain.between(before, after)[0]

    assert set(fp16.names) - set(plain.names) == {"unscale"}
    assert fp16.between(before, "unscale")[0].effect == moved.effect
    assert [str(arrow) for arrow in fp16.arrows("unscale")] == [
        "unscale -> next_batch [gradients overflowed] / discard the window",
        f"unscale -> {after}",
    ]
    assert len(fp16.transitions) == len(plain.transitions) + 2


def test_it_can_be_said_where_the_run_is_made_or_where_the_table_is(points):
    "An option of `fit`, of `supervised`, an edit of one's own lifecycle: all are the same table and the same training."
    ways = [
        {"precision": "fp16"},
        {"lifecycle": st.supervised(precision="fp16", validate=None)},
        {"lifecycle": st.supervised(validate=None), "precision": "fp16"},
        {"lifecycle": mixed_precision(st.supervised(validate=None), MixedPrecision(torch.float16))},
    ]
    runs = [fit(batches(points), epochs=1, **way) for way in ways]

    assert len({run.lifecycle.fingerprint for run in runs}) == 1
    assert len({str(bits(run.model)) for run in runs}) == 1
    assert all(run.ctx.scaler.get_scale() == 2.0**16 for run in runs)


def own_backward(ctx):
    ctx.loss_grad.backward()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: st.supervised(precision="fp61"),
            "must be 'bf16' or 'fp16', got 'fp61'; did you mean 'fp16'",
        ),
        (lambda: MixedPrecision(torch.float64), "got torch.float64"),
        (lambda: MixedPrecision("bf16", scaler=scaler()), "scaler= is for 'fp16'"),
        (
            lambda: mixed_precision(st.supervised(precision="bf16"), "fp16"),
            "in mixed precision already",
        ),
        (lambda: st.supervised(precision="bf16", closure=True), "computes the loss again"),
        (
            lambda: st.supervised(precision="bf16", compute=print),
            r"no state 'pred'.*with ctx.accelerator.autocast\('bfloat16'\)",
        ),
        (lambda: mixed_precision(st.evaluation(), "bf16"), "no state 'pred'"),
        (
            lambda: mixed_precision(
                st.supervised().replace("backward", action=own_backward), "fp16"
            ),
            "has a backward of its own",
        ),
    ],
    ids=["word", "type", "scaler", "twice", "closure", "compute", "evaluation", "backward"],
)
def test_what_cannot_be_in_mixed_precision(make, message):
    "Each refusal says what is in the way, and what to do."
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_missing_loss_is_still_missed(points):
    "Under autocast, too, a state that needs a loss function says so before training."
    with pytest.raises(ConfigError, match="state 'loss' needs a loss"):
        st.fit(
            net(),
            points,
            optimizer=torch.optim.SGD,
            lifecycle=st.supervised(precision="bf16", validate=None),
        )


def test_an_optimizer_without_gradients(points):
    "A scaled loss that reaches none of an optimizer's parameters is an error that names the optimizer."
    model = Two()
    model.forward = model.first.forward
    with pytest.raises(LossError, match="optimizer 'second' has no gradients"):
        fit(
            batches(points),
            model,
            optimizer={"first": torch.optim.SGD, "second": torch.optim.SGD},
            opt_hparams={"lr": 0.1},
            precision="fp16",
        )


def test_a_scaler_that_is_switched_off(points):
    "A disabled scaler leaves autocast alone, as torch means it."
    model, optimizer, *_ = by_hand(batches(points), torch.float16)
    run = fit(
        batches(points),
        precision=MixedPrecision("fp16", scaler=torch.amp.GradScaler("cpu", enabled=False)),
    )

    assert bits(run.model, run.ctx.opt) == bits(model, optimizer)


def test_an_action_of_ones_own_is_cast_too(points):
    "A `pred` of one's own computes under autocast like the usual one."
    seen = []

    def my_pred(ctx):
        ctx.pred = ctx.model(ctx.input)
        seen.append(ctx.pred.dtype)

    life = (
        st.supervised(validate=None)
        .replace(State("pred", my_pred, "batch"))
        .add(Transition("pred", "next_batch", lambda ctx: False))
    )
    fit(batches(points), lifecycle=life, precision="bf16", epochs=1)

    assert seen == [torch.bfloat16] * 3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_phases_are_in_mixed_precision_each(precision):
    "States are found by their roles: a prefix changes nothing, and each phase has its own scale."
    life = st.supervised(evaluations={"test": st.Every(1, "epochs")})
    first = mixed_precision(life.prefixed("a_"), precision)
    assert first == mixed_precision(life, precision).prefixed("a_")
    both = mixed_precision(life.prefixed("a_").then(life.prefixed("b_")), precision)
    assert both == first.then(mixed_precision(life.prefixed("b_"), precision))
