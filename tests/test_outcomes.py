"""Outcomes: what the final state, the last arrow and the requests say of how a run ended."""

from __future__ import annotations

import json

import attrs
import pytest
from attrs import define

import statetrain as st
from statetrain.trace import Trace, Tracing

S, T = st.State, st.Transition


@attrs.frozen
class GaveUp(st.Outcome):
    """There is no answer."""

    reason: str = ""


@attrs.frozen
class Won(st.Outcome):
    """The game is won."""

    ok = True


@define(eq=False)
class Calls(st.Position):
    answers: str = ""
    epoch: int = 0


def call(ctx):
    "call"
    answer, ctx.answers = ctx.answers[0], ctx.answers[1:]
    ctx.epoch += 1
    if answer == "x":
        raise ConnectionError("busy")
    if answer == "s":
        ctx.request_stop("enough")
    if answer == "f":
        raise st.StopFit("at once")
    if answer == "c":
        raise KeyboardInterrupt


@st.guard(reads={"answers"})
def more(ctx) -> bool:
    "more to say"
    return bool(ctx.answers)


def life(**gave_up):
    return st.Lifecycle(
        "calls",
        [
            S("call", call),
            S("head", anchor=True),
            S("end", final=True),
            S("gave_up", final=True, **gave_up),
        ],
        [
            T("call", "head"),
            T("head", "end", st.stop_requested),
            T("head", "call", more),
            T("head", "end"),
            T("call", "gave_up", event=ConnectionError),
            T("call", "end", event=st.StopFit),
            T("call", "end", event=KeyboardInterrupt),
        ],
    )


@pytest.mark.parametrize(
    ("answers", "outcome", "ok"),
    [
        ("..", st.Completed(2), True),
        (".x", st.Ended(2, "busy", "gave_up"), False),
        ("s.", st.Stopped(1, "enough"), True),
        ("f.", st.Stopped(1, "at once"), True),
        ("c.", st.Interrupted(1, "KeyboardInterrupt"), False),
    ],
)
@pytest.mark.parametrize("engine", ["table", "transitions"])
def test_a_run_that_gave_up_is_not_completed(answers, outcome, ok, engine):
    "Without a word in the table: final states by their names, requests and events by what they are."
    ctx = st.Machine(life(), engine=engine).run(Calls(answers))
    assert ctx.outcome == outcome
    assert ctx.outcome.ok is ok


@pytest.mark.parametrize(
    ("kind", "outcome", "ok"), [(GaveUp, GaveUp(1, "busy"), False), (Won, Won(1), True)]
)
def test_an_outcome_of_your_own(kind, outcome, ok):
    "The final state says it; it is made with the epoch, and with the reason if it has one."
    ctx = st.Machine(life(outcome=kind)).run(Calls("x"))
    assert ctx.outcome == outcome
    assert ctx.outcome.ok is ok
    assert f"final, ends as {kind.__name__}" in str(life(outcome=kind))


def test_it_is_part_of_the_table():
    "It is written down by name, compared, and in the fingerprint."
    own = life(outcome=GaveUp)
    names = {f"{thing.__module__}:{thing.__qualname__}": thing for thing in (GaveUp, call)}
    names[f"{more.function.__module__}:more"] = more
    text = json.dumps(own.to_dict())
    assert st.Lifecycle.from_dict(json.loads(text), registry=names) == own
    assert own.fingerprint != life().fingerprint
    assert any("outcome was None, is" in line for line in st.diff(life(), own))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (S("end", final=True, outcome="gave up"), r"is a class of outcomes, got 'gave up'"),
        (S("work", outcome=GaveUp), r"'work' has an outcome and is not final"),
    ],
)
def test_what_cannot_be_an_outcome(state, words):
    "It is refused when the table is made."
    states = [state, *(s for s in (S("work"), S("end", final=True)) if s.name != state.name)]
    with pytest.raises(st.LifecycleError, match=words):
        st.Lifecycle("life", states, [T("work", "end")], "work")


def test_it_is_read_back_from_a_trace(tmp_path):
    "A file never makes a class of a name: the outcome keeps its name and its reason."
    st.Machine(life(outcome=GaveUp), [Tracing(file=tmp_path / "trace")]).run(Calls("x"))
    assert Trace.load(tmp_path / "trace").outcome == st.Ended(1, "busy", "GaveUp")


def test_progress_says_it(capsys):
    "The last line names the outcome and its reason."
    own = life(outcome=GaveUp).replace("call", role="fit")
    st.Machine(own, [st.Progress("plain")]).run(Calls("x"))
    assert capsys.readouterr().out.startswith("calls gaveup in epoch 1: busy (1 epoch, ")
