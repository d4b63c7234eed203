"""Problems small enough to be trained in milliseconds, and the same surroundings for every test."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

Data = tuple[torch.Tensor, torch.Tensor]

torch.set_num_threads(1)  # sums of several threads need not come in the same order


@pytest.fixture(autouse=True)
def seeds() -> None:
    "Every test starts from the same random state."
    torch.manual_seed(0)


@pytest.fixture
def threads() -> Iterator[None]:
    "Whatever a benchmark sets, the other tests have the number of threads that they had."
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> Data:
    "230 handwritten digits as images of shape (1, 8, 8), and what they are."
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images[:230], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(
        labels[:230]
    )


@pytest.fixture(scope="session")
def points() -> Data:
    "22 points of shape (4,) of 3 classes: three batches of 8, the last one short."
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(22, 4, generator=generator)
    return inputs, (inputs @ torch.randn(4, 3, generator=generator)).argmax(1)


class Cnn(nn.Module):
    """A convolution, batch norm, dropout and a linear layer."""

    def __init__(self, width: int = 4, dropout: float = 0.25) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(width * 16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, 10)."""
        hidden = nn.functional.max_pool2d(self.norm(self.conv(images)).relu(), 2)
        return self.out(self.drop(hidden.flatten(1)))


@pytest.fixture
def cnn() -> Callable[[], nn.Module]:
    "Makes a CNN for digits, the same one each time, and starts the random state anew."

    def make() -> nn.Module:
        torch.manual_seed(0)
        return Cnn()

    return make


@pytest.fixture
def net() -> nn.Module:
    "A linear layer, dropout and another one, for points."
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 3))


if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as in a shell's background job; a run leaves ignored signals alone
    signal.signal(signal.SIGINT, signal.default_int_handler)
