"""Two processes by each launcher of docs/ranks.md: they make one group, and train what one process does."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from suites.case import Case

TITLE = "launchers"
GOAL = 5
SECONDS = 240.0
NEAR = 1e-6

ROOT = Path(__file__).parents[2]
SCRIPT = str(Path(__file__).parent / "launched.py")
PYTHON = [sys.executable, "-m"]
Command = tuple[list[str], dict[str, str]]
LaunchedRun = tuple[int, int, int, list[float]]  # rank, ranks, steps, weights


def cases() -> list[Case]:
    """One for each."""
    return [Case(name, partial(_check, make)) for name, make in _LAUNCHERS.items()]


def _check(make: Callable[[int], list[Command]]) -> str:
    if make is _ray and importlib.util.find_spec("ray") is None:
        return "ray is not installed, so it was not tried"
    found = _run(make(_free_port()))
    _, _, steps, weights = _alone()
    assert len(found) == 2, f"{len(found)} processes said how they ended"
    for _, ranks, made, own in found:
        assert ranks == 2, f"a process was one of {ranks}"
        assert made == steps
        assert max(abs(a - b) for a, b in zip(own, weights, strict=True)) < NEAR
    return ""


@cache
def _alone() -> LaunchedRun:
    (found,) = _run([([sys.executable, SCRIPT, "alone"], {})])
    return found


def _run(commands: list[Command]) -> list[LaunchedRun]:
    """Starts commands side by side; what their processes found."""
    place = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    jobs = [
        subprocess.Popen(
            command,
            env={**os.environ, **place, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for command, more in commands
    ]
    try:
        told = [job.communicate(timeout=SECONDS)[0] for job in jobs]
    finally:
        for job in jobs:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
    assert all(job.returncode == 0 for job in jobs), told[0][-1500:]
    lines = set(re.findall(r"found (\[.*?\]\])", "\n".join(told)))  # Ray shows each twice
    return [json.loads(line) for line in lines]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


# ---------------------------------------------------------------- the launchers


def _torchrun(port: int) -> list[Command]:
    command = [*PYTHON, "torch.distributed.run", "--standalone", "--nproc-per-node=2", SCRIPT]
    return [(command, {})]


def _two_agents(port: int) -> list[Command]:
    where = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=job"]
    command = [*PYTHON, "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *where, SCRIPT]
    return [(command, {}), (command, {})]


def _accelerate(port: int) -> list[Command]:
    options = [
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
    ]
    options += ["--dynamo_backend", "no", "--main_process_port", str(port)]
    return [([*PYTHON, "accelerate.commands.launch", *options, SCRIPT], {})]


def _slurm(port: int) -> list[Command]:
    """What `srun` starts for each task, by the variables that it sets."""
    names = "RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID"
    command = ["bash", "-c", f"{names} {sys.executable} {SCRIPT}"]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "SLURM_NTASKS": "2"}
    tasks = [{"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)} for n in range(2)]
    return [(command, {**place, **task}) for task in tasks]


def _ray(port: int) -> list[Command]:
    return [([sys.executable, SCRIPT, "ray"], {})]


_LAUNCHERS: dict[str, Callable[[int], list[Command]]] = {
    "torchrun": _torchrun,
    "torchrun with two agents": _two_agents,
    "accelerate launch": _accelerate,
    "the variables of SLURM": _slurm,
    "Ray Train": _ray,
}
