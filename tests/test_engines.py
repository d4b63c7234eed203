"""The compiled table and the package `transitions` read the same table and do the same."""

import logging
import subprocess
import sys

import pytest
import torch
from attrs import define, evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import (
    Answering,
    Detour,
    Played,
    Raise,
    Report,
    Scenario,
    Script,
    SharpDetour,
    Stage,
    Switch,
    Watcher,
    scenarios,
)
from transitions import MachineError as RefusedTrigger
from transitions.core import Machine as Flat
from transitions.extensions import GraphMachine, HierarchicalGraphMachine, LockedMachine
from transitions.extensions.asyncio import AsyncMachine
from transitions.extensions.markup import MarkupMachine
from transitions.extensions.nesting import (
    HierarchicalMachine,
    NestedEvent,
    NestedState,
    NestedTransition,
)

from statetrain.callbacks.on import on
from statetrain.context.position import Position
from statetrain.errors import GuardError, MachineError
from statetrain.events import Event, StopFit
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.machine.interop import to_machine
from statetrain.machine.machine import Machine
from statetrain.outcome import Completed, Stopped
from statetrain.testing import toy_problem
from statetrain.training.fitting import fit
from statetrain.training.running import run

# The same examples each time, whatever the machine's load.
drawn = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def unpaused(report: Report) -> Report:
    """A report without what a pause adds: what was yielded, and the modes that it puts back and forth."""
    return report._replace(
        taken=[], log=[entry for entry in report.log if not entry.label.startswith("write")]
    )


# ---------------------------------------------------------------- whole runs


@settings(drawn, max_examples=300)
@given(scenarios())
def test_both_engines_make_the_same_calls(scenario: Scenario):
    "Each guard, hook, effect, mode and action comes in the same order with the same context, and so do outcome, error and notes."
    report = scenario.run("table")
    assert report == scenario.run("transitions")
    assert report.outcome != "None"
    assert report.left[:2] == (0, 0), "a mode or a clean-up was left"


@settings(drawn, max_examples=80)
@given(scenarios(), st.integers(0, 8))
def test_stepping_changes_nothing_in_either_engine(scenario: Scenario, number: int):
    "A stepped run, and one that is closed half way, is the same in both engines; a stepped one is what it is in one go."
    assert scenario.run("table", stepped=True) == scenario.run("transitions", stepped=True)
    assert scenario.run("table", close_after=number) == scenario.run(
        "transitions", close_after=number
    )
    # A pause puts modes back and forth, so it would come to a script's deed for that sooner.
    calm = evolve(scenario, script=scenario.script.without("write"))
    assert unpaused(calm.run("transitions", stepped=True)) == unpaused(calm.run("table"))


@settings(drawn, max_examples=50)
@given(scenarios())
def test_one_trigger_after_another_is_a_run(scenario: Scenario):
    "A machine from `to_machine` whose `next` is triggered up to the end makes the calls of a run, guards, modes and marks too."
    quiet = evolve(scenario, script=Script(scenario.script.answers))
    machine, ctx, error = quiet.machine(), Stage(script=quiet.script), "None"
    live = to_machine(machine.lifecycle, callbacks=machine.callbacks)
    try:
        while not live.get_state(live.state).final:
            assert live.next(ctx)
    except (ArithmeticError, ValueError) as raised:
        # An arrow to `failed`: a run raises the same, and then puts back modes and calls hooks
        error = repr(raised)
    report = quiet.run()
    assert error == report.error
    assert ctx.calls == report.log[: len(ctx.calls)]
    assert error != "None" or (repr(ctx.outcome), ctx.calls) == (report.outcome, report.log)


LOOP = Lifecycle(
    "loop",
    states=[
        State("fit", mode=Switch("fit")),
        State("head", Played("do head"), "fit"),
        State("batch", within="fit", mode=Switch("batch")),
        State("work", Played("do work"), "batch", close=Played("close work")),
        State("end", final=True),
    ],
    transitions=[
        Transition("head", "work", Answering("more"), Played("count")),
        Transition("head", "end"),
        Transition("work", "work", Answering("again")),
        Transition("work", "head"),
        Transition("batch", "head", Answering("allowed"), event=Detour),
        Transition("fit", "end", event=Detour),
        Transition("fit", "end", event=StopFit),
        Transition("fit", "head", Answering("resumed"), event=KeyboardInterrupt),
    ],
    initial="head",
)


