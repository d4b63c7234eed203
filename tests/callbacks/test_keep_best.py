"""`KeepBest`: whoever ends the run, the model has the weights of its best row."""

from __future__ import annotations

import math

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.callbacks.keep_best import KeepBest
from statetrain.errors import ConfigError

NAN = math.nan


class Scores(st.Callback):
    """Gives each epoch a score, and notes the weights at its end."""

    writes = ("history.score",)

    def __init__(self, *scores: float) -> None:
        self.scores, self.weights = scores, []

    def on_exit_epoch(self, ctx):
        if ctx.epoch_complete:
            ctx.log_metric("score", self.scores[ctx.epoch - 1], set="")
        self.weights.append(bits(ctx.model))


def fit(model, data, callbacks, **options):
    common = {"loss": F.cross_entropy, "optimizer": torch.optim.Adam, "opt_hparams": {"lr": 0.1}}
    return st.fit(model, data, callbacks=callbacks, **{**common, **options})


@pytest.mark.parametrize(
    ("mode", "scores", "best"),
    [
        ("min", (3, 1, 2), 1),
        ("max", (3, 1, 2), 0),
        ("zero", (3, -1, 2), 1),
        ("min", (NAN, 2, NAN), 1),
        ("min", (2, 2, 2), 0),
        ("max", (1, NAN, 5), 2),
    ],
)
def test_the_best_epochs_weights_are_the_models(mode, scores, best, digits, cnn):
    "Parameters and buffers are put back, those of the first of equals; NaN is never best."
    score, keep = Scores(*scores), KeepBest("score", mode)
    # The score is logged after the hooks of KeepBest in `record`
    run = fit(cnn(), digits, [keep, score], epochs=3)

    assert bits(run.model) == score.weights[best]
    assert score.weights[best] not in score.weights[:best] + score.weights[best + 1 :]
    assert (keep.best, keep.best_epoch) == (scores[best], best + 1)


def test_an_improvement_has_to_be_large_enough(digits, cnn):
    "A row that is better by no more than `min_delta` does not count; below 0 it is an error."
    score, keep = Scores(3, 2.5, 1.5), KeepBest("score", min_delta=1)
    run = fit(cnn(), digits, [keep, score], epochs=2)
    assert bits(run.model) == score.weights[0]
    run = fit(cnn(), digits, [keep, score], epochs=3)
    assert (keep.best, keep.best_epoch) == (1.5, 3)
    with pytest.raises(ConfigError, match="min_delta must be a number of at least 0, got -1"):
        KeepBest("score", min_delta=-1)


class Ends(st.Callback):
    """Ends the run in the third epoch."""

    def __init__(self, how: str) -> None:
        self.how = how

    def on_enter_batch(self, ctx):
        if ctx.epoch == 3:
            if self.how == "request":
                ctx.request_stop("enough")
            elif self.how == "event":
                raise st.StopFit("enough")
            elif self.how == "interrupt":
                raise KeyboardInterrupt


@pytest.mark.parametrize("how", ["completed", "request", "event", "interrupt"])
def test_whoever_ends_the_run(how, digits, cnn):
    "The weights are put back on completion, a request to stop, an event and an interrupt."
    score = Scores(1, 2, 3)
    run = fit(cnn(), digits, [KeepBest("score"), score, Ends(how)], epochs=3)

    assert type(run.outcome).__name__ == {"completed": "Completed", "interrupt": "Interrupted"}.get(
        how, "Stopped"
    )
    assert bits(run.model) == score.weights[0]


def test_a_failure_leaves_the_model_as_it_is(digits, cnn):
    "After a failure nothing is put back, and `restore` does it on demand."

    class Fails(st.Callback):
        def on_exit_epoch(self, ctx):
            if ctx.epoch == 2:
                raise RuntimeError("no more")

    score, keep = Scores(1, 2), KeepBest("score")
    with pytest.raises(RuntimeError, match="no more") as caught:
        fit(cnn(), digits, [keep, score, Fails()], epochs=3)
    model = caught.value.run.model

    assert bits(model) == score.weights[1]
    keep.restore(model)
    assert bits(model) == score.weights[0]


@pytest.mark.parametrize("epochs", [0, 1])
def test_no_epoch_is_no_error(epochs, digits, cnn):
    "Where no epoch was finished, or none had a number, the model is left alone."
    keep, score = KeepBest("score"), Scores(NAN)
    model = cnn()
    run = fit(model, digits, [keep, score], epochs=epochs)

    assert run.outcome == st.Completed(epochs)
    assert keep.best is None
    assert bits(run.model) == (score.weights[-1] if epochs else bits(cnn()))
    with pytest.raises(ConfigError, match="no row with a number in 'score'"):
        keep.restore(model)


def test_optimizers_are_left_as_they_are(digits, cnn):
    "The optimizer's state is the last one, not the best one."
    plain = fit(cnn(), digits, [Scores(1, 2)], epochs=2)
    torch.manual_seed(0)
    kept = fit(cnn(), digits, [KeepBest("score"), Scores(1, 2)], epochs=2)

    assert bits(nn.Identity(), kept.ctx.opt) == bits(nn.Identity(), plain.ctx.opt)
    assert bits(kept.model) != bits(plain.model)


