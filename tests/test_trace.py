"""The trace of a run, and the callback that records it."""

import pytest

from statetrain.callback import Callback
from statetrain.context.position import Position
from statetrain.errors import ConfigError
from statetrain.events import StopFit
from statetrain.guards.base import guard
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, State
from statetrain.lifecycle.transition import Transition
from statetrain.machine.machine import Machine
from statetrain.testing import walk
from statetrain.trace import Trace, Tracing


@guard
def again(ctx):
    "again"
    return ctx.deferred.count(ticked) < 3


@guard
def once_more(ctx):
    "once more"
    return ctx.deferred.count(ticked) < 3


def ticked():
    "What is counted."


def tick(ctx):
    "tick"
    ctx.defer(ticked)


def explode(ctx):
    "explode"
    raise ArithmeticError("boom")


LIFE = Lifecycle(
    "demo",
    [State("fit"), State("tick", tick, "fit"), State("end", final=True)],
    [
        Transition("fit", "tick"),
        Transition("tick", "tick", again),
        Transition("tick", "end"),
        Transition("fit", "end", event=StopFit),
    ],
)


def traced(life=LIFE, callbacks=(), **options):
    """The trace of a run, however it ends."""
    tracing = Tracing(**options)
    machine = Machine(life, [*callbacks, tracing])
    try:
        machine.run(Position())
    except ArithmeticError:
        pass
    return tracing.trace


# ---------------------------------------------------------------- the value


def test_a_trace_is_a_sequence_of_transitions():
    "Length, order, places and states; the initial state comes first."
    trace = traced()
    assert trace.states == ["fit", "tick", "tick", "tick", "end"]
    assert len(trace) == 5
    assert list(trace) == [
        LIFE.start,
        *LIFE.between("fit", "tick"),
        *LIFE.between("tick", "tick") * 2,
        *LIFE.between("tick", "end"),
    ]
    assert trace[-1].dest == "end"
    assert len(Trace()) == 0


def test_how_often_each_arrow_was_taken():
    "Counts are per arrow, and 0 for one that was not taken."
    counts = traced().counts()
    assert counts[LIFE.between("tick", "tick")[0]] == 2
    assert counts[LIFE.between("tick", "end")[0]] == 1
    assert counts[LIFE.between("fit", "end")[0]] == 0
    assert sum(counts.values()) == 5


def test_traces_are_values():
    "Traces of the same transitions are equal and hash alike, whether or not the lifecycle is known."
    assert traced() == traced(lifecycle=LIFE)
    assert hash(traced()) == hash(traced(lifecycle=LIFE))
    assert traced() != traced(last=2)
    assert Trace([LIFE.start]) == Trace((LIFE.start,))


def test_a_trace_is_read_as_a_list():
    "One numbered line per transition, with guards and effects."
    assert str(traced()).splitlines() == [
        "1  [*] -> fit",
        "2  fit -> tick",
        "3  tick -> tick [again]",
        "4  tick -> tick [again]",
        "5  tick -> end",
    ]


def test_a_trace_in_one_line():
    "The short form names the lifecycle, if it is known, and leaves out the middle of a long run."
    assert (
        repr(traced(lifecycle=LIFE)) == "<Trace of 'demo', 5 transitions: fit tick tick tick end>"
    )
    just = Trace(LIFE.between("tick", "tick") * 12)
    assert repr(just) == f"<Trace, 12 transitions: {' '.join(['tick'] * 12)}>"
    long = Trace([LIFE.start, *LIFE.between("tick", "tick") * 100, *LIFE.between("tick", "end")])
    assert (
        repr(long)
        == "<Trace, 102 transitions: fit tick tick tick tick tick [90 more] tick tick tick tick"
        " tick end>"
    )


# ---------------------------------------------------------------- the callback


def test_a_run_is_recorded_as_it_is_walked():
    "What a machine records is what a walk says, event by event."
    assert traced() == walk(LIFE, {"again": [True, True]})


@pytest.mark.parametrize("engine", ["table", "transitions"])
def test_every_engine_is_recorded_alike(engine):
    "The trace does not depend on what drives the run, or on whether it is stepped."
    tracing = Tracing()
    machine = Machine(LIFE, tracing, engine)
    machine.run(Position())
    assert tracing.trace == traced()
    assert list(machine.steps(Position())) == list(tracing.trace)


def test_an_event_is_recorded_as_its_arrow():
    "The arrow that takes the event is in the trace."

    class Stop(Callback):
        def on_enter_tick(self, ctx):
            if ticked in ctx.deferred:
                raise StopFit("enough")

    assert [str(t) for t in traced(callbacks=[Stop()])] == [
        "[*] -> fit",
        "fit -> tick",
        "tick -> tick [again]",
        "fit -> end StopFit",
    ]


def test_a_failure_is_recorded():
    "An exception that no arrow takes is a transition from the state that it was raised in to `failed`."
    trace = traced(LIFE.replace("tick", action=explode))
    assert trace.states == ["fit", "tick", FAILED]
    assert trace[-1] == Transition("tick", FAILED)


def test_an_arrow_to_failed_is_recorded_once():
    "An arrow whose effect raises is recorded as itself, as in a walk."
    life = LIFE.add(Transition("tick", FAILED, once_more, explode), first=True)
    trace = traced(life)
    assert str(trace[-1]) == "tick -> failed [once more] / explode"
    assert trace == walk(life, {"once more": True})


def test_an_arrow_to_failed_that_raises_nothing_is_recorded_once():
    "Such an arrow is a mistake, and is in the trace that shows it."
    life = LIFE.add(Transition("tick", FAILED, once_more, tick), first=True)
    tracing = Tracing()
    with pytest.raises(ValueError, match="led to 'failed', but its effect raised no error"):
        Machine(life, tracing).run(Position())
    assert tracing.trace.states == ["fit", "tick", FAILED]


def test_a_new_run_starts_a_new_trace():
    "A machine that serves several runs keeps the last one's trace; a trace that was taken out stays as it was."
    tracing = Tracing()
    machine = Machine(LIFE, tracing)
    machine.run(Position())
    first = tracing.trace
    machine.run(Position())
    assert tracing.trace == first
    assert len(first) == 5
    ring = Tracing(last=2)
    machine = Machine(LIFE, ring)
    machine.run(machine.run(Position()))
    assert ring.trace.dropped == 3


def test_a_run_can_be_traced_while_it_goes_on():
    "The trace is there after each step."
    tracing = Tracing()
    lengths = [len(tracing.trace) for _ in Machine(LIFE, tracing).steps(Position())]
    assert lengths == [1, 2, 3, 4, 5]


def test_the_last_transitions_alone():
    "With `last`, the oldest are dropped and counted, and the numbers stay."
    trace = traced(last=2)
    assert trace.states == ["tick", "end"]
    assert trace.dropped == 3
    assert str(trace).splitlines() == [
        "(3 earlier transitions were not kept)",
        "4  tick -> tick [again]",
        "5  tick -> end",
    ]
    assert traced(LIFE.replace("tick", action=explode), last=1).states == [FAILED]


@pytest.mark.parametrize("last", [0, -1, 1.5, True, "3"], ids=repr)
def test_a_last_that_makes_no_sense(last):
    "How many are kept is a whole number of at least 1."
    with pytest.raises(
        ConfigError,
        match="Tracing: last must be a whole number of at least 1, or None for all, got ",
    ):
        Tracing(last=last)
