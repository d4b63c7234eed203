"""Pictures: augmentation, metrics of torchmetrics, one cycle of the learning rate, averaged weights.

    python examples/vision.py

Two hundred handwritten digits are few. Moved, turned and scaled a little, differently each time, they
are as good as many. With `seed=`, each picture's augmentation is a function of the seed, the epoch and
the picture, so a run that is repeated or resumed sees the same pictures, with any number of workers.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassF1Score,
)

import statetrain as st


class Pictures(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Pictures (1, 8, 8) and what they show, moved, turned and scaled by up to `strength`."""

    def __init__(self, images: Tensor, labels: Tensor, strength: float = 0.0) -> None:
        self.images, self.labels, self.strength = images, labels, strength

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        if self.strength:
            turn, scale, right, down = (self.strength * (2 * torch.rand(4) - 1)).tolist()
            cos, sin = math.cos(turn) * (1 + scale), math.sin(turn) * (1 + scale)
            matrix = torch.tensor([[[cos, -sin, right], [sin, cos, down]]])
            grid = F.affine_grid(matrix, [1, 1, 8, 8], align_corners=False)
            image = F.grid_sample(image[None], grid, align_corners=False)[0]
        return image, self.labels[index]


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 4 * 4, 10)),
    )


def main(epochs: int = 40, out: str | Path = "runs/vision") -> tuple[st.Run, float]:
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.tensor(labels)
    few, test = slice(0, 200), Pictures(images[400:], labels[400:])

    scores = {}
    for name, strength in (("as they are", 0.0), ("augmented", 0.25)):
        torch.manual_seed(0)
        run = st.fit(
            network(),
            Pictures(images[few], labels[few], strength),
            valid=Pictures(images[200:400], labels[200:400]),
            loss=F.cross_entropy,
            metrics={"accuracy": MulticlassAccuracy(10, average="micro")},
            valid_metrics={
                "f1": MulticlassF1Score(10),
                "calibration": MulticlassCalibrationError(10),
            },
            optimizer=torch.optim.AdamW,
            epochs=epochs,
            callbacks=[
                st.Progress(),
                st.Schedule("opt.lr", st.schedules.one_cycle(1e-2)),  # over the whole run
                st.EMA(0.95, valid=True, restore=True),  # judged in validation, kept at the end
            ],
            seed=0,
        )
        scores[name] = st.evaluate(run, test)["accuracy"]
    run.lifecycle.draw(f"{out}/lifecycle.svg")

    last = run.history[-1]
    print(f"validation: F1 {last['valid_f1']:.3f}, calibration {last['valid_calibration']:.3f}")
    for name, score in scores.items():
        print(f"200 digits {name}: {score:.1%} of {len(test)} others are right")
    print(f"the machine that trained it: {out}/lifecycle.svg")
    return run, float(scores["augmented"])


if __name__ == "__main__":
    main()
