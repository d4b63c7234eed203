"""NaN and infinity in losses, gradients and inputs (and so in buffers), under each policy, precision and accumulation."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

import statetrain as st
from statetrain.checkpoints import checkpoint, directory
from suites.case import Case, listening, scratch
from suites.toy import Net, Setting, is_finite, train

TITLE = "NaN and infinity"
GOAL = 96

PLACES = (
    "the loss, NaN",
    "the loss, infinite",
    "a gradient, NaN",
    "an input, NaN",
    "an input, infinite",
)
POLICIES = ("raise", "skip", "stop", "roll back")


class _Poisoned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Any) -> Any:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient * math.nan


def _poisoned(value: Any) -> Any:
    return _Poisoned.apply(value)  # type: ignore[no-untyped-call]  # torch leaves it without types


class Trouble(st.Callback):
    """Says when it is time, and looks at every anchor whether something has become of it."""

    reads = ("loss_value",)

    def __init__(self, batch: int) -> None:
        self.batch, self.now = batch, False
        self.committed: list[str] = []

    def on_enter_batch(self, ctx: Any) -> None:
        self.now = ctx.batches == self.batch

    def on_exit_batch(self, ctx: Any) -> None:
        self.now = False

    def on_enter_valid(self, ctx: Any) -> None:
        self.now = False

    def on_anchor(self, ctx: Any) -> None:
        kept: list[Any] = [*ctx.model.state_dict().values()]
        for optimizer in ctx.optimizers.values():
            kept += [
                value
                for state in optimizer.state.values()
                for value in state.values()
                if isinstance(value, torch.Tensor)
            ]
        if not is_finite(kept):
            self.committed.append(f"{ctx.state}, {ctx.where()}")


class _Inputs(Net):
    """Turns its input into what it is told to, when it is told to."""

    def __init__(self, trouble: Trouble, value: float) -> None:
        super().__init__()
        self.trouble, self.value = [trouble], value

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, 3)."""
        return super().forward(inputs * self.value if self.trouble[0].now else inputs)


def _policy(name: str) -> Any:
    return (
        st.RollBack(times=2, factor=0.5, every=st.Every(1, "steps"))
        if name == "roll back"
        else name
    )


def poisoned(place: str, policy: str, precision: Any, accumulate: Any, batch: int) -> None:
    """Lets one batch go wrong, and looks at weights, buffers, checkpoints, history and how the run ended."""
    trouble = Trouble(batch)
    value = math.inf if "infinite" in place else math.nan

    def loss(pred: Any, target: Any) -> Any:
        if not trouble.now or "input" in place:
            return F.cross_entropy(pred, target)
        return (
            F.cross_entropy(_poisoned(pred), target)
            if "gradient" in place
            else F.cross_entropy(pred, target) * value
        )

    with scratch() as base, listening():
        folder = base / "run"
        setting = Setting(precision=precision, accumulate=accumulate, saving="each anchor")
        torch.manual_seed(0)
        model = _Inputs(trouble, value) if "input" in place else Net()
        listeners = [
            trouble,
            st.KeepBest("train_loss"),
            st.Checkpoint(base / "best", monitor="train_loss", preflight=False),
        ]
        run, error = None, None
        try:
            run = train(
                setting,
                folder,
                *listeners,
                model=model,
                loss=loss,
                non_finite=_policy(policy),
                check_gradients="gradient" in place,
            )
        except st.NonFiniteLoss as raised:
            run, error = raised.run, raised  # type: ignore[attr-defined]  # a promise of `fit`
        assert not trouble.committed, f"it was committed in {trouble.committed}"
        assert is_finite(run.model.state_dict().values()), "the run ended with it"
        _ended(run, error, place, policy, precision, accumulate, batch)
        for saved in [
            *directory.complete(folder, aside=False),
            *directory.complete(base / "best", aside=False),
        ]:
            data = checkpoint.read(saved.path)
            assert is_finite(data["model"]["weights"].values()), f"{saved.name} holds it"
        assert all(math.isfinite(value) for row in run.history for value in row.values()), (
            "it is in the history"
        )


def _ended(
    run: st.Run,
    error: BaseException | None,
    place: str,
    policy: str,
    precision: str,
    accumulate: int,
    batch: int,
) -> None:
    # For the scaler, it is one overflow more
    scaled_away = precision == "scaled" and "gradient" in place
    if policy == "raise" and not scaled_away:
        assert isinstance(run.outcome, st.Failed), run.outcome
        notes = " ".join(getattr(error, "__notes__", ()))
        # The norm is that of a whole window
        last = 3 if "gradient" in place and accumulate == 3 else (batch - 1) % 3 + 1
        assert f"epoch {(batch - 1) // 3 + 1}, batch {last}, step" in notes, (
            f"the note says {notes}"
        )
    elif policy == "stop" and not scaled_away:
        assert isinstance(run.outcome, st.Stopped), run.outcome
        assert "nan" in run.outcome.reason or "inf" in run.outcome.reason, run.outcome
    else:
        assert run.outcome == st.Completed(2), run.outcome
        most = 2 * math.ceil(3 / accumulate)
        fewer = 1 if accumulate == 1 else 0  # what is left of a window makes a step of its own
        assert run.ctx.step <= most - fewer, f"{run.ctx.step} steps were made"


def cases() -> list[Case]:
    """All of them with each other, early and late in the run."""
    every = itertools.product(PLACES, POLICIES, ("fp32", "bf16", "scaled"), (1, 3), (2, 4))
    return [
        Case(
            f"{place}, {policy}, {precision}, accumulate {accumulate}, batch {batch}",
            partial(poisoned, place, policy, precision, accumulate, batch),
        )
        for place, policy, precision, accumulate, batch in every
    ]
