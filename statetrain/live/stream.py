"""The lines of a trace file as a chronicle, without an object for each transition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from attrs import Factory, define

from statetrain import jsons
from statetrain.errors import TraceError
from statetrain.live.chronicle import Chronicle, words_of_outcome
from statetrain.trace.reading import TraceFile


@define(eq=False)
class LiveStream:
    """What a trace file says, line by line.

    Headers, rows and outcomes are read as everywhere; transitions, of which there may be millions,
    are taken as the numbers that they are in the file.

    Attributes:
        name: of the file, for errors.
    """

    name: str
    _chronicle: Chronicle | None = None
    _reading: TraceFile | None = None
    _numbers: list[int] = Factory(list)  # of the chronicle, by number in the file
    _time: int = 0  # microseconds since the run began
    _count: int = 0
    _is_behind: bool = False  # whether there are rows that the chronicle does not have

    @property
    def chronicle(self) -> Chronicle | None:
        """The run as far as it was read."""
        if self._is_behind and self._chronicle is not None and self._reading is not None:
            self._chronicle.rows = self._reading.placed_rows
            self._is_behind = False
        return self._chronicle

    @property
    def header(self) -> dict[str, Any]:
        """The last header; empty before there is one."""
        if self._reading is not None:
            return self._reading.header
        return {}

    def feed(self, line: bytes) -> bool:
        """Reads a line; returns whether it counts, which one without its end does not.

        Raises:
            TraceError: it is not a line of a trace.
        """
        if self._reading is None:
            self._reading = TraceFile(self.name)
        if not line.startswith(b'{"taken"') or self._chronicle is None:
            return self._feed_other(line)
        if not line.endswith(b"\n"):
            return False
        try:
            self._take(jsons.loads(line))
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            raise TraceError(
                f"{self.name}: not a record of a trace: {error} in {line[:60]!r}"
            ) from error
        return True

    def _feed_other(self, line: bytes) -> bool:
        reading = self._reading
        assert reading is not None
        header, reading.tape.folded = reading.header, self._count
        if not reading.feed(line):
            return False
        if reading.header is not header:
            self._begin(reading)
        elif self._chronicle is not None:
            self._update(self._chronicle, reading)
        return True

    def _begin(self, reading: TraceFile) -> None:
        """Starts a chronicle, or goes back in the one of a run that was resumed."""
        if reading.table is None:
            raise TraceError(f"{self.name}: its header does not describe a lifecycle")
        resumed, known = reading.header.get("resumed"), self._chronicle
        self._count = resumed or 0
        if known is None or resumed is None or reading.table.names != known.life.names:
            generation = 0
            if known is not None:
                generation = known.generation + 1
            notes = reading.header.get("notes")
            known = Chronicle(reading.table, notes, base=self._count, generation=generation)
        else:
            known.cut(self._count)
        known.about = {
            "id": str(reading.header.get("id", "")),
            "name": known.life.name,
            **{k: reading.header[k] for k in ("started", "versions", "run") if k in reading.header},
        }
        self._chronicle = known
        self._numbers = [known.number_of(arrow) for arrow in reading.arrows]
        self._time = 0
        self._update(known, reading)

    def _update(self, chronicle: Chronicle, reading: TraceFile) -> None:
        self._is_behind = True
        chronicle.outcome = None
        if reading.outcome is not None:
            chronicle.outcome = words_of_outcome(reading.outcome, reading.error)
        chronicle.seconds = reading.seconds

    def _take(self, record: dict[str, Any]) -> None:
        chronicle = self._chronicle
        assert chronicle is not None
        if record["at"] != self._count:
            raise ValueError(
                f"{self._count} transitions came before it, and it says {record['at']}"
            )
        begin = len(chronicle.path)
        numbers = self._numbers_of(chronicle, record["taken"])
        times = record.get("time")
        if times is not None:
            self._add_times(chronicle, numbers, times)
        for i, *counts in _some(record.get("counters", [])):
            chronicle.counters.add([begin + i + 1, *counts])
        for i, found in _some(record.get("values", [])):
            for name, value in found.items():
                chronicle.value(name, [begin + i + 1, value])
        for _, number, _, answer, *reason in record.get("answers", ()):
            if answer and reason and type(number) is int:
                chronicle.reasons[self._numbers[number]] = str(reason[0])
        chronicle.path.extend(numbers)
        self._count += len(numbers)

    def _numbers_of(self, chronicle: Chronicle, taken: list[Any]) -> list[int]:
        """The numbers that the chronicle has for the arrows of a record."""
        try:
            return list(map(self._numbers.__getitem__, taken))
        except TypeError:  # one is not in the table, and stands there in words
            assert self._reading is not None
            return [chronicle.number_of(self._reading.arrow_of(one)) for one in taken]

    def _add_times(self, chronicle: Chronicle, numbers: list[int], times: list[int]) -> None:
        if len(times) != len(numbers):
            raise ValueError(f"{len(numbers)} transitions have {len(times)} times")
        clock = list(accumulate(times))  # the first time of a record is since the run began
        begin = len(chronicle.path)
        for i in _some(range(len(clock))):
            chronicle.clock.add([begin + i + 1, clock[i] / 1e6])
        before = chronicle.path[-1:].tolist() or numbers[:1]
        passed = [max(0, times[0] - self._time) if chronicle.path else 0, *times[1:]]
        spending = list(zip([*before, *numbers[:-1]], passed, strict=True))
        for chunk in _chunks(len(spending)):
            self._spend(chronicle, spending[chunk], begin + chunk.stop)
        self._time = clock[-1]

    def _spend(self, chronicle: Chronicle, spending: Sequence[tuple[int, int]], place: int) -> None:
        """Adds up what some transitions took, of which there may be many."""
        spent: dict[int, float] = {}
        for number, microseconds in spending:
            spent[number] = spent.get(number, 0.0) + microseconds / 1e6
        chronicle.spend(spent, place)


def _chunks(length: int) -> Iterator[slice]:
    """Parts of a line, of which each is added up as one."""
    size = max(1, length // 16)
    for begin in range(0, length, size):
        yield slice(begin, min(begin + size, length))


def _some(points: Sequence[Any]) -> Sequence[Any]:
    """A part of what a line has, where it has more than can be told apart."""
    return points[:: max(1, len(points) // 64)]
