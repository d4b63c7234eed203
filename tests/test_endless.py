"""Properties of runs that never end, properties of arrows and effects, and guards that must be true so often."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

import statetrain as st
from statetrain import Lifecycle, State, Transition
from statetrain.contracts.composing import then
from statetrain.lifecycle.explore import explore
from statetrain.testing import (
    always,
    between,
    check,
    ends,
    eventually,
    followed_by,
    judge,
    never,
    paths,
    precedes,
)

drawn = settings(derandomize=True, database=None, deadline=None)


def work(ctx):
    "work"


def note(ctx):
    "note it"


@st.guard
def again(ctx):
    "again"
    return True


@st.guard
def other(ctx):
    "other"
    return True


class Retry(st.events.Event):
    """Raised by the work of `b`."""


def loop(*more, event=None):
    """Between a and b for as long as it is `again`; then the end."""
    return Lifecycle(
        "loop",
        [State("a", work), State("b", work), State("never", work), State("z", final=True)],
        [
            Transition("a", "b", again),
            Transition("a", "never", other),
            Transition("a", "z"),
            Transition("never", "z"),
            *more,
            Transition("b", "a"),
        ],
    )


# ---------------------------------------------------------------- runs that never end


def test_a_fair_run_comes_out_of_a_loop():
    """A guard that is asked for ever is false one day: the loop is left, so `z` is reached; without the fairness it is not."""
    quiet = {"events": False, "failures": False}
    assert judge(loop(), eventually("z"), **quiet).proof
    assert "on every fair run (proved by the graph)" in str(judge(loop(), eventually("z"), **quiet))
    verdict = judge(loop(), eventually("z", fair=False), **quiet)
    assert not verdict.holds
    assert verdict.trace.states[verdict.loop - 1 :] == ["a", "b", "a"]
    assert "loops from 'a' forever" in str(verdict)
    assert not judge(loop(), ends(fair=False), **quiet).holds


def test_a_run_that_never_ends_satisfies_nothing_by_accident():
    """An action that raises its event for ever keeps even a fair run from its end: nothing is assumed of actions."""
    stuck = loop(Transition("b", "b", effect=note, event=Retry))
    verdict = judge(stuck, eventually("z"), failures=False)
    assert not verdict.holds
    assert [t.event for t in verdict.trace.transitions[verdict.loop :]] == [Retry]
    assert judge(stuck, eventually("z"), events=False, failures=False).holds
    # What leaves by another way does not help: failing is no guard's answer.
    assert not judge(stuck, eventually("z", "failed")).holds
    assert not judge(stuck, ends()).holds
    check(stuck, eventually("z", "b", "failed", "never"))


def test_bounds_end_what_fairness_does_not():
    """Within bounds that leave no endless run, the stronger property is true as well; the verdict names them."""
    verdict = judge(loop(), eventually("z", fair=False), {"again": 3}, events=False, failures=False)
    assert verdict.holds
    assert not verdict.proof
    assert str(verdict).startswith("holds on every run with at most 3 x [again]")


def test_the_standard_lifecycles_end():
    """Whatever they raise, fair runs of the standard lifecycles end, and each batch is followed by the next decision."""
    for life in (
        st.supervised(non_finite="skip", accumulate=2, validate=st.Every(2, "steps")),
        st.supervised(optimizers=2),
        st.evaluation(),
        st.prediction(),
    ):
        assert all(verdict.proof for verdict in check(life, ends(), eventually("end", "failed")))
    life = st.supervised()
    check(life, followed_by("batch", "next_batch", "record", "next_epoch", "end", "failed"))
    assert not judge(life, ends(fair=False)).holds


def test_followed_by():
    """Each time, not only the first, and before the end of the run; the shortest run without it is shown."""
    life = st.supervised()
    quiet = {"events": False, "failures": False}
    check(life, followed_by("backward", "step", "failed"), **quiet)
    verdict = judge(life, followed_by("record", "epoch"), **quiet)
    assert not verdict.holds
    assert verdict.trace.states[-2:] == ["next_epoch", "end"]
    assert not judge(life, followed_by("backward", "step"), events=False).holds  # it may fail


# ---------------------------------------------------------------- an independent judge


TABLES = hs.lists(
    hs.tuples(hs.integers(0, 3), hs.integers(0, 4), hs.booleans()), min_size=1, max_size=7
)


@drawn
@given(TABLES)
def test_endless_runs_against_end_components(drawn_arrows):
    """On random little graphs, "fair runs end" is true if and only if no set of states is closed under guards and rounds."""
    asked = {
        i: sorted({d for s, d, event in drawn_arrows if s == i and not event}) for i in range(4)
    }
    raised = {i: sorted({d for s, d, event in drawn_arrows if s == i and event}) for i in range(4)}
    asked = {i: [*(d for d in asked[i] if d != 4), 4] for i in range(4)}
    guards = [st.guard(lambda ctx: True).named(f"g{i}") for i in range(5)]
    names = ["s0", "s1", "s2", "s3", "z"]
    arrows = [
        Transition(names[i], names[d], guards[d] if d != 4 else None, note)
        for i in range(4)
        for d in asked[i]
    ]
    events = {d: type(f"Raised{d}", (st.events.Event,), {}) for d in range(5)}
    arrows += [
        Transition(names[i], names[d], effect=note, event=events[d])
        for i in range(4)
        for d in raised[i]
    ]
    states = [*(State(name, work) for name in names[:4]), State("z", final=True)]
    try:
        life = Lifecycle("drawn", states, arrows)
    except st.LifecycleError:
        return  # a state that nothing leads to
    reached = {0}
    for _ in range(4):
        reached |= {d for i in reached if i != 4 for d in (*asked[i], *raised[i])}
    among = [i for i in reached if i != 4]
    closed = any(
        all(set(asked[i]) <= set(group) or set(raised[i]) & set(group) for i in group)
        for size in range(1, 5)
        for group in itertools.combinations(among, size)
    )
    assert judge(life, ends(), failures=False).holds is not closed


# ---------------------------------------------------------------- arrows, guards, events, effects


def test_properties_name_arrows_guards_events_and_effects():
    """What the table prints can be named, in order: the arrow and its effect come before what is entered."""
    life = st.supervised(non_finite="skip", optimizers=1, accumulate=2)
    check(
        life,
        precedes("/ count the batch", "batch"),
        between("draw -> batch", "draw -> batch", "batch"),
        precedes("draw -> batch", "step"),
        followed_by("[loss not finite]", "next_batch", "failed"),
        between("next_batch: stop now", "step", "next_batch -> draw"),
        never("SkipBatch", after="end"),
        always(
            "only events leave train", lambda t: t.source != "train" or bool(t.event or not t.guard)
        ),
    )
    verdict = judge(life, never("loss: loss not finite"), events=False, failures=False)
    assert str(verdict.trace[-1]).startswith("loss -> next_batch [loss not finite]")
    verdict = judge(life, never("SkipEpoch"), failures=False)
    assert verdict.trace[-1].event is st.SkipEpoch


def test_parts_of_a_composed_effect_have_names():
    """An effect made with `then` is named as a whole and by its parts."""
    life = Lifecycle(
        "composed",
        [State("a", work), State("z", final=True)],
        [Transition("a", "z", effect=then(work, note))],
    )
    for name in ("/ work, note it", "/ note it", "/ work", "a -> z"):
        assert not judge(life, never(name), failures=False).holds


def test_misspelt_moments_are_errors():
    """What a property names must be in the table, and the nearest name is offered."""
    for wrong, right in (
        ("valid_los -> next_valid_batch", "valid_loss -> next_valid_batch"),
        ("/ count the batches", "/ count the batch"),
        ("next_batch: stop", "next_batch: stop now"),
        ("SkipBatches", "SkipBatch"),
    ):
        with pytest.raises(st.LifecycleError, match=f"names '{wrong}'.*did you mean '{right}'"):
            judge(st.supervised(), never(wrong))


def test_check_hides_its_own_frames():
    """pytest shows the line of the test."""
    with pytest.raises(AssertionError) as caught:
        check(loop(), never("b"))
    frames = [entry for entry in caught.traceback if not entry.ishidden(caught)]
    assert [frame.path.name for frame in frames] == ["test_endless.py"]


# ---------------------------------------------------------------- lower bounds


def test_a_guard_can_have_to_be_true():
    """With (least, most) a guard is true until it was so often, each time its scope is opened anew."""
    life = st.supervised()
    quiet = {"events": False, "failures": False}
    batches = {"a batch was drawn": (1, 2)}
    assert not judge(life, precedes("step", "record"), {"a batch was drawn": 2}, **quiet).holds
    # Still not: the guard is shared with the validation, and a stop may come before the first batch
    verdict = judge(life, precedes("step", "record"), {**batches, "stop now": 0}, **quiet)
    assert verdict.holds
    assert "1 to 2 x [a batch was drawn]" in str(verdict)
    assert judge(
        life, precedes("step", "end"), {**batches, "more epochs": (1, None), "stop now": 0}, **quiet
    ).holds
    found = explore(life, {**batches, "more epochs": (2, 2), "stop now": 0}, **quiet)
    assert {here.counts[1] for here in found.reached if here.state == "end"} == {2}
    assert "1 <= [a batch was drawn] <= 2" in repr(found)


def test_generated_paths_respect_lower_bounds():
    """Paths within lower bounds have as many epochs as they ask for."""
    life = st.supervised()
    least = {"more epochs": (2, 2), "stop now": 0}
    with pytest.raises(st.LifecycleError, match="no way within the bounds covers"):
        paths(life, bounds=least)
    found = paths(life, "states", {"more epochs": (2, 2), "stop now": 0}, events=False)
    assert {path.states.count("epoch") for path in found if path.states[-1] == "end"} == {2}
    free = paths(life, "states", {"stop now": 0}, events=False)
    assert {path.states.count("epoch") for path in free if path.states[-1] == "end"} == {0, 1}


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        ((1, 2, 3), r"are a number, or two: \(least, most\)"),
        ((3, 2), "upper bound of .more epochs. must be a whole number of at least 3, got 2"),
        ((-1, 2), "lower bound of .more epochs. must be a whole number of at least 0, got -1"),
        (1.5, "bound of .more epochs. must be a whole number"),
    ],
)
def test_bounds_that_are_none(bound, words):
    """A bound is a whole number, or two of which the second is not smaller."""
    with pytest.raises(st.LifecycleError, match=words):
        explore(st.supervised(), {"more epochs": bound})
