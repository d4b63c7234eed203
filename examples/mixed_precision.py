"""Mixed precision: the same network in float32 and in bfloat16, and what that changes in the table.

    python examples/mixed_precision.py

`precision="bf16"` is an edit of the lifecycle: prediction and loss compute under autocast. (With
"fp16", whose range is short, the table shows more: a scaled loss, a state that takes the scale out
of the gradients again, and an arrow for gradients that were too large.) On a CPU this saves memory
at best; on a GPU it saves time.
"""

from __future__ import annotations

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import statetrain as st
from statetrain.standard.precision import Word


def network() -> nn.Module:
    torch.manual_seed(0)  # both begin with the same weights
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 4 * 4, 10)),
    )


def accuracy(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.argmax(dim=1) == target).float().mean()


def main(epochs: int = 10, out: str | Path = "runs/mixed_precision") -> tuple[st.Run, float]:
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8) / 16
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )

    def fit(precision: Word | None) -> st.Run:
        return st.fit(
            network(),
            (train_x, train_y),
            loss=cross_entropy,
            optimizer=torch.optim.Adam,
            opt_hparams={"lr": 2e-3},
            epochs=epochs,
            metrics=accuracy,
            precision=precision,
            seed=0,
        )

    full, mixed = fit(None), fit("bf16")
    for change in st.diff(full.lifecycle, mixed.lifecycle):
        print(change)

    print("\nepoch  loss in float32  loss in bfloat16")
    for epoch, losses in enumerate(
        zip(full.history["train_loss"], mixed.history["train_loss"], strict=True), start=1
    ):
        print(f"{epoch:5}  {losses[0]:15.4f}  {losses[1]:16.4f}")
    scores = [run.evaluate((test_x, test_y))["accuracy"] for run in (full, mixed)]
    print(
        f"accuracy on {len(test_y)} digits that they have never seen: {scores[0]:.1%} and"
        f" {scores[1]:.1%}"
    )

    mixed.lifecycle.draw(f"{out}/lifecycle.svg")
    print(f"the machine that trained the second one: {out}/lifecycle.svg")
    return mixed, float(scores[1])


if __name__ == "__main__":
    main()
