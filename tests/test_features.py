"""The table of features: what it says is here is shown by a test, and the page says what the table says."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import Data
from reference import bits
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import statetrain as st

ROOT = Path(__file__).parent.parent
GROUPS = tomllib.loads((ROOT / "docs" / "features.toml").read_text(encoding="utf-8"))
FEATURES = [feature for group in GROUPS.values() for feature in group["features"]]


def test_each_feature_is_shown_by_a_test_or_has_a_status() -> None:
    """One of the two, a name that no other has, and nothing else; test_documented.py sees to it that the tests are run."""
    assert [name for name, n in Counter(f["name"] for f in FEATURES).items() if n > 1] == []
    for feature in FEATURES:
        assert set(feature) - {"how"} in ({"name", "test"}, {"name", "status"}), feature
        assert feature.get("status", "lacks") in ("partly", "lacks", "device", "declined"), feature
        assert feature.get("how") or feature.get("status") == "lacks", feature


def test_the_features_that_are_here_stay() -> None:
    """Their number does not fall."""
    assert sum("test" in feature for feature in FEATURES) >= 146


# ---------------------------------------------------------------- what no other test shows


def train(model: nn.Module, data: object, **options: object) -> st.Run:
    chosen = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        "verbose": False,
    }
    return st.fit(model, data, **{**chosen, **options})


def batches(points: Data) -> list[Data]:
    return list(zip(points[0].split(4), points[1].split(4), strict=True))


def test_validation_by_batches_counts_batches_and_not_steps(points: Data) -> None:
    """With two batches a step, every second batch of six; where it falls into a window, when the step is made."""
    for n, at in ((2, [2, 4, 6]), (3, [4, 6])):
        run = train(
            nn.Linear(4, 3),
            batches(points),
            valid=points,
            validate=st.Every(n, "batches"),
            accumulate=2,
            epochs=1,
        )
        assert run.history["batch"] == at
        assert run.ctx.step == 3


def test_validation_by_the_clock(points: Data) -> None:
    """With a minute a batch, every two minutes is every second of six batches."""
    now = [0.0]

    def a_minute_passes(ctx: st.Context) -> None:
        now[0] += 60

    run = train(
        nn.Linear(4, 3),
        batches(points),
        valid=points,
        validate=st.Every(2, "minutes"),
        callbacks=st.on("enter_pred")(a_minute_passes),
        clock=lambda: now[0],
        epochs=1,
    )
    assert run.history["batch"] == [2, 4, 6]


def test_hooks_around_fetching_a_batch(points: Data) -> None:
    """The batch before is gone where `draw` is entered, and the new one is there where it is left."""
    given, seen = batches(points), []

    class Around(st.Callback):
        def on_enter_draw(self, ctx: st.Context) -> None:
            seen.append(ctx.batch)

        def on_exit_draw(self, ctx: st.Context) -> None:
            seen.append(ctx.batch)

    train(nn.Linear(4, 3), given, callbacks=Around(), epochs=1)
    assert seen[0:12:2] == [None] * 6
    assert all(there is batch for there, batch in zip(seen[1:12:2], given, strict=True))


def test_a_model_in_bfloat16(points: Data) -> None:
    """Weights are those of a loop by hand in bfloat16, to the last bit."""
    data = [(x.bfloat16(), y) for x, y in batches(points)]
    torch.manual_seed(0)
    by_hand, model = nn.Linear(4, 3).bfloat16(), nn.Linear(4, 3).bfloat16()
    model.load_state_dict(by_hand.state_dict())
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for _ in range(2):
        for x, y in data:
            optimizer.zero_grad()
            F.cross_entropy(by_hand(x), y).backward()
            optimizer.step()
    train(model, data)
    assert model.weight.dtype == torch.bfloat16
    assert bits(model.float()) == bits(by_hand.float())


class SAM(torch.optim.SGD):
    """Sharpness-aware minimisation: the gradient is that at a point uphill, the step is made from where it was."""

    def step(self, closure):  # type: ignore[override]
        with torch.enable_grad():
            loss = closure()
        weights = [p for group in self.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in weights]).norm()
        uphill = [0.05 * p.grad / norm for p in weights]
        torch._foreach_add_([p.data for p in weights], uphill)
        with torch.enable_grad():
            closure()
        torch._foreach_sub_([p.data for p in weights], uphill)
        super().step()
        return loss


def test_sharpness_aware_minimisation_is_the_loop_by_hand(points: Data) -> None:
    """An optimizer that computes the loss twice a step ends with the weights of the usual loop, to the last bit."""
    by_hand, model = nn.Linear(4, 3), nn.Linear(4, 3)
    model.load_state_dict(by_hand.state_dict())
    optimizer = SAM(by_hand.parameters(), lr=0.1)
    for _ in range(2):
        for x, y in batches(points):

            def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(by_hand(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
    train(model, batches(points), optimizer=SAM, closure=True)
    assert bits(model) == bits(by_hand)


def test_a_function_makes_the_data_of_each_epoch(points: Data) -> None:
    """It is called once an epoch."""
    calls = []

    def made() -> list[Data]:
        calls.append(len(calls))
        return batches(points)[: len(calls)]

    run = train(nn.Linear(4, 3), made, epochs=3)
    assert calls == [0, 1, 2]
    assert run.history["batch"] == [1, 3, 6]


def test_each_row_says_where_it_was_recorded(points: Data) -> None:
    """Epoch, batch, step, samples and seconds, the counters of the run so far."""
    now = iter(range(1000))
    run = train(nn.Linear(4, 3), batches(points), accumulate=2, clock=lambda: float(next(now)))
    columns = ("epoch", "batch", "step", "samples")
    rows = [tuple(row[column] for column in columns) for row in run.history]
    assert rows == [(1, 6, 3, 22), (2, 12, 6, 44)]
    first, second = run.history["seconds"]
    assert 0 < first < second


@pytest.mark.parametrize("seed", [0, 1])
def test_validation_leaves_a_seeded_training_alone(points: Data, seed: int) -> None:
    """With a seed, dropout and the order of the data are the same with a validation and without one."""
    ends = []
    for valid in (None, points):
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        torch.manual_seed(2)
        for layer in (model[0], model[2]):
            layer.reset_parameters()
        train(model, points, valid=valid, seed=seed, dataloader_options={"batch_size": 8})
        ends.append(bits(model))
    assert ends[0] == ends[1]


def test_five_packages_are_what_it_needs() -> None:
    """Torch and four small ones; all others are extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [need.partition(">")[0] for need in project["dependencies"]]
    assert sorted(names) == ["attrs", "rich", "structlog", "torch", "transitions"]


class Recomputing(nn.Module):
    """Blocks with dropout, whose activations are computed again in the backward pass if asked to."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.5)) for _ in range(2)
        )
        self.head, self.again, self.calls = nn.Linear(4, 3), again, 0
        self.blocks[0].register_forward_pre_hook(self.count)

    def count(self, *_: object) -> None:
        self.calls += self.training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            if self.again and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.head(x)


@pytest.mark.parametrize("seed", [None, 0])
def test_activation_checkpointing_gives_the_same_weights(points: Data, seed: int | None) -> None:
    """Bit for bit, with dropout and with a seed, accumulated and in bf16; each block is computed twice a batch."""
    models = []
    for again in (False, True):
        torch.manual_seed(1)
        models.append(Recomputing(again))
        train(models[-1], batches(points), seed=seed, accumulate=2, precision="bf16", valid=points)
    plain, recomputed = models
    assert bits(recomputed) == bits(plain)
    assert recomputed.calls == 2 * plain.calls
