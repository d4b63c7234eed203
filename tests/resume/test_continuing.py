"""The machine's part of it: the slot in which a run is saved, and continuing at an anchor."""

import json
from typing import Any

import pytest
from attrs import Factory, define, frozen

from statetrain.callback import Callback
from statetrain.context.position import Position
from statetrain.errors import LifecycleError
from statetrain.events import StopFit
from statetrain.guards.base import guard
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.machine.machine import Machine
from statetrain.outcome import Completed, Interrupted

ENGINES = ["table", "transitions"]


@define(eq=False)
class Place(Position):
    """A position that counts, and writes down what is called."""

    count: int = 0
    calls: list[str] = Factory(list)
    level: int = 0


@frozen
class Level:
    """A mode: how deep the open scopes are."""

    depth: int

    def read(self, ctx: Any) -> int:
        return ctx.level

    def write(self, ctx: Any, value: int) -> None:
        ctx.level = value

    def begin(self, ctx: Any) -> None:
        ctx.level = self.depth
        ctx.calls.append(f"level {self.depth}")

    def wrap(self, action: Any) -> Any:
        return action


@frozen
class Note:
    """An action that writes its label down."""

    label: str

    def __call__(self, ctx: Any) -> None:
        ctx.calls.append(self.label)


@frozen
class Count:
    label: str = "count"

    def __call__(self, ctx: Any) -> None:
        ctx.count += 1
        ctx.calls.append("count")


@guard
def enough(ctx: Any) -> bool:
    "enough"
    return ctx.count >= 3


LIFE = Lifecycle(
    "life",
    states=[
        State(
            "fit", Note("start"), mode=Level(1), reopen=Note("reopen fit"), close=Note("close fit")
        ),
        State("loop", Note("make"), "fit", mode=Level(2), reopen=Note("reopen loop")),
        State("head", Note("look"), "loop", anchor=True),
        State("work", Count(), "loop"),
        State("end", final=True),
    ],
    transitions=[
        Transition("fit", "head"),
        Transition("head", "end", enough),
        Transition("head", "work"),
        Transition("work", "head"),
        Transition("fit", "end", event=StopFit),
        Transition("fit", "end", event=KeyboardInterrupt),
    ],
)


