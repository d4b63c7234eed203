"""Retrying: a batch that could not be drawn is drawn again, a number of times.

The data continues from where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import field, frozen

from statetrain.context.context import Context
from statetrain.contracts.composing import then
from statetrain.contracts.declaring import access
from statetrain.data.iterating import take_up
from statetrain.errors import ConfigError
from statetrain.guards.base import Guard
from statetrain.guards.requests import stop_requested
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.standard.actions.pausing import pause
from statetrain.validators import check_not_negative, positive, whole

_KEY = "tries of a batch"
_SINCE = "waiting since"
_AT = "batch that was tried"


@frozen
class TriesLeft(Guard):
    """True while the batch that is due has been tried again fewer than `n` times.

    Args:
        n: tries after the first one, at least 1.
    """

    n: int = field(validator=whole)

    reads = frozenset({"batches", "marks"})
    agree = "any"

    @property
    def label(self) -> str:
        return f"fewer than {self.n} tries"

    def test(self, ctx: Context) -> bool:
        return _tries(ctx) < self.n


@frozen
class Waited(Guard):
    """True when the wait before another try is over: `seconds`, and twice as long each time.

    Args:
        seconds: before the first new try, above 0, by the run's clock.
    """

    seconds: float = field(validator=positive)

    reads = frozenset({"batches", "marks", "seconds"})
    agree = "first"

    @property
    def label(self) -> str:
        return f"waited {self.seconds:g} s, doubled with each try"

    def test(self, ctx: Context) -> bool:
        due = self.seconds * 2 ** (_tries(ctx) - 1)
        return bool(ctx.seconds - ctx.marks.get(_SINCE, 0.0) >= due)


def _tries(ctx: Context) -> float:
    """How often the batch that is due has been tried again."""
    if ctx.marks.get(_AT) != ctx.batches:
        return 0
    return ctx.marks.get(_KEY, 0)


_DATA = {"iter", "train_data", "epoch", "loader_states"}


@access(reads={"batches", "marks", *_DATA}, writes={"marks", "iterator", "began"})
def resume_data(ctx: Context) -> None:
    "resume the data where it was"
    _count_try(ctx)
    take_up(ctx, "train", ctx.iter)


@access(reads={"batches", "marks", "seconds"}, writes={"marks"})
def begin_waiting(ctx: Context) -> None:
    "begin to wait"
    _count_try(ctx)
    ctx.marks[_SINCE] = ctx.seconds


@access(reads=_DATA, writes={"iterator", "began"})
def go_on(ctx: Context) -> None:
    "resume the data where it was"
    take_up(ctx, "train", ctx.iter)


def _count_try(ctx: Context) -> None:
    ctx.marks[_KEY] = _tries(ctx) + 1
    ctx.marks[_AT] = ctx.batches


def retrying(
    life: Lifecycle,
    tries: int = 3,
    *,
    errors: type[Exception] | tuple[type[Exception], ...] = OSError,
    otherwise: Callable[[Context], None] | None = None,
    wait: float = 0.0,
) -> Lifecycle:
    """A lifecycle in which a training batch that raises an error is drawn again.

    The data continues from where it was.

        life = st.retrying(st.supervised(), 3, errors=(OSError, TimeoutError))

    The data is resumed at that batch, as when a run is resumed: a dataset is asked for it again,
    other data is iterated again up to it. After the last try, the error ends the run as without.

    Args:
        life: a lifecycle with states of the role `draw`; each gets the arrows.
        tries: how often a batch is tried again, at least 1.
        errors: the classes of exceptions that are worth another try.
        otherwise: more work before another try, such as reconnecting; a function of the context.
        wait: seconds before the first new try, by the run's clock, and twice as long before each
            later one; at least 0. The run waits in a state, so a request to stop takes effect.

    Raises:
        ConfigError: `errors` holds something else, `tries` is below 1, `wait` is below 0, or no
            state draws.
    """
    check_not_negative("retrying: wait", wait, "number of seconds")
    if not life.by_role("draw"):
        raise ConfigError(f"retrying: lifecycle {life.name!r} has no state with the role 'draw'")
    kinds, left = _widest(errors), TriesLeft(tries)
    for state in life.by_role("draw"):
        if wait:
            life = _waiting(life, state, left, Waited(wait), kinds, otherwise)
        else:
            life = _at_once(life, state, left, kinds, otherwise)
    return life


def _widest(errors: Any) -> list[type[Exception]]:
    """The classes of exceptions that are part of no other among them."""
    kinds = errors
    if not isinstance(errors, tuple):
        kinds = (errors,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise ConfigError(f"retrying: errors are classes of exceptions, got {kind!r}")
    different = dict.fromkeys(kinds)
    return [kind for kind in different if sum(issubclass(kind, one) for one in different) == 1]


def _at_once(
    life: Lifecycle,
    draw: State,
    left: Guard,
    kinds: list[type[Exception]],
    otherwise: Callable[[Context], None] | None,
) -> Lifecycle:
    again = then(otherwise, resume_data)
    arrows = [Transition(draw.name, draw.name, left, again, kind) for kind in kinds]
    return life.add(*arrows)


def _waiting(
    life: Lifecycle,
    draw: State,
    left: Guard,
    waited: Guard,
    kinds: list[type[Exception]],
    otherwise: Callable[[Context], None] | None,
) -> Lifecycle:
    """With a state in which a run waits, and from where it goes back to its loop head to stop."""
    name = f"{draw.name}_wait"
    (head, *_) = (arrow.source for arrow in life.transitions if arrow.dest == draw.name)
    return life.add(
        State(name, pause, draw.within, role="draw_wait"),
        *(Transition(draw.name, name, left, begin_waiting, kind) for kind in kinds),
        Transition(name, head, stop_requested),
        Transition(name, draw.name, waited, then(otherwise, go_on)),
        Transition(name, name),
    )
