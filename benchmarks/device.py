"""What a GPU is to show: against the hand-written loop, without waiting, as a graph, compiled, with batches placed ahead.

    python benchmarks/device.py                                    # on a machine with CUDA: some
    minutes python benchmarks/device.py --only "resnet, lean, finite_check='late'"    # one comparison
    python benchmarks/device.py --device cpu --quick --out /tmp/x  # whether it runs: all that needs
    no CUDA, in tiny sizes

Each comparison has a process of its own, in which blocks of the two alternate, each pair in random
order. A block has three epochs, of which the first is not counted: there graphs are recorded and
models compiled. The clocks sit in the data; where they are looked at, the device is waited for, and
what is waited is no CPU time. Weights are compared after a whole run of each, with torch's
deterministic algorithms.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import report
import suite
import torch
from attrs import frozen
from bounds import bootstrap
from device_loops import Trains, Way, by_hand, ours
from feed import Cost, Feed
from loops import Setting
from rows import Row
from tasks import Task, device_tasks
from torch import nn
from versus import difference, quiet

import statetrain as st

Result = dict[str, Any]
Measures = Callable[[torch.device, bool], Iterator[Result]]  # where, and whether in a moment

HERE = Path(__file__).resolve().parent
PACKAGE = Path(st.__file__).resolve().parent
EPOCHS = 3
PAIRS = {"mlp": 20, "cnn": 20, "resnet": 10, "decoder": 6, "wide": 10}
MODELS = ("mlp", "cnn", "resnet", "decoder")
BF16 = ("decoder",)  # the rest computes in float32

_HEAD = f"""# On a device

Written by `make device`; do not edit. Each comparison runs in a process of its own, in blocks that alternate, each pair in random
order, of {EPOCHS} epochs of which the first is not counted: there graphs are recorded and models compiled. Ratios and differences are
medians over the pairs, with 95 % bootstrap bounds of the median. The wall is looked at when the device has done what was queued;
what the host waits for that is no CPU time. Weights are compared after a whole run of each, with torch's deterministic algorithms.
The MLP, the CNN and the ResNet (18 layers, 11 M parameters, batches of 128 images) compute in float32, the decoder (101 M
parameters, batches of 16 x 512 tokens) in bf16; "wide" are batches of 32 MB for a net of two layers.

