"""Where a run stands: the part of a context that the machine itself reads and writes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import Factory, define

from statetrain.engine.flight import LAST

if TYPE_CHECKING:
    from statetrain.engine.asking import Asked
    from statetrain.lifecycle import Transition
    from statetrain.machine import Machine
    from statetrain.outcome import Outcome


Place: TypeAlias = "tuple[Transition | None, str | None]"


@define(eq=False)
class Position:
    """The least context that a machine can run. `Context` adds what training needs; a lifecycle of one's own may add less.

    Slots: a misspelt field is an error, not a new field, and the machine's note on the error names the nearest one. (A
    `__getattr__` that did so would make every read of every field several times slower.)
    """

    machine: Machine | None = None  # what walks it, or walked it last
    place: Place = (None, None)  # the arrow being taken or last taken, and the innermost state that is open: `transition`, `state`
    event: BaseException | None = None  # the event that the last event arrow was taken on
    stop: str | None = None  # why someone asked the run to stop
    interrupt: str | None = None  # the signal that asked the process to stop
    saves: bool = False  # whether somebody saves the run at anchors, and heeds signals there
    outcome: Outcome | None = None  # how the run ended; None while it goes on
    error: BaseException | None = None  # the exception that the run failed with
    deferred: list[Callable[[], object]] = Factory(list)  # clean-ups, run last-in first-out on every path
    reopening: list[Callable[[], object]] = Factory(list)  # what is still to be put back, last of all, when a run is continued
    modes: list[list[Any]] = Factory(list)  # the open scopes' modes, each with what is to be put back
    marks: dict[str, float] = Factory(dict)  # when intervals last fired
    asked: list[Asked] = Factory(list)  # what guards answered at the last decision, if the run is stepped or somebody records it
    flight: deque[Any] = Factory(lambda: deque(maxlen=LAST))  # the last decisions; see `statetrain.engine.flight`

    @property
    def transition(self) -> Transition | None:
        """The arrow that is being taken, or was taken last; None before a run."""
        return self.place[0]

    @property
    def state(self) -> str | None:
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
