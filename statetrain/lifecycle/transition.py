"""A transition: an arrow of the table."""

from __future__ import annotations

from attrs import field, frozen

from statetrain.guards.base import Guard, Test, as_guard
from statetrain.lifecycle.state import StateWork
from statetrain.naming import label_of


def _guard(given: Guard | Test | None) -> Guard | None:
    if given is None:
        return None
    return as_guard(given)


@frozen(cache_hash=True)
class Transition:
    """An arrow of the table.

    Args:
        source: the state that it leaves. With an event it may be a scope, and serves everything
            within.
        dest: the state that it leads to.
        guard: asked before it is taken; None is always true.
        effect: work done between leaving and entering, a function of the context.
        event: the class of exception that it is taken on; None for an ordinary arrow.
    """

    source: str
    dest: str
    guard: Guard | None = field(default=None, converter=_guard)
    effect: StateWork | None = None
    event: type[BaseException] | None = None

    @property
    def label(self) -> str:
        """`event [guard] / effect`, as in UML; empty for a plain arrow."""
        parts = []
        if self.event is not None:
            parts.append(self.event.__name__)
        if self.guard is not None:
            parts.append(f"[{self.guard.label}]")
        if self.effect is not None:
            parts.append(f"/ {label_of(self.effect)}")
        return " ".join(parts)

    def __str__(self) -> str:
        return f"{self.source} -> {self.dest} {self.label}".rstrip()
