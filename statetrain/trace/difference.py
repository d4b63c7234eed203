"""Where two runs part."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

from attrs import frozen

from statetrain.errors import ConfigError
from statetrain.outcome import Failed, Outcome
from statetrain.trace.tape import COUNTERS, Moment, Row
from statetrain.trace.value import Trace
from statetrain.trace.words import words_of

Kind = Literal["transition", "answer", "value", "row", "outcome"]
_BEFORE, _AFTER = 4, 2  # transitions shown around a difference
_TIMES = "seconds"  # columns of rows that begin so are never equal


@frozen(repr=False)
class Difference:
    """The first difference between two runs; `print` it.

    Attributes:
        kind: "transition", "answer" (of a part of a guard), "value" (of the loss, a counter, and
            the like), "row" (of the history) or "outcome".
        at: the number of the transition, or of the row, counted from 1; 0 for the outcome.
        one: what the one run has there, in words.
        other: what the other run has there, in words.
        words: all of it, for a person.
    """

    kind: Kind
    at: int
    one: str
    other: str
    words: str

    def __repr__(self) -> str:
        return self.words

    def __str__(self) -> str:
        return self.words


def difference(a: Trace, b: Trace, rel: float = 0.0) -> Difference | None:
    """The first difference between two runs; see `Trace.diff`.

    The first is the earliest; at the same transition, arrows are looked at before answers, and
    answers before values. What only one of the two has recorded is not compared, and neither are
    times.

    Raises:
        ConfigError: the traces have no transition in common: what they kept are different parts of
            their runs.
    """
    begin, end = max(a.dropped, b.dropped), min(a.dropped + len(a), b.dropped + len(b))
    if begin > end:
        raise ConfigError(
            f"the traces kept different parts of their runs, transitions {a.dropped + 1} to"
            f" {a.dropped + len(a)} and {b.dropped + 1} to {b.dropped + len(b)}; record more with"
            " Tracing(last=None), or to a file"
        )
    parting = next((k for k in range(begin, end) if not _alike(a, b, k)), None)
    if parting is None and a.dropped + len(a) != b.dropped + len(b):
        parting = end
    seen = _first(a, b, begin, end if parting is None else min(parting + 1, end), rel)
    if seen is not None and (parting is None or seen[0] < parting):
        k, kind, name, one, other = seen
        return Difference(kind, k + 1, one, other, _explained(a, b, k, name, parting))
    if parting is not None:
        return Difference(
            "transition",
            parting + 1,
            _arrow(a, parting),
            _arrow(b, parting),
            _explained(a, b, parting, "", parting),
        )
    return _rows(a, b, rel) or _outcomes(a, b)


def _alike(a: Trace, b: Trace, k: int) -> bool:
    one, other = a.transitions[k - a.dropped], b.transitions[k - b.dropped]
    return one is other or one == other or words_of(one) == words_of(other)


def _first(
    a: Trace, b: Trace, begin: int, end: int, rel: float
) -> tuple[int, Kind, str, str, str] | None:
    """The first answer or value that differs."""
    if not a.moments or not b.moments:
        return None
    asked = any(moment.answers for moment in a.moments) and any(
        moment.answers for moment in b.moments
    )
    for k in range(begin, end):
        one, other = a.moments[k - a.dropped], b.moments[k - b.dropped]
        if asked and (answers := _answers(one)) != (others := _answers(other)):
            unlike = [(x, y) for x, y in zip(answers, others, strict=False) if x != y]
            x, y = (
                unlike[0]
                if unlike
                else (answers[len(others) :] or [""], others[len(answers) :] or [""])
            )
            return k, "answer", f"what a guard answered: {_said(x)}, {_said(y)}", _said(x), _said(y)
        for name, x, y in _pairs(one, other):
            if not _close(x, y, rel):
                return k, "value", f"{name}: {x!r}, {y!r}", f"{name}={x!r}", f"{name}={y!r}"
    return None


def _said(answer: Any) -> str:
    return str(answer[0] if isinstance(answer, list) else answer) or "nothing"


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
    return (
        isinstance(x, int | float)
        and isinstance(y, int | float)
        and rel > 0
        and math.isclose(x, y, rel_tol=rel)
    )


def _rows(a: Trace, b: Trace, rel: float) -> Difference | None:
    for n, (one, other) in enumerate(zip(a.rows, b.rows, strict=False), 1):
        for name in one:
            if (
                name in other
                and not name.startswith(_TIMES)
                and not _close(one[name], other[name], rel)
            ):
                x, y = f"{name}={one[name]!r}", f"{name}={other[name]!r}"
                return Difference(
                    "row",
                    n,
                    x,
                    y,
                    f"the runs took the same transitions, and differ first in row {n} of the"
                    f" history: {x}, {y}",
                )
    if a.rows and b.rows and len(a.rows) != len(b.rows):
        x, y = _count(a.rows), _count(b.rows)
        return Difference(
            "row",
            min(len(a.rows), len(b.rows)) + 1,
            x,
            y,
            f"the runs took the same transitions, and recorded {x}, and {y}",
        )
    return None


def _count(rows: tuple[Row, ...]) -> str:
    return f"{len(rows)} row{'s' if len(rows) != 1 else ''}"


def _outcomes(a: Trace, b: Trace) -> Difference | None:
    if a.outcome is None or b.outcome is None:
        return None
    x, y = _ending(a.outcome, a.error), _ending(b.outcome, b.error)
    return (
        Difference(
            "outcome",
            0,
            x,
            y,
            f"the runs took the same transitions, and ended differently: {x}, and {y}",
        )
        if x != y
        else None
    )


def _ending(outcome: Outcome, error: str) -> str:
    if isinstance(outcome, Failed):
        return (
            f"Failed({outcome.state!r}, {error.splitlines()[0] if error else 'unknown'!r},"
            f" epoch={outcome.epoch})"
        )
    return repr(outcome)


# ---------------------------------------------------------------- in words


def _arrow(trace: Trace, k: int) -> str:
    return (
        str(trace.transitions[k - trace.dropped])
        if k - trace.dropped < len(trace)
        else "the end of the trace"
    )


def _explained(a: Trace, b: Trace, k: int, what: str, parting: int | None) -> str:
    from statetrain.lifecycle.difference import diff  # of a higher floor

    moment = a.moments[k - a.dropped] if k - a.dropped < len(a.moments) else None
    where = f" ({moment.where})" if moment is not None and moment.where else ""
    width = len(str(k + _AFTER + 1))
    lines = [f"the runs differ first at transition {k + 1}{where}{f', in {what}' if what else ''}"]
    lines += [
        f"    {i + 1:{width}}  {_arrow(a, i)}"
        for i in range(max(k - _BEFORE, a.dropped, b.dropped), k)
    ]
    if parting == k:
        for sign, trace in (("-", a), ("+", b)):
            until = min(k + _AFTER + 1, trace.dropped + len(trace))
            lines += [f"  {sign} {i + 1:{width}}  {_arrow(trace, i)}" for i in range(k, until)]
            lines += [f"  {sign} {until + 1:{width}}  the end of the trace"] if until == k else []
        if (
            a.lifecycle is not None
            and b.lifecycle is not None
            and (changes := diff(a.lifecycle, b.lifecycle))
        ):
            lines.append(
                "  the lifecycles differ:"
                f" {changes[0]}{f', and {len(changes) - 1} more' if len(changes) > 1 else ''}"
            )
        return "\n".join(lines)
    lines.append(f"  > {k + 1:{width}}  {_arrow(a, k)}")
    if parting is None:
        lines.append("  the transitions are the same to the end")
    else:
        lines.append(
            f"  the transitions part at {parting + 1}: {_arrow(a, parting)}, and"
            f" {_arrow(b, parting)}"
        )
    return "\n".join(lines)
