"""The valley rule: which learning rate to start with, read off a search (as fastai's `valley`).

Among the losses there is a longest valley: the longest run of losses that fall, each below the one
before, with others in between left out. The rate is taken from the middle of the valley's second
third: the loss falls well there, and the point where training becomes unstable is still far.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

_LEFT_OUT = 10  # the first of so many parts, where the mean of the losses has yet to settle


def valley(losses: Sequence[float]) -> int | None:
    """The place in a search to take the rate from.

    The first tenth is left out, and everything from a loss that is not finite on.

    Args:
        losses: smoothed, in the order of the rates.

    Returns:
        An index into `losses`; None if they never fall.
    """
    end = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
    begin = len(losses) // _LEFT_OUT
    lengths = _lengths_of_falls(losses[begin:end])
    longest = max(lengths, default=1)
    if longest < 2:
        return None
    third = longest / 3
    start = begin + lengths.index(longest) - longest
    return max(start, begin) + int(third) + int(third / 2)


def _lengths_of_falls(losses: Sequence[float]) -> list[int]:
    """For each loss, of how many the longest fall is that ends with it."""
    # By length, the largest loss that such a fall ends with, negated: so they are in order
    ends: list[float] = []
    lengths = []
    for loss in losses:
        place = bisect_left(ends, -loss)
        ends[place : place + 1] = [-loss]
        lengths.append(place + 1)
    return lengths
