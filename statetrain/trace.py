"""The trace of a run: the transitions that were taken, in order, and the callback that records them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any

from attrs import field, frozen

from statetrain.callback import Callback
from statetrain.lifecycle import FAILED, START, Lifecycle, Transition
from statetrain.outcome import ConfigError

_SHOWN = 12  # states that a short form shows


def _taken(transitions: Iterable[Transition]) -> tuple[Transition, ...]:
    return tuple(transitions)


@frozen(repr=False)
class Trace:
    """The transitions taken, oldest first. The arrow into the initial state is the first of them.

    Args:
        transitions: the arrows.
        dropped: how many earlier ones were not kept.
        lifecycle: the table that they come from, if it is known; it helps with names, and does not count in comparisons.
    """

    transitions: tuple[Transition, ...] = field(default=(), converter=_taken)
    dropped: int = 0
    lifecycle: Lifecycle | None = field(default=None, eq=False)

    @property
    def states(self) -> list[str]:
        """The states that the arrows led to: the initial state first, if everything was kept."""
        return [transition.dest for transition in self.transitions]

    def counts(self) -> Counter[Transition]:
        """How often each arrow was taken; 0 for one that was not."""
        return Counter(self.transitions)

    def __len__(self) -> int:
        return len(self.transitions)

    def __iter__(self) -> Iterator[Transition]:
        return iter(self.transitions)

    def __getitem__(self, index: int) -> Transition:
        return self.transitions[index]

    def __repr__(self) -> str:
        of = f" of {self.lifecycle.name!r}" if self.lifecycle is not None else ""
        return f"<Trace{of}, {len(self)} transitions: {shortened(self.states)}>"

    def __str__(self) -> str:
        """One line per transition, numbered from 1."""
        lines = [f"({self.dropped} earlier transitions were not kept)"] if self.dropped else []
        width = len(str(self.dropped + len(self)))
        lines += [f"{number:{width}}  {taken}" for number, taken in enumerate(self.transitions, self.dropped + 1)]
        return "\n".join(lines)


def shortened(states: list[str], shown: int = _SHOWN) -> str:
    """The states in one line, the middle left out if there are more than `shown`."""
    if len(states) <= shown:
        return " ".join(states)
    head, tail = states[: shown - shown // 2], states[len(states) - shown // 2 :]
    return " ".join((*head, f"[{len(states) - shown} more]", *tail))


class Tracing(Callback):
    """Records the transitions of a run. A new run starts a new trace; one that is continued goes on with it.

    An exception that no arrow takes is the last transition: from the state that it was raised in to `failed`.

        tracing = Tracing()
        Machine(life, [tracing]).run(ctx)
        print(tracing.trace)

    Args:
        last: how many transitions are kept, at least 1; None keeps all, about 10 bytes each.
        lifecycle: the table that is walked, for the trace to help with misspelt names.

    Raises:
        ConfigError: `last` is not a whole number of at least 1.
    """

    def __init__(self, last: int | None = None, lifecycle: Lifecycle | None = None) -> None:
        if last is not None and (isinstance(last, bool) or not isinstance(last, int) or last < 1):
            raise ConfigError(f"Tracing: last must be a whole number of at least 1, or None for all, got {last!r}")
        self._taken: deque[Transition] = deque(maxlen=last)
        self._count = 0
        self._lifecycle = lifecycle

    @property
    def trace(self) -> Trace:
        """What was recorded so far."""
        return Trace(self._taken, self._count - len(self._taken), self._lifecycle)

    def on_transition(self, ctx: Any) -> None:
        """Records the arrow."""
        taken = ctx.transition
        if taken.source == START:
            self._taken.clear()
            self._count = 0
        self._taken.append(taken)
        self._count += 1

    def on_enter_failed(self, ctx: Any) -> None:
        """Records how the run failed: by the arrow that raised the error, or from the state that it was raised in."""
        led = ctx.transition is not None and ctx.transition.dest == FAILED
        if not (led and self._taken and self._taken[-1] == ctx.transition):  # an arrow that raised nothing is there already
            self._taken.append(ctx.transition if led else Transition(ctx.outcome.state, FAILED))
            self._count += 1
