"""A disk that dies: at any call, with or without what had not been flushed to it."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from typing import Any


class Died(BaseException):
    """The process was killed, or the power went: nothing that comes later has an effect, clean-ups included."""


class Disk:
    """Stands in for the module `os`: counts the calls that change something, and dies at one of them.

    Args:
        dies_at: the call before which it dies, from 0; None for never.
        error: what each call from that one on raises; `Died`, or an `OSError` for a disk that is
            only full: then calls that make room work.
    """

    CHANGING = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")

    def __init__(self, dies_at: int | None = None, error: BaseException | None = None) -> None:
        self.calls: list[str] = []
        self._dies_at, self._error = dies_at, error or Died()
        # By the inode that has to be flushed to make it last
        self._undo: list[tuple[int, Callable[[], object]]] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in (*self.CHANGING, "close", "scandir", "listdir"):
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            if (
                name != "open" or args[1] & os.O_CREAT or not isinstance(self._error, OSError)
            ):  # a full disk can be read
                self._maybe_die(name)
            before = self._before(name, args)
            # What counts as flushed is kept below
            result = real(*args, **kwargs) if name != "fsync" else None
            self._after(name, args, result, before)
            return result

        return call

    def _maybe_die(self, name: str) -> None:
        full = isinstance(self._error, OSError)
        counted = name in (("write", "fsync", "mkdir", "open") if full else self.CHANGING)
        if self._dies_at is not None and len(self.calls) >= self._dies_at and (counted or not full):
            raise self._error
        if name in self.CHANGING:
            self.calls.append(name)

    def _before(self, name: str, args: tuple[Any, ...]) -> Any:
        return os.path.exists(args[0]) if name == "open" else None

    def _after(self, name: str, args: tuple[Any, ...], result: Any, existed: Any) -> None:
        path = str(args[0])
        if name == "open" and not existed:
            self._undo.append((_around(path), lambda: os.unlink(path)))
        elif name == "write":
            file = os.dup(args[0])  # the file itself, whatever it is called by then
            size = os.fstat(file).st_size - result
            self._undo.append((os.fstat(file).st_ino, lambda: os.ftruncate(file, size)))
        elif name == "fsync":
            flushed = os.fstat(args[0]).st_ino
            self._undo = [(inode, undo) for inode, undo in self._undo if inode != flushed]
        elif name in ("rename", "replace"):
            new = str(args[1])
            self._undo.append((_around(new), lambda: os.rename(new, path)))
        elif name == "mkdir":
            self._undo.append((_around(path), lambda: shutil.rmtree(path)))
        # What is deleted may come back after the power has gone; that it may not is the harder
        # case, and is what happens.

    def lose_power(self, seed: int | None = None) -> None:
        """Takes back what was never flushed, the latest first, as far as it can still be found.

        Args:
            seed: draws what has been written nevertheless, since a disk keeps no order; None loses
                all of it.
        """
        draw = random.Random(seed)
        for _, undo in reversed(self._undo):
            if seed is not None and draw.random() < 0.5:
                continue
            try:
                undo()
            except OSError:
                pass  # it lies in a directory that is gone, or has been deleted since
        self._undo.clear()


def _around(path: str) -> int:
    return os.stat(os.path.dirname(path)).st_ino
