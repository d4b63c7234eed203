"""Schedules: a number as a function of a count from 0, of steps or epochs.

Any function of a whole number is one; these are the usual ones. They have no state, so a run that
is continued has the values of one that was never cut. `Schedule` sets a hyperparameter by them.

How long a schedule takes may be left to the run: `one_cycle(peak=0.1)` and `cosine(0.1, 0.0)` take
all of it, and `warm_up(0.1, ...)` a tenth. `Schedule` then computes the number of steps, or of
epochs, from the data, the epochs, the accumulation and the limit of steps.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, overload

from attrs import frozen

from statetrain.naming import nearest
from statetrain.validators import check_whole, is_whole_number

Curve = Callable[[int], Any]  # of a count from 0
Over = int | float | None
"""How long: so many steps or epochs; a share of the run, above 0 and below 1; None is all of it."""


@frozen
class Planned:
    """A schedule whose length depends on the run's.

    Args:
        make: gives the schedule for a run of so many steps, or epochs.
    """

    make: Callable[[int], Curve]

    def for_run(self, total: int) -> Curve:
        """The schedule for a run of `total` steps, or epochs."""
        return self.make(total)


@overload
def linear(start: float, end: float, over: int) -> Curve: ...
@overload
def linear(start: float, end: float, over: float | None = None) -> Planned: ...
def linear(start: float, end: float, over: Over = None) -> Curve | Planned:
    """From one value to another in a straight line, and then constant.

    Args:
        start: the value at 0.
        end: the value at `over` and later.
        over: steps or epochs, at least 1; a share of the run; None is all of it.
    """
    return _plan(
        "linear",
        over,
        lambda length: lambda n: end if n >= length else start + (end - start) * n / length,
    )


@overload
def cosine(start: float, end: float, over: int) -> Curve: ...
@overload
def cosine(start: float, end: float = ..., over: float | None = None) -> Planned: ...
def cosine(start: float, end: float = 0.0, over: Over = None) -> Curve | Planned:
    """From one value to another along half a wave, slowly at both ends, and then constant.

    Args:
        start, end, over: as for `linear`.
    """
    return _plan("cosine", over, lambda length: lambda n: _wave(start, end, n / length))


def exponential(start: float, factor: float, every: int = 1) -> Curve:
    """Multiplied by a factor at intervals.

    Args:
        start: the value at 0.
        factor: above 0; below 1 for a decay.
        every: steps or epochs between two changes.
    """
    _check("exponential: every", every)
    return lambda n: start * float(factor) ** (n // every)


def pieces(parts: Mapping[int, float | Curve]) -> Curve:
    """One part after the other: numbers, or schedules that count from where their part begins.

        pieces({0: 0.1, 30: 0.01, 60: cosine(0.01, 0.0, over=30)})

    Args:
        parts: by the count from which on each holds; the first one is 0.
    """
    if not parts or 0 not in parts or not all(is_whole_number(at, 0) for at in parts):
        raise ValueError(
            "pieces: parts are given by the count from which on they hold, the first by 0; got"
            f" {list(parts)}"
        )
    planned = [at for at, part in parts.items() if isinstance(part, Planned)]
    if planned:
        raise ValueError(
            f"pieces: the part that begins at {planned[0]} takes all of a run; say how long it is:"
            " over="
        )
    begins = sorted(parts, reverse=True)

    def piecewise(n: int) -> Any:
        at = next(begin for begin in begins if begin <= n)
        part = parts[at]
        if callable(part):
            return part(n - at)
        return part

    return piecewise


def warm_up(over: float, then: float | Curve | Planned, start: float = 0.0) -> Curve | Planned:
    """A schedule that is approached in a straight line.

        warm_up(0.05, cosine(0.1))      # a twentieth of the run; the wave takes the rest

    Args:
        over: steps or epochs that the approach takes, at least 1; or a share of the run.
        then: a number, or a schedule, which counts from the end of the approach. One that takes all
            of the run takes what the approach leaves.
        start: the value at 0.
    """

    def approach(length: int, total: int | None) -> Curve:
        after = then
        if isinstance(after, Planned):
            after = after.for_run(max((total or 0) - length, 1))
        if callable(after):
            goal = after(0)
        else:
            goal = after
        return pieces({0: lambda n: start + (goal - start) * n / length, length: after})

    if isinstance(over, int) and not isinstance(then, Planned):
        _check("warm_up: over", over)
        return approach(over, None)
    _check_share("warm_up", over)
    return Planned(lambda total: approach(_steps(over, total), total))


@overload
def one_cycle(
    peak: float,
    over: int,
    *,
    start: float | None = None,
    end: float | None = None,
    warm: float = 0.3,
) -> Curve: ...
@overload
def one_cycle(
    peak: float,
    over: float | None = None,
    *,
    start: float | None = None,
    end: float | None = None,
    warm: float = 0.3,
) -> Planned: ...
def one_cycle(
    peak: float,
    over: Over = None,
    *,
    start: float | None = None,
    end: float | None = None,
    warm: float = 0.3,
) -> Curve | Planned:
    """Rises along half a wave, falls along another, and then stays constant.

    The shape of `torch.optim.lr_scheduler.OneCycleLR`.

    Leslie N. Smith and Nicholay Topin: Super-Convergence, 2018, arXiv:1708.07120, with waves in
    place of lines.

    Args:
        peak: the greatest value.
        over: how long both take together, at least 2; a share of the run; None is all of it.
        start: the value at 0; None is a 25th of the peak.
        end: the last value, at `over - 1`; None is a 10,000th of the start.
        warm: the share of `over` that it rises, above 0 and below 1.
    """
    if not 0 < warm < 1:
        raise ValueError(
            f"one_cycle: warm is a share of the whole, above 0 and below 1, got {warm!r}"
        )
    if start is None:
        start = peak / 25
    if end is None:
        end = start / 1e4
    low, last = start, end

    def make(length: int) -> Curve:
        length = max(length, 2)
        top = max(warm * length - 1, 0.0)

        def cycle(n: int) -> float:
            if n < top:
                return _wave(low, peak, n / top)
            return _wave(peak, last, (n - top) / (length - 1 - top))

        return cycle

    return _plan("one_cycle", over, make, least=2)


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


def _plan(name: str, over: Over, make: Callable[[int], Curve], least: int = 1) -> Curve | Planned:
    """A schedule of a length that is known, or one that waits for the run's."""
    if isinstance(over, int):
        _check(f"{name}: over", over, least)
        return make(over)
    _check_share(name, over)
    return Planned(lambda total: make(_steps(over, total)))


def _steps(over: Over, total: int) -> int:
    """A share of a run as a whole number of steps or epochs, at least 1."""
    if isinstance(over, int):
        return over
    if over is None:
        return max(total, 1)
    return max(round(over * total), 1)


def _check_share(name: str, over: Over) -> None:
    if isinstance(over, bool) or not (over is None or isinstance(over, int) or 0 < over < 1):
        raise ValueError(
            f"{name}: takes a whole number of steps or epochs, or a share of the run above 0 and"
            f" below 1, got {over!r}"
        )


def _wave(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def _check(name: str, over: Any, least: int = 1) -> None:
    check_whole(name, over, least, of="steps or epochs", error=ValueError)


def __getattr__(name: str) -> Any:
    known = [each for each, value in globals().items() if callable(value) and each.islower()]
    public = [each for each in known if not each.startswith("_")]
    near = nearest(name, public)
    raise AttributeError(f"module 'statetrain.schedules' has no attribute {name!r}{near}")
