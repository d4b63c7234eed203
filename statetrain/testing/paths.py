"""Generated test paths that together cover a lifecycle's states, transitions or pairs of them.

    @pytest.mark.parametrize("path", paths(supervised()), ids=str)
    def test_my_lifecycle(path):
        path.check(my_lifecycle)

A path is a way from the initial state to an end. It is checked by running it: the guards answer so
that the way is taken, once with as few guards holding as possible and once with as many, and the
states, the hooks and the guards asked are compared with what the lifecycle that the path was made
from says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import attrs
from attrs import Factory, define, field, frozen

from statetrain.callback import Callback
from statetrain.context.position import Position
from statetrain.errors import LifecycleError
from statetrain.guards.base import Guard
from statetrain.lifecycle.explore import Bound, Configuration, Step, Ways
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, START, State, StateWork
from statetrain.lifecycle.transition import Transition
from statetrain.machine.machine import Machine
from statetrain.machine.witness import unwitnessed
from statetrain.naming import signature_of
from statetrain.outcome import Failed

if TYPE_CHECKING:
    from statetrain.testing.callback_tests import Build

Cover = Literal["states", "transitions", "pairs"]
Vector = Literal["min", "max"]
_MORE = 50  # times as many steps as a path has arrows, after which a run does not come to an end


@frozen(repr=False)
class Path:
    """A way through a lifecycle, from the arrow into the initial state to an end.

    Attributes:
        lifecycle: the table that it was made from: what is right.
        transitions: the arrows, in order.
        goal: the arrow that it was made for; for pairs, the second of the two.
    """

    lifecycle: Lifecycle
    transitions: tuple[Transition, ...]
    goal: Transition = field(eq=False)

    @property
    def states(self) -> list[str]:
        """The states that it goes through."""
        return [transition.dest for transition in self.transitions]

    def __str__(self) -> str:
        """A readable id: `reaches failed: pred > loss [loss not finite]`, `fails in loss: ...`."""
        at = max(i for i, t in enumerate(self.transitions) if t == self.goal)
        tail = [t.source for t in self.transitions[max(1, at - 2) : at + 1] if t.source != START]
        if self.goal.dest == FAILED and self.goal.effect is None:  # no arrow of the table has none
            text = f"fails in {self.goal.source}"
            if len(tail) > 1:
                text += f": {' > '.join(tail)}"
            return text
        text = f"reaches {self.goal.dest}: {' > '.join(tail) or START}"
        if self.goal.guard is not None:
            text += f" [{self.goal.guard.label}]"
        if self.goal.event is not None:
            text += f" on {self.goal.event.__name__}"
        return text

    def __repr__(self) -> str:
        return f"<Path {self}>"

    def check(
        self,
        lifecycle: Lifecycle | None = None,
        callbacks: Iterable[Callback] = (),
        guards: Iterable[Vector] = ("min", "max"),
    ) -> None:
        """Runs the path, and asserts that the lifecycle goes that way.

        Actions and effects are only written down; `run` does their work.

        Args:
            lifecycle: the table to test; None is the one that the path was made from.
            callbacks: the user's own, run along.
            guards: which guards are true besides the one that is needed: "min" none, "max" all that
                come after it.

        Raises:
            AssertionError: the states, the hooks or the guards asked differ; the message shows the
                first difference.
        """
        __tracebackhide__ = True  # pytest shows the line of the test
        tested = lifecycle or self.lifecycle
        for vector in guards:
            expected = self.expected()
            got = drive(self, tested, vector, callbacks)
            if got != expected:
                at = next(
                    (i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b),
                    min(len(got), len(expected)),
                )
                raise AssertionError(
                    f"{self} ({vector} guards): step {at + 1} of {len(expected)}\n"
                    f"  before:   {'; '.join(expected[max(0, at - 4) : at]) or 'nothing'}\n"
                    f"  expected: {expected[at] if at < len(expected) else 'the end'}\n"
                    f"  got:      {got[at] if at < len(got) else 'the end'}"
                )
        self._check_guards(tested)

    def _check_guards(self, tested: Lifecycle) -> None:
        """Asserts that guards of one label are the same: when run, each answers as it has to."""
        own, there = _guards_of(self.lifecycle), _guards_of(tested)
        active = START
        for taken in self.transitions:
            for arrow in _asked_for(self.lifecycle, taken, active):
                key = _key(arrow)
                if own[key] != there[key]:
                    raise AssertionError(
                        f"{self}: the guard [{key[-1]}] of {arrow.source} -> {arrow.dest} is"
                        f" another one\n  expected: {'; '.join(own[key])}"
                        f"\n  got:      {'; '.join(there[key])}"
                    )
            active = taken.dest

    def run(
        self,
        *,
        context: Callable[[], Any] | None = None,
        build: Build | None = None,
        states: Mapping[str, Callable[[Any], object]] | None = None,
        callbacks: Iterable[Callback] = (),
    ) -> Any:
        """Runs the path with the real actions, effects and callbacks, asserting as it goes.

            @pytest.mark.parametrize("path", paths(life), ids=str)
            def test_my_loop(path):
                ctx = path.run(context=MyContext, states={"collect": check_the_buffer})
                assert ctx.episodes == path.states.count("collect")

        Guards answer so that the path is taken; events and failures are raised where it needs them.

        Args:
            context: makes a context, for a lifecycle over one of your own.
            build: makes a run that has not started, for a lifecycle that trains; see
                `callback_cases`. With neither, the toy problem is trained.
            states: by a state's name, an assertion about the context, called each time that the
                state has been entered and has done its work. It raises, or returns something other
                than None and True, where the context is not as it should be.
            callbacks: your own, run along.

        Returns:
            The context, at the end.

        Raises:
            AssertionError: what an assertion raised, with a note that names the path; or the run
                left the path, because a callback or an action steered it elsewhere.
            Exception: what an action, effect or callback raised, unless the path leads to a
                failure.
            ConfigError: `build` and `context` are both given.
            LifecycleError: `states` names one that the lifecycle does not have.
        """
        __tracebackhide__ = True  # pytest shows the line of the test
        from statetrain.testing.visiting import run_along  # it needs paths itself

        return run_along(self, context, build, states, callbacks)

    def expected(self) -> list[str]:
        """What happens along it, in order: guards asked, exits, effects, enters, actions."""
        life, log, active = self.lifecycle, [], START
        for taken in self.transitions:
            asked = _asked_for(life, taken, active)
            log += [f"ask [{arrow.guard.label}]" for arrow in asked if arrow.guard is not None]
            if taken.dest == FAILED:
                log += [*_done(taken.effect), f"failed in {active}"]
                break
            left, entered = life.crossing(active, taken.dest)
            log += [f"exit {name}" for name in left]
            log += _done(taken.effect)
            log += [f"take {taken.source} -> {taken.dest}"]
            for name in entered:
                log += [f"enter {name}", *_done(life.state(name).action)]
            active = taken.dest
        return log


def _asked_for(life: Lifecycle, taken: Transition, active: str) -> Iterator[Transition]:
    """The arrows that are asked about up to the one that is taken."""
    rivals: Iterable[Transition] = ()
    if taken.event is not None:
        rivals = life.on_event(active, taken.event())
    elif taken.source != START:
        rivals = life.arrows(active)
    for arrow in rivals:
        yield arrow
        if arrow == taken:
            return


def _done(work: StateWork | None) -> list[str]:
    """What is written down of an action or an effect."""
    if work is None:
        return []
    if attrs.has(type(work)) or isinstance(work, partial):  # its arguments are part of what it is
        return [f"do {work!r}"]
    return [f"do {signature_of(work)}"]


@lru_cache(maxsize=4)
def _guards_of(life: Lifecycle) -> dict[tuple[Any, ...], list[str]]:
    """What the guards of arrows are, by what a path tells apart: ends, event and label."""
    found: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for arrow in life.transitions:
        if arrow.guard is not None:
            found[_key(arrow)].append(_identity(arrow.guard))
    return found


def _key(arrow: Transition) -> tuple[Any, ...]:
    label = None
    if arrow.guard is not None:
        label = arrow.guard.label
    return arrow.source, arrow.dest, arrow.event, label


def _identity(part: Any) -> str:
    """A guard as a text: its class and parameters, and the names of functions."""
    if attrs.has(type(part)):
        fields = [field.name for field in attrs.fields(type(part)) if field.eq]
        inner = (f"{name}={_identity(getattr(part, name))}" for name in fields)
        return f"{type(part).__name__}({', '.join(inner)})"
    if isinstance(part, tuple | list):
        return f"({', '.join(map(_identity, part))})"
    if callable(part):
        return signature_of(part)
    return repr(part)


def paths(
    lifecycle: Lifecycle,
    cover: Cover = "transitions",
    bounds: Mapping[str, Bound] | None = None,
    *,
    events: bool = True,
) -> list[Path]:
    """The shortest paths that together cover a lifecycle, without paths contained in others.

    Args:
        lifecycle: the table.
        cover: "states"; "transitions", events included; or "pairs" of transitions that follow each
            other.
        bounds: see `statetrain.lifecycle.explore.explore`: ways that break them are not taken.
        events: whether arrows on events count.

    Raises:
        LifecycleError: something that should be covered cannot be reached within the bounds.
    """
    ways = Ways(lifecycle, bounds, events, failures=False)
    came = _shortest_ways(ways)
    out = ways_out(ways)
    reached = sorted(came, key=lambda here: len(_way(came, here)))
    found: dict[tuple[Transition, ...], Path] = {}
    for goal, here, steps in _goals(ways, reached, cover):
        head = (*_way(came, here), *(step.transition for step in steps))
        tail = to_the_end(ways, out, steps[-1].after if steps else here)
        whole = (*head, *tail)
        # The goal that lies furthest along gives it its name
        found[whole] = Path(lifecycle, whole, goal)
    _assert_covered(lifecycle, found, cover, events)
    return _without_parts(list(found.values()))


def _goals(
    ways: Ways, reached: list[Configuration], cover: Cover
) -> Iterator[tuple[Transition, Configuration, list[Step]]]:
    """Each goal with the nearest configuration and the steps from there that reach it."""
    seen: set[Any] = set()
    for here in reached:
        for step in ways.out_of(here):
            key: Any = step.transition.dest if cover == "states" else step.transition
            if cover != "pairs" and key not in seen:
                seen.add(key)
                yield step.transition, here, [step]
            if cover == "pairs":
                following = ways.out_of(step.after)
                for then in following:
                    pair = (step.transition, then.transition)
                    if pair not in seen:
                        seen.add(pair)
                        yield then.transition, here, [step, then]
                if not following and (step.transition, None) not in seen:
                    seen.add((step.transition, None))
                    yield step.transition, here, [step]


def _assert_covered(
    life: Lifecycle, found: Mapping[tuple[Transition, ...], Path], cover: Cover, events: bool
) -> None:
    taken = set(chain(*found))
    wanted: Iterable[object] = (t for t in life.transitions if events or t.event is None)
    there: set[Any] = taken
    if cover == "states":
        wanted, there = life.names, set(chain(*(life.path(t.dest) for t in taken)))
    if missing := [str(one) for one in wanted if one not in there]:
        raise LifecycleError(
            f"{life.name}: no way within the bounds covers {'; '.join(missing)}; give larger bounds"
        )


def _without_parts(found: list[Path]) -> list[Path]:
    """Drops each path that is a prefix of another."""
    kept: list[Path] = []
    for path in sorted(found, key=lambda p: -len(p.transitions)):
        steps = path.transitions
        if not any(other.transitions[: len(steps)] == steps for other in kept):
            kept.append(path)
    return sorted(kept, key=lambda p: found.index(p))


def _shortest_ways(ways: Ways) -> dict[Configuration, tuple[Step, Configuration | None]]:
    start = ways.start
    came: dict[Configuration, tuple[Step, Configuration | None]] = {start.after: (start, None)}
    layer = [start.after]
    while layer:
        following = []
        for here in layer:
            for step in ways.out_of(here):
                if step.after not in came:
                    came[step.after] = (step, here)
                    following.append(step.after)
        layer = following
    return came


def _way(
    came: Mapping[Configuration, tuple[Step, Configuration | None]], here: Configuration
) -> list[Transition]:
    path = []
    at: Configuration | None = here
    while at is not None:
        step, at = came[at]
        path.append(step.transition)
    return path[::-1]


def ways_out(ways: Ways) -> Callable[[Configuration], Step | None]:
    """The first step of a shortest path to a final state, without events; computed on demand."""
    known: dict[Configuration, Step | None] = {}

    def first(here: Configuration) -> Step | None:
        if here in known:
            return known[here]
        came: dict[Configuration, tuple[Step, Configuration]] = {}
        layer = [here]
        while layer:
            following = []
            for at in layer:
                steps = [
                    step
                    for step in ways.out_of(at)
                    if step.transition.event is None and step.after.state != FAILED
                ]
                if not steps:
                    while at != here:
                        step, at = came[at]
                        known[at] = step
                    known.setdefault(here, None)
                    return known[here]
                for step in steps:
                    if step.after not in came and step.after != here:
                        came[step.after] = (step, at)
                        following.append(step.after)
            layer = following
        raise LifecycleError(
            f"{ways.lifecycle.name}: no end within the bounds from {here.state!r}; give larger"
            " bounds"
        )

    return first


def to_the_end(
    ways: Ways, out: Callable[[Configuration], Step | None], here: Configuration
) -> list[Transition]:
    """The arrows of a shortest path to a final state; `out` is the result of `ways_out`."""
    path = []
    while ways.out_of(here):
        step = out(here)
        assert step is not None
        path.append(step.transition)
        here = step.after
    return path


# ---------------------------------------------------------------- running a path


class _Forced(Exception):
    """What a path's arrow into `failed` raises."""


