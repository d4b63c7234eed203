"""What is trained: a tiny MLP on which overhead shows, a small CNN on handwritten digits, a small transformer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import frozen
from torch import nn

Batch = tuple[torch.Tensor, torch.Tensor]


@frozen
class Task:
    """A model and its data; the loss is the cross-entropy, the optimizer SGD with momentum.

    Args:
        name: what it is called.
        make: gives the model, untrained.
        data: gives so many batches.
        classes: of the output, along its second dimension.
        batches: how many an epoch of a block has.
    """

    name: str
    make: Callable[[], nn.Module]
    data: Callable[[int], list[Batch]]
    classes: int
    batches: int

    def model(self) -> nn.Module:
        """The model, the same each time."""
        torch.manual_seed(0)
        return self.make()


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    """What everybody trains with."""
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


# ---------------------------------------------------------------- a tiny MLP


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def _noise(n: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(32, 64, generator=generator), torch.randint(0, 10, (32,), generator=generator)) for _ in range(n)]


# ---------------------------------------------------------------- a small CNN on digits


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64, 10),
    )


def _digits(n: int) -> list[Batch]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))[: len(x) // 32 * 32].split(32)
    return [(x[order[i % len(order)]], y[order[i % len(order)]]) for i in range(n)]


# ---------------------------------------------------------------- a small transformer


class LanguageModel(nn.Module):
    """Two layers of width 64 with four heads, over 32 tokens; the scores of the next token stand along the second dimension."""

    def __init__(self, tokens: int = 65, width: int = 64, length: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.place = nn.Parameter(torch.randn(length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, tokens)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens, of shape (batch, length), to scores, of shape (batch, tokens, length)."""
        hidden = self.layers(self.embed(x) + self.place, mask=self.mask, is_causal=True)
        scores: torch.Tensor = self.head(hidden)
        return scores.transpose(1, 2)


def _text(n: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(0, 65, (8, 33), generator=generator) for _ in range(n)]
    return [(row[:, :-1].contiguous(), row[:, 1:].contiguous()) for row in rows]


TASKS = {
    task.name: task
    for task in (
        Task("mlp", _mlp, _noise, 10, 400),
        Task("cnn", _cnn, _digits, 10, 150),
        Task("transformer", LanguageModel, _text, 65, 60),
    )
}
