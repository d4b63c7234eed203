"""The conditions that come with the library: intervals, limits, the guards of the standard lifecycle."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, field, frozen

from statetrain.errors import ConfigError
from statetrain.guards.base import Guard, Test, guard
from statetrain.validators import one_of, positive, whole

if TYPE_CHECKING:
    from statetrain.context.context import Context

Mode = Literal["min", "max", "zero"]
Unit = Literal["batches", "steps", "epochs", "samples", "seconds", "minutes"]

# ---------------------------------------------------------------- comparing


def better(value: float, best: float | None, mode: Mode = "min", min_delta: float = 0.0) -> bool:
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


# ---------------------------------------------------------------- counters and the clock

_COUNTERS: dict[str, str] = {
    "batches": "batches",
    "steps": "step",
    "epochs": "epoch",
    "samples": "samples",
    "seconds": "seconds",
    "minutes": "seconds",
}


def _whole_unless_time(instance: Any, attribute: Attribute[Any], unit: Unit) -> None:
    if unit not in ("seconds", "minutes") and not isinstance(instance.n, int):
        raise ValueError(
            f"{type(instance).__name__}: n must be a whole number of {unit}, got {instance.n!r}"
        )


def _singular(unit: Unit) -> str:
    return unit.removesuffix("es" if unit == "batches" else "s")


@frozen
class Every(Guard):
    """Holds when a counter has crossed a multiple of `n` since the arrow, or the callback, last fired.

    What was fired at is remembered by the arrow's effect, not by the guard, so that it neither
    repeats nor misses: a counter that jumps from 90 to 210 fires once for `Every(100, "steps")`.

    Args:
        n: the interval, above 0; whole unless the unit is a time.
        unit: "batches", "steps" (of the optimizer), "epochs", "samples", "seconds" or "minutes".
    """

    n: float = field(validator=positive)
    unit: Unit = field(validator=[one_of(*_COUNTERS), _whole_unless_time])

    prompt = True
    remembers = True

    @property
    def label(self) -> str:
        return f"every {self.n} {self.unit}" if self.n != 1 else f"every {_singular(self.unit)}"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({_COUNTERS[self.unit], "marks"})

    def _key(self, place: str) -> str:
        return f"{place} {self.label}"

    def _count(self, ctx: Context) -> float:
        count = getattr(ctx, _COUNTERS[self.unit])
        # A counter of the context
        return count / 60 if self.unit == "minutes" else count  # type: ignore[no-any-return]

    def test(self, ctx: Context) -> bool:
        return self.bind("")(ctx)

    def bind(self, place: str) -> Test:
        key, n, count = self._key(place), self.n, self._count
        return lambda ctx: bool(count(ctx) // n > ctx.marks.get(key, 0) // n)

    def marks(self, place: str) -> tuple[Callable[[Any], None], ...]:
        key, count = self._key(place), self._count

        def mark(ctx: Context) -> None:
            "remember when"
            ctx.marks[key] = count(ctx)

        return (mark,)


@frozen
class Once(Guard):
    """Holds a single time, when a counter has reached `n`.

    What was fired at is remembered by the arrow's effect, as for `Every`.

    Args:
        n: above 0; whole unless the unit is a time.
        unit: as of `Every`.
    """

    n: float = field(validator=positive)
    unit: Unit = field(validator=[one_of(*_COUNTERS), _whole_unless_time])

    prompt = True
    remembers = True

    @property
    def label(self) -> str:
        return f"once after {self.n} {_singular(self.unit) if self.n == 1 else self.unit}"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({_COUNTERS[self.unit], "marks"})

    def test(self, ctx: Context) -> bool:
        return self.bind("")(ctx)

    def bind(self, place: str) -> Test:
        key, count = f"{place} {self.label}", _COUNTERS[self.unit]
        least = self.n * 60 if self.unit == "minutes" else self.n
        return lambda ctx: bool(getattr(ctx, count) >= least and key not in ctx.marks)

    def marks(self, place: str) -> tuple[Callable[[Any], None], ...]:
        key, count = f"{place} {self.label}", _COUNTERS[self.unit]

        def mark(ctx: Context) -> None:
            "remember when"
            ctx.marks[key] = getattr(ctx, count)

        return (mark,)


@frozen
class MaxSteps(Guard):
    """Holds when the optimizers have made `n` steps in this fit.

    A fit that goes on with `run.fit(...)` counts anew; one that is continued from a checkpoint does
    not.

    Args:
        n: steps, at least 1.
    """

    n: int = field(validator=whole)

    reads = frozenset({"fit_steps"})
    prompt = True

    @property
    def label(self) -> str:
        return f"{self.n} steps made"

    def test(self, ctx: Context) -> bool:
        return bool(ctx.fit_steps >= self.n)


@frozen
class TimeLimit(Guard):
    """Holds when this fit has taken that long, by the context's clock.

    Args:
        minutes, hours, seconds: added up; above 0 together.
    """

    minutes: float = 0.0
    hours: float = field(default=0.0, kw_only=True)
    seconds: float = field(default=0.0, kw_only=True)

    reads = frozenset({"fit_seconds"})
    prompt = True

    def __attrs_post_init__(self) -> None:
        if not self.total > 0:
            raise ValueError(
                f"TimeLimit: say how long, above 0: TimeLimit(minutes=30); got {self.total} seconds"
            )

    @property
    def total(self) -> float:
        """The limit in seconds."""
        return self.hours * 3600 + self.minutes * 60 + self.seconds

    @property
    def label(self) -> str:
        named = (("hours", self.hours), ("minutes", self.minutes), ("seconds", self.seconds))
        return "after " + " ".join(f"{value:g} {unit}" for unit, value in named if value)

    def test(self, ctx: Context) -> bool:
        return bool(ctx.fit_seconds >= self.total)


# -------------------- conditions of the standard lifecycle


def _moment(value: datetime | float | None) -> float | None:
    return value.timestamp() if isinstance(value, datetime) else value


@frozen
class Deadline(Guard):
    """Holds when what is left of a job's time is needed for saving and closing.

        stop=st.Deadline()                          # SLURM's, from SLURM_JOB_END_TIME
        stop=st.Deadline.after(hours=11.9)          # from now on
        stop=st.Deadline(datetime(2030, 1, 1, 6))   # or seconds since 1970

    `Checkpoint` measures its own saves; the time of the longest, the preflight's included, is left,
    and a margin. It is asked at every loop head, so the margin has to cover a batch. A deadline is
    no part of what a lifecycle is: a run that is continued has another one.

    Args:
        at: when the job ends: seconds since 1970, or a datetime (in local time unless it says
            otherwise). None: what SLURM says in its variable SLURM_JOB_END_TIME.
        margin: seconds to spare, at least 0.
        clock: seconds since 1970.
        environ: where SLURM's variable is looked for.

    Raises:
        ConfigError: when a machine is made of it: no end was given, and SLURM says none.
    """

    at: float | None = field(default=None, eq=False, converter=_moment)
    margin: float = field(default=60.0, kw_only=True, eq=False)
    clock: Callable[[], float] = field(default=time.time, kw_only=True, eq=False, repr=False)
    environ: Mapping[str, str] = field(
        factory=lambda: os.environ, kw_only=True, eq=False, repr=False
    )

    reads = frozenset({"save_seconds"})
    prompt = True
    agree = "first"  # one clock: that of rank 0

    def __attrs_post_init__(self) -> None:
        for name, value in (("at", 0.0 if self.at is None else self.at), ("margin", self.margin)):
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not 0 <= value < math.inf
            ):
                raise ValueError(
                    f"Deadline: {name} must be a number of seconds of at least 0, got {value!r}"
                )

    @classmethod
    def after(
        cls, hours: float = 0.0, minutes: float = 0.0, seconds: float = 0.0, **options: Any
    ) -> Deadline:
        """A deadline so long from now.

        Args:
            hours, minutes, seconds: added up.
            options: margin and clock, as above.
        """
        now = options.get("clock", time.time)()
        return cls(now + 3600 * hours + 60 * minutes + seconds, **options)

    @property
    def label(self) -> str:
        return "deadline"

    @property
    def end(self) -> float:
        """When the job ends, in seconds since 1970.

        Raises:
            ConfigError: nobody says.
        """
        if self.at is not None:
            return self.at
        said = self.environ.get("SLURM_JOB_END_TIME", "")
        if not said.isdecimal():
            raise ConfigError(
                f"Deadline: SLURM_JOB_END_TIME says no end, got {said!r}; give one:"
                " Deadline.after(hours=11.9)"
            )
        return float(said)

    def test(self, ctx: Context) -> bool:
        return self.bind("")(ctx)

    def bind(self, place: str) -> Test:
        last, clock = self.end - self.margin, self.clock
        return lambda ctx: bool(clock() + ctx.save_seconds >= last)

    def reason(self, ctx: Context) -> str:
        return (
            f"{self.end - self.clock():.0f} s are left of the job, and saving takes"
            f" {ctx.save_seconds:.1f}"
        )


@frozen
class NonFinite(Guard):
    """Holds when the loss of this batch is NaN or infinite.

    It reads a number on the host: on a device, asking it waits for the loss.

    Args:
        of: "loss", or "gradients" for the norm of all gradients (which a state has to compute
            first).
    """

    of: Literal["loss", "gradients"] = field(default="loss", validator=one_of("loss", "gradients"))

    agree = "any"

    @property
    def label(self) -> str:
        return "loss not finite" if self.of == "loss" else "gradients not finite"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"loss_value" if self.of == "loss" else "grad_norm"})

    def test(self, ctx: Context) -> bool:
        return self.bind("")(ctx)

    def bind(self, place: str) -> Test:
        return _loss_not_finite if self.of == "loss" else _gradients_not_finite

    def reason(self, ctx: Context) -> str:
        return (
            f"the loss is {ctx.loss_value}"
            if self.of == "loss"
            else f"the norm of the gradients is {ctx.grad_norm}"
        )


@frozen
class Spike(Guard):
    """Holds when the loss of this batch is far above those of the batches before: more than `factor` times their median.

    `fit(..., spike=Spike(4))` treats such a batch as `non_finite` says, before it can reach the
    weights. It reads numbers on the host, so on a device it waits for the loss of each batch. For
    losses that may be negative, where a multiple has no meaning, it holds only above a positive
    median. The losses of refused batches do not count.

    Args:
        factor: above 1.
        window: batches that the median is of, at least 1.
        least: batches before which it does not hold; at least 1.
    """

    factor: float = field(default=4.0, validator=positive)
    window: int = field(default=50, kw_only=True, validator=whole)
    least: int = field(default=20, kw_only=True, validator=whole)

    reads = frozenset({"loss_value", "recent", "opt_name"})
    agree = "any"

    def __attrs_post_init__(self) -> None:
        if not self.factor > 1:
            raise ValueError(f"Spike: factor must be above 1, got {self.factor!r}")
        if self.least > self.window:
            raise ValueError(
                f"Spike: least must be at most the window of {self.window} batches, got"
                f" {self.least!r}"
            )

    @property
    def label(self) -> str:
        return f"loss above {self.factor:g} times its median"

    def median(self, ctx: Context) -> float:
        """Of the losses before this one; infinite while there are too few."""
        recent = ctx.recent.get(ctx.opt_name, ())[-self.window :]
        return sorted(recent)[len(recent) // 2] if len(recent) >= self.least else math.inf

    def test(self, ctx: Context) -> bool:
        median = self.median(ctx)
        return median > 0 and ctx.loss_value > self.factor * median

    def reason(self, ctx: Context) -> str:
        return (
            f"the loss is {ctx.loss_value:g}, above {self.factor:g} times the median"
            f" {self.median(ctx):g} of those before"
        )


@frozen
class Masked(Guard):
    """Holds when the device has said that it left out steps, and nobody has been told so far."""

    reads = frozenset({"masked", "told"})

    @property
    def label(self) -> str:
        return "steps were masked"

    def test(self, ctx: Context) -> bool:
        return bool(ctx.masked > ctx.told)

    def reason(self, ctx: Context) -> str:
        more = f" (and {ctx.masked - ctx.told - 1} more)" if ctx.masked - ctx.told > 1 else ""
        first = (
            f"step {ctx.first_masked}{more}" if not ctx.told else f"{ctx.masked - ctx.told} steps"
        )
        return f"the loss or the gradients of {first} were not finite"


@frozen
class StopRequested(Guard):
    """Holds when someone called `ctx.request_stop(reason)`, as the handlers of signals do."""

    reads = frozenset({"stop"})
    prompt = True
    agree = "any"

    @property
    def label(self) -> str:
        return "stop requested"

    def test(self, ctx: Context) -> bool:
        return ctx.stop is not None

    def bind(self, place: str) -> Test:
        return _stop_requested

    def reason(self, ctx: Context) -> str:
        return ctx.stop or self.label


stop_requested = StopRequested()


def _stop_requested(ctx: Context) -> bool:
    return ctx.stop is not None


# v - v is 0.0 for every finite number and NaN for the others; it costs a tenth of math.isfinite.


def _loss_not_finite(ctx: Context) -> bool:
    value = ctx.loss_value
    # Anything but a float is refused where it is asked
    return value - value != 0.0  # type: ignore[no-any-return]


def _gradients_not_finite(ctx: Context) -> bool:
    value = ctx.grad_norm
    return value is not None and value - value != 0.0


@guard(reads={"epoch", "max_epochs"})
def more_epochs(ctx: Context) -> bool:
    "more epochs"
    return bool(ctx.epoch < ctx.max_epochs)


@guard(reads={"drawn"}, agree="all")
def batch_drawn(ctx: Context) -> bool:
    "a batch was drawn"
    return ctx.drawn


@frozen
class Accumulating(Guard):
    """Holds while a window of `n` batches is not full and this is not the epoch's last batch.

    Args:
        n: batches in a window, at least 1.
    """

    n: int = field(validator=whole)

    reads = frozenset({"pending", "last_batch"})
    agree = "all"  # a window goes on if it does on all ranks

    @property
    def label(self) -> str:
        return "accumulating"

    def test(self, ctx: Context) -> bool:
        return ctx.pending < self.n and not ctx.last_batch


@guard(reads={"opt_index", "optimizers"})
def another_optimizer(ctx: Context) -> bool:
    "another optimizer"
    return bool(ctx.opt_index + 1 < len(ctx.optimizers))


@guard(reads={"iter", "length?"}, agree="all")
def batches_left(ctx: Context) -> bool:
    "batches left"
    return bool(ctx.iter != ctx.length)  # of data without a length, nobody knows before drawing


@guard(reads={"exhausted"}, agree="all")
def train_data_left(ctx: Context) -> bool:
    "train data left"
    return not ctx.exhausted


@guard(reads={"interrupt"}, agree="any")
def interrupted(ctx: Context) -> bool:
    "interrupted"
    return ctx.interrupt is not None


@frozen
class NotYet(Guard):
    """Holds until its arrow has been taken, and again when the training has gone on."""

    reads = frozenset({"batches", "marks"})
    remembers = True

    @property
    def label(self) -> str:
        return "not yet"

    def test(self, ctx: Context) -> bool:
        return self.bind("")(ctx)

    def bind(self, place: str) -> Test:
        key = f"{place} {self.label}"
        return lambda ctx: bool(ctx.marks.get(key) != ctx.batches)

    def marks(self, place: str) -> tuple[Callable[[Any], None], ...]:
        key = f"{place} {self.label}"

        def mark(ctx: Context) -> None:
            "remember when"
            ctx.marks[key] = ctx.batches

        return (mark,)

    def reason(self, ctx: Context) -> str:
        """Empty: it only lets others be asked."""
        return ""


@frozen
class MinEpochs(Guard):
    """Holds when at least `n` epochs have been made."""

    n: int = field(validator=whole)

    reads = frozenset({"epoch"})

    @property
    def label(self) -> str:
        return f"{self.n} epoch{'s' if self.n > 1 else ''} made"

    def test(self, ctx: Context) -> bool:
        return bool(ctx.epoch >= self.n)

    def reason(self, ctx: Context) -> str:
        """Empty: it only lets another guard be asked."""
        return ""
