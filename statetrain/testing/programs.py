"""Random programs of answers and events, made from a table, that run its real actions.

    TestMyLoop = random_programs(life, context=MyContext, states={"collect": check}).TestCase

hypothesis draws an arrow of the table after the other; guards answer and actions raise what leads
there by the shortest way, so that the innermost states are reached as often as the outer ones. A
program that fails is shrunk to a short one, and printed as the arrows that it went to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import attrs
from attrs import field, frozen

try:
    from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
except ImportError as error:
    raise ImportError(
        "random_programs needs hypothesis; install it with: pip install 'statetrain[testing]'"
    ) from error

from statetrain.lifecycle.explore import Bound, Configuration, Step, Ways
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED
from statetrain.lifecycle.transition import Transition
from statetrain.testing.callback_tests import Build
from statetrain.testing.guiding import is_fault
from statetrain.testing.paths import Path, to_the_end, ways_out
from statetrain.testing.visiting import StateTest, Visit


def random_programs(
    lifecycle: Lifecycle,
    *,
    context: Callable[[], Any] | None = None,
    build: Build | None = None,
    states: Mapping[str, StateTest] | None = None,
    bounds: Mapping[str, Bound] | None = None,
    events: bool = True,
    failures: bool = True,
) -> type[Program]:
    """A `RuleBasedStateMachine` of hypothesis, with a rule for each arrow of a lifecycle.

        TestMyLoop = random_programs(life, context=MyContext, bounds={"more": 5}).TestCase

    Guards answer, and actions raise events, as the program says; actions, effects and callbacks do
    their own work. Subclass what is returned to add rules and invariants over `self.ctx`.

    Args:
        lifecycle: the table.
        context: makes a context, for a lifecycle over one of your own.
        build: makes a run that has not started, for one that trains; see `callback_cases`. With
            neither, the toy problem is trained, which has three batches: give a bound.
        states: by a state's name, an assertion about the context, called each time that the state
            has been entered and has done its work; see `Path.run`.
        bounds: how often guards may be true, so that actions are not led to where they cannot work;
            see `statetrain.lifecycle.explore`.
        events: whether events are raised, in every state where an arrow takes one.
        failures: whether states may fail.

    Raises:
        ConfigError: `build` and `context` are both given.
        LifecycleError: a bound or a state is not of the table.
    """
    ways = Ways(lifecycle, bounds, events, failures)
    table = _ProgramTable(ways, partial(Visit.begin, context=context, build=build, states=states))
    table.begin().close()  # what is wrong is an error now
    body: dict[str, Any] = {"table": table}
    arrows = [arrow for arrow in lifecycle.transitions if events or arrow.event is None]
    if failures:
        arrows += [Transition(state.name, FAILED) for state in lifecycle.states if not state.final]
    for arrow in arrows:
        name = _name_of(arrow, body)
        body[name] = _rule_of(arrow, name)
    return type(f"Programs_{lifecycle.name}", (Program,), body)


@frozen
class _ProgramTable:
    """What all programs of a lifecycle have in common.

    Attributes:
        ways: those of the lifecycle.
        make: begins a run along a path.
        first: the first step of a shortest way to an end.
        onward: by configuration and arrow, the shortest way to it on which nothing is raised.
    """

    ways: Ways
    make: Callable[[Path], Visit]
    first: Callable[[Configuration], Step | None] = field(init=False)
    onward: dict[Configuration, dict[Transition, list[Step]]] = field(init=False, factory=dict)

    @first.default
    def _first(self) -> Callable[[Configuration], Step | None]:
        return ways_out(self.ways)

    def begin(self) -> Visit:
        """A run that has not taken a transition yet."""
        start = self.ways.start.transition
        return self.make(Path(self.ways.lifecycle, (start,), start))

    def from_here(self, here: Configuration) -> dict[Transition, list[Step]]:
        """By arrow, the shortest way to it from a configuration."""
        if here not in self.onward:
            self.onward[here] = _ways_onward(self.ways, here)
        return self.onward[here]

    def to_end(self, here: Configuration) -> list[Transition]:
        """A shortest way to a final state."""
        return to_the_end(self.ways, self.first, here)


class Program(RuleBasedStateMachine):
    """A run that goes to one arrow after the other, and after its end another run.

    `random_programs` makes subclasses of it.

    Attributes:
        visit: the run that is led.
        here: where it stands once it has taken the arrow that was drawn last.
    """

    table: ClassVar[_ProgramTable]

    def __init__(self) -> None:
        super().__init__()
        self._begin_run()

    def _begin_run(self) -> None:
        self.here = self.table.ways.start.after
        self.visit = self.table.begin()

    @property
    def ctx(self) -> Any:
        """The context of the run, as it was before the arrow that was drawn last.

        Whether something is raised on the way is only known when the next one has been drawn.
        """
        return self.visit.ctx

    @precondition(lambda self: not self.ways_onward())
    @rule()
    def begin_again(self) -> None:
        """Ends a run that has come to its end, and begins another."""
        self.visit.go_on()
        self._begin_run()

    def ways_onward(self) -> dict[Transition, list[Step]]:
        """By arrow, the shortest way to it from here, on which nothing is raised but by it."""
        return self.table.from_here(self.here)

    def go_to(self, arrow: Transition) -> None:
        """Takes the shortest way to an arrow, and that arrow."""
        way = self.ways_onward()[arrow]
        self._lead_on(*(step.transition for step in way))
        self.here = way[-1].after
        if not _is_raised(arrow):
            self.visit.go_on(upto=len(self.visit.guide.path.transitions) - 1)

    def _lead_on(self, *arrows: Transition) -> None:
        guide = self.visit.guide
        taken = (*guide.path.transitions, *arrows)
        guide.path = attrs.evolve(guide.path, transitions=taken, goal=taken[-1])

    def teardown(self) -> None:
        """Goes to an end, so that clean-ups run."""
        if not self.visit.over:
            self._lead_on(*self.table.to_end(self.here))
            self.visit.go_on()


def _ways_onward(ways: Ways, here: Configuration) -> dict[Transition, list[Step]]:
    found: dict[Transition, list[Step]] = {}
    came: dict[Configuration, list[Step]] = {here: []}
    layer = [here]
    while layer:
        following = []
        for at in layer:
            for step in ways.out_of(at):
                found.setdefault(step.transition, [*came[at], step])
                if step.after not in came and not _is_raised(step.transition):
                    came[step.after] = [*came[at], step]
                    following.append(step.after)
        layer = following
    return found


def _is_raised(arrow: Transition) -> bool:
    return arrow.event is not None or is_fault(arrow)


def _name_of(arrow: Transition, known: Mapping[str, Any]) -> str:
    """What the rule of an arrow is called: `next_batch_to_record_if_stop_now`."""
    name = f"{arrow.source}_to_{arrow.dest}"
    if is_fault(arrow):
        name = f"{arrow.source}_fails"
    if arrow.event is not None:
        name += f"_on_{arrow.event.__name__}"
    if arrow.guard is not None:
        name += f"_if_{re.sub(r'[^0-9a-zA-Z]+', '_', arrow.guard.label).strip('_')}"
    number = sum(other == name or other.startswith(f"{name}__") for other in known)
    if number:
        name += f"__{number + 1}"
    return name


def _rule_of(arrow: Transition, name: str) -> Any:
    def go(self: Program) -> None:
        self.go_to(arrow)

    go.__name__ = name
    go.__doc__ = str(arrow)
    return precondition(lambda self: arrow in self.ways_onward())(rule()(go))
