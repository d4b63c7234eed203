"""What contracts cost: checking and ordering when a machine is made, and nothing while it runs.

python benchmarks/contracts.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from attrs import define
from torch.nn import functional as F

import statetrain as st
from statetrain.contracts import dataflow

HOOKS = (
    "on_enter_batch",
    "on_exit_pred",
    "on_exit_loss",
    "on_enter_step",
    "on_exit_step",
    "on_exit_epoch",
)


def made(i: int, **declared: Any) -> st.Callback:
    """A callback with six hooks, and a contract for each; every tenth writes a field of its own that the next one reads."""
    hooks = dict.fromkeys(HOOKS, lambda self, ctx: None)
    reads = {
        "on_exit_step": ("epoch", *((f"own{i - 1}",) if i % 10 else ())),
        "on_exit_epoch": ("history",),
    }
    contract = {
        "reads": {"on_exit_loss": ("loss", "pred", "target"), **reads},
        "writes": {"on_exit_step": (f"own{i}",)},
    }
    callback: st.Callback = type(
        f"Callback{i}", (st.Callback,), {**hooks, **contract, **declared}
    )()
    return callback


def best(function: Callable[[], Any], times: int = 30) -> float:
    """The shortest of several calls, in milliseconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return min(taken) * 1e3


@define
class Batches:
    """The same batch again and again."""

    batch: tuple[torch.Tensor, torch.Tensor]
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Any:
        return iter([self.batch] * self.count)


def runner(*callbacks: st.Callback, batches: int = 400) -> Callable[[], float]:
    """Gives microseconds per batch of a tiny model, of one round."""
    data = Batches((torch.randn(2, 2), torch.randint(0, 2, (2,))), batches)
    run = st.fit(
        torch.nn.Linear(2, 2),
        data,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=1,
        callbacks=callbacks,
    )

    def once() -> float:
        began = time.perf_counter()
        run.fit(1)
        return (time.perf_counter() - began) / batches * 1e6

    return once


def main() -> None:
    torch.set_num_threads(1)
    life = st.supervised(accumulate=4)
    many = [made(i) for i in range(50)]
    checked = best(lambda: st.Machine(life, many))
    bare = best(
        lambda: st.Machine(
            life,
            [
                type(f"C{i}", (st.Callback,), dict.fromkeys(HOOKS, lambda self, ctx: None))()
                for i in range(50)
            ],
        )
    )
    print(f"machine with 50 callbacks and contracts     {checked:8.2f} ms")
    print(f"machine with 50 callbacks without           {bare:8.2f} ms")
    print(f"machine with none                           {best(lambda: st.Machine(life)):8.2f} ms")
    print(
        "data flow of a lifecycle, not kept         "
        f" {best(lambda: dataflow.solve_with(life, {})):8.2f} ms"
    )
    elsewhere = [
        type(
            f"E{i}", (st.Callback,), {"reads": {"history"}, "on_exit_epoch": lambda self, ctx: None}
        )()
        for i in range(100)
    ]
    noting = type("Notes", (st.Callback,), {"on_exit_step": lambda self, ctx: None})
    declared = type("Declares", (noting,), {"reads": {"step"}, "writes": ()})
    rows = {
        "none": (),
        "100 elsewhere": tuple(elsewhere),
        "1 without contract": (noting(),),
        "1 with contract": (declared(),),
    }
    runners = {name: runner(*callbacks) for name, callbacks in rows.items()}
    rounds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(60):  # in turns, so that all see the same machine
        for name, once in runners.items():
            rounds[name].append(once())
    for name, times in rounds.items():
        print(
            f"a batch with callbacks: {name:<20}{min(times):8.2f} us   (median"
            f" {statistics.median(times):.2f})"
        )


if __name__ == "__main__":
    main()
