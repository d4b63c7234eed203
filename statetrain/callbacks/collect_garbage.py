"""CollectGarbage: runs Python's garbage collector at intervals, not in the middle of a batch."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

from statetrain.callback import Callback
from statetrain.errors import ConfigError
from statetrain.guards.counters import Every

if TYPE_CHECKING:
    from statetrain.context.context import Context


class CollectGarbage(Callback):
    """Switches automatic garbage collection off during a fit, and collects at intervals.

    An automatic collection comes at any moment and looks at everything that is alive; here what is
    alive when the fit starts, such as the dataset, is left out of all collections. Afterwards the
    collector is as it was before.

    Args:
        every: the interval.

    Raises:
        ConfigError: `every` is no interval.
    """

    writes = ()

    def __init__(self, every: Every = Every(100, "steps")) -> None:  # noqa: B008  # a frozen value
        if not isinstance(every, Every):
            raise ConfigError(
                f"CollectGarbage takes an interval with its unit, got {every!r}; write Every(100,"
                ' "steps")'
            )
        self.every = every
        self.reads = {"on_exit_step": every.reads}
        self._due, (self._mark,) = every.bind("CollectGarbage"), every.marks("CollectGarbage")

    def on_enter_fit(self, ctx: Context) -> None:
        """Switches the automatic collection off."""
        self._switch_off(ctx)

    def on_resume(self, ctx: Context) -> None:
        """Switches the automatic collection off."""
        self._switch_off(ctx)

    def on_exit_step(self, ctx: Context) -> None:
        """Collects, if it is time."""
        if self._due(ctx):
            self._mark(ctx)
            gc.collect()

    def _switch_off(self, ctx: Context) -> None:
        automatic, untouched = gc.isenabled(), gc.get_freeze_count() == 0
        gc.collect()
        if untouched:  # else somebody has frozen what was alive then, and only all can be unfrozen
            gc.freeze()
        gc.disable()

        def switch_on() -> None:
            if automatic:
                gc.enable()
            if untouched:
                gc.unfreeze()

        ctx.defer(switch_on)

    def __reduce__(self) -> tuple[Any, ...]:
        """Made again from its interval: a bound test cannot be pickled."""
        return type(self), (self.every,)

    def __repr__(self) -> str:
        return f"CollectGarbage({self.every.label!r})"
