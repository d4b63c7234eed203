"""Reading traces from files; `statetrain.trace.writing` describes the format."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import attrs
from attrs import Factory, define

from statetrain import jsons
from statetrain.errors import TraceError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.transition import Transition
from statetrain.machine.asking import Asked
from statetrain.outcome import Failed, Outcome, from_data
from statetrain.trace.tape import COUNTERS, UNCOUNTED, KnownFacts, Tape, TapeRow
from statetrain.trace.value import Trace
from statetrain.trace.words import Words, make_by_words, make_from, read_words, stand_in, words_of
from statetrain.trace.writing import FORMAT
from statetrain.validators import is_number, local_path

BEGIN = b'{"statetrain":"trace"'
"""What every trace file begins with."""
_BLOCK = 1 << 20  # bytes that are read from the end at first
_BEFORE = 64  # transitions before the last ones, so that their counters are known


def load(
    path: str | Path, lifecycle: Lifecycle | None = None, registry: Mapping[str, Any] | None = None
) -> Trace:
    """The trace in a file.

    Args:
        path: the file.
        lifecycle: the table that it was recorded with, if available: arrows that are alike in
            words become its own.
        registry: functions, guards and classes by name, for the lifecycle in the file, as for
            `Lifecycle.from_dict`. What cannot be made of them is made of words: it can be looked
            at, not run.

    Raises:
        TraceError: it is not a trace, or it is broken; the message says in which line.
        OSError: it cannot be read.
    """
    reading = TraceFile(str(path), lifecycle=lifecycle, registry=registry)
    with local_path("Trace.load", path).open("rb") as file:
        for line in file:
            reading.feed(line)
    return reading.trace


def load_end(path: str | Path, last: int) -> Trace:
    """The last transitions of a trace in a file, which is read from its end.

    Counts of earlier transitions and the history are not known then.

    Args:
        path: the file.
        last: how many transitions; of a shorter run, all.

    Raises:
        TraceError: it is not a trace, or it is broken; the message says in which line.
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        reading = TraceFile(str(path))
        reading.feed(file.readline())
        lines = _last_lines(file, last)
    for line in lines:
        if not reading.tape.count:
            reading.skip_to(line)
        reading.feed(line)
    return reading.trace.tail(last)


def _last_lines(file: BinaryIO, last: int) -> list[bytes]:
    """The lines after the header that have so many transitions, and some for counters before."""
    begin = file.tell()
    end = file.seek(0, os.SEEK_END)
    block = _BLOCK
    while True:
        start = max(begin, end - block)
        file.seek(start)
        if start > begin:
            file.readline()  # a part of a line
        lines = file.readlines()
        found = sum(line.count(b",", 0, line.find(b"]")) + 1 for line in lines if _has_taken(line))
        # A header in between says that a run was resumed, which only a whole reading understands
        if start == begin or (found >= last + _BEFORE and not any(map(_is_header, lines))):
            return lines
        block *= 4


def _has_taken(line: bytes) -> bool:
    return line.startswith(b'{"taken"')


def _is_header(line: bytes) -> bool:
    return line.startswith(BEGIN)


