"""Random facts on several ranks of one process: whatever one of them meets with, all take one way."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import statetrain as st
from statetrain.testing import simulate_ranks
from suites.case import Case

TITLE = "random facts on several ranks"
GOAL = 10_000

_EVENTS: dict[str, type[st.Event]] = {
    "SkipBatch": st.SkipBatch,
    "SkipEpoch": st.SkipEpoch,
    "StopFit": st.StopFit,
}


class Meets(st.Callback):
    """What one rank meets with in one of its batches.

    Args:
        batch: which.
        what: "stop", or the name of an event.
    """

    def __init__(self, batch: int, what: str) -> None:
        self.batch, self.what = batch, what

    def on_enter_pred(self, ctx: st.Context) -> None:
        """Asks for it."""
        if ctx.batches == self.batch and self.what == "stop":
            ctx.request_stop("asked for")
        elif ctx.batches == self.batch:
            raise _EVENTS[self.what]("so")

    def __repr__(self) -> str:
        return f"{self.what} in batch {self.batch}"


def _losses(bad: int) -> Callable[[int], float]:
    """A loss that is not finite once."""
    return lambda batch: math.nan if batch == bad else 1.0 / batch


def _drawn(chance: random.Random, own_data: bool) -> tuple[dict[str, Any], str]:
    """The facts of a rank, and what they are."""
    facts: dict[str, Any] = {}
    words = []
    if chance.random() < 0.35:
        bad = chance.randint(1, 9)
        facts["losses"] = _losses(bad)
        words.append(f"NaN in batch {bad}")
    if chance.random() < 0.35:
        facts["callbacks"] = Meets(chance.randint(1, 10), chance.choice(["stop", *_EVENTS]))
        words.append(str(facts["callbacks"]))
    if own_data:
        facts["batches"] = chance.randint(3, 6)
        words.append(f"{facts['batches']} batches")
    if chance.random() < 0.35:
        facts["seconds"] = chance.choice([0.5, 1.0, 2.0])
        words.append(f"{facts['seconds']} s a batch")
    return facts, ", ".join(words) or "nothing"


def cases() -> list[Case]:
    """Ten thousand draws."""
    return [Case(f"draw {number}", partial(_check, number)) for number in range(GOAL)]


def _check(number: int) -> None:
    chance = random.Random(number)
    own_data = chance.random() < 0.3
    drawn = [_drawn(chance, own_data) for _ in range(chance.choice([2, 2, 3, 4]))]
    life = st.supervised(
        non_finite=chance.choice(["skip", "stop", "raise"]),
        stop=st.TimeLimit(seconds=chance.choice([4, 7, 30])),
        validate=chance.choice([None, st.Every(1, "epochs"), st.Every(2, "steps")]),
        accumulate=1 if own_data else chance.choice([1, 1, 2, 3]),
        check_gradients=chance.random() < 0.3,
    )
    facts = [facts for facts, _ in drawn]
    try:
        simulate_ranks(life, len(facts), facts=facts, epochs=2, length_known=chance.random() < 0.5)
    except AssertionError as error:
        words = "; ".join(f"rank {rank}: {word}" for rank, (_, word) in enumerate(drawn))
        raise AssertionError(f"{words}: {error}") from error
