"""Kills training processes with SIGKILL, lets others go on, and compares how they end with a run that was never killed.

    python killing.py 24        # that many of the kills, evenly spread; prints how they went as JSON

Processes are forked from one that has torch loaded and has never trained, so that each takes a tenth of a second.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # an optimizer's first step would import it, in each process anew
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import statetrain as st
from statetrain import checkpoint
from statetrain.callbacks.checkpoint import Checkpoint
from statetrain.training import fit  # now, not in each process anew

SIZE = 22


class Noisy(Dataset[Any]):
    """Samples with random noise from three sources."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(SIZE, 4, generator=generator)
        self.targets = (self.inputs @ torch.randn(4, 3, generator=generator)).argmax(1)

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index] + 0.1 * torch.randn(4) + 0.1 * random.random() + 0.1 * float(np.random.rand()), self.targets[index]


OPTIONS: dict[str, dict[str, Any]] = {
    "seeded": {"seed": 1},
    "seeded, workers": {"seed": 1, "workers": 2},
    "unseeded": {},
    "unseeded, workers": {"workers": 2},
    "accumulated": {"seed": 1, "accumulate": 2},
    "validation inside": {"validate": st.Every(2, "steps")},
    "adam, bfloat16": {"seed": 1, "optimizer": torch.optim.Adam, "opt_hparams": {}, "precision": "bf16"},
}


_EXPECTED: dict[str, str] = {}  # how a run ends that is not killed, by the name of its options


class Kill(st.Callback):
    """Kills the process at the n-th transition: while the arrow is taken, or when the state after it has done its work."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def on_transition(self, ctx: Any) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


class KillsInSave:
    """In the place of the module `os`: kills the process at the n-th call of a save that changes the disk."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def __getattr__(self, name: str) -> Any:
        if name in ("write", "fsync", "mkdir", "rename", "unlink", "rmdir"):
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
        return getattr(os, name)


def train(folder: Path | None, options: dict[str, Any], *callbacks: st.Callback, start_seed: int = 0) -> st.Run:
    """Three epochs of three batches, saved at every second step."""
    options = dict(options)
    loaders = {"batch_size": 8, "num_workers": options.pop("workers", 0)}
    torch.manual_seed(start_seed)
    random.seed(start_seed)
    np.random.seed(start_seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 3))
    given = {"optimizer": torch.optim.SGD, "opt_hparams": {"lr": 0.1, "momentum": 0.9}, "verbose": False, "clock": lambda: 0.0}
    saving = [] if folder is None else [Checkpoint(folder, st.Every(2, "steps") | st.Every(1, "epochs"), preflight=False)]
    return fit(
        model, DataLoader(Noisy(), shuffle=True, **loaders), valid=DataLoader(Noisy(), **loaders), loss=F.cross_entropy, epochs=3,
        callbacks=[*saving, *callbacks], resume=None if folder is None else "last", **{**given, **options},
    )  # fmt: skip


def digest(run: st.Run) -> str:
    """Of weights, optimizer, history and the state of the generator."""
    data = [run.model.state_dict(), run.ctx.opt.state_dict(), list(run.history), torch.get_rng_state()]
    structure, tensors = checkpoint.plain.encode(data)
    sha = hashlib.sha256(checkpoint.plain.dumps(structure))
    for name in sorted(tensors):
        sha.update(bytes(tensors[name].contiguous().reshape(-1).view(torch.uint8).tolist()))
    return sha.hexdigest()


def forked(work: Callable[[], str]) -> tuple[int, str]:
    """Does something in a process of its own; its exit code or minus the signal that killed it, and what it returned."""
    with tempfile.NamedTemporaryFile("r") as said:  # no pipe: the workers of a process that was killed would hold it open
        child = os.fork()
        if child == 0:
            try:
                Path(said.name).write_text(work())
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.read()


def killed(name: str, at: int, in_save: bool) -> dict[str, Any]:
    """Kills a run once, goes on with it in another process, and compares."""
    options = OPTIONS[name]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as base:
        folder = Path(base) / "run"

        def first() -> str:
            if in_save:
                checkpoint.os = checkpoint.tensorfile.os = KillsInSave(at)  # type: ignore[attr-defined]  # on purpose
                return digest(train(folder, options))
            return digest(train(folder, options, Kill(at)))

        def second() -> str:
            anything = checkpoint.newest(folder, aside=False) is not None
            return digest(train(folder, options, start_seed=5 if anything else 0))

        code, _ = forked(first)
        again, ended = forked(second)
        litter = [path.name for path in folder.iterdir() if "corrupt" in path.name or path.suffix == ".part"]
        if name not in _EXPECTED:
            _EXPECTED[name] = forked(lambda: digest(train(None, options)))[1]
        return {"case": f"{name}, {'call of a save' if in_save else 'transition'} {at}", "killed": code == -9, "exact": again == 0 and ended == _EXPECTED[name], "litter": litter}


def cases() -> list[tuple[str, int, bool]]:
    """Each transition of a run, and each call of its saves, under each set of options."""
    return [(name, at, in_save) for name in OPTIONS for in_save in (False, True) for at in range(1, 89)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.getLogger("statetrain").setLevel(logging.ERROR)  # that another process has ended without a word is the point
    wanted, every = int(sys.argv[1]), cases()
    draw = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(json.dumps([killed(*case) for case in draw.sample(every, wanted)]))
