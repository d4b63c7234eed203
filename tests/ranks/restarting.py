"""Killed on one rank after another, and restarted by torchrun: `restarting.py FOLDER`."""

from __future__ import annotations

import hashlib
import os
import signal
import sys

import torch
from torch.nn import functional as F

import statetrain as st

FOLDER = sys.argv[1]
ATTEMPT = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
RANK = int(os.environ.get("RANK", "0"))
KILLS = {(0, 17): 1, (1, 33): 0}


class Kill(st.Callback):
    """Kills one rank in a step of each attempt."""

    def on_enter_step(self, ctx: st.Context) -> None:
        if KILLS.get((ATTEMPT, ctx.step)) == RANK:
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder: str) -> str:
    """Trains, from where it was cut, and gives the bits of the weights."""
    torch.manual_seed(0)
    x, y = torch.randn(480, 16), torch.randint(0, 10, (480,))
    layers = (torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Dropout(0.1))
    net = torch.nn.Sequential(*layers, torch.nn.Linear(32, 10))
    run = st.fit(
        net,
        (x, y),
        loss=F.cross_entropy,
        optimizer=torch.optim.Adam,
        opt_hparams={"lr": 1e-2},
        epochs=2,
        dataloader_options={"batch_size": 24},
        seed=7,
        callbacks=[Kill(), st.Checkpoint(folder, every=st.Every(5, "steps"))],
        resume="last",
    )
    weights = torch.cat([p.detach().flatten() for p in net.parameters()])
    return (
        f"{run.outcome!r} after {run.ctx.step} steps, {hashlib.sha1(weights.numpy()).hexdigest()}"
    )


torch.set_num_threads(1)
killed, whole = train(f"{FOLDER}/killed"), train(f"{FOLDER}/whole")
if RANK == 0:
    print(f"attempt {ATTEMPT}\nkilled: {killed}\nwhole: {whole}", flush=True)
