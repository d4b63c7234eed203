"""What is not finite, or is far from what came before, never reaches committed weights, buffers, a checkpoint or a best."""

from __future__ import annotations

import math

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain import testing

BAD = [math.nan, math.inf, -math.inf]
ROLL = st.RollBack(times=2, factor=0.5, every=st.Every(2, "steps"))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def batches(points, **bad):
    "Six batches of which some are spoilt: `nan_3=value` puts the value into the input of the third."
    inputs, targets = points
    made = [(inputs[i : i + 6].clone(), targets[i : i + 6]) for i in (0, 4, 8, 12, 15, 16)]
    for name, value in bad.items():
        made[int(name.rpartition("_")[2]) - 1][0][0, 0] = value
    return made


def train(model, data, **more):
    given = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1, "momentum": 0.9},
        "epochs": 1,
        "verbose": False,
    }
    return st.fit(model, data, **{**given, **more})


def all_finite(model):
    return all(torch.isfinite(value).all() for value in model.state_dict().values())


# ---------------------------------------------------------------- the policies, with buffers


@pytest.mark.parametrize("value", BAD)
def test_a_skipped_batch_leaves_no_trace(value, points):
    "Weights, running statistics, their counter and momentum are those of a run that never saw it."
    data = batches(points, nan_3=value)
    run = train(net(), data, non_finite="skip")
    without = train(net(), [*data[:2], *data[3:]], non_finite="skip")
    assert bits(run.model) == bits(without.model)
    assert all_finite(run.model)
    assert run.ctx.step == 5
    assert run.ctx.get_log("refused") == {
        "epoch": 1,
        "batch": 3,
        "step": 2,
        "reason": "the loss is nan",
    }


@pytest.mark.parametrize("value", BAD)
def test_a_failure_leaves_the_model_as_it_was_before_the_batch(value, points):
    "With the default policy the error is raised, and the running statistics are those of the batches before."
    data = batches(points, nan_3=value)
    model = net()
    with pytest.raises(
        st.NonFiniteLoss, match="the weights are as they were before this batch"
    ) as caught:
        train(model, data)
    assert bits(model) == bits(train(net(), data[:2]).model)
    assert caught.value.run.ctx.step == 2


def test_a_stop_leaves_the_model_as_it_was_before_the_batch(points):
    "non_finite='stop' ends the run with the weights and statistics of the batches before."
    data = batches(points, nan_3=math.nan)
    run = train(net(), data, non_finite="stop")
    assert run.outcome == st.Stopped(1, "the loss is nan")
    assert bits(run.model) == bits(train(net(), data[:2]).model)


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate": 2},
        {"check_gradients": True},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"seed": 1},
    ],
    ids=str,
)
def test_with_other_options_too(options, points):
    "In a window, with the gradients' norm, in mixed precision with a scaler, with randomness by key."
    run = train(
        net(), batches(points, nan_3=math.nan), non_finite="skip", valid=batches(points), **options
    )
    assert all_finite(run.model)
    assert math.isfinite(run.history[-1]["valid_loss"])
    assert [row["batch"] for row in run.ctx.records["refused"]] == [3]


def test_with_several_optimizers(points):
    "The turn of the second one can be refused: the statistics go back to before the batch."
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    optimizers = {
        name: torch.optim.SGD(model[i].parameters(), lr=0.1) for name, i in (("a", 0), ("b", 2))
    }
    run = train(
        model,
        batches(points, nan_3=math.nan),
        non_finite="skip",
        optimizer=optimizers,
        opt_hparams=None,
    )
    assert all_finite(model)
    assert run.ctx.step == 5


def test_with_a_computation_of_ones_own(points):
    "It calls backward itself; the window is discarded and the statistics put back."

    def compute(ctx):
        loss = F.cross_entropy(ctx.model(ctx.input), ctx.target)
        loss.backward()
        return loss

    run = train(net(), batches(points, nan_3=math.nan), non_finite="skip", compute=compute)
    assert all_finite(run.model)
    assert run.ctx.step == 5


