"""Evaluations at the "end": made once, however a run ends, with the weights that it ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st

X = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([[1.0], [-2.0], [0.5]])
NOISE = 2 * torch.randn(24, 1, generator=torch.Generator().manual_seed(1))
TRAIN, VALID, TEST = (X[:8], Y[:8] + NOISE[:8]), (X[8:16], Y[8:16] + NOISE[8:16]), (X[16:], Y[16:])


def made() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))


def fit(*callbacks: st.Callback, model: nn.Module | None = None, **more: Any) -> st.Run:
    given: dict[str, Any] = {
        "valid": VALID,
        "evaluations": st.Evaluation("test", TEST, "end"),
        "loss": F.mse_loss,
        "optimizer": torch.optim.Adam,
        "opt_hparams": {"lr": 0.05},
        "epochs": 12,
        "seed": 0,
        "verbose": False,
    }
    return st.fit(model or made(), TRAIN, callbacks=callbacks, **{**given, **more})


def best(**more: Any) -> st.KeepBest:
    """The weights with the highest loss, which are not the last."""
    return st.KeepBest("valid_loss", "max", **more)


def loss_on(model: nn.Module, data: Any) -> float:
    with torch.no_grad():
        return float(F.mse_loss(model(data[0]), data[1]))


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


@pytest.mark.parametrize(
    "callbacks",
    [
        lambda: [best()],
        lambda: [st.KeepBest("train_loss", "max")],  # judged after the last row
        lambda: [st.EMA(0.9, restore=True)],
        lambda: [st.EMA(0.9, restore=True, valid=True)],
        lambda: [st.EMA(0.9, valid=True), best()],
        lambda: [best(cpu=True), st.EMA(0.9, valid=True)],
    ],
    ids=["best", "best of training", "average", "average judged", "best average", "average last"],
)
def test_it_looks_at_the_weights_that_the_run_ends_with(callbacks: Any) -> None:
    """The loss in the row is that of the model that is returned; the last weights have another."""
    last = fit().model
    run = fit(*callbacks())
    assert run.history[-1]["test_loss"] == pytest.approx(loss_on(run.model, TEST), rel=1e-6)
    assert loss_on(last, TEST) != pytest.approx(loss_on(run.model, TEST), rel=1e-3)


def test_without_restoring_it_sees_what_validation_sees() -> None:
    """`EMA(valid=True)` alone: the average is evaluated, and the model keeps its own weights."""
    ema = st.EMA(0.9, valid=True)
    run = fit(ema)
    assert run.history[-1]["test_loss"] == pytest.approx(loss_on(ema.model, TEST), rel=1e-6)
    for mine, last in zip(weights(run.model), weights(fit().model), strict=True):
        assert torch.equal(mine, last)


@pytest.mark.parametrize(
    "hook", ["exit_record", "exit_epoch", "enter_next_epoch", "enter_record", "exit_valid"]
)
def test_a_stop_that_is_requested_late_is_followed_by_it(hook: str) -> None:
    """Whenever in an epoch someone asks for the stop, the test set is looked at before the end."""

    @st.on(hook)
    def stop(ctx: st.Context) -> None:
        if ctx.epoch == 2:
            ctx.request_stop("enough")

    run = fit(stop)
    assert run.outcome == st.Stopped(2, "enough")
    assert run.history[-1]["test_loss"] == pytest.approx(loss_on(run.model, TEST), rel=1e-6)


@pytest.mark.parametrize("event", [st.SkipEpoch, st.StopFit])
def test_an_epoch_that_is_left_at_once_is_followed_by_it(event: type[Exception]) -> None:
    """Raised on entering the last epoch: it has no row, and the weights are evaluated."""

    @st.on("enter_epoch")
    def leave(ctx: st.Context) -> None:
        if ctx.epoch == 3:
            raise event("enough")

    run = fit(leave, epochs=3)
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert "train_loss" not in run.history[-1]
    assert run.history[-1]["test_loss"] == pytest.approx(loss_on(run.model, TEST), rel=1e-6)


def test_what_is_saved_is_what_was_trained(tmp_path: Path) -> None:
    """The last checkpoint has the weights of the training, so more epochs from it are exact."""
    fit(best(), st.Checkpoint(tmp_path), epochs=6)
    longer = fit(best(), st.Checkpoint(tmp_path), epochs=12, resume="last")
    whole = fit(best(), epochs=12)
    assert longer.history["valid_loss"] == whole.history["valid_loss"]
    assert longer.history[-1]["test_loss"] == whole.history[-1]["test_loss"]
    for mine, other in zip(weights(longer.model), weights(whole.model), strict=True):
        assert torch.equal(mine, other)


def test_a_run_that_is_cut_within_it_resumes(tmp_path: Path) -> None:
    """Saved while the model has the best weights, it ends as if it had not been cut."""
    loader = [(TEST[0][i : i + 2], TEST[1][i : i + 2]) for i in range(0, 8, 2)]
    evaluation = st.Evaluation("test", loader, "end")

    class Cut(st.Callback):
        anywhere = True

        def on_anchor(self, ctx: st.Context) -> None:
            if ctx.state == "next_test_batch" and ctx.valid_iter == 2:
                save.save(ctx)
                raise RuntimeError("cut")

    def average() -> st.EMA:
        return st.EMA(0.9, valid=True)

    save = st.Checkpoint(tmp_path)
    with pytest.raises(RuntimeError, match="cut"):
        fit(save, average(), best(), Cut(), evaluations=evaluation, epochs=6)
    assert save.saved[0].about["state"] == "next_test_batch"
    save = st.Checkpoint(tmp_path)
    again = fit(save, average(), best(), evaluations=evaluation, epochs=6, resume="last")
    whole = fit(average(), best(), evaluations=evaluation, epochs=6)
    assert again.history[-1]["test_loss"] == whole.history[-1]["test_loss"]
    for mine, other in zip(weights(again.model), weights(whole.model), strict=True):
        assert torch.equal(mine, other)


def test_files_of_weights_are_those_of_their_row(tmp_path: Path) -> None:
    """The row of the last epoch has a file of that epoch's weights; the end adds a column alone."""
    fit(best(), st.SaveWeights(tmp_path / "{epoch}.safetensors"), epochs=3)
    last = fit(epochs=3).model
    again = made()
    st.load_weights(again, tmp_path / "3.safetensors")
    for mine, other in zip(weights(again), weights(last), strict=True):
        assert torch.equal(mine, other)


def test_an_epoch_that_ends_before_it_begins_is_not_complete() -> None:
    """What the epoch before has seen does not count for it: no schedule and no best row take it."""

    class Ends(st.Callback):
        def on_enter_epoch(self, ctx: st.Context) -> None:
            if ctx.epoch == 3:
                raise st.StopFit("enough")

    run = fit(Ends())
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert [row["epoch_complete"] for row in run.history] == [True, True, False]
    assert "train_loss" not in run.history[-1]


def test_an_epoch_of_which_nothing_is_left_is_complete() -> None:
    """SkipEpoch gives up the rest of an epoch; its row says that nothing is left of it."""

    @st.on("enter_batch")
    def leave(ctx: st.Context) -> None:
        if ctx.epoch == 2 and ctx.iter == 2:
            raise st.SkipEpoch("enough")

    run = fit(leave, epochs=3, dataloader_options={"batch_size": 2}, evaluations=[])
    assert run.history["epoch_complete"] == [True, True, True]
    assert run.history["batch"] == [4, 6, 10]