@pytest.mark.parametrize("engine", ["table", "transitions"])
@pytest.mark.parametrize(
    ("script", "error"),
    [
        (
            Script(
                {"more": (True,)},
                {("do work", 0): Raise(Detour), ("allowed", 0): Raise(ValueError)},
            ),
            "ValueError('allowed')",
        ),
        (
            Script(
                {"more": (True,)}, {("do work", 0): Raise(Detour), ("allowed", 0): Raise(StopFit)}
            ),
            "LifecycleError",
        ),
        (Script({}, {("do head", 0): Raise(KeyboardInterrupt)}), "KeyboardInterrupt('do head')"),
    ],
)
def test_the_guard_of_an_events_arrow_that_raises_fails_the_run(engine, script, error):
    "What the guard of an event's own arrow raises closes the run, and the note names that guard; so does an event refused."
    report = Scenario(LOOP, (), script).run(engine)
    assert report.error.startswith(error)
    assert report.outcome.startswith("Failed")
    assert report.left == (0, 0, {})
    assert "allowed" not in error or "the guard [allowed] of batch -> head" in report.notes[0]


@pytest.mark.parametrize("engine", ["table", "transitions"])
def test_an_interrupt_while_two_scopes_close_is_taken_by_the_one_still_open(engine):
    "Modes of two scopes put back on one way are told apart: the inner one's failing leaves the outer one open."
    script = Script(
        {"more": (True,), "resumed": (True,)}, {("write batch", 0): Raise(KeyboardInterrupt)}
    )
    life = LOOP.alter(LOOP.between("work", "head")[0], dest="end")
    report = Scenario(life, (), script).run(engine)
    assert report.outcome == "Completed(epoch=0)"
    assert [entry.label for entry in report.log].count("do head") == 2


@pytest.mark.parametrize("engine", ["table", "transitions"])
def test_one_function_in_two_places_is_told_apart(engine):
    "A function that is a state's action and the effect of its loop may raise an event as the one, not as the other."
    life = LOOP.alter(LOOP.between("work", "work")[0], effect=Played("do work"))
    twice = {"more": (True,), "again": (True, False)}
    illegal = Scenario(life, (), Script(twice, {("do work", 1): Raise(StopFit)})).run(engine)
    assert "StopFit was raised by the effect of work -> work" in illegal.error
    assert (
        Scenario(life, (), Script(twice, {("do work", 2): Raise(StopFit)})).run(engine).outcome
        == "Stopped('do work', epoch=0)"
    )


@pytest.mark.parametrize("engine", ["table", "transitions"])
def test_an_arrow_for_an_event_takes_narrower_ones(engine):
    "An event of a subclass is taken by the arrow for its base."
    report = Scenario(LOOP, (), Script({}, {("do head", 0): Raise(SharpDetour)})).run(engine)
    assert (report.transition, report.outcome) == (
        "fit -> end Detour",
        "Stopped('do head', epoch=0)",
    )


@pytest.mark.parametrize("engine", ["table", "transitions"])
def test_closing_a_finished_run_keeps_its_outcome(engine):
    "Steps that are closed in a final state have completed; nothing was interrupted."
    ctx = Stage()
    with Machine(LOOP, engine=engine).steps(ctx, until="end"):
        pass
    assert ctx.outcome == Completed()


# ---------------------------------------------------------------- one trigger at a time


def test_next_takes_the_first_arrow_whose_guard_holds():
    "The trigger `next` follows the order of the table, and the machine's state is the path of the lifecycle's."
    live, ctx = (
        to_machine(LOOP),
        Stage(script=Script({"more": (True, False), "again": (True, False)})),
    )
    states = [live.state]
    while live.next(ctx):
        states.append(live.state)
        if ctx.outcome is not None:
            break
    assert states == ["[*]", "fit/head", "fit/batch/work", "fit/batch/work", "fit/head", "end"]
    assert ctx.state == "end"
    assert str(ctx.transition) == "head -> end"
    with pytest.raises(RefusedTrigger, match="Can't trigger event 'next' from state"):
        live.next(ctx)


