"""How a run moves out of the ordinary: events, outcomes, errors.

An *event* is raised by an action or an enter hook and is taken by an arrow that names it. An *outcome* says how a run
ended and why. An *error* says what is wrong, what was got and what to do.
"""

from __future__ import annotations

import signal

from attrs import frozen


class Event(Exception):
    """Base of what actions and enter hooks may raise to make the machine take an arrow that names it.

    A user's own event is a subclass with an arrow of its own: `Transition("fit", "end", event=MyEvent)`.

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
        """What a process that ends for this reason exits with: 128 and the signal's number, 130 for Ctrl-C."""
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


class LifecycleError(ValueError):
    """A lifecycle that is not sound, or that was asked for something it has not."""


class CallbackError(TypeError):
    """A callback with a hook that no state has, or a hook that returns something."""


class GuardError(TypeError):
    """A guard that answered anything but True or False."""


class ConfigError(ValueError):
    """Arguments that cannot make a run."""


class ContractError(ConfigError):
    """What components declare that they read and write does not fit together, or does not hold."""


class DataError(ValueError):
    """Data that is not what was promised: no batch, an unknown layout, a loader that ended early."""


class LossError(ValueError):
    """A loss that cannot be trained on: no tensor, no scalar, no gradient."""


class NonFiniteLoss(ArithmeticError):
    """The loss (or a gradient) is NaN or infinite; the weights have not been touched by it."""


class LossSpike(ArithmeticError):
    """The loss is far above those before it; the weights have not been touched by it."""


class MachineError(RuntimeError):
    """A machine that was driven in a way it cannot go."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read, or continued from."""


class TraceError(ValueError):
    """A file that is no trace of a run, or a broken one."""