@define(eq=False)
class _PathScript(Position):
    """A context that knows which way is to be taken."""

    path: tuple[Transition, ...] = ()
    vector: Vector = "min"
    at: int = 1  # the next arrow of the path
    calls: list[str] = Factory(list)
    forced: BaseException | None = None  # the event that was last raised for the path

    @property
    def wanted(self) -> Transition | None:
        if self.at < len(self.path):
            return self.path[self.at]
        return None


@frozen
class _Scripted(Guard):
    """A guard that is true if its arrow is to be taken; with "max", also if it comes later."""

    name: str
    row: tuple[Transition, ...] = field(eq=False)  # all arrows of its source

    @property
    def label(self) -> str:
        return self.name

    def test(self, ctx: _PathScript) -> bool:
        ctx.calls.append(f"ask [{self.name}]")
        if ctx.wanted is None:
            return False
        if ctx.wanted.guard is not None:
            wanted = ctx.wanted.guard.label
        else:
            wanted = None
        labels = [t.guard.label if t.guard is not None else None for t in self.row]
        later = wanted in labels and labels.index(self.name) > labels.index(wanted)
        return self.name == wanted or (ctx.vector == "max" and later)


class _Recorder(Callback):
    """Writes down what happens, in the words of `Path.expected`."""

    def __init__(self, life: Lifecycle) -> None:
        for name in life.names:
            setattr(self, f"on_enter_{name}", self._noting(f"enter {name}"))
            setattr(self, f"on_exit_{name}", self._noting(f"exit {name}"))

    @staticmethod
    def _noting(what: str) -> Callable[[Any], None]:
        def note(ctx: _PathScript) -> None:
            ctx.calls.append(what)

        return note

    def on_transition(self, ctx: _PathScript) -> None:
        """Records the arrow, and moves on to the next one of the path."""
        taken = ctx.transition
        ctx.calls.append(f"take {taken.source} -> {taken.dest}")
        if taken.source != START:
            ctx.at += 1
        most = 1000 + _MORE * len(ctx.path)
        if len(ctx.calls) > most:
            raise AssertionError(
                f"the run continues after {most} steps; the path has {len(ctx.path)}"
            )


