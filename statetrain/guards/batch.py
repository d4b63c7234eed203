"""Guards on the current batch: its loss, its gradients, its place in a window."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from attrs import field, frozen

from statetrain.errors import ConfigError
from statetrain.guards.base import Guard, Test, guard
from statetrain.validators import one_of, positive, whole

if TYPE_CHECKING:
    from statetrain.context.context import Context


@frozen
class NonFinite(Guard):
    """True when the loss of this batch is NaN or infinite.

    It reads a number on the host: on a device, asking it waits for the loss.

    Args:
        of: "loss", or "gradients" for the norm of all gradients (which a state has to compute
            first).
    """

    of: Literal["loss", "gradients"] = field(default="loss", validator=one_of("loss", "gradients"))

    agree = "any"

    @property
    def label(self) -> str:
        return f"{self.of} not finite"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({_READ_BY[self.of]})

    def test(self, ctx: Context) -> bool:
        return self.bind("")(ctx)

    def bind(self, place: str) -> Test:
        if self.of == "loss":
            return _loss_not_finite
        return _gradients_not_finite

    def reason(self, ctx: Context) -> str:
        if self.of == "loss":
            return f"the loss is {ctx.loss_value}"
        return f"the norm of the gradients is {ctx.grad_norm}"


_READ_BY = {"loss": "loss_value", "gradients": "grad_norm"}


def _loss_not_finite(ctx: Context) -> bool:
    value = ctx.loss_value
    # Anything but a float is refused where it is asked
    return value - value != 0.0  # type: ignore[no-any-return]


def _gradients_not_finite(ctx: Context) -> bool:
    value = ctx.grad_norm
    return value is not None and value - value != 0.0


@frozen
class Spike(Guard):
    """True when the loss of this batch is far above those of the batches before.

    Far above means more than `factor` times their median.

    `fit(..., spike=Spike(4))` treats such a batch as `non_finite` says, before it can reach the
    weights. It reads numbers on the host, so on a device it waits for the loss of each batch. For
    losses that may be negative, where a multiple has no meaning, it holds only above a positive
    median. The losses of refused batches do not count.

    Args:
        factor: above 1.
        window: batches that the median is of, at least 1.
        least: batches before which it does not hold; at least 1.
    """

    factor: float = field(default=4.0, validator=positive)
    window: int = field(default=50, kw_only=True, validator=whole)
    least: int = field(default=20, kw_only=True, validator=whole)

    reads = frozenset({"loss_value", "recent", "opt_name"})
    agree = "any"

    def __attrs_post_init__(self) -> None:
        if not self.factor > 1:
            raise ConfigError(f"Spike: factor must be above 1, got {self.factor!r}")
        if self.least > self.window:
            raise ConfigError(
                f"Spike: least must be at most the window of {self.window} batches, got"
                f" {self.least!r}"
            )

    @property
    def label(self) -> str:
        return f"loss above {self.factor:g} times its median"

    def median(self, ctx: Context) -> float:
        """Of the losses before this one; infinite while there are too few."""
        recent = ctx.recent.get(ctx.opt_name, ())[-self.window :]
        if len(recent) < self.least:
            return math.inf
        return sorted(recent)[len(recent) // 2]

    def test(self, ctx: Context) -> bool:
        median = self.median(ctx)
        return median > 0 and ctx.loss_value > self.factor * median

    def reason(self, ctx: Context) -> str:
        return (
            f"the loss is {ctx.loss_value:g}, above {self.factor:g} times the median"
            f" {self.median(ctx):g} of those before"
        )


@frozen
class Masked(Guard):
    """True when the device has said that it left out steps, and it has not been reported yet."""

    reads = frozenset({"masked", "told"})

    @property
    def label(self) -> str:
        return "steps were masked"

    def test(self, ctx: Context) -> bool:
        return bool(ctx.masked > ctx.told)

    def reason(self, ctx: Context) -> str:
        found = ctx.masked - ctx.told
        which = f"{found} steps"
        if not ctx.told:
            which = f"step {ctx.first_masked}"
            if found > 1:
                which += f" (and {found - 1} more)"
        return f"the loss or the gradients of {which} were not finite"


@guard(reads={"drawn"}, agree="all")
def batch_drawn(ctx: Context) -> bool:
    "a batch was drawn"
    return ctx.drawn


@frozen
class Accumulating(Guard):
    """True while a window of `n` batches is not full and this is not the epoch's last batch.

    Args:
        n: batches in a window, at least 1.
    """

    n: int = field(validator=whole)

    reads = frozenset({"pending", "last_batch"})
    agree = "all"  # a window continues if it does on all ranks

    @property
    def label(self) -> str:
        return "accumulating"

    def test(self, ctx: Context) -> bool:
        return ctx.pending < self.n and not ctx.last_batch


@guard(reads={"opt_index", "optimizers"})
def another_optimizer(ctx: Context) -> bool:
    "another optimizer"
    return bool(ctx.opt_index + 1 < len(ctx.optimizers))
