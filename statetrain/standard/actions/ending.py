"""Effects of arrows that end a run."""

from __future__ import annotations

from statetrain.context.context import Context
from statetrain.contracts.declaring import access
from statetrain.guards.base import Guard
from statetrain.machine.ending import epoch_of, outcome_of_arrow
from statetrain.outcome import Interrupted


@access(reads={"**"}, writes={"outcome"})  # a guard that says its reason reads what it likes
def say_why(ctx: Context) -> None:
    "record the reason"
    if ctx.interrupt is not None:
        ctx.outcome = Interrupted(epoch_of(ctx), ctx.interrupt)
    else:
        ctx.outcome = outcome_of_arrow(ctx)


def guard_at(ctx: Context) -> Guard:
    """The guard of the arrow that is being taken."""
    guard = ctx.transition.guard
    assert guard is not None
    return guard
