"""A run as the page shows it: the whole path that it took, and what is known along it.

A way of a million transitions is a number each, so all of it is sent. Times, counters and values
are thinned to some thousands of points.
"""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from attrs import Factory, define, field

from statetrain.contracts.notes import Notes
from statetrain.diagram.picture import transitions_of
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.transition import Transition
from statetrain.live.table import arrow_of, table_of
from statetrain.outcome import Failed, Outcome
from statetrain.trace.value import Trace
from statetrain.trace.words import Words, words_of

POINTS = 4000  # of times, counters and values, at most
SUMS = 200  # of times by arrow, which are a list each
MOST = 4_000_000  # transitions that are sent; earlier ones are counted

CurvePoint = list[Any]  # the number of the transition, and what is known there


@define(eq=False)
class KeptPoints:
    """Points along a run, thinned evenly while they become more.

    Attributes:
        most: half as many as are kept at most.
        kept: so many of them.
        every: one of so many is kept.
        seen: how many there were.
    """

    most: int = POINTS
    kept: list[CurvePoint] = Factory(list)
    every: int = 1
    seen: int = 0

    @property
    def is_next_kept(self) -> bool:
        """Whether the next point is one of those that are kept."""
        return self.seen % self.every == 0

    def add(self, point: CurvePoint) -> None:
        """Adds a point; every second one goes when there are too many."""
        if self.is_next_kept:
            self.kept.append(point)
        self.seen += 1
        if len(self.kept) > 2 * self.most:
            del self.kept[1::2]
            self.every *= 2

    def cut(self, last: int) -> None:
        """Leaves out the points beyond a transition."""
        self.kept = [point for point in self.kept if point[0] <= last]


