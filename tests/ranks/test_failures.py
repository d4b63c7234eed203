"""A rank that fails, is killed, hangs or stays away ends all, and the message says which one; torchrun starts again."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

from launching import HERE, TORCHRUN, environment, torchrun

FAILING = HERE / "failing.py"
MESSAGES = {
    "raise": (
        r"rank 0 ends because of rank 1: ValueError: this sample is broken, in 'pred' of epoch 1,"
        r" batch 10"
    ),
    "hang": (
        r"rank 0 is in 'backward' of epoch 1, batch 10 for \d s, waiting to reduce the gradients;"
        r" rank 1 is in 'pred' of epoch 1, batch 10 for \d s; it is rank 1 that the others wait for"
    ),
    "apart": (
        r"rank 1 waits to agree in next_valid_batch, in 'next_valid_batch' of epoch 0, batch 0, and"
        r" rank 0 has come to the end of its script"
    ),
}


def test_a_rank_that_fails_ends_all_and_is_named():
    """An exception, a standstill, a rank that stays alone: each start ends at once with one message."""
    options = (f"--max-restarts={len(MESSAGES)}",)
    done = torchrun(FAILING, *MESSAGES, "nothing", options=options, seconds=150)
    assert done.returncode == 0, done.stderr[-3000:]
    for what, words in MESSAGES.items():
        assert re.search(words, done.stderr), f"{what}: {done.stderr[-6000:]}"
    assert done.stdout.count("Completed(epoch=2)") >= 2


def test_killed_ranks_are_restarted_and_the_bits_are_the_same(tmp_path):
    """kill -9 of either rank, twice: torchrun starts again, the run goes on by itself, and ends bit for bit."""
    script = HERE / "restarting.py"
    done = torchrun(script, str(tmp_path), options=("--max-restarts=3",), seconds=150)
    assert done.returncode == 0, done.stderr[-3000:]
    attempt, killed, whole = done.stdout.splitlines()[-3:]
    assert attempt == "attempt 2"
    assert killed.removeprefix("killed: ") == whole.removeprefix("whole: ")
    assert "Completed(epoch=2) after 40 steps" in whole
    assert "rank 1 gives no sign of life" in done.stderr


def test_sigterm_to_the_launcher_stops_all_ranks_in_order(tmp_path):
    """A scheduler ends the job: both ranks stop at one step, and say so."""
    log = tmp_path / "log"
    with log.open("w") as file:
        job = subprocess.Popen(
            [*TORCHRUN, "--nproc-per-node=2", str(FAILING), "sigterm"],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(),
        )
        try:
            _wait_for(log, "trains", 60)
            job.send_signal(signal.SIGTERM)
            job.wait(40)
        finally:
            job.kill()
    text = log.read_text()
    assert text.count("Interrupted('SIGTERM', epoch=") == 2, text[-2000:]


def _wait_for(log: Path, word: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while word not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
