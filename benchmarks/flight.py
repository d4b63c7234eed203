"""What the flight recorder costs per training batch: the machine's loop with it, and with its line taken out.

    python benchmarks/flight.py            # the table, about a minute
    python benchmarks/flight.py --quick    # fewer and shorter blocks

Actions do nothing, so that the loop shows; a batch crosses seven states with three decisions.
Blocks of the two alternate in one process, each pair in random order. Times are CPU time; the
number to quote is the median difference with its bootstrap bounds.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import random
import statistics
import textwrap
import time
from typing import Any
from unittest.mock import patch

from bounds import bootstrap
from stubs import stubbed

import statetrain as st
from statetrain.machine import machine

LINE = "remember(landing)"


def without_recorder() -> Any:
    """The loop without its line."""
    source = textwrap.dedent(inspect.getsource(machine.Machine._walk))
    assert source.count(LINE) == 1, "the loop has changed; say what records now"
    names: dict[str, Any] = {}
    exec(compile(source.replace(LINE, "pass"), "without", "exec"), vars(machine), names)
    return names["_walk"]


def block(driver: st.Machine, n: int) -> float:
    """Microseconds of CPU time a training batch."""
    ctx = st.Context(max_epochs=1, loss_value=0.0)
    gc.collect()
    begin = time.process_time()
    driver.run(ctx)
    return (time.process_time() - begin) / n * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter blocks")
    quick = parser.parse_args().quick
    n, pairs = (20_000, 15) if quick else (100_000, 40)
    driver, bare, chance = st.Machine(stubbed(n)), without_recorder(), random.Random(0)
    differences, ratios, plain = [], [], []
    for _ in range(pairs):
        times = {}
        for which in chance.sample(("with", "without"), 2):
            with patch.object(
                machine.Machine, "_walk", bare if which == "without" else machine.Machine._walk
            ):
                times[which] = block(driver, n)
        differences.append(times["with"] - times["without"])
        ratios.append(times["with"] / times["without"])
        plain.append(times["without"])
    low, high = bootstrap(differences)
    print(
        f"the loop without the recorder: {statistics.median(plain):.3f} us a training batch,"
        f" {pairs} pairs of blocks of {n} batches"
    )
    print(
        f"the flight recorder:           {statistics.median(differences):+.3f} us   [{low:+.3f},"
        f" {high:+.3f}]   x {statistics.median(ratios):.3f}"
    )


if __name__ == "__main__":
    main()
