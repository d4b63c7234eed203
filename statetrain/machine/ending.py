"""How a run that has reached a final state ended."""

from __future__ import annotations

from typing import Any

import attrs

from statetrain.context.position import Position
from statetrain.guards.base import reason_of
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.outcome import Completed, Ended, Interrupted, Outcome, Stopped


def outcome_of(ctx: Position, lifecycle: Lifecycle) -> Outcome:
    """The outcome of a run, where no effect of the table has said it.

    It is what the final state says (`State(outcome=)`). Without that, of several final states each
    but `end` is an outcome of its own; an interrupt, a request to stop, and an event that led to
    the end are said as such; and everything else is completed.

    Args:
        ctx: the context, in a final state.
        lifecycle: the table.
    """
    state, epoch = lifecycle.state(ctx.state), epoch_of(ctx)
    if state.outcome is not None:
        return _made(state.outcome, epoch, _reason(ctx))
    if _has_name(lifecycle, state):
        return Ended(epoch, _reason(ctx), state.name)
    if ctx.transition.event is not None:
        return outcome_of_arrow(ctx)
    if _has_declined(ctx, lifecycle):
        return Completed(epoch)
    if ctx.interrupt is not None:
        return Interrupted(epoch, ctx.interrupt)
    if ctx.stop is not None:
        return Stopped(epoch, ctx.stop)
    return Completed(epoch)


def outcome_of_arrow(ctx: Position) -> Outcome:
    """The outcome of a run that its last arrow stopped, by its event or its guard."""
    if ctx.transition.event is not None and isinstance(ctx.event, KeyboardInterrupt):
        return Interrupted(epoch_of(ctx), _reason(ctx))
    return Stopped(epoch_of(ctx), _reason(ctx))


def _has_declined(ctx: Position, lifecycle: Lifecycle) -> bool:
    """Whether the state before asks for requests to stop, and there was none: one came later."""
    if ctx.transition.guard is not None:
        return False
    guards = (arrow.guard for arrow in lifecycle.arrows(ctx.transition.source))
    return any(guard is not None and "stop" in guard.reads for guard in guards)


def _has_name(lifecycle: Lifecycle, state: State) -> bool:
    """Whether a final state is one of several, and not the usual end."""
    ends = [one for one in lifecycle.states if one.final]
    return len(ends) > 1 and state.role != "end"


def _reason(ctx: Position) -> str:
    """Why the last arrow was taken; empty if it has neither an event nor a guard."""
    arrow = ctx.transition
    if arrow.event is not None:
        return str(ctx.event) or type(ctx.event).__name__
    if arrow.guard is None:
        return ""
    return reason_of(arrow.guard, ctx)


def _made(kind: type[Outcome], epoch: int, reason: str) -> Outcome:
    """An outcome, with the reason if it has one."""
    about: dict[str, Any] = {"epoch": epoch}
    if "reason" in {field.name for field in attrs.fields(kind)}:
        about["reason"] = reason
    return kind(**about)


def epoch_of(ctx: Position) -> int:
    """The epoch of a run, for its outcome; 0 where nothing counts them."""
    epoch = getattr(ctx, "epoch", 0)
    if not isinstance(epoch, int):
        return 0
    return epoch
