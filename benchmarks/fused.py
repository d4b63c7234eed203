"""`fit(..., compile="step")` against a hand-written eager loop, on the CPU.

    python benchmarks/fused.py

Each way trains a model of its own, which goes on through all blocks. A block is an epoch; the
blocks of all ways alternate in random order, and the clocks sit in the data. Before, all have made
the same steps from the same weights, and have to have come to the same ones as near as float32
goes. What torch compiles is compiled by then. It takes a C++ compiler.
"""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from bounds import bootstrap
from feed import Feed
from rows import Row, run
from tasks import TASKS, Task, optimizer
from torch import nn

import statetrain as st

Epoch = Callable[[Feed], Any]
Optimizer = Callable[[Any], torch.optim.Optimizer]

WARM_UP = 5  # batches


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.001)


def by_hand(model: nn.Module, opt: torch.optim.Optimizer, compiled: bool = False) -> Epoch:
    """The loop as one writes it, with the mean of the loss; the model alone may be compiled."""
    forward = torch.compile(model) if compiled else model

    def epoch(feed: Feed) -> float:
        model.train()
        total, count = 0.0, 0
        for x, y in feed:
            opt.zero_grad()
            loss = F.cross_entropy(forward(x), y)
            total, count = total + loss.item() * len(x), count + len(x)
            loss.backward()
            opt.step()
        return total / count

    return epoch


def ours(model: nn.Module, opt: torch.optim.Optimizer, **options: Any) -> Epoch:
    """A run of `fit` that goes on for an epoch each time."""
    # Each epoch has its own data
    run = st.fit(
        model, [None], loss=F.cross_entropy, optimizer=opt, epochs=0, device="cpu", **options
    )

    def epoch(feed: Feed) -> None:
        run.ctx.train_data = feed
        run.fit(1)

    return epoch


WAYS: dict[str, Callable[[nn.Module, torch.optim.Optimizer], Epoch]] = {
    "the loop, model compiled": lambda model, opt: by_hand(model, opt, compiled=True),
    "fit": ours,
    "fit, the step compiled": lambda model, opt: ours(
        model, opt, non_finite="ignore", compile="step"
    ),
    "... with inductor's cpp_wrapper": lambda model, opt: ours(
        model,
        opt,
        non_finite="ignore",
        compile={"what": "step", "options": {"cpp_wrapper": True}},
    ),
    "... with finite_check='late'": lambda model, opt: ours(
        model, opt, finite_check="late", compile="step"
    ),
}


def compare(
    task: Task, make: Optimizer, pairs: int, batches: int, ways: list[str]
) -> dict[str, list[float]]:
    """CPU time, microseconds a batch, of each block of each way; the loop by hand is `""`."""
    data = task.data(batches)
    epochs: dict[str, Epoch] = {}
    weights: dict[str, list[Any]] = {}
    for name in ("", *ways):
        model = task.model()
        opt = make(model.parameters())
        epochs[name] = (WAYS[name] if name else by_hand)(model, opt)
        epochs[name](Feed(data[:WARM_UP]))
        weights[name] = [p.detach().clone() for p in model.parameters()]
        if not all(
            torch.allclose(one, other, atol=1e-4)
            for one, other in zip(weights[name], weights[""], strict=True)
        ):
            raise AssertionError(f"{name} comes to other weights than the loop by hand")
    chance = random.Random(3)
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(pairs):
        for name in chance.sample(list(epochs), len(epochs)):
            feed = Feed(data)
            gc.collect()
            epochs[name](feed)
            times[name].append(feed.cost().cpu)
    return times


def rows(quick: bool) -> Iterator[Row]:
    cases: list[tuple[str, str, Optimizer, int, int]] = [
        ("mlp", "mlp, SGD", optimizer, 30, 400),
        ("mlp", "mlp, AdamW", adamw, 30, 400),
        ("cnn", "cnn, SGD", optimizer, 20, 100),
    ]
    for task, words, make, pairs, batches in cases[: 1 if quick else 3]:
        # Compiling takes too long to see that it runs
        ways = ["fit"] if quick else list(WAYS)
        times = compare(TASKS[task], make, 2 if quick else pairs, 20 if quick else batches, ways)
        yield Row(
            f"{words}: the loop by hand",
            statistics.median(times[""]),
            "us a batch",
            None,
            bootstrap(times[""]),
        )
        for name in ways:
            ratios = [hand / own for hand, own in zip(times[""], times[name], strict=True)]
            yield Row(
                f"{words}: {name}, times as fast as the loop",
                statistics.median(ratios),
                "x",
                None,
                bootstrap(ratios),
            )


if __name__ == "__main__":
    run(rows, __doc__)