def drive(
    path: Path, lifecycle: Lifecycle, vector: Vector, callbacks: Iterable[Callback] = ()
) -> list[str]:
    """Runs a lifecycle along a path and returns what happened, in the words of `Path.expected`.

    Actions and effects are only written down, modes and close work are left out; guards and events
    are those that the path needs.
    """
    ctx = _PathScript(path=path.transitions, vector=vector)
    machine = _machine(lifecycle)
    if callbacks:
        with unwitnessed():
            machine = Machine(machine.lifecycle, (*machine.callbacks, *callbacks))
    try:
        machine.run(ctx)
    except BaseException as error:
        if not isinstance(error, _Forced | LifecycleError) and error is not ctx.forced:
            raise
        place = "failed"
        if isinstance(ctx.outcome, Failed):
            place = f"failed in {ctx.outcome.state}"
        ctx.calls.append(place)
    return ctx.calls


@lru_cache(maxsize=4)
def _machine(lifecycle: Lifecycle) -> Machine:
    life = _scripted(lifecycle)
    with unwitnessed():
        return Machine(life, _Recorder(life))


def _scripted(life: Lifecycle) -> Lifecycle:
    arrows = []
    for arrow in life.transitions:
        row = life.arrows(arrow.source)
        guard: Guard | None = None
        if arrow.guard is not None:
            guard = _Scripted(arrow.guard.label, row)
            if arrow.event is not None:
                guard = _Wanted(arrow.guard.label)
        effect: StateWork = _Noting(tuple(_done(arrow.effect)))
        if arrow.dest == FAILED:
            effect = _Failing(tuple(_done(arrow.effect)))
        arrows.append(attrs.evolve(arrow, guard=guard, effect=effect))
    states = [
        State(s.name, _Acting(tuple(_done(s.action))), s.within, final=s.final, anchor=s.anchor)
        for s in life.states
    ]
    return attrs.evolve(life, states=states, transitions=arrows)


