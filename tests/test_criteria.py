"""The conditions that come with the library: intervals, limits, early stopping."""

import math
import random

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from statetrain.context.position import Position
from statetrain.errors import GuardError
from statetrain.guards.base import strict
from statetrain.guards.batch import Accumulating, NonFinite, another_optimizer, batch_drawn
from statetrain.guards.clock import TimeLimit
from statetrain.guards.comparing import better
from statetrain.guards.counters import Every, MaxSteps, MinEpochs, more_epochs, train_data_left
from statetrain.guards.history import EarlyStopping, Threshold
from statetrain.guards.requests import stop_requested
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.machine.machine import Machine

# The same examples each time, whatever the load
drawn = settings(derandomize=True, database=None, deadline=None)


@define(eq=False)
class Ctx(Position):
    """The counters and the history that conditions read."""

    step: int = 0
    epoch: int = 0
    max_epochs: float = 3
    batches: int = 0
    samples: int = 0
    seconds: float = 0.0
    fit_seconds: float = 0.0
    fit_steps: int = 0
    pending: int = 0
    last_batch: bool = False
    drawn: object = False
    exhausted: bool = False
    opt_index: int = 0
    optimizers: dict[str, object] = field(factory=dict)
    loss_value: object = 0.0
    grad_norm: object = 0.0
    rows: list[dict[str, object]] = field(factory=list)
    fired: list[tuple[str, float]] = field(factory=list)

    def __attrs_post_init__(self):
        self.history.rows = self.rows


# ---------------------------------------------------------------- intervals

COUNTERS = {
    "batches": "batches",
    "steps": "step",
    "epochs": "epoch",
    "samples": "samples",
    "seconds": "seconds",
    "minutes": "seconds",
}


def fire(interval, ctx, place="there"):
    """Asks an interval as an arrow does, and remembers as the arrow's effect does."""
    holds = interval.bind(place)(ctx)
    if holds:
        for mark in interval.marks(place):
            mark(ctx)
    return holds


@drawn
@given(
    st.sampled_from(["batches", "steps", "epochs", "samples"]),
    st.integers(1, 7),
    st.lists(st.integers(0, 20)),
)
def test_an_interval_neither_repeats_nor_misses(unit, n, jumps):
    "However far the counter jumps, an interval holds if and only if a multiple of it lies in what was counted since it last held."
    interval, ctx, count, last = Every(n, unit), Ctx(), 0, 0
    for jump in jumps:
        count += jump
        setattr(ctx, COUNTERS[unit], count)
        crossed = any(number % n == 0 for number in range(last + 1, count + 1))
        assert fire(interval, ctx) is crossed
        assert fire(interval, ctx) is False
        if crossed:
            last = count


@drawn
@given(
    st.sampled_from(["seconds", "minutes"]),
    st.sampled_from([0.5, 1, 2, 30]),
    st.lists(st.integers(0, 400)),
)
def test_an_interval_of_time(unit, n, quarters):
    "Times are counted like everything else, in parts of a second."
    interval, ctx, last = Every(n, unit), Ctx(), 0.0
    length = n * (60 if unit == "minutes" else 1)
    for jump in quarters:
        ctx.seconds += jump / 4
        crossed = math.floor(ctx.seconds / length) * length > last
        assert fire(interval, ctx) is crossed
        if crossed:
            last = ctx.seconds


def test_an_interval_asked_early_does_not_count_as_fired():
    "What counts is that the arrow was taken, not that its guard was asked."
    interval, ctx = Every(3, "steps"), Ctx(step=4)
    ask = interval.bind("there")
    assert ask(ctx)
    assert ask(ctx)
    assert fire(interval, ctx)
    assert not ask(ctx)


def test_each_place_has_its_own_memory():
    "Arrows to different states fire on their own; arrows to the same state share what they remember."
    interval, ctx = Every(3, "steps"), Ctx(step=3)
    assert fire(interval, ctx, "here")
    assert not fire(interval, ctx, "here")
    assert fire(interval, ctx, "there")
    assert fire(Every(2, "steps"), ctx, "there")


