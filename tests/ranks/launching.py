"""Starting jobs of several processes from tests, none of which outlives its test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def environment() -> dict[str, str]:
    """What a job's processes find in their environment."""
    path = str(HERE.parents[1])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def torchrun(
    script: Path, *arguments: str, ranks: int = 2, options: tuple[str, ...] = (), seconds: int = 300
) -> subprocess.CompletedProcess[str]:
    """Starts a script on several ranks, and waits for it; never longer than a number of seconds."""
    return subprocess.run(
        [*TORCHRUN, f"--nproc-per-node={ranks}", *options, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        env=environment(),
        check=False,
    )
