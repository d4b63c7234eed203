"""Handwritten digits: a small convolutional network, and what a run needs around it.

    python examples/digits.py

The data comes with scikit-learn: 1797 pictures of 8 by 8 pixels. The run takes a few seconds on a
CPU, and the network then reads more than 97 % of the digits that it has never seen.
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
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(32 * 4 * 4, 10)),
    )


def accuracy(pred: Tensor, target: Tensor) -> Tensor:
    # A metric is a function of a batch; its mean over all samples becomes train_accuracy and
    # valid_accuracy.
    return (pred.argmax(dim=1) == target).float().mean()


def main(epochs: int = 30, out: str | Path = "runs/digits") -> tuple[st.Run, float]:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8) / 16
    images, test_images, labels, test_labels = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )

    run = st.fit(
        network(),
        (
            images,
            labels,
        ),  # arrays with one row a sample; fit makes the batches, and places them on the device
        valid=0.15,  # this share of the training data is held back for validation
        loss=cross_entropy,
        optimizer=torch.optim.Adam,
        opt_hparams={"lr": 1e-3},
        epochs=epochs,
        metrics=accuracy,
        # From here on, each option is an arrow in the picture. Guards combine, and the outcome says
        # which of them held.
        stop=st.EarlyStopping("valid_loss", patience=6) | st.TimeLimit(minutes=1),
        non_finite="skip",  # a batch whose loss is NaN or infinite never reaches the weights
        callbacks=[st.Progress()],
        trace=True,  # record every transition that is taken
        seed=0,
    )
    score = float(run.evaluate((test_images, test_labels))["accuracy"])

    # The picture is computed from the very table that was walked, with how often each arrow was
    # taken.
    run.lifecycle.draw(f"{out}/lifecycle.svg", counts=run.trace.counts())

    print(f"outcome: {run.outcome}")
    print(f"accuracy on {len(test_labels)} digits that it has never seen: {score:.1%}")
    print(f"the machine that trained it, in {len(run.trace)} transitions: {out}/lifecycle.svg")
    return run, score


if __name__ == "__main__":
    main()
