"""Answers to questions about a table, computed once, when they are first needed."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import cached_property
from typing import TypeVar

from statetrain.lifecycle.state import FAILED, START, State
from statetrain.lifecycle.transition import Transition

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Index:
    """A table by name, role, path, source and ends.

    Args:
        states: with unique names, within scopes that are known.
        transitions: the arrows.
    """

    def __init__(self, states: tuple[State, ...], transitions: tuple[Transition, ...]) -> None:
        self._states, self._transitions = states, transitions

    @cached_property
    def states(self) -> dict[str, State]:
        """The states by name."""
        return {state.name: state for state in self._states}

    @cached_property
    def order(self) -> dict[str, int]:
        """The place of each state in the table, by name."""
        return {state.name: i for i, state in enumerate(self._states)}

    @cached_property
    def roles(self) -> dict[str, tuple[State, ...]]:
        """The states by role, in order."""
        return _grouped([(state.role, state) for state in self._states])

    @cached_property
    def children(self) -> dict[str | None, tuple[str, ...]]:
        """The names of the states directly within a scope, in order; None is the outside."""
        return _grouped([(state.within, state.name) for state in self._states])

    @cached_property
    def paths(self) -> dict[str, tuple[str, ...]]:
        """By name, the scopes around a state, outermost first, and the state itself."""
        paths: dict[str, tuple[str, ...]] = {FAILED: (FAILED,), START: (START,)}
        todo: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in self.children[None]]
        while todo:
            name, around = todo.pop()
            paths[name] = (*around, name)
            todo += [(child, paths[name]) for child in self.children.get(name, ())]
        return paths

    @cached_property
    def asked(self) -> dict[str, tuple[Transition, ...]]:
        """By source, the ordinary arrows in the order in which they are asked."""
        arrows = self._transitions
        return _grouped([(arrow.source, arrow) for arrow in arrows if arrow.event is None])

    @cached_property
    def raised(self) -> dict[str, tuple[Transition, ...]]:
        """By source, the arrows that are taken on events."""
        arrows = self._transitions
        return _grouped([(arrow.source, arrow) for arrow in arrows if arrow.event is not None])

    @cached_property
    def between(self) -> dict[tuple[str, str], tuple[Transition, ...]]:
        """By source and dest, the arrows of both kinds."""
        return _grouped([((arrow.source, arrow.dest), arrow) for arrow in self._transitions])


def _grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, tuple[V, ...]]:
    found: dict[K, list[V]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return {key: tuple(values) for key, values in found.items()}
