"""What several ranks agree on: computed from contracts, proved on copies of the table, tested with real machines."""

from __future__ import annotations

import math

import attrs
import pytest
from attrs import define
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as hy

import statetrain as st
from statetrain.context.position import Position
from statetrain.contracts.declaring import access
from statetrain.contracts.owning import how_to_agree, own_fields
from statetrain.errors import ConfigError, ContractError, GuardError, LifecycleError
from statetrain.guards.base import leaves
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.standard.fusing import fuse
from statetrain.standard.several import meetings_of, several
from statetrain.testing import RanksApart, check, same_route, simulate_ranks, walk_ranks

EVERYTHING = {
    "stop": st.EarlyStopping("valid_loss", 3) | st.TimeLimit(5) | st.Deadline(1e12),
    "non_finite": "skip",
    "check_gradients": True,
    "validate": st.Every(100, "steps"),
    "max_steps": 1000,
}


def hows(life: Lifecycle, *, divided: bool) -> dict[str, str | None]:
    """How ranks agree on each guard of a table."""
    own = own_fields(life, divided=divided)
    guards = [arrow.guard for arrow in life.transitions if arrow.guard is not None]
    return {leaf.label: how_to_agree(leaf, own) for guard in guards for leaf in leaves(guard)}


def test_what_has_to_be_agreed_follows_from_what_guards_read():
    """With divided data, only what one rank alone can know needs agreement; counters, history and the clock do not."""
    assert hows(st.supervised(**EVERYTHING), divided=True) == {
        "stop requested": "any",
        "deadline": "first",
        "loss not finite": "any",
        "gradients not finite": None,
        "after 5 minutes": None,
        "1000 steps made": None,
        "batches left": None,
        "more epochs": None,
        "epochs unfinished": None,
        "not yet": None,
        "a batch was drawn": None,
        "every 100 steps": None,
        "train data left": None,
        "valid_loss has not improved for 3 rows": None,
    }


def test_data_of_ones_own_has_its_end_agreed_on():
    """Where each rank has data of its own, whether there was a batch and whether some is left are agreed on as well."""
    found = hows(st.supervised(**EVERYTHING), divided=False)
    assert (found["a batch was drawn"], found["train data left"]) == ("all", "all")


def test_a_guard_that_reads_an_own_field_has_to_say_how_ranks_agree():
    """The error names the field and the part of the table that writes it."""

    @st.guard(reads={"loss_value"}, prompt=True)
    def high(ctx: st.Context) -> bool:
        "the loss is high"
        return ctx.loss_value > 9

    with pytest.raises(ContractError, match=r"\[the loss is high\] reads 'loss_value'.*'loss'"):
        several(st.supervised(stop=high))


def test_a_guard_can_say_how_ranks_agree():
    """What `agree=` says holds; a word that is none is refused."""

    @st.guard(reads={"loss_value"}, prompt=True, agree="all")
    def high(ctx: st.Context) -> bool:
        "the loss is high"
        return ctx.loss_value > 9

    assert "[stop now ⟵ any rank, all ranks]" in str(several(st.supervised(stop=high)))
    with pytest.raises(GuardError, match="agree must be one of"):
        st.guard(reads={"epoch"}, agree="some")(lambda ctx: True)


def test_rank_0_answers_for_a_guard_that_says_nothing():
    """A plain function may read anything, so the ranks take rank 0's answer."""

    def odd(ctx: st.Context) -> bool:
        "odd"
        return False

    assert hows(st.supervised(stop=st.guard(odd)), divided=True)["odd"] == "first"


def test_own_spreads_through_what_parts_read_and_write():
    """In a context of one's own, a field that is written by who reads an own one is own too, through any number of parts."""

    @define(eq=False)
    class Mine(Position):
        seen: int = 0
        doubled: int = 0
        counted: int = 0

    @access(reads={"stop"}, writes={"seen"})
    def see(ctx: Mine) -> None: ...

    @access(reads={"seen"}, writes={"doubled"})
    def double(ctx: Mine) -> None: ...

    @access(reads={"counted"}, writes={"counted"})
    def count(ctx: Mine) -> None: ...

    life = Lifecycle(
        "mine",
        [State("a", see), State("b", double), State("c", count), State("end", final=True)],
        [Transition("a", "b"), Transition("b", "c"), Transition("c", "end")],
    )
    own = own_fields(life, Mine)
    assert own["doubled"] == "the action of 'b'"
    assert "counted" not in own


