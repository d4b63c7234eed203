"""A rank that does something that ends a job: `failing.py WHAT ...`, one for each start by torchrun."""

from __future__ import annotations

import os
import sys
import time

import torch
from torch.nn import functional as F

import statetrain as st

WHAT = sys.argv[1 + int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))]
LAST = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1


class Net(torch.nn.Module):
    """A model that goes wrong in its tenth forward on the last rank."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = torch.nn.Linear(8, 2), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if LAST and self.calls == 10 and WHAT == "raise":
            raise ValueError("this sample is broken")
        return self.layer(x)


torch.set_num_threads(1)
x, y = torch.randn(640, 8), torch.randint(0, 2, (640,))


class Slow(st.Callback):
    """Leaves time for a signal."""

    def on_exit_step(self, ctx: st.Context) -> None:
        if WHAT != "sigterm":
            return
        time.sleep(0.01)
        if ctx.step == 5:
            print("trains", flush=True)


run = st.fit(
    Net(),
    (x, y),
    loss=F.cross_entropy,
    optimizer=torch.optim.SGD,
    opt_hparams={"lr": 0.1},
    epochs=2000 if WHAT == "sigterm" else 2,
    seed=1,
    device="cpu",
    callbacks=Slow(),
)
print(f"rank {os.environ['RANK']}: {run.outcome!r}", flush=True)
