"""Sources on how a run does: the norm of its gradients, its speed, the memory that it takes."""

from __future__ import annotations

import sys
from typing import Any

import torch
from attrs import define, field, frozen

from statetrain.context.context import Context
from statetrain.errors import ConfigError
from statetrain.logs.loggables import Value
from statetrain.validators import is_number

_MIB = 2**20


@frozen
class GradientNorm:
    """The 2-norm of all gradients together, as `gradient_norm`.

    They are those of the last step, as the optimizers had them: unscaled and clipped. It is
    computed when it is asked for, and stays on the device until it is written.
    """

    columns = ("gradient_norm",)
    makes = frozenset({Value})
    reads = ("optimizers",)
    of_step = True

    def __call__(self, ctx: Context) -> dict[str, Any]:
        """The norm; nothing before there are gradients."""
        optimizers = filter(None, ctx.optimizers.values())
        found = [g for optimizer in optimizers for g in ctx.accelerator.gradients(optimizer)]
        return {"gradient_norm": ctx.accelerator.norm(found)} if found else {}


def _tokens(instance: Any, attribute: Any, value: Any) -> None:
    if value is not None and (not is_number(value) or not value > 0):
        raise ConfigError(
            f"Throughput: tokens is how many a sample has, above 0, got {value!r}; where samples"
            " differ, log their number: ctx.log_mean('tokens', n)"
        )


@define
class Throughput:
    """Samples that a second of the run has trained on, as `samples_per_second`.

    It is the mean since it was last asked for; at first, since the run began. All of the run's
    time counts: validations, waiting for data, saving.

    Args:
        tokens: of a sample, where all have as many, for `tokens_per_second`; None leaves that out.
    """

    tokens: float | None = field(default=None, validator=_tokens)
    _samples: int = field(default=0, init=False, repr=False)
    _seconds: float = field(default=0.0, init=False, repr=False)

    makes = frozenset({Value})
    reads = ("samples", "seconds")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of what it gives."""
        return ("samples_per_second", *["tokens_per_second"] * (self.tokens is not None))

    def __call__(self, ctx: Context) -> dict[str, Any]:
        """The rates; nothing where no time has passed."""
        if ctx.samples < self._samples or ctx.seconds < self._seconds:  # another run
            self._samples, self._seconds = 0, 0.0
        samples, seconds = ctx.samples - self._samples, ctx.seconds - self._seconds
        if not seconds > 0:
            return {}
        self._samples, self._seconds = ctx.samples, ctx.seconds
        found = {"samples_per_second": samples / seconds}
        if self.tokens is not None:
            found["tokens_per_second"] = found["samples_per_second"] * self.tokens
        return found


@frozen
class Memory:
    """The most memory that the process has taken so far, in MiB, as `peak_memory`.

    Of a run on a GPU, it is what torch has allocated there; else what the process has had in the
    machine's memory. Elsewhere than on Linux, macOS and CUDA nothing is known, and nothing given.
    """

    columns = ("peak_memory",)
    makes = frozenset({Value})
    reads = ("accelerator",)

    def __call__(self, ctx: Context) -> dict[str, Any]:
        """The number."""
        device = torch.device(ctx.device)
        if device.type == "cuda":
            return {"peak_memory": torch.cuda.max_memory_allocated(device) / _MIB}
        try:
            import resource
        except ImportError:  # Windows has none
            return {}
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak_memory": most / _UNITS.get(sys.platform, 1024)}


# What `ru_maxrss` counts in, per MiB: bytes on macOS, KiB elsewhere
_UNITS = {"darwin": _MIB}
