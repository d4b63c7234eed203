"""Guards on clocks: how long a fit may take, and when its job ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from statetrain.errors import ConfigError
from statetrain.guards.base import Guard, Test
from statetrain.validators import check_not_negative

if TYPE_CHECKING:
    from statetrain.context.context import Context


@frozen
class TimeLimit(Guard):
    """True when this fit has taken that long, by the context's clock.

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
            raise ConfigError(
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


def _moment(value: datetime | float | None) -> float | None:
    if isinstance(value, datetime):
        return value.timestamp()
    return value


@frozen
class Deadline(Guard):
    """True when the rest of a job's time is needed for saving and closing.

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
        if self.at is not None:
            check_not_negative("Deadline: at", self.at, "number of seconds")
        check_not_negative("Deadline: margin", self.margin, "number of seconds")

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
            ConfigError: no end is given, and SLURM gives none.
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
