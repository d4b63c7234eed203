"""Lifecycles, what happens in them, and runs, as hypothesis strategies.

    @given(runs(my_lifecycle, {"more epochs": 2}))
    def test_a_step_follows_each_backward(trace):
        assert trace.states.count("step") == trace.states.count("backward")

    @given(scenarios())
    def test_both_engines_do_the_same(scenario):
        assert scenario.run("table") == scenario.run("transitions")

`runs(life)` draws ways through a lifecycle of one's own. `lifecycles()` draws tables that are
sound; nothing is filtered out. `scripts(...)` draws what the guards of such a table answer and
which of its calls raise something, return something or register a clean-up. `scenarios()` draws all
of it.

Every run ends. The states that arrows lead to stand in an order, with the final states last, and
each state's arrow without a guard leads to a later one. A guard has a few answers and then says
False forever (one that would then hold, `~guard`, is on no arrow that leads back), and a script
makes a call raise a few times and then never again. So only a bounded number of arrows can lead
back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "statetrain.testing.strategies needs hypothesis; install it with: pip install"
        " 'statetrain[testing]'"
    ) from error

from statetrain.contracts.ways import works_of
from statetrain.guards.base import Guard
from statetrain.lifecycle.deciding import hidden
from statetrain.lifecycle.explore import Bound, Configuration, Step, Ways
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, State
from statetrain.lifecycle.transition import Transition
from statetrain.testing.paths import to_the_end, ways_out
from statetrain.testing.staging import (
    ERRORS,
    EVENTS,
    Answering,
    Breaking,
    Deed,
    Defer,
    Detour,
    Give,
    Played,
    Raise,
    Scenario,
    Script,
    SharpDetour,
    Switch,
)
from statetrain.trace import Trace

# ---------------------------------------------------------------- strategies


@st.composite
def runs(
    draw: st.DrawFn,
    lifecycle: Lifecycle,
    bounds: Mapping[str, Bound] | None = None,
    *,
    events: bool = True,
    failures: bool = True,
    most: int = 8,
) -> Trace:
    """Runs of a lifecycle, from the arrow into the initial state to an end; they shrink.

    A run goes to one arrow after another, each by a shortest way, and then to an end by a shortest
    way; which arrows is drawn. So the innermost states are reached as often as the outer ones.

    Args:
        draw: given by hypothesis.
        lifecycle: the table.
        bounds: by a guard's label, how often it may hold while the scope around it stays open; see
            `statetrain.lifecycle.explore`.
        events: whether events are raised, in every state where an arrow takes one.
        failures: whether states may fail.
        most: arrows to go to on the way.

    Raises:
        LifecycleError: a bound names no guard of the table, or no end can be reached within the
            bounds.
    """
    ways = Ways(lifecycle, bounds, events, failures)
    goals = [arrow for arrow in lifecycle.transitions if events or arrow.event is None]
    if failures:
        goals += [Transition(state.name, FAILED) for state in lifecycle.states if not state.final]
    taken, here = [ways.start.transition], ways.start.after
    for goal in draw(st.lists(st.sampled_from(goals), max_size=most)):
        for step in _nearest(ways, here, goal):
            taken.append(step.transition)
            here = step.after
    return Trace([*taken, *to_the_end(ways, ways_out(ways), here)], lifecycle=lifecycle)


def _nearest(ways: Ways, here: Configuration, goal: Transition) -> list[Step]:
    """A shortest way that takes an arrow; empty if none does within the bounds."""
    came: dict[Configuration, tuple[Step, Configuration] | None] = {here: None}
    layer = [here]
    while layer:
        following = []
        for at in layer:
            for step in ways.out_of(at):
                if step.transition == goal:
                    back, way = came[at], [step]
                    while back is not None:
                        way.append(back[0])
                        back = came[back[1]]
                    return way[::-1]
                if step.after not in came:
                    came[step.after] = (step, at)
                    following.append(step.after)
        layer = following
    return []


@st.composite
def lifecycles(draw: st.DrawFn, max_states: int = 9, max_depth: int = 4) -> Lifecycle:
    """Sound lifecycles, whose parts are calls of a `Stage`.

    Args:
        draw: given by hypothesis.
        max_states: the most states, at least 3.
        max_depth: how deep scopes may nest, at least 1, which is not at all.
    """
    finals = ["end", "stop"][: draw(st.integers(1, min(2, max_states - 2)))]
    within = _nested(draw, draw(st.integers(2, max_states - len(finals))), max_depth)
    states = [_state(name, scope, draw(_BITS)) for name, scope in within.items()] + [
        _final(name, draw(_BITS)) for name in finals
    ]
    acting = {state.name for state in states if state.action is not None}
    # A scope that no arrow leads to is opened on the way to a state inside it.
    goals = [name for name in within if name not in within.values() or draw(st.booleans())]
    order = [*draw(st.permutations(goals)), *finals]
    anywhere = st.sampled_from([*order, FAILED])
    few = [Answering(f"g{i}", draw(_BITS) < 4) for i in range(draw(st.integers(1, 4)))]
    backward, forward = _guards(few)
    arrows = _Arrows(draw, acting)
    _lead(draw, arrows, order, len(goals), (forward, backward))
    # Mostly scopes: what is raised anywhere inside is taken there.
    sources = st.sampled_from([*within, *filter(None, within.values())])
    for _ in range(draw(st.integers(0, 5))):
        arrows.add_event(draw(sources), anywhere, st.none() | forward)
    return Lifecycle("drawn", states, arrows.found, order[0])


def _nested(draw: st.DrawFn, count: int, max_depth: int) -> dict[str, str | None]:
    """The scope of each of so many states, or None."""
    within: dict[str, str | None] = {}
    depth: dict[str | None, int] = {None: 0}
    for i in range(count):
        name = f"s{i}"
        within[name] = draw(st.sampled_from([scope for scope, d in depth.items() if d < max_depth]))
        depth[name] = depth[within[name]] + 1
    return within


def _lead(
    draw: st.DrawFn,
    arrows: _Arrows,
    order: list[str],
    goals: int,
    guards: tuple[st.SearchStrategy[Guard], st.SearchStrategy[Guard]],
) -> None:
    """Adds arrows from each of the first states, so that every state can be reached.

    Each state but the first is the target of an earlier one.

    Args:
        draw: given by hypothesis.
        arrows: where they are added.
        order: the states, the final ones last.
        goals: how many of them are not final.
        guards: of arrows that lead on, and of arrows that lead back.
    """
    anywhere = st.sampled_from([*order, FAILED])
    fed = {dest: order[draw(st.integers(0, min(i, goals - 1)))] for i, dest in enumerate(order[1:])}
    for i, source in enumerate(order[:goals]):
        default = draw(st.sampled_from(order[i + 1 : i + 3]))
        dests = [dest for dest in order[1:] if fed[dest] == source and dest != default]
        dests[draw(st.integers(0, len(dests))) :] += draw(st.lists(anywhere, max_size=2))
        for dest in dests:
            back = dest in order[: i + 1]
            arrows.add(source, dest, draw(guards[back]), back=back)
        arrows.add(source, default, None)


class _Arrows:
    """The arrows of a lifecycle, as they are drawn.

    Args:
        draw: given by hypothesis.
        acting: the states that have an action.
    """

    def __init__(self, draw: st.DrawFn, acting: set[str]) -> None:
        self.draw, self.acting = draw, acting
        self.found: list[Transition] = []

    def add(
        self,
        source: str,
        dest: str,
        guard: Guard | None,
        event: type[BaseException] | None = None,
        *,
        back: bool = False,
    ) -> None:
        """Adds an arrow with an effect, unless there is one like it."""
        if guard is not None and event is None and self._hides(source, dest, guard):
            guard = Answering(f"g of its own {len(self.found)}")
        key = (source, dest, guard, event)
        if any((t.source, t.dest, t.guard, t.event) == key for t in self.found):
            return
        label, bits = f"effect {len(self.found)}", self.draw(_BITS)
        effect: Any = None
        if bits % 2 == 0:
            effect = Played(label)
        if bits > 12:
            effect = Played(f"do {dest}")  # the very function that may be the state's action
        if back and dest not in self.acting:
            effect = Played(label)  # a loop in which nothing is done is not a lifecycle
        if dest == FAILED:
            effect = Played(label)
            if bits < 13:
                effect = Breaking(label)
        self.found.append(Transition(source, dest, guard, effect, event))

    def _hides(self, source: str, dest: str, guard: Guard) -> bool:
        """Whether an arrow with a guard could never be taken, or would hide the last one."""
        own = [t for t in self.found if t.source == source and t.event is None]
        new = [Transition(source, dest, guard), Transition(source, dest)]
        return hidden([*own, *new]) is not None

    def add_event(
        self,
        source: str,
        dests: st.SearchStrategy[str],
        guards: st.SearchStrategy[Guard | None],
    ) -> None:
        """Adds an arrow on an event, unless an arrow without a guard already takes it."""
        event, guard = self.draw(_EVENTS), self.draw(guards)
        for t in self.found:
            takes_it = t.source == source and t.event and issubclass(event, t.event)
            if takes_it and t.guard in (None, guard):
                return
        self.add(source, self.draw(dests), guard, event)


@st.composite
def scripts(
    draw: st.DrawFn, lifecycle: Lifecycle, hooks: tuple[tuple[str, ...], ...] = ()
) -> Script:
    """What happens in runs of a lifecycle that `lifecycles()` drew.

    Args:
        draw: given by hypothesis.
        lifecycle: the table.
        hooks: those of each callback.
    """
    guards = _guard_labels(lifecycle)
    answers = {name: tuple(draw(_ANSWERS)) for name in guards}
    every = [f"w{i}.{hook}" for i, own in enumerate(hooks) for hook in own]
    deeds: dict[tuple[str, int], Deed] = {}
    for arrow in lifecycle.transitions:
        if arrow.event is not None and draw(st.booleans()):
            kind = arrow.event
            if kind is Detour and draw(st.booleans()):
                kind = SharpDetour
            inside = _may_raise(lifecycle, arrow.source, every)
            deeds[draw(st.sampled_from(inside)), draw(_NUMBERS)] = Raise(kind)
    anything = [*guards, *every, *_part_labels(lifecycle)]
    if not anything:
        return Script(answers, deeds)
    for _ in range(draw(st.integers(0, 4))):
        label, deed = draw(st.sampled_from(anything)), draw(_DEEDS)
        deeds[label, draw(_NUMBERS)] = deed
        if isinstance(deed, Defer) and draw(st.booleans()):
            deeds[f"clean up after {label}", 0] = Raise(draw(_EVENTS))
    return Script(answers, deeds)


def _guard_labels(lifecycle: Lifecycle) -> list[str]:
    return sorted({guard.label for guard in lifecycle.guards})


def _may_raise(lifecycle: Lifecycle, scope: str, hooks: list[str]) -> list[str]:
    """The calls in a scope that may raise an event: actions and enter hooks."""
    labels = []
    for name in (scope, *lifecycle.inside(scope)):
        labels.append(f"do {name}")
        labels += [label for label in hooks if label.endswith(f".on_enter_{name}")]
    return labels


def _part_labels(lifecycle: Lifecycle) -> list[str]:
    """The labels of actions, close work, effects and modes."""
    parts = [work for _, work in works_of(lifecycle)]
    labels = [part.label for part in parts if isinstance(part, Played | Breaking)]
    scopes = [state.name for state in lifecycle.states if state.mode is not None]
    return labels + [f"{word} {name}" for name in scopes for word in ("begin", "write", "within")]


@st.composite
def scenarios(draw: st.DrawFn, max_states: int = 9, max_depth: int = 4) -> Scenario:
    """Lifecycles with callbacks and a script.

    Args:
        draw: given by hypothesis.
        max_states: the most states, at least 3.
        max_depth: how deep scopes may nest, at least 1, which is not at all.
    """
    lifecycle = draw(lifecycles(max_states, max_depth))
    names = [f"on_{when}_{name}" for when in ("enter", "exit") for name in lifecycle.names] + [
        "on_enter_failed",
        "on_transition",
    ]
    own = st.sets(st.sampled_from(names), max_size=6).map(sorted).map(tuple)
    hooks = tuple(draw(st.lists(own, max_size=3)))
    return Scenario(lifecycle, hooks, draw(scripts(lifecycle, hooks)))


_BITS = st.integers(0, 15)  # four choices in one draw
_NUMBERS = st.sampled_from([0, 0, 1, 2])
_ANSWERS = st.lists(st.booleans(), max_size=5)
_EVENTS = st.sampled_from(EVENTS)
_DEEDS: st.SearchStrategy[Deed] = st.sampled_from(
    [*(Raise(kind) for kind in (*EVENTS, *ERRORS)), Defer(), Defer(), Give(0), Give("junk")]
)


def _state(name: str, within: str | None, bits: int) -> State:
    action = close = mode = None
    if bits & 3:
        action = Played(f"do {name}")
    if bits & 4:
        close = Played("close any")  # states may share theirs
        if bits & 2:
            close = Played(f"close {name}")
    if bits & 8:
        mode = Switch(name)
    return State(name, action, within, close=close, mode=mode)


def _final(name: str, bits: int) -> State:
    return State(name, Played(f"do {name}") if bits & 1 else None, final=True)


def _guards(few: list[Answering]) -> tuple[st.SearchStrategy[Guard], st.SearchStrategy[Guard]]:
    """Guards that arrows share, alone or combined: first those that become false, then all."""
    pairs = [(a, b) for a in few for b in few]
    some = [
        *few,
        *few,
        *(a & b for a, b in pairs),
        *(a | b for a, b in pairs),
        *(a & ~b for a, b in pairs),
    ]
    return st.sampled_from(some), st.sampled_from([*some, *(~a for a in few)])
