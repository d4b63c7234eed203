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
        (st.MinEpochs(3), [st.TensorBoard("unused")], "'TensorBoard'.*Rounds has no 'step'"),
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


def test_a_profile_needs_no_counter():
    "It measures any table, and begins anew with a new run."

    class Turns(st.Position):
        turns = 0

    def turn(ctx):
        ctx.turns += 1

    life = st.Lifecycle(
        "turns",
        [S("turn", turn), S("end", final=True)],
        [T("turn", "end", st.guard(lambda ctx: ctx.turns == 3).named("enough")), T("turn", "turn")],
    )
    profile = st.Profile()
    for _ in range(2):
        st.Machine(life, [profile]).run(Turns())
        visits = {row["state"]: row["visits"] for row in profile.table()}
        assert visits["turn"] == 3


@define(eq=False)
class Denoising(st.Position):
    """Fields called as those of supervised training, and what is None until an action writes it."""

    batch: int = 3
    loss: float = 9.0
    turn: int = 0
    noise: list[float] | None = None


def denoising(*order):
    """The actions in an order, as often as a guard that reads the loss says; all is declared."""
    works = {
        "draw": st.access(reads={"batch"}, writes={"noise"})(
            lambda ctx: setattr(ctx, "noise", [1.0] * ctx.batch)
        ),
        "denoise": st.access(reads={"noise", "loss", "turn"}, writes={"loss", "turn"})(_denoise),
    }
    more = st.guard(lambda ctx: ctx.loss > 1.0, reads={"loss", "turn"}).named("more")
    first, second = order
    return st.Lifecycle(
        "denoising",
        [S("head"), *(S(name, works[name]) for name in order), S("end", final=True)],
        [T("head", first, more), T("head", "end"), T(first, second), T(second, "head")],
    )


def _denoise(ctx):
    ctx.loss = ctx.loss / sum(ctx.noise)
    ctx.turn += 1


@pytest.mark.parametrize("debug", [False, True])
def test_fields_called_as_those_of_training_are_your_own(debug):
    "`loss` and `batch` are what your context says: there from the start, written by who declares it."
    ctx = st.Machine(denoising("draw", "denoise"), debug=debug).run(Denoising())
    assert (ctx.turn, ctx.loss) == (2, 1.0)


def test_what_is_none_until_it_is_written_may_not_be_read_before():
    "Known when the context is: before anything runs. What has a value from the start may be read at once."
    ctx, life = Denoising(), denoising("denoise", "draw")
    with pytest.raises(
        st.ContractError, match=r"'denoise' reads 'noise', where it does not exist yet, on the way"
    ):
        st.Machine(life).run(ctx)
    with pytest.raises(st.ContractError, match="reads 'noise', where it does not exist yet"):
        st.run(life, ctx)
    assert ctx.state is None


def test_a_context_whose_init_forgets_the_rest_is_told():
    "Python's own error would name a field of which the user has never heard."

    class Bare(st.Position):
        def __init__(self):
            self.round = 0

    with pytest.raises(
        st.MachineError, match=r"Bare.__init__ leaves .*call super\(\).__init__\(\)"
    ):
        st.Machine(LIFE).run(Bare())


def test_a_row_is_columns_by_name():
    "Anything else is refused in our words."
    with pytest.raises(st.MachineError, match=r"add_row takes columns by name, .* got \[1\]"):
        Rounds().add_row([1])
