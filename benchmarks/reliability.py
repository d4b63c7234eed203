"""Proves that a run cannot be lost: kills, damage, signals, failures, hostile files; and what the safety costs.

    python benchmarks/reliability.py                     # all suites, as many cases of each as a
    coffee allows python benchmarks/reliability.py kills damage        # some python
    benchmarks/reliability.py --all --json out.json python benchmarks/reliability.py --sample 10
    # that many cases of each, as the tests do

Every suite makes a list of distinct cases. A case does one thing to a run and raises unless
everything came out as `docs/reliability.md` promises. Cases are spread over forked processes. The
exit code is 1 if one does not hold.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import asdict, field, frozen
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

from suites import forking  # noqa: F401  # what it loads, forked processes need not
from suites.case import Case, sampled, scratch

SUITES = {
    # name of the module: cases that are checked without --all; None is all of them
    "kills": 720,
    "saves": 600,
    "chaos": None,
    "damage": None,
    "fallbacks": None,
    "signals": None,
    "exceptions": None,
    "non_finite": None,
    "bad_inputs": None,
    "combinations": 2000,
    "hostile": None,
    "names": None,
    "stories": None,
    "mutants": None,
    "ranks": 1000,
    "rank_faults": None,
    "rank_kills": 40,
    "rank_resumes": 20,
    "launchers": None,
    "price": None,
}


@frozen
class Result:
    """How a suite went.

    Attributes:
        title: what it is about.
        goal: distinct cases that it was to have.
        cases: distinct cases that were checked, of so many that there are.
        held: cases that came out as promised.
        broken: what did not, in words.
        counted: what the cases returned, summed up: kills, stories, refused headers.
        said: what they had to say.
        seconds: it took.
    """

    title: str
    goal: int
    cases: int
    of: int
    held: int
    broken: list[str] = field(factory=list)
    counted: float = 0.0
    said: list[str] = field(factory=list)
    seconds: float = 0.0


def run(name: str, jobs: int, most: int | None, progress: Progress) -> Result:
    """Checks the cases of a suite, at most so many, in several processes."""
    suite, began = importlib.import_module(f"suites.{name}"), time.monotonic()
    task = progress.add_task(suite.TITLE, total=None)
    cases: list[Case] = suite.cases()
    chosen = cases if most is None else sampled(cases, most)
    progress.update(task, total=len(chosen))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(i) for i in range(jobs)]
        children = [_started(chosen[i::jobs], file) for i, file in enumerate(files)]
        while children:
            time.sleep(0.2)
            children = [child for child in children if os.waitpid(child, os.WNOHANG)[0] == 0]
            rows = [
                json.loads(line)
                for file in files
                if file.exists()
                for line in file.read_text().splitlines(keepends=True)
                if line.endswith("\n")
            ]
            progress.update(task, completed=len(rows))
    done = {row["case"]: row for row in rows}
    broken = [f"{case}: {row['broken']}" for case, row in done.items() if row["broken"]]
    broken += [
        f"{case.name}: the process that checked it is gone"
        for case in chosen
        if case.name not in done
    ]
    counted = sum(row["counted"] for row in rows)
    said = [f"{row['case']}: {row['said']}" for row in rows if row["said"]]
    names = len({case.name for case in cases})
    return Result(
        suite.TITLE,
        suite.GOAL,
        len(done),
        names,
        len(done) - sum(bool(row["broken"]) for row in rows),
        broken,
        counted,
        said,
        time.monotonic() - began,
    )


def _started(cases: Sequence[Case], file: Path) -> int:
    """A process that checks cases and writes down how each went."""
    child = os.fork()
    if child:
        return child
    with file.open("w") as out:
        for case in cases:
            broken, counted, said = "", 0.0, ""
            try:
                found = case.check()
                # A number
                said, counted = (found, 0.0) if isinstance(found, str) else ("", float(found or 0))  # type: ignore[arg-type]
            except BaseException as error:
                broken = f"{type(error).__name__}: {error}"
            print(
                json.dumps({"case": case.name, "broken": broken, "counted": counted, "said": said}),
                file=out,
                flush=True,
            )
    os._exit(0)


def table(results: Sequence[Result]) -> Table:
    """One row for each suite."""
    found = Table("suite", "cases", "of", "goal", "held", "counted", "seconds")
    for result in results:
        share = f"{100 * result.held / max(result.cases, 1):.4g} %"
        counted = f"{result.counted:g}" if result.counted else ""
        found.add_row(
            result.title,
            str(result.cases),
            str(result.of),
            f">= {result.goal}",
            share,
            counted,
            f"{result.seconds:.0f}",
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "suites", nargs="*", metavar="suite", help=f"of {', '.join(SUITES)}; all unless said"
    )
    parser.add_argument(
        "--all", action="store_true", help="all cases, also where a sample of them serves"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="at most N cases of each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--json", type=Path, help="a file for the results")
    asked = parser.parse_args()
    if unknown := [name for name in asked.suites if name not in SUITES]:
        parser.error(f"no suite {unknown[0]!r}; there are {', '.join(SUITES)}")
    torch.set_num_threads(1)
    logging.getLogger("statetrain").setLevel(logging.ERROR)
    console, results = Console(), []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with scratch() as base, Progress(*columns, console=console) as progress:
        tempfile.tempdir = str(base)  # processes that end in a hurry leave nothing behind
        for name in asked.suites or SUITES:
            most = None if asked.all else SUITES[name] if asked.sample is None else asked.sample
            results.append(run(name, asked.jobs, most, progress))
    console.print(table(results))
    for line in [line for result in results for line in result.said]:
        console.print(f"{line:.240}".replace("\n", " "), markup=False, highlight=False)
    broken = [line for result in results for line in result.broken]
    for line in broken[:50]:
        console.print(f"broken: {line}", style="red", markup=False, highlight=False)
    if asked.json:
        versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
        asked.json.write_text(
            json.dumps(
                {"versions": versions, "suites": [asdict(result) for result in results]}, indent=2
            )
        )
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
