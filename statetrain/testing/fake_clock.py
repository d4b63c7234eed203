"""A clock that only moves when a test moves it."""

from __future__ import annotations

from attrs import define

from statetrain.errors import ConfigError


@define(eq=False)
class FakeClock:
    """Stands in for `time.monotonic` in `fit(..., clock=FakeClock())`.

        clock = FakeClock() run = toy.fit(clock=clock, stop=TimeLimit(minutes=1), callbacks=...)  #
        which calls clock.advance(30)

    Attributes:
        now: seconds; what it shows.
        tick: seconds that it advances each time that it is read; 0 for a clock that stands still.
    """

    now: float = 0.0
    tick: float = 0.0

    def __call__(self) -> float:
        """The seconds that it shows."""
        shown = self.now
        self.now += self.tick
        return shown

    def advance(self, seconds: float) -> None:
        """Moves it on.

        Raises:
            ConfigError: `seconds` is below 0; the clocks that it stands in for never go back.
        """
        if not seconds >= 0:
            raise ConfigError(f"FakeClock.advance: seconds must be at least 0, got {seconds!r}")
        self.now += seconds
