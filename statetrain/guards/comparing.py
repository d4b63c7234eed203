"""Which of two values is better."""

from __future__ import annotations

import math
from typing import Literal

Direction = Literal["min", "max", "zero"]


def better(
    value: float, best: float | None, mode: Direction = "min", min_delta: float = 0.0
) -> bool:
    """Whether a value improves on the best so far by more than `min_delta`; a NaN never does.

    Args:
        value: the new one.
        best: the one to beat; None means that there is none yet.
        mode: "min", "max" or "zero".
        min_delta: an improvement is larger than this.
    """
    if math.isnan(value):
        return False
    if best is None or math.isnan(best):
        return True
    if mode == "max":
        return value - min_delta > best
    if mode == "zero":
        value, best = abs(value), abs(best)
    return value + min_delta < best


def rank(value: float | None, mode: Direction) -> float:
    """A number to sort values by, the best first; what is not a number comes last."""
    if value is None or math.isnan(value):
        return math.inf
    if mode == "max":
        return -value
    if mode == "zero":
        return abs(value)
    return value
