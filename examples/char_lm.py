"""A language model that reads Python's own manual, letter by letter.

    python examples/char_lm.py

The text ships with Python: what `help()` prints about the language, half a million letters. A small transformer learns
to say the next letter; the run takes about half a minute on a CPU. On the way: data without an end, gradients summed
over two batches, gradients clipped and a learning rate scheduled by callbacks, validation every hundred steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import statetrain as st

WINDOW = 64  # letters that the model sees
BATCH = 32  # windows in a batch

ALPHABET = sorted(set("".join(topics.values())))


def encode(text: str) -> Tensor:
    place = {letter: i for i, letter in enumerate(ALPHABET)}
    return torch.tensor([place[letter] for letter in text])


def decode(letters: Tensor) -> str:
    return "".join(ALPHABET[i] for i in letters.tolist())


def random_windows(text: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    # Nobody knows how long this is, because it never ends. fit takes any iterable of batches.
    while True:
        starts = torch.randint(len(text) - WINDOW, (BATCH, 1))
        letters = text[starts + torch.arange(WINDOW + 1)]
        yield letters[:, :-1], letters[:, 1:]


class Transformer(nn.Module):
    """Says the next letter at each place of a window: (batch, window) to (batch, window, letters)."""

    def __init__(self, size: int = 128, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.letter = nn.Embedding(len(ALPHABET), size)
        self.place = nn.Embedding(WINDOW, size)
        layer = nn.TransformerEncoderLayer(size, heads, 4 * size, dropout=0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(size, len(ALPHABET))
        # A place sees itself and what came before.
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(WINDOW))

    def forward(self, letters: Tensor) -> Tensor:
        n = letters.shape[1]
        x = self.letter(letters) + self.place.weight[:n]
        return self.head(self.body(x, mask=self.mask[:n, :n], is_causal=True))


def bits_per_letter(pred: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(pred.flatten(0, 1), target.flatten()) / math.log(2)


# ---------------------------------------------------------------- callbacks: hooks of the states


class ClipGradients(st.Callback):
    """Keeps the norm of the gradients below 1, just before the step."""

    writes = {"grads"}

    def on_enter_step(self, ctx: Any) -> None:
        nn.utils.clip_grad_norm_(ctx.model.parameters(), 1.0)


class CosineSchedule(st.Callback):
    """Lowers the learning rate to zero along half a cosine, one notch after each step."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_enter_fit(self, ctx: Any) -> None:
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(ctx.opt, self.steps)

    def on_exit_step(self, ctx: Any) -> None:
        self.schedule.step()


# ---------------------------------------------------------------- the run


def main(epochs: int = 3, out: str | Path = "runs/char_lm") -> tuple[st.Run, float]:
    torch.manual_seed(0)
    text = encode("".join(topics.values()))
    cut = len(text) * 9 // 10
    train, rest = text[:cut], text[cut:]
    rest = rest[: len(rest) // (WINDOW + 1) * (WINDOW + 1)].reshape(-1, WINDOW + 1)
    valid = (rest[:, :-1], rest[:, 1:])
    accumulate = 2
    steps = epochs * len(train) // (WINDOW * BATCH * accumulate)

    model = Transformer()
    before = st.evaluate(model, valid, loss=bits_per_letter)["loss"]
    run = st.fit(
        model,
        lambda: random_windows(train),
        valid=valid,
        loss=bits_per_letter,
        optimizer=torch.optim.AdamW,
        opt_hparams={"lr": 3e-3},
        epochs=None,
        max_steps=steps,
        accumulate=accumulate,
        validate=st.Every(100, "steps"),
        callbacks=[ClipGradients(), CosineSchedule(steps), st.Progress()],
    )
    after = run.evaluate(valid)["loss"]

    print(f"\n{run.outcome}\nbits per letter: {before:.2f} before, {after:.2f} after")
    print(sample(model))
    return run, after


@torch.inference_mode()
def sample(model: nn.Module, start: str = "The ", length: int = 400) -> str:
    letters = encode(start)
    model.eval()
    for _ in range(length):
        likely = (model(letters[None, -WINDOW:])[0, -1] / 0.7).softmax(0)
        letters = torch.cat([letters, torch.multinomial(likely, 1)])
    return decode(letters)


if __name__ == "__main__":
    main()