def test_validations_within_an_epoch_count(digits, cnn):
    "A row of a complete validation counts, also in mid-epoch, with the weights that it was made with."
    seen = {}

    class Spy(st.Callback):
        def on_exit_valid(self, ctx):
            seen[ctx.step] = bits(ctx.model)

    keep = KeepBest("valid_loss")
    run = fit(
        cnn(),
        digits,
        [keep, Spy()],
        valid=0.3,
        validate=st.Every(2, "steps"),
        epochs=2,
        opt_hparams={"lr": 0.3},
    )
    best = run.best("valid_loss")

    assert not best["epoch_complete"]
    assert (keep.best, keep.best_step) == (best["valid_loss"], best["step"])
    assert bits(run.model) == seen[best["step"]]


def test_an_epoch_that_was_stopped_midway_does_not_count(digits, cnn):
    "The mean of a part of an epoch is not compared with that of whole ones."
    keep = KeepBest("train_loss", "min")
    run = fit(cnn(), digits, keep, max_steps=12, epochs=9)  # 8 steps an epoch

    assert run.history["train_loss"][1] < run.history["train_loss"][0]
    assert keep.best_epoch == 1


def test_a_fit_that_goes_on_has_that_best_to_beat(digits, cnn):
    "The next epochs start from the best weights; what does not beat them is not kept."
    starts = []

    class Spy(st.Callback):
        def on_enter_train(self, ctx):
            starts.append(bits(ctx.model))

    score, keep = Scores(1, 2, 3), KeepBest("score")
    run = fit(cnn(), digits, [keep, score, Spy()], epochs=2)
    run.fit(1)

    assert starts[2] == score.weights[0] == bits(run.model)
    assert keep.best_epoch == 1


def test_a_new_fit_forgets(digits, cnn):
    "A second fit with the same callback has a best of its own."
    keep = KeepBest("score")
    fit(cnn(), digits, [keep, Scores(1, 2)], epochs=2)
    score = Scores(5, 4)
    run = fit(cnn(), digits, [keep, score], epochs=2)

    assert keep.best == 4
    assert bits(run.model) == score.weights[1]


@pytest.mark.parametrize("cpu", [False, True])
def test_the_copy_is_apart(cpu, digits, cnn):
    "Training on does not change what is kept, on the device or in the host's memory."
    keep = KeepBest("score", cpu=cpu)
    run = fit(cnn(), digits, [keep, Scores(1)], epochs=1)
    before = {
        name: value.clone() for name, value in keep.state_dict()["weights"]["tensors"].items()
    }
    with torch.no_grad():
        run.model.out.weight.fill_(7.0)

    kept = keep.state_dict()["weights"]["tensors"]
    assert all(torch.equal(kept[name], before[name]) for name in before)
    assert {value.device.type for value in kept.values()} == {"cpu"}


def test_it_is_continued_from_its_saved_state(digits, cnn):
    "A callback that is loaded has the best to beat, and puts its weights back."
    score, saved, loaded = Scores(1, 2, 3), KeepBest("score"), KeepBest("score")
    run = fit(cnn(), digits, [saved, score], epochs=2)
    loaded.load_state_dict(saved.state_dict())
    run.ctx.max_epochs = 3
    st.Machine(run.lifecycle, [loaded, score]).run(run.ctx, at="next_epoch")

    assert (loaded.best, loaded.best_epoch, loaded.best_step) == (1, 1, 8)
    assert bits(run.model) == score.weights[0]


def test_monitor_and_mode_are_checked(digits, cnn):
    "An unknown mode is refused at once, an unknown monitor before training."
    with pytest.raises(ConfigError, match="got 'mni'; did you mean 'min'"):
        KeepBest(mode="mni")
    with pytest.raises(
        ConfigError,
        match=(
            r"nothing writes the monitor 'valid_loss'.*no validation data.*KeepBest\('valid_loss',"
            r" 'min'\)"
        ),
    ):
        fit(cnn(), digits, KeepBest())


@pytest.mark.parametrize("epochs", [2, 4])
def test_a_column_that_never_came_is_told(epochs, caplog):
    """An evaluation that was never due, as in a phase that was not reached, is not passed over."""
    torch.manual_seed(0)
    data = torch.randn(8, 4), torch.arange(8) % 2
    keep = st.KeepBest("test_loss")
    st.fit(
        torch.nn.Linear(4, 2),
        data,
        loss=torch.nn.functional.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=epochs,
        evaluations=st.Evaluation("test", data, st.Every(3, "epochs")),
        callbacks=keep,
        verbose=False,
    )
    told = [line for line in caplog.messages if "no row of this run has it" in line]
    if epochs < 3:
        assert told == [
            (
                "KeepBest('test_loss', 'min') watches 'test_loss', and no row of this run has it: what"
                " writes it was never due, so nothing was judged by it"
            )
        ]
    else:
        assert not told
        assert keep.best_epoch == 3