@define(eq=False)
class TraceFile:
    """A trace that is being read, line by line, as from a file that grows.

    Attributes:
        name: of the file, for errors.
        tape: the transitions so far.
        header: the last header.
        rows: the history so far.
        outcome: how the run ended, if it has.
        error: the exception that it failed with, as text.
        length: batches in an epoch, if it is known.
        table: the lifecycle; made of words, if no more is known of it.
        seconds: how long the run took, if it has ended.
        waited: the seconds of each rank in each meeting; empty in one process.
    """

    name: str
    lifecycle: Lifecycle | None = None
    registry: Mapping[str, Any] | None = None
    tape: Tape = Factory(Tape)
    header: dict[str, Any] = Factory(dict)
    outcome: Outcome | None = None
    error: str = ""
    length: int | None = None
    seconds: float | None = None
    waited: tuple[dict[str, float], ...] = ()
    lines: int = 0
    remarks: list[str] = Factory(list)
    table: Lifecycle | None = None
    _arrows: list[Transition] = Factory(list)
    _rows: list[tuple[int, int, TapeRow]] = Factory(list)
    _counters: tuple[int, ...] | None = None

    def feed(self, line: bytes) -> bool:
        """Reads a line.

        Returns:
            Whether it counts: one without its end does not.

        Raises:
            TraceError: it is not a line of a trace.
        """
        if not line.endswith(b"\n"):
            if not self.header and not BEGIN.startswith(line[: len(BEGIN)]):
                raise TraceError(
                    f"{self.name} is not a trace of statetrain: it begins with {line[:40]!r}"
                )
            self.remarks.append("the last line was cut off, and is left out")
            return False
        self.lines += 1
        try:
            record = jsons.loads(line)
            if not isinstance(record, dict):
                raise TypeError(f"a record is an object, got {type(record).__name__}")
            if not self.header and record.get("statetrain") != "trace":
                raise TypeError("the first line is not a header")
            self._take(record)
        except TraceError:
            raise
        except (
            ValueError,
            TypeError,
            LookupError,
            OverflowError,
            AttributeError,
        ) as error:
            if not self.header:
                raise TraceError(
                    f"{self.name} is not a trace of statetrain: it begins with {line[:40]!r}"
                ) from error
            raise TraceError(
                f"{self.name}, line {self.lines}: no record of a trace: {error} in {line[:60]!r}"
            ) from error
        return True

    def skip_to(self, line: bytes) -> None:
        """Takes what came before a line of transitions as not kept; other lines change nothing."""
        if _has_taken(line) and line.endswith(b"\n"):
            at = jsons.loads(line)["at"]
            if isinstance(at, int) and at >= 0:
                self.tape.folded = at

    @property
    def rows(self) -> list[TapeRow]:
        """The history."""
        return list({n: row for n, _, row in self._rows}.values())

    @property
    def placed_rows(self) -> list[dict[str, Any]]:
        """The history, each row with the number of transitions after which it was recorded."""
        return list({n: {"row": row, "at": at} for n, at, row in self._rows}.values())

    @property
    def arrows(self) -> list[Transition]:
        """The arrows in the order in which records refer to them."""
        return self._arrows

    @property
    def states(self) -> list[tuple[str, str | None]]:
        """The names of the states, each with the scope that it lies in."""
        return [(str(row[0]), row[2]) for row in self.header.get("states", ())]

    @property
    def trace(self) -> Trace:
        """What was read so far.

        Raises:
            TraceError: not even a header was.
        """
        if not self.header:
            raise TraceError(
                f"{self.name} is not a trace of statetrain:"
                f" {'it is empty' if not self.remarks else 'its header was cut off'}"
            )
        taken, moments, dropped, earlier = self.tape.kept()
        return Trace(
            taken,
            dropped,
            self.table,
            moments=moments,
            rows=self.rows,
            outcome=self.outcome,
            error=self.error,
            earlier=earlier,
            header=self.header,
            waited=self.waited,
            remarks=tuple(self.remarks),
        )

    # ------------------------------------------------------------ records

    def _take(self, record: dict[str, Any]) -> None:
        if "statetrain" in record:
            self._head(record)
        elif "taken" in record:
            self._taken(record)
        elif "row" in record:
            row = {str(name): _parse(value) for name, value in _mapping(record["row"]).items()}
            self._rows.append((_whole(record["n"]), _whole(record["at"]), row))
        elif "waited" in record:
            self.waited = tuple(
                {str(word): _real(spent) for word, spent in _mapping(one).items()}
                for one in record["waited"]
            )
        elif "outcome" in record:
            self._ended(record)
        # What a later version of this format adds is left aside.

    def _head(self, header: dict[str, Any]) -> None:
        if header.get("format") != FORMAT:
            raise TraceError(
                f"{self.name} is written in format {header.get('format')!r:.20}; this version of"
                f" statetrain reads {FORMAT}"
            )
        if "resumed" in header:
            self._go_back(_whole(header["resumed"]))
        self.outcome, self.error, self.seconds, self._counters = None, "", None, None
        self._read_table(header)
        guards = header["guards"]
        if not isinstance(guards, list) or not all(isinstance(guard, str) for guard in guards):
            raise TypeError("guards are names")
        self.header = header

    def _read_table(self, header: dict[str, Any]) -> None:
        words = [read_words(row) for row in header["arrows"]]
        life = self.lifecycle or make_from(header.get("lifecycle"), words, self.registry)
        known: dict[Words, Transition] = {}
        if life is not None:
            known = {words_of(arrow): arrow for arrow in (life.start, *life.transitions)}
        self._arrows = [known.get(row) or stand_in(row) for row in words]
        self.table = life or make_by_words(header, self._arrows)

    def _go_back(self, count: int) -> None:
        """Forgets what an earlier process did after so many transitions."""
        lost = self.tape.count - count
        if self.header and lost > 0:
            self.remarks.append(
                f"the run went on after {count} transitions; {lost} that came after them were"
                " lost with an earlier process"
            )
        self.tape.cut(count)
        self._rows = [entry for entry in self._rows if entry[1] <= count]

    def _taken(self, record: dict[str, Any]) -> None:
        arrows = [self.arrow_of(n) for n in record["taken"]]
        if _whole(record["at"]) != self.tape.count:
            raise ValueError(
                f"{self.tape.count} transitions came before it, and it says {record['at']}"
            )
        if isinstance(record.get("of"), int):
            self.length = record["of"]
        begin = len(self.tape.taken)
        self.tape.taken += arrows
        self.tape.moments += self._moments(record, len(arrows))
        if self.tape.moments and len(self.tape.moments) != begin + len(arrows):
            raise ValueError("some transitions have times or counters, and some have none")
        self.tape.fold()

    def _moments(self, record: dict[str, Any], count: int) -> Iterator[KnownFacts]:
        if self._counters is None and not any(
            key in record for key in ("time", "counters", "answers", "values")
        ):
            return
        times = _times(record.get("time"), count)
        counters = {_whole(row[0]): _counts(row[1:]) for row in record.get("counters", ())}
        values = {
            _whole(i): {str(name): _real(value) for name, value in _mapping(found).items()}
            for i, found in record.get("values", ())
        }
        answers = self._answers(record.get("answers", ()))
        counts = self._counters or UNCOUNTED
        for i, now in enumerate(times):
            if i in counters:
                counts = self._counters = counters[i]
            yield now, *counts, answers.get(i), values.get(i)

    def _answers(self, written: Iterable[Any]) -> dict[int, list[Asked]]:
        """What parts of guards answered, by the place of the transition."""
        answers: dict[int, list[Asked]] = {}
        for i, arrow, guard, answer, *reason in written:
            label = guard
            if not isinstance(guard, str):
                label = self.header["guards"][_whole(guard)]
            asked = Asked(self.arrow_of(arrow), label, bool(answer), str(*reason))
            answers.setdefault(_whole(i), []).append(asked)
        return answers

    def arrow_of(self, written: Any) -> Transition:
        """The arrow that a record means, by its number or as text."""
        if isinstance(written, list):
            return stand_in(read_words(written))
        return self._arrows[_whole(written)]

    def _ended(self, record: dict[str, Any]) -> None:
        self.seconds = _real(record.get("seconds", 0.0))
        if record["outcome"] is None:
            return
        about = _mapping(record["outcome"])
        _whole(about.get("epoch", 0))
        self.outcome = from_data(about)
        if isinstance(self.outcome, Failed):
            self.error = str(about.get("error", ""))
            self.outcome = attrs.evolve(self.outcome, error=None)


