"""The whole of the benchmarks: every comparison in a process of its own, one page and one plot of the results.

    python benchmarks/suite.py                  # about twenty-five minutes on a quiet machine, with
    all libraries python benchmarks/suite.py --all            # every library on every model too: an
    hour python benchmarks/suite.py --quick --out /tmp/bench    # whether it runs; the numbers mean
    nothing

Libraries that are not installed are left out, and the page says so; `pip install '.[bench]'` has
them all. What fails is named on the page, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import report
from attrs import frozen
from peers import PEERS
from tasks import TASKS

HERE = Path(__file__).resolve().parent
OWN = ("by_hand", "ours")
CONFIGS = {
    "by_hand": ("cleared",),
    "ours": (),
    "ignite": ("lean", "supervised", "typical"),
    "transformers": ("lean", "no_norm", "typical"),
    "keras": ("lean", "compiled", "typical"),
}
# Pairs and batches; a block of two epochs has one checkpoint
HEAVY = {
    "mlp": (30, 500),
    "cnn": (10, 500),
    "transformer": (3, 500),
}
SECTIONS = {
    "engine.py": "The engine alone",
    "startup.py": "Time to the first batch",
    "footprint.py": "Import and memory",
    "inference.py": "evaluate and predict",
    "fused.py": "The step as one compiled function",
    "seeding.py": "What a seed costs a batch",
    "growth.py": "What things cost as they grow",
}


@frozen
class Job:
    """One process of `versus.py`.

    Args:
        peer, config, task: what is compared.
        pairs: how many pairs of blocks.
        batches: of each of the two epochs of a block.
    """

    peer: str
    config: str
    task: str
    pairs: int
    batches: int

    def run(self) -> dict[str, Any]:
        """Its numbers, or why there are none."""
        command = [
            "versus.py",
            self.peer,
            self.config,
            self.task,
            "--pairs",
            str(self.pairs),
            "--batches",
            str(self.batches),
        ]
        done = script(command)
        about = {"peer": self.peer, "config": self.config, "task": self.task}
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            return {**about, "failed": last[0][:300]}
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result


def jobs(peers: list[str], everything: bool, quick: bool) -> Iterator[Job]:
    """What is compared: everything of ours, and the peers on the tiny MLP."""
    for task in TASKS.values():
        for config in ("lean", "typical", "heavy"):
            for peer in OWN:
                if peer in peers and (task.name == "mlp" or peer == "ours" or everything):
                    size = (
                        HEAVY[task.name]
                        if config == "heavy"
                        else (30 if task.name == "mlp" else 20, task.batches)
                    )
                    yield Job(peer, config, task.name, *((2, 10) if quick else size))
    for task in TASKS.values():
        if task.name == "mlp" or everything:
            for peer in peers:
                for config in CONFIGS.get(peer, ("lean", "typical")):
                    yield Job(peer, config, task.name, *((2, 10) if quick else (30, 60)))


def script(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs one of the scripts here, on the CPU alone and with one thread, so that all do the same."""
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    return subprocess.run(
        [sys.executable, str(HERE / command[0]), *command[1:]],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def environment() -> dict[str, str]:
    """Where this was measured."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
            model,
        )
    except OSError:
        pass
    load = "unknown" if not hasattr(os, "getloadavg") else f"{os.getloadavg()[0]:.1f}"
    return {
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": (
            f"{model}, {os.cpu_count()} cores, load {load} when it began; one thread for each"
            " process"
        ),
        "system": platform.platform(),
        "Python": platform.python_version(),
        "torch": version("torch"),
    }


def main() -> None:
    it = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    it.add_argument("--quick", action="store_true", help="tiny blocks: to see that it runs")
    it.add_argument("--all", action="store_true", help="every library on every model")
    it.add_argument(
        "--long", action="store_true", help="memory over a million steps of real training too"
    )
    it.add_argument(
        "--peers",
        nargs="*",
        default=list(PEERS),
        metavar="PEER",
        help=f"some of {', '.join(PEERS)}",
    )
    it.add_argument(
        "--only", metavar="JOB", help="one comparison, such as 'ours lean mlp', and nothing else"
    )
    it.add_argument(
        "--out",
        type=Path,
        default=HERE,
        help="the folder for RESULTS.md, results.svg and results.json",
    )
    options = it.parse_args()
    if unknown := [peer for peer in options.peers if peer not in PEERS]:
        it.error(f"no peer {', '.join(unknown)}; there are {', '.join(PEERS)}")
    about, began = environment(), time.monotonic()
    results, sections, failed = [], {}, False
    todo = list(jobs(options.peers, options.all or bool(options.only), options.quick))
    if options.only:
        todo = [
            job for job in todo if f"{job.peer} {job.config} {job.task}" == options.only
        ] or it.error(f"no comparison {options.only!r}")
    for i, job in enumerate(todo, 1):
        result = job.run()
        results.append(result)
        failed |= "failed" in result
        what = (
            f"x {result['cpu_ratio']:.3f}, {result['cpu_us']:+.1f} us"
            if "cpu_us" in result
            else result.get("skipped") or f"failed: {result['failed']}"
        )
        print(
            f"[{i}/{len(todo)}, {time.monotonic() - began:.0f} s] {job.peer} {job.config}"
            f" {job.task}: {what}",
            flush=True,
        )
    for name, title in SECTIONS.items() if not options.only else ():
        more = ["--quick"] * options.quick + ["--long"] * (options.long and name == "footprint.py")
        done = script([name, "--json", *more])
        print(
            f"[{time.monotonic() - began:.0f} s] {title}{': failed' if done.returncode else ''}",
            flush=True,
        )
        if done.returncode:
            failed = True
            print(done.stderr, file=sys.stderr)
        else:
            sections[title] = json.loads(done.stdout.splitlines()[-1])
    about["took"] = f"{(time.monotonic() - began) / 60:.0f} minutes"
    options.out.mkdir(parents=True, exist_ok=True)
    drawn = report.draw(results, options.out / "results.svg")
    (options.out / "results.json").write_text(
        json.dumps({"about": about, "results": results, "sections": sections}, indent=1) + "\n"
    )
    (options.out / "RESULTS.md").write_text(
        report.page(results, sections, about, "results.svg" if drawn else None), encoding="utf-8"
    )
    print(
        "written:"
        f" {options.out / 'RESULTS.md'}{'' if drawn else '; no plot, since matplotlib is not installed'}"
    )
    sys.exit(failed)


if __name__ == "__main__":
    main()
