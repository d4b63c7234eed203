"""Schedules: a number as a function of a count from 0, of steps or epochs.

Any function of a whole number is one; these are the usual ones. They have no state, so a run that
is continued has the values of one that was never cut. `Schedule` sets a hyperparameter by them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

Curve = Callable[[int], Any]  # of a count from 0


def linear(start: float, end: float, over: int) -> Curve:
    """From one value to another in a straight line, and then constant.

    Args:
        start: the value at 0.
        end: the value at `over` and later.
        over: steps or epochs, at least 1.
    """
    _check("linear", over)
    return lambda n: end if n >= over else start + (end - start) * n / over


def cosine(start: float, end: float, over: int) -> Curve:
    """From one value to another along half a wave, slowly at both ends, and then constant.

    Args:
        start, end, over: as for `linear`.
    """
    _check("cosine", over)
    return lambda n: _wave(start, end, n / over)


def exponential(start: float, factor: float, every: int = 1) -> Curve:
    """Multiplied by a factor at intervals.

    Args:
        start: the value at 0.
        factor: above 0; below 1 for a decay.
        every: steps or epochs between two changes.
    """
    _check("exponential", every)
    return lambda n: start * float(factor) ** (n // every)


def pieces(parts: Mapping[int, float | Curve]) -> Curve:
    """One part after the other: numbers, or schedules that count from where their part begins.

        pieces({0: 0.1, 30: 0.01, 60: cosine(0.01, 0.0, over=30)})

    Args:
        parts: by the count from which on each holds; the first one is 0.
    """
    if (
        not parts
        or 0 not in parts
        or any(isinstance(at, bool) or not isinstance(at, int) or at < 0 for at in parts)
    ):
        raise ValueError(
            "pieces: parts are given by the count from which on they hold, the first by 0; got"
            f" {list(parts)}"
        )
    begins = sorted(parts, reverse=True)

    def piecewise(n: int) -> Any:
        at = next(begin for begin in begins if begin <= n)
        part = parts[at]
        return part(n - at) if callable(part) else part

    return piecewise


def warm_up(over: int, then: float | Curve, start: float = 0.0) -> Curve:
    """A schedule that is approached in a straight line.

    Args:
        over: steps or epochs that the approach takes, at least 1.
        then: a number, or a schedule, which counts from the end of the approach.
        start: the value at 0.
    """
    goal = then(0) if callable(then) else then
    return pieces({0: linear(start, goal, over), over: then})


def one_cycle(
    over: int,
    peak: float,
    *,
    start: float | None = None,
    end: float | None = None,
    warm: float = 0.3,
) -> Curve:
    """Up along half a wave, down along another, and then constant; that of `torch.optim.lr_scheduler.OneCycleLR`.

    Leslie N. Smith and Nicholay Topin: Super-Convergence, 2018, arXiv:1708.07120, with waves in
    place of lines.

    Args:
        over: how long both take together, at least 2.
        peak: the greatest value.
        start: the value at 0; None is a 25th of the peak.
        end: the last value, at `over - 1`; None is a 10,000th of the start.
        warm: the share of `over` that it rises, above 0 and below 1.
    """
    _check("one_cycle", over, 2)
    if not 0 < warm < 1:
        raise ValueError(
            f"one_cycle: warm is a share of the whole, above 0 and below 1, got {warm!r}"
        )
    low = peak / 25 if start is None else start
    last = low / 1e4 if end is None else end
    top = max(warm * over - 1, 0.0)
    return lambda n: (
        _wave(low, peak, n / top) if n < top else _wave(peak, last, (n - top) / (over - 1 - top))
    )


def from_torch(
    scheduler: Callable[..., Any], base: float = 1.0, of: str = "lr", **kwargs: Any
) -> Curve:
    """A schedule of `torch.optim.lr_scheduler` as a function, for any hyperparameter.

        from_torch(torch.optim.lr_scheduler.PolynomialLR, base=0.5, total_iters=100, power=2.0)

    What torch computes step by step is kept, so a count of n takes n steps once.

    Args:
        scheduler: a class, or a function of the optimizer that gives a schedule; none that takes a
            monitored value.
        base: the learning rate that it is given.
        of: whose values are taken: "lr", or what else it changes, as "momentum".
        kwargs: further arguments for it.

    Raises:
        ValueError: it takes a monitored value, as `ReduceLROnPlateau`.
    """
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base, momentum=0.9)
    schedule = scheduler(optimizer, **kwargs)
    if "metrics" in inspect.signature(schedule.step).parameters:
        raise ValueError(
            f"from_torch: {type(schedule).__name__} takes a monitored value, so it is no function"
            " of a count; use LRScheduler(..., monitor=)"
        )
    values = [float(optimizer.param_groups[0][of])]

    def curve(n: int) -> float:
        while len(values) <= n:
            optimizer.step()
            schedule.step()
            values.append(float(optimizer.param_groups[0][of]))
        return values[n]

    return curve


def _wave(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def _check(name: str, over: Any, least: int = 1) -> None:
    if isinstance(over, bool) or not isinstance(over, int) or over < least:
        raise ValueError(
            f"{name}: takes a whole number of steps or epochs of at least {least}, got {over!r}"
        )
