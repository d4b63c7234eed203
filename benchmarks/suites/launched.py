"""A script that a launcher starts on two processes, and one process too: it prints how its run ended."""

from __future__ import annotations

import json
import sys

import torch
from torch.nn import functional as F

import statetrain as st


def train() -> str:
    """The rank, how many there are, the steps, and the weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.randn(203, 8), torch.randint(0, 3, (203,))
    net = torch.nn.Linear(8, 3)
    run = st.fit(
        net,
        (x, y),
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=2,
        dataloader_options={"batch_size": 24},
        device="cpu" if "alone" in sys.argv else "auto",
        seed=1,
        verbose=False,
    )
    group = run.ctx.news and run.ctx.news.group
    place = (group.rank, group.size) if group else (0, 1)
    return json.dumps([*place, run.ctx.step, net.weight.flatten().tolist()])


def with_ray() -> None:
    """Two workers of Ray Train on this machine's CPU."""
    import os

    import ray
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    def loop() -> None:
        print(f"found {train()}", flush=True)

    given = {name: os.environ[name] for name in ("PYTHONPATH", "OMP_NUM_THREADS")}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": given})
    TorchTrainer(loop, scaling_config=ScalingConfig(num_workers=2)).fit()


if __name__ == "__main__":
    if "ray" in sys.argv:
        with_ray()
    else:
        print(f"found {train()}", flush=True)
