"""Many callbacks around one fit: what is done to the gradients, to the rate, to the data, and what is written down.

    python examples/many_callbacks.py

Callbacks look on, or say what they write; the machine calls them in the order of this list. The
network reads handwritten digits from mixtures of two of them (mixup), its rate rises and falls once
(one cycle), its gradients are clipped, the best weights are the ones that stay, and everything that
happens is in files. At the end: where the time went.
"""

from __future__ import annotations

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import OneCycleLR
from torchmetrics.classification import MulticlassAUROC

import statetrain as st

BATCH = 32


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.25), nn.Linear(32 * 4 * 4, 10)),
    )


def accuracy(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.argmax(dim=1) == target).float().mean()


def main(epochs: int = 15, out: str | Path = "runs/many_callbacks") -> tuple[st.Run, float]:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8) / 16
    rest_x, test_x, rest_y, test_y = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )
    train_x, valid_x, train_y, valid_y = train_test_split(
        rest_x, rest_y, test_size=0.15, stratify=rest_y, random_state=0
    )

    # The best weights are the model's when the run ends, however it ends
    best = st.KeepBest("valid_loss")
    profile = st.Profile()
    run = st.fit(
        network(),
        (train_x, train_y),
        valid=(valid_x, valid_y),
        loss=cross_entropy,
        optimizer=torch.optim.AdamW,
        opt_hparams={"lr": 1e-3, "weight_decay": 1e-2},
        dataloader_options={"batch_size": BATCH},
        epochs=epochs,
        # With mixup, the training's sees mixtures, so the validation's is the one to look at
        metrics=accuracy,
        valid_metrics={"auroc": MulticlassAUROC(10)},  # any object with update, compute and reset
        callbacks=[
            st.Progress(),
            st.Mixup(alpha=0.2),
            st.GradientClip(max_norm=1.0),
            st.LRScheduler(
                OneCycleLR, per="step", max_lr=1e-2, total_steps=epochs * -(-len(train_x) // BATCH)
            ),
            best,
            st.CSVLogger(f"{out}/history.csv"),
            st.Log(file=f"{out}/events.jsonl", format="json"),
            profile,
        ],
        seed=0,
    )
    score = float(run.evaluate((test_x, test_y))["accuracy"])
    run.lifecycle.draw(f"{out}/lifecycle.svg")

    longest = profile.table()[0]
    print(f"the weights are those of epoch {best.best_epoch}, whose valid_loss was {best.best:.4g}")
    print(
        f"the rate went up to {max(run.history['lr']):.2g} and down to {run.history['lr'][-1]:.2g}"
    )
    print(
        f"{profile.waiting / profile.total:.0%} of the time went into waiting for data,"
        f" {longest['share']:.0%} into {longest['state']}"
    )
    print(f"accuracy on {len(test_y)} digits that it has never seen: {score:.1%}")
    print(f"history.csv, events.jsonl and lifecycle.svg are in {out}")
    return run, score


if __name__ == "__main__":
    main()
