"""A table: columns of a pandas frame, numbers and categories, into a network and back.

    python examples/tabular.py

The frame is scikit-learn's study of 442 patients: ten columns, and how far their diabetes progressed in a
year. Columns are named where they are used: numbers go in as they are, a category through an embedding.
The predictions come back as a column of the frame. With so little data a linear model is hard to
beat; the network is about as good.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn
from torchmetrics.regression import R2Score

import statetrain as st

NUMBERS = ["age", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
GROUPS = ["under 40", "40 to 60", "over 60"]


class Net(nn.Module):
    """Numbers of shape (batch, 9) and a category (batch,) to a value (batch,)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.group = nn.Embedding(len(GROUPS), 4)
        self.layers = nn.Sequential(
            *(nn.Linear(len(NUMBERS) + 4, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 1))
        )

    def forward(self, numbers: Tensor, group: Tensor) -> Tensor:
        value: Tensor = self.layers(torch.cat([numbers, self.group(group)], dim=1)).squeeze(1)
        return value


def patients() -> pd.DataFrame:
    """The table, with a column of words, and its numbers to mean 0 and deviation 1."""
    frame = load_diabetes(as_frame=True, scaled=False).frame
    frame["group"] = pd.cut(frame["age"], [0, 40, 60, 200], labels=GROUPS)
    columns = [*NUMBERS, "target"]
    frame[columns] = (frame[columns] - frame[columns].mean()) / frame[columns].std()
    return frame.sample(frac=1.0, random_state=0, ignore_index=True)


def columns_of(frame: pd.DataFrame) -> dict[str, pd.DataFrame | pd.Series]:
    """What the model and the loss take, by name; a word becomes its number."""
    return {
        "numbers": frame[NUMBERS],
        "group": frame["group"].cat.codes.astype("int64"),
        "target": frame["target"],
    }


def main(epochs: int = 60, out: str | Path = "runs/tabular") -> tuple[st.Run, float]:
    frame = patients()
    train, test = frame[:340], frame[340:].copy()

    run = st.fit(
        Net,
        columns_of(train),
        valid=0.2,
        input=["numbers", "group"],
        target="target",
        loss=nn.functional.mse_loss,
        metrics={"r2": R2Score()},
        optimizer=torch.optim.AdamW,
        opt_hparams={"lr": 3e-3, "weight_decay": 0.1},
        epochs=epochs,
        stop=st.EarlyStopping("valid_loss", patience=12),
        callbacks=[st.Progress(), st.KeepBest("valid_loss")],
        seed=0,
    )

    # Predictions come in the order of the rows, so they are a column.
    test["predicted"] = st.predict(run, columns_of(test)).numpy()
    score = st.evaluate(run, columns_of(test))["r2"]
    linear = LinearRegression().fit(train[NUMBERS], train["target"])

    run.lifecycle.draw(f"{out}/lifecycle.svg")
    test.to_csv(f"{out}/predicted.csv", index=False)
    run.history.to_pandas().to_csv(f"{out}/history.csv", index=False)
    print(test[["age", "bmi", "group", "target", "predicted"]].head().to_string())
    print(f"R² on {len(test)} patients that it has not seen: {score:.2f}")
    print(f"of a linear model: {linear.score(test[NUMBERS], test['target']):.2f}")
    print(f"predictions, rows and the lifecycle are in {out}")
    return run, float(score)


if __name__ == "__main__":
    main()
