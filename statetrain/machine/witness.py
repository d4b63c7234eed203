"""Observes what machines do, where an observer is set: how tests count the arrows taken.

A machine looks once, when it is made, whether there is a witness. If there is none, as is usual,
nothing of this is in what it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from statetrain.lifecycle.lifecycle import Lifecycle
    from statetrain.lifecycle.transition import Transition


class Witness(Protocol):
    """Observes what the machines of one lifecycle do.

    It raises nothing of its own.
    """

    def taking(self, arrow: Transition) -> Callable[[Any], None] | None:
        """Returns what to call with the context when an arrow is taken, before its effect.

        None if the arrow is of no interest.
        """

    def asking(self, arrow: Transition, ask: Callable[[Any], bool]) -> Callable[[Any], bool]:
        """Returns what to call in place of an arrow's guard, with the guard's own answer."""


WITNESS: ContextVar[Callable[[Lifecycle], Witness | None] | None] = ContextVar(
    "statetrain_witness", default=None
)
"""Gives the witness for a lifecycle, when a machine is made of it."""


def witness_of(lifecycle: Lifecycle) -> Witness | None:
    """The witness that is told what machines of a lifecycle do; usually None."""
    find = WITNESS.get()
    if find is None:
        return None
    return find(lifecycle)


@contextmanager
def unwitnessed() -> Iterator[None]:
    """Machines that are made within it report to no witness.

    For generated tests, whose guards are not the lifecycle's own.
    """
    token = WITNESS.set(None)
    try:
        yield
    finally:
        WITNESS.reset(token)
