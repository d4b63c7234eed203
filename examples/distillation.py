"""Distillation: a small network learns from a large one what the labels do not say.

    python examples/distillation.py

A convolutional teacher is trained on handwritten digits. A student with a tenth of its weights then
learns from the teacher's probabilities as much as from the labels (Hinton et al. 2015), with a
hundred labels only: the teacher's opinion is free for every picture. Two losses, each with a column
of its own, and a part of the context that a callback writes: the teacher's prediction.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import statetrain as st

TEMPERATURE = 4.0


def teacher_network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 10)),
    )


def student_network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


def accuracy(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.argmax(dim=1) == target).float().mean()


class Teacher(st.Callback):
    """Asks the teacher about each batch, before the student does."""

    reads = {"batch"}
    writes = {"buffers.teacher"}

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()

    def on_enter_batch(self, ctx: st.Context) -> None:
        ctx.buffers["teacher"] = self.model(ctx.batch["image"])

    on_enter_valid_batch = on_enter_batch


def agreement(pred: Tensor, teacher: Tensor) -> Tensor:
    """How far the student's softened probabilities are from the teacher's, shape ()."""
    ours = F.log_softmax(pred / TEMPERATURE, dim=1)
    theirs = F.log_softmax(teacher / TEMPERATURE, dim=1)
    return F.kl_div(ours, theirs, log_target=True, reduction="batchmean") * TEMPERATURE**2


def labelled(pred: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy over the pictures that have a label; -1 says that there is none, shape ()."""
    has = label >= 0
    return F.cross_entropy(pred[has], label[has], reduction="sum") / max(1, int(has.sum()))


def main(epochs: int = 40, out: str | Path = "runs/distillation") -> tuple[st.Run, float]:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    train, test = train_test_split(range(len(images)), test_size=0.3, random_state=0)
    labels = torch.tensor(labels)
    known = labels.clone()
    known[train[100:]] = -1  # a hundred labels stay

    teacher = st.fit(
        teacher_network(),
        (images[train], labels[train]),
        loss=F.cross_entropy,
        optimizer=torch.optim.Adam,
        epochs=max(1, epochs // 4),
        seed=0,
    ).model

    scores = {}
    for name, weight in (("alone", 0.0), ("with a teacher", 1.0)):
        torch.manual_seed(1)
        run = st.fit(
            student_network(),
            {"image": images[train], "label": known[train]},
            input="image",
            loss=st.Losses(
                label=st.Loss(labelled, pred="pred", label="batch.label"),
                teacher=st.Loss(agreement, pred="pred", teacher="buffers.teacher", weight=weight),
            ),
            optimizer=torch.optim.Adam,
            opt_hparams={"lr": 3e-3},
            epochs=epochs,
            callbacks=[Teacher(teacher), st.Progress()],
            seed=1,
        )
        scores[name] = accuracy(st.predict(run, {"image": images[test]}), labels[test]).item()
    run.lifecycle.draw(f"{out}/lifecycle.svg")

    for name, score in scores.items():
        print(f"a student {name} reads {score:.1%} of the digits that it has never seen")
    print(f"the machine that trained it: {out}/lifecycle.svg")
    return run, scores["with a teacher"] - scores["alone"]


if __name__ == "__main__":
    main()
