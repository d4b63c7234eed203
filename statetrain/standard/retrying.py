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
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.transition import Transition
from statetrain.validators import whole

_KEY = "tries of a batch"
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


def _tries(ctx: Context) -> float:
    """How often the batch that is due has been tried again."""
    if ctx.marks.get(_AT) != ctx.batches:
        return 0
    return ctx.marks.get(_KEY, 0)


@access(
    reads={"batches", "iter", "marks", "train_data", "epoch", "loader_states"},
    writes={"marks", "iterator", "began"},
)
def resume_data(ctx: Context) -> None:
    "resume the data where it was"
    ctx.marks[_KEY] = _tries(ctx) + 1
    ctx.marks[_AT] = ctx.batches
    take_up(ctx, "train", ctx.iter)


def retrying(
    life: Lifecycle,
    tries: int = 3,
    *,
    errors: type[Exception] | tuple[type[Exception], ...] = OSError,
    otherwise: Callable[[Context], None] | None = None,
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

    Raises:
        ConfigError: `errors` holds something else, or no state draws.
        ValueError: `tries` is below 1.
    """
    if not life.by_role("draw"):
        raise ConfigError(f"retrying: lifecycle {life.name!r} has no state with the role 'draw'")
    kinds = _widest(errors)
    again = then(otherwise, resume_data)
    for state in life.by_role("draw"):
        arrows = [
            Transition(state.name, state.name, TriesLeft(tries), again, kind) for kind in kinds
        ]
        life = life.add(*arrows)
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
