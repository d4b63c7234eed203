"""Guards on counters: intervals, limits, what is left of the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, field, frozen

from statetrain.errors import ConfigError
from statetrain.guards.base import Guard, Test, guard
from statetrain.validators import one_of, positive, whole

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
    return unit.removesuffix("es" if unit == "batches" else "s")


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
class After(Guard):
    """Holds when that long has passed since its arrow was last taken; before that, since the start.

    By the context's clock, `ctx.seconds`, which a resumed run continues. Nothing sleeps:
    it is asked where the table asks it, so another arrow has to be taken meanwhile. When the arrow
    was taken is remembered by its effect, as for `Every`; unlike there, the time begins anew with
    each arrow.

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
        key, least = f"{place} {self.label}", self.seconds
        return lambda ctx: bool(ctx.seconds - ctx.marks.get(key, 0) >= least)

    def marks(self, place: str) -> tuple[Callable[[Any], None], ...]:
        key = f"{place} {self.label}"

        def mark(ctx: Context) -> None:
            "remember when"
            ctx.marks[key] = ctx.seconds

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


@guard(reads={"epoch", "max_epochs"})
def more_epochs(ctx: Context) -> bool:
    "more epochs"
    return bool(ctx.epoch < ctx.max_epochs)


@frozen
class BatchesLeft(Guard):
    """Holds while the data that is iterated over has batches left, as far as its length tells.

    Of data without a length that is not known before drawing, so it holds until the data has ended.
    """

    reads = frozenset({"iter", "length?"})
    agree = "all"

    @property
    def label(self) -> str:
        return "batches left"

    def test(self, ctx: Context) -> bool:
        return bool(ctx.iter != ctx.length)

    def reason(self, ctx: Context) -> str:
        """Empty: it only lets another guard be asked."""
        return ""


batches_left = BatchesLeft()


@guard(reads={"exhausted"}, agree="all")
def train_data_left(ctx: Context) -> bool:
    "train data left"
    return not ctx.exhausted


@guard(reads={"epoch"})
def trained(ctx: Context) -> bool:
    "an epoch was begun"
    return ctx.epoch > 0


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