"""


@frozen
class Comparison:
    """Two ways to train the same model.

    Args:
        section: under which title it stands.
        what: what is compared, without the model.
        task: the model.
        one, other: the ways; what is told is the first one's time as a share of the second one's.
        compiled: whether torch compiles the model, in both.
        pinned: whether batches come from a DataLoader that pins its memory.
        ahead: by how many batches the first one draws ahead.
        cuda: whether it means anything without CUDA.
        goal: the most that the ratio of the wall should be.
        exact: whether the weights have to be the same to the bit.
    """

    section: str
    what: str
    task: str
    one: Trains
    other: Trains
    compiled: bool = False
    pinned: bool = False
    ahead: int = 0
    cuda: bool = False
    goal: float | None = None
    exact: bool = True

    @property
    def name(self) -> str:
        """What its rows begin with."""
        return f"{self.task}, {self.what}"

    def results(self, device: torch.device, quick: bool) -> Iterator[Result]:
        """Its numbers: medians, with bounds for what is quoted."""
        task = device_tasks(device.type != "cuda")[self.task]
        way = Way(device, "bf16" if self.task in BF16 else None, self.compiled)
        block = Block(
            task,
            way,
            task.data(3 if quick else task.batches),
            self.pinned and device.type == "cuda",
        )
        with deterministic():
            apart = difference(block.weights(self.one), block.weights(self.other))
        ways = {
            "one": partial(block.cost, self.one, self.ahead),
            "other": partial(block.cost, self.other),
        }
        costs: dict[str, list[Cost]] = {name: [] for name in ways}
        chance = random.Random(2)
        for _ in range(1 if quick else PAIRS[self.task]):
            for name in chance.sample(list(ways), 2):
                if not quick:  # it takes longer than a quick block
                    gc.collect()
                costs[name].append(ways[name]())
        couples = list(zip(costs["one"], costs["other"], strict=True))
        walls = [one.wall / other.wall for one, other in couples]
        hosts = [one.cpu - other.cpu for one, other in couples]
        yield {
            "what": self.name,
            "ratio": statistics.median(walls),
            "bounds": bootstrap(walls),
            "goal": self.goal,
            "wall_us": statistics.median(cost.wall for cost in costs["other"]),
            "host_us": statistics.median(hosts),
            "host_bounds": bootstrap(hosts),
            "difference": apart,
            "exact": self.exact,
        }


@frozen
class Block:
    """What a comparison trains, time and again from the same weights.

    Args:
        task: the model and its data.
        way: where and how.
        data: the batches of an epoch.
        pinned: whether they come from a DataLoader that pins its memory.
        model: one for all blocks, so that it is compiled once.
        begin: its weights before training.
    """

    task: Task
    way: Way
    data: list[Any]
    pinned: bool = False
    model: nn.Module = attrs.field(init=False)
    begin: dict[str, torch.Tensor] = attrs.field(init=False)

    @model.default
    def _model(self) -> nn.Module:
        return self.task.model().to(self.way.device)

    @begin.default
    def _begin(self) -> dict[str, torch.Tensor]:
        return copy.deepcopy(self.model.state_dict())

    def train(self, trains: Trains, epochs: int = EPOCHS) -> tuple[Feed, Any]:
        """Trains from the beginning; gives the marked data, and what the way returns."""
        self.model.load_state_dict(self.begin)
        feed = Feed(self.data, wait=partial(synchronize, self.way.device))
        with tempfile.TemporaryDirectory() as folder:
            return feed, trains(
                Setting(
                    self.task,
                    self.model,
                    feed.loader(pin_memory=True) if self.pinned else feed,
                    epochs,
                    Path(folder),
                ),
                self.way,
            )

    def cost(self, trains: Trains, ahead: int = 0) -> Cost:
        """What the epochs after the first take."""
        with quiet():
            feed, _ = self.train(trains)
        del feed.marks[:2]
        return feed.cost(ahead)

    def weights(self, trains: Trains) -> nn.Module:
        """The model after a run."""
        with quiet():
            self.train(trains)
        return copy.deepcopy(self.model)


def synchronize(device: torch.device) -> None:
    """Waits for what has been queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def deterministic() -> Iterator[None]:
    """While it is open, torch's algorithms give the same bits each time, as far as they can."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def comparisons() -> list[Comparison]:
    """All of them."""
    late, now = partial(ours, finite_check="late"), partial(ours, finite_check="now")
    found = []
    for task in MODELS:
        for config, goal in (("lean", 1.02), ("typical", 1.05)):
            typical = config == "typical"
            section = f"{config.capitalize()} against the hand-written loop"
            reads = partial(by_hand, reads=True, typical=typical)
            found += [
                Comparison(
                    section,
                    f"{config}, finite_check='now', a loop that reads the loss",
                    task,
                    partial(now, typical=typical),
                    reads,
                    goal=goal,
                ),
                Comparison(
                    section,
                    f"{config}, finite_check='late', a loop that reads none",
                    task,
                    partial(late, typical=typical),
                    partial(by_hand, typical=typical),
                    goal=goal,
                ),
            ]
        found.append(
            Comparison("finite_check='late' against finite_check='now'", "lean", task, late, now)
        )
    recorded = {"what": "step", "mode": "reduce-overhead"}
    for task in MODELS:
        goal = 0.5 if task in ("mlp", "cnn") else 1.0
        graph = partial(ours, finite_check="late", compile=recorded)
        section = "compile='step', recorded by torch as a CUDA graph"
        found += [
            Comparison(
                section,
                "the eager loop by hand",
                task,
                graph,
                by_hand,
                cuda=True,
                goal=goal,
                exact=False,
            ),
            Comparison(
                section,
                "the run that is not compiled",
                task,
                graph,
                late,
                cuda=True,
                exact=False,
            ),
            Comparison(
                section,
                "with non_finite='ignore', the eager loop by hand",
                task,
                partial(ours, non_finite="ignore", compile=recorded),
                by_hand,
                cuda=True,
                goal=goal,
                exact=False,
            ),
        ]
    for task in MODELS:
        section = "compile=True"
        found += [
            Comparison(
                section,
                "the loop by hand with torch.compile",
                task,
                late,
                by_hand,
                compiled=True,
                cuda=True,
                goal=1.02,
                exact=False,
            ),
            Comparison(
                section,
                "compile='step', the loop by hand with torch.compile",
                task,
                partial(late, compile="step"),
                by_hand,
                compiled=True,
                cuda=True,
                exact=False,
            ),
        ]
    for task in ("resnet", "wide"):
        ahead, section = (
            partial(ours, finite_check="late", prefetch=True),
            "prefetch=True, from a loader that pins its memory",
        )
        found += [
            Comparison(
                section, "without", task, ahead, late, pinned=True, ahead=1, cuda=True, goal=1.0
            ),
            Comparison(
                section,
                "the loop by hand",
                task,
                ahead,
                by_hand,
                pinned=True,
                ahead=1,
                cuda=True,
                goal=1.02,
            ),
        ]
    return found


# ---------------------------------------------------------------- waiting for data


def waiting(block: Block, trains: Trains) -> float:
    """The share of a run's time that it waits for data."""
    profile = st.Profile()
    with quiet():
        block.train(partial(trains, callbacks=[profile]))
    return profile.waiting / profile.total


