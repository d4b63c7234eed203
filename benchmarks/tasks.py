"""What is trained: a tiny MLP on which overhead shows, a small CNN on handwritten digits, a small transformer.

And what takes a device to be trained: a ResNet and a decoder of 100 M parameters, each with a small
size in which the same code runs anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import frozen
from torch import nn
from torch.nn import functional as F

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
    return [
        (torch.randn(32, 64, generator=generator), torch.randint(0, 10, (32,), generator=generator))
        for _ in range(n)
    ]


# ---------------------------------------------------------------- a small CNN on digits


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def _digits(n: int) -> list[Batch]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))[
        : len(x) // 32 * 32
    ].split(32)
    return [(x[order[i % len(order)]], y[order[i % len(order)]]) for i in range(n)]


# ---------------------------------------------------------------- a small transformer


class LanguageModel(nn.Module):
    """Two layers of width 64 with four heads, over 32 tokens; the scores of the next token stand along the second dimension."""

    def __init__(self, tokens: int = 65, width: int = 64, length: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.place = nn.Parameter(torch.randn(length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
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


# ---------------------------------------------------------------- a ResNet on images of 32 x 32


class Block(nn.Module):
    """Two convolutions beside a shortcut: the basic block of He et al. 2015, with batch norm."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first, self.first_norm = (
            nn.Conv2d(before, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.second, self.second_norm = (
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images of shape (batch, before, h, w) to (batch, width, h / stride, w / stride)."""
        hidden = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(hidden)) + self.shortcut(x))


class ResNet(nn.Sequential):
    """ResNet-18 as it is trained on small images: eight blocks, 11.2 M parameters with a width of 64.

    Args:
        width: channels of the first blocks; the last ones have eight times as many.
    """

    def __init__(self, width: int = 64) -> None:
        widths = [width, width, *(2 * width,) * 2, *(4 * width,) * 2, *(8 * width,) * 2]
        strides = [1, 1, 2, 1, 2, 1, 2, 1]
        blocks = [Block(*shape) for shape in zip([width, *widths], widths, strides, strict=False)]
        stem = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        super().__init__(
            *stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, 10)
        )


def _images(n: int, size: int, side: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    few = [
        (
            torch.randn(size, 3, side, side, generator=generator),
            torch.randint(0, 10, (size,), generator=generator),
        )
        for _ in range(min(n, 8))
    ]
    return [few[i % len(few)] for i in range(n)]


# ---------------------------------------------------------------- a decoder


class Layer(nn.Module):
    """Causal attention and a feed-forward net, each after a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.gather = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, length, width) to the same."""
        batch, length, width = x.shape
        parts = (
            self.project(self.attention_norm(x))
            .view(batch, length, 3, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        queries, keys, values = parts.unbind()
        attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.gather(attended.transpose(1, 2).reshape(batch, length, width))
        wide: torch.Tensor = self.narrow(F.gelu(self.widen(self.forward_norm(x))))
        return x + wide


class Decoder(nn.Module):
    """A decoder like GPT-2, 101 M parameters in its own size; embedding and head are the same weights.

    Args:
        tokens, width, heads, layers, length: its sizes; `length` is the most that it can read.
    """

    def __init__(
        self,
        tokens: int = 20_000,
        width: int = 768,
        heads: int = 12,
        layers: int = 12,
        length: int = 512,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.place = nn.Parameter(torch.randn(length, width) * 0.02)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens, of shape (batch, length), to scores, of shape (batch, tokens, length)."""
        hidden = self.norm(self.layers(self.embed(x) + self.place[: x.shape[1]]))
        scores: torch.Tensor = self.head(hidden)
        return scores.transpose(1, 2)


def _tokens(n: int, rows: int, length: int, tokens: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randint(0, tokens, (rows, length + 1), generator=generator) for _ in range(n)]
    return [(row[:, :-1].contiguous(), row[:, 1:].contiguous()) for row in drawn]


# -------------------- batches that take long to be copied


def _wide(n: int, rows: int, width: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    few = [
        (
            torch.randn(rows, width, generator=generator),
            torch.randint(0, 10, (rows,), generator=generator),
        )
        for _ in range(min(n, 4))
    ]
    return [few[i % len(few)] for i in range(n)]


def device_tasks(small: bool) -> dict[str, Task]:
    """What the device suite trains, by name.

    Args:
        small: in sizes in which the CPU is done in a moment.
    """
    images, side, width = (4, 8, 4) if small else (128, 32, 64)
    sizes: dict[str, int] = (
        {"tokens": 50, "width": 16, "heads": 2, "layers": 2, "length": 8} if small else {}
    )
    rows, length, tokens = (2, 8, 50) if small else (16, 512, 20_000)
    copied, wide = (8, 32) if small else (2048, 4096)
    resnet = Task("resnet", lambda: ResNet(width), lambda n: _images(n, images, side), 10, 60)
    decoder = Task(
        "decoder", lambda: Decoder(**sizes), lambda n: _tokens(n, rows, length, tokens), tokens, 30
    )
    heavy = Task(
        "wide",
        lambda: nn.Sequential(nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, 10)),
        lambda n: _wide(n, copied, wide),
        10,
        60,
    )
    return {task.name: task for task in (TASKS["mlp"], TASKS["cnn"], resnet, decoder, heavy)}
