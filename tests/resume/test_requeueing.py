"""The job script on the page about reliability, with commands of SLURM that only do what it relies on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TRAIN = """
import os, signal, torch
import statetrain as st


@st.on("exit_step")
def warn(ctx):  # as SLURM does, in the first job
    if ctx.step == 3:
        os.kill(os.getpid(), signal.SIGUSR1)


run = st.fit(
    torch.nn.Linear(1, 1), [(torch.ones(2, 1), torch.ones(2, 1))] * 5, epochs=2, seed=0, verbose=False,
    loss=torch.nn.functional.mse_loss, optimizer=torch.optim.SGD, on_interrupt="exit",
    callbacks=[warn, st.Checkpoint("run", preflight=False)], resume="last",
)
print("steps", run.ctx.step)
"""


def command(folder: Path, name: str, text: str) -> None:
    """A command that the script finds."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def test_the_job_script_requeues_until_the_run_is_complete(tmp_path: Path) -> None:
    """The warned job is requeued; the next one completes the run and is not."""
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    found = re.search(r"```bash\n(#!/bin/bash.*?)```", page, re.DOTALL)
    assert found is not None
    (tmp_path / "job.sh").write_text(found[1], encoding="utf-8")
    (tmp_path / "train.py").write_text(TRAIN, encoding="utf-8")
    commands = tmp_path / "bin"
    commands.mkdir()
    command(commands, "srun", 'exec "$@"')
    command(commands, "python", f'exec "{sys.executable}" "$@"')
    command(commands, "scontrol", "echo asked: $@")
    path = os.pathsep.join([str(commands), os.environ["PATH"]])
    told = []
    for _ in range(2):
        job = subprocess.run(
            ["bash", "job.sh"],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "SLURM_JOB_ID": "7", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        told.append((job.returncode, job.stdout.strip()))
    assert told == [(138, "asked: requeue 7"), (0, "steps 10")], job.stderr
