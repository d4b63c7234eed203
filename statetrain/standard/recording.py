"""record_every: rows of the history within an epoch, without a validation."""

from __future__ import annotations

from collections.abc import Callable

from attrs import field, frozen

from statetrain.context.context import Context
from statetrain.errors import ConfigError
from statetrain.guards.base import Guard
from statetrain.guards.counters import batches_left, train_data_left
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.transition import Transition
from statetrain.validators import one_of, positive

# The column of a row, and the field of the context, by the unit
_COUNTERS = {
    "batches": ("batch", "batches"),
    "steps": ("step", "step"),
    "samples": ("samples", "samples"),
    "seconds": ("seconds", "seconds"),
}


@frozen
class RowDue(Guard):
    """True when a counter has crossed a multiple of `n` since the last row of the history.

    Args:
        n: the interval, above 0.
        unit: "batches", "steps" (of the optimizer), "samples" or "seconds".
    """

    n: float = field(validator=positive)
    unit: str = field(validator=one_of(*_COUNTERS))

    agree = "first"  # clocks differ

    @property
    def label(self) -> str:
        return f"row due after {self.n} {self.unit}"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"history", _COUNTERS[self.unit][1]})

    def test(self, ctx: Context) -> bool:
        column, counter = _COUNTERS[self.unit]
        rows = ctx.history.rows[-1:]
        last = sum(row[column] for row in rows)  # 0 if there is none
        return bool(getattr(ctx, counter) // self.n > last // self.n)


def record_every(n: float, unit: str) -> Callable[[Lifecycle], Lifecycle]:
    """An edit: rows of the history within an epoch too, without a validation.

        st.fit(model, data, ..., edits=st.record_every(100, "steps"))

    Such a row has the mean of the training loss, and of the training metrics, since the row before.
    So it is a running mean that guards can read: `EarlyStopping("train_loss", 5, prompt=True)` and
    `Threshold("train_loss", 0.1, prompt=True)`. As after a validation within an epoch, `train` is
    opened again, and the epoch's last row has `epoch_train_loss`, the mean of the whole epoch.

    Args:
        n: the interval, above 0.
        unit: "batches", "steps" (of the optimizer), "samples" or "seconds".

    Raises:
        ConfigError: the interval is none; when the edit is made, that the lifecycle makes no step.
    """
    due = RowDue(n, unit)

    def recording(life: Lifecycle) -> Lifecycle:
        """A lifecycle with such rows."""
        steps = life.by_role("step")
        if not steps:
            raise ConfigError(
                f"record_every: lifecycle {life.name!r} has no state with the role 'step', after"
                " which a row could be due"
            )
        for step in steps:
            life = _record_after(life, step.name, due)
        return life

    return recording


def _record_after(life: Lifecycle, step: str, due: Guard) -> Lifecycle:
    """Adds the arrow from a step to its record, and the one from there back to the training."""
    train = next(name for name in life.path(step) if life.role(name) == "train")
    head = next(name for name in life.children(train) if life.role(name) == "next_batch")
    stop = life.arrows(head)[0]
    assert stop.guard is not None
    life = life.add(Transition(step, stop.dest, (batches_left & due).named(due.label)))
    record = stop.dest
    while life.role(record) != "record":  # with a late check, a state before it
        record = life.arrows(record)[-1].dest
    if any(arrow.dest == train for arrow in life.arrows(record)):
        return life
    going_on = (train_data_left & ~stop.guard).named("train data left, no stop")
    return life.add(Transition(record, train, going_on), first=True)
