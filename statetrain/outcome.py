"""Outcomes: how a run ended and why.

A final state may have an outcome of your own: a subclass of `Outcome`, which is made with the epoch
and, if it has that field, the reason.

    @attrs.frozen
    class GaveUp(st.Outcome):
        reason: str = ""

    State("gave_up", final=True, outcome=GaveUp)
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

import attrs
from attrs import frozen

from statetrain.errors import StatetrainError


@frozen
class Outcome:
    """How a run ended.

    Attributes:
        epoch: the epoch it ended in, counted from 1; 0 before the first.
    """

    epoch: int = 0

    @property
    def ok(self) -> bool:
        """Whether the run ended as it was meant to: completed, or stopped for a reason.

        A subclass of your own says it with a class attribute, `ok = True`; else it is False.
        """
        return isinstance(self, Completed | Stopped)

    def _repr_html_(self) -> str:
        from statetrain.notebook import badge

        about = as_data(self) or {}
        word, epoch = about.pop("kind").lower(), about.pop("epoch")
        rest = ", ".join([*about.values(), f"epoch {epoch}"])
        return badge(word, rest, "#2f855a" if self.ok else "#c53030")


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
class Ended(Outcome):
    """The run reached a final state that has a name of its own, such as `gave_up`.

    Attributes:
        reason: the event, or the guard, that led there.
        state: its name.
    """

    reason: str = ""
    state: str = ""

    def __repr__(self) -> str:
        reason = ""
        if self.reason:
            reason = f"{self.reason!r}, "
        return f"Ended({self.state!r}, {reason}epoch={self.epoch})"


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


def as_data(outcome: Outcome | None) -> dict[str, Any] | None:
    """An outcome as plain data; of an error, its text.

    One of your own is written as an `Ended` of its name: a name in a file never becomes code.
    """
    if outcome is None:
        return None
    kind = type(outcome).__name__
    if type(outcome) not in _KINDS:
        reason = str(getattr(outcome, "reason", ""))
        outcome = Ended(outcome.epoch, reason, kind)
    about = {"kind": type(outcome).__name__, **attrs.asdict(outcome)}
    if isinstance(outcome, Failed):
        about["error"] = repr(outcome.error)
    return about


def from_data(about: Mapping[str, Any]) -> Outcome:
    """The outcome that `as_data` gave; the error has become one that says what it was.

    Raises:
        KeyError: there is no such outcome.
    """
    kind, epoch = about["kind"], int(about.get("epoch", 0))
    if kind == "Failed":
        error = StatetrainError(str(about.get("error", "")))
        return Failed(epoch, str(about.get("state", "")), error)
    if kind == "Completed":
        return Completed(epoch)
    reason = str(about.get("reason", ""))
    if kind == "Ended":
        return Ended(epoch, reason, str(about.get("state", "")))
    return _REASONED[kind](epoch, reason)


_REASONED: dict[str, type[Stopped | Interrupted]] = {"Stopped": Stopped, "Interrupted": Interrupted}
_KINDS = (Completed, Stopped, Ended, Interrupted, Failed)
