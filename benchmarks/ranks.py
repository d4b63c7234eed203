"""What `fit` costs on several processes, over the DDP loop by hand, in turns within one run.

    torchrun --standalone --nproc-per-node=2 benchmarks/ranks.py [WIDTH] [BATCH] [BLOCKS] [STEPS]

Both read the loss of each step, sum it up, and refuse one that is not finite. `WIDTH` is of two
hidden layers, `BATCH` the samples of a step, all ranks together; each block is an epoch of `STEPS`
steps. The ratio is the median over blocks. Gloo, on the CPU.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import statetrain as st

FEATURES, CLASSES = 64, 10


def make(width: int) -> torch.nn.Module:
    """The same network each time."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(FEATURES, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, CLASSES),
    )


def by_hand(
    x: torch.Tensor, y: torch.Tensor, width: int, batch: int
) -> tuple[Callable[[], None], torch.nn.Module]:
    """An epoch of the loop by hand: each rank has its part of every batch."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = make(width)
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=1e-3)
    first, last = batch * rank // ranks, batch * (rank + 1) // ranks

    def epoch() -> None:
        order, total = torch.randperm(len(x)), 0.0
        for start in range(0, len(x), batch):
            rows = order[start + first : start + last]
            loss = F.cross_entropy(ddp(x.index_select(0, rows)), y.index_select(0, rows))
            value = loss.item()
            if not math.isfinite(value):
                raise ArithmeticError(value)
            total += value * len(rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch, model


def by_fit(
    x: torch.Tensor, y: torch.Tensor, width: int, batch: int
) -> tuple[Callable[[], None], torch.nn.Module]:
    """An epoch of `fit`."""
    run = st.fit(
        make(width),
        (x, y),
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 1e-3},
        epochs=1,
        seed=1,
        dataloader_options={"batch_size": batch},
    )
    return lambda: _again(run), run.model


def _again(run: st.Run) -> None:
    run.fit(1)


def main() -> None:
    """Measures, and prints what was found."""
    given = [int(word) for word in sys.argv[1:]]
    width, batch, blocks, steps = (*given, *(64, 64, 20, 100)[len(given) :])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(batch * steps, FEATURES)
    y = torch.randint(0, CLASSES, (batch * steps,))
    fitted, _ = by_fit(x, y, width, batch)  # it joins the group
    ways = {"by hand": by_hand(x, y, width, batch)[0], "fit": fitted}
    for way in ways.values():
        way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for block in range(blocks):
        for name in list(ways)[:: 1 if block % 2 else -1]:
            dist.barrier()
            began = time.perf_counter()
            ways[name]()
            times[name].append((time.perf_counter() - began) / steps)
    if dist.get_rank() == 0:
        ratios = [b / a for a, b in zip(times["by hand"], times["fit"], strict=True)]
        found = {
            "ranks": dist.get_world_size(),
            "width": width,
            "batch": batch,
            "by_hand_ms": round(statistics.median(times["by hand"]) * 1e3, 3),
            "ratio": round(statistics.median(ratios), 3),
            "fastest_blocks": round(min(times["fit"]) / min(times["by hand"]), 3),
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
