"""One run per directory: a file that names the process, and is taken over if that has ended."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field

from statetrain import jsons
from statetrain.checkpoints import tensorfile
from statetrain.checkpoints.files import create, replace_file
from statetrain.errors import CheckpointError

FILE = "LOCK"
_PULSE = 30.0  # seconds between two signs of life
_GLANCE = 1.0  # seconds between two looks at who holds it
_LONGEST = 1 << 16  # bytes that are read
_SILENCE = 600.0  # seconds without one, after which a run elsewhere is taken for gone

log = logging.getLogger("statetrain")


@define(eq=False)
class Lock:
    """The right to write into a directory.

    It is held by a file that says who holds it, not by the operating system: the workers of a
    loader would inherit that, and outlive a process that was killed. A holder that is gone is
    recognised by its process id, start and boot; one on another machine, or in another container,
    by the ten minutes in which it has not touched the file.

    Args:
        folder: the directory; made if it is not there.
    """

    folder: Path
    # What the file says while this holds it; else empty
    _mark: dict[str, Any] = field(factory=dict, init=False)
    _touched: float = field(default=0.0, init=False)
    _looked: float = field(default=0.0, init=False)

    @property
    def held(self) -> bool:
        """Whether this has the directory. A forked child does not have what its parent holds."""
        return bool(self._mark) and self._mark["pid"] == os.getpid()

    @property
    def inherited(self) -> bool:
        """Whether the process that holds the directory forked this one."""
        return bool(self._mark) and not self.held

    def take(self) -> None:
        """Takes the directory; nothing happens if it is held already.

        Raises:
            CheckpointError: another run has it; the message names its process and machine.
            OSError: the directory cannot be written.
        """
        if self.held:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / FILE
        with _alone(self.folder):
            holder = _read(path)
            mark = {**_self(), "run": secrets.token_hex(8)}
            new = path.with_name(f"{FILE}.part")
            os.close(create(new))  # its time is the file system's, which may differ from ours
            silent = new.stat().st_mtime - _time_of(path)
            if holder and _is_there(holder, silent):
                new.unlink()
                raise CheckpointError(
                    f"{self.folder} is in use by process {holder.get('pid')} on"
                    f" {holder.get('host')}; give this run another directory, or end that one. If"
                    f" it is gone for certain, delete {path}"
                )
            if holder is not None:
                log.warning(
                    "the run of process %s in %s ended without releasing it; this one takes over",
                    holder.get("pid"),
                    self.folder,
                )
            replace_file(path, jsons.to_bytes(mark), new)
        self._mark = mark
        self._touched = self._looked = -math.inf

    def touch(self, now: float) -> None:
        """Gives a sign of life every 30 seconds, and looks every second whether it is still held.

        Args:
            now: seconds from any moment on.

        Raises:
            CheckpointError: another run has taken the directory, or it has been moved or emptied.
        """
        if not self.held:
            return
        pulse = now - self._touched >= _PULSE
        if not pulse and now - self._looked < _GLANCE:
            return
        self._looked = now
        self.check()
        if pulse:
            self._touched = now
            with contextlib.suppress(OSError):  # the next one may come through
                os.utime(self.folder / FILE)

    def check(self) -> None:
        """Makes sure that the directory is still this run's.

        Raises:
            CheckpointError: another run has taken it, or it has been moved or emptied; from then on
                this lock is not held.
        """
        if not self.held:
            return
        try:
            there = _read(self.folder / FILE)
        except OSError:  # a file system that is away for a moment; writing will tell
            return
        if there == self._mark:
            return
        self._mark = {}
        if there:
            raise CheckpointError(
                f"{self.folder} was taken over by process {there.get('pid')} on"
                f" {there.get('host')} while this run gave no sign of life; nothing more is written"
                " there"
            )
        raise CheckpointError(
            f"{self.folder / FILE} is gone: the directory was moved, emptied or replaced while the"
            " run was writing into it; nothing more is written there"
        )

    def give_back(self) -> None:
        """Releases the directory. A lock that another run has taken meanwhile is left."""
        if not self.held:
            return
        path, mark, self._mark = self.folder / FILE, self._mark, {}
        if _read(path) == mark:
            path.unlink(missing_ok=True)


def _time_of(path: Path) -> float:
    """When a file, or a link itself, was changed; long ago if it is not there."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return -math.inf


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While it is open, no other process looks at a lock of this directory.

    Otherwise two could take over one that is stale.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows, where a directory cannot be locked
        yield
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            # A file system without locks; two runs that start in the same millisecond may then both
            # believe to be alone
            pass
        yield
    finally:
        os.close(file)


def _self() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "pid": pid,
        "host": socket.gethostname(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "start": _start(pid),
    }


def _is_there(holder: dict[str, Any], silent: float) -> bool:
    """Whether the process that a lock names may still run, so many seconds after a sign of life."""
    own, pid = _self(), holder.get("pid")
    if holder.get("host") != own["host"] or os.name != "posix":
        return silent < _SILENCE
    if holder.get("boot") != own["boot"] or type(pid) is not int:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's; it is there
    return bool(_start(pid) == holder.get("start"))  # else the number was given to another process


def _start(pid: int) -> str:
    """When a process started, as the system counts; empty where that is unknown.

    It is "gone" for one that has ended and waits for its parent only.
    """
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 20:
        return ""
    if fields[0] in "ZX":
        return "gone"
    return fields[19]


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def _read(path: Path) -> dict[str, Any] | None:
    """What a lock says; None if there is none.

    One that cannot be read was cut short, so its writer is gone: it is empty. So is a link or a
    pipe, which no run has made.
    """
    try:
        with tensorfile.open_file(path) as file:
            data = jsons.loads(file.read(_LONGEST))
    except FileNotFoundError:
        return None
    except (ValueError, CheckpointError):
        return {}
    except OSError:
        if path.is_symlink():
            return {}
        raise
    if isinstance(data, dict):
        return data
    return {}
