"""Real actions along a path, with assertions about the states that it visits.

The guards answer so that the path is taken, events and failures are raised where it needs them; all
else is the lifecycle's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs import define, field, frozen

from statetrain.callback import Callback
from statetrain.context.position import Position
from statetrain.contracts.composing import computes_with_gradients
from statetrain.contracts.declaring import Access, access_of
from statetrain.errors import ConfigError, LifecycleError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, State, StateWork
from statetrain.machine.steps import Steps
from statetrain.machine.witness import unwitnessed
from statetrain.naming import did_you_mean, label_of
from statetrain.testing.callback_tests import Build, toy_run
from statetrain.testing.guiding import Guide, machine_of
from statetrain.testing.paths import Path

if TYPE_CHECKING:
    from statetrain.training.run import Run

StateTest = Callable[[Any], object]


def run_along(
    path: Path,
    context: Callable[[], Any] | None = None,
    build: Build | None = None,
    states: Mapping[str, StateTest] | None = None,
    callbacks: Iterable[Callback] = (),
) -> Any:
    """Runs a path with real actions; see `Path.run`, whose arguments these are."""
    __tracebackhide__ = True
    visit = Visit.begin(path, context, build, states, callbacks)
    visit.go_on()
    return visit.ctx


@define(eq=False)
class Visit:
    """A run that is led along a path, which may grow while it is under way.

    Attributes:
        guide: leads it.
        ctx: its context.
        steps: the run, one transition at a time.
        failed: the first assertion about a state that failed, even if an arrow took its error.
    """

    guide: Guide
    ctx: Position
    steps: Steps
    tests: StateTests
    over: bool = field(default=False, init=False)

    @classmethod
    def begin(
        cls,
        path: Path,
        context: Callable[[], Any] | None,
        build: Build | None,
        states: Mapping[str, StateTest] | None,
        callbacks: Iterable[Callback] = (),
    ) -> Visit:
        """A run that has not taken a transition yet.

        Raises:
            ConfigError: `build` and `context` are both given.
            LifecycleError: `states` names one that the lifecycle does not have.
        """
        if build is not None and context is not None:
            raise ConfigError(
                "give build= for a lifecycle that trains, or context= for one that does not, not"
                " both"
            )
        guide, tests = Guide(path), StateTests(dict(states or {}))
        life = tests.in_lifecycle(guide.lifecycle())
        watching = (*callbacks, *tests.callbacks(life), guide)
        if context is not None:
            ctx, machine = context(), machine_of(life, watching)
        else:
            with unwitnessed():
                run: Run = (build or toy_run)(life, watching)
            ctx, machine = run.ctx, run.machine
        return cls(guide, ctx, machine.steps(ctx), tests)

    def go_on(self, upto: int | None = None) -> None:
        """Takes the path's transitions, up to one of them or to its end.

        Args:
            upto: the number of the arrow that is not to be taken yet; None for all.

        Raises:
            AssertionError: an assertion about a state failed, or the run left the path.
            Exception: what an action, effect or callback raised that the path does not lead to.
        """
        __tracebackhide__ = True
        try:
            while not self.over and (
                upto is None or self.ctx.state is None or self.guide.at < upto
            ):
                next(self.steps)
        except StopIteration:
            self.over = True
        except BaseException as error:
            self.over = True
            if error is not self.tests.failed and not self._is_due(error):
                error.add_note(f"on the path that {self.guide.path}")
                raise
        self._judge()

    def _is_due(self, error: BaseException) -> bool:
        """Whether the path ends in the failure that the run has ended with."""
        return not self.guide.left and self.guide.path.transitions[-1].dest == FAILED

    def _judge(self) -> None:
        __tracebackhide__ = True
        if self.tests.failed is not None:
            self.tests.failed.add_note(f"on the path that {self.guide.path}")
            raise self.tests.failed
        if self.guide.left:
            raise AssertionError(f"the run left the path that {self.guide.path}: {self.guide.led}")

    def close(self) -> None:
        """Ends the run where it is; clean-ups run."""
        self.over = True
        self.steps.close()


@define(eq=False)
class StateTests:
    """What is asserted about each state, once it has been entered and has done its work."""

    by_state: dict[str, StateTest]
    failed: BaseException | None = field(default=None, init=False)

    def in_lifecycle(self, life: Lifecycle) -> Lifecycle:
        """The lifecycle whose actions are followed by the assertions about their states.

        Raises:
            LifecycleError: there is no such state.
        """
        for name in self.by_state:
            if name not in life.names:
                raise LifecycleError(
                    f"{life.name}: states: no state {name!r}{did_you_mean(name, life.names)}"
                )
        return attrs.evolve(life, states=[self._tested(state) for state in life.states])

    def _tested(self, state: State) -> State:
        if state.action is None or state.name not in self.by_state:
            return state
        return attrs.evolve(state, action=_Tested(state.action, self, state.name))

    def callbacks(self, life: Lifecycle) -> list[Callback]:
        """Those that make the assertions about states that do no work."""
        idle = [name for name in self.by_state if life.state(name).action is None]
        if not idle:
            return []
        return [_IdleStates(self, idle)]

    def test(self, name: str, ctx: Position) -> None:
        """Makes the assertion about a state."""
        __tracebackhide__ = True
        try:
            answer = self.by_state[name](ctx)
            if answer is not None and answer is not True:
                raise AssertionError(
                    f"the test of state {name!r} returned {answer!r:.80}; it asserts something, or"
                    " returns True"
                )
        except BaseException as error:
            self.failed = self.failed or error
            raise


@frozen
class _Tested:
    """An action, and then the assertion about its state."""

    action: StateWork
    tests: StateTests = field(eq=False, repr=False)
    state: str

    @property
    def label(self) -> str:
        return label_of(self.action)

    @property
    def access(self) -> Access | None:
        return access_of(self.action)

    @property
    def gradients(self) -> bool:
        return computes_with_gradients(self.action)

    def __call__(self, ctx: Position) -> None:
        __tracebackhide__ = True
        self.action(ctx)
        self.tests.test(self.state, ctx)


class _IdleStates(Callback):
    """Makes the assertions about states without an action, as they are entered."""

    anywhere = True

    def __init__(self, tests: StateTests, names: Iterable[str]) -> None:
        for name in names:
            setattr(self, f"on_enter_{name}", self._testing(tests, name))

    @staticmethod
    def _testing(tests: StateTests, name: str) -> Callable[[Any], None]:
        def test(ctx: Position) -> None:
            tests.test(name, ctx)

        return test
