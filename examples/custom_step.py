"""A training step of one's own: a network that learns to read digits though somebody tampers with them.

    python examples/custom_step.py

Each batch is gone through three times: once to find out how to change its pixels so that the loss
grows fastest (the fast gradient sign method, Goodfellow et al. 2015), once as it is, and once with
the pixels changed. That is not one prediction and one loss, so it is a function: `compute=` stands
in the place of prediction, loss and backward, and all the rest (epochs, validation, stopping, what
happens on a NaN) stays in the table.

The network then reads more than 80 % of the tampered digits; one that is trained as usual, less
than 60 %.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import statetrain as st

STRENGTH = 0.1  # how much a pixel may be changed; it lies between 0 and 1


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 4 * 4, 10)),
    )


def attacked(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The images with each pixel changed to where the loss grows."""
    with torch.enable_grad():  # validation runs without
        images = images.detach().requires_grad_()
        (slope,) = torch.autograd.grad(cross_entropy(model(images), labels), images)
    return (images + STRENGTH * slope.sign()).clamp(0, 1).detach()


def train_under_attack(ctx: Any) -> Tensor:
    "train on the batch as it is and under attack"
    harder = attacked(ctx.model, ctx.input, ctx.target)
    ctx.pred = ctx.model(ctx.input)  # what the metrics see
    loss = (cross_entropy(ctx.pred, ctx.target) + cross_entropy(ctx.model(harder), ctx.target)) / 2
    loss.backward()
    return loss


def validate_under_attack(ctx: Any) -> Tensor:
    "read the batch under attack"
    ctx.pred = ctx.model(attacked(ctx.model, ctx.input, ctx.target))
    return cross_entropy(ctx.pred, ctx.target)


def accuracy(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.argmax(dim=1) == target).float().mean()


def main(epochs: int = 10, out: str | Path = "runs/custom_step") -> tuple[st.Run, float]:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    train_x, test_x, train_y, test_y = train_test_split(
        images, torch.tensor(labels), test_size=0.2, stratify=labels, random_state=0
    )

    run = st.fit(
        network(),
        (train_x, train_y),
        valid=0.15,
        compute=train_under_attack,
        valid_compute=validate_under_attack,
        optimizer=torch.optim.Adam,
        opt_hparams={"lr": 2e-3},
        epochs=epochs,
        metrics=accuracy,
        non_finite="skip",  # guards see the loss that the function returns
        callbacks=[st.Progress()],
        seed=0,
    )

    # By validate_under_attack, as in the fit
    under_attack = run.evaluate((test_x, test_y))["accuracy"]
    as_they_are = run.evaluate((test_x, test_y), loss=cross_entropy)["accuracy"]
    run.lifecycle.draw(f"{out}/lifecycle.svg")
    print(
        f"accuracy on {len(test_y)} digits that it has never seen: {as_they_are:.1%} as they are,"
        f" {under_attack:.1%} under attack"
    )
    print(f"the machine that trained it: {out}/lifecycle.svg")
    return run, float(under_attack)


if __name__ == "__main__":
    main()
