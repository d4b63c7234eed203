"""Halving: a batch that does not fit into memory is trained on in parts.

The mean gradient is that of the whole batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen

from statetrain.context.context import Context
from statetrain.context.fields import UNSET
from statetrain.contracts.composing import then
from statetrain.contracts.declaring import Access, access, access_of
from statetrain.errors import ConfigError, DataError, LossError
from statetrain.guards.base import Guard
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State, StateWork
from statetrain.lifecycle.transition import Transition
from statetrain.standard import actions as do
from statetrain.validators import whole

if TYPE_CHECKING:
    from statetrain.losses.losses import LossState

_KEY = "halvings of a batch"
_AT = "batch that was halved"


@frozen
class HalvingsLeft(Guard):
    """True while this batch has been halved fewer than `n` times and its parts can be halved.

    Args:
        n: halvings, at least 1: a batch is trained on in 2, 4, ... 2**n parts.
    """

    n: int = field(validator=whole)

    reads = frozenset({"batches", "marks", "input", "target"})

    @property
    def label(self) -> str:
        return f"fewer than {self.n} halvings"

    def test(self, ctx: Context) -> bool:
        # Several ranks would have to halve together
        alone, done = ctx.news is None, _halvings(ctx)
        return alone and done < self.n and 2**done < _rows(ctx)


def _halvings(ctx: Context) -> int:
    """How often the current batch has been halved."""
    if ctx.marks.get(_AT) != ctx.batches:
        return 0
    return int(ctx.marks.get(_KEY, 0))


def _rows(ctx: Context) -> int:
    """How many samples can be told apart."""
    from statetrain.data.cutting import rows_of  # here, since tables are read without torch

    return rows_of(ctx.input, ctx.target)


@access(reads={"batches", "marks"}, writes={"marks"})
def count_halving(ctx: Context) -> None:
    "halve the batch"
    ctx.marks[_KEY] = _halvings(ctx) + 1
    ctx.marks[_AT] = ctx.batches


@frozen
class Halve:
    """Computes the gradients of a batch in parts, and what the whole would have given.

    Args:
        pred: runs the model on a part.
        loss: computes the loss of a part.
    """

    pred: StateWork
    loss: StateWork

    label = "train on its parts"

    @property
    def access(self) -> Access | None:
        """What the parts read and write, and what they are taken from."""
        parts = [access_of(part) for part in (self.pred, self.loss, do.backward)]
        own = Access(
            {"batch", "input", "target", "batch_size", "layout", "marks", "batches", "opt"},
            {"batch", "input", "target", "batch_size", "pending"},
        )
        for part in parts:
            if part is None:
                return None
            own |= part
        return own

    def __call__(self, ctx: Context) -> None:
        whole = ctx.batch, ctx.input, ctx.target, ctx.batch_size
        ctx.accelerator.clear(ctx.opt)
        rows, found = _rows(ctx), []
        parts = min(2 ** _halvings(ctx), rows)
        try:
            for n in range(parts):
                start, stop = n * rows // parts, (n + 1) * rows // parts
                found.append(self._train_on(ctx, whole, rows, start, stop))
        finally:
            ctx.batch, ctx.input, ctx.target, ctx.batch_size = whole
            ctx.pred = ctx.loss_grad = UNSET
        weight = sum(one.count for one in found) / max(whole[-1], 1)
        for gradient in ctx.accelerator.gradients(ctx.opt):
            gradient.div_(weight + (weight == 0))
        ctx.pending = 1
        ctx.pred = _joined([one.pred for one in found])
        ctx.loss_value = _mean([(one.value, one.count) for one in found])
        ctx.loss_states = {
            name: state._replace(
                value=_mean([(one.states[name].value, one.states[name].count) for one in found]),
                count=sum(one.states[name].count for one in found),
            )
            for name, state in found[0].states.items()
        }

    def _train_on(self, ctx: Context, whole: Any, rows: int, start: int, stop: int) -> _PartDone:
        from statetrain.data.cutting import cut, detach

        size = max(whole[-1], 1)
        ctx.pred = ctx.loss_grad = UNSET  # nothing is kept of what does not fit
        ctx.batch, ctx.input, ctx.target = (cut(one, rows, start, stop) for one in whole[:3])
        ctx.batch_size = ctx.layout.size(ctx.batch, ctx.input, ctx.target)
        self.pred(ctx)
        self.loss(ctx)
        count = _count(ctx)
        ctx.loss_grad = ctx.loss_grad * (count / size)
        do.backward(ctx)
        return _PartDone(detach(ctx.pred), ctx.loss_value, count, dict(ctx.loss_states))


def _joined(preds: list[Any]) -> Any:
    """The prediction for the whole batch, for metrics; none where a part of it cannot be joined."""
    from statetrain.data.joining import join

    try:
        return join(preds)
    except DataError:
        return UNSET


@frozen
class _PartDone:
    pred: Any
    value: Any
    count: Any
    states: dict[str, LossState]


def _count(ctx: Context) -> Any:
    """How much a part counts in the mean: its samples, or what a mask counts."""
    counts = [state.count for state in ctx.loss_states.values()] or [ctx.batch_size]
    if any(bool(count != counts[0]) for count in counts):
        raise LossError(
            "a batch that does not fit into memory cannot be halved where its losses count"
            " differently, each by a mask of its own; use smaller batches"
        )
    if ctx.on_host:
        return float(counts[0])
    return counts[0]


def _mean(terms: list[tuple[Any, Any]]) -> Any:
    total = sum(count for _, count in terms)
    return sum(value * count for value, count in terms) / (total + (total == 0))


def halving(life: Lifecycle, n: int = 3) -> Lifecycle:
    """A lifecycle in which a training batch that does not fit into memory is trained on in halves.

        run = st.fit(..., lifecycle=st.halving(st.supervised(), 3))

    Where the model, the loss or the gradients raise `torch.OutOfMemoryError` or `MemoryError`, the
    batch's gradients are computed in 2 parts, then 4, up to 2**n, and one step is made. For losses
    that are means over samples, or over what a mask counts, it is the step of the whole batch; what
    looks at the whole batch, as batch normalization does, sees the parts. Then the error ends the
    run, and so it does with several ranks, which would have to halve together.

    What the batch counts in the history is the same: the loss and the metrics are those of the
    whole. They are summed up after the gradients, not before.

    Args:
        life: a lifecycle with the states `pred`, `loss` and `backward`, also in several phases.
        n: how often a batch is halved, at least 1.

    Raises:
        ConfigError: no state has the role `backward`, or it has one of its own: batches are
            accumulated, or a loss is scaled for "fp16"; or `n` is below 1.
    """
    if not life.by_role("backward"):
        raise ConfigError(f"halving: lifecycle {life.name!r} has no state with the role 'backward'")
    for state in life.by_role("backward"):
        life = _halving_in(life, state, n)
    return life


def _halving_in(life: Lifecycle, backward: State, n: int) -> Lifecycle:
    from torch import OutOfMemoryError

    prefix = backward.name.removesuffix("backward")
    loss, halve = f"{prefix}loss", f"{prefix}halve"
    if backward.action is not do.backward or len(life.arrows(backward.name)) > 1:
        # With several arrows, a window is accumulated
        raise ConfigError(
            f"halving: {backward.name!r} of lifecycle {life.name!r} is not the gradients of one"
            " batch: with accumulate=, give smaller batches and more of them to a step; with"
            " precision='fp16', use 'bf16'"
        )
    (counting,) = life.between(loss, backward.name)
    refusing = [evolve(arrow, source=halve) for arrow in life.arrows(loss) if arrow != counting]
    # The loss is counted when its gradients are there, so that no batch is counted twice
    life = life.alter(counting, effect=None)
    (last,) = life.arrows(backward.name)
    effect = then(counting.effect, last.effect)
    life = life.alter(last, effect=effect)
    sources = (f"{prefix}pred", loss, backward.name, halve)
    pred, computing = life.state(sources[0]).action, life.state(loss).action
    assert pred is not None
    assert computing is not None
    action = Halve(pred, computing)
    left = HalvingsLeft(n)
    return life.add(
        State(halve, action, backward.within, role="halve"),
        *refusing,
        Transition(halve, last.dest, effect=effect),
        *(
            Transition(source, halve, left, count_halving, event)
            for source in sources
            for event in (OutOfMemoryError, MemoryError)
        ),
    )