def _times(steps: Any, count: int) -> list[float] | list[None]:
    """Seconds since the run began, from microseconds since the transition before."""
    if steps is None:
        return [None] * count
    if len(steps) != count:
        raise ValueError(f"{count} transitions have {len(steps)} times")
    if not all(type(step) is int for step in steps):
        raise TypeError("times are whole numbers of microseconds")
    return [clock / 1e6 for clock in accumulate(steps)]


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"a whole number is expected, got {value!r:.40}")
    return value


def _counts(values: list[Any]) -> tuple[int, ...]:
    if len(values) != len(COUNTERS):
        raise ValueError(f"there are {len(COUNTERS)} counters, got {len(values)}")
    return tuple(map(_whole, values))


def _parse(value: Any) -> Any:
    """A value as JSON has it, where text may be a number that JSON cannot express."""
    if isinstance(value, str):
        return jsons.NUMBERS.get(value, value)
    return value


def _real(value: Any) -> float:
    value = _parse(value)
    if not is_number(value):
        raise TypeError(f"a number is expected, got {value!r:.40}")
    return value


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"an object is expected, got {value!r:.40}")
    return value


def find(path: str | Path) -> Path:
    """The trace file that a path means: itself, or in a directory the one that was written last.

    Raises:
        TraceError: there is none in the directory.
        FileNotFoundError: there is no such path.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or directory {str(path)!r}")
    if not path.is_dir():
        return path
    found = [file for file in path.rglob("*.jsonl") if file.is_file() and _is_trace(file)]
    if not found:
        raise TraceError(
            f"there is no trace in {str(path)!r}; write one with fit(...,"
            f" trace={str(path / 'trace.jsonl')!r})"
        )
    return max(found, key=lambda file: file.stat().st_mtime)


def _is_trace(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(BEGIN)) == BEGIN
    except OSError:
        return False
