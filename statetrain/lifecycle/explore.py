"""Every path through a lifecycle, breadth first.

All answers of its guards, its events, and failures.

A configuration is a state together with how often each bounded guard has been true. Guards answer
freely, but for bounds: a guard with the bound n is true at most n times while the scope around the
state that asks it stays open, and counts from 0 when the scope is opened again. So `{"more epochs":
3, "a batch was drawn": 2}` is up to three epochs of up to two batches. With a pair, `(1, 3)` or
`(1, None)`, it is also true whenever it is asked until it was so often: each epoch has a batch at
least. Guards of arrows that are taken on events have bounds like others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from attrs import Factory, define, field, frozen

from statetrain.errors import LifecycleError
from statetrain.guards.base import Guard
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED
from statetrain.lifecycle.transition import Transition
from statetrain.naming import did_you_mean
from statetrain.validators import check_whole

Counts = tuple[int, ...]
Bound: TypeAlias = "int | tuple[int, int | None]"  # at most; or at least and at most (None: free)


class Configuration(NamedTuple):
    """Where a run can stand: the state, and how often each bounded guard has held."""

    state: str
    counts: Counts


class Step(NamedTuple):
    """One way out of a configuration."""

    transition: Transition
    after: Configuration


class Limits(NamedTuple):
    """How often a guard is true while a scope stays open."""

    least: int
    most: int | None  # None is any number

    @property
    def counted(self) -> int:
        """Up to where counting makes a difference."""
        return self.most or self.least

    def about(self, label: str) -> str:
        """What they say of a guard: `1 <= [a batch was drawn] <= 3`."""
        text = f"[{label}]"
        if self.least:
            text = f"{self.least} <= {text}"
        if self.most is not None:
            text = f"{text} <= {self.most}"
        return text


def _bounds(value: Mapping[str, Bound] | None) -> dict[str, Limits]:
    return {label: _limits(label, bound) for label, bound in (value or {}).items()}


def _limits(label: str, bound: Bound) -> Limits:
    """The two numbers that a bound stands for."""
    if not isinstance(bound, tuple):
        check_whole(f"the bound of [{label}]", bound, 0, error=LifecycleError)
        return Limits(0, bound)
    if len(bound) != 2:
        raise LifecycleError(
            f"the bounds of [{label}] are a number, or two: (least, most), got {bound!r}"
        )
    least, most = bound
    check_whole(f"the lower bound of [{label}]", least, 0, error=LifecycleError)
    if most is not None:
        check_whole(f"the upper bound of [{label}]", most, least, error=LifecycleError)
    return Limits(least, most)


@frozen
class Ways:
    """The ways out of each configuration of a lifecycle.

    Args:
        lifecycle: the table.
        bounds: by a guard's label, how often it may be true while the scope around it stays open;
            as a pair, how often it must be and may be. The others answer freely.
        events: whether events are raised, in every state where an arrow takes one.
        failures: whether every state may raise an exception that no arrow takes.

    Raises:
        LifecycleError: a bound names no guard of the table, is below 0, or leaves no number.
    """

    lifecycle: Lifecycle
    bounds: dict[str, Limits] = field(factory=dict, converter=_bounds)
    events: bool = True
    failures: bool = True
    _labels: tuple[str, ...] = field(init=False, eq=False, default=())
    _scopes: dict[str, frozenset[str]] = field(init=False, eq=False, factory=dict)
    _made: dict[Configuration, tuple[Step, ...]] = field(init=False, eq=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        known = {
            arrow.guard.label for arrow in self.lifecycle.transitions if arrow.guard is not None
        }
        for label in self.bounds:
            if label not in known:
                raise LifecycleError(
                    f"{self.lifecycle.name}: no guard is called"
                    f" {label!r}{did_you_mean(label, known)}"
                )
        object.__setattr__(self, "_labels", tuple(self.bounds))
        self._scopes.update((label, _scopes_of(self.lifecycle, label)) for label in self.bounds)

    @property
    def start(self) -> Step:
        """Into the initial state."""
        return Step(
            self.lifecycle.start, Configuration(self.lifecycle.initial, (0,) * len(self._labels))
        )

    def out_of(self, here: Configuration) -> tuple[Step, ...]:
        """The ways out of a configuration, in the table's order; events and failure last."""
        if here not in self._made:
            self._made[here] = tuple(self._steps(here))
        return self._made[here]

    def _steps(self, here: Configuration) -> Iterator[Step]:
        state = here.state
        if self._is_end(state):
            return
        for arrow in self.lifecycle.arrows(state):
            if arrow.guard is None or self._may_hold(arrow.guard, here):
                yield self._take(arrow, here)
            if arrow.guard is not None and self._must_hold(arrow.guard, here):
                break  # those behind it are not asked
        if self.events:
            yield from (self._take(arrow, here) for arrow in self._on_events(here))
        if self.failures:
            yield Step(Transition(state, FAILED), Configuration(FAILED, here.counts))

    def _is_end(self, name: str) -> bool:
        return name == FAILED or self.lifecycle.state(name).final

    def _on_events(self, here: Configuration) -> Iterator[Transition]:
        """The arrows that an event can lead to: not those behind one that takes it anyway."""
        taken: list[type[BaseException]] = []
        for scope in reversed(self.lifecycle.path(here.state)):
            for arrow in self.lifecycle.events(scope):
                assert arrow.event is not None
                if any(issubclass(arrow.event, event) for event in taken):
                    continue
                if arrow.guard is None:
                    taken.append(arrow.event)
                    yield arrow
                elif self._may_hold(arrow.guard, here):
                    if self._must_hold(arrow.guard, here):
                        taken.append(arrow.event)
                    yield arrow

    def _may_hold(self, guard: Guard, here: Configuration) -> bool:
        most = self.bounds.get(guard.label, _FREE).most
        return most is None or self._count(guard, here) < most

    def _must_hold(self, guard: Guard, here: Configuration) -> bool:
        least = self.bounds.get(guard.label, _FREE).least
        return least > 0 and self._count(guard, here) < least

    def _count(self, guard: Guard, here: Configuration) -> int:
        """How often a bounded guard has been true since its scope was opened."""
        return here.counts[self._labels.index(guard.label)]

    def _take(self, arrow: Transition, here: Configuration) -> Step:
        counts = list(here.counts)
        if arrow.guard is not None and arrow.guard.label in self.bounds:
            i, limits = self._labels.index(arrow.guard.label), self.bounds[arrow.guard.label]
            if counts[i] < limits.counted:
                counts[i] += 1
        if arrow.dest != FAILED:
            _, entered = self.lifecycle.crossing(here.state, arrow.dest)
            for i, label in enumerate(self._labels):
                if not self._scopes[label].isdisjoint(entered):
                    counts[i] = 0
        return Step(arrow, Configuration(arrow.dest, tuple(counts)))


