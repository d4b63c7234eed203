"""How fast the testing kit is: exploring, simulating, drawing, and how many mutants of a table its paths notice.

python benchmarks/testing.py
"""

from __future__ import annotations

import runpy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import statetrain as st
from statetrain.diagram import write_pictures
from statetrain.lifecycle.explore import explore
from statetrain.testing import mutants, simulate, survivors

ROOT = Path(__file__).parent.parent
RICH = st.supervised(
    accumulate=2,
    validate=st.Every(2, "steps"),
    non_finite="skip",
    stop=st.EarlyStopping(),
    check_gradients=True,
)


def seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """CPU time of a call, the best of some."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return min(times)


def main() -> None:
    bounds = {"more epochs": 3, "a batch was drawn": 3, "accumulating": 2}
    found = explore(RICH, bounds)
    print(
        f"explore: {found!r}, every event and failure at every state:"
        f" {seconds(lambda: explore(RICH, bounds)):.3f} s"
    )

    epochs, batches = 100, 1000
    schedule = simulate(st.supervised(), epochs=epochs, batches=batches)
    taken = 7 * schedule.ctx.batches + 4 * 2 * epochs  # of a training batch, of a validation batch
    took = seconds(lambda: simulate(st.supervised(), epochs=epochs, batches=batches), 3)
    print(
        f"simulate: {taken:,} transitions in {took:.2f} s, {taken / took / 1e6:.2f} million a"
        " second"
    )

    sys.path.insert(0, str(ROOT / "diagrams"))  # what it imports lies next to it
    drawn = runpy.run_path(str(ROOT / "diagrams" / "draw.py"))["lifecycles"]
    with tempfile.TemporaryDirectory() as folder:
        took = seconds(lambda: write_pictures(drawn(), folder), 1)
        print(f"draw: {len(list(Path(folder).iterdir()))} pictures of diagrams/ in {took:.1f} s")

    for life in (st.supervised(), RICH):
        total = sum(1 for _ in mutants(life))
        killed = total - len(survivors(life))
        print(
            f"paths: {killed} of {total} mutants of a table with {len(life.transitions)} arrows"
            f" noticed, {100 * killed / total:.2f} %"
        )


if __name__ == "__main__":
    main()
