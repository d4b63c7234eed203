"""Arrows that can never be taken, whatever their guards answer: found by truth tables.

The guards of a state are asked in order, up to the first that is true. Combinations are made of
parts that answer freely; a table with a bit for each way in which all parts can answer says when an
arrow is taken. So a guard that is there twice, `a & ~a`, or `a & b` after `a` hide an arrow.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from statetrain.guards.base import AllOf, AnyOf, Guard, Not, Renamed
from statetrain.lifecycle.transition import Transition

_MOST = 12
"""Parts of guards that are looked at together: 4,096 ways to answer."""


def hidden(arrows: Sequence[Transition]) -> Transition | None:
    """The first of a state's arrows that can never be taken; None if all can be.

    Where the parts are too many to look at together, arrows are compared that have the same ones.
    """
    listed = list(map(_parts, arrows))
    parts = list(map(frozenset, listed))
    everything = frozenset().union(*parts)
    if sum(map(len, listed)) == len(everything):
        return None  # nothing is asked twice, so each may be the first that is true
    if len(everything) <= _MOST:
        return _hidden(arrows, everything)
    for own in dict.fromkeys(parts):
        alike = [arrow for arrow, others in zip(arrows, parts, strict=True) if others == own]
        if len(own) <= _MOST and (never := _hidden(alike, own)) is not None:
            return never
    return None


def _hidden(arrows: Sequence[Transition], parts: Iterable[Hashable]) -> Transition | None:
    table = _AnswerTable(tuple(parts))
    left = table.all  # the ways to answer in which no arrow so far is taken
    for arrow in arrows:
        ways = table.of(arrow)
        if not ways & left:
            return arrow
        left &= ~ways
    return None


def _parts(arrow: Transition) -> list[Hashable]:
    """The parts of an arrow's guard that are free to answer.

    A part with a memory answers separately at each place.
    """
    if arrow.guard is None:
        return []
    return [_name(part, arrow) for part in _simple(arrow.guard)]


def _name(part: Guard, arrow: Transition) -> Hashable:
    if part.remembers:
        return part, arrow.dest
    return part


def _simple(guard: Guard) -> Iterable[Guard]:
    if isinstance(guard, AllOf | AnyOf | Not | Renamed):
        for part in guard.parts():
            yield from _simple(part)
    else:
        yield guard


class _AnswerTable:
    """The ways in which parts can answer, as bits of a number."""

    def __init__(self, names: Sequence[Hashable]) -> None:
        self.all = (1 << (1 << len(names))) - 1
        self.bits = {name: self._pattern(i, len(names)) for i, name in enumerate(names)}

    @staticmethod
    def _pattern(i: int, parts: int) -> int:
        """The ways in which one part answers True: blocks of 2^i ways, every other one."""
        block = (1 << (1 << i)) - 1
        pattern = block << (1 << i)
        width = 2 << i
        while width < 1 << parts:
            pattern |= pattern << width
            width *= 2
        return pattern

    def of(self, arrow: Transition) -> int:
        """The ways in which an arrow's guard is true."""
        if arrow.guard is None:
            return self.all
        return self._of(arrow.guard, arrow)

    def _of(self, guard: Guard, arrow: Transition) -> int:
        if isinstance(guard, Renamed):
            return self._of(guard.guard, arrow)
        if isinstance(guard, Not):
            return self.all & ~self._of(guard.guard, arrow)
        if isinstance(guard, AllOf):
            ways = self.all
            for part in guard.guards:
                ways &= self._of(part, arrow)
            return ways
        if isinstance(guard, AnyOf):
            ways = 0
            for part in guard.guards:
                ways |= self._of(part, arrow)
            return ways
        return self.bits[_name(guard, arrow)]
