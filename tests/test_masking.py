"""finite_check="late": the device leaves out what is not finite, the host never waits for it, and hears of it later."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from reference import bits
from test_metrics import Reads
from test_non_finite import all_finite, batches, net
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain import testing
from statetrain.compute import masking
from statetrain.naming import label_of


def fused(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True)


def train(model, data, **more):
    given = {
        "loss": F.cross_entropy,
        "optimizer": fused,
        "epochs": 1,
        "verbose": False,
        "finite_check": "late",
        "non_finite": "skip",
    }
    return st.fit(model, data, **{**given, **more})


OPTIMIZERS = {
    "fused SGD": fused,
    "fused AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
    "SGD, asked on the host": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "RMSprop, asked on the host": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01),
}


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_masked_step_leaves_no_trace(name, value, points):
    "Weights, running statistics and the optimizer's state are, bit by bit, those of a run that skipped the batch on the host."
    data = batches(points, nan_3=value)
    late = train(net(), data, optimizer=OPTIMIZERS[name])
    now = train(net(), data, optimizer=OPTIMIZERS[name], finite_check="now")
    assert bits(late.model) == bits(now.model)
    states = [[run.ctx.opt.state[p] for p in run.model.parameters()] for run in (late, now)]
    for mine, other in zip(*states, strict=True):
        assert all(
            torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(other[key]))
            for key in other
            if other[key] is not None
        )
    assert (late.ctx.step, late.ctx.masked, late.ctx.first_masked) == (6, 1, 3)
    assert late.history[0]["masked"] == 1
    assert late.history[0]["train_loss"] == pytest.approx(now.history[0]["train_loss"], rel=1e-6)


@pytest.mark.parametrize("name", ["fused SGD", "RMSprop, asked on the host"])
def test_where_torch_has_no_kernel_for_it_a_norm_is_computed(name, points, monkeypatch):
    "The same without torch's look at all gradients at once, as on MPS."
    monkeypatch.setattr(masking, "_DEVICES", ())
    test_a_masked_step_leaves_no_trace(name, math.inf, points)
    test_a_gradient_alone_is_masked_too(points)


def test_shorter_types_and_complex_numbers_are_looked_at_too(points):
    "Weights in bfloat16 beside others in float32, and complex ones: a gradient of any of them that is not finite leaves the step out."

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.short = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
            self.both = nn.Parameter(torch.ones(4, dtype=torch.complex64))
            self.out = nn.Linear(4, 3)

        def forward(self, x):
            return self.out(x * self.short.float() * self.both.abs())

    for weight in ("short", "both", "out.weight"):
        torch.manual_seed(0)
        model = Mixed()
        calls = []

        def spoilt(gradient, calls=calls):
            calls.append(1)
            return gradient * math.nan if len(calls) == 2 else gradient

        model.get_parameter(weight).register_hook(spoilt)
        run = train(model, batches(points), optimizer=torch.optim.SGD, opt_hparams={"lr": 0.1})
        assert (run.ctx.masked, run.ctx.first_masked) == (1, 2)
        assert all_finite(model)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_very_first_step_can_be_masked(name, points):
    "What an optimizer makes in its first step (torch's fused SGD leaves it uninitialised) is as if there had been none."
    data = batches(points, nan_1=math.nan, nan_2=math.nan)
    late = train(net(), data, optimizer=OPTIMIZERS[name])
    assert bits(late.model) == bits(train(net(), data[2:], optimizer=OPTIMIZERS[name]).model)
    assert late.ctx.masked == 2


def test_dampened_momentum_is_asked_about_on_the_host(points):
    "Its first step is unlike all others, and the device alone would not know which one that is."

    def dampened(parameters):
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, dampening=0.5, fused=True)

    data = batches(points, nan_1=math.nan)
    assert bits(train(net(), data, optimizer=dampened).model) == bits(
        train(net(), data[1:], optimizer=dampened).model
    )


def test_a_gradient_alone_is_masked_too(points):
    "A finite loss whose gradient is infinite makes no step; nothing more has to be asked for."
    calls = []

    def loss(pred, target):
        calls.append(1)
        root = (pred - pred.detach()).abs().sum().sqrt()  # 0, with an infinite slope
        return F.cross_entropy(pred, target) + (root if len(calls) == 3 else 0.0 * pred.sum())

    run = train(net(), batches(points), loss=loss)
    assert (run.ctx.masked, run.ctx.first_masked) == (1, 3)
    assert all_finite(run.model)


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate": 2},
        {"accumulate": 4},
        {"precision": "bf16"},
        {"seed": 1},
        {"valid": True, "validate": st.Every(2, "steps")},
    ],
    ids=str,
)
def test_with_other_options(options, points):
    "In a window all of it is left out; in mixed precision, with randomness by key, with validation inside the epoch."
    data = batches(points, nan_3=math.nan)
    options = {name: data[:2] if name == "valid" else value for name, value in options.items()}
    run = train(net(), data, epochs=2, **options)
    assert all_finite(run.model)
    assert run.ctx.masked == 2
    assert run.outcome == st.Completed(2)
    assert run.ctx.iter == 6


def test_with_several_optimizers(points):
    "Each has its own flag: the second one's loss leaves out its own step."
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    calls = []

    def spoilt(pred, target):
        calls.append(1)
        return F.cross_entropy(pred, target) * (math.nan if len(calls) == 2 else 1.0)

    optimizers = {name: fused(model[i].parameters()) for name, i in (("a", 0), ("b", 2))}
    run = train(
        model, batches(points), loss={"a": F.cross_entropy, "b": spoilt}, optimizer=optimizers
    )
    assert (run.ctx.step, run.ctx.masked, run.ctx.first_masked) == (6, 1, 2)
    assert all_finite(model)


# ---------------------------------------------------------------- what the host does


@pytest.mark.parametrize(("optimizer", "read"), [(fused, 0), (torch.optim.SGD, 1)])
def test_the_host_reads_nothing_in_a_step(optimizer, read, points):
    "With a fused optimizer no state of a batch reads a number; one that is not fused is asked about in `step`, once. Means are read in `record`."
    data = batches(points, nan_3=math.nan)
    run = train(
        net(), data, optimizer=optimizer, start=False, opt_hparams={"lr": 0.1} if read else None
    )
    reads, steps = Counter(), run.steps()
    while True:
        with Reads() as mode:
            transition = next(steps, None)
        if transition is None:
            break
        reads[transition.dest] += mode.count
    assert reads["step"] == read * 6
    assert {state for state, count in reads.items() if count} - {"settle", "record"} == (
        {"step"} if read else set()
    )


class Fused(torch.optim.SGD):
    """A stochastic gradient descent that keeps to the protocol of torch's fused optimizers on every device."""

    _step_supports_amp_scaling = True

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = torch.where(self.found_inf.bool(), p.data, p.data - group["lr"] * p.grad)


