"""Random lifecycles and what happens in them, as hypothesis strategies.

    @given(scenarios())
    def test_both_engines_do_the_same(scenario):
        "Whatever the table and whatever goes wrong, both engines make the same calls."
        assert scenario.run("table") == scenario.run("transitions")

`lifecycles()` draws tables that are sound; nothing is filtered out. `scripts(...)` draws what the guards of such a table
answer and which of its calls raise something, return something or register a clean-up. `scenarios()` draws all of it.

Every run ends. The states that arrows lead to stand in an order, with the final states last, and each state's arrow
without a guard leads to a later one. A guard has a few answers and then says False for ever (one that would then hold,
`~guard`, is on no arrow that leads back), and a script makes a call raise a few times and then never again. So only a
bounded number of arrows can lead back.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any, Literal, NamedTuple

from attrs import Factory, define, field, frozen
from hypothesis import strategies as st

from statetrain.callback import Callback
from statetrain.guards import Guard, leaves
from statetrain.lifecycle import FAILED, Lifecycle, State, Transition
from statetrain.machine import Machine
from statetrain.outcome import Event, SkipBatch, SkipEpoch, StopFit
from statetrain.position import Position

Engine = Literal["table", "transitions"]


class Detour(Event):
    """An event of one's own."""


class SharpDetour(Detour):
    """A narrower one, which arrows for the wider take as well."""


EVENTS = (SkipBatch, SkipEpoch, StopFit, Detour, Detour, SharpDetour, KeyboardInterrupt, ZeroDivisionError)
ERRORS = (ValueError, StopIteration, SystemExit)

# ---------------------------------------------------------------- what a scripted call does


@frozen
class Raise:
    """Raises an exception of a class."""

    kind: type[BaseException]

    def __call__(self, ctx: Stage, label: str) -> object:
        raise self.kind(label)


@frozen
class Give:
    """Returns something: for a guard, instead of True or False; for all others, instead of nothing."""

    value: object

    def __call__(self, ctx: Stage, label: str) -> object:
        return self.value


@frozen
class Defer:
    """Registers a clean-up, which is a call of its own."""

    def __call__(self, ctx: Stage, label: str) -> object:
        return ctx.defer(partial(ctx.play, f"clean up after {label}"))


Deed = Raise | Give | Defer


@frozen
class Script:
    """What happens in a run.

    Args:
        answers: by a guard's name, what it answers each time that it is asked; then False.
        deeds: by a call's label and its number, counted from 0, what it does besides being recorded; otherwise nothing.
    """

    answers: dict[str, tuple[bool, ...]] = Factory(dict)
    deeds: dict[tuple[str, int], Deed] = Factory(dict)

    def without(self, word: str) -> Script:
        """The same script, in which the calls whose label starts with a word do nothing."""
        return Script(self.answers, {key: deed for key, deed in self.deeds.items() if not key[0].startswith(word)})


# ---------------------------------------------------------------- the context and the parts of a table


class Entry(NamedTuple):
    """One call of a run, with what was published when it was made."""

    label: str
    transition: str
    state: str | None
    event: str
    outcome: str


@define(eq=False)
class Stage(Position):
    """A context that follows a script and records every call."""

    script: Script = Factory(Script)
    log: list[Entry] = Factory(list)
    played: Counter[str] = Factory(Counter)
    switches: dict[str, int] = Factory(dict)  # what the modes set

    def play(self, label: str) -> object:
        """Makes a call: records it, and does what the script has for it."""
        number = self.played[label]
        self.played[label] += 1
        self.log.append(Entry(label, str(self.transition), self.state, repr(self.event), repr(self.outcome)))
        deed = self.script.deeds.get((label, number))
        return deed(self, label) if deed is not None else None

    def answer(self, name: str) -> object:
        """What a guard answers now."""
        number = self.played[name]
        answers = self.script.answers.get(name, ())
        deed = self.play(name)
        if deed is not None:
            return deed
        return number < len(answers) and answers[number]


