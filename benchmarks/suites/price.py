"""What the safety costs: per step, per save, and when a run goes on. In pairs, in turns, as medians of ratios."""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.checkpoints import checkpoint
from suites.case import Case, scratch
from suites.toy import Setting, train

TITLE = "the price"
GOAL = 3

STEP = 5e-3  # seconds of a step that is nothing special
BATCHES, PAIRS = 1000, 9


def _data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(8, 4, generator=generator), torch.randint(0, 3, (8,), generator=generator))
        for _ in range(BATCHES)
    ]


def _by_hand(data: list[Any]) -> float:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    began, total = time.process_time(), 0.0
    for inputs, targets in data:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        total += loss.item()
        loss.backward()
        optimizer.step()
    return time.process_time() - began


def _by_machine(data: list[Any]) -> float:
    """With all that makes a run safe: refused NaN, commits at anchors, a lock, a row of history; nothing falls due."""

    class Watch(st.Callback):
        seconds = 0.0

        def on_enter_train(self, ctx: Any) -> None:
            self.began = time.process_time()

        def on_exit_epoch(self, ctx: Any) -> None:
            self.seconds = time.process_time() - self.began

    torch.manual_seed(0)
    watch = Watch()
    with scratch() as base:
        saving = st.Checkpoint(base / "run", st.Every(10**9, "steps"))
        st.fit(
            nn.Linear(4, 3),
            data,
            loss=F.cross_entropy,
            optimizer=torch.optim.SGD,
            opt_hparams={"lr": 0.01},
            epochs=1,
            callbacks=[saving, watch],
            verbose=False,
            device="cpu",
        )
    return watch.seconds


def _spread(values: list[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}"


def step() -> str:
    """Guards, commits and history against a loop by hand, per batch: at most 3 % of a step of 5 ms."""
    data = _data()
    _by_hand(data), _by_machine(data)
    shares = [100 * (_by_machine(data) - _by_hand(data)) / BATCHES / STEP for _ in range(PAIRS)]
    share = statistics.median(shares)
    assert share <= 3.0, f"{share:.2f} % of a step of 5 ms ({_spread(shares)})"
    return f"{share:.2f} % of a step of 5 ms ({_spread(shares)} in {PAIRS} pairs, CPU time)"


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def _plain_write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """The same bytes written, hashed and flushed to the disk, with nothing around it."""
    sha, file = hashlib.sha256(), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for tensor in tensors.values():
        view = tensor.numpy().data.cast("B")
        for at in range(0, len(view), 1 << 20):
            sha.update(view[at : at + (1 << 20)])
            os.write(file, view[at : at + (1 << 20)])
    os.fsync(file)
    os.close(file)


def save() -> str:
    """A save of 100 MB against writing, hashing and flushing the same bytes by hand: at most 1.2 times as long."""
    tensors = {f"w{i}": torch.randn(25_000_000 // 20) for i in range(20)}
    walls, cpus = [], []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:  # on the disk that the project is on
        folder = Path(name)
        for i in range(PAIRS):
            hand = _timed(lambda: _plain_write(folder / "plain", tensors))
            # Bound now
            ours = _timed(
                lambda i=i: checkpoint.write(folder / "run", f"step-{i}-x", {"model": tensors}, {})  # type: ignore[misc]
            )
            shutil.rmtree(folder / "run")
            walls.append(ours[0] / hand[0])
            cpus.append(ours[1] / hand[1])
    ratio, by_cpu = statistics.median(walls), statistics.median(cpus)
    words = (
        f"{ratio:.2f} times as long as the bytes alone ({_spread(walls)}), {by_cpu:.2f} in CPU time"
        f" ({_spread(cpus)}), {PAIRS} pairs"
    )
    assert min(ratio, by_cpu) <= 1.2, words
    return words


def resume() -> str:
    """What a run takes longer to start when it goes on: at most a second."""
    extra = []
    with scratch() as base:
        train(Setting(), base / "run")
        for _ in range(PAIRS):
            _, anew = _timed(lambda: train(Setting(), None, start=False))
            _, again = _timed(lambda: train(Setting(), base / "run", start=False))
            extra.append(again - anew)
    words = (
        f"{1000 * statistics.median(extra):.1f} ms ({_spread([1000 * one for one in extra])} in"
        f" {PAIRS} pairs, CPU time)"
    )
    assert statistics.median(extra) < 1.0, words
    return words


def cases() -> list[Case]:
    """The three."""
    return [
        Case("guards, commits and history", step),
        Case("a save of 100 MB", save),
        Case("the start of a run that goes on", resume),
    ]
