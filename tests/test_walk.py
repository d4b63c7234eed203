"""Walking a lifecycle on scripted answers: the sequence of transitions, without a model."""

import itertools
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import scenarios

from statetrain.errors import GuardError, LifecycleError
from statetrain.events import Event, SkipBatch, SkipEpoch, StopFit
from statetrain.guards.base import guard, leaves
from statetrain.guards.clock import TimeLimit
from statetrain.guards.counters import Every
from statetrain.guards.history import EarlyStopping
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, State
from statetrain.lifecycle.transition import Transition
from statetrain.standard.looping import evaluation, prediction
from statetrain.standard.supervised import supervised
from statetrain.testing import assert_trace, walk

# The same examples each time, whatever the load
drawn = settings(derandomize=True, database=None, deadline=None)


def work(ctx):
    raise AssertionError("a walk does no work")


@guard
def a(ctx):
    "a"
    raise AssertionError("a walk asks no guard")


@guard
def b(ctx):
    "b"
    raise AssertionError("a walk asks no guard")


@guard
def done(ctx):
    "done"
    raise AssertionError("a walk asks no guard")


def deciding(guard):
    """One decision again and again: `yes` or `no`, and back, until `done`."""
    return Lifecycle(
        "demo",
        [State("ask", work), State("yes", work), State("no", work), State("end", final=True)],
        [
            Transition("ask", "end", done),
            Transition("ask", "yes", guard),
            Transition("ask", "no"),
            Transition("yes", "ask"),
            Transition("no", "ask"),
        ],
    )


def decisions(guard, answers, times=4):
    """What the guard answered the first few times that it was asked."""
    trace = walk(deciding(guard), {"done": [False] * times + [True], **answers})
    return [state == "yes" for state in trace.states if state in ("yes", "no")]


# ---------------------------------------------------------------- answers


def test_a_nan_loss_skips_backward():
    "A non-finite loss goes from loss to the next batch."
    trace = walk(
        supervised(non_finite="skip"),
        {"more epochs": [True], "a batch was drawn": [True], "loss not finite": [True]},
    )
    assert trace.states[4:10] == ["next_batch", "draw", "batch", "pred", "loss", "next_batch"]
    assert trace.states[-1] == "end"


def test_nobody_answers():
    "A guard that nobody answers for is False, so the standard lifecycles take the shortest way."
    assert walk(supervised()).states == ["fit", "next_epoch", "end"]
    assert walk(evaluation()).states == ["valid", "next_valid_batch", "valid_draw", "record", "end"]
    assert walk(prediction()).states[-1] == "end"


def test_the_trace_knows_its_lifecycle_and_begins_at_the_start():
    "The first transition is the one into the initial state."
    life = supervised()
    trace = walk(life)
    assert trace.lifecycle is life
    assert trace[0] == life.start
    assert list(trace)[1:] == [*life.between("fit", "next_epoch"), life.arrows("next_epoch")[-1]]


def test_answers_are_given_in_order_and_then_false():
    "One answer each time that the guard is asked; when they are used up, False for ever."
    assert decisions(a, {"a": [True, False, True]}, 5) == [True, False, True, False, False]


@pytest.mark.parametrize("answer", [True, False])
def test_one_answer_for_always(answer):
    "A plain True or False never changes."
    assert decisions(a, {"a": answer}) == [answer] * 4


def test_a_function_answers():
    "A function without arguments is called each time."
    numbers = itertools.count()
    assert decisions(a, {"a": lambda: next(numbers) % 2 == 1}) == [False, True, False, True]


@pytest.mark.parametrize("make", [tuple, iter, lambda answers: (answer for answer in answers)])
def test_any_iterable_of_answers(make):
    "Tuples, iterators and generators will do, endless ones too."
    assert decisions(a, {"a": make([True, False, True])}) == [True, False, True, False]
    assert decisions(a, {"a": itertools.cycle([True, False])}) == [True, False, True, False]


def test_the_same_answers_can_be_used_again():
    "A walk does not use up a list that it was given."
    answers = {"more epochs": [True], "a batch was drawn": [True, True]}
    assert walk(supervised(), answers) == walk(supervised(), answers)


def test_arrows_with_the_same_guard_draw_from_the_same_answers():
    "A label's answers are given in the order in which its guards are asked, wherever they stand."
    trace = walk(
        supervised(),
        {"more epochs": [True], "a batch was drawn": [True, False, True], "validation due": True},
    )
    assert_trace(
        trace,
        "fit next_epoch epoch train (next_batch draw batch . . . .) next_batch draw valid"
        " next_valid_batch valid_draw valid_batch ...",
    )