def test_the_fields_of_data_follow_from_the_first():
    """That `exhausted` and `last_batch` are own where `drawn` is, the closure finds without being told."""
    life = st.supervised(accumulate=2)
    found = own_fields(life, divided=False)
    assert {"drawn", "exhausted", "last_batch"} <= found.keys()


def test_a_table_for_several_ranks_is_the_same_training():
    """It has the fingerprint of the one for one process, so any number of ranks continues a run; made twice it is itself."""
    life = st.supervised(**EVERYTHING)
    table = several(life)
    assert table.fingerprint == life.fingerprint
    assert several(table) is table
    assert dict(meetings_of(table))["record"].startswith("agree")
    assert ("record", "sum up what was counted") in meetings_of(table)


def test_the_difference_says_what_is_agreed_on():
    """`diff` with the table of one process names the guards that ranks agree on, and where they meet."""
    words = st.diff(st.supervised(validate=None), several(st.supervised(validate=None)))
    assert any("is [stop now \u27f5 any rank]" in word for word in words)
    assert "state 'backward': meets was nothing, is reduce the gradients" in words


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"closure": True}, "LBFGS"),
        ({"finite_check": "late"}, "finite_check='late'"),
        ({"non_finite": "ignore", "edits": [fuse]}, "fused"),
    ],
)
def test_what_ranks_cannot_share_is_refused_by_name(options, words):
    """Options that are not for several ranks are an error when the table is made, not a hang."""
    with pytest.raises(ConfigError, match=words):
        several(st.supervised(**options))


# ---------------------------------------------------------------- the proof

TABLES = {
    "plain": {},
    "skip": {"non_finite": "skip"},
    "everything": EVERYTHING,
    "accumulate": {"accumulate": 4, "non_finite": "stop", "validate": st.Every(1, "epochs")},
    "buffers": {"buffers": True, "seeded": True},
    "fp16": {"precision": "fp16"},
}


def test_windows_over_data_of_ones_own_are_proved():
    """Whichever rank comes to its last batch first, all take the same way."""
    check(several(st.supervised(accumulate=3), divided=False), same_route(), ranks=3)


def test_phases_are_proved_too():
    """Each phase of a table decides behind its own gradients."""
    phase = st.supervised(validate=None, non_finite="skip")
    life = phase.prefixed("warm_").then(phase.prefixed("main_"))
    assert check(life, same_route(), ranks=3)[0].holds
    assert {name for name, _ in meetings_of(several(life))} >= {"warm_backward", "main_backward"}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_that_agree_never_wait_for_one_that_does_not_come(name, ranks):
    """Whatever each rank would answer alone, all ranks meet: proved on all configurations."""
    (verdict,) = check(st.supervised(**TABLES[name]), same_route(), ranks=ranks)
    assert verdict.holds
    assert verdict.proof


def test_ranks_that_decide_for_themselves_hang():
    """Without agreement there is a way on which one rank ends and the other waits; the shortest is shown."""
    table = several(st.supervised())
    alone = attrs.evolve(table, transitions=[_unagreed(arrow) for arrow in table.transitions])
    with pytest.raises(AssertionError, match=r"has ended in 'end'; rank \d waits in"):
        check(alone, same_route(agreed=False))


def _unagreed(arrow: Transition) -> Transition:
    """An arrow whose guard each rank answers for itself."""

    def own(guard):
        if hasattr(guard, "leaf"):
            return guard.leaf
        if hasattr(guard, "guards"):
            return attrs.evolve(guard, guards=tuple(map(own, guard.guards)))
        return attrs.evolve(guard, guard=own(guard.guard)) if hasattr(guard, "guard") else guard

    return arrow if arrow.guard is None else attrs.evolve(arrow, guard=own(arrow.guard))