def test_an_interval_on_an_arrow():
    "A machine remembers when it has taken the arrow, and only then."

    def tick(ctx):
        "tick"
        ctx.step += ctx.rows.pop(0)["jump"]

    def note(name):
        return lambda ctx: ctx.fired.append((name, ctx.step))

    life = Lifecycle(
        "demo",
        [
            State("tick", tick),
            State("check", note("check")),
            State("save", note("save")),
            State("end", final=True),
        ],
        [
            Transition("tick", "save", Every(10, "steps") & (lambda ctx: ctx.step % 2 == 0)),
            Transition("tick", "check", Every(4, "steps").named("due")),
            Transition("tick", "end", lambda ctx: not ctx.rows),
            Transition("tick", "tick"),
            Transition("save", "tick"),
            Transition("check", "tick"),
        ],
    )
    ctx = Ctx(rows=[{"jump": jump} for jump in (3, 1, 4, 3, 1, 20, 1, 2, 0)])
    Machine(life).run(ctx)
    # 3, 4, 8, 11, 12, 32, 33, 35, 35: at 11 the interval of 10 has been crossed, but the other
    # condition waits for 12.
    assert ctx.fired == [("check", 4), ("check", 8), ("save", 12), ("save", 32), ("check", 33)]
    assert ctx.marks == {"save every 10 steps": 32, "check every 4 steps": 33}


@pytest.mark.parametrize(
    ("interval", "label"),
    [
        (Every(1, "epochs"), "every epoch"),
        (Every(1, "batches"), "every batch"),
        (Every(1.0, "minutes"), "every minute"),
        (Every(100, "steps"), "every 100 steps"),
        (Every(0.5, "minutes"), "every 0.5 minutes"),
    ],
)
def test_intervals_are_named_with_their_unit(interval, label):
    "An interval says what it counts."
    assert interval.label == label


@pytest.mark.parametrize(
    ("n", "unit", "words"),
    [
        (0, "steps", "n must be a number above 0, got 0"),
        (-1, "seconds", "n must be a number above 0, got -1"),
        (True, "steps", "n must be a number above 0, got True"),
        ("3", "steps", "n must be a number above 0, got '3'"),
        (math.inf, "seconds", "n must be a number above 0, got inf"),
        (1.5, "steps", "n must be a whole number of steps, got 1.5"),
        (1.0, "epochs", "n must be a whole number of epochs, got 1.0"),
        (
            1,
            "step",
            (
                "unit must be one of 'batches', 'steps', 'epochs', 'samples', 'seconds', 'minutes',"
                " got 'step'"
            ),
        ),
    ],
)
def test_intervals_that_make_no_sense(n, unit, words):
    "A wrong number or unit is refused with what would be right."
    with pytest.raises(ValueError, match="Every: ") as error:
        Every(n, unit)
    assert words in str(error.value)


# ---------------------------------------------------------------- limits


def test_max_steps():
    "The limit holds from the n-th step on."
    assert [MaxSteps(3)(Ctx(step=100, fit_steps=step)) for step in range(5)] == [
        False,
        False,
        False,
        True,
        True,
    ]
    assert MaxSteps(3).label == "3 steps made"


def test_min_epochs():
    "It holds from the n-th epoch on."
    assert [MinEpochs(2)(Ctx(epoch=epoch)) for epoch in range(4)] == [False, False, True, True]
    assert (MinEpochs(1).label, MinEpochs(2).label) == ("1 epoch made", "2 epochs made")


@pytest.mark.parametrize(
    ("limit", "seconds", "label"),
    [
        (TimeLimit(30), 1800, "after 30 minutes"),
        (TimeLimit(hours=1.5), 5400, "after 1.5 hours"),
        (TimeLimit(1, hours=1, seconds=1), 3661, "after 1 hours 1 minutes 1 seconds"),
    ],
)
def test_time_limits(limit, seconds, label):
    "Hours, minutes and seconds add up, and the limit is reached to the moment."
    assert limit.total == seconds
    assert limit.label == label
    assert [limit(Ctx(fit_seconds=s)) for s in (0, seconds - 0.001, seconds, seconds + 1)] == [
        False,
        False,
        True,
        True,
    ]


def test_a_time_limit_counts_this_fit_alone():
    "What earlier fits of the run have taken does not count."
    assert not TimeLimit(seconds=10)(Ctx(seconds=100.0, fit_seconds=9.0))


@pytest.mark.parametrize(
    "make",
    [TimeLimit, lambda: TimeLimit(-1), lambda: TimeLimit(1, hours=-1), lambda: TimeLimit(math.nan)],
    ids=["none", "below", "sum", "nan"],
)
def test_time_limits_that_make_no_sense(make):
    "A limit that is not above 0 is refused with an example."
    with pytest.raises(
        ValueError, match=r"TimeLimit: say how long, above 0: TimeLimit\(minutes=30\)"
    ):
        make()


@pytest.mark.parametrize("kind", [MaxSteps, MinEpochs, Accumulating])
@pytest.mark.parametrize("n", [0, -1, 1.0, True, "3", None], ids=repr)
def test_counts_are_whole(kind, n):
    "A count is a whole number of at least 1."
    with pytest.raises(
        ValueError, match=f"{kind.__name__}: n must be a whole number of at least 1, got "
    ):
        kind(n)


