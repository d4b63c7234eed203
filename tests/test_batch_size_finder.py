"""find_batch_size: the largest batch that trains, and nothing is touched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import statetrain as st

OPTIONS: dict[str, Any] = {"loss": F.mse_loss, "optimizer": torch.optim.Adam}
DATA = (torch.randn(100, 3), torch.randn(100, 1))


class Narrow(nn.Linear):
    """A model that has no memory for more than so many samples."""

    tried: list[int] = []

    def __init__(self, most: int) -> None:
        super().__init__(3, 1)
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        self.tried.append(len(x))
        if len(x) > self.most:
            raise MemoryError(f"no room for {len(x)} samples")
        return super().forward(F.dropout(x))


@pytest.mark.parametrize("start", [1, 99])
@pytest.mark.parametrize(("most", "expected"), [(2, 2), (37, 37), (500, 100)])
def test_it_is_the_largest_that_trains(start: int, most: int, expected: int) -> None:
    """It is exact, wherever the search begins, and never more than there are samples."""
    assert st.find_batch_size(Narrow(most), DATA, start=start, steps=1, **OPTIONS) == expected


def test_nothing_is_touched() -> None:
    """Weights, gradients and generators are what they were."""
    model = Narrow(20)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    state = torch.get_rng_state()
    assert st.find_batch_size(model, DATA, **OPTIONS) == 20
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_it_takes_few_trials() -> None:
    """Doubling, then bisection: a trial for each power of two, and one for each bit in between."""
    Narrow.tried.clear()
    st.find_batch_size(Narrow(37), DATA, start=8, steps=1, **OPTIONS)
    assert Narrow.tried == [8, 16, 32, 64, 48, 40, 36, 38, 37]


def test_most_is_a_bound() -> None:
    """No size above it is tried."""
    Narrow.tried.clear()
    assert st.find_batch_size(Narrow(500), DATA, most=50, steps=1, **OPTIONS) == 50
    assert max(Narrow.tried) == 50


def test_one_sample_that_is_too_large_is_the_error() -> None:
    """The error is the model's own."""
    with pytest.raises(MemoryError, match="no room for 1 samples"):
        st.find_batch_size(Narrow(0), DATA, **OPTIONS)


@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        ([DATA], {}, "a list makes its own or has no length"),
        (DATA, {"start": 0}, "start must be a whole number of at least 1, got 0"),
        (DATA, {"epochs": 3}, "sets epochs itself"),
    ],
)
def test_what_cannot_be_searched(data: Any, more: dict[str, Any], message: str) -> None:
    """Batches, and arguments that it sets, are refused before the first trial."""
    with pytest.raises(st.ConfigError, match=message):
        st.find_batch_size(Narrow(9), data, **OPTIONS, **more)


def test_other_errors_pass_through() -> None:
    """Only a want of memory is a size that is too large."""
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        st.find_batch_size(nn.Linear(4, 1), DATA, **OPTIONS)