def test_gradients_alone_are_found_where_one_asks(points):
    "A finite loss with a gradient that is not: check_gradients refuses the batch; without it, the next loss says what has happened."

    def loss(pred, target):
        root = (pred - pred.detach()).abs().sum().sqrt()  # 0, with an infinite slope
        return F.cross_entropy(pred, target) + (root if len(seen) == 2 else 0.0 * pred.sum()) * (
            seen.append(1) is None
        )

    for options in ({"check_gradients": True}, {}):
        seen: list[int] = []
        with pytest.raises(st.NonFiniteLoss) as caught:
            train(net(), batches(points), loss=loss, **options)
        words = (
            "the norm of the gradients is"
            if options
            else "0.weight was not finite before this batch: the gradients of an earlier one"
        )
        assert words in str(caught.value)
        assert all_finite(caught.value.run.model) is bool(options)


def test_a_model_without_buffers_pays_nothing(points):
    "There is no state `hold` in its table; with buffers there is one, and none where nothing is refused."
    assert "hold" not in train(nn.Linear(4, 3), batches(points)).lifecycle.names
    assert "hold" in train(net(), batches(points)).lifecycle.names
    assert "hold" not in train(net(), batches(points), non_finite="ignore").lifecycle.names


def test_buffers_that_a_module_replaces_are_put_back(points):
    "A module that assigns a new tensor, of another shape even, has the old one again."

    class Grows(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(0))
            self.out = nn.Linear(4, 3)

        def forward(self, x):
            self.seen = torch.cat([self.seen, x.sum().reshape(1)])
            return self.out(x)

    run = train(Grows(), batches(points, nan_3=math.nan), non_finite="skip")
    assert run.model.seen.shape == (5,)
    assert all_finite(run.model)


# ---------------------------------------------------------------- kept weights


class Overflows(nn.Module):
    """Running statistics that become infinite while the loss stays finite."""

    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.norm(x))


def test_what_is_not_finite_is_never_best(points, tmp_path, caplog):
    "A buffer that overflowed while the loss stayed finite keeps the weights from KeepBest, SaveWeights and Checkpoint, each with a warning."
    data, spoilt = batches(points), batches(points, nan_2=1e30)
    epochs = iter([data, spoilt, spoilt])
    best, files = (
        st.KeepBest("train_loss"),
        st.SaveWeights(tmp_path / "w-{epoch}.safetensors", "train_loss"),
    )
    with caplog.at_level("WARNING", logger="statetrain"):
        model = Overflows()
        train(
            model,
            lambda: iter(next(epochs)),
            callbacks=[best, files, st.Checkpoint(tmp_path / "run")],
            epochs=2,
        )
    assert best.best_epoch == 1
    assert all_finite(model)
    assert [path.name for path in files.saved] == ["w-1.safetensors"]
    assert len(list((tmp_path / "run").glob("step-*"))) == 1
    said = [record.getMessage() for record in caplog.records]
    assert sum("norm.running_var is not finite" in words for words in said) == 3


# ---------------------------------------------------------------- rolling back


def test_rolling_back_restores_the_copy_and_lowers_the_rate(points):
    "The weights, statistics and momentum after the refusal are those of the last copy; the rate is halved; counters go on."
    data = batches(points, nan_4=math.nan)
    seen = []

    class Look(st.Callback):
        def on_transition(self, ctx):
            if "go back" in str(ctx.transition):
                momentum = [
                    ctx.opt.state[p]["momentum_buffer"].clone() for p in ctx.model.parameters()
                ]
                seen.append(
                    (bits(ctx.model), momentum, ctx.opt.param_groups[0]["lr"], ctx.iter, ctx.step)
                )

    train(net(), data, non_finite=ROLL, callbacks=Look())
    two = train(net(), data[:2])
    assert len(seen) == 1
    weights, momentum, rate, batch, step = seen[0]
    assert weights == bits(two.model)
    assert all(
        torch.equal(a, two.ctx.opt.state[p]["momentum_buffer"])
        for a, p in zip(momentum, two.model.parameters(), strict=True)
    )
    assert (rate, batch, step) == (0.05, 4, 3)


def test_rolling_back_so_many_times_and_then_failing(points):
    "Twice it goes back, the third time it raises, and says why; each is in the records."
    data = batches(points, nan_3=math.nan, nan_5=math.inf, nan_6=math.nan)
    with pytest.raises(
        st.NonFiniteLoss, match=r"the loss is nan and rolled back 2 times"
    ) as caught:
        train(net(), data, non_finite=ROLL)
    run = caught.value.run
    assert run.ctx.rolled_back == 2
    assert [row["batch"] for row in run.ctx.records["refused"]] == [3, 5, 6]
    assert run.ctx.opt.param_groups[0]["lr"] == pytest.approx(0.025)
    assert all_finite(run.model)


