"""Going back to the last good weights when a loss cannot be trusted: the parts of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from statetrain.callback import unwrapped
from statetrain.contracts.composing import then
from statetrain.contracts.declaring import Access, access
from statetrain.errors import MachineError
from statetrain.guards.base import Guard, as_guard, guard
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, State
from statetrain.lifecycle.transition import Transition
from statetrain.naming import count_of
from statetrain.standard import actions as do
from statetrain.standard.policy import RollBack

if TYPE_CHECKING:
    from statetrain.context.context import Context


@frozen
class RolledBack(Guard):
    """True when this fit has gone back so many times.

    Args:
        times: at least 1.
    """

    times: int

    @property
    def label(self) -> str:
        return f"rolled back {count_of(self.times, 'time')}"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"rolled_back"})

    def test(self, ctx: Context) -> bool:
        return bool(ctx.rolled_back >= self.times)


_SKIPPED = "batches skipped before going back"
_LAST = "batch that was skipped last"


@frozen
class SkipsLeft(Guard):
    """True while fewer than `n` batches were skipped without a cool-down between them.

    Args:
        n: batches, at least 1.
        cool_down: batches after which one that was skipped counts no more.
    """

    n: int
    cool_down: int

    reads = frozenset({"batches", "marks"})

    @property
    def label(self) -> str:
        return f"fewer than {self.n} skipped within {self.cool_down} batches"

    def test(self, ctx: Context) -> bool:
        return _skipped(ctx, self.cool_down) < self.n

    def reason(self, ctx: Context) -> str:
        """Empty: it only lets another guard be asked."""
        return ""


def _skipped(ctx: Context, cool_down: int) -> int:
    """How many batches were skipped without a cool-down between them."""
    if ctx.batches - ctx.marks.get(_LAST, -cool_down) > cool_down:
        return 0
    return int(ctx.marks.get(_SKIPPED, 0))


@access(reads={"batches", "marks"}, writes={"marks"})
@frozen
class CountSkip:
    """The effect of skipping a batch: it counts until the cool-down is over."""

    cool_down: int

    label = "count it"

    def __call__(self, ctx: Context) -> None:
        ctx.marks[_SKIPPED] = _skipped(ctx, self.cool_down) + 1
        ctx.marks[_LAST] = ctx.batches


@guard(reads={"kept"})
def nothing_kept(ctx: Context) -> bool:
    "nothing kept"
    return ctx.kept is None


@frozen
class GoBack:
    """The effect of going back.

    Args:
        factor: of the learning rates.
    """

    factor: float

    @property
    def label(self) -> str:
        """What the table says."""
        label = "go back to the copy"
        if self.factor != 1:
            label += f", learning rate times {self.factor:g}"
        return label

    @property
    def access(self) -> Access:
        """What it reads and writes.

        The reason of a guard may read any field, and going back writes all that trains.
        """
        return Access(
            {"**"},
            {
                *("records", "pending", "model", "params", "optimizers", "scaler", "rolled_back"),
                "marks",
            },
            {"grads"},
        )

    def __call__(self, ctx: Context) -> None:
        if ctx.kept is None:
            raise MachineError(
                "no copy to go back to has been kept: the state 'keep' comes before. The table of"
                " RollBack fails with the error of the loss instead; on a path of"
                " statetrain.testing, whose guards are forced, choose one through 'keep'"
            )
        do.note_refusal(ctx)
        do.discard_window(ctx)
        ctx.accelerator.go_back(ctx, ctx.kept)
        ctx.accelerator.lower_rates(ctx, self.factor)
        for callback in map(unwrapped, ctx.callbacks):
            if hasattr(callback, "lower_rates"):
                callback.lower_rates(self.factor)
        ctx.rolled_back += 1
        ctx.marks.pop(_SKIPPED, None)


@access(reads={"model", "loss_fns", "optimizers", "scaler", "kept"}, writes={"kept"})
def keep(ctx: Context) -> None:
    "keep a copy to go back to"
    kept = ctx.accelerator.keep(ctx)
    if kept is not None:
        ctx.kept = kept


def keeping(life: Lifecycle, policy: RollBack) -> Lifecycle:
    """A lifecycle with a state that keeps copies."""
    due = (nothing_kept | as_guard(policy.every)).named("copy due")
    return life.add(
        State("keep", keep, life.state("next_batch").within),
        Transition("next_batch", "keep", due),
        Transition("keep", "draw"),
    )


def arrows(state: str, refused: Guard, policy: RollBack) -> tuple[Transition, ...]:
    """The arrows of a state that refuses a batch: on, if it is skipped; back; or to the failure.

    The failure is taken when there is no other way.
    """
    skipping: tuple[Transition, ...] = ()
    if policy.skip:
        left = SkipsLeft(policy.skip, policy.cool_down)
        effect = then(do.refuse_batch, CountSkip(policy.cool_down))
        skipping = (Transition(state, "next_batch", refused & left, effect),)
    return (
        *skipping,
        Transition(
            state, FAILED, refused & (RolledBack(policy.times) | nothing_kept), do.raise_non_finite
        ),
        Transition(state, "next_batch", refused, GoBack(policy.factor)),
    )