@frozen
class _Wanted(Guard):
    """The guard of an event's arrow: holds if that arrow is the one to be taken."""

    name: str

    @property
    def label(self) -> str:
        return self.name

    def test(self, ctx: _PathScript) -> bool:
        ctx.calls.append(f"ask [{self.name}]")
        wanted = ctx.wanted
        return wanted is not None and wanted.guard is not None and wanted.guard.label == self.name


@frozen
class _Noting:
    """The effect of an arrow, which only writes down what it stands for."""

    words: tuple[str, ...]

    def __call__(self, ctx: _PathScript) -> None:
        ctx.calls.extend(self.words)


@frozen
class _Acting:
    """The action of a state: writes down what happens, and raises the event that is needed."""

    words: tuple[str, ...]

    def __call__(self, ctx: _PathScript) -> None:
        ctx.calls.extend(self.words)
        _act(ctx)


@frozen
class _Failing:
    """The effect of an arrow to `failed`."""

    words: tuple[str, ...]

    def __call__(self, ctx: _PathScript) -> None:
        ctx.calls.extend(self.words)
        raise _Forced


def _act(ctx: _PathScript) -> None:
    "raise the event that the path needs"
    wanted = ctx.wanted
    if (
        wanted is not None
        and wanted.event is not None
        and ctx.state == ctx.transition.dest
        and _is_due(ctx, wanted)
    ):
        ctx.forced = wanted.event()
        raise ctx.forced


def _is_due(ctx: _PathScript, wanted: Transition) -> bool:
    """An event is raised once the arrow before it has been taken to its end."""
    return bool(ctx.at == ctx.path.index(wanted, ctx.at) and ctx.path[ctx.at - 1].dest == ctx.state)
