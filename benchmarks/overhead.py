"""What the machine costs per training batch: statetrain against a hand-written loop that does the same.

    python benchmarks/overhead.py            # the table, about two minutes
    python benchmarks/overhead.py --quick    # fewer and shorter blocks

A tiny MLP (64-32-10), batch 32, SGD with momentum, one thread, batches from a list, so that overhead shows. Both sides
take the mean of the loss and check it for NaN. Blocks of the two alternate in one process, each pair in random order;
the hand-written loop runs against itself as a control. Times are CPU time; the number to quote is the median difference
with its bootstrap bounds, and the ratio.
"""

from __future__ import annotations

import argparse
import gc
import math
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from bounds import bootstrap

import statetrain as st
from statetrain import actions
from statetrain.position import Position

Batches = list[tuple[torch.Tensor, torch.Tensor]]


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def batches(n: int) -> Batches:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(32, 64, generator=generator), torch.randint(0, 10, (32,), generator=generator)) for _ in range(n)]


def by_hand(data: Batches) -> tuple[float, torch.nn.Module]:
    """One epoch as a PyTorch user writes it; the CPU seconds that the loop took."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    net.train()
    begin = time.process_time()
    total, count = 0.0, 0
    for x, y in data:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        value = loss.item()
        if not math.isfinite(value):
            raise ArithmeticError(value)
        loss.backward()
        optimizer.step()
        total += value * len(x)
        count += len(x)
    mean = total / count
    seconds = time.process_time() - begin
    assert math.isfinite(mean)
    return seconds, net


class Stopwatch(st.Callback):
    """CPU seconds between entering and leaving `train`."""

    seconds = 0.0

    def on_enter_train(self, ctx: Any) -> None:
        self.begin = time.process_time()

    def on_exit_train(self, ctx: Any) -> None:
        self.seconds = time.process_time() - self.begin


def by_machine(data: Batches, callbacks: tuple[st.Callback, ...] = ()) -> tuple[float, torch.nn.Module]:
    """The same epoch with `fit`."""
    net = model()
    watch = Stopwatch()
    st.fit(
        net,
        data,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.01, "momentum": 0.9},
        epochs=1,
        callbacks=(watch, *callbacks),
    )
    return watch.seconds, net


@frozen
class Comparison:
    """Differences per batch between two loops, in microseconds of CPU time, one for each pair of blocks."""

    name: str
    differences: list[float]
    ratios: list[float]

    def line(self) -> str:
        low, high = bootstrap(self.differences)
        return (
            f"{self.name:<34} {statistics.median(self.differences):+8.2f} us   [{low:+.2f}, {high:+.2f}]   "
            f"x {statistics.median(self.ratios):.4f}"
        )


def compare(name: str, loop: Callable[[Batches], tuple[float, Any]], data: Batches, pairs: int) -> tuple[Comparison, float]:
    """Runs a loop against the hand-written one, in pairs of random order; also gives the latter's time per batch."""
    chance = random.Random(2)
    differences, ratios, hand = [], [], []
    for _ in range(pairs):
        times = {}
        for which in chance.sample(("ours", "hand"), 2):
            gc.collect()
            times[which] = (loop if which == "ours" else by_hand)(data)[0] / len(data) * 1e6
        differences.append(times["ours"] - times["hand"])
        ratios.append(times["ours"] / times["hand"])
        hand.append(times["hand"])
    return Comparison(name, differences, ratios), statistics.median(hand)


def same_weights(data: Batches) -> bool:
    """Whether both ways end with the same bits."""
    one, other = by_hand(data)[1].state_dict(), by_machine(data)[1].state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


# ---------------------------------------------------------------- the engine alone


def stub(ctx: Any) -> None:
    "nothing"


def stubbed(n: int) -> st.Lifecycle:
    """The standard lifecycle with actions that do nothing, and one that counts."""

    def draw(ctx: Any) -> None:
        ctx.iter += 1
        ctx.drawn = ctx.iter <= n

    life = st.supervised(validate=None)
    states = [evolve(s, action=s.action and stub, mode=None, close=s.close and stub) for s in life.states]
    arrows = [t if t.dest == "failed" else evolve(t, effect=actions.count_epoch if t.effect is actions.count_epoch else t.effect and stub) for t in life.transitions]
    return evolve(life, states=states, transitions=arrows).replace("draw", action=draw)


def engine(n: int, callbacks: tuple[st.Callback, ...] = (), repeats: int = 7) -> float:
    """Microseconds of CPU time a training batch with stub actions: 7 transitions, 3 guards, 9 calls."""
    machine = st.Machine(stubbed(n), callbacks)
    times = []
    for _ in range(repeats):
        ctx = st.Context(max_epochs=1, loss_value=0.0)
        begin = time.process_time()
        machine.run(ctx)
        times.append((time.process_time() - begin) / n * 1e6)
    return statistics.median(times)


def calls_alone(n: int, repeats: int = 7) -> float:
    """The same stubs and guards called one after the other: what no engine can be below."""
    guards = [st.stop_requested.test, lambda ctx: ctx.drawn, st.NonFinite().bind("")]
    ctx = st.Context(loss_value=0.0)

    def loop() -> None:
        stop, drawn, finite = guards
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

    times = []
    for _ in range(repeats):
        begin = time.process_time()
        loop()
        times.append((time.process_time() - begin) / n * 1e6)
    return statistics.median(times)


class Elsewhere(st.Callback):
    """Listens, but not in the training step."""

    def on_enter_fit(self, ctx: Position) -> None:
        pass


class Listener(st.Callback):
    """Listens once a batch and does nothing."""

    def on_exit_step(self, ctx: Position) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter blocks")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    data = batches(500 if quick else 2000)
    pairs = 10 if quick else 40
    by_hand(data)
    by_machine(data)
    print(f"torch {torch.__version__}, one thread, {pairs} pairs of blocks of {len(data)} batches")
    print(f"final weights bit-equal: {same_weights(data)}\n")
    control, _ = compare("the loop against itself", by_hand, data, pairs)
    lean, hand = compare("statetrain, loss mean and NaN check", by_machine, data, pairs)
    ten, _ = compare("... and 10 callbacks that listen", lambda d: by_machine(d, tuple(Listener() for _ in range(10))), data, pairs)
    print(f"hand-written loop: {hand:.1f} us a batch (CPU time)\n")
    for comparison in (control, lean, ten):
        print(comparison.line())
    n = 50_000 if quick else 200_000
    print(f"\nengine alone, stub actions:        {engine(n):.2f} us a training batch")
    print(f"the same calls without an engine:  {calls_alone(n):.2f} us")
    for count in (1, 10, 100, 1000):
        elsewhere = engine(n, tuple(Elsewhere() for _ in range(count)))
        print(f"... with {count:>4} callbacks that listen elsewhere: {elsewhere:.2f} us")


if __name__ == "__main__":
    main()
