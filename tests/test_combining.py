"""combine: several loaders in one epoch, as a loop by hand, and resumed exactly."""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import statetrain as st
from statetrain.testing.resuming import assert_resumable


def numbers(n: int, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
    """A loader of the numbers from 0 to n."""
    rows = torch.arange(float(n))[:, None]
    return DataLoader(TensorDataset(rows, 2 * rows), batch_size, shuffle=shuffle)


def seen(data: Any, epochs: int = 1, **options: Any) -> list[tuple[list[float], list[float]]]:
    """The inputs that each batch of a run had, of both loaders."""
    found: list[tuple[list[float], list[float]]] = []

    @st.on("exit_batch")
    def note(ctx: st.Context) -> None:
        found.append(tuple(ctx.batch[name][0][:, 0].tolist() for name in ("a", "b")))

    train(data, epochs, callbacks=note, **options)
    return found


def train(data: Any, epochs: int = 2, **options: Any) -> st.Run:
    """A run that adds the loss of both loaders' batches up."""
    torch.manual_seed(0)

    def both(ctx: st.Context) -> torch.Tensor:
        (xa, ya), (xb, yb) = ctx.batch["a"], ctx.batch["b"]
        ctx.pred = ctx.model(xa)
        return F.mse_loss(ctx.pred, ya) + F.mse_loss(ctx.model(xb), yb)

    return st.fit(
        nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.1), nn.Linear(4, 1)),
        data,
        compute=both,
        input="a[0]",
        target="a[1]",
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 1e-4},
        epochs=epochs,
        verbose=False,
        **options,
    )


@pytest.mark.parametrize(
    ("epoch", "batches"), [("longest", 5), ("shortest", 2), ("a", 5), ("b", 2)]
)
def test_an_epoch_is_as_long_as_is_said(epoch: str, batches: int) -> None:
    """Five batches of one loader and two of the other: the shorter one begins again, in the same order here."""
    data = st.combine({"a": numbers(10, 2), "b": numbers(6, 4)}, epoch)
    a = [x[:, 0].tolist() for x, _ in numbers(10, 2)]
    b = [x[:, 0].tolist() for x, _ in numbers(6, 4)]
    assert len(data) == batches
    assert seen(data) == list(zip(a[:batches], islice(cycle(b), batches), strict=True))
    assert seen(data, epochs=2) == 2 * seen(data)


def test_it_is_the_loop_by_hand() -> None:
    """Without a seed, shuffling loaders draw from torch's generator as in a loop over both; bit for bit."""
    run = train(st.combine({"a": numbers(10, 2, True), "b": numbers(20, 4, True)}))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.1), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    a, b = numbers(10, 2, True), numbers(20, 4, True)
    for _ in range(2):
        for (xa, ya), (xb, yb) in zip(a, b, strict=True):
            optimizer.zero_grad()
            (F.mse_loss(model(xa), ya) + F.mse_loss(model(xb), yb)).backward()
            optimizer.step()
    assert bits(run.model) == bits(model)


def test_each_pass_has_an_order_of_its_own() -> None:
    """With a seed: every pass of the shorter loader has all its samples, in another order, the same in each run."""
    data = st.combine({"a": numbers(24, 2, True), "b": numbers(8, 2, True)})
    found = seen(data, epochs=2, seed=3)
    passes = [[n for _, b in found[i : i + 4] for n in b] for i in range(0, 24, 4)]
    assert all(sorted(one) == list(range(8)) for one in passes)
    assert len({tuple(one) for one in passes}) == 6
    assert seen(data, epochs=2, seed=3) == found


@pytest.mark.parametrize("epoch", ["longest", "shortest"])
def test_it_is_resumed_exactly(epoch: str) -> None:
    """Cut at any anchor, in the second pass of a loader too; the run has nothing against it."""

    def build() -> st.Run:
        listed = [(torch.full((2, 1), float(i)), torch.ones(2, 1)) for i in range(3)]
        data = st.combine({"a": numbers(8, 2, True), "b": listed}, epoch)
        return train(data, seed=1, start=False)

    assert build().caveats == []
    assert_resumable(build)


def test_parts_are_named_and_validated() -> None:
    """Keys reach into the parts; the validation of combined data counts the samples of its input."""
    data = st.combine({"a": numbers(10, 2), "b": numbers(6, 4)})
    run = st.fit(
        nn.Linear(1, 1),
        data,
        valid=data,
        input="b[0]",
        target="b[1]",
        loss=F.mse_loss,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 1e-3},
        epochs=1,
        verbose=False,
    )
    assert run.history[-1]["samples"] == 4 + 2 + 4 + 2 + 4
    model, total = run.model, 0.0
    for x, y in (*numbers(6, 4), *numbers(6, 4), next(iter(numbers(6, 4)))):
        total += float(F.mse_loss(model(x), y).detach()) * len(x)
    assert run.history[-1]["valid_loss"] == pytest.approx(total / 16)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: st.combine({}), "takes loaders by name"),
        (lambda: st.combine([numbers(4, 2)]), "takes loaders by name"),
        (lambda: st.combine({"a": numbers(4, 2)}, "longst"), "did you mean 'longest'"),
        (lambda: st.combine({"a": iter([1])}), "must be a loader with batches and a length"),
        (lambda: st.combine({"a": (torch.ones(3), torch.ones(3))}), "make a loader of it"),
        (lambda: train({"a": numbers(4, 2), "b": numbers(4, 2)}), r"train=combine\(\{"),
        (lambda: train([numbers(4, 2), numbers(4, 2)]), r"train=combine\(\{"),
    ],
)
def test_what_cannot_be_combined_is_refused(make: Any, message: str) -> None:
    """Loaders in a dict or a list are told what to write."""
    with pytest.raises(st.ConfigError, match=message):
        make()


def test_a_loader_that_gives_nothing_is_named() -> None:
    """Its length was a lie."""

    class Empty(list[Any]):
        def __len__(self) -> int:
            return 2

    with pytest.raises(st.DataError, match="the loader 'b' gave no batch"):
        train(st.combine({"a": numbers(4, 2), "b": Empty()}))
