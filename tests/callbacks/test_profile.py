"""`Profile`: with a clock of its own, each second is where it was spent."""

from __future__ import annotations

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.callbacks.profile import Profile
from statetrain.standard.actions import count_epoch


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        """Lets time pass."""
        self.now += seconds


class Data:
    """Batches, each of which takes 3 seconds to load."""

    def __init__(self, clock, data, seconds=3.0):
        self.clock, self.data, self.seconds = clock, data, seconds

    def __iter__(self):
        for batch in zip(*(column.split(8) for column in self.data), strict=True):
            self.clock.spend(self.seconds)
            yield batch


class Slow(st.Callback):
    """A callback that takes half a second for each prediction, and 5 seconds at the end of an epoch."""

    def __init__(self, clock):
        self.clock = clock

    def on_exit_pred(self, ctx):
        self.clock.spend(0.5)

    def on_exit_epoch(self, ctx):
        self.clock.spend(5)


def fit(points, clock, callbacks, seconds=3.0, **options):
    class Model(nn.Linear):
        def forward(self, x):
            clock.spend(2)
            return super().forward(x)

    torch.manual_seed(0)
    common = {"loss": F.cross_entropy, "optimizer": torch.optim.SGD, "epochs": 2}
    return st.fit(
        Model(4, 3), Data(clock, points, seconds), callbacks=callbacks, **{**common, **options}
    )


def seconds(profile):
    return {
        (row["state"], row["hook"]): row["seconds"] for row in profile.table() if row["seconds"]
    }


def test_each_second_is_where_it_was_spent(points):
    "The model's time is `pred`'s, the loader's `draw`'s, and hooks have their own rows."
    clock = Clock()
    profile = Profile(clock)
    fit(points, clock, [profile, Slow(clock)])

    assert seconds(profile) == {
        ("draw", ""): 18.0,
        ("pred", ""): 12.0,
        ("pred", "Slow.on_exit_pred"): 3.0,
        ("record", "Slow.on_exit_epoch"): 10.0,
    }
    assert profile.waiting == 18.0
    assert profile.total == 43.0
    rows = {(row["state"], row["hook"]): row for row in profile.table()}
    assert rows["pred", ""]["visits"] == rows["pred", "Slow.on_exit_pred"]["visits"] == 6
    assert rows["draw", ""]["visits"] == 8  # the last one of an epoch finds no batch
    assert rows["draw", ""]["share"] == 18 / 43
    assert [row["seconds"] for row in profile.table()] == sorted(
        (row["seconds"] for row in profile.table()), reverse=True
    )


@pytest.mark.parametrize("engine", ["table", "transitions"])
def test_guards_and_effects_count_for_their_state(points, engine):
    "What a guard or an effect takes is its state's, whatever walks the table."
    clock = Clock()

    def asked(ctx) -> bool:
        "a slow guard"
        clock.spend(1)
        return False

    def count(ctx) -> None:
        "count the epoch, slowly"
        clock.spend(10)
        count_epoch(ctx)

    life = st.supervised(validate=None).add(st.Transition("backward", "next_batch", asked))
    life = life.alter(life.between("next_epoch", "epoch")[0], effect=count)
    profile = Profile(clock)
    fit(points, clock, profile, lifecycle=life, engine=engine)

    assert seconds(profile)["backward", ""] == 6.0
    assert seconds(profile)["next_epoch", ""] == 20.0


def test_columns_of_the_history(points):
    "Each row has the seconds of training and of validation since the row before; without validation there is no such column."
    clock = Clock()
    run = fit(points, clock, [Profile(clock), Slow(clock)], valid=Data(clock, points, 1.0))
    plain = fit(points, clock, Profile(clock))

    assert run.history["seconds_train"] == [3 * (3 + 2 + 0.5)] * 2
    assert run.history["seconds_valid"] == [3 * (1 + 2)] * 2
    assert plain.history["seconds_train"] == [15.0] * 2
    assert "seconds_valid" not in plain.history.columns


def test_validation_within_an_epoch(points):
    "Where validation interrupts an epoch, its row has the part of the training since the row before."
    clock = Clock()
    run = fit(
        points,
        clock,
        Profile(clock),
        valid=Data(clock, points, 1.0),
        validate=st.Every(2, "steps"),
        epochs=1,
    )

    assert run.history["seconds_train"] == [10.0, 5.0]
    assert run.history["seconds_valid"] == [9.0]


def test_a_stop_writes_no_row_for_its_sake(points):
    "A run that is stopped when nothing is new gets no row because of the columns."

    class Stops(st.Callback):
        def on_exit_record(self, ctx):
            ctx.request_stop("enough")

    clock = Clock()
    run = fit(
        points,
        clock,
        [Profile(clock), Stops()],
        valid=Data(clock, points),
        validate=st.Every(1, "steps"),
    )

    assert len(run.history) == 1