def test_a_fit_that_goes_on_may_roll_back_again(points):
    "run.fit counts anew."
    run = train(net(), batches(points, nan_3=math.nan, nan_5=math.nan), non_finite=ROLL)
    assert run.ctx.rolled_back == 2
    assert run.fit(1).outcome == st.Completed(2)
    assert run.ctx.rolled_back == 2


def test_weights_that_are_not_finite_are_not_kept(points):
    "Where nothing good was kept, there is nothing to go back to, and the run fails."
    model = net()
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    with pytest.raises(
        st.NonFiniteLoss,
        match=r"the loss is nan and nothing kept, and 0\.weight was not finite before",
    ):
        train(model, batches(points), non_finite=ROLL)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda: st.LRScheduler(
            torch.optim.lr_scheduler.LambdaLR, per="step", lr_lambda=lambda n: 1.0
        ),
        lambda: st.LRScheduler(torch.optim.lr_scheduler.ExponentialLR, per="step", gamma=1.0),
        lambda: st.LRScheduler(
            torch.optim.lr_scheduler.OneCycleLR,
            per="step",
            max_lr=0.1,
            total_steps=50,
            cycle_momentum=False,
        ),
    ],
    ids=["closed form", "recursive", "one cycle"],
)
def test_a_schedule_goes_on_from_the_lower_rate(schedule, points):
    "Whatever it computes the rate from: after the refusal, all later rates are half of what they would have been."
    clean, spoilt = batches(points), batches(points, nan_3=math.nan)
    rates = {}

    for name, data in (("clean", [*clean[:2], *clean[3:]]), ("spoilt", spoilt)):

        class Look(st.Callback):
            def on_enter_step(self, ctx):
                # Called within this turn
                rates.setdefault(name, []).append(float(ctx.opt.param_groups[0]["lr"]))  # noqa: B023

        train(net(), data, non_finite=ROLL, callbacks=[schedule(), Look()])
    assert rates["spoilt"] == pytest.approx(
        [*rates["clean"][:2], *(rate / 2 for rate in rates["clean"][2:])]
    )


@pytest.mark.parametrize(
    ("cool_down", "rolled_back", "rate"), [(10, 1, 0.05), (1, 0, 0.1)], ids=["near", "far apart"]
)
def test_the_first_bad_batches_are_only_skipped(cool_down, rolled_back, rate, points):
    "The second and the fifth of six: the first is skipped; the other leads back, unless enough good ones lie between."
    policy = st.RollBack(skip=1, cool_down=cool_down, every=st.Every(1, "steps"))
    data = batches(points, nan_2=math.nan, nan_5=math.nan)
    run = train(net(), data, non_finite=policy)
    assert run.ctx.rolled_back == rolled_back
    assert run.ctx.opt.param_groups[0]["lr"] == rate
    assert [row["reason"] for row in run.ctx.records["refused"]] == ["the loss is nan"] * 2
    assert run.ctx.step == 4
    if not rolled_back:
        good = [data[i] for i in (0, 2, 3, 5)]
        assert bits(run.model) == bits(train(net(), good).model)


def test_skips_begin_again_after_going_back(points):
    "One skip, then back, then one skip again: of four bad batches in a row two lead back."
    data = batches(points, **{f"nan_{n}": math.nan for n in (2, 3, 4, 5)})
    run = train(net(), data, non_finite=st.RollBack(times=2, skip=1, every=st.Every(1, "steps")))
    assert run.ctx.rolled_back == 2
    assert run.ctx.step == 2


def test_a_ladder_is_resumed_exactly_and_written_down(points):
    "Cut between a skip and going back; and the table comes back from its text."
    policy = st.RollBack(skip=1, every=st.Every(1, "steps"))
    data = batches(points, nan_2=math.nan, nan_3=math.nan)
    testing.assert_resumable(lambda: train(net(), data, non_finite=policy, start=False))
    life = st.supervised(non_finite=policy)
    assert st.Lifecycle.from_dict(life.to_dict()) == life


