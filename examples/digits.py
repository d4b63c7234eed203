"""Handwritten digits: a small convolutional network, and everything that a run needs.

    python examples/digits.py

The data comes with scikit-learn: 1797 pictures of 8 by 8 pixels. The run takes a few seconds on a CPU and reads more
than 97 % of the digits that it has never seen.
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
    # A metric is a function of one batch; statetrain averages it over the samples.
    return (pred.argmax(dim=1) == target).float().mean()


def main(epochs: int = 30, out: str | Path = "runs/digits") -> tuple[st.Run, float]:
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    # Arrays with one row a sample are all that fit needs: it makes the batches, on the device that there is.
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8) / 16
    images, test_images, labels, test_labels = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)

    run = st.fit(
        network(),
        (images, labels),
        valid=0.15,  # the share of the training data that is held back for validation
        loss=cross_entropy,
        metrics=accuracy,  # becomes the columns train_accuracy and valid_accuracy
        optimizer=torch.optim.Adam,
        opt_hparams={"lr": 1e-3},
        epochs=epochs,
        # Each of these is an arrow in the picture. Guards combine with | and &, and the outcome says which one held.
        stop=st.EarlyStopping("valid_loss", patience=6) | st.TimeLimit(minutes=2),
        non_finite="skip",  # a batch whose loss is NaN or infinite never reaches the weights
        callbacks=[st.Progress()],
        trace=True,  # keep every transition that the run takes
        seed=0,
    )
    score = run.evaluate((test_images, test_labels))["accuracy"]

    # The picture is computed from the table that has just been walked, with how often each arrow was taken.
    picture = draw(run, out / "lifecycle.svg")

    print(f"\n{run.outcome!r} after {run.ctx.step} steps and {run.ctx.seconds:.1f} s")
    print(f"accuracy on {len(test_labels)} digits that it has never seen: {score:.1%}")
    print(f"the machine that trained it: {picture}")
    return run, score


def draw(run: st.Run, path: Path) -> Path:
    return path


if __name__ == "__main__":
    main()
