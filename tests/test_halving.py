"""Halving: what does not fit into memory is trained on in parts, as if it had fitted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import statetrain as st


class Narrow(nn.Module):
    """A model that has no memory for more than so many samples, in its forward or its backward."""

    def __init__(self, most: int, where: str = "forward") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.most, self.where, self.seen = most, where, []
        self.body = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(len(x))
        found = self.body(x)
        if len(x) <= self.most or not self.training:
            return found
        if self.where == "forward":
            raise MemoryError(f"no room for {len(x)} samples")
        found.register_hook(self._fail)
        return found

    def _fail(self, gradient: Tensor) -> None:
        raise torch.OutOfMemoryError(f"no room for the gradients of {len(gradient)} samples")


def data(size: int = 8) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 3, generator=generator), torch.randn(size, 1, generator=generator))
        for _ in range(4)
    ]


def largest(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).abs().max()


def fit(model: nn.Module, batches: Any, life: st.Lifecycle | None, **more: Any) -> st.Run:
    options = {"loss": F.mse_loss, "metrics": largest, "epochs": 2, "verbose": False} | more
    options = {"valid": data()} | options
    return st.fit(
        model, batches, lifecycle=life, optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1, "momentum": 0.9}, **options,
    )  # fmt: skip


def by_hand(batches: list[Any]) -> nn.Module:
    model = Narrow(99)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        for x, y in batches:
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
    return model


def close(ours: nn.Module, theirs: nn.Module) -> bool:
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    return all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize(("size", "most"), [(8, 7), (8, 4), (8, 3), (7, 2), (5, 1)])
def test_a_batch_in_parts_is_the_batch(where: str, size: int, most: int) -> None:
    """Weights are a loop by hand's over whole batches, rows are those of a run with room enough, and contracts hold."""
    life = st.halving(st.supervised(), 3)
    model = Narrow(most, where)
    run = fit(model, data(size), life, debug=True)
    assert close(model, by_hand(data(size)))
    whole = fit(Narrow(99), data(size), st.supervised())
    for mine, theirs in zip(run.history, whole.history, strict=True):
        for column in ("train_loss", "train_largest", "valid_loss", "step", "samples"):
            assert mine[column] == pytest.approx(theirs[column], abs=1e-6)


def test_a_batch_that_fits_is_trained_on_as_without() -> None:
    """Nothing changes for it: the weights are bit-equal."""
    one, other = Narrow(99), Narrow(99)
    fit(one, data(), st.halving(st.supervised()))
    fit(other, data(), st.supervised())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("size", "n", "tried"), [(8, 1, [8, 4]), (8, 2, [8, 4, 2]), (2, 9, [2, 1])]
)
def test_it_ends_with_the_error(size: int, n: int, tried: list[int]) -> None:
    """After so many halvings, or with one sample a part, the run fails with the error as it was."""
    model = Narrow(0)
    with pytest.raises(MemoryError, match=f"no room for {tried[-1]} samples"):
        fit(model, data(size), st.halving(st.supervised(), n))
    assert model.seen == tried
    assert close(model, Narrow(0))


def test_each_batch_begins_whole() -> None:
    """The number of halvings is a batch's own."""
    model = Narrow(4)
    fit(model, data(), st.halving(st.supervised(), 1), epochs=1)
    assert model.seen == [8, 4, 4] * 4


def test_masks_count() -> None:
    """Where a mask says what counts, parts weigh what they count."""
    batches = [
        {"x": x, "y": y, "there": torch.arange(8)[:, None] % 5 > number % 3}
        for number, (x, y) in enumerate(data())
    ]
    loss = st.Loss(F.mse_loss, input="pred", target="batch.y", mask="batch.there")
    ours, theirs = Narrow(3), Narrow(99)
    options = {"loss": loss, "metrics": None, "input": "x"}
    mine = st.fit(
        ours, batches, lifecycle=st.halving(st.supervised(validate=None)), optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1}, epochs=2, verbose=False, **options,
    )  # fmt: skip
    whole = st.fit(
        theirs, batches, lifecycle=st.supervised(validate=None), optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1}, epochs=2, verbose=False, **options,
    )  # fmt: skip
    assert close(ours, theirs)
    assert mine.history[-1]["train_loss"] == pytest.approx(
        whole.history[-1]["train_loss"], abs=1e-6
    )


def test_what_has_no_rows_is_not_cut() -> None:
    """Where input and target do not agree on a number of samples, the error ends the run."""

    class Last(Narrow):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[-1])

    sequences = [(torch.randn(6, 4, 3), torch.randn(4, 1)) for _ in range(2)]
    with pytest.raises(MemoryError, match="no room for 4 samples"):
        fit(Last(1), sequences, st.halving(st.supervised(validate=None)), valid=None)


def test_a_loss_that_is_not_finite_is_refused_in_parts_too() -> None:
    """The arrows out of `loss` are those out of `halve`."""
    batches = data()
    batches[1][1][5] = float("nan")
    ours, theirs = Narrow(3), Narrow(99)
    life = st.supervised(non_finite="skip")
    mine, whole = fit(ours, batches, st.halving(life)), fit(theirs, batches, life)
    assert close(ours, theirs)
    assert mine.ctx.step == whole.ctx.step == 6


def test_the_table_says_it() -> None:
    """The arrows stand in the table, each with its bound."""
    life = st.halving(st.supervised(), 2)
    arrows = [arrow for arrow in life.transitions if arrow.dest == "halve"]
    assert {arrow.source for arrow in arrows} == {"pred", "loss", "backward", "halve"}
    assert {arrow.guard.label for arrow in arrows} == {"fewer than 2 halvings"}


def test_it_keeps_its_place_among_the_edits() -> None:
    """The parts are computed as the whole is: in bf16 if that was said before, and never if it is said after."""
    life = st.halving(st.supervised(precision="bf16"))
    ours, theirs = Narrow(3), Narrow(99)
    fit(ours, data(), life)
    fit(theirs, data(), st.supervised(precision="bf16"))
    for mine, whole in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, whole, atol=0.02)
    assert life.fingerprint != st.halving(st.supervised(precision="bf16"), 2).fingerprint
    with pytest.raises(st.ConfigError, match="in this order"):
        fit(Narrow(3), data(), None, edits=[st.halving], precision="bf16")
    named = Narrow(3)
    fit(named, data(), None, edits=[st.halving])
    assert close(named, by_hand(data()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 2}, "is not the gradients of one batch"),
        ({"precision": "fp16"}, "is not the gradients of one batch"),
        ({"compute": lambda ctx: 0}, "no state with the role 'backward'"),
    ],
)
def test_what_cannot_be_halved(options: dict[str, Any], message: str) -> None:
    """Windows of batches, scaled losses and custom computations are refused."""
    with pytest.raises(st.ConfigError, match=message):
        st.halving(st.supervised(**options))
