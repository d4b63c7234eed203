"""One run per directory."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from statetrain.checkpoints.lock import FILE, Lock
from statetrain.errors import CheckpointError

HOLD = """
import sys, pathlib
from statetrain.checkpoints.lock import Lock
Lock(pathlib.Path(sys.argv[1])).take()
print("held", flush=True)
sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that has a directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_with_the_first_ones_process_and_machine(
    tmp_path: Path, caplog: Any
) -> None:
    """While it runs; once it is killed, its lock is taken over, with a word."""
    with holder(tmp_path / "run") as process:
        with pytest.raises(
            CheckpointError,
            match=rf"in use by process {process.pid} on .*; give this run another directory",
        ):
            Lock(tmp_path / "run").take()
        process.send_signal(signal.SIGKILL)
        process.wait()
        lock = Lock(tmp_path / "run")
        with caplog.at_level(logging.WARNING, "statetrain"):
            lock.take()
        assert f"process {process.pid}" in caplog.text
        assert json.loads((tmp_path / "run" / FILE).read_text())["pid"] == os.getpid()
    lock.give_back()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_killed_process_that_nobody_waited_for_is_gone(tmp_path: Path) -> None:
    """A zombie holds no directory."""
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        Lock(tmp_path).take()


def test_two_runs_of_one_process_are_two_runs(tmp_path: Path) -> None:
    """The same process is refused while it has the directory, and has it again after giving it back."""
    first, second = Lock(tmp_path), Lock(tmp_path)
    first.take()
    first.take()
    with pytest.raises(CheckpointError, match=f"process {os.getpid()}"):
        second.take()
    second.give_back()
    assert (tmp_path / FILE).exists()
    first.give_back()
    second.take()
    assert second.held


@pytest.mark.parametrize(
    ("change", "silent"),
    [
        ({"host": "elsewhere"}, 601),
        ({"boot": "earlier"}, 0),
        ({"start": "1"}, 0),
        ({"pid": 2**22 + 1}, 0),
    ],
    ids=str,
)
def test_a_holder_that_is_gone_is_recognised(
    change: dict[str, Any], silent: float, tmp_path: Path
) -> None:
    """By its boot, its start, its number; on another machine by ten minutes of silence."""
    lock = Lock(tmp_path)
    lock.take()
    path = tmp_path / FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    now = path.stat().st_mtime
    if silent:
        os.utime(path, (now, now - silent + 60))
        with pytest.raises(CheckpointError, match="on elsewhere"):
            Lock(tmp_path).take()
        os.utime(path, (now, now - silent))
    Lock(tmp_path).take()
    lock.give_back()
    assert path.exists(), "the lock of the one that took over is left"


def test_signs_of_life_come_at_most_every_30_seconds(tmp_path: Path) -> None:
    """The file is touched when that much time has passed on the run's clock, and only by the one that holds it."""
    lock, path = Lock(tmp_path), tmp_path / FILE
    lock.take()
    touched = []
    for now in (100.0, 129.9, 130.0, 200.0):
        os.utime(path, (0, 0))
        lock.touch(now)
        touched.append(path.stat().st_mtime > 0)
    assert touched == [True, False, True, True]
    lock.give_back()
    lock.touch(1000.0)
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_a_lock_that_cannot_be_read_is_stale(text: str, tmp_path: Path) -> None:
    """It was cut short by a power loss, so its writer is gone."""
    (tmp_path / FILE).write_text(text)
    Lock(tmp_path).take()
    assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("kind", ["part", "lock"])
def test_no_link_is_written_through(kind: str, tmp_path: Path) -> None:
    """A directory from elsewhere may have links in it: what they lead to stays as it is."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / (FILE if kind == "lock" else f"{FILE}.part")).symlink_to(victim)
    lock = Lock(tmp_path / "run")
    lock.take()
    lock.touch(0.0)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "run" / FILE).is_symlink()
    lock.give_back()
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("what", ["taken over", "emptied", "moved"])
def test_a_lost_lock_is_noticed(what: str, tmp_path: Path) -> None:
    """A second later at the latest; from then on nothing is held, and the new owner's lock stays."""
    lock, path = Lock(tmp_path / "run"), tmp_path / "run" / FILE
    lock.take()
    lock.touch(100.0)
    if what == "taken over":
        path.write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    elif what == "emptied":
        path.unlink()
    else:
        path.parent.rename(tmp_path / "archive")
    lock.touch(100.9)
    expected = "taken over by process 1 on elsewhere" if what == "taken over" else "LOCK is gone"
    with pytest.raises(CheckpointError, match=expected):
        lock.touch(101.0)
    assert not lock.held
    lock.give_back()
    assert path.exists() == (what == "taken over")


def test_a_forked_child_does_not_hold_what_its_parent_does(tmp_path: Path) -> None:
    """A child that unwinds gives nothing back: the parent still has the directory."""
    lock = Lock(tmp_path)
    lock.take()
    child = os.fork()
    if child == 0:
        lock.give_back()
        os._exit(int(lock.held) + 2 * int(not lock.inherited))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert lock.held
    assert (tmp_path / FILE).exists()
