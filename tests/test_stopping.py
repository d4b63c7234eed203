"""The stopping criteria: the published definitions, and the stopping times that EarlyStopping.jl is tested with."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.context.history import History
from statetrain.guards.clock import TimeLimit
from statetrain.guards.counters import Every
from statetrain.guards.history import (
    EarlyStopping,
    InvalidValue,
    Never,
    NumberLimit,
    Threshold,
    Warmup,
)
from statetrain.guards.prechelt import GL, PQ, UP, generalization_loss, progress
from statetrain.lifecycle.text import table
from statetrain.standard.stops import holds_of_nothing

drawn = settings(derandomize=True, database=None, deadline=None, max_examples=200)

LOSSES = [10.0, 8, 9, 10, 11, 12, 12, 13, 14, 15, 16, 17, 16]
NAN, INF = math.nan, math.inf


class Ctx:
    """A context that has recorded some rows."""

    def __init__(self, rows):
        self.history = History(rows=rows)
        self.max_epochs = 7
        self.first_row = 0


def holds(criterion, rows):
    return criterion(Ctx(rows))


def stopping_time(criterion, rows):
    """How many validations there had been when it first held; 0 if it never did."""
    rows = [row if isinstance(row, dict) else {"valid_loss": float(row)} for row in rows]
    for n in range(1, len(rows) + 1):
        if holds(criterion, rows[:n]):
            return sum("valid_loss" in row for row in rows[:n])
    return 0


@pytest.mark.parametrize(
    ("criterion", "time"),
    [
        (Never(), 0),
        (InvalidValue(), 0),
        *(
            (GL(alpha=alpha), time)
            for alpha, time in ((12, 3), (20, 4), (40, 6), (90, 11), (110, 12), (1000, 0))
        ),
        *((UP(n=n), time) for n, time in ((6, 0), (5, 12), (4, 6), (3, 5), (2, 4), (1, 3))),
        *(
            (EarlyStopping(patience=n), time)
            for n, time in ((6, 8), (5, 7), (4, 6), (3, 5), (2, 4), (1, 3))
        ),
        *((NumberLimit(n=n), n) for n in range(1, 14)),
        *((Warmup(NumberLimit(n=1), n), n + 1) for n in range(1, 13)),
        *((Warmup(UP(n=2), n), time) for n, time in ((1, 4), (2, 5), (3, 6), (4, 9), (6, 9))),
        (GL(alpha=12) | UP(n=5), 3),
        (UP(n=5) | Never(), 12),
        (GL(alpha=20) & UP(n=3), 5),
        (EarlyStopping(patience=6) | UP(n=3) & ~Threshold("valid_loss", 11), 6),
    ],
    ids=lambda value: value.label if isinstance(value, st.Guard) else None,
)
def test_stopping_times(criterion, time):
    "On the losses with which EarlyStopping.jl is tested, each stops when it does there; combinations when they must."
    assert stopping_time(criterion, LOSSES) == time


@pytest.mark.parametrize(("n", "time"), [(2, 5), (3, 9)])
def test_number_since_best(n, time):
    "Patience counts from the lowest value: an equal one is no improvement."
    assert stopping_time(EarlyStopping(patience=n), [10, 9, 8, 9, 10, 7, 10, 10, 10, 10]) == time


TRAIN_AND_VALID = [
    *([9.5, 9.3], 10),
    *([9.3, 9.1, 8.9], 8),
    *([8.3, 8.4], 9),
    *([9.9, 9.5], 10),
    *([10.6, 10.4], 11),
    *([8888, 11.8, 11.7], 12),
    *([11.6, 11.4], 12),
    *([12.2, 12.1], 13),
    *([14.5, 14.1], 14),
    *([13.9, 13.7], 15),
    *([12.5, 12.3], 16),
    *([11.2, 11.0], 17),
    *([10.5, 10.3], 16),
]


def strips():
    """The training losses of epochs, a validation after each few of them."""
    for trained, valid in zip(TRAIN_AND_VALID[::2], TRAIN_AND_VALID[1::2], strict=True):
        yield from ({"train_loss": loss} for loss in trained[:-1])
        yield {"train_loss": trained[-1], "valid_loss": float(valid)}


@pytest.mark.parametrize(("alpha", "time"), [(2.0, 3), (3.8, 5), (11.6, 6), (15.1, 8), (15.3, 0)])
def test_pq_stopping_times(alpha, time):
    "On the losses with which EarlyStopping.jl is tested, with two training losses to a strip."
    assert stopping_time(PQ(alpha=alpha, k=2), list(strips())) == time


def test_pq_by_hand():
    "It stops when training stalls; it waits for a validation, and for enough training losses."
    ten = {"train_loss": 10.0}
    assert progress([2.0, 3.0, 6.0, 7.0]) == pytest.approx(1000 * (4.5 - 2) / 2)
    assert holds(PQ(alpha=10, k=2), [ten, {**ten, "valid_loss": 10.0}])
    assert not holds(PQ(alpha=10, k=2), [ten, {**ten, "valid_loss": 10.0}, ten])
    assert not holds(PQ(alpha=10, k=2), [{**ten, "valid_loss": 10.0}])
    assert not holds(PQ(alpha=10, k=2), [ten, ten])
    assert holds(PQ(alpha=10, k=2), [ten, {"train_loss": NAN, "valid_loss": 10.0}])


numbers = some.floats(0.01, 100).map(lambda x: round(x, 1) + 0.1)


@given(losses=some.lists(numbers, min_size=1, max_size=12), alpha=some.floats(0.1, 60))
@drawn
def test_gl_is_the_published_quotient(losses, alpha):
    "GL(t) = 100 (E_va(t) / E_opt(t) - 1), where E_opt(t) is the least error so far."
    by_hand = 100 * (losses[-1] / min(losses) - 1)
    assert generalization_loss(losses) == pytest.approx(by_hand, abs=1e-9)
    if abs(by_hand - alpha) > 1e-6:
        assert holds(GL(alpha=alpha), [{"valid_loss": loss} for loss in losses]) == (
            by_hand > alpha
        )


@given(
    pairs=some.lists(some.tuples(numbers, numbers), min_size=2, max_size=12),
    k=some.integers(2, 5),
    alpha=some.floats(0.1, 5),
)
@drawn
def test_pq_is_the_published_quotient(pairs, k, alpha):
    "P_k(t) = 1000 (mean of the last k training errors / their minimum - 1), and PQ stops when GL(t) / P_k(t) > alpha."
    rows = [{"train_loss": train, "valid_loss": valid} for train, valid in pairs]
    strip, valid = [train for train, _ in pairs][-k:], [valid for _, valid in pairs]
    enough = len(strip) == k
    p = 1000 * (sum(strip) / (k * min(strip)) - 1) if enough else None
    quotient = None if not p or p < 1e-6 else 100 * (valid[-1] / min(valid) - 1) / p
    if enough and quotient is not None and abs(quotient - alpha) > 1e-6:
        assert holds(PQ(alpha=alpha, k=k), rows) == (quotient > alpha)
    elif not enough:
        assert not holds(PQ(alpha=alpha, k=k), rows)


@given(
    losses=some.lists(some.sampled_from([1.0, 2.0, 3.0, NAN]), max_size=10), n=some.integers(1, 4)
)
@drawn
def test_up_is_the_published_recursion(losses, n):
    "UP_s stops after a strip iff UP_{s-1} stops after the strip before and the error has risen since; UP_1 iff it has risen."

    def stops(s, t):
        rose = t >= 1 and losses[t] > losses[t - 1]
        return rose if s == 1 else rose and stops(s - 1, t - 1)

    assert holds(UP(n=n), [{"valid_loss": loss} for loss in losses]) == (
        bool(losses) and stops(n, len(losses) - 1)
    )


@given(
    losses=some.lists(some.sampled_from([1.0, 2.0, 3.0, 4.0]), max_size=12),
    n=some.integers(1, 4),
    at=some.integers(0, 3),
)
@drawn
def test_a_warmed_up_criterion_sees_the_rest(losses, n, at):
    "It holds exactly when the criterion holds of the history without its first rows."
    criterion = (
        GL(alpha=60),
        UP(n=1),
        EarlyStopping(patience=2),
        EarlyStopping(patience=3) & UP(n=2) | GL(alpha=250),
    )[at]
    rows = [{"valid_loss": loss, "epoch": i} for i, loss in enumerate(losses, 1)]
    assert holds(Warmup(criterion, n), rows) == holds(criterion, rows[n:])


def test_warming_up():
    "Rows without the monitor do not count; what it wraps gives its reason, and may be a function of the context."
    other = {"train_loss": 1.0}
    rows = [other, {"valid_loss": 1.0}, other, {"valid_loss": 2.0}, {"valid_loss": 3.0}]
    assert not holds(Warmup(NumberLimit(n=2), 1), rows[:4])
    assert holds(Warmup(NumberLimit(n=2), 1), rows)
    assert (
        Warmup(GL(alpha=2), 1).reason(Ctx(rows))
        == "valid_loss is 50 % above its best, more than 2 %"
    )

    @st.guard(reads={"history", "max_epochs"})
    def three_rows(ctx) -> bool:
        "three rows"
        return len(ctx.history) == 3 and ctx.max_epochs == 7

    assert holds(Warmup(three_rows, 2), rows)
    assert Warmup(three_rows, 2).label == "three rows, the first 2 rows left out"


@pytest.mark.parametrize("position", range(1, 6))
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_an_invalid_value(position, value):
    "It holds from the row on in which a value is not finite, also when later ones are."
    losses = [123.4] * 6
    losses[position - 1] = value
    assert stopping_time(InvalidValue(), losses) == position
    assert holds(InvalidValue(), [{"valid_loss": loss} for loss in losses])


@pytest.mark.parametrize(
    "criterion",
    [GL(), PQ(k=2), UP(n=1), InvalidValue(), NumberLimit(n=1), Warmup(UP(n=1)), Never()],
)
def test_nothing_recorded_stops_nothing(criterion):
    "Before there is a row, and on rows that carry other columns, no criterion holds."
    assert not holds(criterion, [])
    assert not holds(criterion, [{"epoch": 1, "valid_accuracy": 0.1}] * 4)


def test_losses_that_are_no_errors():
    "A loss below 0 is measured by its distance from the best; one of 0 is not divided by; a NaN is never the best."
    assert generalization_loss([-4.0, -2.0]) == 50.0
    assert generalization_loss([0.0, 1.0]) == INF
    assert generalization_loss([0.0, 0.0]) == 0.0
    assert generalization_loss([NAN, 2.0, 3.0]) == 50.0
    assert math.isnan(generalization_loss([NAN]))
    assert not holds(GL(), [{"valid_loss": 1.0}, {"valid_loss": NAN}])
    assert progress([0.0, 1.0]) == INF


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GL(alpha=0), "GL: alpha must be a number above 0, got 0"),
        (lambda: GL(2.0), "must be a column of the history such as 'valid_loss', got 2.0"),
        (lambda: PQ(alpha=-1), "PQ: alpha"),
        (lambda: PQ(k=1), "PQ: k must be at least 2"),
        (lambda: PQ(k=1.2), "PQ: k must be a whole number"),
        (lambda: PQ(tol=0), "PQ: tol"),
        (lambda: UP(n=0), "UP: n"),
        (lambda: NumberLimit(n=True), "NumberLimit: n"),
        (lambda: Warmup(UP(), 0), "Warmup: n"),
        (
            lambda: Warmup(UP() | TimeLimit(minutes=1)),
            r"\[after 1 minutes\] does not read; put it outside",
        ),
        (lambda: Warmup(Every(3, "epochs")), "every 3 epochs"),
    ],
)
def test_what_cannot_be_meant(make, words):
    "Numbers out of range, and conditions that a warm-up cannot be for, are errors when they are made."
    with pytest.raises(ValueError, match=words):
        make()


def test_in_a_run():
    "It ends the run with its reason; its monitors are checked before training; the table shows it."
    torch.manual_seed(0)
    inputs = torch.randn(24, 3)
    options = {
        "loss": F.mse_loss,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.5},
        "epochs": 30,
        "valid": (inputs, torch.randn(24, 1)),
    }
    criterion = Warmup(UP(n=2) | GL(alpha=1), 2) | PQ(k=3, alpha=50)
    run = st.fit(nn.Linear(3, 1), (inputs, torch.randn(24, 1)), stop=criterion, **options)
    assert isinstance(run.outcome, st.Stopped)
    assert "valid_loss" in run.outcome.reason
    assert criterion.label in table(run.lifecycle)
    with pytest.raises(st.ConfigError, match="valid_los"):
        st.fit(nn.Linear(3, 1), (inputs, inputs[:, :1]), stop=Warmup(UP("valid_los"), 3), **options)


def test_they_are_plain_values():
    "Lifecycles with them can be written down and read back, and equal ones have equal fingerprints."
    from statetrain.lifecycle.registry import to_dict
    from statetrain.standard.reading import from_dict

    life = st.supervised(
        stop=Warmup(PQ(k=3) | UP(n=2), 2) | InvalidValue("train_loss") | NumberLimit(n=7)
    )
    assert from_dict(to_dict(life)) == life
    assert from_dict(to_dict(life)).fingerprint == life.fingerprint


# ---------------------------------------------------------------- negated


@pytest.mark.parametrize(
    ("guard", "expected"),
    [
        (~st.Threshold("a", 1.0), True),
        ((~st.Threshold("a", 1.0)).named("high"), True),
        (~st.Threshold("a", 1.0) | st.EarlyStopping("a"), True),
        (~(st.Threshold("a", 1.0) & st.MinEpochs(3)), True),
        (~st.Threshold("a", 1.0) & ~st.UP("a"), True),
        (st.Threshold("a", 1.0), False),
        (st.NumberLimit("a", 1) & ~st.Threshold("a", 1.0), False),
        (st.UP("a", 3) & ~st.Threshold("a", 1.0) | st.GL("a"), False),
        (~st.Threshold("a", 1.0) & st.MinEpochs(3), None),
        (~(st.Threshold("a", 1.0) | st.MinEpochs(3)), None),
        (st.MinEpochs(3), None),
    ],
    ids=str,
)
def test_what_holds_of_an_empty_history_is_known(guard, expected):
    "By the table of truth, with what does not read the history unknown; where it is known, asking gives the same."
    assert holds_of_nothing(guard) is expected
    if expected is not None:
        ctx = Ctx([])
        ctx.epoch = 0
        assert guard(ctx) is expected


def test_a_stop_that_would_end_the_run_before_it_begins_is_refused():
    "Negated, a criterion holds before there is a value; the error says so, and both ways out work."
    with pytest.raises(
        st.ConfigError,
        match=(
            r"stop=\[not valid_loss at most 0.1\] holds as long as nothing .*"
            r" NumberLimit\(\"valid_loss\", 1\)"
        ),
    ):
        st.supervised(stop=~st.Threshold("valid_loss", 0.1) | st.TimeLimit(1))
    st.supervised(stop=~st.Threshold("valid_loss", 0.1), min_epochs=1)
    x, y = torch.randn(8, 4), torch.randint(0, 3, (8,))
    common = {"loss": F.cross_entropy, "optimizer": torch.optim.SGD, "epochs": 3, "verbose": False}
    run = st.fit(
        torch.nn.Linear(4, 3),
        (x, y),
        stop=st.NumberLimit("train_loss", 1) & ~st.Threshold("train_loss", 0.01),
        **common,
    )
    assert (run.outcome.epoch, len(run.history)) == (1, 1)


# ---------------------------------------------------------------- each row is read once


FOLDS = [
    EarlyStopping("valid_loss", 3),
    EarlyStopping("valid_loss", 2, mode="max", start_from_epoch=2),
    Threshold("valid_loss", 2.0),
    GL(alpha=10),
    PQ(k=2, alpha=0.5),
    UP(n=2),
    InvalidValue(),
    NumberLimit(n=4),
    Warmup(EarlyStopping("valid_loss", 1) | UP(n=1) & ~Threshold("valid_loss", 1.0), 2),
]
_ROWS = some.lists(
    some.fixed_dictionaries(
        {"epoch": some.integers(0, 4)},
        optional={
            "valid_loss": some.sampled_from([1.0, 2.0, 3.0, 2.5, -1.0, NAN, INF]),
            "train_loss": some.sampled_from([1.0, 1.5, 2.0, INF]),
        },
    ),
    max_size=12,
)


@drawn
@given(_ROWS, some.sampled_from(FOLDS), some.integers(0, 3), some.data())
def test_what_is_read_row_by_row_is_what_is_read_at_once(rows, guard, first, data):
    "Asked as rows come, as the last one gets columns, and after the history was cut or replaced: always as if asked for the first time."
    ctx = st.Context(history=History(), first_row=first)
    for n, row in enumerate(rows):
        ctx.history.rows.append(row)
        if n % 3 == 2:
            ctx.history.rows[-1].update(valid_loss=float(n))  # recorded late
        if data.draw(some.booleans()):
            assert guard(ctx) == guard(
                st.Context(history=History(rows=ctx.history.rows), first_row=first)
            )
    del ctx.history.rows[data.draw(some.integers(0, len(rows))) :]
    ctx.history.rows += [{"epoch": 1, "valid_loss": 9.0}] * data.draw(some.integers(0, 3))
    assert guard(ctx) == guard(st.Context(history=History(rows=ctx.history.rows), first_row=first))


def test_a_row_costs_the_same_however_many_there_are():
    "Each row is read twice: once as the last one, and once for good."
    read = []

    class Row(dict):
        def __contains__(self, name):
            read.append(name)
            return super().__contains__(name)

    for guard in (EarlyStopping("valid_loss", 10**9), GL(alpha=1e9), UP(n=10**9)):
        ctx = st.Context(history=History())
        read.clear()
        for n in range(200):
            ctx.history.rows.append(Row(epoch=n, valid_loss=1.0))
            guard(ctx)
        assert len(read) <= 2 * 200


@pytest.mark.parametrize("kind", ["EarlyStopping", "Warmup"])
def test_a_resumed_run_stops_where_it_would_have(kind, tmp_path):
    "Nothing of a fold is saved, and nothing is missing: cut and resumed, the run stops at the same epoch."
    stop = EarlyStopping("train_loss", 2, min_delta=1e9)
    if kind == "Warmup":
        stop = Warmup(stop, 2)
    common = {
        "loss": F.mse_loss,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 9,
        "stop": stop,
    }
    data = [(torch.ones(2, 1), torch.ones(2, 1))]
    whole = st.fit(nn.Linear(1, 1), data, **common)

    @st.on("enter_epoch")
    def cut(ctx):
        if ctx.epoch == 3:
            raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        st.fit(nn.Linear(1, 1), data, callbacks=[st.Checkpoint(tmp_path), cut], **common)
    run = st.fit(nn.Linear(1, 1), data, callbacks=st.Checkpoint(tmp_path), resume="last", **common)
    assert run.ctx.epoch == whole.ctx.epoch == (5 if kind == "Warmup" else 3)


def test_early_stopping_that_acts_several_times():
    "With `again`, it begins anew after its arrow was taken: three times over four equal values, two rows of patience each."
    taken = []
    lower = EarlyStopping("loss", 2, again=True)
    test, (mark,) = lower.bind("lower"), lower.marks("lower")
    ctx = st.Context(history=History())
    for n in range(1, 10):
        ctx.history.rows.append({"loss": 1.0})
        if test(ctx):
            taken.append(n)
            mark(ctx)
    assert taken == [3, 6, 9]  # the first of each three is the value to beat
    assert EarlyStopping("loss", 2).bind("lower")(ctx)  # without, it stays true


def test_early_stopping_inside_an_epoch_without_end():
    "With `prompt`, validations count inside an epoch: of endless data, the run stops after the third that is no better."

    class Endless:
        def __iter__(self):
            while True:
                yield torch.zeros(2, 1), torch.ones(2, 1)

    run = st.fit(
        nn.Linear(1, 1),
        Endless(),
        valid=[(torch.zeros(2, 1), torch.ones(2, 1))],
        loss=F.mse_loss,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 1e-30},
        epochs=1,
        validate=Every(2, "steps"),
        stop=EarlyStopping("valid_loss", 2, prompt=True),
    )
    assert isinstance(run.outcome, st.Stopped)
    assert run.ctx.step == 6