def test_a_meeting_of_ones_own_is_part_of_the_proof():
    """A state that meets behind a guard that each rank answers for itself is a hang, and the proof finds it."""

    @st.guard(reads={"loss_value"}, agree="same")
    def lucky(ctx: st.Context) -> bool:
        "lucky"
        return ctx.loss_value < 1

    def reduce(ctx: st.Context) -> None:
        "reduce"

    life = several(st.supervised(validate=None))
    life = life.insert(State("extra", reduce, meets="reduce"), between=("backward", "counted"))
    life = life.add(Transition("backward", "counted", lucky), first=True)
    with pytest.raises(AssertionError, match="the shortest way there"):
        check(life, same_route(agreed=False))


# ---------------------------------------------------------------- walks


def test_a_walk_with_answers_by_rank_takes_one_way():
    """A loss that is not finite on one rank leads all of them to the next batch."""
    answers = {"more epochs": [True], "a batch was drawn": [True]}
    trace = walk_ranks(
        st.supervised(non_finite="skip", validate=None),
        [answers, {**answers, "loss not finite": [True]}],
    )
    assert trace.states[8:13] == ["loss", "backward", "next_batch", "draw", "record"]


def test_a_walk_shows_where_ranks_part():
    """Guards that need no agreement are scripted alike; where a script gives ranks other answers, the walk says where."""
    with pytest.raises(LifecycleError, match="the ranks part in 'next_epoch'"):
        walk_ranks(st.supervised(), [{"more epochs": [True]}, {}])
    with pytest.raises(LifecycleError, match="no guard is called 'more epoch'"):
        walk_ranks(st.supervised(), [{"more epoch": [True]}])


# ---------------------------------------------------------------- real machines


def nan_at(batch: int):
    """A loss that is not finite once."""
    return lambda number: math.nan if number == batch else 1.0 / number


class Does(st.Callback):
    """Asks for something when a batch is computed."""

    def __init__(self, batch: int, what: str) -> None:
        self.batch, self.what = batch, what

    def on_enter_pred(self, ctx: st.Context) -> None:
        if ctx.batches != self.batch:
            return
        if self.what == "stop":
            ctx.request_stop("enough")
        else:
            raise {"skip": st.SkipBatch, "fit": st.StopFit, "epoch": st.SkipEpoch}[self.what]("so")


def test_the_reason_names_the_rank():
    """All ranks end alike, and the outcome says whose loss it was."""
    runs = simulate_ranks(st.supervised(non_finite="stop"), 3, facts=[{}, {"losses": nan_at(4)}])
    assert runs.outcome.reason == "the loss is nan (rank 1)"


def test_what_one_rank_asks_for_all_do():
    """A request, and events that are raised on one rank, act on all."""
    for what, reason in (("stop", "enough (rank 2)"), ("fit", "so (rank 2)")):
        runs = simulate_ranks(st.supervised(), 3, facts=[{}, {}, {"callbacks": Does(4, what)}])
        assert runs.outcome.reason == reason


def test_a_skipped_batch_is_skipped_by_all():
    """The batch that one rank leaves out makes no step on any."""
    facts = [{}, {"callbacks": Does(4, "skip")}]
    runs = simulate_ranks(st.supervised(), 2, facts=facts, epochs=2, batches=5)
    assert [one.ctx.step for one in runs.schedules] == [9, 9]


def test_rows_are_of_the_sums_of_all_ranks():
    """A row's loss is the mean over all ranks, and all ranks have the row."""
    runs = simulate_ranks(
        st.supervised(validate=None),
        2,
        facts=[{"losses": lambda n: 1.0}, {"losses": lambda n: 3.0}],
        epochs=1,
    )
    assert [one.history[-1]["train_loss"] for one in runs.schedules] == [2.0, 2.0]


def test_the_clock_is_rank_0s():
    """A time limit ends the run on all ranks by rank 0's clock, though another one's is faster."""
    life = st.supervised(stop=st.TimeLimit(seconds=7), validate=None)
    runs = simulate_ranks(life, 2, facts=[{"seconds": 1.0}, {"seconds": 100.0}], epochs=5)
    assert 7 <= runs.schedules[1].ctx.batches <= 9


def test_a_skip_that_comes_too_late_is_an_error():
    """Once the others have made their step, one rank cannot leave out the batch any more."""

    class Late(st.Callback):
        def on_enter_step(self, ctx: st.Context) -> None:
            if ctx.news.group.rank == 1 and ctx.batches == 3:
                raise st.SkipBatch("too late")

    with pytest.raises(RanksApart, match="after the gradients were computed"):
        simulate_ranks(st.supervised(), 2, callbacks=Late())


