"""One comparison, in a process of its own: a library against the hand-written loop that does the same work.

    python benchmarks/versus.py ours lean mlp
    python benchmarks/versus.py lightning typical mlp --pairs 10 --batches 200

Blocks of the two alternate, each pair in random order, in fresh empty folders. The clocks sit in
the data, so that they are the same for everybody: what is counted runs from the draw of an epoch's
first batch to that of its last, and what lies between the epochs is told apart. Prints one line of
JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import logging
import math
import os
import random
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from bounds import bootstrap
from feed import Cost, Feed
from loops import Loop, Setting
from peers import PEERS
from peers.variant import Variant
from tasks import TASKS, Batch, Task
from torch import nn

EPOCHS = 2


def variant(peer: str, config: str) -> Variant:
    """How a library is used.

    Raises:
        ImportError: it is not installed.
        LookupError: it has no such configuration here.
    """
    try:
        version(PEERS[peer])
    except PackageNotFoundError as error:
        raise ImportError(f"{PEERS[peer]} is not installed") from error
    variants: dict[str, Variant] = importlib.import_module(f"peers.{peer}").VARIANTS
    if config not in variants:
        raise LookupError(
            f"peers/{peer}.py has no variant {config!r}; it has {', '.join(variants)}"
        )
    return variants[config]


def run(
    loop: Loop, task: Task, data: list[Batch], loader: bool = False, count: bool = False
) -> tuple[Feed, nn.Module]:
    """One block: trains the task's model, and gives the marked data and the model.

    Args:
        loop: trains.
        task: what is trained.
        data: the batches of an epoch.
        loader: whether the loop is handed a DataLoader in place of the batches.
        count: whether calls of the model are counted, which costs time.
    """
    feed, model = Feed(data), task.model()
    if count:
        calls = [0]

        def called(*_: Any) -> None:
            calls[0] += 1

        hook = model.register_forward_hook(called)
        feed.called = lambda: calls[0]
    with tempfile.TemporaryDirectory() as folder, quiet():
        setting = Setting(task, model, feed, EPOCHS, Path(folder))
        gc.collect()
        loop(evolve(setting, feed=feed.loader()) if loader else setting)
    if count:
        hook.remove()
    return feed, model


@contextlib.contextmanager
def quiet() -> Any:
    """What a library prints goes nowhere, whether it is silent when asked or not; it is not drawn on a terminal either."""
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def difference(one: nn.Module, other: nn.Module) -> float:
    """The largest difference between two models' weights; 0 if they are the same to the bit."""
    mine, theirs = one.state_dict(), other.state_dict()
    if all(torch.equal(mine[name], theirs[name]) for name in mine):
        return 0.0
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine) or math.inf


def compare(peer: str, config: str, task: Task, pairs: int, batches: int) -> dict[str, Any]:
    """Measures a library against its loop.

    Returns:
        Plain data: medians, with bounds for what is quoted.
    """
    chosen = variant(peer, config)
    data = task.data(batches)
    # What is made once is made, and both ways end with the same weights.
    checked, net = run(chosen.loop, task, data, count=True)
    difference_ = difference(net, run(chosen.hand, task, data, chosen.hand_feed)[1])
    ahead = checked.ahead()
    chance = random.Random(2)
    costs: dict[str, list[Cost]] = {"theirs": [], "hand": []}
    blocks: dict[str, Callable[[], Cost]] = {
        "theirs": lambda: run(chosen.loop, task, data)[0].cost(ahead),
        "hand": lambda: run(chosen.hand, task, data, chosen.hand_feed)[0].cost(),
    }
    for _ in range(pairs):
        for which in chance.sample(("theirs", "hand"), 2):
            costs[which].append(blocks[which]())
    result: dict[str, Any] = {
        "peer": peer,
        "version": version(PEERS[peer]),
        "config": config,
        "task": task.name,
        "note": chosen.note,
        "pairs": pairs,
        "epochs": EPOCHS,
        "batches": batches,
        "difference": difference_,
    }
    for clock in ("cpu", "wall", "epoch"):
        theirs, hand = (
            [getattr(cost, clock) for cost in costs[which]] for which in ("theirs", "hand")
        )
        values = {
            f"{clock}_us": [one - other for one, other in zip(theirs, hand, strict=True)],
            f"{clock}_ratio": [one / other for one, other in zip(theirs, hand, strict=True)],
        }
        result[f"{clock}_hand"] = statistics.median(hand)
        for name, each in values.items():
            result[name], result[f"{name}_bounds"], result[f"{name}_iqr"] = (
                statistics.median(each),
                bootstrap(each),
                _iqr(each),
            )
    result["between_ms"] = statistics.median(cost.between for cost in costs["theirs"])
    return result


def _iqr(values: list[float]) -> float:
    """How far the middle half spreads."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4)
    return high - low


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("config", help="lean, typical or heavy, as far as the peer has it")
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument(
        "--batches", type=int, default=500, help="of each of the two epochs of a block"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    try:
        result = compare(
            options.peer, options.config, TASKS[options.task], options.pairs, options.batches
        )
    except ImportError as error:
        result = {
            "peer": options.peer,
            "config": options.config,
            "task": options.task,
            "skipped": str(error),
        }
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    main()