def test_on_a_device_without_numbers(points):
    "On the meta device every read by the host is an error: training with batch norm, dropout, metrics and masked steps makes none."
    life = st.supervised(
        finite_check="late", validate=st.Every(1, "epochs"), buffers=True, accumulate=2
    )
    life = life.replace("record", action=None).replace("settle", action=None)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    data = {
        "valid": batches(points),
        "device": "meta",
        "metrics": {"size": lambda pred, target: pred.mean()},
        "lifecycle": life,
    }
    given = {
        "loss": F.cross_entropy,
        "optimizer": Fused,
        "opt_hparams": {"lr": 0.1},
        "epochs": 3,
        "verbose": False,
    }
    run = st.fit(model, batches(points), **data, **given)
    assert run.ctx.step == 9
    assert run.ctx.on_host is False


# ---------------------------------------------------------------- the late report


def long(n, bad):
    "As many batches as one likes, some of them spoilt."
    inputs = torch.randn(n, 6, 4, generator=torch.Generator().manual_seed(1))
    for i in bad:
        inputs[i - 1, 0, 0] = math.nan
    return [(x, torch.tensor([0, 1, 2, 0, 1, 2])) for x in inputs]


def test_the_failure_comes_late_and_names_the_step():
    "What happened at step 3 is read at step 100; the weights are finite, and the steps in between were made."
    with pytest.raises(
        st.NonFiniteLoss,
        match=(
            r"of step 3 \(and 1 more\) were not finite; found out at step 100\. These steps were"
            r" not made"
        ),
    ) as caught:
        train(net(), long(120, bad=[3, 30]), non_finite="raise")
    run = caught.value.run
    assert run.ctx.step == 100
    assert all_finite(run.model)
    assert run.outcome.state == "report"


def test_the_end_of_an_epoch_waits_for_the_rest():
    "A step that was masked since the last report is told before the row is written."
    with pytest.raises(
        st.NonFiniteLoss, match="of step 5 were not finite; found out at step 6"
    ) as caught:
        train(net(), long(6, bad=[5]), non_finite="raise")
    assert caught.value.run.outcome.state == "settle"
    assert len(caught.value.run.history) == 0


