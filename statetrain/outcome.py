"""Outcomes: how a run ended and why."""

from __future__ import annotations

import signal

from attrs import frozen


@frozen
class Outcome:
    """How a run ended.

    Attributes:
        epoch: the epoch it ended in, counted from 1; 0 before the first.
    """

    epoch: int = 0

    @property
    def ok(self) -> bool:
        """Whether the run ended as it was meant to: completed, or stopped for a reason."""
        return isinstance(self, Completed | Stopped)

    def _repr_html_(self) -> str:
        from statetrain.notebook import badge

        word, _, rest = repr(self).partition("(")
        return badge(word.lower(), rest.removesuffix(")"), "#2f855a" if self.ok else "#c53030")


@frozen
class Completed(Outcome):
    """Everything that was asked for was done."""

    def __repr__(self) -> str:
        return f"Completed(epoch={self.epoch})"


@frozen
class Stopped(Outcome):
    """A guard or a request ended the run before its last epoch.

    Attributes:
        reason: the label, or the request, that did.
    """

    reason: str = ""

    def __repr__(self) -> str:
        return f"Stopped({self.reason!r}, epoch={self.epoch})"


@frozen
class Interrupted(Outcome):
    """A person or the system asked the process to stop.

    Attributes:
        reason: the signal's name, or what was done.
    """

    reason: str = ""

    @property
    def exit_code(self) -> int:
        """The exit code of a process that ends for this reason.

        128 and the signal's number; 130 for Ctrl-C.
        """
        return 128 + int(getattr(signal, self.reason, signal.SIGINT))

    def __repr__(self) -> str:
        return f"Interrupted({self.reason!r}, epoch={self.epoch})"


@frozen
class Failed(Outcome):
    """An exception ended the run.

    Attributes:
        state: the state that it was raised in.
        error: the exception itself.
    """

    state: str = ""
    error: BaseException | None = None

    def __repr__(self) -> str:
        return f"Failed({self.state!r}, {self.error!r}, epoch={self.epoch})"
