"""What things cost as they grow: rows, samples, states, evaluations, parameters, callbacks.

    python benchmarks/growth.py

Each is measured at a few sizes, in CPU time. The exponent is the slope of time against size, both as
logarithms, by least squares: 0 does not grow, 1 grows as the size does, 2 with its square. Goals
stand where something must not grow, or has a limit at the largest size.
"""

from __future__ import annotations

import gc
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen
from rows import Row, run
from torch import nn

import statetrain as st

Measure = Callable[[int], float]


@frozen
class Growth:
    """One thing that grows.

    Args:
        what: what is measured.
        of: what its size counts.
        sizes: at which it is measured, from small to large.
        cost: milliseconds of CPU time at a size.
        exponent: the most that it should be; None if there is no such figure.
        largest: milliseconds that it should take at most at the largest size; None likewise.
    """

    what: str
    of: str
    sizes: Sequence[int]
    cost: Measure
    exponent: float | None = None
    largest: float | None = None

    def rows(self, quick: bool) -> Iterator[Row]:
        """Its cost at each size, and the exponent."""
        sizes, times = (self.sizes[:2], 1) if quick else (self.sizes, 3)
        costs = [statistics.median(self.cost(size) for _ in range(times)) for size in sizes]
        for size, cost in zip(sizes, costs, strict=True):
            goal = self.largest if size == self.sizes[-1] else None
            yield Row(f"{self.what}, {size:,} {self.of}", cost, "ms", goal)
        yield Row("... exponent", slope(sizes, costs), "power", self.exponent)


def slope(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The exponent of a power law through some points."""
    logs = [math.log(size) for size in sizes], [math.log(max(cost, 1e-6)) for cost in costs]
    return statistics.linear_regression(*logs).slope


def milliseconds(function: Callable[[], Any]) -> float:
    """CPU time of a call."""
    gc.collect()
    begin = time.process_time()
    function()
    return (time.process_time() - begin) * 1e3


def begun(model: nn.Module | None = None, train: Any = None, **options: Any) -> st.Run:
    """A small run before its first transition."""
    torch.manual_seed(0)
    given = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.01},
        "epochs": 1,
        "device": "cpu",
        "verbose": False,
        "start": False,
    }
    if train is None:
        train = [(torch.randn(8, 4), torch.zeros(8).long())]
    return st.fit(model or nn.Linear(4, 2), train, **{**given, **options})


# ---------------------------------------------------------------- rows


class Long(st.Callback):
    """Gives a run so many rows before its second epoch, as if it had been trained for long."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def on_enter_epoch(self, ctx: st.Context) -> None:
        if ctx.epoch == 2:
            row = dict(ctx.history[-1])
            ctx.history.rows[:] = [{**row, "epoch": i} for i in range(self.rows)]


def save(rows: int) -> float:
    """A save of a long run, once the two files that its checkpoints share hold the rows before."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = st.Checkpoint(
            Path(folder), every=st.Every(10**9, "steps"), preflight=False, at_end=False
        )
        run = begun(epochs=12, callbacks=[checkpoint, Long(rows)])
        times = []
        with run.steps() as steps:
            while steps.until("next_epoch") is not None:
                if run.ctx.epoch >= 2:
                    times.append(milliseconds(lambda: checkpoint.save(run.ctx)))
        return statistics.median(times[2:])


def stop(rows: int) -> float:
    """A thousand epochs' questions of a stop guard, after so many rows."""
    guard = st.EarlyStopping("train_loss", patience=10**9)
    ctx = begun(stop=guard).ctx
    row = {"train_loss": 1.0, "epoch": 1}
    ctx.history.rows[:] = [dict(row) for _ in range(rows)]
    guard(ctx)

    def ask() -> None:
        for _ in range(1000):
            ctx.history.rows.append(dict(row))
            guard(ctx)

    return milliseconds(ask)


# ---------------------------------------------------------------- samples


class Squares(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Samples that are computed when they are asked for."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.full((4,), i % 7, dtype=torch.float32), i % 2


def epoch(samples: int) -> float:
    """From the beginning of a seeded epoch to its first batch."""
    run = begun(
        train=Squares(samples), seed=1, dataloader_options={"batch_size": 32, "shuffle": True}
    )
    with run.steps() as steps:
        return milliseconds(lambda: steps.until("batch"))


# ---------------------------------------------------------------- states, evaluations


def chain(states: int) -> st.Lifecycle:
    """A lifecycle that is one long line."""
    names = [f"s{i}" for i in range(states)]
    arrows = [st.Transition(source, dest) for source, dest in pairwise(names)]
    return st.Lifecycle(
        "chain",
        states=[*(st.State(name) for name in names[:-1]), st.State(names[-1], final=True)],
        transitions=arrows,
        initial=names[0],
    )


def make(states: int) -> float:
    return milliseconds(lambda: chain(states))


def show(states: int) -> float:
    life = chain(states)
    return milliseconds(lambda: str(life))


def draw(states: int) -> float:
    life = chain(states)
    return milliseconds(life.svg)


def evaluations(count: int) -> float:
    """The beginning of a run with so many named evaluations."""
    data = [(torch.randn(8, 4), torch.zeros(8).long())]
    named = [st.Evaluation(f"set{i}", data) for i in range(count)]
    return milliseconds(lambda: begun(evaluations=named))


# ---------------------------------------------------------------- parameters, callbacks


def batches(model: nn.Module, count: int, **options: Any) -> float:
    run = begun(model, [(torch.randn(2, 4), torch.zeros(2).long())] * count, **options)
    return milliseconds(run.walk)


def parameters(tensors: int) -> float:
    """Ten batches of a model of so many small tensors."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(tensors // 2)))
    return batches(model, 10)


class Silent(st.Callback):
    """Listens to nothing."""


def callbacks(count: int) -> float:
    """A hundred batches with so many callbacks that do not listen to batches."""
    return batches(nn.Linear(4, 2), 100, callbacks=[Silent() for _ in range(count)])


GROWTHS = (
    Growth("A save", "rows", (1_000, 10_000, 100_000, 1_000_000), save, 0.02),
    Growth("EarlyStopping, 1,000 questions", "rows", (100, 1_000, 10_000, 100_000), stop, 0.1),
    Growth("Start of a seeded epoch", "samples", (10**4, 10**5, 10**6, 10**7), epoch, 1.0, 50.0),
    Growth("Making a lifecycle", "states", (250, 500, 1_000, 2_000), make, 1.2, 5_000.0),
    Growth("Printing it", "states", (250, 500, 1_000, 2_000), show, 1.2, 5_000.0),
    Growth("Drawing it", "states", (250, 500, 1_000, 2_000), draw, 1.2, 5_000.0),
    Growth("Beginning a run", "evaluations", (12, 25, 50, 100), evaluations, 1.2, 1_000.0),
    Growth("10 batches", "tensors of parameters", (10, 100, 1_000), parameters, 1.0),
    Growth("100 batches", "silent callbacks", (1, 10, 100, 1_000), callbacks, 0.1),
)


def rows(quick: bool) -> Iterator[Row]:
    for growth in GROWTHS:
        yield from growth.rows(quick)


if __name__ == "__main__":
    run(rows, __doc__)