def test_answers_of_one_state():
    "With the state before the label, only the guard of that state is meant; the others keep their own answers."
    drawn_once = {"more epochs": True, "a batch was drawn": [True, False] * 3}
    trace = walk(supervised(), {**drawn_once, "next_epoch: stop now": [False, False, True]})
    assert trace.states.count("epoch") == 2
    assert trace.states.count("draw") == 4
    answers = {"stop now": [False, True], "next_batch: stop now": [False, True]}
    trace = walk(supervised(), {**drawn_once, **answers})
    assert str(trace[-1]).startswith("next_epoch -> end [stop now]")
    assert_trace(
        trace,
        "fit next_epoch epoch train next_batch draw batch . . . . next_batch record next_epoch end",
    )
    assert decisions(a & b, {"ask: a": True, "b": [True, False, True]}) == [
        True,
        False,
        True,
        False,
    ]
    with pytest.raises(
        LifecycleError,
        match="no guard is called 'next_bach: stop now'; did you mean 'next_batch: stop now'",
    ):
        walk(supervised(), {"next_bach: stop now": True})


@drawn
@given(st.lists(st.booleans(), max_size=8), st.lists(st.booleans(), max_size=8))
def test_combinations_are_answered_from_their_parts(xs, ys):
    "`&`, `|` and `~` ask their parts in order up to the one that decides, as in a run; each answer is used once."
    ours, theirs = iter(xs), iter(ys)

    def x():
        return next(ours, False)

    def y():
        return next(theirs, False)

    expected = [(not x() or y()) and not (x() and y()) for _ in range(6)]
    assert decisions((~a | b) & ~(a & b).named("both"), {"a": xs, "b": ys}, 6) == expected


@pytest.mark.parametrize(
    ("combined", "constants", "expected"),
    [
        (a | b, {"a": True}, True),
        (a & b, {"b": False}, False),
        (a & b, {"a": True, "b": True}, True),
        (~a & ~b, {}, True),
        (~(a | b), {"b": True}, False),
        (a.named("x") | b, {"a": True}, True),
    ],
    ids=str,
)
def test_constant_answers_of_parts(combined, constants, expected):
    "Answers that never change combine as any others do."
    assert decisions(combined, constants) == [expected] * 4


def test_a_part_that_decides_for_ever_hides_the_parts_behind_it():
    "What is not asked in a run uses up no answer in a walk."
    answers = iter([True, True])
    assert decisions(a & b, {"a": [True, False, True], "b": answers}, 3) == [True, False, True]
    untouched = iter([True])
    assert decisions(a | b, {"a": True, "b": untouched}) == [True] * 4
    assert next(untouched) is True


def test_a_combination_is_answered_whole_by_its_own_label():
    "An answer for the whole comes before those for its parts."
    assert decisions(a & b, {"a and b": [True], "a": False}) == [True, False, False, False]
    assert decisions((a | b).named("either"), {"either": True}) == [True] * 4
    stop = EarlyStopping("valid_loss", patience=2) | TimeLimit(1)
    trace = walk(
        supervised(stop=stop),
        {"more epochs": True, "valid_loss has not improved for 2 rows": [False, False, True]},
    )
    assert trace.states.count("epoch") == 2


def test_an_unknown_label():
    "A misspelt label is refused with the nearest one of the lifecycle's guards and their parts."
    with pytest.raises(
        LifecycleError,
        match=re.escape("supervised: no guard is called 'more epoch'; did you mean 'more epochs'?"),
    ):
        walk(supervised(), {"more epoch": True})
    with pytest.raises(LifecycleError, match="did you mean 'stop requested'"):
        walk(supervised(), {"stop request": True})


@pytest.mark.parametrize(
    "answers",
    [[1], (True, None), [True, "no"], itertools.cycle([0]), lambda: "yes"],
    ids=["one", "none", "text", "endless", "function"],
)
def test_answers_that_are_no_bool(answers):
    "An answer is exactly True or False, as a guard's is; the label is named."
    with pytest.raises(GuardError, match=r"an answer for \[a\] is True or False, got "):
        decisions(a, {"a": answers})


