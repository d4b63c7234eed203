"""Properties that must hold on all runs of a lifecycle, in plain words.

    check(life, precedes("backward", "step"), between("valid", "valid", "step"), never("failed",
    after="record"))

Each is a little automaton that reads the states of a run one after the other. `check` runs it along
every way that the lifecycle can go. First all guards answer freely: what holds then is proved by
the graph alone. What does not is tried again within bounds, if there are any; the verdict says
which it was.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen

from statetrain.errors import LifecycleError
from statetrain.lifecycle.explore import Configuration, Ways
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED
from statetrain.lifecycle.transition import Transition
from statetrain.naming import did_you_mean, label_of
from statetrain.testing.together import Halt, Together
from statetrain.trace import Trace

if TYPE_CHECKING:
    from statetrain.context.context import Context

_BROKEN = "broken"


@frozen
class Property:
    """Something that must hold on all runs.

    Attributes:
        words: what it says.
        start: what it remembers before a run.
        read: from what it remembers and the arrow taken, what it remembers next; "broken" if it is
            violated.
        end: whether what it remembers may stand at the end of a run.
        states: the states that it names, to be checked for misspellings.
    """

    words: str
    start: Hashable
    read: Callable[[Any, Transition, Lifecycle], Hashable]
    end: Callable[[Any], bool] = field(default=lambda memory: True)  # most do not care
    states: tuple[str, ...] = ()
    of_ranks: bool = False  # whether it is about several ranks together; then `read` is not called

    def __str__(self) -> str:
        return self.words


@frozen(repr=False)
class Verdict:
    """Whether a property holds, and how that is known.

    Attributes:
        property: what was asked.
        holds: whether it does on all runs that were looked at.
        proof: whether these were all runs there can be; else all within `bounds`.
        bounds: the bounds that were needed.
        trace: the shortest run that breaks it; None if it holds.
        hangs: of several ranks, where they hang, and the shortest way there; None if they do not.
    """

    property: Property
    holds: bool
    proof: bool
    bounds: dict[str, int]
    trace: Trace | None = None
    hangs: Halt | None = None

    def __str__(self) -> str:
        if self.proof:
            within = "on every run (proved by the graph)"
        else:
            within = f"on every run with {_listed(self.bounds)}"
        if self.holds:
            return f"holds {within}: {self.property.words}"
        if self.hangs is not None:
            return f"broken: {self.property.words}\nthe shortest way there:\n{self.hangs}"
        assert self.trace is not None
        return f"broken: {self.property.words}\nthe shortest run that breaks it:\n{self.trace}"

    def counterexample(self) -> Lifecycle:
        """The lifecycle for drawing the counterexample, with an arrow for an uncaught error.

        Raises:
            LifecycleError: the property holds.
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
    bounds: Mapping[str, int] | None = None,
    events: bool = True,
    failures: bool = True,
    ranks: int = 2,
) -> list[Verdict]:
    """Asserts properties on all runs of a lifecycle.

    Args:
        lifecycle: the table.
        properties: what must hold.
        bounds: see `statetrain.lifecycle.explore.explore`; tried where the graph alone does not
            decide.
        events: whether events are raised.
        failures: whether every state may fail.
        ranks: how many ranks walk it together, for properties of several.

    Returns:
        A verdict for each, all of which hold.

    Raises:
        AssertionError: one is broken; the message shows the shortest run that breaks it.
        LifecycleError: a property names a state that is not there.
    """
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
    bounds: Mapping[str, int] | None = None,
    *,
    events: bool = True,
    failures: bool = True,
    ranks: int = 2,
) -> Verdict:
    """Whether a property holds on all runs; the arguments are those of `check`."""
    if one.of_ranks:
        return _judge_together(lifecycle, one, ranks)
    known = {*lifecycle.names, FAILED}
    for name in one.states:
        if name not in known:
            raise LifecycleError(
                f"{lifecycle.name}: '{one.words}' names {name!r}, which is no"
                f" state{did_you_mean(name, known)}"
            )
    free = Ways(lifecycle, None, events, failures)
    broken = _shortest_violation(free, one)
    if broken is None:
        return Verdict(one, True, True, {})
    if bounds:
        broken = _shortest_violation(Ways(lifecycle, bounds, events, failures), one)
        if broken is None:
            return Verdict(one, True, False, dict(bounds))
    return Verdict(one, False, not bounds, dict(bounds or {}), Trace(broken, lifecycle=lifecycle))


def _judge_together(lifecycle: Lifecycle, one: Property, ranks: int) -> Verdict:
    life = lifecycle
    if one.start == _AGREED:
        from statetrain.standard.several import several  # of a higher floor, so looked up here

        life = several(lifecycle)
    halt = Together(life, ranks).explore()
    return Verdict(one, halt is None, True, {}, hangs=halt)


def _shortest_violation(ways: Ways, one: Property) -> list[Transition] | None:
    life = ways.lifecycle
    start = ways.start
    memory = one.read(one.start, start.transition, life)
    node = (start.after, memory)
    came: dict[tuple[Configuration, Hashable], tuple[Transition, Any]] = {
        node: (start.transition, None)
    }
    layer = [node]
    while layer:
        following = []
        for here in layer:
            configuration, memory = here
            if memory == _BROKEN:
                return _way(came, here)
            steps = ways.out_of(configuration)
            if not steps and not one.end(memory):
                return _way(came, here)
            for step in steps:
                after = (step.after, one.read(memory, step.transition, life))
                if after not in came:
                    came[after] = (step.transition, here)
                    following.append(after)
        layer = following
    return None


