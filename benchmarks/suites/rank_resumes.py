"""Runs that are cut, and resumed with another number of ranks, again and again: samples exact, weights within rounding."""

from __future__ import annotations

import json
import os
import random
import signal
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

import statetrain as st
from statetrain.compute.parts import whole
from suites.case import Case, scratch
from suites.rank_toy import STEPS, on_ranks, rank_train

TITLE = "resumed with another number of ranks"
GOAL = 50  # runs, each resumed twice
NEAR = 2e-6  # of weights: the rounding of float32 in another order


class RankTrail(st.Callback):
    """Which samples made each step on this rank; ends the run in a step.

    Args:
        until: the step in which it ends; None for the whole run.
    """

    reads = ("batch", "step", "batch_size", "batches")

    def __init__(self, until: int | None) -> None:
        self.until = until
        self.samples: dict[int, list[list[float]]] = {}

    def on_exit_backward(self, ctx: Any) -> None:
        """Each batch of the window that makes the next step."""
        rows = ctx.batch[0][: ctx.batch_size, 0].tolist()
        self.samples.setdefault(ctx.batches, []).extend([row] for row in rows)

    def on_enter_step(self, ctx: Any) -> None:
        """Asks for the end as a scheduler does."""
        if self.until is not None and ctx.step + 1 >= self.until and _first():
            os.kill(os.getpid(), signal.SIGTERM)


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _stretch(folder: Path, until: int | None, shards: bool) -> str:
    trail = RankTrail(until)
    run = rank_train(folder, trail, shards=shards, dropout=0.0)
    weights = torch.cat([whole(p.detach()).flatten() for p in run.model.parameters()])
    return json.dumps([run.ctx.step, weights.tolist(), trail.samples])


def _gone(folder: Path, ranks: int, until: int | None, shards: bool) -> tuple[Any, Any, Any]:
    """One stretch: the step that it came to, the weights, and the samples of each batch."""
    found = on_ranks(partial(_stretch, folder, until, shards), ranks)
    for one in found:
        assert one.code == 0, (one.said or one.errors)[-1500:]
    parts = [json.loads(one.said) for one in found]
    batches = {
        batch: sorted(sample for _, _, seen in parts for sample in seen.get(batch, []))
        for batch in parts[0][2]
    }
    return parts[0][0], parts[0][1], batches


@cache
def uncut() -> tuple[Any, Any, Any]:
    """The run of one process that is never cut."""
    with scratch() as folder:
        return _gone(folder, 1, None, False)


def cases() -> list[Case]:
    """Fifty runs, each cut twice, so that it is resumed twice with another number."""
    return [Case(f"run {number}", partial(_check, number)) for number in range(GOAL)]


def _check(number: int) -> float:
    chance = random.Random(number)
    first, last = sorted(chance.sample(range(1, STEPS // 2), 2))
    numbers = [chance.choice([1, 2, 3, 4])]
    while len(numbers) < 3:
        numbers.append(chance.choice([n for n in (1, 2, 3, 4) if n != numbers[-1]]))
    shards = chance.random() < 0.5
    steps, weights, batches = uncut()
    words = (
        f"{numbers} ranks, cut in steps {first} and {last}, {'shards' if shards else 'replicas'}"
    )
    with scratch() as folder:
        for ranks, until in zip(numbers, (first, last, None), strict=True):
            step, found, seen = _gone(folder, ranks, until, shards)
            for batch, samples in seen.items():
                assert samples == batches[batch], f"{words}: other samples in batch {batch}"
    assert step == steps, f"{words}: {step} steps"
    apart = max(abs(a - b) for a, b in zip(found, weights, strict=True))
    assert apart < NEAR, f"{words}: weights differ by {apart:.2g}"
    return 2.0