def test_an_effect_comes_between_leaving_and_entering():
    "Close work, the arrow's effect and the enter hook come in this order, with the source published until something is entered."
    live = to_machine(LOOP, callbacks=Watcher("w", ("on_exit_head", "on_enter_batch")))
    ctx = Stage(script=Script({"more": (True,)}))
    live.next(ctx)
    ctx.calls.clear()
    live.next(ctx)
    assert [(entry.label, entry.state) for entry in ctx.calls] == [
        ("more", "head"),
        ("w.on_exit_head", "head"),
        ("count", "head"),
        ("begin batch", "head"),
        ("w.on_enter_batch", "batch"),
        ("within fit", "work"),
        ("within batch", "work"),
        ("do work", "work"),
    ]


def test_may_asks_and_takes_nothing():
    "`may_next` answers from the guards; the machine and the context stay where they are."
    live, ctx = to_machine(LOOP), Stage()
    live.next(ctx)
    before = (live.state, ctx.state, ctx.transition)
    assert live.may_next(ctx)
    assert live.may_StopFit(ctx)
    assert not live.may_KeyboardInterrupt(ctx), "its guard does not hold"
    assert (live.state, ctx.state, ctx.transition) == before


@pytest.mark.parametrize(("allowed", "state"), [(True, "fit/head"), (False, "end")])
def test_the_trigger_of_an_event_looks_in_the_innermost_scope_first(allowed, state):
    "If the guard of the inner arrow does not hold, the outer scope's arrow for the same event is taken."
    live, ctx = to_machine(LOOP), Stage(script=Script({"more": (True,), "allowed": (allowed,)}))
    live.next(ctx)
    live.next(ctx)
    assert live.Detour(ctx)
    assert live.state == state
    assert isinstance(ctx.event, Detour)


def test_the_trigger_of_an_event_publishes_the_one_it_was_given():
    "An instance that is given with the context is `ctx.event`, with its reason, while the arrow is taken."
    live, ctx, event = to_machine(LOOP), Stage(), StopFit("enough")
    live.next(ctx)
    assert live.StopFit(ctx, event)
    assert ctx.event is event
    assert ctx.outcome == Stopped(0, "enough")


def test_the_trigger_of_a_narrower_event_takes_what_the_wider_one_would():
    "A class of event that has an arrow of its own also takes those of its base class, in the order of the table."
    life = LOOP.add(Transition("work", "end", event=SharpDetour))
    live = to_machine(life)
    assert [t.source for t in live.events["Detour"].transitions["fit/batch"]] == ["fit/batch"]
    assert set(live.events["SharpDetour"].transitions) == {"fit/batch/work", "fit/batch", "fit"}
    assert set(live.events) == {"next", "Detour", "StopFit", "KeyboardInterrupt", "SharpDetour"}


def test_what_an_action_raises_comes_out_of_the_trigger():
    "An event that an action raises is the caller's to trigger: the machine stands where it was raised."
    live, ctx = to_machine(LOOP), Stage(script=Script({}, {("do head", 0): Raise(StopFit)}))
    with pytest.raises(StopFit) as raised:
        live.next(ctx)
    assert (live.state, ctx.state) == ("fit/head", "head")
    assert live.StopFit(ctx, raised.value)
    assert live.state == "end"


@pytest.mark.parametrize("answer", [1, "yes", None])
def test_a_guard_that_answers_no_bool_is_an_error(answer):
    "What `== True` would let pass, or take for False, is refused, and the error names the arrow."
    life = LOOP.alter(LOOP.between("head", "work")[0], guard=lambda ctx: answer)
    live, ctx = to_machine(life), Stage()
    live.next(ctx)
    with pytest.raises(
        GuardError, match=r"loop: arrow head -> work: guard .* must answer True or False, got"
    ):
        live.next(ctx)