def test_a_skip_that_an_action_of_one_rank_raises_is_an_error():
    """The arrow that takes it in one process would lead one rank away from the others."""

    def compute(batch: int) -> float:
        if batch == 3:
            raise st.SkipBatch("odd")
        return 1.0

    with pytest.raises(RanksApart, match="raised by the action of 'loss'"):
        simulate_ranks(st.supervised(), 2, facts=[{}, {"losses": compute}])


def test_a_machine_of_one_process_has_no_meetings():
    """Without ranks nothing of it is laid: the same calls as before, none of them a meeting."""
    machine = st.Machine(st.supervised(**EVERYTHING))
    assert {work.kind for work in machine.plan.works_of.values()}.isdisjoint({"agree"})


FACTS = hy.fixed_dictionaries(
    {},
    optional={
        "losses": hy.integers(1, 8).map(nan_at),
        "callbacks": hy.builds(
            Does, hy.integers(1, 9), hy.sampled_from(["stop", "skip", "fit", "epoch"])
        ),
        "batches": hy.integers(3, 6),
        "seconds": hy.sampled_from([0.5, 1.0, 2.0]),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    facts=hy.lists(FACTS, min_size=2, max_size=4),
    policy=hy.sampled_from(["skip", "stop", "raise"]),
    validate=hy.sampled_from([None, st.Every(1, "epochs"), st.Every(2, "steps")]),
    accumulate=hy.sampled_from([1, 1, 2]),
    known=hy.booleans(),
)
def test_whatever_ranks_meet_with_they_take_one_way(facts, policy, validate, accumulate, known):
    """Random facts on real machines: NaN, requests, events, lengths and clocks of one rank alone never part the ranks."""
    life = st.supervised(
        non_finite=policy,
        stop=st.TimeLimit(seconds=7),
        validate=validate,
        accumulate=accumulate,
    )
    simulate_ranks(life, len(facts), facts=facts, epochs=2, length_known=known)  # else it raises


def test_ranks_that_come_to_different_meetings_are_an_error():
    """A collective of one rank alone is found at once, with what each rank came for."""

    class Alone(st.Callback):
        def on_enter_pred(self, ctx: st.Context) -> None:
            if ctx.news.group.rank == 1:
                ctx.news.group.gather("something else", None)

    with pytest.raises(RanksApart, match="rank 1 comes to 'something else'"):
        simulate_ranks(st.supervised(), 2, callbacks=Alone())


def test_means_that_are_logged_are_over_all_ranks():
    "One rank logs 1 in each batch and the other 3, three times as heavy: (1 + 3 * 3) / 4 in the row of each."

    class Logs(st.Callback):
        writes = ("history.train_value",)

        def __init__(self, value):
            self.value = value

        def on_exit_loss(self, ctx):
            ctx.log_mean("value", self.value, weight=self.value)

    facts = [{"callbacks": Logs(1.0)}, {"callbacks": Logs(3.0)}]
    runs = simulate_ranks(st.supervised(validate=None), 2, facts=facts, epochs=2, batches=3)
    for schedule in runs.schedules:
        assert schedule.ctx.history["train_value"] == [2.5, 2.5]


def test_limited_epochs_and_further_rows_are_the_same_on_all_ranks():
    "The edits that look at a run: each rank takes the same way, with the same rows."
    life = st.supervised(
        edits=[st.limit(train=4, valid=1), st.record_every(2, "steps"), st.validate_first]
    )
    runs = simulate_ranks(life, 2, epochs=2, batches=6)
    for schedule in runs.schedules:
        rows = [(row["epoch"], row["step"]) for row in schedule.ctx.history]
        assert rows == [(0, 0), (1, 2), (1, 4), (2, 6), (2, 8)]


def test_several_optimizers_take_one_route():
    """Each optimizer's loss may be bad on one rank; whatever it is, all ranks go on together."""
    life = st.supervised(optimizers=2, non_finite="skip", check_gradients=True)
    assert check(life, same_route(), ranks=3)[0].holds
