"""Contexts of your own: what guards and callbacks declare is looked for in them, before anything runs."""

from __future__ import annotations

import pytest
from attrs import Factory, define

import statetrain as st

S, T = st.State, st.Transition


@define(eq=False)
class Rounds(st.Position):
    round: int = 0
    epoch: int = 0
    history: st.History = Factory(st.History)
    first_row: int = 0


def play(ctx):
    "play a round"
    ctx.round += 1
    ctx.epoch += 1
    ctx.history.rows.append({"loss": 1.0})


def rounds(guard):
    return st.Lifecycle(
        "rounds",
        [S("play", play), S("end", final=True)],
        [T("play", "end", guard), T("play", "play")],
    )


LIFE = rounds(st.guard(lambda ctx: ctx.round == 3, reads={"round"}))


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("reads", [{"round"}, {"on_exit_play": {"round"}}], ids=["all", "by hook"])
def test_a_callback_may_read_the_fields_of_a_context_of_ones_own(reads, debug):
    "For all its hooks or by hook; in debug mode too."
    seen = []

    class Look(st.Callback):
        def on_exit_play(self, ctx):
            seen.append(ctx.round)

    Look.reads = reads
    st.Machine(LIFE, [Look()], debug=debug).run(Rounds())
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    ("guard", "callbacks", "words"),
    [
        (
            st.MinEpochs(3),
            [st.on("exit_play", reads={"rond"})(print)],
            r"has no 'rond'; did you mean 'round'\?; give Rounds a field",
        ),
        (st.Every(2, "steps"), [], r"\[every 2 steps\].*Rounds has no 'step'"),
        (st.MaxSteps(1), [], r"\[1 steps made\].*Rounds has no 'fit_steps'"),
        (st.MinEpochs(3), [st.Watch("exit_play", n="round")], "Callback 'Watch'.*Rounds has no"),
    ],
)
def test_what_a_context_has_not_is_known_before_anything_runs(guard, callbacks, words):
    "The error names who declares it, the field, and the remedy."
    ctx = Rounds()
    with pytest.raises(st.ContractError, match=words):
        st.Machine(rounds(guard), callbacks).run(ctx)
    assert ctx.round == 0


@pytest.mark.parametrize(
    ("guard", "made"),
    [
        (st.MinEpochs(4), 4),
        (st.Every(3, "epochs"), 3),
        (st.EarlyStopping("loss", 2), 3),
        (st.NumberLimit("loss", 5), 5),
        (st.Warmup(st.UP("loss", 1) | st.NumberLimit("loss", 2), 2), 4),
    ],
    ids=str,
)
def test_guards_work_on_a_context_that_has_what_they_read(guard, made):
    "Counters and a history of one's own."
    assert st.Machine(rounds(guard)).run(Rounds()).round == made


def test_a_context_is_shown_by_its_own_fields():
    "What `machine.run` returns fits a line: the fields of one's own, and nothing of the machine."
    shown = repr(st.Machine(LIFE).run(Rounds()))
    assert shown.startswith("Rounds(round=3, epoch=3, history=")
    assert "machine" not in shown


def test_a_part_of_a_guard_that_reads_what_is_not_there_is_refused():
    """Though another part declares nothing: before the run, not when it comes to be evaluated."""

    class Rounds(st.Position):
        round = 0

    late = st.guard(lambda ctx: ctx.round > 3).named("late")
    life = st.Lifecycle(
        "rounds",
        [st.State("work", lambda ctx: None), st.State("end", final=True)],
        [st.Transition("work", "end", late & st.Every(2, "steps")), st.Transition("work", "end")],
    )
    with pytest.raises(st.ContractError, match="'step'"):
        st.Machine(life).run(Rounds())
