"""Machine instructions per training batch, counted by callgrind: unlike times, they repeat on a busy machine.

    python benchmarks/instructions.py                 # needs valgrind; some minutes
    python benchmarks/instructions.py --batches 1000

The loops run one after the other in one process under valgrind (most of the minutes are torch being
loaded there). It counts from the draw of one batch in the middle of an epoch until the epoch's last
batch is done, so that what happens once an epoch is no part of it. The model is the tiny MLP of the
other benchmarks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import define
from rows import Row, parser, show

HERE = Path(__file__).resolve().parent
WARM = 20  # batches of the same epoch before counting begins
LOOPS = {
    "by_hand lean": "the hand-written loop, with loss mean and NaN check",
    "ours lean": "fit with nothing on",
    "by_hand typical": "the hand-written loop with accuracy too",
    "ours typical": "fit with accuracy, early stopping, progress, CSV",
}


@define(eq=False)
class Counted:
    """Batches that switch the counting on and off."""

    batches: list[Any]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        import torch

        yield from self.batches[:WARM]
        torch._C._valgrind_toggle()
        yield from self.batches[WARM:]
        torch._C._valgrind_toggle_and_dump_stats()


def child(batches: int) -> None:
    """Runs each loop; under valgrind, the batches beyond the first few are counted."""
    import gc
    from importlib import import_module

    import torch
    from loops import Setting
    from tasks import TASKS

    torch.set_num_threads(1)
    task = TASKS["mlp"]
    data = task.data(batches + WARM)
    for name in LOOPS:
        peer, config = name.split()
        loop = import_module(f"peers.{peer}").VARIANTS[config].loop
        feed: Any = Counted(data)
        with tempfile.TemporaryDirectory() as folder:
            # What has been loaded is not searched for garbage while the batches are counted.
            gc.collect()
            gc.freeze()
            loop(Setting(task, task.model(), feed, 1, Path(folder)))


def instructions(batches: int) -> dict[str, float]:
    """Instructions per batch of each loop.

    Raises:
        RuntimeError: valgrind failed, or did not tell a count for each.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        command = [
            "valgrind",
            "--tool=callgrind",
            "--collect-atstart=no",
            f"--callgrind-out-file={out}",
            sys.executable,
            str(HERE / "instructions.py"),
            "--child",
            "--batches",
            str(batches),
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        # Each dump is a file of its own: callgrind.out.1, .2 and so on; the last, without a number,
        # is of the rest.
        dumps = [Path(f"{out}.{i}") for i in range(1, len(LOOPS) + 1)]
        if done.returncode or not all(dump.exists() for dump in dumps):
            raise RuntimeError(
                f"valgrind did not count (exit status {done.returncode}, files"
                f" {os.listdir(folder)}): {done.stderr[-2000:]}"
            )
        found = [
            re.search(r"^(?:summary|totals): (\d+)", dump.read_text(errors="replace"), re.MULTILINE)
            for dump in dumps
        ]
    return {
        name: int(count[1]) / batches if count else float("nan")
        for name, count in zip(LOOPS, found, strict=True)
    }


def rows(batches: int) -> Iterator[Row]:
    counted = instructions(batches)
    for name, what in LOOPS.items():
        yield Row(what, round(counted[name]), "instructions a batch")
        config = name.split()[1]
        if name.startswith("ours"):
            by_hand = counted[f"by_hand {config}"]
            yield Row(
                f"... {config}: beyond the loop",
                round(counted[name] - by_hand),
                "instructions a batch",
            )
            yield Row(f"... {config}: against the loop", counted[name] / by_hand, "x")


def main() -> None:
    it = parser(__doc__)
    it.add_argument("--batches", type=int, default=500, help="that are counted")
    it.add_argument("--child", action="store_true", help="for the script itself: run the loops")
    options = it.parse_args()
    if options.child:
        child(options.batches)
        return
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed: apt-get install valgrind, brew install valgrind")
    show(rows(10 if options.quick else options.batches), options.json)


if __name__ == "__main__":
    main()