# ---------------------------------------------------------------- waiting for the device


_WAITED = "called a synchronizing"  # what torch says; that the mode is young it says in other words


class Armed(st.Callback):
    """Switches torch's look for waiting on, from the second batch of an epoch to its last.

    Args:
        last: the number of batches of an epoch.
        mode: torch's word for what is to happen then.
        switch: torch's function.
        epoch: in which epoch. In the first one optimizers make their states and graphs are
            recorded.
    """

    def __init__(
        self,
        last: int,
        mode: str,
        switch: Callable[[str], None] = torch.cuda.set_sync_debug_mode,
        epoch: int = 2,
    ) -> None:
        self.last, self.mode, self.switch, self.epoch = last, mode, switch, epoch

    def on_enter_fit(self, ctx: Any) -> None:
        """However the run ends, it is off."""
        ctx.defer(partial(self.switch, "default"))

    def on_exit_batch(self, ctx: Any) -> None:
        """The first batch is over, or the last one."""
        if ctx.epoch == self.epoch and ctx.iter in (1, self.last):
            self.switch(self.mode if ctx.iter == 1 else "default")


def waits(
    block: Block, trains: Trains, switch: Callable[[str], None] = torch.cuda.set_sync_debug_mode
) -> Counter[str]:
    """Where a run waits for the device in its steps, and how often; empty if it went through with waiting being an error.

    Args:
        block: what is trained.
        trains: how, with `callbacks`.
        switch: torch's function, which says what is to happen.
    """
    armed = partial(Armed, len(block.data), switch=switch)
    try:
        with quiet():
            block.train(partial(trains, callbacks=[armed("error")]), epochs=2)
    except RuntimeError as error:
        if _WAITED not in str(error):
            raise
    else:
        return Counter()
    places: Counter[str] = Counter()

    def note(message: Warning | str, *_: Any) -> None:
        if _WAITED in str(message):
            places[_innermost(traceback.extract_stack())] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # Of its arguments, the first is all that is needed
        warnings.showwarning = note  # type: ignore[assignment]
        block.train(partial(trains, callbacks=[armed("warn")]), epochs=2)
    return places or Counter({"somewhere that is not told": 1})


