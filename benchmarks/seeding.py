"""What a seed costs a batch: the global generators are seeded for it, and other runs wait meanwhile.

    python benchmarks/seeding.py

Timed by itself, in short stretches of which the fastest counts: it is microseconds beside a batch
that takes a hundred times as long.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable

import numpy  # a generator that is loaded is seeded, too  # noqa: F401
import torch
from rows import Row, run

from statetrain.compute.blocks import BLOCK
from statetrain.compute.chance import Chance


def per_batch(torch_alone: bool, stretches: int) -> float:
    """Microseconds a batch."""
    chance, numbers = Chance(torch.device("cpu"), torch_alone), itertools.count()
    fastest = float("inf")
    chance.begin()
    for _ in range(stretches):
        before = time.perf_counter()
        for batch in itertools.islice(numbers, 2 * BLOCK):
            chance.seed((0, "batch"), batch)
            chance.rest()
        fastest = min(fastest, time.perf_counter() - before)
    chance.end()
    return fastest / (2 * BLOCK) * 1e6


def rows(quick: bool) -> Iterable[Row]:
    """Of a run whose parts are all torch's, and of one with other code; alone, and beside a thread."""
    stretches = 20 if quick else 1000
    names = {True: "a run of torch's parts alone", False: "a run with code of other origin"}
    for torch_alone, name in names.items():
        yield Row(f"a seed, {name}", per_batch(torch_alone, stretches), "us a batch", 5.0)
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    for torch_alone, name in names.items():
        yield Row(
            f"... beside another thread, {name}", per_batch(torch_alone, stretches), "us a batch"
        )
    over.set()
    thread.join()


if __name__ == "__main__":
    run(rows, __doc__)
