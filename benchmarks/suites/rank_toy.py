"""A small run on several ranks, which are forked from one process: no launcher, so a start takes a second."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch.nn import functional as F

import statetrain as st
from statetrain.compute.parts import whole
from statetrain.ranks.fsdp import FSDP
from statetrain.ranks.group import leave
from suites.case import scratch_place

SAMPLES, BATCH, EPOCHS = 66, 12, 2
STEPS = EPOCHS * -(-SAMPLES // BATCH)
LONGEST = 120.0  # seconds that all ranks may take, on a machine that is busy


@frozen
class RankResult:
    """How one rank ended.

    Attributes:
        code: its exit code, or minus the signal that killed it.
        said: what its work returned, or what was raised.
        errors: what it wrote to the standard error.
        ended: when, by `time.monotonic`.
    """

    code: int
    said: str
    errors: str
    ended: float


def on_ranks(
    work: Callable[[], str], ranks: int, attempt: int = 0, standing: int | None = None
) -> list[RankResult]:
    """Does something on several ranks, each a process of its own.

    Args:
        work: what each does; it finds its rank in the environment, as a launcher sets it.
        ranks: how many.
        attempt: which start of the job it is.
        standing: a rank that may not end by itself, and is killed once the others have ended.

    Raises:
        AssertionError: they have not ended after two minutes.
    """
    with tempfile.TemporaryDirectory(dir=scratch_place()) as folder, _free_port() as port:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
        place |= {"TORCHELASTIC_RESTART_COUNT": str(attempt)}
        children = {}
        for rank in range(ranks):
            names = {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            children[_start(work, names, Path(folder) / str(rank))] = rank
        found: dict[int, tuple[int, float]] = {}
        limit = time.monotonic() + LONGEST
        while len(found) < ranks:
            for child, rank in children.items():
                if rank not in found and (ended := os.waitpid(child, os.WNOHANG))[0]:
                    found[rank] = os.waitstatus_to_exitcode(ended[1]), time.monotonic()
                if rank == standing and rank not in found and len(found) == ranks - 1:
                    os.kill(child, signal.SIGKILL)
            if time.monotonic() > limit:
                for child, rank in children.items():
                    if rank not in found:
                        os.kill(child, signal.SIGKILL)
                        os.waitpid(child, 0)
                raise AssertionError(f"of {ranks} ranks, {ranks - len(found)} hang")
            time.sleep(0.02)
        return [
            RankResult(
                found[rank][0],
                _text(Path(folder) / str(rank)),
                _text(Path(folder) / f"{rank}.errors"),
                found[rank][1],
            )
            for rank in range(ranks)
        ]


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@contextlib.contextmanager
def _free_port() -> Any:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    yield port


def _start(work: Callable[[], str], names: dict[str, str], said: Path) -> int:
    child = os.fork()
    if child:
        return child
    os.environ.update(names)
    os.dup2(os.open(f"{said}.errors", os.O_WRONLY | os.O_CREAT, 0o600), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    logging.getLogger("statetrain").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    try:
        said.write_text(work())
        leave()
        os._exit(0)
    except BaseException as error:
        said.write_text(traceback.format_exc())
        os._exit(_end(error))


def _end(error: BaseException) -> int:
    """Does what Python does at the end of a script that an error ends; its exit code."""
    code = 1
    if isinstance(error, SystemExit):
        code = int(error.code or 0)
    else:
        sys.excepthook(type(error), error, error.__traceback__)
    leave()
    return code


def rank_train(
    folder: Path | None, *callbacks: st.Callback, shards: bool = False, dropout: float = 0.1
) -> st.Run:
    """Trains: dropout, momentum, an average, accumulated windows, validation; from where it was cut.

    Args:
        folder: of the checkpoints, one at each anchor; None for none.
        callbacks: more.
        shards: whether the weights are sharded.
        dropout: how much; its key has the rank.
    """
    torch.manual_seed(0)
    layers = (torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Dropout(dropout))
    net = torch.nn.Sequential(*layers, torch.nn.Linear(12, 3))
    x, y = torch.randn(SAMPLES, 6), torch.randint(0, 3, (SAMPLES,))
    saving = [] if folder is None else [st.Checkpoint(folder, every=st.Every(1, "steps"))]
    accelerator = None
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        make = FSDP if shards else st.DDP
        accelerator = make("cpu", patience=20.0)
    return st.fit(
        net,
        (x, y),
        valid=(x[:10], y[:10]),
        loss=F.cross_entropy,
        optimizer=torch.optim.Adam,
        opt_hparams={"lr": 1e-2},
        epochs=EPOCHS,
        dataloader_options={"batch_size": BATCH},
        accumulate=2,
        seed=7,
        accelerator=accelerator,
        callbacks=[st.EMA(0.9, valid=True), *callbacks, *saving],
        resume=None if folder is None else "last",
        trace=True,
    )


def rank_digest(run: st.Run) -> str:
    """How a run ended: weights, momentum, history; the same on all ranks."""
    tensors = []
    for parameter in run.model.parameters():
        tensors += [parameter.detach(), *run.ctx.opt.state[parameter].values()]
    sums = hashlib.sha256()
    for tensor in tensors:
        sums.update(whole(tensor).contiguous().numpy().tobytes())
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in run.history.rows]
    sums.update(json.dumps([rows, repr(run.outcome), run.ctx.step]).encode())
    return sums.hexdigest()