class Watch(Callback):
    """Writes down the hooks that it hears, with the state that is published meanwhile."""

    def on_enter_fit(self, ctx: Any) -> None:
        ctx.calls.append(f"enter fit in {ctx.state}")

    def on_enter_head(self, ctx: Any) -> None:
        ctx.calls.append(f"enter head in {ctx.state}")

    def on_anchor(self, ctx: Any) -> None:
        ctx.calls.append(f"anchor {ctx.state} at {ctx.count}")

    def on_resume(self, ctx: Any) -> None:
        ctx.calls.append(f"resume in {ctx.state} at level {ctx.level}")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_anchor_is_offered_after_its_enter_hooks_and_before_its_action(engine: Any) -> None:
    """`on_anchor` comes once for each entry, in its place."""
    ctx = Machine(LIFE, Watch(), engine).run(Place())
    once = ["enter head in head", "anchor head at 0", "look"]
    assert ctx.calls[:9] == [
        "level 1",
        "enter fit in fit",
        "start",
        "level 2",
        "make",
        *once,
        "count",
    ]
    assert [entry for entry in ctx.calls if entry.startswith("anchor")] == [
        f"anchor head at {n}" for n in range(4)
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_continuing_opens_the_scopes_and_repeats_no_enter_hook(engine: Any) -> None:
    """Modes and `reopen` work, outermost first; then `on_resume`; then what is to be put back; then the anchor's action and its guards."""
    ctx = Place(count=2)
    ctx.reopening.append(lambda: ctx.calls.append("last of all"))
    Machine(LIFE, Watch(), engine).run(ctx, at="head")
    opened = [
        "level 1",
        "reopen fit",
        "level 2",
        "reopen loop",
        "resume in head at level 2",
        "last of all",
    ]
    assert ctx.calls == [
        *opened,
        "look",
        "count",
        "enter head in head",
        "anchor head at 3",
        "look",
        "close fit",
    ]
    assert (ctx.outcome, ctx.level, ctx.modes, ctx.reopening) == (Completed(), 0, [], [])


@pytest.mark.parametrize("engine", ENGINES)
def test_what_follows_a_continuation_is_what_would_have_followed(engine: Any) -> None:
    """From each anchor on, the calls of a continued run are the last calls of the whole one."""
    whole = Machine(LIFE, Watch(), engine).run(Place()).calls
    for count in range(4):
        rest = Machine(LIFE, Watch(), engine).run(Place(count=count), at="head").calls
        after = rest[rest.index("resume in head at level 2") + 1 :]
        assert after == whole[-len(after) :]
        assert after.count("count") == 3 - count


@pytest.mark.parametrize("engine", ENGINES)
def test_a_continued_run_can_be_stepped(engine: Any) -> None:
    """The first step is the arrow from nowhere to the anchor; while the run pauses, modes are as they were outside."""
    ctx = Place(count=2)
    steps = Machine(LIFE, (), engine).steps(ctx, at="head")
    assert str(next(steps)) == "[*] -> head"
    assert (ctx.state, ctx.level) == ("head", 0)
    assert [str(step) for step in steps] == ["head -> work", "work -> head", "head -> end [enough]"]
    assert ctx.outcome == Completed()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_is_continued_at_an_anchor_only(engine: Any) -> None:
    """Another state is refused with the anchors, an unknown one with the nearest name; nothing has been touched."""
    ctx = Place()
    with pytest.raises(
        LifecycleError,
        match=r"life: a run cannot be continued at 'work', which is not an anchor; anchors are 'head'",
    ):
        Machine(LIFE, (), engine).run(ctx, at="work")
    with pytest.raises(LifecycleError, match=r"no state 'haed'; did you mean 'head'\?"):
        Machine(LIFE, (), engine).steps(ctx, at="haed")
    assert (ctx.state, ctx.calls) == (None, [])


class Raising(Callback):
    """Raises something in one of the two hooks."""

    def __init__(self, where: str, error: BaseException) -> None:
        self.where, self.error = where, error

    def on_anchor(self, ctx: Any) -> None:
        if self.where == "anchor":
            raise self.error

    def on_resume(self, ctx: Any) -> None:
        if self.where == "resume":
            raise self.error


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("where", ["anchor", "resume"])
def test_events_may_not_be_raised_where_runs_are_saved_or_taken_up(engine: Any, where: str) -> None:
    """An event is an error that names the hook and the remedy; every mode is put back."""
    ctx = Place()
    with pytest.raises(
        LifecycleError,
        match=(
            rf"StopFit was raised by the hook Raising.on_{where}; events may be .* ctx.request_stop"
        ),
    ):
        Machine(LIFE, Raising(where, StopFit()), engine).run(
            ctx, at="head" if where == "resume" else None
        )
    assert (ctx.level, ctx.modes) == (0, [])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("where", ["anchor", "resume"])
def test_a_second_interrupt_is_taken_there_too(engine: Any, where: str) -> None:
    """KeyboardInterrupt takes its arrow, with the exits of what is open."""
    ctx = Machine(LIFE, Raising(where, KeyboardInterrupt()), engine).run(
        Place(), at="head" if where == "resume" else None
    )
    assert (ctx.state, ctx.calls[-1], ctx.level, ctx.modes) == ("end", "close fit", 0, [])
    assert isinstance(ctx.outcome, Completed | Interrupted)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_while_opening_names_the_work(engine: Any) -> None:
    """A `reopen` that raises fails the run; what was opened is put back."""

    def broken(ctx: Any) -> None:
        raise ValueError("no disk")

    ctx = Place()
    with pytest.raises(ValueError, match="no disk") as caught:
        Machine(LIFE.replace("loop", reopen=broken), (), engine).run(ctx, at="head")
    assert any("raised by the reopen work of 'loop'" in note for note in caught.value.__notes__)
    assert (ctx.level, ctx.modes, ctx.state) == (0, [], "failed")


def test_an_anchor_costs_nothing_where_nobody_saves() -> None:
    """Without the hook, entering an anchor calls what entering any other state calls."""
    machine = Machine(LIFE, ())
    assert [work.kind for work in machine.plan.works(LIFE.between("work", "head")[0], "work")] == [
        "action"
    ]


def test_reopen_is_part_of_what_a_lifecycle_is() -> None:
    """It survives JSON, and counts in comparisons and in the fingerprint."""
    known = {f"{__name__}:{kind.__name__}": kind for kind in (Level, Note, Count)} | {
        f"{__name__}:enough": enough
    }
    assert Lifecycle.from_dict(json.loads(json.dumps(LIFE.to_dict())), known) == LIFE
    without = LIFE.replace("loop", reopen=None)
    assert without != LIFE
    assert without.fingerprint != LIFE.fingerprint
