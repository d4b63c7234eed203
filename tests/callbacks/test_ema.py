"""EMA: the average of the weights, by torch's own means."""

from __future__ import annotations

import copy

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain import testing


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 3))


def train(points, *callbacks, **more):
    given = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        "verbose": False,
        "seed": 1,
    }
    given |= {"dataloader_options": {"batch_size": 8}, "valid": points, "clock": lambda: 0.0}
    return st.fit(
        more.pop("model", None) or net(), points, callbacks=list(callbacks), **{**given, **more}
    )


class Weights(st.Callback):
    """The model's state after each step."""

    def __init__(self):
        self.steps = []

    def on_exit_step(self, ctx):
        self.steps.append(copy.deepcopy(ctx.model.state_dict()))


def averaged(steps, decay):
    "By hand: the first is copied, each next one moves the average; whole numbers are taken as they are."
    average = copy.deepcopy(steps[0])
    for n, step in enumerate(steps[1:], 1):
        for name, value in step.items():
            if not value.is_floating_point():
                average[name] = value
            elif decay is None:
                average[name] = average[name] + (value - average[name]) / (n + 1)
            else:
                average[name] = decay * average[name] + (1 - decay) * value
    return average


@pytest.mark.parametrize("decay", [0.9, 0.5, None])
def test_it_is_the_average_of_the_steps(decay, points):
    "Weights and statistics, exponential or plain; the model itself is trained as without it."
    ema, weights = st.EMA(decay), Weights()
    run = train(points, weights, ema)
    for name, value in averaged(weights.steps, decay).items():
        torch.testing.assert_close(ema.model.state_dict()[name], value)
    assert bits(run.model) == bits(train(points).model)
    assert not ema.model.training


def test_buffers_can_be_the_models_own(points):
    "buffers=False copies the statistics."
    ema = st.EMA(0.9, buffers=False)
    run = train(points, ema)
    assert torch.equal(ema.model[1].running_mean, run.model[1].running_mean)
    assert not torch.equal(ema.model[0].weight, run.model[0].weight)


def test_it_can_begin_later_and_be_updated_less_often(points):
    "Before the start it is a copy; then every so many steps."
    ema, weights = st.EMA(None, start=2, every=2), Weights()
    train(points, weights, ema)
    steps = weights.steps
    torch.testing.assert_close(
        ema.model[0].weight, (steps[3]["0.weight"] + steps[5]["0.weight"]) / 2
    )


def test_validation_can_look_at_the_average(points):
    "The row's validation loss is the average's, the training is the same, and so are the weights that hooks of training see."
    ema = st.EMA(0.5, valid=True)
    run = train(points, ema)
    assert bits(run.model) == bits(train(points).model)
    assert run.history[-1]["valid_loss"] == pytest.approx(
        st.evaluate(ema.model, points, loss=F.cross_entropy)["loss"]
    )
    assert run.history[-1]["valid_loss"] != pytest.approx(st.evaluate(run, points)["loss"])


def test_the_model_can_have_the_average_at_the_end(points):
    "With restore=True, after a run that did not fail."
    ema = st.EMA(0.5, valid=True, restore=True)
    run = train(points, ema)
    assert bits(run.model) == bits(ema.model)


@pytest.mark.parametrize("how", ["fails", "interrupts"])
def test_a_run_that_ends_within_a_validation_has_its_own_weights(how, points):
    "They are exchanged back on every path."

    class Ends(st.Callback):
        def on_enter_valid_pred(self, ctx):
            raise OSError("broken") if how == "fails" else KeyboardInterrupt

    before = []

    class Before(st.Callback):
        def on_exit_train(self, ctx):
            before.append(bits(ctx.model))

    if how == "fails":
        with pytest.raises(OSError, match="broken") as caught:
            train(points, st.EMA(0.5, valid=True), Before(), Ends())
        run = caught.value.run
    else:
        run = train(points, st.EMA(0.5, valid=True), Before(), Ends())
    assert bits(run.model) == before[0]


@pytest.mark.parametrize(
    "options", [{}, {"valid": True}, {"decay": None}, {"valid": True, "buffers": False}], ids=str
)
def test_a_run_goes_on_exactly(options, points):
    "Cut at any anchor, within a validation of the average too: the average and the weights end as the same bits."
    testing.assert_resumable(lambda: train(points, st.EMA(**options), start=False), anchors=8)


def test_a_fit_that_goes_on_goes_on_with_its_average(points):
    "Two epochs and two more are four."
    one, two = st.EMA(0.9), st.EMA(0.9)
    train(points, one).fit(2)
    train(points, two, epochs=4)
    assert bits(one.model) == bits(two.model)


def test_several_optimizers_make_one_step_a_round(points):
    "Each round is averaged once."
    ema, weights = st.EMA(None), Weights()
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    optimizers = {
        name: torch.optim.SGD(model[i].parameters(), lr=0.1) for i, name in enumerate("ab")
    }
    train(points, weights, ema, model=model, optimizer=optimizers, opt_hparams=None)
    torch.testing.assert_close(ema.model.state_dict(), averaged(weights.steps[1::2], None))


@pytest.mark.parametrize(
    "options",
    [{"decay": 1.0}, {"decay": -0.1}, {"decay": True}, {"start": -1}, {"every": 0}, {"every": 1.5}],
)
def test_arguments_are_checked(options):
    "With what would do."
    with pytest.raises(st.ConfigError, match="EMA: "):
        st.EMA(**options)


def test_before_a_run_there_is_no_average():
    "The error says so."
    with pytest.raises(st.ConfigError, match="before a run has begun"):
        _ = st.EMA().model
