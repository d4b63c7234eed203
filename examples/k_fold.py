"""Cross-validation: a lifecycle whose states train models, each in a run of its own.

    python examples/k_fold.py

The digits are divided into five parts, and five models are trained, each without one part, on which
it is then tested. That is a loop with a beginning, an end and ways out of it, so it is a table as
well: one whose action `fit_fold` walks another. A machine needs little of its context. This one has
nothing to do with batches and epochs; those are the inner runs'.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from attrs import Factory, define
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import statetrain as st
from statetrain.context.position import Position

K = 5


@define(eq=False)
class Folds(Position):
    """What the outer machine knows."""

    images: Any = None  # of shape (samples, 64)
    labels: Any = None
    epochs: int = 15
    fold: int = 0  # the present one, from 1
    splits: list[Any] = Factory(list)  # the indices of each
    runs: list[st.Run] = Factory(list)
    scores: list[float] = Factory(list)


# ---------------------------------------------------------------- what is done in the states


def divide(ctx: Folds) -> None:
    "divide the data into folds"
    ctx.splits = list(
        StratifiedKFold(K, shuffle=True, random_state=0).split(ctx.images, ctx.labels)
    )


def next_one(ctx: Folds) -> None:
    "count the fold"
    ctx.fold += 1


def fit_fold(ctx: Folds) -> None:
    "train a new model without this fold"
    kept, _ = ctx.splits[ctx.fold - 1]
    ctx.runs.append(
        st.fit(
            Classifier,  # a class, so that it is made by the seed
            (ctx.images[kept], ctx.labels[kept]),
            loss=cross_entropy,
            optimizer=torch.optim.Adam,
            opt_hparams={"lr": 3e-3},
            epochs=ctx.epochs,
            metrics=accuracy,
            seed=ctx.fold,
        )
    )


def test_fold(ctx: Folds) -> None:
    "test the model on this fold"
    _, left_out = ctx.splits[ctx.fold - 1]
    ctx.scores.append(
        ctx.runs[-1].evaluate((ctx.images[left_out], ctx.labels[left_out]))["accuracy"]
    )


class Classifier(nn.Sequential):
    """Images of shape (batch, 64) to logits of shape (batch, 10)."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))


def accuracy(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.argmax(dim=1) == target).float().mean()


# ---------------------------------------------------------------- and how they follow each other


@st.guard(reads={"fold"})
def more_folds(ctx: Folds) -> bool:
    "more folds"
    return ctx.fold < K


@st.guard(reads={"runs"})
def interrupted(ctx: Folds) -> bool:
    "interrupted"
    return isinstance(ctx.runs[-1].outcome, st.Interrupted)


def lifecycle() -> st.Lifecycle:
    return st.Lifecycle(
        "cross-validation",
        states=[
            st.State("divide", divide),
            st.State("next_fold"),
            st.State("fold"),  # the scope of what is done with one
            st.State("fit_fold", fit_fold, within="fold"),
            st.State("test_fold", test_fold, within="fold"),
            st.State("end", final=True),
        ],
        transitions=[
            st.Transition("divide", "next_fold"),
            st.Transition("next_fold", "fold", more_folds, next_one),
            st.Transition("next_fold", "end"),
            st.Transition("fold", "fit_fold"),
            st.Transition(
                "fit_fold", "end", interrupted
            ),  # Ctrl-C ends the inner run in order; here it ends the outer one too
            st.Transition("fit_fold", "test_fold"),
            st.Transition("test_fold", "next_fold"),
        ],
    )


@st.on("exit_test_fold")
def report(ctx: Folds) -> None:
    print(f"fold {ctx.fold} of {K}: {ctx.scores[-1]:.1%}, {ctx.runs[-1].outcome}")


def main(epochs: int = 15, out: str | Path = "runs/k_fold") -> tuple[st.Run, float]:
    Path(out).mkdir(parents=True, exist_ok=True)
    life = lifecycle()
    print(life, "\n")
    life.draw(f"{out}/folds.svg")

    images, labels = load_digits(return_X_y=True)
    ctx = Folds(images=images.astype("float32") / 16, labels=labels, epochs=epochs)
    st.Machine(life, [report]).run(ctx)

    print(
        f"accuracy on digits that were left out: {mean(ctx.scores):.1%}, give or take"
        f" {stdev(ctx.scores):.1%}"
    )
    print(f"how it went about it: {out}/folds.svg")
    return ctx.runs[-1], mean(ctx.scores)


if __name__ == "__main__":
    main()