@frozen
class Played:
    """An action, effect or close work: a call of the stage."""

    label: str

    def __call__(self, ctx: Stage) -> object:
        return ctx.play(self.label)


@frozen
class Breaking:
    """An effect that raises, as that of an arrow to `failed` should."""

    label: str

    def __call__(self, ctx: Stage) -> object:
        ctx.play(self.label)
        raise ArithmeticError(self.label)


@frozen
class Answering(Guard):
    """A guard that answers as the script says.

    Args:
        name: what the script calls it.
        memory: whether it remembers, by a mark, when its arrow was taken.
    """

    name: str
    memory: bool = False

    @property
    def label(self) -> str:
        return self.name

    def test(self, ctx: Any) -> bool:
        return ctx.answer(self.name)  # type: ignore[no-any-return]  # on purpose: a script may have it answer anything

    def bind(self, place: str) -> Any:
        return partial(self._at, place) if self.memory else self.test

    def _at(self, place: str, ctx: Any) -> bool:
        ctx.play(f"{self.name} at {place}")
        return self.test(ctx)

    def marks(self, place: str) -> Any:
        return (Played(f"mark {self.name} at {place}"),) if self.memory else ()


@frozen
class Switch:
    """A mode: something of a scope's that is set, put back, and wraps the actions inside."""

    name: str

    def read(self, ctx: Any) -> Any:
        return ctx.switches.get(self.name, 0)

    def write(self, ctx: Any, value: Any) -> None:
        ctx.play(f"write {self.name}")
        ctx.switches[self.name] = value

    def begin(self, ctx: Any) -> None:
        ctx.play(f"begin {self.name}")
        ctx.switches[self.name] = 1

    def wrap(self, action: Any) -> Any:
        def wrapped(ctx: Stage) -> object:
            ctx.play(f"within {self.name}")
            return action(ctx)

        return wrapped


class Watcher(Callback):
    """A callback with some hooks, each a call of the stage."""

    def __init__(self, name: str, hooks: tuple[str, ...]) -> None:
        for hook in hooks:
            setattr(self, hook, Played(f"{name}.{hook}"))


# ---------------------------------------------------------------- a table, its callbacks and a script


class Report(NamedTuple):
    """Everything about a run that can be seen from outside."""

    log: list[Entry]
    taken: list[str]  # the transitions that were yielded, with the state then published; empty for a run in one go
    state: str | None
    transition: str
    outcome: str
    error: str
    notes: list[str]
    cause: str
    left: tuple[object, ...]  # what should be empty or as before: modes, clean-ups, switches


@frozen
class Scenario:
    """A lifecycle, its callbacks' hooks and a script: a run that can be repeated."""

    lifecycle: Lifecycle
    hooks: tuple[tuple[str, ...], ...] = ()
    script: Script = field(factory=Script)

    def machine(self, engine: Engine = "table") -> Machine:
        """The machine, with callbacks of its own."""
        return Machine(self.lifecycle, [Watcher(f"w{i}", hooks) for i, hooks in enumerate(self.hooks)], engine)

    def run(self, engine: Engine = "table", *, stepped: bool = False, close_after: int | None = None) -> Report:
        """Runs it on a new stage.

        Args:
            engine: which one.
            stepped: whether it goes one transition at a time.
            close_after: the number of steps after which a stepped run is closed; None for never.
        """
        machine, ctx, taken = self.machine(engine), Stage(script=self.script), list[str]()
        raised: BaseException | None = None
        try:
            if stepped or close_after is not None:
                with machine.steps(ctx) as steps:
                    while close_after is None or len(taken) < close_after:
                        taken.append(f"{next(steps)} in {ctx.state}")
            else:
                machine.run(ctx)
        except StopIteration:
            pass  # the steps have come to their end; a StopIteration of a script comes out as another error
        except BaseException as error:
            raised = error
        return Report(
            ctx.log,
            taken,
            ctx.state,
            str(ctx.transition),
            repr(ctx.outcome),
            repr(raised),
            getattr(raised, "__notes__", []),
            repr(raised.__cause__ if raised is not None else None),
            (len(ctx.modes), len(ctx.deferred), {name: value for name, value in ctx.switches.items() if value}),
        )


