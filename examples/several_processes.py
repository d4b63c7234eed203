"""Several processes: the script of one, started with torchrun.

    python examples/several_processes.py
    torchrun --nproc-per-node=2 examples/several_processes.py

Both see the same samples at the same step, and end with the same weights within rounding. `batch_size`
is that of a step, all ranks together. Kill it anywhere, start it again with any number of processes:
it resumes where the last checkpoint was taken. With `--max-restarts=3` torchrun does so by itself.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional as F

import statetrain as st


class Spirals(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Points on three arms, moved a little each time that they are looked at."""

    def __init__(self, samples: int = 600, noise: float = 0.03) -> None:
        self.noise = noise
        generator = torch.Generator().manual_seed(0)
        self.arm = torch.arange(samples) % 3
        self.along = torch.rand(samples, generator=generator)

    def __len__(self) -> int:
        return len(self.arm)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        angle = 4.0 * self.along[i] + self.arm[i] * 2.1
        point = torch.stack([angle.sin(), angle.cos()]) * (0.2 + self.along[i])
        return point + self.noise * torch.randn(2), self.arm[i]


class Net(torch.nn.Module):
    """Two hidden layers, with dropout: each rank draws its own."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2, width),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.1),
            torch.nn.Linear(width, width),
            torch.nn.ReLU(),
            torch.nn.Linear(width, 3),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(x)
        return logits


def accuracy(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The share that is right."""
    return (pred.argmax(1) == target).float().mean()


def main(epochs: int = 30, out: str | Path = "runs/several") -> tuple[st.Run, float]:
    """Trains, and evaluates on data of which each rank takes its part."""
    run = st.fit(
        Net,
        Spirals(),
        valid=0.2,
        loss=F.cross_entropy,
        optimizer=torch.optim.AdamW,
        opt_hparams={"lr": 3e-3},
        metrics=accuracy,
        epochs=epochs,
        dataloader_options={"batch_size": 48},  # of a step, all ranks together
        stop=st.EarlyStopping("valid_loss", patience=10) | st.TimeLimit(minutes=10),
        non_finite="skip",
        seed=1,
        callbacks=[st.Progress(), st.Checkpoint(out, every=st.Every(50, "steps"))],
        resume="last",
    )
    # All ranks call it, and get the same.
    scores = st.evaluate(run, Spirals(noise=0.0), metrics=accuracy)
    if run.first:
        print(f"{run.outcome}, {scores}; checkpoints are in {out}")
    return run, scores["accuracy"]


if __name__ == "__main__":
    main()