def _innermost(stack: traceback.StackSummary) -> str:
    """The innermost place of the package in a stack, and what it called from there."""
    own = [i for i, frame in enumerate(stack) if PACKAGE in Path(frame.filename).resolve().parents]
    if not own:
        return "outside of statetrain"
    frame = stack[own[-1]]
    return (
        f"{Path(frame.filename).resolve().relative_to(PACKAGE.parent).as_posix()}:{frame.lineno},"
        f" {frame.name}: {frame.line}"
    )


def _proof(task: str, config: str, found: Counter[str], steps: int, expected: bool = False) -> Row:
    where = "".join(f"; {times} at {place}" for place, times in found.most_common(3))
    return Row(
        f"{task}, {config}: waits in {steps} steps{where}",
        sum(found.values()),
        "",
        None if expected else 0.0,
    )


# ---------------------------------------------------------------- memory


def growth(block: Block, trains: Trains, epochs: int) -> float:
    """Bytes on the device by which a run grows with each step, from the end of the second epoch to that of the last."""
    taken: list[int] = []

    class Scales(st.Callback):
        """Weighs what is allocated."""

        def on_exit_epoch(self, ctx: Any) -> None:
            if ctx.epoch in (2, epochs):
                gc.collect()
                taken.append(torch.cuda.memory_allocated(block.way.device))

    with quiet():
        block.train(partial(trains, callbacks=[Scales()]), epochs=epochs)
    return (taken[-1] - taken[0]) / ((epochs - 2) * len(block.data))


# ---------------------------------------------------------------- all of it


def _block(name: str, device: torch.device, quick: bool, pinned: bool = False) -> Block:
    task = device_tasks(device.type != "cuda")[name]
    return Block(
        task,
        Way(device, "bf16" if name in BF16 else None),
        task.data(3 if quick else 60),
        pinned and device.type == "cuda",
    )


def _waiting(device: torch.device, quick: bool) -> Iterator[Row]:
    for task in ("resnet", "wide"):
        for ahead in (False, True)[: 2 if device.type == "cuda" else 1]:
            share = waiting(
                _block(task, device, quick, pinned=True),
                partial(ours, finite_check="late", prefetch=ahead),
            )
            yield Row(f"{task}, prefetch={ahead}", 100 * share, "% of the time")


def _proofs(device: torch.device, quick: bool) -> Iterator[Row]:
    late = partial(ours, finite_check="late")
    configs: dict[str, Trains] = {
        "lean": late,
        "typical": partial(late, typical=True),
        "typical, the step compiled": partial(late, typical=True, compile="step"),
        "typical, batches placed ahead": partial(late, typical=True, prefetch=True),
    }
    for task in MODELS:
        for config, trains in configs.items():
            block = _block(task, device, quick, pinned="ahead" in config)
            yield _proof(
                task, f"{config}, finite_check='late'", waits(block, trains), len(block.data) - 1
            )
    block = _block("mlp", device, quick)
    yield _proof(
        "mlp",
        "lean, finite_check='now', which reads each loss",
        waits(block, partial(ours, finite_check="now")),
        len(block.data) - 1,
        expected=True,
    )


def _memory(device: torch.device, quick: bool) -> Iterator[Row]:
    configs: dict[str, dict[str, Any]] = {
        "lean": {},
        "the step compiled": {"compile": "step"},
        "batches placed ahead": {"prefetch": True},
    }
    for config, more in configs.items():
        grown = growth(
            _block("mlp", device, quick, pinned="ahead" in config),
            partial(ours, finite_check="late", **more),
            4 if quick else 40,
        )
        yield Row(f"mlp, {config}", grown, "bytes a step", 0.0)


# What compares nothing, by title: whether it needs CUDA, and what measures it
ALONE = {
    "Waiting for data": (False, _waiting),
    "Waiting for the device, found by torch's sync debug mode": (True, _proofs),
    "Memory on the device": (True, _memory),
}


