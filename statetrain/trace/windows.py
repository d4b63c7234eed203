"""Two traces in files, side by side, of which a part at a time is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from attrs import Factory, define

from statetrain.trace.reading import TraceFile, load
from statetrain.trace.value import Trace

_PART = 20_000  # transitions that are read of each before they are compared
_KEPT = 16  # of those before and after, so that a difference has something around it
_HEADER = b'{"statetrain"'


def windows(first: Path, second: Path) -> Iterator[tuple[Trace, Trace, bool]]:
    """The same part of both, one after the other, and whether it is the last one.

    Args:
        first: a trace file.
        second: another one.

    Raises:
        TraceError: one is not a trace, or it is broken.
        OSError: one cannot be read.
    """
    if _is_resumed(first) or _is_resumed(second):
        # What is in such a file may be taken back further on
        yield load(first), load(second), True
        return
    with first.open("rb") as one, second.open("rb") as other:
        a, b = _Stretch(one, TraceFile(str(first))), _Stretch(other, TraceFile(str(second)))
        end = 0
        while True:
            end += _PART
            a.read_to(end)
            b.read_to(end)
            done = _is_over(a, b) or _is_over(b, a)
            yield a.reading.trace, b.reading.trace, done
            if done:
                return
            both = min(a.reading.tape.count, b.reading.tape.count)
            a.reading.tape.release(both - _KEPT)
            b.reading.tape.release(both - _KEPT)


def _is_over(one: _Stretch, other: _Stretch) -> bool:
    """Whether one is at its end, and the other one too or certainly longer."""
    longer = other.reading.tape.count > one.reading.tape.count + _KEPT
    return one.is_done and (other.is_done or longer)


@define(eq=False)
class _Stretch:
    """A file that is read as far as is needed."""

    file: BinaryIO
    reading: TraceFile
    is_done: bool = False
    _lines: Iterator[bytes] = Factory(lambda self: iter(self.file), takes_self=True)

    def read_to(self, count: int) -> None:
        """Reads until so many transitions are known, or all."""
        while not self.is_done and self.reading.tape.count < count:
            line = next(self._lines, None)
            if line is None:
                self.is_done = True
            else:
                self.reading.feed(line)


def _is_resumed(path: Path) -> bool:
    """Whether there is more than one header."""
    with path.open("rb") as file:
        return sum(line.startswith(_HEADER) for line in file) > 1
