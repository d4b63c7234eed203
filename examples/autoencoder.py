"""An autoencoder: 64 pixels go through eight numbers and come out as a picture again.

    python examples/autoencoder.py

Nobody says what the digits are; the picture is input and target. What is in a batch is named by
keys, so a dict of arrays is data as it is. Eight numbers found this way say more than the best
eight that can be found by a linear map, which are the principal components.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import statetrain as st

NUMBERS = 8


class Autoencoder(nn.Module):
    """Pictures of shape (batch, 64) to pictures of the same shape."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, NUMBERS))
        self.decode = nn.Sequential(
            nn.Linear(NUMBERS, hidden), nn.ReLU(), nn.Linear(hidden, 64), nn.Sigmoid()
        )

    def forward(self, pictures: Tensor) -> Tensor:
        decoded: Tensor = self.decode(self.encode(pictures))
        return decoded


def main(epochs: int = 30, out: str | Path = "runs/autoencoder") -> tuple[st.Run, float]:
    torch.manual_seed(0)
    pictures = load_digits().images.reshape(-1, 64) / 16
    train, test = train_test_split(pictures, test_size=0.2, random_state=0)

    run = st.fit(
        Autoencoder,
        {"picture": train},
        input="picture",
        target="picture",  # with batches that are bare tensors: target="batch"
        valid=0.1,
        loss=mse_loss,
        hparams={"hidden": 256},
        optimizer=torch.optim.Adam,
        opt_hparams={"lr": 2e-3},
        epochs=epochs,
        stop=st.EarlyStopping("valid_loss", patience=10),
        callbacks=[st.Progress()],
        seed=0,
    )

    decoded = run.predict({"picture": test}).cpu().numpy()
    # The same machine, another question: eight numbers for each picture.
    numbers = run.predict({"picture": test}, compute=lambda ctx: ctx.model.encode(ctx.input))
    share = explained(test, decoded)
    linear = PCA(NUMBERS).fit(train)
    of_linear = explained(test, linear.inverse_transform(linear.transform(test)))
    report = [
        sketch(test[:7]),
        f"through {numbers.shape[1]} numbers each:\n",
        sketch(decoded[:7]),
        f"of the variance of {len(test)} pictures that it has never seen, {share:.1%} is kept",
        f"{NUMBERS} principal components keep {of_linear:.1%}",
    ]
    Path(out).mkdir(parents=True, exist_ok=True)
    Path(out, "pictures.txt").write_text("\n".join(report) + "\n", encoding="utf-8")
    print(*report, f"the same in a file: {out}/pictures.txt", sep="\n")
    return run, share


def explained(pictures: np.ndarray, decoded: np.ndarray) -> float:
    return float(
        1 - ((pictures - decoded) ** 2).sum() / ((pictures - pictures.mean(axis=0)) ** 2).sum()
    )


def sketch(pictures: np.ndarray) -> str:
    """Pictures side by side, in characters."""
    shades = np.array(list(" .:*#@"))
    rows = shades[(np.asarray(pictures).reshape(-1, 8, 8) * 5.999).astype(int)].transpose(1, 0, 2)
    return "\n".join(
        "   ".join("".join(f"{pixel}{pixel}" for pixel in part) for part in row).rstrip()
        for row in rows
    )


if __name__ == "__main__":
    main()