def test_a_model_carries_the_triggers():
    "A model of a plain class gets the triggers and the state; the tools of `transitions` work on it."

    class Plain:
        pass

    model, ctx = Plain(), Stage()
    live = to_machine(LOOP, model)
    model.next(ctx)
    assert model.state == "fit/head"
    assert model.is_fit.head()
    assert live.is_state("fit", model, allow_substates=True)
    assert set(live.get_triggers(model.state)) == {"next", "Detour", "StopFit", "KeyboardInterrupt"}
    assert not hasattr(live, "next")


def test_an_added_callback_is_called_with_the_context_after_the_work():
    "A function added to the machine takes the context as a hook does, and comes after the state's action or close work."
    live, ctx, seen = to_machine(LOOP), Stage(script=Script({"more": (True,)})), []
    live.on_enter("fit/batch/work", lambda ctx: seen.append(("enter", ctx.calls[-1].label)))
    live.on_exit("fit/batch/work", lambda ctx: seen.append(("exit", ctx.calls[-1].label)))
    for _ in range(3):
        live.next(ctx)
    assert seen == [("enter", "do work"), ("exit", "close work")]


# ---------------------------------------------------------------- its other classes


def test_a_live_machine_may_be_of_another_class_of_transitions():
    "`GraphMachine` draws the table, with the current state, the guards' names and the user's title."
    live = to_machine(
        LOOP,
        machine_class=GraphMachine,
        graph_engine="mermaid",
        title="my loop",
        show_conditions=True,
    )
    assert isinstance(live, HierarchicalGraphMachine)
    ctx = Stage(script=Script({"more": (True,)}))
    live.next(ctx)
    live.next(ctx)
    picture = live.get_graph().source
    assert "my loop" in picture
    assert "fit/head --> fit/batch/work: next [more]" in picture
    assert live.model_graphs[id(live)].custom_styles["node"]["fit/batch/work"] == "active"
    assert "holds" not in picture


@pytest.mark.parametrize("kind", [Flat, LockedMachine, MarkupMachine, HierarchicalGraphMachine])
def test_each_class_goes_the_same_way(kind):
    "Step by step, a machine of any class is where the plain one is, and its model carries the triggers."
    plain, other, model = to_machine(LOOP), None, type("Model", (), {})()
    other = to_machine(LOOP, model, machine_class=kind)
    answers = {"more": (True, False), "again": (True, False)}
    here, there = Stage(script=Script(answers)), Stage(script=Script(answers))
    while here.outcome is None:
        assert plain.next(here) == model.next(there)
        assert plain.state == model.state
    assert here.outcome == there.outcome
    assert [entry.label for entry in here.calls] == [entry.label for entry in there.calls]
    assert other.get_model_state(model).final


class MyGraph(HierarchicalGraphMachine):
    """One of a user's own."""


@pytest.mark.parametrize("kind", [GraphMachine, LockedMachine, MyGraph])
@settings(drawn, max_examples=20)
@given(scenario=scenarios())
def test_a_run_may_be_driven_by_any_of_them(kind, scenario: Scenario):
    "Each call comes as with the compiled table, failures and events included."
    assert scenario.run(kind) == scenario.run("table")


def test_hooks_reach_the_machine_that_drives():
    "`ctx.live_machine` has the state by its path during the run and after it; where the table drives, there is none."
    seen = []

    def look(ctx):
        seen.append(ctx.live_machine and ctx.live_machine.models[0].state)

    script, hooks = Script({"more": (True,)}), [on("exit_work")(look)]
    ctx = Machine(LOOP, hooks, engine=GraphMachine).run(Stage(script=script))
    assert seen == ["fit/batch/work"]
    assert ctx.live_machine.models[0].state == "end"
    again = Machine(LOOP, hooks).run(Stage(script=script))
    assert seen[1:] == [None]
    assert again.live_machine is None


