"""What every engine does: make a call, take an arrow, arrive, and close a run.

The loop of the compiled table does most of it in line, for many calls at once; the engine of
`transitions` calls these.
"""

from __future__ import annotations

from statetrain.context.position import Position
from statetrain.errors import LifecycleError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED
from statetrain.lifecycle.transition import Transition
from statetrain.machine.ending import outcome_of
from statetrain.machine.failing import clean_up, junk, raise_all
from statetrain.machine.plan import Plan, Work


def make_call(plan: Plan, ctx: Position, work: Work) -> None:
    """Makes one call of a run, and publishes what it belongs to."""
    ctx.place = (work.transition, work.state)
    if plan.measured(work.function, work.state, work.owner)(ctx) is not None:
        raise junk(plan, ctx, work)


def depart(ctx: Position, arrow: Transition) -> None:
    """Records that an arrow is being taken."""
    ctx.flight.append(((arrow, arrow.dest), (arrow,)))


def land(life: Lifecycle, ctx: Position, arrow: Transition) -> None:
    """Publishes that an arrow has been taken, and closes the run if it led to a final state."""
    ctx.place = (arrow, arrow.dest)
    if arrow.dest == FAILED or life.state(arrow.dest).final:
        finish(life, ctx)


def finish(life: Lifecycle, ctx: Position) -> None:
    """Closes a run that has reached a final state.

    Raises:
        LifecycleError: it reached `failed` without an error.
        BaseException: what a clean-up raised.
    """
    if ctx.state == FAILED:
        raise LifecycleError(
            f"{life.name}: {ctx.transition} led to 'failed', but its effect raised no error; let it"
            " raise one"
        )
    if ctx.outcome is None:
        ctx.outcome = outcome_of(ctx, life)
    raise_all(clean_up(ctx))
