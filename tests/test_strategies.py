"""The strategies that the testing kit hands out: what they draw is sound, and covers what there is."""

import subprocess
import sys

from hypothesis import find, given, settings

import statetrain as st
from statetrain.testing import judge, never
from statetrain.testing.strategies import lifecycles, runs

LIFE = st.supervised(non_finite="skip", accumulate=2)
BOUNDS = {"more epochs": 2, "a batch was drawn": 3}


@given(runs(LIFE, BOUNDS))
@settings(max_examples=60, deadline=None)
def test_a_run_is_one_that_the_lifecycle_can_make(trace):
    """It begins at the start, each arrow leaves a state that is open, it ends at an end, and bounds hold."""
    assert trace[0] == LIFE.start
    active = LIFE.initial
    for taken in trace.transitions[1:]:
        assert taken.source in LIFE.path(active)
        assert taken in LIFE.transitions or taken.dest == "failed"
        active = taken.dest
    assert active == "failed" or LIFE.state(active).final
    assert trace.states.count("epoch") <= 2


def test_every_arrow_is_drawn_sooner_or_later():
    """No arrow of the table is left out, and each state may fail."""
    taken = set()

    @given(runs(LIFE))
    @settings(max_examples=400, deadline=None, database=None, derandomize=True)
    def collect(trace):
        taken.update(trace)

    collect()
    assert taken >= set(LIFE.transitions)
    assert len({t.source for t in taken if t.dest == "failed"}) > 15


def test_runs_shrink_to_short_ones():
    """What is found is cut down to what is needed: one epoch, one batch, no event."""
    found = find(
        runs(LIFE),
        lambda trace: "step" in trace.states,
        settings=settings(max_examples=2000, database=None),
    )
    assert found.states.count("epoch") == 1
    assert found.states.count("step") == 1
    assert all(taken.event is None for taken in found)


def test_events_and_failures_can_be_left_out():
    """Then no run fails and none takes an event's arrow."""

    @given(runs(LIFE, events=False, failures=False))
    @settings(max_examples=40, deadline=None, database=None)
    def quiet(trace):
        assert trace.states[-1] == "end"
        assert all(taken.event is None for taken in trace)

    quiet()


@given(lifecycles())
@settings(max_examples=30, deadline=None)
def test_lifecycles_are_explored_and_walked(life):
    """Whatever table is drawn can be explored."""
    assert not judge(life, never(life.initial)).holds


def test_without_hypothesis_the_extra_is_named():
    """The error says what to install."""
    code = (
        "import sys; sys.modules['hypothesis'] = None; import statetrain.testing; import"
        " statetrain.testing.strategies"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'statetrain[testing]'" in done.stderr
