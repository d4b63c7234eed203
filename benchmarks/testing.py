"""How fast the testing kit is: exploring, simulating, drawing, and how many mutants of a table its paths notice.

python benchmarks/testing.py
"""

from __future__ import annotations

import runpy
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

import statetrain as st
from statetrain.diagram import write_pictures
from statetrain.lifecycle.explore import explore
from statetrain.testing import paths, simulate

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


def mutants(life: st.Lifecycle) -> Iterator[st.Lifecycle]:
    """Sound tables that differ in one arrow: led elsewhere, dropped, without its guard, with another, asked in another order."""
    arrows = life.transitions
    for i, arrow in enumerate(arrows):
        changed: list[tuple[st.Transition, ...]] = [
            (attrs.evolve(arrow, dest=dest),)
            for dest in (*life.names, "failed")
            if dest != arrow.dest
        ]
        changed.append(())
        if arrow.guard is not None:
            changed += [
                (attrs.evolve(arrow, guard=None),),
                (attrs.evolve(arrow, guard=arrow.guard.named("another")),),
            ]
        tables = [(*arrows[:i], *new, *arrows[i + 1 :]) for new in changed]
        for j in range(i + 1, len(arrows)):
            if arrows[j].source == arrow.source and arrow.event is None and arrows[j].event is None:
                swapped = list(arrows)
                swapped[i], swapped[j] = arrows[j], arrow
                tables.append(tuple(swapped))
        for table in tables:
            try:
                yield attrs.evolve(life, transitions=table)
            except st.LifecycleError:
                continue  # the checks of the table refuse it already


def noticed(life: st.Lifecycle) -> tuple[int, int]:
    """How many mutants the paths that cover the transitions notice, and how many there are."""
    suite, killed, total = paths(life), 0, 0
    for mutant in mutants(life):
        total += 1
        for path in suite:
            try:
                path.check(mutant)
            except AssertionError:
                killed += 1
                break
    return killed, total


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

    drawn = runpy.run_path(str(ROOT / "diagrams" / "draw.py"))["lifecycles"]
    with tempfile.TemporaryDirectory() as folder:
        took = seconds(lambda: write_pictures(drawn(), folder), 1)
        print(f"draw: {len(list(Path(folder).iterdir()))} pictures of diagrams/ in {took:.1f} s")

    for life in (st.supervised(), RICH):
        killed, total = noticed(life)
        print(
            f"paths: {killed} of {total} mutants of a table with {len(life.transitions)} arrows"
            f" noticed, {100 * killed / total:.2f} %"
        )


if __name__ == "__main__":
    main()
