"""`evaluate` and `predict` against a hand-written loop in `torch.inference_mode()`.

    python benchmarks/inference.py

Blocks alternate, each pair in random order. Batches come from a list, or from data of one's own,
whose code is run outside of inference mode. A block runs over the data and over twice the data; the
difference is what the batches cost, without what a call costs once. The bytes of all tensors that
are made are compared, too: one copy of the predictions is made when they are joined, and no other.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from bounds import bootstrap
from rows import Row, run
from tasks import TASKS, Task
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import statetrain as st

Data = Iterable[tuple[torch.Tensor, torch.Tensor]]
Way = Callable[[nn.Module, Any], Any]


class Own:
    """Data of one's own, of which nobody knows what it does."""

    def __init__(self, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(self.batches)


def evaluate_by_hand(model: nn.Module, feed: Data) -> float:
    model.eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for x, y in feed:
            total += F.cross_entropy(model(x), y).item() * len(x)
            count += len(x)
    model.train()
    return total / count


def evaluate(model: nn.Module, feed: Data) -> float:
    value: float = st.evaluate(model, feed, loss=F.cross_entropy, device="cpu")["loss"]
    return value


def predict_by_hand(model: nn.Module, feed: Data) -> torch.Tensor:
    model.eval()
    preds = []
    with torch.inference_mode():
        for x, _ in feed:
            preds.append(model(x))  # as one writes it
        stacked = torch.cat(preds)
    model.train()
    return stacked


def predict(model: nn.Module, feed: Data) -> Any:
    return st.predict(model, feed, device="cpu")


class Made(TorchDispatchMode):
    """Counts the bytes of the tensors that are made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        had = {
            leaf.untyped_storage().data_ptr()
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in had:
                self.bytes += leaf.untyped_storage().nbytes()
        return out


def made(way: Way, task: Task, batches: int) -> int:
    """Bytes of all tensors that are made, beside those of the model and the data."""
    model, feed = task.model(), task.data(batches)
    counting = Made()
    with counting:
        way(model, feed)
    return counting.bytes


def seconds(way: Way, model: nn.Module, data: Data) -> float:
    """CPU seconds of a call."""
    gc.collect()
    begin = time.process_time()
    way(model, data)
    return time.process_time() - begin


def compare(
    ours: Way, hand: Way, task: Task, kind: Callable[[Any], Any], pairs: int, batches: int
) -> tuple[list[float], list[float]]:
    """Differences in microseconds a batch, and ratios, of CPU time."""
    model, data = task.model(), task.data(batches)
    one, other = ours(model, kind(data)), hand(model, kind(data))
    if not (
        torch.equal(one, other)
        if isinstance(one, torch.Tensor)
        else abs(one - other) <= 1e-9 * abs(other)
    ):
        raise AssertionError(f"{ours.__name__} and {hand.__name__} differ")
    chance = random.Random(3)
    differences, ratios = [], []
    for _ in range(pairs):
        times = {
            way: (
                (seconds(way, model, kind(data * 2)) - seconds(way, model, kind(data)))
                / batches
                * 1e6
            )
            for way in chance.sample((ours, hand), 2)
        }
        differences.append(times[ours] - times[hand])
        ratios.append(times[ours] / times[hand])
    return differences, ratios


def rows(quick: bool) -> Iterator[Row]:
    for name, pairs, batches in (("mlp", 40, 800), ("cnn", 20, 200), ("transformer", 15, 60))[
        : 1 if quick else 3
    ]:
        task = TASKS[name]
        for what, ours, hand in (
            ("evaluate", evaluate, evaluate_by_hand),
            ("predict", predict, predict_by_hand),
        ):
            for kind, words in ((list, "batches in a list"), (Own, "data of one's own")):
                differences, ratios = compare(
                    ours, hand, task, kind, 2 if quick else pairs, 20 if quick else batches
                )
                yield Row(
                    f"{what}, {name}, {words}: time against the loop",
                    statistics.median(ratios),
                    "x",
                    1.02,
                    bootstrap(ratios),
                )
                yield Row(
                    "... difference",
                    statistics.median(differences),
                    "us a batch",
                    None,
                    bootstrap(differences),
                )
    extra = made(predict, TASKS["mlp"], 20) - made(predict_by_hand, TASKS["mlp"], 20)
    yield Row("predict: bytes of tensors made beyond those of the loop", extra, "bytes", 0.0)


if __name__ == "__main__":
    run(rows, __doc__)
