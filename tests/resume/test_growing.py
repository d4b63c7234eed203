"""Optimizers and models that grow in a run: unfrozen layers, groups that are added, new parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


class Unfreeze(st.Callback):
    """Unfreezes the first layer in the second epoch, and gives it to the optimizer."""

    writes = ("model", "optimizers")

    def __init__(self, way: str) -> None:
        self.way = way

    def on_enter_epoch(self, ctx: Any) -> None:
        if ctx.epoch != 2:
            return
        new, groups = list(ctx.model[0].requires_grad_(True).parameters()), ctx.opt.param_groups
        if self.way == "a group":
            ctx.opt.add_param_group({"params": new, "lr": 0.01, "momentum": 0.5})
        elif self.way == "into a group":
            groups[0]["params"] += new
        elif self.way == "one group less":
            groups[0]["params"] += groups.pop()["params"]


class Cut(st.Callback):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_exit_step(self, ctx: Any) -> None:
        if ctx.step == self.at:
            raise RuntimeError("cut")


def made(way: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    if way != "one group less":
        model[0].requires_grad_(False)
    groups = [{"params": list(model[1].parameters()), "lr": 0.05}]
    if way in ("requires_grad", "one group less"):
        groups.append({"params": list(model[0].parameters()), "lr": 0.02})
    return model, torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def train(way: str, *callbacks: st.Callback, **options: Any) -> Any:
    model, optimizer = made(way)
    return st.fit(
        model,
        (X, Y),
        loss=F.mse_loss,
        optimizer=optimizer,
        dataloader_options={"batch_size": 8},
        epochs=4,
        seed=1,
        device="cpu",
        callbacks=[Unfreeze(way), *callbacks],
        **options,
    )


@pytest.mark.parametrize("way", ["a group", "into a group", "one group less", "requires_grad"])
def test_what_an_optimizer_was_given_in_a_run_is_resumed_exactly(way: str, tmp_path: Path) -> None:
    """Cut two epochs after the change: weights, momentum, groups and what is frozen are the same bits."""
    whole = train(way)
    with pytest.raises(RuntimeError, match="cut"):
        train(way, Cut(10), st.Checkpoint(tmp_path))
    again = train(way, st.Checkpoint(tmp_path), resume="last")
    assert again.ctx.step == 12
    for (name, a), (_, b) in zip(
        whole.model.named_parameters(), again.model.named_parameters(), strict=True
    ):
        assert torch.equal(a, b), name
        assert a.requires_grad == b.requires_grad
    one, two = (run.ctx.opt.state_dict() for run in (whole, again))
    assert one["param_groups"] == two["param_groups"]
    for i, state in one["state"].items():
        assert torch.equal(state["momentum_buffer"], two["state"][i]["momentum_buffer"])


def test_a_parameter_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A loss's parameter that the optimizer had is gone: the difference names it, before training."""

    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return F.mse_loss(pred, target) * self.scale.exp() - self.scale

    def go(loss: Any, **options: Any) -> Any:
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        more = list(loss.parameters()) if isinstance(loss, nn.Module) else [nn.Parameter(X[0])]
        return st.fit(
            model,
            (X, Y),
            loss=loss,
            optimizer=torch.optim.SGD([*model.parameters(), more[0]], lr=0.01),
            epochs=2,
            callbacks=st.Checkpoint(tmp_path),
            device="cpu",
            **options,
        )

    go(Weighted())
    with pytest.raises(st.CheckpointError, match=r"optimizer 'opt' had the parameter losses.opt.s"):
        go(F.mse_loss, resume="last")


def test_a_parameter_that_an_optimizer_no_longer_has_is_told(tmp_path: Path) -> None:
    """Its state stays where a group is only taken out; the error says what to delete."""

    class TakeOut(st.Callback):
        writes = ("optimizers",)

        def on_exit_epoch(self, ctx: Any) -> None:
            if ctx.epoch == 2:
                ctx.opt.param_groups.pop()

    with pytest.raises(st.CheckpointError, match=r"'opt' has a state of a parameter .* say: del"):
        train("requires_grad", TakeOut(), st.Checkpoint(tmp_path))
