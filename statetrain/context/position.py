"""Where a run stands: the part of a context that the machine itself reads and writes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import define

from statetrain.context.fields import Fact, field, made_of
from statetrain.errors import MachineError

if TYPE_CHECKING:
    from statetrain.lifecycle.transition import Transition
    from statetrain.machine.agreeing import News
    from statetrain.machine.asking import Asked
    from statetrain.machine.machine import Machine
    from statetrain.outcome import Outcome


Place: TypeAlias = "tuple[Transition, str]"
NOWHERE: Any = (None, None)
"""The place before a run."""

LAST = 32
"""How many decisions are kept for the note on a failure."""


@define(eq=False, repr=False)
class Position:
    """The least context that a machine can run; `Context` adds what training needs.

    Slots: a misspelt field is an error, not a new field, and the machine's note on the error names
    the nearest one. (A `__getattr__` that did so would make every read of every field several times
    slower.)
    """

    machine: Machine = field(Fact.ANEW, Fact.OF_MACHINE, Fact.OPEN)
    """What walks it, or walked it last."""

    place: Place = field(Fact.SAVED_APART, Fact.OF_MACHINE, Fact.OPEN, default=NOWHERE)
    """The arrow being taken or last taken, and the innermost open state: `transition`, `state`."""

    event: BaseException | None = field(Fact.ANEW, Fact.OF_MACHINE)
    """The event that the last event arrow was taken on."""

    stop: str | None = field(Fact.SAVED_APART, Fact.OWN)
    """Why the run was asked to stop."""

    interrupt: str | None = field(Fact.ANEW, Fact.OWN)
    """The signal that asked the process to stop."""

    saves: bool = field(Fact.ANEW, default=False)
    """Whether a callback saves the run at anchors, and heeds signals there."""

    check_logged: Callable[[Any], Any] | None = field(Fact.ANEW, default=None)
    """What refuses a value that `log` is given and that cannot be saved; None where none is."""

    outcome: Outcome | None = field(Fact.ANEW, Fact.OF_MACHINE)
    """How the run ended; None while it goes on."""

    error: BaseException | None = field(Fact.ANEW, Fact.OF_MACHINE)
    """The exception that the run failed with."""

    news: News | None = field(Fact.ANEW, Fact.OF_MACHINE, Fact.OPEN, Fact.OWN)
    """What several ranks have told each other; None in one process."""

    deferred: list[Callable[[], object]] = field(Fact.ANEW, Fact.OF_MACHINE, factory=list)
    """Clean-ups, run last-in first-out on every path."""

    reopening: list[Callable[[], object]] = field(Fact.ANEW, Fact.OF_MACHINE, factory=list)
    """What is still to be put back, last of all, when a run is continued."""

    modes: list[list[Any]] = field(Fact.ANEW, Fact.OF_MACHINE, factory=list)
    """The open scopes' modes, each with what is to be put back."""

    marks: dict[str, float] = field(Fact.SAVED, Fact.NOTED, factory=dict)
    """When intervals last fired."""

    folds: dict[Any, Any] = field(Fact.ANEW, Fact.NOTED, Fact.OPEN, factory=dict)
    """How far guards on the history have read; see `statetrain.guards.folding`."""

    grounds: dict[str, int] = field(Fact.ANEW, Fact.NOTED, Fact.OPEN, factory=dict)
    """Of guards that are alternatives, by label, which part was true when they were last asked."""

    asked: list[Asked] = field(Fact.ANEW, Fact.NOTED, factory=list)
    """What guards answered at the last decision, if the run is stepped or recorded."""

    flight: deque[Any] = field(Fact.ANEW, Fact.NOTED, factory=lambda: deque(maxlen=LAST))
    """The last decisions; see `statetrain.machine.flight`."""

    @property
    @made_of("place", facts=(Fact.OF_MACHINE, Fact.OPEN))
    def transition(self) -> Transition:
        """The arrow that is being taken, or was taken last; None before a run."""
        return self.place[0]

    @property
    @made_of("place", facts=(Fact.OF_MACHINE, Fact.OPEN))
    def state(self) -> str:
        """The innermost state that is open; None before a run."""
        return self.place[1]

    @property
    @made_of("place", "machine", facts=(Fact.OF_MACHINE, Fact.OPEN))
    def role(self) -> str:
        """The current state's role, whatever a phase calls it; None before a run."""
        if self.state is None:
            return self.state
        return self.machine.lifecycle.role(self.state)

    @made_of("place", "machine", facts=(Fact.OPEN,))
    def scope(self, role: str) -> str | None:
        """The name of the innermost open state that has a role; None if none is open.

        ctx.scope("valid")      # "valid", or "test" in an evaluation of that name
        ctx.scope("fit")        # "pretrain_fit" in a phase with that prefix
        """
        if self.state is None:
            return None
        lifecycle = self.machine.lifecycle
        open_states = reversed(lifecycle.path(self.state))
        return next((name for name in open_states if lifecycle.role(name) == role), None)

    def defer(self, function: Callable[[], object]) -> None:
        """Registers a clean-up for the end of the run, however it ends; the last one runs first."""
        self.deferred.append(function)

    def request_stop(self, reason: str) -> None:
        """Asks the run to stop at the next loop head. The first reason stays.

        Args:
            reason: why; it becomes the outcome's.

        Raises:
            MachineError: no guard of the lifecycle reads such a request, so it would be lost.
        """
        if self.machine is not None and not self.machine.plan.may_stop:
            raise MachineError(
                f"lifecycle {self.machine.lifecycle.name!r} cannot be asked to stop: none of its"
                " guards reads ctx.stop; give a loop head the arrow Transition(<state>, <end>,"
                f" statetrain.stop_requested); the reason was: {reason}"
            )
        if self.news is not None:  # all ranks have it at the next meeting
            self.news.request_stop(reason)
        elif self.stop is None:
            self.stop = reason

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.state or 'before the run'}>"

    def where(self) -> str:
        """Where in its data the run stands, for error notes; empty if there is nothing to say."""
        return ""

    def advice(self, error: BaseException) -> str:
        """What to do about an error, for its note; empty if there is nothing to say."""
        return ""
