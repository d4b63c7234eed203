"""Errors: each message says what is wrong, what was got and what to do."""

from __future__ import annotations


class StatetrainError(Exception):
    """Base of all errors that this package raises by itself."""


class LifecycleError(StatetrainError, ValueError):
    """A lifecycle that is not sound, or was asked for something that it does not have."""


class CallbackError(StatetrainError, TypeError):
    """A callback with a hook that no state has, or a hook that returns something."""


class GuardError(StatetrainError, TypeError):
    """A guard that answered anything but True or False."""


class ConfigError(StatetrainError, ValueError):
    """Arguments that cannot make a run."""


class ContractError(ConfigError):
    """What components declare that they read and write does not fit together, or is not true."""


class DataError(StatetrainError, ValueError):
    """Data that is not as expected: no batch, an unknown layout, a loader that ended early."""


class LossError(StatetrainError, ValueError):
    """A loss that cannot be trained on: no tensor, no scalar, no gradient."""


class NonFiniteLoss(StatetrainError, ArithmeticError):
    """The loss (or a gradient) is NaN or infinite; the weights have not been touched by it."""


class LossSpike(StatetrainError, ArithmeticError):
    """The loss is far above those before it; the weights have not been touched by it."""


class MachineError(StatetrainError, RuntimeError):
    """A machine that was driven in a way that it does not allow."""


class CheckpointError(StatetrainError, RuntimeError):
    """A checkpoint that cannot be written, read, or continued from."""


class TraceError(StatetrainError, ValueError):
    """A file that is not a trace of a run, or a broken one."""