def _plain(
    rows: Callable[[torch.device, bool], Iterator[Row]], device: torch.device, quick: bool
) -> Iterator[Result]:
    yield from map(attrs.asdict, rows(device, quick))


def parts() -> dict[str, tuple[str, bool, Measures]]:
    """All that is measured, by name: its title, whether it needs CUDA, and what measures it."""
    found: dict[str, tuple[str, bool, Measures]] = {
        f"{one.section}: {one.name}": (one.section, one.cuda, one.results) for one in comparisons()
    }
    return found | {
        title: (title, cuda, partial(_plain, rows)) for title, (cuda, rows) in ALONE.items()
    }


def apart(name: str, device: torch.device) -> list[Result]:
    """The numbers of a part, from a process of its own.

    Raises:
        RuntimeError: it failed; with what it said last.
    """
    command = [
        sys.executable,
        str(HERE / "device.py"),
        "--only",
        name,
        "--device",
        str(device),
        "--json",
    ]
    # CuBLAS gives the same bits with it
    environment = {
        **os.environ,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(
            (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:300]
        )
    results: list[Result] = json.loads(done.stdout.splitlines()[-1])
    return results


def environment(device: torch.device) -> dict[str, str]:
    """Where this was measured."""
    about = suite.environment()
    about["processor"] = about["processor"].replace("; one thread for each process", "")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about["device"] = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA"
            f" {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        )
    else:
        about["device"] = f"none: the {device.type}, in sizes that mean nothing"
    return about


def main() -> None:
    it = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    it.add_argument(
        "--quick", action="store_true", help="tiny blocks in one process: to see that it runs"
    )
    it.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu for what needs no CUDA")
    it.add_argument(
        "--only", metavar="PART", help="one part by its name, or all whose name has this in it"
    )
    it.add_argument(
        "--json", action="store_true", help="the numbers of a part as JSON, and no page"
    )
    it.add_argument("--out", type=Path, default=HERE, help="the folder for DEVICE.md")
    options = it.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        it.error("there is no CUDA device here; --device cpu --quick runs what needs none")
    if device.type == "cpu":
        torch.set_num_threads(1)
    everything = parts()
    chosen = {
        name: part for name, part in everything.items() if not options.only or name == options.only
    }
    chosen = chosen or {name: part for name, part in everything.items() if options.only in name}
    if not chosen:
        it.error(f"no part {options.only!r}; there are: {'; '.join(everything)}")
    if options.json:
        print(
            json.dumps(
                [
                    result
                    for _, _, measures in chosen.values()
                    for result in measures(device, options.quick)
                ]
            )
        )
        return
    about, began, out = environment(device), time.monotonic(), []
    sections: dict[str, list[Result]] = {}
    for i, (name, (title, cuda, measures)) in enumerate(chosen.items(), 1):
        if cuda and device.type != "cuda":
            out.append(name)
            continue
        print(f"[{i}/{len(chosen)}, {time.monotonic() - began:.0f} s] {name}", flush=True)
        try:
            found = list(measures(device, True)) if options.quick else apart(name, device)
        except RuntimeError as error:
            about[f"failed: {name}"] = str(error).splitlines()[0]
            continue
        sections.setdefault(title, []).extend(found)
        for result in found:
            number = (
                f"x {result['ratio']:.3f}, {result['host_us']:+.1f} us of the host"
                if "ratio" in result
                else f"{result['value']:.4g} {result['unit']}"
            )
            print(f"    {result['what']}: {number}")
    about["took"] = f"{(time.monotonic() - began) / 60:.0f} minutes"
    page = report.page([], sections, about, None, _HEAD)
    if out:
        page += "## Left out, since it needs CUDA\n\n" + "".join(f"- {name}\n" for name in out)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "DEVICE.md").write_text(page, encoding="utf-8")
    print(f"written: {options.out / 'DEVICE.md'}")
    sys.exit(any(what.startswith("failed") for what in about))


if __name__ == "__main__":
    main()
