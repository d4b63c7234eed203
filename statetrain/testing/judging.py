"""Judges properties on all runs of a lifecycle, and shows the shortest run that violates one.

First all guards answer freely: what is true then is proved by the graph alone. What is not is tried
again within bounds, if there are any; the verdict says which it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import attrs
from attrs import frozen

from statetrain.errors import LifecycleError
from statetrain.lifecycle.explore import Bound, Ways
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED
from statetrain.lifecycle.transition import Transition
from statetrain.naming import did_you_mean
from statetrain.testing.moments import known_moments
from statetrain.testing.properties import AGREED, Property
from statetrain.testing.together import Halt, Together
from statetrain.testing.violating import find_violation
from statetrain.trace import Trace

if TYPE_CHECKING:
    from statetrain.context.context import Context


@frozen(repr=False)
class Verdict:
    """Whether a property is true, and how that is known.

    Attributes:
        property: what was asked.
        holds: whether it is true on all runs that were looked at.
        proof: whether these were all runs there can be; else all within `bounds`.
        bounds: the bounds that were needed.
        trace: the shortest run that breaks it; None if it is true.
        loop: of a run that breaks it by never ending, the number of the transition from which on
            it repeats itself, counted from 0; None otherwise.
        hangs: of several ranks, where they hang, and the shortest way there; None if they do not.
    """

    property: Property
    holds: bool
    proof: bool
    bounds: dict[str, Bound]
    trace: Trace | None = None
    loop: int | None = None
    hangs: Halt | None = None

    def __str__(self) -> str:
        if self.holds:
            return f"holds on {self._runs()}: {self.property.words}"
        broken = f"broken: {self.property.words}\n"
        if self.hangs is not None:
            return f"{broken}the shortest way there:\n{self.hangs}"
        assert self.trace is not None
        if self.loop is not None:
            start = self.trace[self.loop - 1].dest
            return f"{broken}a run that breaks it loops from {start!r} forever:\n{self.trace}"
        return f"{broken}the shortest run that breaks it:\n{self.trace}"

    def _runs(self) -> str:
        """The runs on which it is true."""
        every = "every run"
        if self.property.endless == "fair":
            every = "every fair run"
        if self.proof:
            return f"{every} (proved by the graph)"
        return f"{every} with {_list_bounds(self.bounds)}"

    def counterexample(self) -> Lifecycle:
        """The lifecycle for drawing the counterexample, with an arrow for an uncaught error.

        Raises:
            LifecycleError: the property is true.
        """
        if self.trace is None or self.trace.lifecycle is None:
            raise LifecycleError(
                f"'{self.property.words}' holds, so there is no run that breaks it"
            )
        life, last = self.trace.lifecycle, self.trace[-1]
        if last in life.transitions or last.dest != FAILED:
            return life
        return attrs.evolve(life, transitions=[*life.transitions, last_words(last)])

    def svg(self, **options: Any) -> str:
        """The picture of the lifecycle with the counterexample; see `statetrain.diagram.svg`."""
        return self.counterexample().svg(**self._shown(options))

    def mermaid(self, **options: Any) -> str:
        """The same as Mermaid text; see `statetrain.diagram.mermaid`."""
        return self.counterexample().mermaid(**self._shown(options))

    def draw(self, path: str | FilePath, **options: Any) -> None:
        """The same into a file; see `statetrain.diagram.draw`."""
        self.counterexample().draw(path, **self._shown(options))

    def _shown(self, options: dict[str, Any]) -> dict[str, Any]:
        """All arrows of the run stand out, with how often it took each."""
        assert self.trace is not None
        run = self.trace
        if (
            run[-1].dest == FAILED
            and run.lifecycle is not None
            and run[-1] not in run.lifecycle.transitions
        ):
            run = attrs.evolve(run, transitions=[*run.transitions[:-1], last_words(run[-1])])
        return {"trace": run, "zeros": False, "marked": run.transitions, **options}

    def _repr_svg_(self) -> str | None:
        if self.trace is None:
            return None
        return self.svg()

    def __repr__(self) -> str:
        return f"<Verdict: {'holds' if self.holds else 'broken'}, {self.property.words}>"


def last_words(arrow: Transition) -> Transition:
    """The arrow of an exception that no arrow takes, as one that can be drawn."""
    return attrs.evolve(arrow, effect=any_error, event=Exception)


def any_error(ctx: Context) -> None:
    "an error that no arrow takes"


def check(
    lifecycle: Lifecycle,
    *properties: Property,
    bounds: Mapping[str, Bound] | None = None,
    events: bool = True,
    failures: bool = True,
    ranks: int = 2,
) -> list[Verdict]:
    """Asserts properties on all runs of a lifecycle.

    Args:
        lifecycle: the table.
        properties: what must be true.
        bounds: see `statetrain.lifecycle.explore.explore`; tried where the graph alone does not
            decide.
        events: whether events are raised.
        failures: whether every state may fail.
        ranks: how many ranks walk it together, for properties of several.

    Returns:
        A verdict for each, all of which hold.

    Raises:
        AssertionError: one is broken; the message shows the shortest run that breaks it.
        LifecycleError: a property names something that the table does not have.
    """
    __tracebackhide__ = True  # pytest shows the line of the test
    verdicts = [
        judge(lifecycle, one, bounds, events=events, failures=failures, ranks=ranks)
        for one in properties
    ]
    broken = [verdict for verdict in verdicts if not verdict.holds]
    if broken:
        raise AssertionError("\n\n".join(f"{lifecycle.name}: {verdict}" for verdict in broken))
    return verdicts


def judge(
    lifecycle: Lifecycle,
    one: Property,
    bounds: Mapping[str, Bound] | None = None,
    *,
    events: bool = True,
    failures: bool = True,
    ranks: int = 2,
) -> Verdict:
    """Whether a property is true on all runs; the arguments are those of `check`."""
    __tracebackhide__ = True
    if one.of_ranks:
        return _judge_together(lifecycle, one, ranks)
    _check_names(lifecycle, one)
    broken = find_violation(Ways(lifecycle, None, events, failures), one)
    if broken is None:
        return Verdict(one, True, True, {})
    if bounds:
        broken = find_violation(Ways(lifecycle, bounds, events, failures), one)
        if broken is None:
            return Verdict(one, True, False, dict(bounds))
    trace = Trace(broken.way, lifecycle=lifecycle)
    return Verdict(one, False, not bounds, dict(bounds or {}), trace, broken.loop)


def _check_names(lifecycle: Lifecycle, one: Property) -> None:
    __tracebackhide__ = True
    known = known_moments(lifecycle)
    for name in one.names:
        if name not in known:
            raise LifecycleError(
                f"{lifecycle.name}: '{one.words}' names {name!r}, which is not a state, an arrow, a"
                f" guard, an event or an effect of the table{did_you_mean(name, known)}"
            )


def _judge_together(lifecycle: Lifecycle, one: Property, ranks: int) -> Verdict:
    life = lifecycle
    if one.start == AGREED:
        from statetrain.standard.several import several  # of a higher floor, so looked up here

        life = several(lifecycle)
    halt = Together(life, ranks).explore()
    return Verdict(one, halt is None, True, {}, hangs=halt)


def _list_bounds(bounds: Mapping[str, Bound]) -> str:
    return " and ".join(f"{_times(bound)} x [{label}]" for label, bound in bounds.items())


def _times(bound: Bound) -> str:
    if isinstance(bound, int):
        return f"at most {bound}"
    least, most = bound
    if most is None:
        return f"at least {least}"
    return f"{least} to {most}"