def test_measuring_changes_nothing(digits, cnn):
    "A run that is measured trains the same, on the real clock, and the parts add up to less than the whole."
    data = [tuple(column[:64] for column in digits)]
    plain = st.fit(
        cnn(), data, loss=F.cross_entropy, optimizer=torch.optim.Adam, valid=data, epochs=2
    )
    profile = Profile()
    measured = st.fit(
        cnn(),
        data,
        loss=F.cross_entropy,
        optimizer=torch.optim.Adam,
        valid=data,
        epochs=2,
        callbacks=profile,
    )

    assert bits(measured.model, measured.ctx.opt) == bits(plain.model, plain.ctx.opt)
    assert measured.history["valid_loss"] == plain.history["valid_loss"]
    assert 0 < sum(row["seconds"] for row in profile.table()) <= profile.total
    assert profile.total == profile.total  # it has stopped


def test_who_does_not_measure_calls_the_same_functions():
    "Without a callback that measures, the machine calls actions and hooks themselves."
    callback = st.Callback()
    assert callback.wrap_call(print, "pred", "") is print


def test_a_fit_that_goes_on_adds_and_a_new_one_begins_anew(points):
    "`run.fit` adds to the table; another fit with the same callback starts from nothing."
    clock = Clock()
    profile = Profile(clock)
    run = fit(points, clock, profile, epochs=1)
    assert profile.waiting == 9.0
    clock.spend(1000)  # between two fits
    run.fit(1)
    assert (profile.waiting, profile.total) == (18.0, 30.0)
    fit(points, clock, profile, epochs=1)
    assert (profile.waiting, profile.total) == (9.0, 15.0)


def test_a_failure_is_reported_as_without_it(points):
    "The table is there after a failure, and the error's note names the hook that raised, not the one that measures."

    class Fails(st.Callback):
        def on_exit_backward(self, ctx):
            raise RuntimeError("no more")

    clock = Clock()
    profile = Profile(clock)
    with pytest.raises(RuntimeError, match="no more") as caught:
        fit(points, clock, [profile, Fails()])
    clock.spend(1000)

    assert "raised by the hook Fails.on_exit_backward" in caught.value.__notes__[0]
    assert profile.total == 5.0


def test_it_can_be_read(points):
    "Printed, it is a table with what is left over and the total; its short form says what was waited for."
    clock = Clock()
    profile = Profile(clock)
    fit(points, clock, [profile, Slow(clock)], epochs=1)
    lines = [line.split() for line in str(profile).splitlines()]

    assert lines[0] == ["state", "hook", "visits", "seconds", "share"]
    assert lines[1] == ["draw", "4", "9.0000", "41.9%"]
    assert ["record", "Slow.on_exit_epoch", "1", "5.0000", "23.3%"] in lines
    assert lines[-2:] == [["the", "rest", "0.0000", "0.0%"], ["total", "21.5000"]]
    assert repr(profile) == "<Profile: 21.5 s, 9 s of them waiting for data>"


@pytest.mark.parametrize(
    "validate", [None, st.Every(2, "steps")], ids=["training", "validation too"]
)
@pytest.mark.parametrize("every", [1, 3, 4])
def test_a_continued_run_goes_on_counting(points, tmp_path, every, validate):
    "Wherever it was cut, the seconds, visits and columns are those of a run that was not, but for what came after the checkpoint."

    class Cut(Exception):
        pass

    class Cuts(st.Callback):
        def on_enter_batch(self, ctx):
            if ctx.step == every:
                raise Cut

    # Batches that are drawn again to get there would take their time again
    clock, options = (
        Clock(),
        {"seconds": 0.0},
    )
    if validate is not None:
        options |= {"valid": [tuple(column[:8] for column in points)], "validate": validate}
    whole = Profile(clock)
    plain = fit(points, clock, whole, **options)
    with pytest.raises(Cut):
        fit(
            points,
            clock,
            [Profile(clock), st.Checkpoint(tmp_path, st.Every(1, "steps")), Cuts()],
            **options,
        )
    clock.spend(1000)  # nobody knows how long it was away
    profile = Profile(clock)
    run = fit(
        points,
        clock,
        [profile, st.Checkpoint(tmp_path, st.Every(1, "steps"))],
        resume="last",
        **options,
    )

    assert seconds(profile) == seconds(whole)
    assert profile.total == whole.total
    own = [
        {key: row[key] for key in ("state", "hook", "visits")}
        for row in profile.table()
        if not row["hook"] and row["seconds"]
    ]
    assert own == [
        {key: row[key] for key in ("state", "hook", "visits")}
        for row in whole.table()
        if not row["hook"] and row["seconds"]
    ]
    for column in ("seconds_train", "seconds_valid"):
        if column in plain.history.columns:
            assert run.history[column] == plain.history[column]