# ---------------------------------------------------------------- strategies


@st.composite
def lifecycles(draw: st.DrawFn, max_states: int = 9, max_depth: int = 4) -> Lifecycle:
    """Sound lifecycles, whose parts are calls of a `Stage`.

    Args:
        draw: given by hypothesis.
        max_states: the most states, at least 3.
        max_depth: how deep scopes may nest, at least 1, which is not at all.
    """
    finals = ["end", "stop"][: draw(st.integers(1, min(2, max_states - 2)))]
    within: dict[str, str | None] = {}
    depth: dict[str | None, int] = {None: 0}
    for i in range(draw(st.integers(2, max_states - len(finals)))):
        name = f"s{i}"
        within[name] = draw(st.sampled_from([scope for scope, d in depth.items() if d < max_depth]))
        depth[name] = depth[within[name]] + 1
    states = [_state(name, scope, draw(_BITS)) for name, scope in within.items()] + [_final(name, draw(_BITS)) for name in finals]
    acting = {state.name for state in states if state.action is not None}
    # A scope that no arrow leads to is opened on the way to a state inside it.
    goals = [name for name in within if name not in within.values() or draw(st.booleans())]
    order = [*draw(st.permutations(goals)), *finals]
    anywhere = st.sampled_from([*order, FAILED])
    few = [Answering(f"g{i}", draw(_BITS) < 4) for i in range(draw(st.integers(1, 4)))]
    backward, forward = _guards(few)
    arrows: list[Transition] = []

    def add(source: str, dest: str, guard: Guard | None, event: type[BaseException] | None = None, *, back: bool = False) -> None:
        if any((t.source, t.dest, t.guard, t.event) == (source, dest, guard, event) for t in arrows):
            return
        label, bits = f"effect {len(arrows)}", draw(_BITS)
        effect: Any = None if bits % 2 else Played(label)
        if bits > 12:
            effect = Played(f"do {dest}")  # the very function that may be the state's action
        if back and dest not in acting:
            effect = Played(label)  # a loop in which nothing is done is no lifecycle
        if dest == FAILED:
            effect = Breaking(label) if bits < 13 else Played(label)
        arrows.append(Transition(source, dest, guard, effect, event))

    # Each state but the first is led to from an earlier one, so that all can be reached.
    fed = {dest: order[draw(st.integers(0, min(i, len(goals) - 1)))] for i, dest in enumerate(order[1:])}
    for i, source in enumerate(order[: len(goals)]):
        default = draw(st.sampled_from(order[i + 1 : i + 3]))
        dests = [dest for dest in order[1:] if fed[dest] == source and dest != default]
        dests[draw(st.integers(0, len(dests))) :] += draw(st.lists(anywhere, max_size=2))
        for dest in dests:
            back = dest in order[: i + 1]
            add(source, dest, draw(backward if back else forward), back=back)
        add(source, default, None)
    for _ in range(draw(st.integers(0, 5))):
        # Mostly scopes: what is raised anywhere inside is taken there.
        source, event = draw(st.sampled_from([*within, *filter(None, within.values())])), draw(_EVENTS)
        if not any(t.source == source and t.event and t.guard is None and issubclass(event, t.event) for t in arrows):
            add(source, draw(anywhere), draw(forward) if draw(st.booleans()) else None, event)
    return Lifecycle("drawn", states, arrows, order[0])