@pytest.mark.parametrize("answers", ["yes", 1, None])
def test_what_is_no_answer(answers):
    "What is neither an answer nor a list nor a function is refused with what would be right."
    with pytest.raises(
        GuardError,
        match=(
            r"answer \[a\] with True, False, a list of these, or a function without arguments, got "
        ),
    ):
        decisions(a, {"a": answers})


# ---------------------------------------------------------------- events


def names(trace):
    return [str(transition) for transition in trace]


def test_an_event_is_raised_when_its_state_is_entered():
    "One entry for each visit; the arrow that takes the event is in the trace."
    trace = walk(
        supervised(),
        {"more epochs": [True], "a batch was drawn": [True] * 3},
        {"pred": [None, SkipBatch]},
    )
    assert_trace(
        trace,
        "... train next_batch draw batch pred loss backward step next_batch draw batch pred"
        " next_batch draw batch pred loss ...",
    )
    assert names(trace)[15] == "batch -> next_batch SkipBatch / discard the window"


def test_a_scope_raises_before_what_lies_inside_is_entered():
    "An event of a scope that is opened on the way is raised there: the state inside is not entered."
    life = Lifecycle(
        "demo",
        [
            State("fit"),
            State("scope", work, "fit"),
            State("inner", work, "scope"),
            State("end", final=True),
        ],
        [
            Transition("fit", "inner"),
            Transition("inner", "end"),
            Transition("fit", "end", event=StopFit),
        ],
    )
    assert walk(life, events={"scope": [StopFit], "inner": [StopFit]}).states == [
        "fit",
        "inner",
        "end",
    ]
    assert names(walk(life, events={"scope": [StopFit]}))[-1] == "fit -> end StopFit"


def test_the_innermost_scope_takes_an_event():
    "The same event is taken nearer by an inner scope; `SkipEpoch` in validation ends the validation alone."
    answers = {
        "more epochs": [True],
        "validation due": True,
        "a batch was drawn": [True, False, True],
    }
    inside = walk(supervised(), answers, {"valid_pred": [SkipEpoch("enough")]})
    assert_trace(inside, "... valid . valid_draw valid_batch valid_pred record next_epoch end")
    outside = walk(
        supervised(), answers | {"a batch was drawn": [True, True]}, {"step": [SkipEpoch]}
    )
    assert_trace(
        outside,
        "... step valid . valid_draw valid_batch valid_pred valid_loss . valid_draw record"
        " next_epoch end",
    )
    both = walk(supervised(validate=None), {"more epochs": [True]}, {"epoch": [SkipEpoch]})
    assert both.states == ["fit", "next_epoch", "epoch", "next_epoch", "end"]


def test_an_interrupt_is_an_event_too():
    "Any exception that an arrow names can be raised, and a guard on that arrow is asked."
    trace = walk(supervised(), {"more epochs": True}, {"draw": [KeyboardInterrupt]})
    assert names(trace)[-1] == "fit -> end KeyboardInterrupt / record the reason"
    life = deciding(a).add(
        Transition("ask", "end", b, event=StopFit), Transition("ask", "yes", event=StopFit)
    )
    assert walk(life, {"done": [True], "b": False}, {"ask": [StopFit]}).states == [
        "ask",
        "yes",
        "ask",
        "end",
    ]
    assert walk(life, {"b": [True]}, {"ask": [StopFit]}).states == ["ask", "end"]


def test_an_event_that_no_scope_takes():
    "It would fail the run, and a test that scripts it is wrong; the scopes that were searched are listed."

    class Mine(Event):
        pass

    with pytest.raises(
        LifecycleError,
        match=re.escape("supervised: no open scope takes Mine (searched 'next_epoch', 'fit')"),
    ):
        walk(supervised(), events={"next_epoch": [Mine]})


def test_an_error_fails_the_walk():
    "An exception that no arrow takes leads to `failed`."
    trace = walk(
        supervised(),
        {"more epochs": True, "a batch was drawn": True},
        {"loss": [None, ValueError("bad")]},
    )
    assert trace.states[-2:] == ["loss", FAILED]
    assert str(trace[-1]) == "loss -> failed"


