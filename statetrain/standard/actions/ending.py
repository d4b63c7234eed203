"""Effects of arrows that end a run."""

from __future__ import annotations

from statetrain.context.context import Context
from statetrain.contracts.declaring import access
from statetrain.guards.base import Guard, reason_of
from statetrain.machine.ending import epoch_of
from statetrain.outcome import Interrupted, Stopped


@access(reads={"**"}, writes={"outcome"})  # a guard that says its reason reads what it likes
def say_why(ctx: Context) -> None:
    "record the reason"
    epoch = epoch_of(ctx)
    if ctx.interrupt is not None:
        ctx.outcome = Interrupted(epoch, ctx.interrupt)
    elif ctx.event is not None and ctx.transition.event is not None:
        kind = type(ctx.event).__name__
        ctx.outcome = (
            Interrupted(epoch, kind)
            if isinstance(ctx.event, KeyboardInterrupt)
            else Stopped(epoch, str(ctx.event) or kind)
        )
    else:
        ctx.outcome = Stopped(epoch, reason_of(guard_at(ctx), ctx))


def guard_at(ctx: Context) -> Guard:
    """The guard of the arrow that is being taken."""
    guard = ctx.transition.guard
    assert guard is not None
    return guard
