"""Real runs led along a generated path: real actions, effects and callbacks, scripted guards.

A guide stands last among the callbacks. It knows the next arrow of the path: the guards of the
table are replaced by ones that ask it, and where the path wants an event or a failure, it raises
one in its enter hook, after everybody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen

from statetrain.callback import Callback
from statetrain.events import Event
from statetrain.guards.base import Guard
from statetrain.lifecycle.explore import Configuration, Step, Ways
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, START
from statetrain.lifecycle.transition import Transition
from statetrain.machine.machine import Machine
from statetrain.machine.witness import unwitnessed
from statetrain.testing.paths import Path

if TYPE_CHECKING:
    from statetrain.context.context import Context

GuidedHook = Callable[[Any], Any]
GuidedAsked = Callable[[Guard, Any], None]
_LOST = 2_000  # transitions after which a run that has left its path is given up


class Fault(Exception):
    """What a guide raises in a state that is to fail."""


class Astray(Exception):
    """Ends a run that has left its path and does not come to an end."""


class Guide(Callback):
    """Leads one run along a path, and watches the hooks of the others.

    Args:
        path: the way to go.
        at: the next arrow of it, by its number; not 1 where a run is continued.
        asked: called with each guard of the table that is asked, as it was before it was replaced.
        anchored: called at each anchor with the number of the next arrow.

    Attributes:
        left: whether the run has left the path, because a callback steered it elsewhere.
        failures: what hooks did that they may not, with the hook's name.
        led: the first arrow that is not of the path; empty if there is none.
    """

    anywhere = True

    def __init__(
        self,
        path: Path,
        at: int = 1,
        asked: GuidedAsked | None = None,
        anchored: Callable[[int], object] | None = None,
    ) -> None:
        self.path, self.at, self.asked, self.anchored = path, at, asked, anchored
        self.left, self.led = False, ""
        self.failures: list[tuple[str, BaseException | None]] = []
        self.taken = 0
        for name in path.lifecycle.names:
            setattr(self, f"on_enter_{name}", self.enter)

    @property
    def wanted(self) -> Transition | None:
        """The next arrow of the path; None at its end, or if it was left."""
        if self.left or self.at >= len(self.path.transitions):
            return None
        return self.path.transitions[self.at]

    def lifecycle(self) -> Lifecycle:
        """The path's lifecycle with guards that ask the guide."""
        life = self.path.lifecycle
        arrows = list(life.transitions)
        for i, arrow in enumerate(arrows):
            if arrow.guard is not None:
                arrows[i] = attrs.evolve(arrow, guard=Guided(i, arrow.guard.label, self))
        return attrs.evolve(life, transitions=arrows)

    def on_transition(self, ctx: Context) -> None:
        """Looks on to the next arrow of the path."""
        taken, wanted = ctx.transition, self.wanted
        self.taken += 1
        if taken.source == START:
            return
        if wanted is None or not self._is(taken, wanted):
            self.led = self.led or str(taken)
            self.left = True
            if self.taken > _LOST:
                raise Astray(f"the run has left the way, and continues after {_LOST} transitions")
        self.at += 1

    def _is(self, taken: Transition, wanted: Transition) -> bool:
        """Whether an arrow of the guided table is one of the path's."""
        if isinstance(taken.guard, Guided):
            return self.path.lifecycle.transitions[taken.guard.number] == wanted
        return taken == wanted

    def enter(self, ctx: Context) -> None:
        """Raises what the path wants here."""
        wanted = self.wanted
        if wanted is None or ctx.state != ctx.transition.dest:
            return  # a scope on the way to a state inside it
        if wanted.event is not None:
            raise wanted.event()
        if is_fault(wanted):
            raise Fault(f"{ctx.state} fails")

    def on_anchor(self, ctx: Context) -> None:
        """Tells who wants to know."""
        if self.anchored is not None:
            self.anchored(self.at)

    def wrap_call(self, function: GuidedHook, state: str, hook: str) -> GuidedHook:
        """Watches the others' hooks."""
        if not hook or hook.startswith(f"{type(self).__name__}."):
            return function

        def watched(ctx: Context) -> Any:
            try:
                answer = function(ctx)
            except Event:
                raise  # steering; whether it may is the machine's to say
            except BaseException as error:
                self.failures.append((hook, error))
                raise
            if answer is not None:
                self.failures.append(
                    (
                        hook,
                        TypeError(
                            f"a hook returns nothing, got {type(answer).__name__}: {answer!r:.80}"
                        ),
                    )
                )
            return answer

        return watched


@frozen
class Guided(Guard):
    """A guard that holds if its arrow is the one that the guide wants."""

    number: int
    name: str
    guide: Guide = field(eq=False, repr=False)

    @property
    def label(self) -> str:
        return self.name

    @property
    def reads(self) -> frozenset[str]:
        """What the guard reads whose place it takes."""
        guard = self.guide.path.lifecycle.transitions[self.number].guard
        if guard is None:
            return frozenset()
        return guard.reads

    def test(self, ctx: Context) -> bool:
        arrow = self.guide.path.lifecycle.transitions[self.number]
        if self.guide.asked is not None and arrow.guard is not None:
            self.guide.asked(arrow.guard, ctx)
        return self.guide.wanted == arrow


def is_fault(arrow: Transition) -> bool:
    """Whether an arrow is not of the table, but stands for an exception that no arrow takes."""
    return arrow.dest == FAILED and arrow.effect is None


def faults(lifecycle: Lifecycle) -> list[Path]:
    """The shortest way to each state, in which it then fails."""
    ways = Ways(lifecycle, None, False, False)
    start = ways.start
    reached: dict[str, tuple[Transition, ...]] = {start.after.state: (start.transition,)}
    layer: list[Configuration] = [start.after]
    while layer:
        following = []
        for here in layer:
            for step in _onward(ways, here):
                if step.after.state not in reached:
                    reached[step.after.state] = (*reached[here.state], step.transition)
                    following.append(step.after)
        layer = following
    ends = [
        (way, Transition(state, FAILED))
        for state, way in reached.items()
        if not lifecycle.state(state).final
    ]
    return [Path(lifecycle, (*way, end), end) for way, end in ends]


def _onward(ways: Ways, here: Configuration) -> Iterator[Step]:
    return (step for step in ways.out_of(here) if step.after.state != FAILED)


def machine_of(lifecycle: Lifecycle, callbacks: Iterable[Callback]) -> Machine:
    """A machine for a guided run, not counted by coverage: its guards are stand-ins."""
    with unwitnessed():
        return Machine(lifecycle, tuple(callbacks))
