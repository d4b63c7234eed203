"""A case of a suite: what is done to a run, and whether it comes out as promised."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from attrs import frozen


@frozen
class Case:
    """One thing that may happen.

    Attributes:
        name: says it all; two cases of one name are one case.
        check: does it, and raises if what was promised does not hold. What it returns is counted.
    """

    name: str
    check: Callable[[], object]


def sampled(cases: Sequence[Case], count: int, seed: int = 0) -> list[Case]:
    """Some of the cases, the same ones each time."""
    return random.Random(seed).sample(cases, min(count, len(cases)))


def check(cases: Sequence[Case]) -> list[str]:
    """Checks cases one after the other; what is wrong with which."""
    wrong = []
    for case in cases:
        try:
            case.check()
        except BaseException as error:
            wrong.append(f"{case.name}: {type(error).__name__}: {error}")
    return wrong


def refused(work: Callable[[], object], *kinds: type[BaseException]) -> str:
    """Does something that has to be refused; what the error says, with its notes.

    Raises:
        AssertionError: it was not refused.
    """
    try:
        work()
    except kinds as error:
        return "\n".join([str(error), *getattr(error, "__notes__", ())])
    raise AssertionError("it was not noticed")


def scratch_place() -> str | None:
    """Where files are kept that only a process needs: in memory where there is a file system for it."""
    return tempfile.tempdir or ("/dev/shm" if os.path.isdir("/dev/shm") else None)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory that is removed afterwards."""
    with tempfile.TemporaryDirectory(dir=scratch_place()) as folder:
        yield Path(folder)


@contextlib.contextmanager
def listening(logger: str = "statetrain") -> Iterator[list[str]]:
    """While it is open, gathers what is logged, in place of printing it."""
    said: list[str] = []

    class Gather(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    log, handler = logging.getLogger(logger), Gather()
    before, level = log.propagate, log.level
    log.setLevel(logging.WARNING)
    log.addHandler(handler)
    log.propagate = False
    try:
        yield said
    finally:
        log.propagate = before
        log.setLevel(level)
        log.removeHandler(handler)
