"""What the testing kit hands out: the toy problem, the fake clock, the recording callback."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import statetrain as st
from statetrain import Lifecycle, State, Transition
from statetrain.context.position import Position
from statetrain.machine.machine import Machine
from statetrain.testing import FakeClock, Recording, toy_problem


def test_training_finds_the_known_optimum():
    """Whatever the slope, a few epochs come within a hundredth of it, and the loss goes to 0."""
    for optimum in (3.0, -2.0):
        toy = toy_problem(optimum)
        run = toy.fit(epochs=8)
        assert toy.distance < 0.01
        assert run.history[-1]["valid_loss"] < 1e-3
        assert [toy.slope] == run.model.weight.flatten().tolist()


def test_the_distance_halves_at_least_in_each_epoch():
    """As promised, with the learning rate that the problem comes with."""
    toy = toy_problem()
    distances = [toy.distance]
    for _ in range(4):
        toy.fit(epochs=1)
        distances.append(toy.distance)
    assert all(after < before / 2 for before, after in pairwise(distances))


def test_the_same_arguments_make_the_same_problem():
    """Random numbers drawn before do not matter, and none of torch's own are drawn."""
    torch.manual_seed(1)
    one = toy_problem(seed=7)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    two = toy_problem(seed=7)
    assert torch.equal(before, torch.get_rng_state())
    assert one.slope == two.slope
    assert 0 <= one.slope < 1
    assert all(
        torch.equal(a, b)
        for x, y in zip(one.train, two.train, strict=True)
        for a, b in zip(x, y, strict=True)
    )
    assert toy_problem(seed=8).slope != one.slope


def test_the_options_of_fit_go_before_those_of_the_problem():
    """Any option can be given in place of the problem's own."""
    toy = toy_problem(batches=2, batch_size=3)
    run = toy.fit(
        valid=None,
        epochs=1,
        optimizer=torch.optim.Adam,
        callbacks=(heard := Recording(only=["on_enter_step"])),
    )
    assert isinstance(run.ctx.opt, torch.optim.Adam)
    assert len(heard.calls) == 2
    assert run.ctx.samples == 6
    assert "valid_loss" not in run.history[-1]


def test_numbers_out_of_range_are_errors():
    """Each says its name and its range."""
    with pytest.raises(
        st.ConfigError, match="batch_size must be a whole number of at least 1, got 0"
    ):
        toy_problem(batch_size=0)
    with pytest.raises(st.ConfigError, match="seconds must be at least 0, got -1"):
        FakeClock().advance(-1)


def test_a_clock_moves_when_it_is_told_to():
    """It stands still, or goes on each time that it is read; a time limit acts by it at once."""
    clock = FakeClock(now=5.0)
    assert [clock(), clock()] == [5.0, 5.0]
    clock.advance(2.5)
    assert clock() == 7.5
    ticking = FakeClock(tick=2.0)
    assert [ticking(), ticking()] == [0.0, 2.0]

    class Slow(st.Callback):
        def on_exit_epoch(self, ctx):
            clock.advance(40)

    run = toy_problem().fit(epochs=50, clock=clock, stop=st.TimeLimit(minutes=2), callbacks=Slow())
    assert run.outcome == st.Stopped(3, "after 2 minutes")


def test_hooks_are_recorded_in_order_with_values():
    """Every hook of the states is heard, innermost exits first, with what the context held then; what is not there is None."""
    heard = Recording(values=("iter", "history[-1].train_loss"))
    toy_problem(batches=1).fit(epochs=1, valid=None, callbacks=heard)
    assert heard.hooks[:7] == [
        *(
            "on_enter_fit",
            "on_enter_next_epoch",
            "on_exit_next_epoch",
            "on_enter_epoch",
            "on_enter_train",
            "on_enter_next_batch",
        ),
        "on_exit_next_batch",
    ]
    assert heard.hooks[-2:] == ["on_exit_fit", "on_enter_end"]
    assert heard.of("on_enter_batch") == [{"iter": 1, "history[-1].train_loss": None}]
    assert heard.of("on_exit_record")[0]["history[-1].train_loss"] > 0
    assert str(heard.calls[0]) == "on_enter_fit(iter=0, history[-1].train_loss=None)"


def test_an_own_lifecycle_can_be_recorded():
    """Given a lifecycle, its hooks are heard; only those that were asked for, if some were."""

    def work(ctx):
        "work"

    life = Lifecycle("own", [State("a", work), State("end", final=True)], [Transition("a", "end")])
    everything, some = Recording(life), Recording(life, only=["on_transition", "on_exit_a"])
    Machine(life, [everything, some]).run(Position())
    assert everything.hooks == ["on_enter_a", "on_exit_a", "on_enter_end"]
    assert some.hooks == ["on_transition", "on_exit_a", "on_transition"]
    with pytest.raises(st.ConfigError, match="no hook 'on_exit_b'; did you mean 'on_exit_a'"):
        Recording(life, only=["on_exit_b"])


def test_a_failure_is_heard():
    """The hook of `failed` is recorded too."""
    heard = Recording()
    with pytest.raises(st.NonFiniteLoss):
        toy_problem().fit(loss=lambda pred, target: (pred * float("nan")).mean(), callbacks=heard)
    assert heard.hooks[-1] == "on_enter_failed"
