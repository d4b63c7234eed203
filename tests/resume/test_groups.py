"""Signals to a whole group of processes: the run ends in order and is saved; workers go on until then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from statetrain.data.workers import iterate

RUN = """
import pathlib, sys, torch, statetrain as st
from torch.utils.data import DataLoader, Dataset
class Slow(Dataset):
    def __len__(self): return 400
    def __getitem__(self, i):
        import time; time.sleep(0.01)
        return torch.ones(2), torch.ones(1)
if __name__ == "__main__":
    @st.on("exit_step")
    def begun(ctx):
        if ctx.step == 2: print("begun", flush=True)
    data = DataLoader(Slow(), 2, num_workers=2, multiprocessing_context=sys.argv[2])
    st.fit(torch.nn.Linear(2, 1), data, loss=torch.nn.functional.mse_loss, optimizer=torch.optim.SGD,
           epochs=50, device="cpu", on_interrupt="exit",
           callbacks=[begun, st.Checkpoint(sys.argv[1], st.Every(9999, "steps"))])
"""


@pytest.mark.parametrize(
    ("method", "number"),
    [
        ("fork", signal.SIGTERM),
        ("spawn", signal.SIGINT),
        ("forkserver", signal.SIGTERM),
    ],
)
def test_a_signal_to_the_group_ends_the_run_in_order(
    method: str, number: signal.Signals, tmp_path: Path
) -> None:
    """As a terminal or a scheduler sends it: the run is saved, nothing failed, and no worker is left."""
    (tmp_path / "run.py").write_text(RUN)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "ck"), method],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert not (tmp_path / "ck" / "failure.json").exists()
    manifests = list((tmp_path / "ck").glob("step-*/MANIFEST.json"))
    assert [json.loads(path.read_text())["about"]["step"] >= 2 for path in manifests] == [True]
    if method == "fork":  # else Python's own helper ends a moment later
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)


class Numbers(Dataset[Any]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        return index


def test_a_loader_is_as_it_was_and_its_own_function_is_called() -> None:
    """The function for workers runs in each of them, and is the loader's again afterwards."""
    seen: list[int] = []
    loader = DataLoader(Numbers(), 4, num_workers=1, worker_init_fn=seen.append)
    own = loader.worker_init_fn
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert [batch.tolist() for batch in iterate(loader)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert loader.worker_init_fn is own
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_worker_still_ends_when_its_parent_asks() -> None:
    """SIGTERM from the parent is how torch ends one that hangs."""
    iterator: Any = iterate(DataLoader(Numbers(), 4, num_workers=1, persistent_workers=True))
    next(iterator)
    worker = iterator._workers[0]
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0
    iterator._workers_status[0] = False
