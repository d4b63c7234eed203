"""The time from the call of `fit` to the first batch of a small model.

python benchmarks/startup.py              # the first call of a process, and the later ones
python benchmarks/startup.py --profile    # where the time of the later ones goes
"""

from __future__ import annotations

import cProfile
import os
import pstats
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loops
import torch
import torch.nn.functional as F
from bounds import bootstrap
from feed import Feed
from loops import Setting
from rows import Row, parser, show
from tasks import TASKS

import statetrain as st


def first_batch(
    typical: bool = False, profile: cProfile.Profile | None = None
) -> tuple[float, float]:
    """Milliseconds of CPU time and of the wall from the call of `fit` until the first batch is asked for."""
    task = TASKS["mlp"]
    feed, model = Feed(task.data(1)), task.model()
    options: dict[str, Any] = {}
    if typical:
        options = {
            "callbacks": [st.Progress(mode="plain")],
            "valid": task.data(1),
            "stop": st.EarlyStopping("valid_loss", 5),
            "non_finite": "skip",
        }
    if profile is not None:
        # Called when the first batch is drawn
        feed.called = lambda: profile.disable() or 0  # type: ignore[func-returns-value]
        profile.enable()
    cpu, wall = time.process_time(), time.perf_counter()
    st.fit(
        model,
        feed,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.01, "momentum": 0.9},
        epochs=1,
        device="cpu",
        verbose=False,
        **options,
    )
    return (feed.marks[0].cpu - cpu) * 1e3, (feed.marks[0].wall - wall) * 1e3


def first_by_hand() -> tuple[float, float]:
    """The same for a hand-written loop: making an optimizer is what takes long the first time."""
    task = TASKS["mlp"]
    feed, model = Feed(task.data(1)), task.model()
    cpu, wall = time.process_time(), time.perf_counter()
    loops.bare(Setting(task, model, feed, 1, Path()))
    return (feed.marks[0].cpu - cpu) * 1e3, (feed.marks[0].wall - wall) * 1e3


def cold(function: str) -> float:
    """The CPU time of the first call in a process that has imported torch and statetrain, and nothing else."""
    code = f"import startup; print(startup.{function}()[0])"
    paths = os.pathsep.join(
        [os.path.dirname(os.path.abspath(__file__)), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    return float(done.stdout)


def rows(quick: bool) -> Iterator[Row]:
    for name, typical in (
        ("with nothing on", False),
        ("with validation, early stopping and progress", True),
    ):
        first_batch(typical)
        times = [first_batch(typical) for _ in range(3 if quick else 60)]
        for clock, values in zip(("CPU time", "wall"), zip(*times, strict=True), strict=True):
            yield Row(
                f"from fit() to the first batch, {name}, {clock}",
                statistics.median(values),
                "ms",
                10.0,
                bootstrap(list(values)),
            )
    if quick:
        return
    pairs = [(cold("first_batch"), cold("first_by_hand")) for _ in range(3)]
    yield Row(
        "... the first time in a process, with what torch loads then",
        statistics.median(ours for ours, _ in pairs),
        "ms",
    )
    yield Row(
        "... of which a hand-written loop has", statistics.median(hand for _, hand in pairs), "ms"
    )


def main() -> None:
    it = parser(__doc__)
    it.add_argument("--profile", action="store_true", help="the top parts, by cProfile")
    options = it.parse_args()
    torch.set_num_threads(1)
    if not options.profile:
        show(rows(options.quick), options.json)
        return
    first_batch()
    profile = cProfile.Profile()
    times = 200
    for _ in range(times):
        first_batch(profile=profile)
    print(f"{times} calls; divide by that")
    pstats.Stats(profile).sort_stats("cumulative").print_stats(45)


if __name__ == "__main__":
    main()