def test_rolling_back_is_drawn():
    "The copy and both ways out are arrows; the walk to the copy and back is one that a person can script."
    life = st.supervised(non_finite=ROLL, validate=None)
    shown = [str(arrow) for arrow in life.transitions]
    assert "next_batch -> keep [copy due]" in shown
    assert (
        "loss -> failed [loss not finite and (rolled back 2 times or nothing kept)] / raise"
        " NonFiniteLoss" in shown
    )
    assert (
        "loss -> next_batch [loss not finite] / go back to the copy, learning rate times 0.5"
        in shown
    )
    assert (
        testing.simulate(life, 1, 6, losses=lambda n: math.nan if n == 3 else 1.0).ctx.rolled_back
        == 1
    )
    assert st.Lifecycle.from_dict(life.to_dict()) == life


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: st.RollBack(skip=-1), "skip must be a whole number of at least 0, got -1"),
        (lambda: st.RollBack(times=0), "times must be a whole number of at least 1, got 0"),
        (
            lambda: st.RollBack(factor=0),
            "factor multiplies the learning rate, so it is above 0 and at most 1, got 0",
        ),
        (lambda: st.RollBack(every=100), 'write Every\\(100, "steps"\\)'),
        (lambda: st.supervised(spike=4), "spike must be a Spike, such as Spike\\(4\\), got 4"),
        (
            lambda: st.supervised(spike=st.Spike(4), non_finite="ignore"),
            "say what a spike leads to",
        ),
        (lambda: st.Spike(1.0), "factor must be above 1"),
        (lambda: st.Spike(4, window=5, least=6), "least must be at most the window"),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    "With what would."
    with pytest.raises(ValueError, match=words):
        make()


# ---------------------------------------------------------------- spikes


def spiking(at, height=50.0):
    "A loss of the model that is `height` times as high in one batch."
    calls = []

    def loss(pred, target):
        calls.append(1)
        return F.cross_entropy(pred, target) * (height if len(calls) == at else 1.0)

    return loss


SPIKE = st.Spike(4, window=4, least=2)


def test_a_spike_is_refused_as_the_policy_says(points):
    "Skipped: the run is one that never saw the batch; and its loss does not count for the median."
    data = batches(points)
    run = train(net(), data, loss=spiking(4), non_finite="skip", spike=SPIKE)
    without = train(net(), [*data[:3], *data[4:]])
    assert bits(run.model) == bits(without.model)
    (refused,) = run.ctx.records["refused"]
    assert refused["batch"] == 4
    assert "above 4 times the median" in refused["reason"]
    assert len(run.ctx.recent["opt"]) == 4


def test_a_spike_before_enough_batches_is_none(points):
    "Until `least` losses are known, nothing is far from them."
    run = train(net(), batches(points), loss=spiking(2), non_finite="raise", spike=SPIKE)
    assert run.outcome == st.Completed(1)


def test_a_spike_can_raise_stop_and_roll_back(points):
    "By the same arrows as a loss that is not finite."
    with pytest.raises(
        st.LossSpike, match=r"above 4 times the median .*the weights are as they were"
    ):
        train(net(), batches(points), loss=spiking(4), spike=SPIKE)
    assert (
        "above 4 times"
        in train(
            net(), batches(points), loss=spiking(4), spike=SPIKE, non_finite="stop"
        ).outcome.reason
    )
    assert (
        train(net(), batches(points), loss=spiking(4), spike=SPIKE, non_finite=ROLL).ctx.rolled_back
        == 1
    )


@pytest.mark.parametrize("recent", [[], [1.0], [-1.0] * 9, [0.0] * 9])
def test_a_median_that_has_no_multiple(recent):
    "Of too few losses, or not positive: it does not hold, whatever the loss."
    ctx = st.Context(loss_value=1e9, opt_name="opt", recent={"opt": recent})
    assert not SPIKE(ctx)


def test_spikes_are_told_from_the_last_losses_only():
    "A window that has moved on has another median."
    ctx = st.Context(loss_value=30.0, opt_name="opt", recent={"opt": [1.0] * 9})
    assert SPIKE(ctx)
    ctx.recent["opt"] += [10.0] * 3
    assert not SPIKE(ctx)


def test_a_forced_path_that_goes_back_with_nothing_kept_is_told():
    "Guards that a path forces may lead back before there is a copy; the error says what to do."
    life = st.supervised(non_finite=st.RollBack())
    [path] = [one for one in testing.paths(life) if str(one).endswith("[loss not finite]")]
    with pytest.raises(st.MachineError, match=r"no copy to go back to .* through 'keep'"):
        path.run()
