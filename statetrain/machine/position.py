"""Where a run stands: the part of a context that the machine itself reads and writes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import Factory, define

from statetrain.machine.flight import LAST

if TYPE_CHECKING:
    from statetrain.lifecycle.lifecycle import Transition
    from statetrain.machine.asking import Asked
    from statetrain.machine.machine import Machine
    from statetrain.outcome import Outcome


Place: TypeAlias = "tuple[Transition, str]"


@define(eq=False)
class Position:
    """The least context that a machine can run. `Context` adds what training needs; a lifecycle of one's own may add less.

    Slots: a misspelt field is an error, not a new field, and the machine's note on the error names
    the nearest one. (A `__getattr__` that did so would make every read of every field several times
    slower.)
    """

    machine: Machine = None  # type: ignore[assignment]  # what walks it, or walked it last
    # The arrow being taken or last taken, and the innermost state that is open: `transition`,
    # `state`
    place: Place = (None, None)  # type: ignore[assignment]
    event: BaseException | None = None  # the event that the last event arrow was taken on
    stop: str | None = None  # why someone asked the run to stop
    interrupt: str | None = None  # the signal that asked the process to stop
    saves: bool = False  # whether somebody saves the run at anchors, and heeds signals there
    outcome: Outcome | None = None  # how the run ended; None while it goes on
    error: BaseException | None = None  # the exception that the run failed with
    # Clean-ups, run last-in first-out on every path
    deferred: list[Callable[[], object]] = Factory(list)
    # What is still to be put back, last of all, when a run is continued
    reopening: list[Callable[[], object]] = Factory(list)
    # The open scopes' modes, each with what is to be put back
    modes: list[list[Any]] = Factory(list)
    marks: dict[str, float] = Factory(dict)  # when intervals last fired
    # What guards answered at the last decision, if the run is stepped or somebody records it
    asked: list[Asked] = Factory(list)
    # The last decisions; see `statetrain.machine.flight`
    flight: deque[Any] = Factory(lambda: deque(maxlen=LAST))

    @property
    def transition(self) -> Transition:
        """The arrow that is being taken, or was taken last; None before a run."""
        return self.place[0]

    @property
    def state(self) -> str:
        """The innermost state that is open; None before a run."""
        return self.place[1]

    def defer(self, function: Callable[[], object]) -> None:
        """Registers a clean-up. It runs when the run ends, on every path, the last registered first."""
        self.deferred.append(function)

    def request_stop(self, reason: str) -> None:
        """Asks the run to stop at the next loop head. The first reason stays.

        Args:
            reason: why; it becomes the outcome's.
        """
        if self.stop is None:
            self.stop = reason

    def where(self) -> str:
        """Where in its data the run stands, for error notes; empty if there is nothing to say."""
        return ""

    def advice(self, error: BaseException) -> str:
        """What to do about an error, for its note; empty if there is nothing to say."""
        return ""
