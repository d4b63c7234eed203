"""The engine alone, with actions that do nothing: what a batch costs, and what callbacks add.

    python benchmarks/engine.py

Rounds measure each number of callbacks once, one after the other; the median of the differences
within a round is told.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from bounds import bootstrap
from rows import Row, run
from stubs import stub, stubbed

import statetrain as st
from statetrain.context.position import Position
from statetrain.guards.batch import batch_drawn

ELSEWHERE, LISTENING = (10, 100, 1000), (1, 10, 100)


class Elsewhere(st.Callback):
    """Listens, but not in the training step."""

    def on_enter_fit(self, ctx: Position) -> None:
        pass


class Listener(st.Callback):
    """Listens once a batch and does nothing."""

    def on_exit_step(self, ctx: Position) -> None:
        pass


def engine(n: int, callbacks: tuple[st.Callback, ...] = ()) -> float:
    """Microseconds of CPU time a training batch; what a run costs once is taken off."""
    times = []
    for batches in (1, n):
        machine = st.Machine(stubbed(batches), callbacks)
        ctx = st.Context(max_epochs=1, loss_value=0.0)
        begin = time.process_time()
        machine.run(ctx)
        times.append(time.process_time() - begin)
    return (times[1] - times[0]) / (n - 1) * 1e6


def calls_alone(n: int) -> float:
    """The same stubs and guards called one after the other: what no engine can be below."""
    stop, drawn, finite = (
        guard.bind("") for guard in (st.stop_requested, batch_drawn, st.NonFinite())
    )
    ctx = st.Context(loss_value=0.0)
    begin = time.process_time()
    for _ in range(n):
        stop(ctx)
        stub(ctx)
        drawn(ctx)
        stub(ctx)
        stub(ctx)
        stub(ctx)
        stub(ctx)
        finite(ctx)
        stub(ctx)
        stub(ctx)
        stub(ctx)
        stub(ctx)
    return (time.process_time() - begin) / n * 1e6


def one_call(n: int) -> float:
    """Microseconds that a call of a hook takes by itself."""
    hook, ctx = Listener().on_exit_step, st.Context()
    begin = time.process_time()
    for _ in range(n):
        pass
    middle = time.process_time()
    for _ in range(n):
        hook(ctx)
    return (time.process_time() - middle - (middle - begin)) / n * 1e6


def rows(quick: bool) -> Iterator[Row]:
    n, rounds = (2_000, 2) if quick else (30_000, 15)
    alone: list[float] = []
    calls: list[float] = []
    added: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        alone.append(engine(n))
        calls.append(calls_alone(n))
        for name, kind, counts in (
            ("elsewhere", Elsewhere, ELSEWHERE),
            ("here", Listener, LISTENING),
        ):
            for count in counts:
                callbacks = tuple(kind() for _ in range(count))
                added.setdefault((name, count), []).append(engine(n, callbacks) - alone[-1])
        added.setdefault(("call", 0), []).append(one_call(n * 10))
    # The figure is of the engine itself, so what the actions and guards are called for is no part
    # of it.
    yield Row(
        "a training batch, actions that do nothing",
        statistics.median(alone),
        "us",
        None,
        bootstrap(alone),
    )
    yield Row(
        "... the same calls without an engine",
        statistics.median(calls),
        "us",
        None,
        bootstrap(calls),
    )
    own = [one - other for one, other in zip(alone, calls, strict=True)]
    yield Row("... so the engine itself", statistics.median(own), "us", 1.0, bootstrap(own))
    for count in ELSEWHERE:
        values = added["elsewhere", count]
        yield Row(
            f"{count} callbacks that do not listen to batches add",
            statistics.median(values),
            "us a batch",
            0.0,
            bootstrap(values),
        )
    call = statistics.median(added["call", 0])
    yield Row("a call of a hook that does nothing, by itself", call, "us")
    for count in LISTENING:
        values = [value / count for value in added["here", count]]
        yield Row(
            f"each of {count} callbacks that listen once a batch adds",
            statistics.median(values),
            "us a batch",
            round(call + 0.1, 3),
            bootstrap(values),
        )


if __name__ == "__main__":
    run(rows, __doc__)