def test_fit_and_run_are_driven_by_transitions():
    "Weights and rows are those of the compiled table, to the bit, with what `fit` adds by itself."
    one, other = (
        toy_problem().fit(epochs=2, seed=1, engine=engine) for engine in ("table", GraphMachine)
    )
    assert torch.equal(one.model.weight, other.model.weight)
    assert one.history["valid_loss"] == other.history["valid_loss"]
    assert isinstance(other.ctx.live_machine, HierarchicalGraphMachine)
    life = Lifecycle("one", [State("a"), State("end", final=True)], [Transition("a", "end")])
    assert isinstance(
        run(life, Position(), engine="transitions").ctx.live_machine, HierarchicalMachine
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (AsyncMachine, "AsyncMachine awaits its callbacks, .*; give a class without async"),
        (
            type("Mine", (GraphMachine,), {}),
            "Mine has no nested states, .* HierarchicalGraphMachine",
        ),
        (int, "a class of the `transitions` package, got <class 'int'>"),
        ("GraphMachine", "a class of the `transitions` package, got 'GraphMachine'"),
    ],
)
def test_a_class_that_cannot_hold_a_table_is_refused(kind, words):
    "Where the machine is made, with what to give; `fit` says so before it looks at anything else."
    with pytest.raises(MachineError, match=words):
        to_machine(LOOP, machine_class=kind)
    with pytest.raises(MachineError, match=f"{words}|engine must be 'table', 'transitions', or"):
        fit(None, None, engine=kind)


def test_options_of_a_class_are_checked():
    "One that the table decides is refused, and one that the class has not is answered with the nearest."
    with pytest.raises(MachineError, match="queued= of GraphMachine is what the lifecycle says"):
        to_machine(LOOP, machine_class=GraphMachine, queued=True)
    with pytest.raises(MachineError, match="GraphMachine takes no tilte=; did you mean 'title'"):
        to_machine(LOOP, machine_class=GraphMachine, tilte="x")


# ---------------------------------------------------------------- fences


def test_a_slotted_model_is_refused():
    "A context has slots and cannot carry triggers; the error says to give it to the trigger instead."
    with pytest.raises(
        MachineError, match=r"'Holder' takes no new attributes, .* machine.next\(ctx\)"
    ):
        to_machine(LOOP, Holder())


@define
class Holder:
    state: str = ""


class Player:
    def next(self):
        return "the next song"

    def may_StopFit(self):  # noqa: N802  # what `transitions` would call it
        return True

    is_fit = True


def test_a_model_that_has_a_triggers_name_is_refused():
    "Every name that would not be bound is listed, so that no call goes to another function."
    with pytest.raises(MachineError, match=r"'Player' has 'next', 'may_StopFit', 'is_fit' already"):
        to_machine(LOOP, Player())


def test_the_machine_itself_cannot_carry_every_name():
    "A state whose `is_` function the machine has for itself needs a model of its own; with one it works."
    life = Lifecycle(
        "small", [State("state"), State("end", final=True)], [Transition("state", "end")]
    )
    with pytest.raises(MachineError, match="the machine itself has 'is_state' already"):
        to_machine(life)
    model = type("Model", (), {})()
    to_machine(life, model).trigger_event(model, "next", Stage())
    assert model.is_state()


def test_a_nested_name_that_transitions_cannot_hold_is_refused():
    "A nested state called `add` would break the functions that `transitions` binds; here it is an error that says so."
    life = Lifecycle(
        "small",
        [State("all"), State("add", within="all"), State("end", final=True)],
        [Transition("add", "end")],
        "add",
    )
    with pytest.raises(MachineError, match="cannot nest a state called 'add'"):
        to_machine(life)
    assert Machine(life, engine="transitions").run(Stage()).outcome == Completed()


def test_two_events_of_one_name_are_refused_by_triggers_alone():
    "Two classes called the same would be one trigger, which is refused; a driven run tells them apart."
    other = type("Detour", (Event,), {})
    life = LOOP.add(Transition("batch", "end", event=other))
    with pytest.raises(MachineError, match=r"would both be the trigger 'Detour'; rename the event"):
        to_machine(life)
    script = Script({"more": (True,)}, {("do work", 0): Raise(other)})
    assert Scenario(life, (), script).run("transitions") == Scenario(life, (), script).run("table")


