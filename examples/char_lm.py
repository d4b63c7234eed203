"""A small transformer that reads Python's own manual, character by character.

    python examples/char_lm.py

The text ships with Python: what `help()` knows about the language, a third of a million characters.
The run takes less than half a minute on a CPU. Four things here are different from the digits: the
data has no end, gradients are collected over two batches, validation comes in the middle of an
epoch, and two callbacks look after gradients and learning rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import statetrain as st

WINDOW = 32  # characters that the model sees
BATCH = 16  # windows in a batch
ACCUMULATE = 2  # batches in a step

# ---------------------------------------------------------------- the text

# The topics quote each other, so every paragraph is taken once, and every twentieth is kept for
# validation.
PARAGRAPHS = list(dict.fromkeys("\n\n".join(topics.values()).split("\n\n")))
ALPHABET = sorted(set("\n\n".join(PARAGRAPHS)))
NUMBER = {character: number for number, character in enumerate(ALPHABET)}


def encode(text: str) -> Tensor:
    return torch.tensor([NUMBER[character] for character in text])


def random_windows(text: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    # Any iterable of batches will do, also one that has no length and no end. The target of a
    # character is the next one.
    while True:
        starts = torch.randint(len(text) - WINDOW, (BATCH, 1))
        window = text[starts + torch.arange(WINDOW + 1)]
        yield window[:, :-1], window[:, 1:]


def all_windows(text: Tensor) -> tuple[Tensor, Tensor]:
    windows = text[: len(text) // (WINDOW + 1) * (WINDOW + 1)].reshape(-1, WINDOW + 1)
    return windows[:, :-1], windows[:, 1:]


# ---------------------------------------------------------------- the model


class Transformer(nn.Module):
    """Scores for the next character at each place of a window: (batch, place) to (batch, place, character)."""

    def __init__(self, size: int = 128, heads: int = 8) -> None:
        super().__init__()
        self.character = nn.Embedding(len(ALPHABET), size)
        self.place = nn.Embedding(WINDOW, size)
        self.block = nn.TransformerEncoderLayer(
            size, heads, 4 * size, dropout=0.0, batch_first=True, norm_first=True
        )
        self.head = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, len(ALPHABET)))

    def forward(self, window: Tensor) -> Tensor:
        n = window.shape[1]
        # Nobody sees what comes after
        past = nn.Transformer.generate_square_subsequent_mask(n, device=window.device)
        hidden = self.block(
            self.character(window) + self.place.weight[:n], src_mask=past, is_causal=True
        )
        scores: Tensor = self.head(hidden)
        return scores


def bits_per_character(pred: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(pred.flatten(0, 1), target.flatten()) / log(2)


@torch.inference_mode()
def continuation(model: nn.Module, text: str, length: int = 300) -> str:
    device = next(model.parameters()).device
    for _ in range(length):
        scores = model(encode(text[-WINDOW:])[None].to(device))[0, -1]
        text += ALPHABET[int(torch.multinomial((scores / 0.6).softmax(0), 1))]
    return text


# ---------------------------------------------------------------- callbacks

# Their methods are named after the states; a misspelt one is an error before the run. The library
# has both of these in
# general, as GradientClip and LRScheduler. They stand here because this is all that there is to a
# callback.


class ClipGradients(st.Callback):
    """Bounds the norm of the gradients before each step."""

    writes = {"grads"}

    def on_enter_step(self, ctx: Any) -> None:
        nn.utils.clip_grad_norm_(ctx.model.parameters(), 1.0)


class WarmUpAndCosine(st.Callback):
    """Lets the learning rate rise, and then fall along a cosine, a notch after each step."""

    writes = {"optimizers"}

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_enter_fit(self, ctx: Any) -> None:
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            ctx.opt, max_lr=0.01, total_steps=self.steps
        )

    def on_exit_step(self, ctx: Any) -> None:
        self.schedule.step()


# ---------------------------------------------------------------- the run


# Data without an end has no epochs; a run is so many steps. 350 of them see as much text as there
# is.
def main(steps: int = 700, out: str | Path = "runs/char_lm") -> tuple[st.Run, float]:
    torch.manual_seed(0)
    train = encode("\n\n".join(text for i, text in enumerate(PARAGRAPHS) if i % 20))
    valid = all_windows(encode("\n\n".join(PARAGRAPHS[::20])))

    model = Transformer()
    before = st.evaluate(model, valid, loss=bits_per_character)["loss"]
    run = st.fit(
        model,
        lambda: random_windows(train),
        valid=valid,
        loss=bits_per_character,
        optimizer=torch.optim.AdamW,
        epochs=None,
        max_steps=steps,
        accumulate=ACCUMULATE,
        validate=st.Every(100, "steps"),
        callbacks=[ClipGradients(), WarmUpAndCosine(steps), st.Progress()],
    )
    after = run.evaluate(valid)["loss"]

    run.lifecycle.draw(f"{out}/lifecycle.svg")

    print(f"bits per character: {before:.2f} before, {after:.2f} after")
    print(f"the machine that trained it: {out}/lifecycle.svg")
    print(f"\n{continuation(model, 'The ').rstrip()}")
    return run, after


if __name__ == "__main__":
    main()
