"""A rank that does something that ends a job: `failing.py WHAT ...`, one for each start by torchrun."""

from __future__ import annotations

import os
import signal
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
        if LAST and self.calls == 10:
            if WHAT == "raise":
                raise ValueError("this sample is broken")
            if WHAT == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if WHAT == "hang":
                time.sleep(100)
        return self.layer(x)


torch.set_num_threads(1)
x, y = torch.randn(640, 8), torch.randint(0, 2, (640,))
accelerator = st.DDP("cpu", patience=3.0)
if WHAT == "setup" and LAST:
    raise OSError("no data on this host")


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
    accelerator=accelerator,
    callbacks=Slow(),
)
if WHAT == "apart" and LAST:
    st.evaluate(run, (x, y))
print(f"rank {os.environ['RANK']}: {run.outcome!r}", flush=True)
