"""A rank that fails, is killed, hangs or stays away ends all, and the message says which one; torchrun starts again."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from launching import HERE, TORCHRUN, environment, torchrun
from suites import rank_faults

FAILING = HERE / "failing.py"


def test_a_rank_that_fails_ends_all_and_torchrun_starts_again():
    """An exception ends the first start at once, with one message that says whose it was; the second completes."""
    done = torchrun(FAILING, "raise", "nothing", options=("--max-restarts=1",))
    assert done.returncode == 0, done.stderr[-3000:]
    words = "rank 0 ends because of rank 1: ValueError: this sample is broken, in 'pred' of epoch 1"
    said = [line for line in done.stderr.splitlines() if line.startswith("statetrain: ")]
    assert said == [f"statetrain: {words}, batch 10"]
    assert done.stdout.count("Completed(epoch=2)") == 2


FAULTS = [
    ("raises", "validation", 4, 2),
    ("is killed", "exit hook", 4, 3),
    ("waits", "loss", 4, 1),
    ("is stopped", "forward", 2, 0),
]


@pytest.mark.parametrize(("what", "place", "ranks", "victim"), FAULTS)
def test_all_ranks_are_over_within_seconds_and_name_the_one(what, place, ranks, victim):
    """One fails, is killed or stands still: the others end within 5 s (more on a busy machine), and say who, where, why."""
    rank_faults.check_end(what, place, ranks, victim)


def test_killed_ranks_are_restarted_and_the_bits_are_the_same(tmp_path):
    """kill -9 of either rank, twice: torchrun starts again, the run goes on by itself, and ends bit for bit."""
    script = HERE / "restarting.py"
    done = torchrun(script, str(tmp_path), options=("--max-restarts=3",), seconds=150)
    assert done.returncode == 0, done.stderr[-3000:]
    attempt, killed, whole = done.stdout.splitlines()[-3:]
    assert attempt == "attempt 2"
    assert killed.removeprefix("killed: ") == whole.removeprefix("whole: ")
    assert "Completed(epoch=2) after 40 steps" in whole
    assert "rank 1: it gives no sign of life" in done.stderr


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
