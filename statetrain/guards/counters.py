"""Guards on counters: intervals, limits, what is left of the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, field, frozen

from statetrain.errors import ConfigError
from statetrain.guards.base import Guard, Test, guard
from statetrain.naming import count_of
from statetrain.validators import is_number, one_of, positive, whole

if TYPE_CHECKING:
    from statetrain.context.context import Context

Unit = Literal["batches", "steps", "epochs", "samples", "seconds", "minutes"]


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
        raise ConfigError(
            f"{type(instance).__name__}: n must be a whole number of {unit}, got {instance.n!r}"
        )


def _singular(unit: Unit) -> str:
    return "batch" if unit == "batches" else unit.removesuffix("s")


# ---------------------------------------------------------------- guards that remember

ReadCounter = Callable[[Any], float]
MarkPlace = Callable[[Any], None]


def _key_of(guard: Guard, place: str) -> str:
    """Under which the context keeps what a guard remembers at a place."""
    return f"{place} {guard.label}"


def _marking(key: str, read: ReadCounter) -> tuple[MarkPlace, ...]:
    """What keeps a counter's value, when the arrow of a guard has been taken."""

    def mark(ctx: Context) -> None:
        "remember when"
        ctx.marks[key] = read(ctx)

    return (mark,)


@frozen
class Every(Guard):
    """True when a counter has crossed a multiple of `n` since the arrow or callback last fired.

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
        if self.n == 1:
            return f"every {_singular(self.unit)}"
        return f"every {self.n} {self.unit}"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({_COUNTERS[self.unit], "marks"})

    @property
    def _count(self) -> ReadCounter:
        """What reads the counter, in the unit."""
        read: ReadCounter = attrgetter(_COUNTERS[self.unit])
        if self.unit == "minutes":
            return lambda ctx: read(ctx) / 60
        return read

    def test(self, ctx: Context) -> bool:
        return self.bind("")(ctx)

    def bind(self, place: str) -> Test:
        key, n, count = _key_of(self, place), self.n, self._count
        return lambda ctx: bool(count(ctx) // n > ctx.marks.get(key, 0) // n)

    def marks(self, place: str) -> tuple[MarkPlace, ...]:
        return _marking(_key_of(self, place), self._count)


@frozen
class Once(Guard):
    """True once, when a counter has reached `n`.

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
        if self.n == 1:
            return f"once after 1 {_singular(self.unit)}"
        return f"once after {self.n} {self.unit}"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({_COUNTERS[self.unit], "marks"})

    def test(self, ctx: Context) -> bool:
        return self.bind("")(ctx)

    def bind(self, place: str) -> Test:
        key, count = _key_of(self, place), attrgetter(_COUNTERS[self.unit])
        least = self.n * _SECONDS.get(self.unit, 1)
        return lambda ctx: bool(count(ctx) >= least and key not in ctx.marks)

    def marks(self, place: str) -> tuple[MarkPlace, ...]:
        return _marking(_key_of(self, place), attrgetter(_COUNTERS[self.unit]))


_SECONDS = {"minutes": 60}


@frozen
class After(Guard):
    """True when that long has passed since its arrow was last taken; before that, since the start.

    By the context's clock, `ctx.seconds`, which a resumed run continues. Nothing sleeps: it is
    evaluated where the table evaluates it, so another arrow has to be taken meanwhile. When the
    arrow was taken is remembered by its effect, as for `Every`; unlike there, the time begins again
    with each arrow.

    Args:
        seconds: above 0.
    """

    seconds: float = field(validator=positive)

    prompt = True
    remembers = True
    reads = frozenset({"seconds", "marks"})

    @property
    def label(self) -> str:
        return f"{self.seconds:g} seconds passed"

    def test(self, ctx: Context) -> bool:
        return self.bind("")(ctx)

    def bind(self, place: str) -> Test:
        key, least = _key_of(self, place), self.seconds
        return lambda ctx: bool(ctx.seconds - ctx.marks.get(key, 0) >= least)

    def marks(self, place: str) -> tuple[MarkPlace, ...]:
        return _marking(_key_of(self, place), attrgetter("seconds"))


@frozen
class NotYet(Guard):
    """True until its arrow has been taken, and again once training has continued."""

    reads = frozenset({"batches", "marks"})
    remembers = True
    explains = False

    @property
    def label(self) -> str:
        return "not yet"

    def test(self, ctx: Context) -> bool:
        return self.bind("")(ctx)

    def bind(self, place: str) -> Test:
        key = _key_of(self, place)
        return lambda ctx: bool(ctx.marks.get(key) != ctx.batches)

    def marks(self, place: str) -> tuple[MarkPlace, ...]:
        return _marking(_key_of(self, place), attrgetter("batches"))


# ---------------------------------------------------------------- limits, and what is left


@frozen
class MaxSteps(Guard):
    """True when the optimizers have made `n` steps in this fit.

    A fit that continues with `run.fit(...)` counts from 0; one that is resumed from a checkpoint
    does not.

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
class MinEpochs(Guard):
    """True when at least `n` epochs have been made."""

    n: int = field(validator=whole)

    reads = frozenset({"epoch"})
    explains = False

    @property
    def label(self) -> str:
        return f"{count_of(self.n, 'epoch')} made"

    def test(self, ctx: Context) -> bool:
        return bool(ctx.epoch >= self.n)


@guard(reads={"epoch", "max_epochs"})
def more_epochs(ctx: Context) -> bool:
    "more epochs"
    most = ctx.max_epochs
    if not is_number(most) or not (most == math.inf or float(most).is_integer()):
        raise ConfigError(
            "ctx.max_epochs must be a whole number of epochs, or math.inf for no limit, got"
            f" {most!r:.80}; a callback, an action or your own code has assigned it"
        )
    return bool(ctx.epoch < most)


@frozen
class BatchesLeft(Guard):
    """True while the data that is iterated over has batches left, as far as its length tells.

    For data without a length that is not known before drawing, so it is true until the data ends.
    """

    reads = frozenset({"iter", "length?"})
    agree = "all"
    explains = False

    @property
    def label(self) -> str:
        return "batches left"

    def test(self, ctx: Context) -> bool:
        return bool(ctx.iter != ctx.length)


batches_left = BatchesLeft()


@guard(reads={"exhausted"}, agree="all")
def train_data_left(ctx: Context) -> bool:
    "train data left"
    return not ctx.exhausted


@guard(reads={"epoch"})
def trained(ctx: Context) -> bool:
    "an epoch was begun"
    return ctx.epoch > 0