# ---------------------------------------------------------------- early stopping


class Patience:
    """Early stopping as it is usually written: a counter that is told each value."""

    def __init__(self, mode, min_delta, baseline):
        self.mode, self.min_delta, self.best, self.wait = mode, min_delta, baseline, 0

    def see(self, value):
        if self.improves(value):
            self.best, self.wait = value, 0
        else:
            self.wait += 1

    def improves(self, value):
        if value != value:
            return False
        if self.best is None:
            return True
        if self.mode == "min":
            return self.best - value > self.min_delta
        if self.mode == "max":
            return value - self.best > self.min_delta
        return abs(self.best) - abs(value) > self.min_delta


def test_early_stopping_against_a_counter():
    "On 2,000 random histories, the fold over the rows says after each of them what a counter that saw them one by one says."
    chance = random.Random(0)
    held = 0
    for _ in range(2000):
        mode = chance.choice(["min", "max", "zero"])
        patience, start = chance.randint(1, 4), chance.choice([0, 0, 3])
        min_delta, baseline = (
            chance.choice([0.0, 0.0, 0.25, 1.0]),
            chance.choice([None, None, 0.5, -1.0, 3.0]),
        )
        stop = EarlyStopping(
            "valid_loss",
            patience,
            min_delta=min_delta,
            mode=mode,
            baseline=baseline,
            start_from_epoch=start,
        )
        counter, ctx = Patience(mode, min_delta, baseline), Ctx()
        for epoch in range(1, chance.randint(2, 15)):
            value = chance.choice(
                [math.nan, math.inf, *(chance.randint(-16, 16) / 4 for _ in range(12))]
            )
            has_it = chance.random() < 0.8  # a validation is not due in every epoch
            ctx.rows.append(
                {"epoch": epoch, "train_loss": 0.0} | ({"valid_loss": value} if has_it else {})
            )
            if has_it and epoch >= start:
                counter.see(value)
            assert stop.waited(ctx) == counter.wait
            assert stop(ctx) is (counter.wait >= patience)
            held += stop(ctx)
    assert held > 2000


def test_early_stopping_waits_for_rows_without_improvement():
    "Patience counts the rows after the best one, and an equal value is no improvement."
    stop, ctx = EarlyStopping("loss", patience=2), Ctx()
    answers = []
    for value in (3.0, 2.0, 2.0, 2.5):
        ctx.rows.append({"loss": value})
        answers.append(stop(ctx))
    assert answers == [False, False, False, True]


def test_small_improvements_do_not_count_one_by_one():
    "The best value moves only on an improvement larger than min_delta, so small steps add up to one."
    stop = EarlyStopping("loss", patience=3, min_delta=1.0)
    assert stop.waited(Ctx(rows=[{"loss": 10 - 0.6 * i} for i in range(3)])) == 0
    assert stop.waited(Ctx(rows=[{"loss": 10 - 0.3 * i} for i in range(4)])) == 3


def test_early_stopping_without_rows():
    "Before the first row there is nothing to stop for."
    assert EarlyStopping(patience=1, baseline=0.0)(Ctx()) is False


def test_a_history_of_nan_alone():
    "A NaN is no improvement, not even on nothing."
    assert EarlyStopping("loss", patience=2)(Ctx(rows=[{"loss": math.nan}] * 2)) is True


@pytest.mark.parametrize(
    ("value", "best", "mode", "expected"),
    [
        (1.0, None, "min", True),
        (math.inf, None, "min", True),
        (math.nan, None, "min", False),
        (1.0, math.nan, "min", True),
        (math.nan, math.nan, "max", False),
        (1.0, 1.0, "min", False),
        (2.0, 1.0, "max", True),
        (-1.0, 2.0, "zero", True),
        (-3.0, 2.0, "zero", False),
        (-math.inf, 0.0, "min", True),
    ],
)
def test_better(value, best, mode, expected):
    "Better is strictly better; a NaN never is, and anything is better than a NaN."
    assert better(value, best, mode) is expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"monitor": ""}, "monitor must be a column of the history such as 'valid_loss', got ''"),
        ({"monitor": None}, "monitor must be a column of the history"),
        ({"patience": 0}, "patience must be a whole number of at least 1, got 0"),
        ({"patience": 2.0}, "patience must be a whole number of at least 1, got 2.0"),
        ({"mode": "low"}, "mode must be one of 'min', 'max', 'zero', got 'low'"),
        ({"min_delta": -0.1}, "min_delta must be a number of at least 0, got -0.1"),
        ({"min_delta": math.nan}, "min_delta must be a number of at least 0, got nan"),
    ],
    ids=str,
)
def test_early_stopping_that_makes_no_sense(options, words):
    "A wrong argument is refused by its name, with what would be right."
    with pytest.raises(ValueError, match="EarlyStopping: ") as error:
        EarlyStopping(**options)
    assert words in str(error.value)


