"""What importing costs over torch, and whether memory stays flat over 10 million transitions.

python benchmarks/footprint.py
python benchmarks/footprint.py --long    # also over a million steps of real training: some minutes
"""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rows import Row, parser, show
from stubs import stubbed

import statetrain as st

_TIMED = (
    "import time; import torch; begin = time.process_time(); {}; print(time.process_time() - begin)"
)


def import_ms(statement: str, repeats: int) -> float:
    """Milliseconds of CPU time that a statement takes in a fresh process that has imported torch; the median."""
    times = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", _TIMED.format(statement)],
            capture_output=True,
            text=True,
            check=True,
        )
        times.append(float(done.stdout) * 1e3)
    return statistics.median(times)


def resident() -> float:
    """KiB of this process in memory now; NaN where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(float(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def transitions(batches: int) -> tuple[float, float]:
    """KiB by which Python's memory and the process grow over so many batches of 7 transitions with stub actions."""
    machine = st.Machine(stubbed(batches))
    # What is made once is made
    st.Machine(stubbed(1000)).run(st.Context(max_epochs=1, loss_value=0.0))
    gc.collect()
    tracemalloc.start()
    before, rss = tracemalloc.get_traced_memory()[0], resident()
    ctx = st.Context(max_epochs=1, loss_value=0.0)
    machine.run(ctx)
    assert ctx.iter > batches - 1
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return grown / 1024, resident() - rss


def training(epochs: int, batches: int) -> tuple[float, float]:
    """KiB by which Python's memory, less the rows of the history, and the process grow over so many real steps."""
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 2)
    data = [(torch.randn(4, 4), torch.randint(0, 2, (4,)))] * batches
    taken: list[tuple[float, float, int]] = []

    class Scales(st.Callback):
        """Weighs the process when a few epochs have passed, and at the end."""

        def on_exit_epoch(self, ctx: Any) -> None:
            if ctx.epoch in (2, epochs):
                gc.collect()
                taken.append(
                    (tracemalloc.get_traced_memory()[0] / 1024, resident(), len(ctx.history))
                )

    tracemalloc.start()
    run = st.fit(
        net,
        data,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=epochs,
        device="cpu",
        callbacks=[Scales()],
        verbose=False,
    )
    (python, rss, _), (python_then, rss_then, _) = taken
    rows = [dict(row) for row in run.history]
    size = (
        sum(
            sys.getsizeof(row) + sum(sys.getsizeof(value) for value in row.values())
            for row in rows[2:]
        )
        / 1024
    )
    tracemalloc.stop()
    return python_then - python - size, rss_then - rss


def rows(quick: bool, long: bool) -> Iterator[Row]:
    torch.set_num_threads(1)
    repeats = 1 if quick else 7
    yield Row("import statetrain, over torch", import_ms("import statetrain", repeats), "ms", 30.0)
    if not quick:
        yield Row(
            "... and everything that fit needs",
            import_ms("import statetrain; statetrain.fit", repeats),
            "ms",
        )
    batches = 2_000 if quick else 1_430_000
    python, process = transitions(batches)
    yield Row(f"{batches * 7:,} transitions: Python's memory grows by", python, "KiB", 64.0)
    yield Row("... and the process by", process, "KiB")
    if long or quick:
        steps = 20 if quick else 10_000
        python, process = training(4 if quick else 102, steps)
        yield Row(
            f"{(2 if quick else 100) * steps:,} steps of training: Python's memory grows, beyond"
            " the history, by",
            python,
            "KiB",
            64.0,
        )
        yield Row("... and the process by", process, "KiB")


def main() -> None:
    it = parser(__doc__)
    it.add_argument("--long", action="store_true", help="a million steps of real training too")
    options = it.parse_args()
    show(rows(options.quick, options.long), options.json)


if __name__ == "__main__":
    main()
