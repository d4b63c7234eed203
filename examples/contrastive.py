"""Contrastive learning: an encoder learns digits without labels, from what two views of a picture share.

    python examples/contrastive.py

Each picture is seen twice, moved and covered at random; the encoder is to tell which two views of a
batch belong together (NT-Xent, Chen et al. 2020). The views are drawn in the dataset, and with
`seed=` each draw belongs to its epoch and its picture, so the run resumes bit for bit. A linear
classifier on ten labels a digit then says what was learnt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.utils.data import Dataset

import statetrain as st


class Views(Dataset[Any]):
    """Two random views of each picture, shape (2, 1, 8, 8)."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return torch.stack([self.view(self.images[index]) for _ in range(2)])

    @staticmethod
    def view(image: Tensor) -> Tensor:
        """The picture, moved by a pixel at most, with a corner covered and some noise."""
        down, right = torch.randint(-1, 2, (2,)).tolist()
        view = image.roll((down, right), dims=(1, 2))
        top, left = torch.randint(0, 7, (2,)).tolist()
        view = view.clone()
        view[:, top : top + 2, left : left + 2] = 0.0
        return view + 0.05 * torch.randn(view.shape)


class Encoder(nn.Module):
    """From views to directions: `features` says what is in a picture, `forward` projects both views."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 64)),
        )
        self.project = nn.Sequential(nn.ReLU(), nn.Linear(64, 32))

    def forward(self, views: Tensor) -> Tensor:
        pairs = self.project(self.features(views.flatten(0, 1)))
        return F.normalize(pairs, dim=1).reshape(*views.shape[:2], -1)


def which_belong_together(pred: Tensor) -> Tensor:
    """NT-Xent at temperature 0.3 of directions of shape (batch, 2, 32): shape ()."""
    views = torch.cat([pred[:, 0], pred[:, 1]])
    alike = views @ views.T / 0.3
    alike.fill_diagonal_(float("-inf"))
    half = len(pred)
    return F.cross_entropy(alike, torch.arange(2 * half).roll(half))


def score(encoder: Encoder, images: Tensor, labels: Any) -> float:
    """Accuracy of a linear classifier on the features, trained with ten labels a digit."""
    features = st.predict(encoder.features, images).numpy()
    few = [i for digit in range(10) for i in (labels[:1000] == digit).nonzero()[0][:10]]
    classifier = LogisticRegression(max_iter=1000).fit(features[few], labels[few])
    return float(classifier.score(features[1000:], labels[1000:]))


def main(epochs: int = 40, out: str | Path = "runs/contrastive") -> tuple[st.Run, float]:
    torch.manual_seed(0)
    digits, labels = load_digits(return_X_y=True)
    images = torch.tensor(digits, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    encoder = Encoder()
    before = score(encoder, images, labels)
    run = st.fit(
        encoder,
        Views(images[:1000]),
        loss=st.Loss(which_belong_together, pred="pred"),
        optimizer=torch.optim.Adam,
        opt_hparams={"lr": 3e-3},
        dataloader_options={"batch_size": 100},
        epochs=epochs,
        callbacks=[st.Progress()],
        seed=0,
    )
    after = score(encoder, images, labels)
    run.lifecycle.draw(f"{out}/lifecycle.svg")

    print(
        f"a linear classifier on the features, ten labels a digit: {before:.1%} before, {after:.1%} after"
    )
    print(f"the machine that trained it: {out}/lifecycle.svg")
    return run, after


if __name__ == "__main__":
    main()
