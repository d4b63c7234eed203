"""limit: epochs and evaluations that take only so many batches of their data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import field, frozen

from statetrain.context.context import Context
from statetrain.contracts.composing import then
from statetrain.contracts.declaring import access, declares_write
from statetrain.data.iterating import END, LEFT_OUT
from statetrain.data.sizes import length
from statetrain.errors import ConfigError
from statetrain.guards.base import Guard
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.naming import did_you_mean
from statetrain.validators import check_whole, whole


def _batches(n: int) -> str:
    return f"{n} batches" if n > 1 else "1 batch"


@frozen
class Enough(Guard):
    """True when `n` batches have been drawn: of this epoch, or of this evaluation.

    Args:
        n: at least 1.
        of: the counter that is read.
    """

    n: int = field(validator=whole)
    of: str = "iter"

    @property
    def label(self) -> str:
        return f"{_batches(self.n)} drawn"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.of})

    def test(self, ctx: Context) -> bool:
        return bool(getattr(ctx, self.of) >= self.n)


@access(writes={"iterator", "upcoming"})
def leave_rest(ctx: Context) -> None:
    "leave the rest of the data out"
    ctx.iterator, ctx.upcoming = LEFT_OUT, END


@access(writes={"valid_iterator"})
def leave_valid_rest(ctx: Context) -> None:
    "leave the rest of the data out"
    ctx.valid_iterator = LEFT_OUT


@access(reads={"length"}, writes={"length"})
@frozen
class LimitLength:
    """The effect of opening limited data: its length is the limit, if it is not less."""

    n: int

    @property
    def label(self) -> str:
        """What the table says."""
        return f"take {_batches(self.n)} of it"

    def __call__(self, ctx: Context) -> None:
        ctx.length = min(ctx.length or self.n, self.n)


@access(reads={"iter", "length", "last_batch"}, writes={"last_batch"})
def find_last(ctx: Context) -> None:
    "see whether it is the last"
    ctx.last_batch = ctx.last_batch or ctx.iter == ctx.length


def limit(
    *, train: int | None = None, valid: int | None = None, **evaluations: int
) -> Callable[[Lifecycle], Lifecycle]:
    """An edit: each epoch and each evaluation takes only so many batches of its data.

        st.fit(model, data, ..., edits=st.limit(train=100, valid=10))

    An epoch takes its first batches in its own order, so a loader that shuffles gives others each
    time. All that follows an epoch follows it as without: validation, row, schedules, checkpoints;
    a short window of accumulated batches makes a step. Schedules that take the whole run, progress
    bars and `ctx.length` count with the limit.

    Args:
        train: batches of an epoch, at least 1; None is all of them.
        valid: batches of a validation, and of each evaluation that is not named, at least 1; None
            is all of them.
        evaluations: batches of evaluations by their names, as `limit(test=5)`.

    Raises:
        ConfigError: nothing is given, or one is not such a number; when the edit is made, that the
            lifecycle has no such part.
    """
    given = {"train": train, "valid": valid, **evaluations}
    limits = {name: value for name, value in given.items() if value is not None}
    if not limits:
        raise ConfigError("limit has nothing to limit; write limit(train=100, valid=10)")
    for name, value in limits.items():
        check_whole(f"limit: {name}", value, of="batches")

    def limited(life: Lifecycle) -> Lifecycle:
        """A lifecycle with the limits."""
        if "train" in limits:
            life = _limit_epochs(life, limits["train"])
        others = {name: n for name, n in limits.items() if name != "train"}
        return _limit_evaluations(life, others)

    return limited


def _limit_epochs(life: Lifecycle, n: int) -> Lifecycle:
    heads = life.by_role("next_batch")
    if not heads:
        raise ConfigError(
            f"limit: lifecycle {life.name!r} has no state with the role 'next_batch', so no epoch"
            " to limit; leave train= out"
        )
    take = LimitLength(n)
    for state in life.by_role("train"):
        life = life.replace(state.name, action=then(state.action, take))
    for state in life.by_role("epoch"):
        life = life.replace(state.name, reopen=then(state.reopen, take))
    for head in heads:
        draw = life.arrows(head.name)[-1].dest
        life = life.add(Transition(head.name, draw, Enough(n), leave_rest))
        if declares_write(life.state(draw).action, "last_batch"):  # it ends a window
            drawn = life.arrows(draw)[0]
            life = life.alter(drawn, effect=then(drawn.effect, find_last))
    return life


def _limit_evaluations(life: Lifecycle, limits: dict[str, int]) -> Lifecycle:
    heads = {head.name: _set_of(life, head) for head in life.by_role("next_valid_batch")}
    for name, n in limits.items():
        if name not in heads.values() and not (name == "valid" and heads):
            raise ConfigError(
                f"limit: lifecycle {life.name!r} evaluates nothing called {name!r}, so"
                f" {name}={n} would not be used{did_you_mean(name, sorted(set(heads.values())))}"
            )
    for head, name in heads.items():
        if (most := limits.get(name, limits.get("valid"))) is not None:
            draw = life.arrows(head)[-1].dest
            enough = Enough(most, "valid_iter")
            life = life.add(Transition(head, draw, enough, leave_valid_rest))
    return life


def _set_of(life: Lifecycle, head: State) -> str:
    """The set that is gone through at a loop head."""
    return str(getattr(life.state(head.within or "").mode, "set", head.within))


def batches_taken(life: Lifecycle, head: str, data: Any) -> int | None:
    """How many batches an iteration over data takes; None if that is not known.

    Args:
        life: any lifecycle.
        head: the role of the loop head, "next_batch" or "next_valid_batch".
        data: has a length, or not.
    """
    arrows = [arrow for state in life.by_role(head) for arrow in life.arrows(state.name)]
    numbers = [arrow.guard.n for arrow in arrows if isinstance(arrow.guard, Enough)]
    whole = length(data)
    if whole is not None:
        numbers.append(whole)
    return min(numbers, default=None)