@define(eq=False)
class Chronicle:
    """What the page knows of a run; it grows with the run.

    Attributes:
        life: the table.
        notes: about its states; see `table_of`.
        path: the numbers of the arrows taken, in the order of `table_of`.
        base: how many transitions came before the first of them.
        earlier: how often each arrow was taken before.
        clock: seconds since the run began, by transition.
        counters: epoch, batch, validation batch, step and samples, by transition.
        values: numbers such as the loss of a batch, by name and transition.
        spent: seconds from each arrow until the next one, by its number: in the state it leads to.
        sums: `spent` as it was along the run, by transition.
        reasons: by arrow: why its guard was true when it was taken last.
        rows: the history.
        about: what else is known: id, name, when it started, versions.
        outcome: how it ended; None if it has not.
        seconds: how long it took; None if that is not known.
        generation: changes when what was known before no longer counts.
    """

    life: Lifecycle
    notes: Notes | None = None
    path: array[int] = field(factory=lambda: array("H"))
    base: int = 0
    earlier: dict[int, int] = Factory(dict)
    clock: KeptPoints = Factory(KeptPoints)
    counters: KeptPoints = Factory(KeptPoints)
    values: dict[str, KeptPoints] = Factory(dict)
    spent: dict[int, float] = Factory(dict)
    sums: KeptPoints = field(factory=lambda: KeptPoints(SUMS))
    reasons: dict[int, str] = Factory(dict)
    rows: list[dict[str, Any]] = Factory(list)
    about: dict[str, Any] = Factory(dict)
    outcome: dict[str, str] | None = None
    seconds: float | None = None
    generation: int = 0
    table: dict[str, Any] = Factory(dict)
    extra: list[dict[str, Any]] = Factory(list)
    _numbers: dict[Words, int] = Factory(dict)

    def __attrs_post_init__(self) -> None:
        self.table = table_of(self.life, self.notes)
        for number, transition in enumerate(transitions_of(self.life)):
            self._numbers[words_of(transition)] = number

    @classmethod
    def of(cls, trace: Trace, notes: Notes | None = None) -> Chronicle:
        """That of a trace.

        Args:
            trace: one that knows its lifecycle.
            notes: about its states.
        """
        assert trace.lifecycle is not None
        made = cls(trace.lifecycle, notes, base=trace.dropped)
        made.about = {"id": str(trace.header.get("id", "")), **_facts(trace.header)}
        for arrow, times in trace.earlier.items():
            made.earlier[made.number_of(arrow)] = times
        known: dict[int, int] = {}  # by identity: comparing arrows is slow
        for arrow in trace.transitions:
            if id(arrow) not in known:
                known[id(arrow)] = made.number_of(arrow)
        made.path.extend(known[id(arrow)] for arrow in trace.transitions)
        made._add_times(trace)
        made._add_moments(trace)
        made.rows = [{"row": _plain(row), "at": 0} for row in trace.rows]
        made._place_rows()
        if trace.outcome is not None:
            made.outcome = words_of_outcome(trace.outcome, trace.error)
            made.seconds = None
            if trace.moments:
                made.seconds = trace.moments[-1].time
        return made

    def _add_times(self, trace: Trace) -> None:
        times = [moment.time for moment in trace.moments]
        for i, (number, (begin, end)) in enumerate(zip(self.path, pairwise(times), strict=False)):
            if begin is not None and end is not None:
                self.spend({number: max(0.0, end - begin)}, i + 2)

    def _add_moments(self, trace: Trace) -> None:
        counters: tuple[int | None, ...] = ()
        for i, moment in enumerate(trace.moments, 1):
            if moment.time is not None:
                self.clock.add([i, round(moment.time, 6)])
            if moment.epoch is not None and moment[1:6] != counters:
                counters = moment[1:6]
                self.counters.add([i, *counters])
            for name, value in moment.values.items():
                self.value(name, [i, value])
            for asked in moment.answers:
                if asked.answer and asked.reason:
                    self.reasons[self.number_of(asked.transition)] = asked.reason

    def _place_rows(self) -> None:
        """Says after which transition each row was there, as far as steps and epochs tell."""
        ends = [
            self.base + i
            for i, number in enumerate(self.path, 1)
            if self._arrow(number)["source"] in self._records()
        ]
        for entry, end in zip(reversed(self.rows), reversed(ends), strict=False):
            entry["at"] = end

    def _records(self) -> frozenset[str]:
        return frozenset(state.name for state in self.life.by_role("record"))

    def _arrow(self, number: int) -> dict[str, Any]:
        arrows: list[dict[str, Any]] = self.table["arrows"]
        if number < len(arrows):
            return arrows[number]
        return self.extra[number - len(arrows)]

    def number_of(self, arrow: Transition) -> int:
        """The number of an arrow; one that the table does not have gets the next one."""
        words = words_of(arrow)
        if words not in self._numbers:
            self._numbers[words] = len(self._numbers)
            self.extra.append(arrow_of(self.life, arrow))
        return self._numbers[words]

    def take(self, arrow: Transition, row_count: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds a transition of a run in this process.

        Args:
            arrow: that was taken.
            row_count: how many rows are known already.
            rows: the history.
        """
        self.path.append(self.number_of(arrow))
        for row in rows[row_count:]:
            self.rows.append({"row": _plain(row), "at": self.base + len(self.path)})

    def value(self, name: str, point: CurvePoint) -> None:
        """Adds a value, such as the loss of a batch."""
        self.values.setdefault(name, KeptPoints()).add(point)

    def spend(self, seconds: Mapping[int, float], place: int) -> None:
        """Adds time between some arrows and those that were taken next.

        Args:
            seconds: how long it took, by the number of the arrow.
            place: how many transitions had been taken then, the last of the next ones included.
        """
        for number, some in seconds.items():
            self.spent[number] = self.spent.get(number, 0.0) + some
        sums: list[list[float]] = []
        if self.sums.is_next_kept:
            sums = [[number, round(some, 6)] for number, some in self.spent.items()]
        self.sums.add([place, sums])

    def cut(self, count: int) -> None:
        """Goes back to when so many transitions were taken."""
        del self.path[max(0, count - self.base) :]
        for points in (self.clock, self.counters, self.sums, *self.values.values()):
            points.cut(len(self.path))
        self.spent = {}
        if self.sums.kept:
            self.spent = dict(self.sums.kept[-1][1])
        self.generation += 1

    # ------------------------------------------------------------ what is sent

    def record(self, since: int = 0, rows: int = 0) -> dict[str, Any]:
        """What the page does not know yet.

        Args:
            since: how many transitions it knows.
            rows: how many rows of the history it knows.

        Returns:
            Values for JSON. Points are by the number of the transition, counted from the beginning
            of the run.
        """
        begin = max(since - self.base, 0)
        first = max(begin, len(self.path) - MOST)
        path = self.path[first:]
        if sys.byteorder == "big":
            path.byteswap()
        earlier = dict(self.earlier)
        for number in self.path[begin:first]:
            earlier[number] = earlier.get(number, 0) + 1

        def points(known: KeptPoints) -> list[CurvePoint]:
            return [[p[0] + self.base, *p[1:]] for p in known.kept if p[0] > first]

        return {
            **self.about,
            "base": self.base + first - begin,
            "earlier": list(earlier.items()),
            "path": base64.b64encode(path.tobytes()).decode(),
            "extra": self.extra,
            "clock": points(self.clock),
            "counters": points(self.counters),
            "values": {name: points(known) for name, known in self.values.items()},
            "spent": list(self.spent.items()),
            "sums": points(self.sums),
            "reasons": self.reasons,
            "rows": self.rows[rows:],
            "outcome": self.outcome,
            "seconds": self.seconds,
            "generation": self.generation,
        }


def words_of_outcome(outcome: Outcome, error: str = "") -> dict[str, str]:
    """How a run ended, in a word, and why."""
    word = type(outcome).__name__.lower()
    if isinstance(outcome, Failed):
        first = ""
        if error:
            first = error.splitlines()[0]
        return {"word": word, "why": f"in {outcome.state!r}: {first}".rstrip(": ")}
    return {"word": word, "why": getattr(outcome, "reason", "") or getattr(outcome, "state", "")}


def _facts(header: Mapping[str, Any]) -> dict[str, Any]:
    return {name: header[name] for name in ("started", "versions", "run") if name in header}


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON has it: what is not finite, or not a number, is text."""
    plain: dict[str, Any] = {}
    for name, value in row.items():
        plain[str(name)] = value
        if not isinstance(value, bool | int | str) and value is not None:
            finite = isinstance(value, float) and value - value == 0.0
            plain[str(name)] = value if finite else f"{value!r:.80}"
    return plain
