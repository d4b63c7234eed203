"""The flight recorder: the last transitions of a run, for the note on its failure.

The machine's loop keeps one reference per decision, to a tuple that was made when the machine was.
What they stand for is worked out when a note is written.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from statetrain.context.position import LAST, Position
from statetrain.lifecycle.transition import Transition

_LONGEST = 16  # states of a loop that is shown once


def taken_last(ctx: Position) -> list[Transition]:
    """The last transitions of a run, oldest first; the one that it broke off in is the last."""
    return [arrow for landing in ctx.flight for arrow in landing[1]][-LAST:]


def cut_short(ctx: Position) -> None:
    """Removes the transitions that a stretch did not take because of an exception."""
    if not ctx.flight:
        return
    end, stretch = ctx.flight[-1]
    if ctx.transition in stretch:
        ctx.flight[-1] = (end, stretch[: stretch.index(ctx.transition) + 1])


def in_words(transitions: Iterable[Transition], width: int = 110) -> str:
    """Transitions for a note: where they led, with repeated loops once.

    For example, `(draw -> batch -> pred) x 3`.
    """
    return textwrap.fill(
        f"the last transitions: {folded(list(map(_destination, transitions)))}",
        width,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
    )


def _destination(arrow: Transition) -> str:
    """Where an arrow led, after the event that it was taken on."""
    if arrow.event is None:
        return arrow.dest
    return f"{arrow.event.__name__}! {arrow.dest}"


def folded(steps: Sequence[str]) -> str:
    """Steps in a row, where what is repeated at once stands once with how often."""
    told, at = [], 0
    while at < len(steps):
        length, times = max(
            ((length, _repeats(steps, at, length)) for length in range(1, _LONGEST + 1)),
            key=lambda way: (way[0] * (way[1] - 1), -way[0]),
        )
        if times == 1:
            told.append(steps[at])
            at += 1
            continue
        loop = " -> ".join(steps[at : at + length])
        if length > 1:
            loop = f"({loop})"
        told.append(f"{loop} x {times}")
        at += length * times
    return " -> ".join(told)


def _repeats(steps: Sequence[str], at: int, length: int) -> int:
    loop, times = steps[at : at + length], 1
    while len(loop) == length and steps[at + length * times : at + length * (times + 1)] == loop:
        times += 1
    return times