def test_early_stopping_says_what_it_waits_for():
    "The label names the monitor and the patience, and the monitor can be checked before a run."
    assert EarlyStopping("valid_loss", 5).label == "valid_loss has not improved for 5 rows"
    assert EarlyStopping("valid_loss", 1).label == "valid_loss has not improved for 1 row"
    assert EarlyStopping("valid_loss", 5).monitors == ("valid_loss",)


# ---------------------------------------------------------------- thresholds


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("min", [], False),
        ("min", [0.5], True),
        ("min", [0.6], False),
        ("min", [0.4, 0.6], False),
        ("max", [0.5], True),
        ("max", [0.4], False),
        ("min", [math.nan], False),
        ("max", [math.nan], False),
    ],
)
def test_thresholds(mode, values, expected):
    "The last row that carries the monitor decides; the target itself is reached, and a NaN reaches nothing."
    rows = [{"valid_acc": value} for value in values] + [{"train_loss": 0.0}]
    assert Threshold("valid_acc", 0.5, mode=mode)(Ctx(rows=rows)) is expected


def test_thresholds_say_what_they_wait_for():
    "The label names the monitor and the target; an unknown mode is refused."
    assert Threshold("loss", 0.1).label == "loss at most 0.1"
    assert Threshold("acc", 0.9, mode="max").label == "acc at least 0.9"
    with pytest.raises(ValueError, match="Threshold: mode must be one of 'min', 'max', got 'zero'"):
        Threshold("acc", 0.9, mode="zero")


# -------------------- conditions of the standard lifecycle


@pytest.mark.parametrize("of", ["loss", "gradients"])
@pytest.mark.parametrize(
    "value", [0.0, -1.5, 1e308, 5e-324, 3, math.nan, math.inf, -math.inf], ids=str
)
def test_non_finite(of, value):
    "NaN and the infinities hold, every other number does not, and the reason shows the value."
    ctx = Ctx(**{"loss_value" if of == "loss" else "grad_norm": value})
    holds = NonFinite(of)(ctx)
    assert holds is not math.isfinite(value)
    assert holds is NonFinite(of).bind("there")(ctx)
    assert NonFinite(of).reason(ctx).endswith(f" is {value}")
    assert NonFinite(of).label == f"{of} not finite"
    assert NonFinite(of).reads == {"loss_value" if of == "loss" else "grad_norm"}


def test_non_finite_reads_no_tensor():
    "What is no number on the host is refused: comparing it would wait for the device."

    class FakeTensor:
        def __sub__(self, other):
            return self

        def __ne__(self, other):
            return self

    with pytest.raises(
        GuardError,
        match=(
            r"guard \[loss not finite\] must answer True or False, got FakeTensor; read a host"
            r" value"
        ),
    ):
        NonFinite()(Ctx(loss_value=FakeTensor()))


def test_more_epochs():
    "There are more epochs below the limit, which may be infinity."
    assert [more_epochs(Ctx(epoch=epoch)) for epoch in range(5)] == [True, True, True, False, False]
    assert more_epochs(Ctx(epoch=10**9, max_epochs=math.inf))


def test_batch_drawn():
    "What the state `draw` says, if it says True or False."
    assert batch_drawn(Ctx(drawn=True)) is True
    with pytest.raises(GuardError, match="a batch was drawn"):
        batch_drawn(Ctx(drawn=None))


def test_accumulating():
    "A window goes on until it is full or the epoch's last batch has come."
    guard = Accumulating(3)
    assert [
        strict(guard, guard.test(Ctx(pending=pending, last_batch=last)))
        for last in (False, True)
        for pending in (1, 2, 3)
    ] == [
        *(True, True, False),
        *(False, False, False),
    ]


def test_another_optimizer():
    "There is another one until the last has had its turn."
    assert [
        another_optimizer(Ctx(opt_index=i, optimizers=dict.fromkeys("abc"))) for i in range(3)
    ] == [True, True, False]


def test_train_data_left():
    "There is some until the data has come to its end."
    assert [train_data_left(Ctx(exhausted=exhausted)) for exhausted in (False, True)] == [
        True,
        False,
    ]


def test_stop_requested():
    "Someone asked, and the reason is theirs; the first reason stays."
    ctx = Ctx()
    assert not stop_requested(ctx)
    ctx.request_stop("enough")
    ctx.request_stop("more than enough")
    assert stop_requested(ctx)
    assert stop_requested.reason(ctx) == "enough"
    assert stop_requested.bind("there")(ctx)