def test_an_event_called_next_is_refused():
    "The name of the ordinary trigger is taken."
    life = LOOP.add(Transition("batch", "end", event=type("next", (Event,), {})))
    with pytest.raises(
        MachineError,
        match="the trigger of arrows without an event would both be the trigger 'next'",
    ):
        to_machine(life)


def test_a_trigger_needs_the_context():
    "A trigger without a context says how it is called."
    with pytest.raises(
        MachineError, match=r"trigger 'next' needs the context .*: machine.next\(ctx\)"
    ):
        to_machine(LOOP).next()


def test_a_trigger_within_a_trigger_is_an_error():
    "What would recurse or be queued is refused, and the machine can be used afterwards."
    live, ctx = to_machine(LOOP), Stage()
    live.on_enter("fit/head", lambda ctx: live.next(ctx))
    with pytest.raises(MachineError, match="trigger 'next' came while an arrow was being taken"):
        live.next(ctx)
    assert live.next(ctx)


def test_only_arrows_of_the_table_are_taken():
    "Neither a jump nor an arrow added to the live machine goes past the table."
    live = to_machine(LOOP)
    live.next(Stage())
    with pytest.raises(
        MachineError, match="fit/head -> end is not in the table; edit the lifecycle"
    ):
        live.to("end")
    with pytest.raises(MachineError, match="end -> fit/head is not in the table"):
        live.add_transition("rewind", "end", "fit/head")
    assert live.state == "fit/head"


# ---------------------------------------------------------------- what belongs to others


def test_nothing_is_logged_for_callbacks(caplog):
    "With the root logger at INFO, neither a driven run nor a trigger nor an added callback leaves a record."
    caplog.set_level(logging.INFO)
    Machine(LOOP, engine="transitions").run(Stage(script=Script({"more": (True,)})))
    live, ctx = to_machine(LOOP), Stage()
    live.on_enter("end", lambda ctx: None)
    live.next(ctx)
    live.StopFit(ctx)
    assert caplog.records == []


def test_the_classes_of_transitions_stay_as_they_are():
    "The separator and the classes that `transitions` shares among all machines are its own after a run; its machines work."
    Machine(LOOP, engine="transitions").run(Stage())
    to_machine(LOOP).next(Stage())
    assert NestedState.separator == "_"
    assert NestedState.dynamic_methods == ["on_enter", "on_exit", "on_final"]
    assert (HierarchicalMachine.state_cls, HierarchicalMachine.transition_cls) == (
        NestedState,
        NestedTransition,
    )
    assert (HierarchicalMachine.event_cls, Flat.separator) == (NestedEvent, "_")
    other = HierarchicalMachine(
        states=[{"name": "a", "children": ["b"]}, "c"],
        initial="a_b",
        transitions=[["go", "a", "c"]],
    )
    assert other.go()
    assert other.state == "c"


def test_importing_it_leaves_the_users_logging_alone():
    "The import sets no level, adds no handler to the root logger, and loads no torch."
    code = (
        "import logging, sys\nlogging.basicConfig(level=logging.INFO)\nroot = logging.getLogger();"
        " before = (root.level, list(root.handlers), logging.raiseExceptions,"
        " logging.root.manager.disable)\nimport statetrain.machine.interop\nassert before =="
        " (root.level, list(root.handlers), logging.raiseExceptions,"
        " logging.root.manager.disable)\nassert all(logging.getLogger(name).level == 0 for name in"
        " ('transitions', 'transitions.core', 'transitions.extensions.nesting'))\nassert 'torch'"
        " not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_context_without_a_script_will_do():
    "The least context that a machine can run is enough for both engines."
    life = Lifecycle(
        "least",
        [State("a"), State("b", within="a"), State("end", final=True)],
        [Transition("b", "end")],
        "b",
    )
    for engine in ("table", "transitions"):
        assert Machine(life, engine=engine).run(Position()).outcome == Completed()
