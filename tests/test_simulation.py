"""A dry run shows the schedule that a real run has."""

import pytest
import torch
import torch.nn.functional as F

import statetrain as st
from statetrain.testing import simulate


def entered(schedule, state):
    return [(e.epoch, e.batch, e.step) for e in schedule.of(state)]


def test_it_shows_when_a_run_validates_and_records():
    """With validation every 4 steps and windows of two batches, the schedule is that of counting by hand."""
    schedule = simulate(
        st.supervised(validate=st.Every(4, "steps"), accumulate=2), epochs=2, batches=10
    )
    assert entered(schedule, "valid") == [(1, 8, 4), (2, 6, 8)]
    assert entered(schedule, "record") == [(1, 8, 4), (1, 10, 5), (2, 6, 8), (2, 10, 10)]
    assert isinstance(schedule.outcome, st.Completed)
    assert "valid" in str(schedule)


def test_early_stopping_is_simulated_from_losses():
    """Given how the loss goes, the dry run stops where the guard says."""
    schedule = simulate(
        st.supervised(stop=st.EarlyStopping("valid_loss", 2)),
        epochs=50,
        batches=5,
        losses=lambda batch: abs(batch - 20.0),
    )
    assert schedule.outcome == st.Stopped(6, "valid_loss has not improved for 2 rows")


@pytest.mark.parametrize("length_known", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 3},
        {"validate": st.Every(4, "steps")},
        {"max_steps": 9},
        {"validate": None},
    ],
)
def test_the_dry_run_is_the_real_run(options, length_known):
    """States, counters and outcome of the dry run are those of training a model with the same lifecycle."""
    life = st.supervised(**options)
    batches = [(torch.randn(2, 3), torch.randn(2, 1)) for _ in range(7)]
    train = batches if length_known else lambda: iter(batches)
    valid = None if options == {"validate": None} else batches[:2]
    noted = []

    class Note(st.Callback):
        def on_enter_record(self, ctx):
            noted.append((ctx.epoch, ctx.iter, ctx.step))

    run = st.fit(
        torch.nn.Linear(3, 1),
        train,
        valid=valid,
        loss=F.mse_loss,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.01},
        epochs=3,
        lifecycle=life,
        callbacks=Note(),
    )
    schedule = simulate(life, epochs=3, batches=7, length_known=length_known)
    assert entered(schedule, "record") == noted
    assert schedule.outcome == run.outcome
    assert (schedule.ctx.step, schedule.ctx.epoch) == (run.ctx.step, run.ctx.epoch)


def test_several_optimizers_and_callbacks_can_be_simulated():
    """Two named optimizers alternate, and the user's callbacks see the simulated context."""
    steps = []

    class Watch(st.Callback):
        def on_exit_step(self, ctx):
            steps.append(ctx.opt_name)

    simulate(
        st.supervised(optimizers=2), epochs=1, batches=2, optimizers=("a", "b"), callbacks=[Watch()]
    )
    assert steps == ["a", "b", "a", "b"]


def test_time_is_simulated():
    """A time limit acts by the simulated clock."""
    schedule = simulate(
        st.supervised(stop=st.TimeLimit(seconds=25)), epochs=100, batches=10, seconds=2.0
    )
    assert schedule.outcome == st.Stopped(2, "after 25 seconds")
    assert schedule.ctx.batches == 13


def test_numbers_out_of_range_are_errors():
    """Each number says its name and its range."""
    with pytest.raises(st.ConfigError, match="batches must be a whole number of at least 1, got 0"):
        simulate(st.supervised(), batches=0)


def test_what_is_due_beside_the_lifecycle_is_listed():
    """Intervals of saves are kept as a checkpoint keeps them: those in steps within epochs, those in epochs when these are complete."""
    due = {"save": st.Every(4, "steps"), "keep": st.Every(2, "epochs")}
    schedule = simulate(st.supervised(validate=None), epochs=4, batches=5, due=due)
    assert entered(schedule, "save") == [(1, 4, 4), (2, 3, 8), (3, 2, 12), (4, 1, 16), (4, 5, 20)]
    assert entered(schedule, "keep") == [(2, 5, 10), (4, 5, 20)]
    with pytest.raises(
        st.ConfigError, match="save would never be due: lifecycle 'bare' has no anchor"
    ):
        simulate(
            st.Lifecycle(
                "bare", [st.State("a"), st.State("end", final=True)], [st.Transition("a", "end")]
            ),
            due={"save": st.Every(1, "steps")},
        )


def test_curves_are_shown_with_each_event():
    """A learning rate that decays with the steps has at each event the value of the next step."""
    schedule = simulate(
        st.supervised(validate=None),
        epochs=3,
        batches=5,
        curves={"lr": lambda step: 0.1 * 0.5 ** (step // 5)},
        states=["record"],
    )
    assert [event.values["lr"] for event in schedule.events] == [0.05, 0.025, 0.0125]
    assert "lr 0.025" in str(schedule)
