"""Looks for a run that violates a property: one that ends, or one that never does.

Theory: the ways of a lifecycle and the memory of the property, taken together, are a finite graph.
A run that violates a property of finite runs is a path in it, and the shortest is found breadth
first. A run that never ends violates "it comes to this again and again" if it stays for ever among
the nodes that wait. Guards are fair and actions are not, so in each node either all answers of the
guards stay there, or one event that an action raises does: the largest set of waiting nodes of
which that is true is found by dropping, again and again, those of which it is not. It is empty if
and only if no fair run waits forever.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import NamedTuple

from attrs import define, field

from statetrain.lifecycle.explore import Configuration, Step, Ways
from statetrain.lifecycle.transition import Transition
from statetrain.testing.properties import BROKEN, Property


class SearchNode(NamedTuple):
    """Where a run stands, and what the property remembers of it."""

    here: Configuration
    memory: Hashable


class Violation(NamedTuple):
    """A run that violates a property.

    Attributes:
        way: its arrows.
        loop: of a run that never ends, the number of the arrow from which it repeats them, counted
            from 0; None of one that ends.
    """

    way: list[Transition]
    loop: int | None = None


def find_violation(ways: Ways, one: Property) -> Violation | None:
    """The shortest run that violates a property; None if there is none."""
    search = _ViolationSearch(ways, one)
    return search.of_finite_runs() or search.of_endless_runs()


@define
class _ViolationSearch:
    ways: Ways
    property: Property
    came: dict[SearchNode, tuple[Transition, SearchNode | None]] = field(factory=dict, init=False)

    def of_finite_runs(self) -> Violation | None:
        """Goes every way, breadth first."""
        start = self.ways.start
        layer = [self._after(self.property.start, start)]
        self.came[layer[0]] = (start.transition, None)
        while layer:
            following = []
            for node in layer:
                if self._is_violated(node):
                    return Violation(self._way(node))
                for step in self.ways.out_of(node.here):
                    after = self._after(node.memory, step)
                    if after not in self.came:
                        self.came[after] = (step.transition, node)
                        following.append(after)
            layer = following
        return None

    def of_endless_runs(self) -> Violation | None:
        """Looks for nodes among which a run can wait forever; all have been visited by now."""
        if self.property.endless == "none":
            return None
        waiting = {node for node in self.came if not self.property.end(node.memory)}
        found = len(waiting) + 1
        while len(waiting) < found:
            found = len(waiting)
            for node in reversed(self.came):  # later ones first: what they cause comes before them
                if node in waiting and self._stays(node, waiting) is None:
                    waiting.discard(node)
        if not waiting:
            return None
        first = next(node for node in self.came if node in waiting)
        return self._lasso(first, waiting)

    def _is_violated(self, node: SearchNode) -> bool:
        if node.memory == BROKEN:
            return True
        return not self.ways.out_of(node.here) and not self.property.end(node.memory)

    def _after(self, memory: Hashable, step: Step) -> SearchNode:
        read = self.property.read
        return SearchNode(step.after, read(memory, step.transition, self.ways.lifecycle))

    def _stays(self, node: SearchNode, waiting: set[SearchNode]) -> Step | None:
        """A step by which a run stays among nodes, whatever fair guards answer; None if none."""
        for choice in self._choices(node):
            if choice and all(self._after(node.memory, step) in waiting for step in choice):
                return choice[0]
        return None

    def _choices(self, node: SearchNode) -> Iterator[list[Step]]:
        """What an adversary can choose: the steps of which each has to come, then, one day."""
        steps = self.ways.out_of(node.here)
        table = self.ways.lifecycle.arrows(node.here.state)
        asked = [step for step in steps if step.transition in table]
        raised = [step for step in steps if step.transition not in table]
        if self.property.endless == "fair":
            yield asked
        else:
            yield from ([step] for step in asked)
        yield from ([step] for step in raised)

    def _lasso(self, first: SearchNode, waiting: set[SearchNode]) -> Violation:
        """The way to a node, and on from there until it reaches one a second time."""
        way, seen, node = self._way(first), {first: len(self._way(first))}, first
        while True:
            step = self._stays(node, waiting)
            assert step is not None  # else it would not be among them
            way.append(step.transition)
            node = self._after(node.memory, step)
            if node in seen:
                return Violation(way, seen[node])
            seen[node] = len(way)

    def _way(self, node: SearchNode) -> list[Transition]:
        path = []
        at: SearchNode | None = node
        while at is not None:
            arrow, at = self.came[at]
            path.append(arrow)
        return path[::-1]