@st.composite
def scripts(draw: st.DrawFn, lifecycle: Lifecycle, hooks: tuple[tuple[str, ...], ...] = ()) -> Script:
    """What happens in runs of a lifecycle that `lifecycles()` drew.

    Args:
        draw: given by hypothesis.
        lifecycle: the table.
        hooks: those of each callback.
    """
    guards = sorted({leaf.label for arrow in lifecycle.transitions if arrow.guard is not None for leaf in leaves(arrow.guard)})
    answers = {name: tuple(draw(_ANSWERS)) for name in guards}
    every = [f"w{i}.{hook}" for i, own in enumerate(hooks) for hook in own]
    # Where an event may be raised.
    heard = {name: [f"do {name}", *(label for label in every if label.endswith(f".on_enter_{name}"))] for name in lifecycle.names}
    parts = [part for state in lifecycle.states for part in (state.action, state.close)] + [arrow.effect for arrow in lifecycle.transitions]
    scopes = [state.name for state in lifecycle.states if state.mode is not None]
    anything = [*guards, *every, *(part.label for part in parts if isinstance(part, Played | Breaking))]
    anything += [f"{word} {name}" for name in scopes for word in ("begin", "write", "within")]
    deeds: dict[tuple[str, int], Deed] = {}
    for arrow in lifecycle.transitions:
        if arrow.event is not None and draw(st.booleans()):
            inside = [label for name in (arrow.source, *lifecycle.inside(arrow.source)) for label in heard[name]]
            kind = SharpDetour if arrow.event is Detour and draw(st.booleans()) else arrow.event
            deeds[draw(st.sampled_from(inside)), draw(_NUMBERS)] = Raise(kind)
    for _ in range(draw(st.integers(0, 4)) if anything else 0):
        label, deed = draw(st.sampled_from(anything)), draw(_DEEDS)
        deeds[label, draw(_NUMBERS)] = deed
        if isinstance(deed, Defer) and draw(st.booleans()):
            deeds[f"clean up after {label}", 0] = Raise(draw(_EVENTS))
    return Script(answers, deeds)


@st.composite
def scenarios(draw: st.DrawFn, max_states: int = 9, max_depth: int = 4) -> Scenario:
    """Lifecycles with callbacks and a script.

    Args:
        draw: given by hypothesis.
        max_states: the most states, at least 3.
        max_depth: how deep scopes may nest, at least 1, which is not at all.
    """
    lifecycle = draw(lifecycles(max_states, max_depth))
    names = [f"on_{when}_{name}" for when in ("enter", "exit") for name in lifecycle.names] + ["on_enter_failed", "on_transition"]
    own = st.sets(st.sampled_from(names), max_size=6).map(sorted).map(tuple)
    hooks = tuple(draw(st.lists(own, max_size=3)))
    return Scenario(lifecycle, hooks, draw(scripts(lifecycle, hooks)))


_BITS = st.integers(0, 15)  # four choices in one draw
_NUMBERS = st.sampled_from([0, 0, 1, 2])
_ANSWERS = st.lists(st.booleans(), max_size=5)
_EVENTS = st.sampled_from(EVENTS)
_DEEDS = st.sampled_from([*(Raise(kind) for kind in (*EVENTS, *ERRORS)), Defer(), Defer(), Give(0), Give("junk")])


def _state(name: str, within: str | None, bits: int) -> State:
    return State(
        name,
        Played(f"do {name}") if bits & 1 or bits & 2 else None,
        within,
        close=Played(f"close {name}" if bits & 2 else "close any") if bits & 4 else None,  # states may share theirs
        mode=Switch(name) if bits & 8 else None,
    )


def _final(name: str, bits: int) -> State:
    return State(name, Played(f"do {name}") if bits & 1 else None, final=True)


def _guards(few: list[Answering]) -> tuple[st.SearchStrategy[Guard], st.SearchStrategy[Guard]]:
    """A few guards that arrows share, alone or combined: first those that do not hold for ever, then all."""
    pairs = [(a, b) for a in few for b in few]
    some = [*few, *few, *(a & b for a, b in pairs), *(a | b for a, b in pairs), *(a & ~b for a, b in pairs)]
    return st.sampled_from(some), st.sampled_from([*some, *(~a for a in few)])
