"""A stage: context, actions, guards, modes and callbacks that follow a script and record calls.

    scenario = Scenario(life, hooks, script)
    assert scenario.run("table") == scenario.run("transitions")

It is for tests of machines, not of training: what happens is what the script says, and everything
that can be seen of a run is in its report. `statetrain.testing.strategies` draws all of it at
random.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any, NamedTuple

from attrs import Factory, define, field, frozen

from statetrain.callback import Callback
from statetrain.context.position import Position
from statetrain.events import Event, SkipBatch, SkipEpoch, StopFit
from statetrain.guards.base import Guard
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.machine.machine import Engine, Machine


class Detour(Event):
    """An event of one's own."""


class SharpDetour(Detour):
    """A narrower one, which arrows for the wider take as well."""


EVENTS = (
    SkipBatch,
    SkipEpoch,
    StopFit,
    Detour,
    Detour,
    SharpDetour,
    KeyboardInterrupt,
    ZeroDivisionError,
)
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
    """Returns something: for a guard instead of True or False, for others instead of None."""

    value: object

    def __call__(self, ctx: Stage, label: str) -> object:
        return self.value


@frozen
class Defer:
    """Registers a clean-up, which is a call of its own."""

    def __call__(self, ctx: Stage, label: str) -> object:
        ctx.defer(partial(ctx.play, f"clean up after {label}"))
        return None


Deed = Raise | Give | Defer


@frozen
class Script:
    """What happens in a run.

    Args:
        answers: by a guard's name, what it answers each time that it is asked; then False.
        deeds: by a call's label and its number, counted from 0, what it does besides being
            recorded; otherwise nothing.
    """

    answers: dict[str, tuple[bool, ...]] = Factory(dict)
    deeds: dict[tuple[str, int], Deed] = Factory(dict)

    def without(self, word: str) -> Script:
        """The same script, in which the calls whose label starts with a word do nothing."""
        return Script(
            self.answers,
            {key: deed for key, deed in self.deeds.items() if not key[0].startswith(word)},
        )


# -------------------- the context and the parts of a table


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
    calls: list[Entry] = Factory(list)
    played: Counter[str] = Factory(Counter)
    switches: dict[str, int] = Factory(dict)  # what the modes set

    def play(self, label: str) -> object:
        """Makes a call: records it, and does what the script has for it."""
        number = self.played[label]
        self.played[label] += 1
        self.calls.append(
            Entry(label, str(self.transition), self.state, repr(self.event), repr(self.outcome))
        )
        deed = self.script.deeds.get((label, number))
        if deed is not None:
            return deed(self, label)
        return None

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

    def __call__(self, ctx: Stage) -> Any:
        # Nothing, unless the script gives something, to see that the machine minds
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

    def test(self, ctx: Stage) -> bool:
        # On purpose: a script may have it answer anything
        return ctx.answer(self.name)  # type: ignore[return-value]

    def bind(self, place: str) -> Any:
        if self.memory:
            return partial(self._at, place)
        return self.test

    def _at(self, place: str, ctx: Stage) -> bool:
        ctx.play(f"{self.name} at {place}")
        return self.test(ctx)

    def marks(self, place: str) -> Any:
        if self.memory:
            return (Played(f"mark {self.name} at {place}"),)
        return ()


@frozen
class Switch:
    """A mode: something of a scope's that is set, put back, and wraps the actions inside."""

    name: str

    def read(self, ctx: Stage) -> Any:
        return ctx.switches.get(self.name, 0)

    def write(self, ctx: Stage, value: Any) -> None:
        ctx.play(f"write {self.name}")
        ctx.switches[self.name] = value

    def begin(self, ctx: Stage) -> None:
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


# -------------------- a table, its callbacks and a script


class Report(NamedTuple):
    """Everything about a run that can be seen from outside."""

    log: list[Entry]
    # The transitions that were yielded, with the state then published; empty for a run in one go
    taken: list[str]
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
        return Machine(
            self.lifecycle, [Watcher(f"w{i}", hooks) for i, hooks in enumerate(self.hooks)], engine
        )

    def run(
        self, engine: Engine = "table", *, stepped: bool = False, close_after: int | None = None
    ) -> Report:
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
            # The steps have come to their end; a StopIteration of a script comes out as another
            # error
            pass
        except BaseException as error:
            raised = error
        return Report(
            ctx.calls,
            taken,
            ctx.state,
            str(ctx.transition),
            repr(ctx.outcome),
            repr(raised),
            getattr(raised, "__notes__", []),
            repr(raised.__cause__ if raised is not None else None),
            (
                len(ctx.modes),
                len(ctx.deferred),
                {name: value for name, value in ctx.switches.items() if value},
            ),
        )
