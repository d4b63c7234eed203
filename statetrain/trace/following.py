"""Reads a trace file while it grows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from attrs import define

from statetrain.trace.reading import BEGIN, TraceFile, find
from statetrain.trace.tape import Tape

_FOLLOWED = 20_000  # transitions that are kept
_LONGEST_HEADER = 1 << 20  # of what is compared to see whether it is still the same file


class Reader(Protocol):
    """What a trace file is read into, line by line."""

    @property
    def header(self) -> Mapping[str, Any]:
        """The last header; empty before there is one."""

    def feed(self, line: bytes) -> bool:
        """Reads a line; returns whether it counts."""


R = TypeVar("R", bound=Reader)


def _keep_the_last(name: str) -> TraceFile:
    return TraceFile(name, tape=Tape(_FOLLOWED))


@define(eq=False)
class Following(Generic[R]):
    """A trace file that is read as it grows. It only reads.

    It may be cut short, replaced by the file of another run, or not be there for a moment: it is
    read again from the beginning then.

    Attributes:
        path: a file, or a directory in which the newest is meant.
        make: what the file is read into, by its name; usually a `TraceFile` of the last 20,000
            transitions.
        reading: what was read so far; None before there is anything.
        file: which file it is; None before there is one.
    """

    path: Path
    make: Callable[[str], R] = _keep_the_last  # type: ignore[assignment]  # R is TraceFile then
    reading: R | None = None
    file: Path | None = None
    _identity: tuple[int, int, bytes] | None = None
    _offset: int = 0  # of the end of the last whole line

    def poll(self) -> bool:
        """Reads what is new.

        Returns:
            Whether there was anything.

        Raises:
            TraceError: it is not a trace, or it is broken.
            OSError: it cannot be read.
        """
        file = find(self.path)
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            begin = opened.readline(_LONGEST_HEADER)
            identity = (status.st_dev, status.st_ino, begin)
            if identity != self._identity or status.st_size < self._offset or self.reading is None:
                self.reading, self.file = self.make(str(file)), file
                self._identity, self._offset = identity, 0
            opened.seek(self._offset)
            seen = False
            for line in opened:
                if not line.endswith(b"\n"):
                    if not self.reading.header and not BEGIN.startswith(line[: len(BEGIN)]):
                        self.reading.feed(line)  # says that it is not a trace
                    break
                self._offset += len(line)
                seen = self.reading.feed(line) or seen
            return seen