def test_a_stop_comes_late():
    "The run ends in order, with the reason."
    run = train(net(), long(120, bad=[60]), non_finite="stop", epochs=3)
    assert run.outcome == st.Stopped(1, "the loss or the gradients of step 60 were not finite")
    # Asked for at step 50, before it happened, and read at 100; so the end of the epoch is first
    assert run.ctx.step == 120


def test_skipping_is_told_in_the_records():
    "Each time that more have been masked, once; and the run goes on to its end."
    run = train(net(), long(120, bad=[3, 60]), epochs=2)
    assert run.outcome == st.Completed(2)
    assert [(row["step"], row["masked"], row["first"]) for row in run.ctx.records["masked"]] == [
        (100, 1, 3),
        (120, 2, 3),
        (200, 3, 3),
        (240, 4, 3),
    ]
    assert run.history["masked"] == [2, 4]


def test_it_is_drawn():
    "The step says that it is masked, and the report is an arrow at next_batch."
    life = st.supervised(finite_check="late", non_finite="stop")
    shown = [str(arrow) for arrow in life.transitions]
    assert "next_batch -> report [report due]" in shown
    assert "report -> next_batch [steps were masked] / ask to stop" in shown
    assert "masked" in label_of(life.state("step").action)
    assert not any("loss not finite" in arrow for arrow in shown)
    assert testing.simulate(life, 2, 120).outcome == st.Completed(2)
    assert st.Lifecycle.from_dict(life.to_dict()) == life


def test_it_can_be_cut_and_continued():
    "What the device has found is part of the run, the answer that was asked for included."
    testing.assert_resumable(
        lambda: train(net(), long(60, bad=[3, 55]), seed=1, clock=lambda: 0.0, start=False),
        anchors=8,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"non_finite": "ignore"}, "needs a policy that can come late"),
        ({"non_finite": st.RollBack()}, "needs a policy that can come late"),
        ({"check_gradients": True}, "it looks at the gradients anyway"),
        ({"spike": st.Spike(4)}, "reads the loss of each batch on the host"),
        ({"closure": True}, "whose step computes the loss again"),
        ({"compute": lambda ctx: None}, "steps over the loss and its backward"),
        ({"precision": "fp16"}, "use 'bf16'"),
        ({"finite_check": "latre"}, "did you mean 'late'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_it_cannot_serve_is_refused(options, words):
    "Before anything runs, with the way out."
    with pytest.raises(st.ConfigError, match=words):
        st.supervised(**{"finite_check": "late", **options})


def test_fp16_is_refused_in_an_own_lifecycle_too():
    "mixed_precision looks at the table."
    with pytest.raises(st.ConfigError, match="use 'bf16'"):
        st.mixed_precision(st.supervised(finite_check="late"), "fp16")


def square(pred, target):
    return (pred - F.one_hot(target, 3)).square().mean()


KEYS = {"input": "pred", "target": "batch[1]"}


@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        st.Losses(a=st.Loss(F.cross_entropy, **KEYS)),
        st.Loss(F.cross_entropy, mask="batch[2]", **KEYS),
    ],
    ids=["plain", "by keys", "with a mask"],
)
def test_a_refused_batch_counts_in_no_column(loss):
    "Means of losses by keys, of masked losses and of metrics are those of the batches that were trained on, as a loop by hand has them."
    inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    inputs[4] = float("nan")
    target = torch.arange(16) % 3
    data = [
        (inputs[i : i + 4], target[i : i + 4], torch.ones(4, dtype=torch.bool))
        for i in range(0, 16, 4)
    ]
    torch.manual_seed(0)
    model, hand = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    hand.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.1)
    losses, squares = [], []
    for x, y, _ in data:
        value = F.cross_entropy(pred := hand(x), y)
        if value.isfinite():
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
            squares.append(square(pred, y).item())
    by_keys = st.Metric(square, pred="pred", target="batch[1]")
    run = st.fit(
        model,
        data,
        input="[0]",
        target="[1]",
        loss=loss,
        metrics={"mse": square, "keyed": by_keys},
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, fused=True),
        epochs=1,
        non_finite="skip",
        finite_check="late",
        device="cpu",
    )
    row = run.history[-1]
    assert row["train_loss"] == pytest.approx(sum(losses) / 3)
    assert row["train_mse"] == row["train_keyed"] == pytest.approx(sum(squares) / 3)
    if "train_loss_a" in row:
        assert row["train_loss_a"] == pytest.approx(sum(losses) / 3)
    assert run.ctx.masked == 1
