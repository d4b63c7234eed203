"""A state: a node of the table, and the scope of the states within it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from attrs import Factory, field, frozen

from statetrain.guards.base import C
from statetrain.outcome import Outcome

StateWork = Callable[[Any], None]

FAILED = "failed"
"""The final state that every lifecycle has without declaring it."""

START = "[*]"
"""Where the arrow into the initial state comes from; the usual sign of the pseudo-state."""


class Mode(Protocol[C]):
    """Something outside the context that belongs to a scope, such as whether gradients are on.

    It is set when the scope opens and put back when it closes, on failure, and around each pause of
    a stepped run.
    """

    def read(self, ctx: C) -> Any:
        """The present value."""

    def write(self, ctx: C, value: Any) -> None:
        """Puts a value back that was read."""

    def begin(self, ctx: C) -> None:
        """Sets what the scope starts with."""

    def wrap(self, action: StateWork) -> StateWork:
        """The action of a state inside the scope, as it is to be run there."""


def _own_name(state: State) -> str:
    return state.name


@frozen(cache_hash=True)
class State:
    """A node of the table, and the scope of the states within it.

    Args:
        name: an identifier; the hooks are `on_enter_<name>` and `on_exit_<name>`.
        action: the work of the state, a function of the context. None for a state that only decides
            or groups.
        within: the scope that it lies in; None for the outside.
        final: whether the run ends here.
        anchor: whether a run may be saved and resumed here: no autograd graph is alive, all
            progress is in the context.
        mode: what is set while the scope is open.
        close: the work of leaving the state, after its exit hooks.
        reopen: the work of opening the scope again, in place of its enter hooks and its action,
            when a run is resumed at an anchor within it; None for a scope whose action leaves
            nothing but what a snapshot holds.
        meets: what all ranks come together for in its action, such as "reduce the gradients"; empty
            if it needs no other rank.
        outcome: of a final state, how a run ends that reaches it: a class of outcomes. None: it is
            completed, unless it was stopped or the state is one of several final ones.
        role: what the state is, whatever a phase or an evaluation calls it; its own name unless
            given. Callbacks that listen to a role hear every state that has it.
    """

    name: str
    action: StateWork | None = None
    within: str | None = None
    final: bool = field(default=False, kw_only=True)
    anchor: bool = field(default=False, kw_only=True)
    mode: Mode | None = field(default=None, kw_only=True)
    close: StateWork | None = field(default=None, kw_only=True)
    reopen: StateWork | None = field(default=None, kw_only=True)
    meets: str = field(default="", kw_only=True)
    outcome: type[Outcome] | None = field(default=None, kw_only=True)
    # A factory and no method decorated with `@role.default`, which pyright takes for no default
    role: str = field(default=Factory(_own_name, takes_self=True), kw_only=True)

    def __str__(self) -> str:
        return self.name