def _way(came: dict[Any, tuple[Transition, Any]], node: Any) -> list[Transition]:
    path = []
    while node is not None:
        transition, node = came[node]
        path.append(transition)
    return path[::-1]


def _listed(bounds: Mapping[str, int]) -> str:
    return " and ".join(f"at most {n} x [{label}]" for label, n in bounds.items())


# ---------------------------------------------------------------- the properties

_AGREED = "agreed"


def same_route(*, agreed: bool = True) -> Property:
    """Several ranks never wait for one that does not come.

        check(life, same_route(), ranks=3)

    Args:
        agreed: whether the ranks agree on guards as they do in a run; False shows what would happen
            if each decided for itself.
    """
    start = ""
    if agreed:
        start = _AGREED
    return Property(
        "the ranks meet wherever one waits for others", start, lambda *_: start, of_ranks=True
    )


def never(state: str, after: str | None = None) -> Property:
    """No run enters a state; with `after`, none does once it has entered that one."""
    if after is None:
        return Property(
            f"never {state}",
            None,
            lambda memory, t, life: _BROKEN if state in _entered(t, life) else memory,
            states=(state,),
        )

    def read(seen: bool, t: Transition, life: Lifecycle) -> Hashable:
        entered = _entered(t, life)
        if seen and state in entered:
            return _BROKEN
        return seen or after in entered

    return Property(f"never {state} after {after}", False, read, states=(state, after))


def eventually(state: str, *others: str) -> Property:
    """Every run that ends has entered the state, or one of the others."""
    goals = {state, *others}

    def read(seen: bool, t: Transition, life: Lifecycle) -> Hashable:
        return seen or not goals.isdisjoint(_entered(t, life))

    return Property(
        f"eventually {' or '.join((state, *others))}", False, read, bool, states=tuple(goals)
    )


def precedes(first: str, second: str) -> Property:
    """Every entry of the second state has an entry of the first before it."""

    def read(seen: bool, t: Transition, life: Lifecycle) -> Hashable:
        entered = _entered(t, life)
        if not seen and second in entered:
            return _BROKEN
        return seen or first in entered

    return Property(f"{first} precedes {second}", False, read, states=(first, second))


def between(first: str, second: str, needed: str) -> Property:
    """Between each entry of the first state and the next of the second, `needed` is entered."""

    def read(waiting: bool, t: Transition, life: Lifecycle) -> Hashable:
        for name in _entered(t, life):
            if name == needed:
                waiting = False
            if name == second and waiting:
                return _BROKEN
            if name == first:
                waiting = True
        return waiting

    return Property(
        f"between {first} and {second} comes {needed}", False, read, states=(first, second, needed)
    )


def always(words: str, holds: Callable[[Transition], bool]) -> Property:
    """A condition on every arrow that a run takes.

    Args:
        words: what it says.
        holds: whether it does, of an arrow.
    """
    # The arrow is enough
    return Property(words, None, lambda memory, t, life: memory if holds(t) else _BROKEN)


def at_most(few: str, many: str) -> Property:
    """At any time, `few` has been entered no more often than `many`: steps and batches, say."""

    def read(ahead: int, t: Transition, life: Lifecycle) -> Hashable:
        for name in _entered(t, life):
            ahead = min(ahead + (name == many) - (name == few), _ENOUGH)
        if ahead >= 0:
            return ahead
        return _BROKEN

    return Property(f"{few} is entered at most as often as {many}", 0, read, states=(few, many))


# How far ahead is told apart; a state that is further ahead is counted as that far, which only errs
# on the strict side
_ENOUGH = 8


def balanced() -> Property:
    """Each state that is entered is left again, innermost first, in every run without failure."""

    def read(stack: tuple[str, ...], t: Transition, life: Lifecycle) -> Hashable:
        if t.dest == FAILED:
            return ()
        if stack:
            active = stack[-1]
        else:
            active = t.source
        left, entered = life.crossing(active, t.dest)
        if tuple(reversed(stack[len(stack) - len(left) :] if left else ())) != left:
            return _BROKEN
        return (*stack[: len(stack) - len(left)], *entered)

    def closed(stack: tuple[str, ...]) -> bool:
        return len(stack) <= 1

    return Property("each enter has its exit", (), read, closed)


def counters_agree() -> Property:
    """Each epoch, batch and validation batch is counted once, and nothing else is counted as one.

    It is for lifecycles made of the standard parts: counted is by arrows whose effect is "count the
    epoch" or "count the batch".
    """

    def agrees(t: Transition, life: Lifecycle) -> bool:
        counted = ""
        if t.effect is not None:
            counted = label_of(t.effect)
        for state, words in _COUNTED.items():
            if state in life.names and (state in _entered(t, life)) is not (
                counted.startswith(words) and t.dest == state
            ):
                return False
        return not counted.startswith(tuple(_COUNTED.values())) or t.dest in _COUNTED

    return Property(
        "counters agree with what was entered",
        None,
        lambda memory, t, life: memory if agrees(t, life) else _BROKEN,
    )


_COUNTED = {
    "epoch": "count the epoch",
    "batch": "count the batch",
    "valid_batch": "count the batch",
    "predict_batch": "count the batch",
}


def ends() -> Property:
    """Every run that stops stops in a final state or in `failed`, where clean-ups are run."""

    def read(memory: bool, t: Transition, life: Lifecycle) -> Hashable:
        return t.dest == FAILED or life.state(t.dest).final

    return Property("clean-up is reached", False, read, bool)


def _entered(t: Transition, life: Lifecycle) -> tuple[str, ...]:
    """What an arrow enters, scopes on the way included."""
    if t.dest == FAILED:
        return (FAILED,)
    return life.crossing(t.source, t.dest)[1]
