"""What one of several ranks meets with: it fails or stands still, and all are over; it asks, and all take one way."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.nn import functional as F

import statetrain as st
from suites.case import Case, scratch
from suites.rank_toy import RankResult, on_ranks, rank_digest

TITLE = "faults of one of several ranks"
GOAL = 200
SOON = 5.0  # seconds from a fault until all ranks are over; where one stands still, after patience
PATIENCE = 2.0
MOST = 6.0  # times as long as that on a busy machine, on which good ranks stand still too
BATCH, VALID = 5, 2  # those in which it happens

Fault = Callable[[], object]


def _raise(error: BaseException) -> NoReturn:
    raise error


def _spin() -> NoReturn:
    while True:
        pass


ENDING: dict[str, Fault] = {
    "raises": lambda: _raise(ValueError("this sample is broken")),
    "has no memory left": lambda: _raise(MemoryError("cannot allocate 8 GiB")),
    "exits": lambda: sys.exit(3),
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "is gone": lambda: os._exit(3),
    "aborts": os.abort,
}
"""Each ends its process."""

SAYING = {"raises": "this sample is broken", "has no memory left": "cannot allocate 8 GiB"}
"""What the others tell of it."""

STANDING: dict[str, Fault] = {
    "waits": lambda: time.sleep(600),
    "computes without end": _spin,
    "is stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}
"""Each leaves its process standing, the last with its watch."""

PLACES = ("data", "forward", "loss", "enter hook", "exit hook", "validation", "row", "script")

ASKED = (
    "loss is NaN, skip",
    "loss is NaN, stop",
    "loss is NaN, raise",
    "gradient is NaN, skip",
    "requests a stop",
    "SkipBatch in a hook",
    "SkipBatch in the data",
    "SkipEpoch",
    "StopFit",
    "SIGTERM",
    "SIGINT",
    "is late",
    "has a clock of its own",
    "has fewer batches",
)
"""What one rank meets with and all decide alike."""


class At:
    """Does something when a place is reached for the so-manieth time.

    Args:
        place: which.
        what: is done; None is nothing.
        folder: where the moment is written down.
        patience: of the ranks.
    """

    def __init__(
        self, place: str, what: Fault | None, folder: Path, patience: float = 60.0
    ) -> None:
        self.place, self.what, self.folder = place, what, folder
        self.patience = patience
        self.left = {"validation": VALID, "row": 1, "script": 1}.get(place, BATCH)

    def __call__(self, place: str) -> None:
        """A place is reached."""
        if place != self.place or self.what is None:
            return
        self.left -= 1
        if self.left == 0:
            (self.folder / "moment").write_text(repr(time.monotonic()))
            self.what()


class Samples(torch.utils.data.Dataset[Any]):
    """Samples in whose reading something may happen."""

    def __init__(self, at: At, count: int = 66) -> None:
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(count, 6, generator=generator)
        self.y = torch.randint(0, 3, (count,), generator=generator)
        self.at = at

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        self.at("data")
        return self.x[index], self.y[index]


class Net(torch.nn.Module):
    """A model in whose passes something may happen."""

    def __init__(self, at: At) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3)
        )
        self.at, self.factor = at, 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.at("forward" if self.training else "validation")
        out: torch.Tensor = self.layers(x) * self.factor
        return out


class Hooks(st.Callback):
    """Hooks in which something may happen, with the context."""

    def __init__(self, at: At) -> None:
        self.at = at

    def on_enter_pred(self, ctx: st.Context) -> None:
        """Before the model computes."""
        self.ctx = ctx
        self.at("enter hook")

    def on_exit_step(self, ctx: st.Context) -> None:
        """After a step."""
        self.at("exit hook")

    def on_exit_record(self, ctx: st.Context) -> None:
        """After a row."""
        self.at("row")


def busy() -> float:
    """How many times as long things take as on a quiet machine."""
    return min(MOST, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def train(at: At, shards: bool, net: Net | None = None, **options: Any) -> st.Run:
    """A short run with validation."""

    def loss(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        at("loss")
        return F.cross_entropy(pred, target)

    make = st.FSDP if shards else st.DDP
    given: dict[str, Any] = {
        "valid": Samples(At("", None, at.folder), 20),
        "loss": loss,
        "optimizer": torch.optim.Adam,
        "opt_hparams": {"lr": 1e-2},
        "epochs": 2,
        "dataloader_options": {"batch_size": 12},
        "seed": 7,
        "accelerator": make("cpu", patience=at.patience),
        "callbacks": Hooks(at),
        "trace": True,
        **options,
    }
    run = st.fit(net or Net(at), given.pop("data", None) or Samples(at), **given)
    at("script")
    st.evaluate(run, Samples(At("", None, at.folder), 20))
    return run


def cases() -> list[Case]:
    """Each fault in each place, and each thing that is asked, of some rank of 2 to 4 replicas or shards."""
    found = []
    kinds = [(what, place) for what in (*ENDING, *STANDING) for place in PLACES] * 2
    kinds += [(what, "") for what in ASKED] * 4
    for number, (what, place) in enumerate(kinds):
        ranks, shards = 2 + number % 3, number // 3 % 2 == 1
        victim = random.Random(number).randrange(ranks)
        words = f"rank {victim} of {ranks} {'shards' if shards else 'replicas'}: {what}"
        work: Callable[..., str]
        if place:
            work = partial(check_end, what, place)
            words += f" in the {place}"
        else:
            work = partial(check_asked, what)
        found.append(Case(f"{number}: {words}", partial(work, ranks, victim, shards)))
    return found


def check_end(what: str, place: str, ranks: int, victim: int, shards: bool = False) -> str:
    """All others end soon, none as if all were well, and the first message names the rank and its state."""
    fault = {**ENDING, **STANDING}[what]
    slower = busy()
    patience = 60.0
    if what in STANDING:
        patience = PATIENCE * slower
    with scratch() as folder:

        def work() -> str:
            train(At(place, fault if _is(victim) else None, folder, patience), shards)
            return ""

        found = on_ranks(work, ranks, standing=victim)
        moment = float((folder / "moment").read_text())
    others = [one for rank, one in enumerate(found) if rank != victim]
    seconds = max(one.ended for one in others) - moment
    if what in STANDING:
        seconds -= patience
    for one in others:
        assert one.code != 0, "a rank ended as if all were well"
        message = _first_message(one)
        assert re.search(rf"\brank {victim}\b", message), one.errors[-3000:]
        assert " in '" in message or "the script" in message, message
        assert what not in SAYING or SAYING[what] in message, message
    assert seconds < SOON * slower, f"{seconds:.1f} s until all were over"
    return f"{seconds:.2f} s"


def _is(victim: int) -> bool:
    return int(os.environ["RANK"]) == victim


def _first_message(result: RankResult) -> str:
    """The first of ours on a rank, or what a broken connection is explained with."""
    lines = result.errors.splitlines()
    return next((line for line in lines if "statetrain: " in line), "")


def check_asked(what: str, ranks: int, victim: int, shards: bool) -> str:
    """All ranks take one way, to the same weights, rows and outcome."""
    with scratch() as folder:

        def work() -> str:
            run, words = _asked(what, _is(victim), folder, shards)
            trace = [] if run is None else list(map(str, run.trace.transitions))
            ended = words if run is None else rank_digest(run)
            return json.dumps([ended, hashlib.sha1("".join(trace).encode()).hexdigest()])

        found = on_ranks(work, ranks)
    for one in found:
        assert one.code == 0, (one.said or one.errors)[-1500:]
        assert one.said == found[0].said, f"{one.said} is not {found[0].said}"
    return ""


def _asked(what: str, mine: bool, folder: Path, shards: bool) -> tuple[st.Run | None, str]:
    """A run in which one rank meets with something; or the error that all raise."""
    hooks = Hooks(At("", None, folder))
    net = Net(hooks.at)
    options: dict[str, Any] = {"callbacks": hooks}
    place = "data" if what == "SkipBatch in the data" else "enter hook"
    if what.startswith("loss is NaN"):
        options["non_finite"] = what.rpartition(" ")[2]
        place = "forward"
    if what.startswith("gradient is NaN"):
        options |= {"check_gradients": True, "non_finite": "skip"}
    if what == "has a clock of its own":
        rate = 100.0 if mine else 1.0
        options |= {"stop": st.TimeLimit(seconds=5), "clock": lambda: rate * time.monotonic()}
    if what == "has fewer batches":
        own = Samples(hooks.at, 200)
        begin, count = 40 * int(os.environ["RANK"]), 30 - 12 * mine
        options["data"] = [
            (own.x[n : n + 6], own.y[n : n + 6]) for n in range(begin, begin + count, 6)
        ]
        options["dataloader_options"] = None
    hooks.at.place = net.at.place = place
    hooks.at.left = 9 if place == "data" else BATCH  # samples, or batches
    hooks.at.what = _ask_for(what, hooks, net) if mine else None
    options.setdefault("data", Samples(hooks.at))
    try:
        return train(hooks.at, shards, net, **options), ""
    except st.NonFiniteLoss as error:
        return None, str(error)


def _ask_for(what: str, hooks: Hooks, net: Net) -> Fault | None:
    """What one rank does."""

    def spoil() -> None:
        net.factor = math.nan
        hooks.at.what, hooks.at.left = partial(setattr, net, "factor", 1.0), 1

    def spoil_gradient() -> None:
        handles: list[Any] = []

        def spoilt(grad: torch.Tensor) -> torch.Tensor:
            handles[0].remove()
            return grad * math.nan

        handles.append(next(net.parameters()).register_hook(spoilt))

    asks: dict[str, Fault] = {
        "gradient is NaN, skip": spoil_gradient,
        "requests a stop": lambda: hooks.ctx.request_stop("the disk is full"),
        "SkipBatch in a hook": lambda: _raise(st.SkipBatch("so")),
        "SkipBatch in the data": lambda: _raise(st.SkipBatch("so")),
        "SkipEpoch": lambda: _raise(st.SkipEpoch("so")),
        "StopFit": lambda: _raise(st.StopFit("so")),
        "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
        "SIGINT": lambda: os.kill(os.getpid(), signal.SIGINT),
        "is late": lambda: time.sleep(0.5),
    }
    return spoil if what.startswith("loss is NaN") else asks.get(what)
