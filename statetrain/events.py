"""Events: exceptions that make the machine take an arrow that names them."""

from __future__ import annotations


class Event(Exception):
    """Base of the events that actions and enter hooks may raise to take an arrow that names them.

    A user's own event is a subclass with an arrow of its own: `Transition("fit", "end",
    event=MyEvent)`.

    Args:
        reason: why, for the outcome and the trace.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class SkipBatch(Event):
    """Leave this batch; what it added to an accumulation window is discarded with the window."""


class SkipEpoch(Event):
    """Leave this epoch, this training or this validation, whichever is the innermost."""


class StopFit(Event):
    """Leave the fit at once."""
