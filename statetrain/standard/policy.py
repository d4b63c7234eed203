"""RollBack: what to do about a loss that cannot be trusted, as an option."""

from __future__ import annotations

from typing import Any

from attrs import Attribute, field, frozen

from statetrain.errors import ConfigError
from statetrain.guards.base import Guard
from statetrain.guards.counters import Every
from statetrain.validators import interval, is_number, whole, whole_from


def _lowering(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    if not is_number(value) or not 0 < value <= 1:
        raise ConfigError(
            "RollBack: factor multiplies the learning rate, so it is above 0 and at most 1, got"
            f" {value!r}"
        )


@frozen
class RollBack:
    """What to do about a loss that is not finite, or a spike.

    The last good weights are restored, and training continues with the next batch.

        st.fit(..., non_finite=st.RollBack(times=3, factor=0.5, every=st.Every(200, "steps")))

    A copy of weights, buffers, the optimizers' states and the scale of the loss is kept in memory,
    in a state `keep` of the table, if all weights and buffers are finite. Counters, data and
    history continue: the batches since the copy have been drawn, and what was learnt from them is
    given up. The learning rates are multiplied for good; a schedule of `LRScheduler` continues from
    the lower ones.

    With `skip=2`, the first two such batches are only skipped, and the third leads back. A batch
    after `cool_down` batches without one is the first again.

    Args:
        times: how often in one fit, at least 1; the next time the run fails with the error.
        factor: of the learning rates, above 0 and at most 1.
        every: when a copy is made, after the first one before the first batch.
        skip: batches that are skipped before it goes back, at least 0.
        cool_down: batches after which one that was skipped counts no more, at least 1.

    Raises:
        ConfigError: an argument is out of range.
    """

    times: int = field(default=3, validator=whole)
    factor: float = field(default=0.5, validator=_lowering)
    every: Guard = field(default=Every(100, "steps"), validator=interval)
    skip: int = field(default=0, validator=whole_from(0), kw_only=True)
    cool_down: int = field(default=100, validator=whole, kw_only=True)