_FREE = Limits(0, None)


def _scopes_of(lifecycle: Lifecycle, label: str) -> frozenset[str]:
    """The scopes around the states whose arrows ask a guard; their opening counts it from 0."""
    asking = {
        arrow.source
        for arrow in lifecycle.transitions
        if arrow.guard is not None and arrow.guard.label == label
    }
    around = (lifecycle.state(name).within for name in asking)
    return frozenset(scope for scope in around if scope is not None)


@define(eq=False, repr=False)
class Exploration:
    """What `explore` found.

    Attributes:
        ways: what was explored.
        reached: each configuration, with the step that first led to it and the configuration that
            it came from.
        edges: how many steps there are between configurations.
    """

    ways: Ways
    reached: dict[Configuration, tuple[Step, Configuration | None]] = Factory(dict)
    edges: int = 0

    @property
    def lifecycle(self) -> Lifecycle:
        """The table that was explored."""
        return self.ways.lifecycle

    @property
    def transitions(self) -> set[Transition]:
        """The arrows of the table that some run takes, without the one into the initial state."""
        table = set(self.lifecycle.transitions)
        return {step.transition for here in self.reached for step in self.ways.out_of(here)} & table

    def shortest(self, here: Configuration) -> list[Transition]:
        """The shortest way to a configuration, the arrow into the initial state first."""
        path: list[Transition] = []
        at: Configuration | None = here
        while at is not None:
            step, at = self.reached[at]
            path.append(step.transition)
        return path[::-1]

    def __repr__(self) -> str:
        bounds = (
            ", ".join(limits.about(label) for label, limits in self.ways.bounds.items())
            or "no bounds"
        )
        return (
            f"<Exploration of {self.lifecycle.name!r}: {len(self.reached)} configurations,"
            f" {self.edges} steps, {bounds}>"
        )


def explore(
    lifecycle: Lifecycle,
    bounds: Mapping[str, Bound] | None = None,
    *,
    events: bool = True,
    failures: bool = True,
    limit: int = 1_000_000,
) -> Exploration:
    """Visits every configuration that a run can reach.

    Args:
        lifecycle: the table.
        bounds: by a guard's label, how often it may be true while the scope around it stays open;
            as a pair, how often it must be and may be (None: any number). The others answer freely
            at every turn.
        events: whether events are raised, in every state where an arrow takes one.
        failures: whether every state may fail.
        limit: configurations after which it is given up.

    Raises:
        LifecycleError: a bound names no guard of the table, or the limit was reached.
    """
    found = Exploration(Ways(lifecycle, bounds, events, failures))
    start = found.ways.start
    found.reached[start.after] = (start, None)
    layer = [start.after]
    while layer:
        following = []
        for here in layer:
            for step in found.ways.out_of(here):
                found.edges += 1
                if step.after not in found.reached:
                    found.reached[step.after] = (step, here)
                    following.append(step.after)
        if len(found.reached) > limit:
            raise LifecycleError(
                f"{lifecycle.name}: more than {limit} configurations; give smaller bounds, or a"
                " larger limit="
            )
        layer = following
    return found
