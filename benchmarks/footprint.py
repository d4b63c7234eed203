"""What importing costs over torch, and whether memory stays flat over 10 million transitions.

    python benchmarks/footprint.py
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tracemalloc

from overhead import stubbed

import statetrain as st

_TIMED = "import time; import torch; begin = time.perf_counter(); {}; print(time.perf_counter() - begin)"


def import_ms(statement: str, repeats: int = 7) -> float:
    """Milliseconds that a statement takes in a fresh process that has imported torch; the median."""
    times = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", _TIMED.format(statement)], capture_output=True, text=True, check=True)
        times.append(float(done.stdout) * 1e3)
    return statistics.median(times)


def main() -> None:
    print(f"import statetrain, over torch:                {import_ms('import statetrain'):6.1f} ms")
    print(f"... and everything that fit needs:            {import_ms('import statetrain; statetrain.fit'):6.1f} ms")
    batches = 1_430_000  # 7 transitions each
    machine = st.Machine(stubbed(batches))
    machine.run(st.Context(max_epochs=1, loss_value=0.0, iter=batches - 1000))  # what is made once is made
    tracemalloc.start()
    before, rss = tracemalloc.get_traced_memory()[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ctx = st.Context(max_epochs=1, loss_value=0.0)
    machine.run(ctx)
    grown = tracemalloc.get_traced_memory()[0] - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss
    print(f"10 million transitions: {ctx.iter - 1} batches, Python memory {grown / 1024:+.1f} KiB, peak of the process {peak:+d} KiB")


if __name__ == "__main__":
    main()
