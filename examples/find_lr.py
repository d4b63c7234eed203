"""The learning rate finder: how large a step may be, found on a copy.

    python examples/find_lr.py

A copy of the network is trained while the learning rate grows with every step; where the loss falls
fastest lies a rate that is worth starting with (Smith 2017). The network itself, the optimizer and
the random numbers stay as they are.
"""

from __future__ import annotations

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import statetrain as st


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 4 * 4, 10)),
    )


def accuracy(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.argmax(dim=1) == target).float().mean()


def main(epochs: int = 10, out: str | Path = "runs/find_lr") -> tuple[st.Run, float]:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8) / 16
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )
    model = network()
    # What else the optimizer is given applies in the search too
    others = {"weight_decay": 0.01}

    found = st.lr_find(
        model,
        (train_x, train_y),
        loss=cross_entropy,
        optimizer=torch.optim.AdamW,
        opt_hparams=others,
        start=1e-5,
        end=1.0,
        steps=200,
        seed=0,
    )
    print(f"{found!r}\n")
    rate = found.suggestion or 1e-3

    run = st.fit(
        model,
        (train_x, train_y),
        valid=0.15,
        loss=cross_entropy,
        optimizer=torch.optim.AdamW,
        opt_hparams={"lr": rate, **others},
        epochs=epochs,
        metrics=accuracy,
        callbacks=[st.Progress()],
        seed=0,
    )
    score = float(run.evaluate((test_x, test_y))["accuracy"])

    Path(out).mkdir(parents=True, exist_ok=True)
    # found.plot() draws them with matplotlib
    Path(out, "rates.txt").write_text(f"{found}\n", encoding="utf-8")
    print(
        f"accuracy on {len(test_y)} digits that it has never seen: {score:.1%}, with the rate"
        f" {rate:.2g}"
    )
    print(f"all rates that were tried: {out}/rates.txt")
    return run, score


if __name__ == "__main__":
    main()
