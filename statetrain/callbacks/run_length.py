"""How many steps or epochs a run will make, for schedules that take all of it or a share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from statetrain.errors import ConfigError
from statetrain.guards.batch import Accumulating
from statetrain.guards.counters import MaxSteps
from statetrain.standard.limiting import batches_taken
from statetrain.standard.windows import ShortWindow

if TYPE_CHECKING:
    from statetrain.context.context import Context
    from statetrain.lifecycle.lifecycle import Lifecycle


def left_of(ctx: Context, lifecycle: Lifecycle, per: Literal["step", "epoch"], who: str) -> int:
    """The steps or epochs that a fit will make if nothing stops it before.

    Steps are counted from the data, the epochs, the accumulation and a limit of steps.

    Args:
        ctx: the context, before the fit.
        lifecycle: the table of the run.
        per: what is counted.
        who: what needs to know, for the error.

    Raises:
        ConfigError: it cannot be known.
    """
    epochs = ctx.max_epochs - ctx.epoch
    if per == "epoch":
        if epochs == math.inf:
            raise ConfigError(f"{who} takes the whole run, which has no last epoch; say over=")
        return int(epochs)
    limits = _numbers(lifecycle, MaxSteps)
    batches = batches_taken(lifecycle, "next_batch", ctx.train_data)
    if batches is not None and epochs != math.inf:
        window = max(_numbers(lifecycle, Accumulating), default=1)
        steps = -(-batches // window)
        if _numbers(lifecycle, ShortWindow):  # the last window of an epoch makes none
            steps = batches // window
        limits.append(steps * int(epochs))
    if not limits:
        raise ConfigError(
            f"{who} takes the whole run, and how many steps that has is not known: the data has no"
            " length, or there is no last epoch; say over=, or give max_steps="
        )
    return min(limits)


def _numbers(life: Lifecycle, kind: type[MaxSteps | Accumulating | ShortWindow]) -> list[int]:
    return [guard.n for guard in life.guards if isinstance(guard, kind)]
