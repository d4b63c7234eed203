"""Exploring every way of a lifecycle, and properties that must hold on all of them."""

import pytest

import statetrain as st
from statetrain import Lifecycle, State, Transition
from statetrain.lifecycle.explore import explore
from statetrain.testing import (
    always,
    at_most,
    balanced,
    between,
    check,
    counters_agree,
    ends,
    eventually,
    judge,
    never,
    precedes,
)

RICH = st.supervised(
    accumulate=2, validate=st.Every(2, "steps"), non_finite="skip", stop=st.EarlyStopping()
)
BOUNDS = {"more epochs": 3, "a batch was drawn": 3}


def test_every_arrow_and_state_of_the_standard_lifecycle_is_reached():
    """Within three epochs of three batches, with events and failures everywhere, all states and arrows are visited."""
    found = explore(RICH, BOUNDS)
    assert found.transitions == set(RICH.transitions)
    assert {here.state for here in found.reached} == {*RICH.names, "failed"}


def test_bounds_hold():
    """No explored way has more epochs than its bound, and the count of batches begins anew with each training."""
    life = st.supervised(validate=None)
    found = explore(life, {"more epochs": 1, "a batch was drawn": 2}, events=False, failures=False)
    batches = {here.counts[1] for here in found.reached if here.state == "batch"}
    assert batches == {1, 2}
    assert all(here.counts[0] <= 1 for here in found.reached)
    assert (
        max(
            path.count("batch")
            for path in ([t.dest for t in found.shortest(here)] for here in found.reached)
        )
        == 2
    )


def test_the_shortest_way_is_shortest():
    """The way to a configuration begins at the start and takes no detour."""
    life = st.supervised(validate=None)
    found = explore(life, events=False, failures=False)
    step = next(here for here in found.reached if here.state == "step")
    assert [t.dest for t in found.shortest(step)] == [
        "fit",
        "next_epoch",
        "epoch",
        "train",
        "next_batch",
        "draw",
        "batch",
        "pred",
        "loss",
        "backward",
        "step",
    ]


def test_the_standard_lifecycle_keeps_its_promises():
    """On every run: backward before each step, exits for all enters, an end, no step after a failure, no more steps than batches."""
    verdicts = check(
        RICH,
        precedes("backward", "step"),
        between("step", "step", "backward"),
        never("step", after="failed"),
        eventually("end", "failed"),
        at_most("step", "batch"),
        balanced(),
        ends(),
    )
    assert all(verdict.proof for verdict in verdicts)
    assert "proved by the graph" in str(verdicts[0])


def test_a_broken_property_shows_the_shortest_run():
    """The error names the property, and the shortest run that breaks it."""
    with pytest.raises(
        AssertionError, match=r"(?s)broken: never record.*the shortest run that breaks it"
    ) as caught:
        check(RICH, never("record"), events=False, failures=False)
    shown = [
        line.split(" -> ")[1].split()[0]
        for line in str(caught.value).splitlines()
        if " -> " in line
    ]
    assert shown == ["fit", "next_epoch", "epoch", "train", "next_batch", "record"]


def test_what_the_graph_cannot_decide_is_decided_within_bounds():
    """A property that only holds because a guard holds so often is said to hold within these bounds, not proved."""
    life = st.supervised(validate=None)
    once = never("epoch", after="record")
    assert not judge(life, once).holds
    verdict = judge(life, once, {"more epochs": 1})
    assert verdict.holds
    assert not verdict.proof
    assert "at most 1 x [more epochs]" in str(verdict)


def test_conditions_on_arrows():
    """`always` looks at every arrow taken."""
    check(
        RICH,
        always(
            "no arrow leads from loss to step", lambda t: (t.source, t.dest) != ("loss", "step")
        ),
    )
    with pytest.raises(AssertionError, match="no arrow leads from loss to backward"):
        check(
            RICH,
            always(
                "no arrow leads from loss to backward",
                lambda t: (t.source, t.dest) != ("loss", "backward"),
            ),
        )


def test_misspelt_names_are_errors():
    """A state that a property names, or a guard that a bound names, must be there."""
    with pytest.raises(st.LifecycleError, match=r"which is not a state.*; did you mean 'backward'"):
        check(RICH, precedes("backwards", "step"))
    with pytest.raises(
        st.LifecycleError, match="no guard is called 'more epoch'; did you mean 'more epochs'"
    ):
        explore(RICH, {"more epoch": 3})
    with pytest.raises(st.LifecycleError, match="more than 5 configurations"):
        explore(RICH, BOUNDS, limit=5)


def test_an_inner_event_hides_an_outer_one():
    """An event that an inner scope takes is not explored as taken by an outer one, unless the inner arrow's guard may be false."""

    def work(ctx):
        "work"

    def life(guard):
        return Lifecycle(
            "nested",
            [State("a", work), State("b", work, "a"), State("x", work), State("z", final=True)],
            [
                Transition("a", "b"),
                Transition("b", "z"),
                Transition("b", "x", guard, event=st.StopFit),
                Transition("a", "z", event=st.StopFit),
                Transition("x", "z"),
            ],
        )

    outer = Transition("a", "z", event=st.StopFit)

    def out_of_b(guard):
        found = explore(life(guard))
        return {
            s.transition
            for here in found.reached
            if here.state == "b"
            for s in found.ways.out_of(here)
        }

    assert outer not in out_of_b(None)
    assert outer in out_of_b(st.guard(lambda ctx: True))


def test_a_broken_property_is_drawn(tmp_path):
    """The shortest run that breaks it stands out in the picture, with how often it took each arrow; what holds has no such picture."""
    life = st.supervised(non_finite="skip")
    broken = judge(life, never("record"), events=False, failures=False)
    run = {"trace": broken.trace, "marked": broken.trace.transitions}
    assert broken.svg() == life.svg(**run, zeros=False)
    assert broken.svg() != life.svg(counts=broken.trace.counts())
    assert "classDef here" in broken.mermaid()
    broken.draw(tmp_path / "broken.svg", theme="dark")
    assert (tmp_path / "broken.svg").read_text() == broken.svg(theme="dark")
    with pytest.raises(
        st.LifecycleError,
        match="'never failed after record' holds, so there is no run that breaks it",
    ):
        judge(life, never("failed", after="record"), failures=False).draw(tmp_path / "none.svg")


def test_an_error_that_no_arrow_takes_is_drawn():
    """The picture then has an arrow for it."""
    verdict = judge(st.supervised(), eventually("end"), events=False)
    assert verdict.trace.states[-1] == "failed"
    assert "an error that no arrow takes" in verdict.svg()


@pytest.mark.parametrize(
    "life",
    [
        RICH,
        st.supervised(optimizers=2),
        st.supervised(seeded=True),
        st.evaluation(),
        st.prediction(),
    ],
    ids=lambda life: life.name,
)
def test_counters_agree(life):
    """In the standard lifecycles everything that is entered is counted once, proved by the graph."""
    (verdict,) = check(life, counters_agree())
    assert verdict.proof


def test_counters_that_do_not_agree_are_found():
    """An arrow that enters a batch without counting it, or counts one without entering it."""
    life = st.supervised()
    arrow = life.between("draw", "batch")[0]
    uncounted = life.alter(arrow, effect=None)
    verdict = judge(uncounted, counters_agree())
    assert not verdict.holds
    assert verdict.trace.states[-1] == "batch"
    counted_elsewhere = life.alter(
        life.between("record", "next_epoch")[0],
        effect=life.between("next_epoch", "epoch")[0].effect,
    )
    assert judge(counted_elsewhere, counters_agree()).trace.states[-1] == "next_epoch"
