"""Where two runs part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from attrs import frozen

from statetrain.errors import ConfigError
from statetrain.outcome import Failed, Outcome
from statetrain.trace.tape import COUNTERS, Moment, TapeRow
from statetrain.trace.value import Trace
from statetrain.trace.windows import windows
from statetrain.trace.words import words_of

DifferenceKind = Literal["transition", "answer", "value", "row", "outcome"]
_BEFORE, _AFTER = 4, 2  # transitions shown around a difference
_TIMES = "seconds"  # columns of rows that begin so are never equal


@frozen(repr=False)
class Difference:
    """The first difference between two runs; `print` it.

    Attributes:
        kind: "transition", "answer" (of a part of a guard), "value" (of the loss, a counter, and
            the like), "row" (of the history) or "outcome".
        at: the number of the transition, or of the row, counted from 1; 0 for the outcome.
        one: what the one run has there, as text.
        other: what the other run has there, as text.
        words: all of it, for a person.
    """

    kind: DifferenceKind
    at: int
    one: str
    other: str
    words: str

    def _repr_html_(self) -> str:
        from statetrain.notebook import text

        return text(str(self))

    def __repr__(self) -> str:
        return self.words

    def __str__(self) -> str:
        return self.words


def difference(a: Trace, b: Trace, rel: float = 0.0) -> Difference | None:
    """The first difference between two runs; see `Trace.diff`.

    The first is the earliest; at the same transition, arrows are compared before answers, and
    answers before values. What only one of the two has recorded is not compared, and neither are
    times.

    Raises:
        ConfigError: the traces have no transition in common: what they kept are different parts of
            their runs.
    """
    if max(a.dropped, b.dropped) > min(a.dropped + len(a), b.dropped + len(b)):
        raise ConfigError(
            f"the traces kept different parts of their runs, transitions {a.dropped + 1} to"
            f" {a.dropped + len(a)} and {b.dropped + 1} to {b.dropped + len(b)}; record more with"
            " Tracing(last=None), or to a file"
        )
    return _compare([(a, b, True)], rel)


def difference_of_files(first: Path, second: Path, rel: float = 0.0) -> Difference | None:
    """The first difference between two runs in files, of which a part at a time is in memory.

    Args:
        first: the trace file of the one run.
        second: that of the other.
        rel: as for `Trace.diff`.

    Raises:
        TraceError: one is not a trace, or it is broken.
        OSError: one cannot be read.
    """
    return _compare(windows(first, second), rel)


def _compare(parts: Iterable[tuple[Trace, Trace, bool]], rel: float) -> Difference | None:
    """The first difference, in parts of two runs that follow each other.

    Args:
        parts: the same part of both, and whether it is the last one.
        rel: as for `Trace.diff`.
    """
    seen: _SeenState | None = None
    for a, b, is_last in parts:
        begin, end, parts_here = _find_parting(a, b, is_last)
        if seen is None:
            seen = _first(a, b, begin, end, rel)
        if parts_here:
            if seen is not None:
                return seen.told(_parting(a, b, end))
            return _describe_parted(a, b, end)
        if is_last and seen is None:
            return _rows(a, b, rel) or _outcomes(a, b)
    assert seen is not None
    return seen.told("  the transitions are the same to the end")


def _find_parting(a: Trace, b: Trace, is_last: bool) -> tuple[int, int, bool]:
    """From where to where the transitions of both are alike, and whether others follow there."""
    begin, end = max(a.dropped, b.dropped), min(a.dropped + len(a), b.dropped + len(b))
    if not is_last:
        end -= _AFTER + 1  # they come again, with what follows them
    for k in range(begin, end):
        if not _alike(a, b, k):
            return begin, k, True
    return begin, end, is_last and a.dropped + len(a) != b.dropped + len(b)


def _alike(a: Trace, b: Trace, k: int) -> bool:
    one, other = a.transitions[k - a.dropped], b.transitions[k - b.dropped]
    return one is other or one == other or words_of(one) == words_of(other)


@frozen
class _SeenState:
    """An answer or a value that differs, with the lines about it.

    How each run continues is shown if it is known.
    """

    at: int
    kind: DifferenceKind
    one: str
    other: str
    lines: tuple[str, ...]

    def told(self, onward: str) -> Difference:
        """The difference, with how each run continues."""
        return Difference(
            self.kind, self.at, self.one, self.other, "\n".join([*self.lines, onward])
        )


def _first(a: Trace, b: Trace, begin: int, end: int, rel: float) -> _SeenState | None:
    """The first answer or value that differs, before a transition."""
    if not a.moments or not b.moments:
        return None
    asked = all(any(moment.answers for moment in run.moments) for run in (a, b))
    for k in range(begin, end):
        one, other = a.moments[k - a.dropped], b.moments[k - b.dropped]
        if asked and _answers(one) != _answers(other):
            x, y = _unlike(_answers(one), _answers(other))
            return _describe_seen(a, b, k, "answer", x, y, f"what a guard answered: {x}, {y}")
        for name, x, y in _pairs(one, other):
            if not _close(x, y, rel):
                what = f"{name}: {x!r}, {y!r}"
                return _describe_seen(a, b, k, "value", f"{name}={x!r}", f"{name}={y!r}", what)
    return None


def _describe_seen(
    a: Trace, b: Trace, k: int, kind: DifferenceKind, x: str, y: str, what: str
) -> _SeenState:
    width = len(str(k + _AFTER + 1))
    lines = [*_before(a, b, k, f", in {what}"), f"  > {k + 1:{width}}  {_arrow(a, k)}"]
    return _SeenState(k + 1, kind, x, y, tuple(lines))


def _unlike(answers: list[str], others: list[str]) -> tuple[str, str]:
    """The first two answers that differ; one may be missing."""
    for x, y in zip_longest(answers, others, fillvalue="nothing"):
        if x != y:
            return x, y
    raise AssertionError("the answers are the same")


def _answers(moment: Moment) -> list[str]:
    return [
        f"{asked.guard} {'held' if asked.answer else 'did not hold'}" for asked in moment.answers
    ]


def _pairs(one: Moment, other: Moment) -> Iterator[tuple[str, Any, Any]]:
    for name in COUNTERS:
        x, y = getattr(one, name), getattr(other, name)
        if x is not None and y is not None:
            yield name, x, y
    yield from (
        (name, one.values[name], other.values[name]) for name in one.values if name in other.values
    )


def _close(x: Any, y: Any, rel: float) -> bool:
    if x == y or (x != x and y != y):
        return True
    if rel == 0 or not isinstance(x, int | float) or not isinstance(y, int | float):
        return False
    return math.isclose(x, y, rel_tol=rel)


def _rows(a: Trace, b: Trace, rel: float) -> Difference | None:
    for n, (one, other) in enumerate(zip(a.rows, b.rows, strict=False), 1):
        for name in (name for name in one if name in other and not name.startswith(_TIMES)):
            if not _close(one[name], other[name], rel):
                x, y = f"{name}={one[name]!r}", f"{name}={other[name]!r}"
                words = f"differ first in row {n} of the history: {x}, {y}"
                return _after_the_same("row", n, x, y, words)
    if a.rows and b.rows and len(a.rows) != len(b.rows):
        x, y = _count(a.rows), _count(b.rows)
        n = min(len(a.rows), len(b.rows)) + 1
        return _after_the_same("row", n, x, y, f"recorded {x}, and {y}")
    return None


def _after_the_same(kind: DifferenceKind, at: int, x: str, y: str, words: str) -> Difference:
    return Difference(kind, at, x, y, f"the runs took the same transitions, and {words}")


def _count(rows: tuple[TapeRow, ...]) -> str:
    return f"{len(rows)} row{'s' if len(rows) != 1 else ''}"


def _outcomes(a: Trace, b: Trace) -> Difference | None:
    if a.outcome is None or b.outcome is None:
        return None
    x, y = _ending(a.outcome, a.error), _ending(b.outcome, b.error)
    if x == y:
        return None
    return _after_the_same("outcome", 0, x, y, f"ended differently: {x}, and {y}")


def _ending(outcome: Outcome, error: str) -> str:
    if isinstance(outcome, Failed):
        first = (error.splitlines() or ["unknown"])[0]
        return f"Failed({outcome.state!r}, {first!r}, epoch={outcome.epoch})"
    return repr(outcome)


# ---------------------------------------------------------------- in words


def _arrow(trace: Trace, k: int) -> str:
    if k - trace.dropped < len(trace):
        return str(trace.transitions[k - trace.dropped])
    return "the end of the trace"


def _before(a: Trace, b: Trace, k: int, what: str = "") -> list[str]:
    """Where the runs differ first, and the transitions before."""
    where = ""
    if k - a.dropped < len(a.moments) and a.moments[k - a.dropped].where:
        where = f" ({a.moments[k - a.dropped].where})"
    width = len(str(k + _AFTER + 1))
    lines = [f"the runs differ first at transition {k + 1}{where}{what}"]
    begin = max(k - _BEFORE, a.dropped, b.dropped)
    return lines + [f"    {i + 1:{width}}  {_arrow(a, i)}" for i in range(begin, k)]


def _describe_parted(a: Trace, b: Trace, k: int) -> Difference:
    """The runs take different arrows."""
    from statetrain.lifecycle.difference import diff  # of a higher floor

    width, lines = len(str(k + _AFTER + 1)), _before(a, b, k)
    for sign, trace in (("-", a), ("+", b)):
        until = min(k + _AFTER + 1, trace.dropped + len(trace))
        lines += [f"  {sign} {i + 1:{width}}  {_arrow(trace, i)}" for i in range(k, until)]
        if until == k:
            lines.append(f"  {sign} {until + 1:{width}}  the end of the trace")
    if a.lifecycle is not None and b.lifecycle is not None:
        changes = diff(a.lifecycle, b.lifecycle)
        if changes:
            if len(changes) > 1:
                more = f", and {len(changes) - 1} more"
            else:
                more = ""
            lines.append(f"  the lifecycles differ: {changes[0]}{more}")
    return Difference("transition", k + 1, _arrow(a, k), _arrow(b, k), "\n".join(lines))


def _parting(a: Trace, b: Trace, k: int) -> str:
    return f"  the transitions part at {k + 1}: {_arrow(a, k)}, and {_arrow(b, k)}"
