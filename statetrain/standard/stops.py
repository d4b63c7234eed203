"""When a run stops, by where in the table that is asked."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import or_

from attrs import frozen

from statetrain.context.context import Context
from statetrain.errors import ConfigError
from statetrain.guards.base import AllOf, AnyOf, Guard, Not, Renamed, leaves
from statetrain.guards.counters import Every, MaxSteps, MinEpochs, Once, batches_left
from statetrain.guards.requests import stop_requested


@frozen
class Unfinished(Guard):
    """True while there is something left to train on: more epochs, or data of this one."""

    reads = frozenset({"epoch", "max_epochs", "exhausted"})

    agree = "all"
    explains = False

    @property
    def label(self) -> str:
        """What the table says."""
        return "epochs unfinished"

    def test(self, ctx: Context) -> bool:
        """Whether there is."""
        return bool(ctx.epoch < ctx.max_epochs or not ctx.exhausted)


unfinished = Unfinished()


@frozen
class Stops:
    """When a run stops: at once, or at the end of an epoch.

    A limit of steps cuts nothing short: an epoch that ends with its last step is whole.

    Args:
        at_once: the guards that are asked at every loop head; the run stops when one is true.
        at_epoch_end: what reads the history and is asked between epochs; None if there is nothing.
    """

    at_once: tuple[Guard, ...]
    at_epoch_end: Guard | None

    @property
    def between_epochs(self) -> Guard:
        """`stop now` between epochs: any of them.

        The last step of a fit may be the last of all its epochs. Then it is complete.
        """
        return self._limited_by(unfinished)

    @property
    def in_epoch(self) -> Guard:
        """`stop now` within an epoch.

        The last step of a fit may be the last of its epoch too. Then it continues, so that the data
        is found to be at its end, and a validation that is due is made.
        """
        return self._limited_by(batches_left)

    @property
    def in_validation(self) -> Guard:
        """`stop now` within a validation, which makes no steps: one that is due is made."""
        return _stop_now(guard for guard in self.at_once if not isinstance(guard, MaxSteps))

    def _limited_by(self, condition: Guard) -> Guard:
        """Any of the guards; the limit of steps only together with a condition."""
        limited = []
        for guard in self.at_once:
            if isinstance(guard, MaxSteps):
                guard = guard & condition
            limited.append(guard)
        return _stop_now(limited)


def _stop_now(guards: Iterable[Guard]) -> Guard:
    return reduce(or_, guards).named("stop now")


def stops_of(stop: Guard | None, max_steps: int | None, min_epochs: int) -> Stops:
    """The stops that options ask for.

    Args:
        stop: the guard; the parts of `a | b` are asked each in its place.
        max_steps: the limit of steps, None for no limit.
        min_epochs: epochs before which what reads the history is not asked.

    Raises:
        ConfigError: the guard is true of an empty history, so the run would not begin.
    """
    parts: tuple[Guard, ...] = ()
    if stop is not None:
        parts = _alternatives(stop)
    at_once: tuple[Guard, ...] = (stop_requested,)
    if max_steps is not None:
        at_once += (MaxSteps(max_steps),)
    at_once += tuple(part for part in parts if part.prompt)
    later = any_of(part for part in parts if not part.prompt)
    if later is None or not min_epochs:
        _refuse_true_of_nothing(later)
        return Stops(at_once, later)
    return Stops(at_once, MinEpochs(min_epochs) & later)


def holds_of_nothing(guard: Guard) -> bool | None:
    """Whether a guard is true as long as nothing has been recorded.

    None if that depends on more than the history.

    What reads columns is false then, so its negation is true.
    """
    if isinstance(guard, Renamed):
        return holds_of_nothing(guard.guard)
    if isinstance(guard, Not):
        return _negated(holds_of_nothing(guard.guard))
    if isinstance(guard, AllOf | AnyOf):
        decisive = isinstance(guard, AnyOf)
        parts = [holds_of_nothing(part) for part in guard.guards]
        if decisive in parts:
            return decisive
        if None in parts:
            return None
        return not decisive
    if guard.monitors:
        return False
    return None


def _negated(answer: bool | None) -> bool | None:
    return {True: False, False: True, None: None}[answer]


def _refuse_true_of_nothing(guard: Guard | None) -> None:
    if guard is None or not holds_of_nothing(guard):
        return
    monitor = guard.monitors[0]
    raise ConfigError(
        f"stop=[{guard.label}] holds as long as nothing has been recorded, so the run would end"
        " before its first epoch; turn the criterion round, or say that there has to be a row:"
        f' NumberLimit("{monitor}", 1) & ~...'
    )


def split_by_interval(guard: Guard) -> tuple[Guard | None, Guard | None]:
    """The parts of a condition that can become true within an epoch, and those for its end."""
    parts = _alternatives(guard)
    inside = [part for part in parts if _can_hold_inside(part)]
    return any_of(inside), any_of(part for part in parts if part not in inside)


def _can_hold_inside(guard: Guard) -> bool:
    """Whether a condition is asked after each step, too.

    That is so for an interval that can end there, and for a guard that says it is prompt. An
    interval in epochs, which a new epoch has crossed, is asked at the end of epochs.
    """
    parts = list(leaves(guard))
    intervals = [leaf for leaf in parts if isinstance(leaf, Every | Once)]
    if intervals:
        return any(leaf.unit != "epochs" for leaf in intervals)
    return any(leaf.prompt for leaf in parts)


def _alternatives(guard: Guard) -> tuple[Guard, ...]:
    if isinstance(guard, AnyOf):
        return guard.parts()
    return (guard,)


def any_of(guards: Iterable[Guard]) -> Guard | None:
    """One guard that is true when any of these is; None if there are none."""
    found = tuple(guards)
    if not found:
        return None
    return reduce(or_, found)