def test_an_arrow_to_failed_ends_the_walk():
    "A policy that raises is an arrow to `failed`."
    trace = walk(
        supervised(non_finite="raise"),
        {"more epochs": True, "a batch was drawn": True, "loss not finite": [False, True]},
    )
    assert str(trace[-1]) == "loss -> failed [loss not finite] / raise NonFiniteLoss"


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ({"bacth": [SkipBatch]}, "events: no state 'bacth'; did you mean 'batch'?"),
        (
            {"next_epoch": SkipBatch},
            "events of 'next_epoch' are a list with one for each visit, got ",
        ),
        (
            {"next_epoch": ["SkipBatch"]},
            (
                "events of 'next_epoch': an entry is an exception, a class of one, or None; got"
                " 'SkipBatch'"
            ),
        ),
        ({"next_epoch": [int]}, "an entry is an exception"),
    ],
)
def test_events_that_make_no_sense(events, words):
    "A misspelt state or an entry that is no exception is refused with what would be right."
    with pytest.raises(LifecycleError) as error:
        walk(supervised(), events=events)
    assert words in str(error.value)


# ---------------------------------------------------------------- walks without an end


def test_a_walk_without_an_end_shows_its_cycle():
    "The error shows what the walk went round, once, and which guards stand on the way."
    with pytest.raises(LifecycleError) as error:
        walk(supervised(), {"more epochs": True, "a batch was drawn": True}, limit=1000)
    message = str(error.value)
    assert "supervised: the walk has not ended after 1000 transitions; it goes round " in message
    cycle = message.split("goes round ")[1].split(";")[0].split(" -> ")
    assert cycle[0] == cycle[-1]
    assert sorted(cycle[1:]) == sorted(
        ["next_batch", "draw", "batch", "pred", "loss", "backward", "step"]
    )
    assert "[a batch was drawn]" in message
    assert "limit=" in message


def test_a_cycle_that_is_never_quite_the_same():
    "Without a repetition the error shows the way back to the last state."
    answers = iter(
        [True, False, True, True, False, False, True, False, False, False, True, True, True] * 9
    )
    with pytest.raises(LifecycleError, match=r"it goes round (ask -> )?(yes|no) -> "):
        walk(deciding(a), {"a": answers}, limit=40)


@pytest.mark.parametrize("spare", [0, 1])
def test_the_limit_counts_all_transitions(spare):
    "A walk that ends just at the limit is fine."
    assert len(walk(supervised(), limit=3 + spare)) == 3
    with pytest.raises(LifecycleError, match="has not ended after 2 transitions"):
        walk(supervised(), limit=2)


def test_a_loop_of_events_is_limited_too():
    "A state that raises again whenever it is reopened is no way out of the limit."
    life = supervised().add(Transition("epoch", "epoch", event=StopFit))
    with pytest.raises(LifecycleError, match="it goes round epoch -> epoch"):
        walk(life, {"more epochs": True}, {"epoch": itertools.repeat(StopFit)}, limit=50)


# ---------------------------------------------------------------- the same as a run


@settings(drawn, max_examples=200)
@given(scenarios(), st.data())
def test_a_walk_takes_the_transitions_that_a_run_takes(scenario, data):
    "On a random lifecycle with the same answers and the same exceptions, a machine that is stepped takes what the walk says."
    life, script = scenario.lifecycle, scenario.script
    # The guards' answers, and nothing that goes wrong in a call
    script = type(script)(script.answers)
    machine = type(scenario)(life, (), script)
    report = machine.run(stepped=True)
    trace = walk(
        life, {label: answers for label, answers in script.answers.items() if label in labels(life)}
    )
    assert [f"{taken} in {taken.dest}" for taken in trace if taken.dest != FAILED] == [
        r for r in report.taken if " failed " not in f"{r} "
    ]


def labels(life):
    return {
        part.label
        for arrow in life.transitions
        if arrow.guard is not None
        for part in leaves(arrow.guard)
    }


def test_a_walk_needs_no_torch():
    "The testing kit, the standard lifecycles and a walk load neither torch nor transitions."
    code = (
        "import sys; from statetrain.testing import walk; from statetrain.standard.supervised"
        " import supervised; assert len(walk(supervised())) == 3; print([m for m in ('torch',"
        " 'transitions', 'structlog') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_options_are_seen_in_the_walk():
    "Accumulation goes to the next batch without a step, and an interval inside the epoch validates there."
    answers = {
        "more epochs": [True],
        "a batch was drawn": [True] * 3,
        "accumulating": [True, False],
    }
    assert_trace(
        walk(supervised(accumulate=2, validate=None), answers),
        "... backward next_batch draw batch pred loss backward step ...",
    )
    due = {"more epochs": [True], "a batch was drawn": [True, False], "validation due": [True]}
    assert_trace(
        walk(supervised(validate=Every(1, "steps")), due),
        "... step valid ... record next_epoch end",
    )
