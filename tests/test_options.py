"""Every option of `supervised()`, alone and together: a sound table, a balanced walk, and the reference loop's weights."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from attrs import define
from hypothesis import given, settings
from hypothesis import strategies as hs
from reference import bits, train
from torch.nn import functional as F

import statetrain as st

SECOND = 1.0


@define
class Clock:
    """Time that passes only when something is computed."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@define
class Loss:
    """Cross-entropy that takes a second. At given calls in training it is NaN, or finite with gradients that are not."""

    clock: Clock
    nan_at: int | None
    broken_at: int | None
    calls: int = 0

    def __call__(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.clock.now += SECOND
        loss = F.cross_entropy(pred, target)
        if loss.requires_grad:
            self.calls += 1
            if self.calls == self.nan_at:
                return loss * float("nan")
            if self.calls == self.broken_at:
                return loss + (0 * pred.sum()).abs().sqrt()  # the root of 0 has no derivative
        return loss


def accuracy(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (pred.argmax(1) == target).float().mean()


class Parts(torch.nn.Module):
    """Two parts, so that two optimizers have one each."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.ReLU(), torch.nn.Dropout(0.3)
        )
        self.head = torch.nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def compute(ctx: Any) -> torch.Tensor:
    "pred, loss and backward of one's own"
    ctx.pred = ctx.model(ctx.input)
    loss = ctx.loss_fn(ctx.pred, ctx.target)
    loss.backward(inputs=ctx.inputs)
    return loss


def valid_compute(ctx: Any) -> torch.Tensor:
    "pred and loss of one's own"
    ctx.pred = ctx.model(ctx.input)
    return ctx.loss_fn(ctx.pred, ctx.target)


class Walk(st.Callback):
    """Records what is entered and left, and the context's counters on the way."""

    def __init__(self, lifecycle: st.Lifecycle) -> None:
        self.open: list[str] = []
        self.batches = self.steps = self.epochs = 0
        for name in lifecycle.names:
            setattr(self, f"on_enter_{name}", partial(self.enter, name))
            setattr(self, f"on_exit_{name}", partial(self.leave, name))

    def enter(self, name: str, ctx: Any) -> None:
        assert ctx.state == name
        self.open.append(name)
        self.epochs += name == "epoch"
        self.batches += name == "batch"
        self.steps += name == "step" and ctx.opt_index + 1 == len(ctx.optimizers)

    def leave(self, name: str, ctx: Any) -> None:
        assert self.open.pop() == name


@define(frozen=True)
class Case:
    """A combination of options. Sizes are those of the batches; at least 2, as batch norm wants."""

    train_sizes: list[int]
    valid_sizes: list[int] | None
    sized: bool
    adam: bool
    epochs: int
    min_epochs: int
    several: bool
    accumulate: int
    validate: tuple[int, str]
    patience: int | None
    seconds: int | None
    max_steps: int | None
    non_finite: str
    check_gradients: bool
    nan_at: int | None
    broken_at: int | None
    compute: bool
    valid_compute: bool
    metric: bool
    closure: bool


@hs.composite
def cases(draw: hs.DrawFn) -> Case:
    sizes = hs.lists(hs.integers(2, 5), min_size=1, max_size=5)
    valid_sizes = draw(hs.none() | hs.lists(hs.integers(1, 5), min_size=1, max_size=3))
    several = draw(hs.booleans())
    closure = draw(hs.sampled_from([False, False, False, True]))
    epochs = draw(hs.integers(0, 4))
    non_finite = draw(hs.sampled_from(["raise", "skip", "stop", "ignore"]))
    return Case(
        train_sizes=draw(sizes),
        valid_sizes=valid_sizes,
        sized=draw(hs.booleans()),
        adam=draw(hs.booleans()),
        epochs=epochs,
        min_epochs=draw(hs.integers(0, epochs)),
        several=several,
        accumulate=1 if several or closure else draw(hs.sampled_from([1, 1, 2, 3, 4, 7])),
        validate=(draw(hs.integers(1, 7)), draw(hs.sampled_from(["epochs", "steps", "seconds"]))),
        patience=draw(hs.none() | hs.integers(1, 2)),
        seconds=draw(hs.none() | hs.integers(1, 30)),
        max_steps=draw(hs.none() | hs.integers(1, 12)),
        non_finite=non_finite,
        check_gradients=non_finite != "ignore" and draw(hs.booleans()),
        nan_at=draw(hs.none() | hs.integers(1, 12)),
        broken_at=draw(hs.none() | hs.integers(1, 12)),
        compute=not closure and draw(hs.booleans()),
        valid_compute=valid_sizes is not None and draw(hs.booleans()),
        metric=draw(hs.booleans()),
        closure=closure,
    )


def batches_of(sizes: list[int], seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, 4, generator=generator), torch.randint(3, (n,), generator=generator))
        for n in sizes
    ]


def optimizers_for(model: Parts, case: Case) -> dict[str, torch.optim.Optimizer]:
    def make(parameters: Any) -> torch.optim.Optimizer:
        if case.closure:
            return torch.optim.LBFGS(parameters, lr=0.1, max_iter=3)
        return (
            torch.optim.Adam(parameters, lr=0.01)
            if case.adam
            else torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
        )

    if case.several:
        return {"body": make(model.body.parameters()), "head": make(model.head.parameters())}
    return {"opt": make(model.parameters())}


def lifecycle_of(case: Case) -> st.Lifecycle:
    stops = (
        [st.EarlyStopping(monitor_of(case), patience=case.patience)]
        if case.patience is not None
        else []
    )
    stops += [st.TimeLimit(seconds=case.seconds)] if case.seconds is not None else []
    return st.supervised(
        stop=None if not stops else stops[0] if len(stops) == 1 else stops[0] | stops[1],
        non_finite=case.non_finite,
        check_gradients=case.check_gradients,
        accumulate=case.accumulate,
        validate=st.Every(*case.validate) if case.valid_sizes is not None else None,
        optimizers=2 if case.several else 1,
        max_steps=case.max_steps,
        min_epochs=case.min_epochs,
        compute=compute if case.compute else None,
        valid_compute=valid_compute if case.valid_compute else None,
        closure=case.closure,
    )


def monitor_of(case: Case) -> str:
    return "train_loss_head" if case.several else "train_loss"


def in_full(rows: Any) -> list[dict[str, str]]:
    "Rows in which a NaN equals a NaN, and numbers are equal to the last bit."
    return [{name: repr(value) for name, value in row.items()} for row in rows]


@settings(max_examples=150, derandomize=True, deadline=None)
@given(cases())
def test_any_options_give_a_balanced_walk_and_the_weights_of_the_reference_loop(case: Case) -> None:
    "Whatever is combined: enters and exits pair up, counters and rows agree, and every bit is that of the loop by hand."
    batches = batches_of(case.train_sizes, 1)
    valid = batches_of(case.valid_sizes, 2) if case.valid_sizes is not None else None
    torch.manual_seed(3)
    model = Parts()
    twin = copy.deepcopy(model)

    clock = Clock()
    loss = Loss(clock, case.nan_at, case.broken_at)
    optimizers = optimizers_for(twin, case)
    torch.manual_seed(4)
    ran = train(
        twin,
        batches,
        dict.fromkeys(optimizers, loss),
        optimizers,
        epochs=case.epochs,
        clock=clock,
        valid=valid,
        validate=case.validate,
        patience=case.patience,
        monitor=monitor_of(case),
        min_epochs=case.min_epochs,
        seconds=case.seconds,
        max_steps=case.max_steps,
        non_finite=case.non_finite,
        check_gradients=case.check_gradients,
        accumulate=case.accumulate,
        closure=case.closure,
        metric=accuracy if case.metric else None,
        sized=case.sized,
    )

    life = lifecycle_of(case)
    walk = Walk(life)
    clock = Clock()
    torch.manual_seed(4)
    try:
        run = st.fit(
            model,
            batches if case.sized else lambda: batches_of(case.train_sizes, 1),
            valid=valid,
            loss=Loss(clock, case.nan_at, case.broken_at),
            optimizer=optimizers_for(model, case),
            metrics={"metric": accuracy} if case.metric else None,
            epochs=case.epochs,
            lifecycle=life,
            callbacks=walk,
            clock=clock,
            verbose=False,
        )
    except st.NonFiniteLoss as error:
        run = error.run
    ctx = run.ctx

    assert type(run.outcome).__name__ == ran.ended
    assert (ctx.epoch, ctx.step, ctx.samples, ctx.batches) == (
        ran.epoch,
        ran.step,
        ran.samples,
        ran.batches,
    )
    assert (ctx.epoch, ctx.step, ctx.batches) == (
        walk.epochs,
        walk.steps,
        walk.batches,
    ) or ran.ended == "Failed"
    assert in_full(run.history) == in_full(ran.rows)
    assert bits(model, *ctx.optimizers.values()) == bits(twin, *optimizers.values())
    assert walk.open == (["end"] if ran.ended != "Failed" else walk.open)
    assert torch.is_grad_enabled()
    assert all(module.training for module in model.modules())


# ---------------------------------------------------------------- one option at a time


def options(**more: Any) -> dict[str, Any]:
    return {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "dataloader_options": {"batch_size": 8},
        "epochs": 2,
        "trace": True,
        **more,
    }


def at(hook: str, what: Any) -> st.Callback:
    "A callback that does something in one hook."
    callback = type("At", (st.Callback,), {hook: lambda self, ctx: what(ctx)})
    return callback()


def raising(event: BaseException, when: Any = lambda ctx: True) -> Any:
    def act(ctx: Any) -> None:
        if when(ctx):
            raise event

    return act


def test_both_kinds_of_intervals_for_validation(points, net):
    "Every epoch or every 2 steps: inside an epoch by steps alone, and at its end in any case."
    # 3 steps an epoch
    run = st.fit(
        net,
        points,
        valid=[points],
        validate=st.Every(1, "epochs") | st.Every(2, "steps"),
        **options(),
    )
    rows = [
        (row["epoch"], row["step"], row["epoch_complete"], "valid_loss" in row)
        for row in run.history
    ]
    assert rows == [
        (1, 2, False, True),
        (1, 3, True, True),
        (2, 4, False, True),
        (2, 6, True, True),
    ]


def test_validation_every_so_many_epochs(points, net):
    "Every(2, 'epochs') validates at the end of epochs 2 and 4, and early stopping counts the rows that carry the monitor."
    run = st.fit(net, points, valid=[points], validate=st.Every(2, "epochs"), **options(epochs=5))
    assert ["valid_loss" in row for row in run.history] == [False, True, False, True, False]
    never = st.EarlyStopping("valid_loss", patience=2, baseline=-1.0)
    run = st.fit(
        net, points, valid=[points], validate=st.Every(2, "epochs"), stop=never, **options(epochs=9)
    )
    assert run.outcome.epoch == 4


def test_a_validation_inside_an_epoch_reopens_train(points, net):
    "Going back to train after a validation leaves record and enters train, with their hooks, in the same epoch."
    run = st.fit(net, points, valid=[points], validate=st.Every(2, "steps"), **options(epochs=1))
    assert (
        " ".join(run.trace.states)
        == "fit next_epoch epoch train next_batch draw batch pred loss backward step next_batch"
        " draw batch pred loss backward step valid next_valid_batch valid_draw valid_batch"
        " valid_pred valid_loss next_valid_batch valid_draw record train next_batch draw batch"
        " pred loss backward step next_batch draw record next_epoch end"
    )
    assert [row["epoch_complete"] for row in run.history] == [False, True]
    assert "valid_loss" not in run.history[1]


def test_no_row_if_nothing_is_new(points, net):
    "A validation that is due at the last step of an epoch is the one at its end: one row, which is complete."
    complete = []
    run = st.fit(
        net,
        points,
        valid=[points],
        validate=st.Every(3, "steps"),
        callbacks=at("on_exit_record", lambda ctx: complete.append(ctx.epoch_complete)),
        **options(),
    )
    assert [row["step"] for row in run.history] == [3, 6]
    assert complete == [True, True]


def test_a_stop_in_an_epoch_records_what_there_is(points, net):
    "max_steps acts within a batch; the row of the broken epoch says that it is not complete, and nothing is validated."
    run = st.fit(net, points, valid=[points], max_steps=4, **options())
    assert run.outcome == st.Stopped(2, "4 steps made")
    assert [
        (row["step"], row["samples"], row["epoch_complete"], "valid_loss" in row)
        for row in run.history
    ] == [
        (3, 22, True, True),
        (4, 30, False, False),
    ]


@pytest.mark.parametrize(
    "limit",
    [
        {"max_steps": 6},
        {"stop": st.MaxSteps(6)},
        {"max_steps": 6, "validate": st.Every(3, "steps")},
    ],
    ids=str,
)
def test_an_epoch_that_the_last_step_ends_is_whole(limit, points, net):
    "Where the limit of steps falls on an epoch's last batch, the epoch is validated and complete, as by any other end of it."
    run = st.fit(net, points, valid=[points], **limit, **options(epochs=9))
    assert run.outcome == st.Stopped(2, "6 steps made")
    assert [(row["epoch"], row["step"], "valid_loss" in row) for row in run.history] == [
        (1, 3, True),
        (2, 6, True),
    ]
    assert run.ctx.epoch_complete
    by_epochs = st.fit(copy.deepcopy(net), points, valid=[points], **options(epochs=2))
    assert run.history.columns == by_epochs.history.columns


def test_an_epoch_whose_length_nobody_knows_is_broken_off(points, net):
    "Of data without a length it is not known that the last step ended the epoch; no batch more is drawn to find out."
    drawn = []

    def stream():
        for i in range(0, 22, 8):
            drawn.append(i)
            yield tuple(part[i : i + 8] for part in points)

    run = st.fit(net, stream, valid=[points], max_steps=3, **options(dataloader_options=None))
    assert (run.history[-1]["step"], run.history[-1]["epoch_complete"]) == (3, False)
    assert len(drawn) == 3


def test_a_validation_that_is_due_at_the_last_step_is_made(points, net):
    "A limit of steps cuts no validation short, within an epoch neither; the row says that the epoch is not complete."
    run = st.fit(
        net, points, valid=[points], validate=st.Every(2, "steps"), max_steps=4, **options()
    )
    assert [(row["step"], "valid_loss" in row, row["epoch_complete"]) for row in run.history] == [
        (2, True, False),
        (3, False, True),
        (4, True, False),
    ]
    assert run.outcome == st.Stopped(2, "4 steps made")


def test_a_stop_in_a_validation_drops_it(points, net):
    "A stop asked for in the middle of a validation leaves its values out, since they are not of the whole set."
    batches = [tuple(part[i : i + 8] for part in points) for i in (0, 8)]
    run = st.fit(
        net,
        points,
        valid=batches,
        callbacks=at("on_exit_valid_loss", lambda ctx: ctx.request_stop("seen enough")),
        **options(),
    )
    assert run.outcome == st.Stopped(1, "seen enough")
    assert run.ctx.valid_iter == 1
    assert len(run.history) == 1
    assert "valid_loss" not in run.history[0]
    assert run.history[0]["epoch_complete"] is False


HOOKS = [
    f"on_{way}_{state}"
    for state in st.supervised().names
    for way in ("enter", "exit")
    if (way, state) != ("exit", "end")
]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_stop_may_be_requested_in_any_hook(hook, points, net):
    "Wherever it is asked for, the run stops in order at the next loop head, with the reason; after the last one it is complete."
    run = st.fit(
        net,
        points,
        valid=[points],
        callbacks=at(hook, lambda ctx: ctx.request_stop(f"asked in {ctx.state}")),
        **options(),
    )
    if hook in ("on_exit_fit", "on_enter_end"):
        assert run.outcome == st.Completed(2)
        return
    assert isinstance(run.outcome, st.Stopped)
    assert run.outcome.reason.startswith("asked in ")
    assert run.outcome.epoch <= 1
    assert run.ctx.step <= 3
    assert run.trace.states[-1] == "end"


# ---------------------------------------------------------------- events


@pytest.mark.parametrize("state", ["batch", "pred", "loss", "backward", "step"])
def test_a_skipped_batch_makes_no_step(state, points, net):
    "SkipBatch from any enter hook of a batch leaves it; the others are trained, and its gradients do not stay."
    left = []

    class Look(st.Callback):
        def on_transition(self, ctx):
            if ctx.transition.event is st.SkipBatch:
                left.append([p.grad for p in ctx.model.parameters()])

    skip = at(f"on_enter_{state}", raising(st.SkipBatch("odd"), lambda ctx: ctx.iter == 2))
    run = st.fit(net, points, callbacks=[skip, Look()], **options())
    assert left == [[None] * 4] * 2
    assert run.outcome == st.Completed(2)
    assert run.ctx.step == 4
    assert run.ctx.batches == 6
    assert run.ctx.pending == 0
    assert [row["epoch_complete"] for row in run.history] == [True, True]


def test_a_skipped_batch_takes_its_window_with_it(points, net):
    "Within an accumulation window, SkipBatch discards what the window has gathered."
    batches = [points] * 5
    model = torch.nn.Linear(4, 3)
    by_hand = copy.deepcopy(model)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for window in (2, 1):  # batches 3 and 4, then 5; the first two are gone
        optimizer.zero_grad()
        for _ in range(window):
            F.cross_entropy(by_hand(points[0]), points[1]).backward()
        for parameter in by_hand.parameters():
            parameter.grad /= window
        optimizer.step()
    skip = at("on_enter_pred", raising(st.SkipBatch(), lambda ctx: ctx.iter == 2))
    run = st.fit(
        model, batches, accumulate=2, callbacks=skip, **options(dataloader_options=None, epochs=1)
    )
    assert run.ctx.step == 2
    assert bits(model) == bits(by_hand)


class Gaps(torch.utils.data.Dataset):
    "Samples of which some cannot be read."

    def __init__(self, points, missing):
        self.points, self.missing = points, missing

    def __len__(self):
        return len(self.points[0])

    def __getitem__(self, index):
        if index in self.missing:
            raise st.SkipBatch(f"sample {index} cannot be read")
        return tuple(part[index] for part in self.points)


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("missing", [{0}, {9}, {21}, {0, 9}])
def test_data_may_give_a_batch_up(missing, sized, points, net):
    "SkipBatch from the data itself leaves that batch out; the epoch ends where it ends, and the last window is applied."
    loader = torch.utils.data.DataLoader(Gaps(points, missing), batch_size=8)
    given = loader if sized else lambda: loader
    run = st.fit(net, given, **options(dataloader_options=None))
    assert run.outcome == st.Completed(2)
    assert run.ctx.step == 2 * (3 - len(missing))
    run = st.fit(net, given, accumulate=5, **options(dataloader_options=None))
    assert run.outcome == st.Completed(2)
    # Giving up the last batch takes its window with it, as SkipBatch anywhere does.
    assert run.ctx.step == (0 if missing == {21} else 2)


def test_a_skipped_validation_batch_is_left_out_of_the_mean(points, net):
    "SkipBatch in validation goes on with the next batch; the mean is over the others."
    batches = [tuple(part[i : i + 8] for part in points) for i in (0, 8)]
    skip = at("on_enter_valid_pred", raising(st.SkipBatch(), lambda ctx: ctx.valid_iter == 1))
    run = st.fit(net, points, valid=batches, callbacks=skip, **options(epochs=1))
    with torch.no_grad():
        expected = F.cross_entropy(net.eval()(batches[1][0]), batches[1][1]).item()
    assert run.history["valid_loss"] == [expected]
    assert run.history[0]["epoch_complete"] is True


def test_a_skipped_epoch_counts_as_exhausted(points, net):
    "SkipEpoch in train goes to the validation that is due, as if the data were exhausted, and the next epoch is whole."
    skip = at(
        "on_enter_backward",
        raising(st.SkipEpoch("enough"), lambda ctx: (ctx.epoch, ctx.iter) == (1, 2)),
    )
    run = st.fit(net, points, valid=[points], callbacks=skip, **options())
    assert [(row["step"], row["epoch_complete"], "valid_loss" in row) for row in run.history] == [
        (1, True, True),
        (4, True, True),
    ]
    assert run.outcome == st.Completed(2)


def test_an_epoch_skipped_at_its_beginning_has_no_row(points, net):
    "SkipEpoch on the way into train leaves nothing to record; the epoch counts as made all the same."
    complete = []
    look = at("on_exit_record", lambda ctx: complete.append(ctx.epoch_complete))
    run = st.fit(
        net, points, callbacks=[look, at("on_enter_train", raising(st.SkipEpoch()))], **options()
    )
    assert run.outcome == st.Completed(2)
    assert len(run.history) == 0
    assert complete == [True, True]


def test_a_skipped_validation_is_dropped(points, net):
    "SkipEpoch in valid leaves that validation alone: the row has the training's values, and is not complete."
    skip = at("on_enter_valid_loss", raising(st.SkipEpoch(), lambda ctx: ctx.epoch == 1))
    run = st.fit(net, points, valid=[points], callbacks=skip, **options())
    assert [
        (row["epoch_complete"], "valid_loss" in row, "train_loss" in row) for row in run.history
    ] == [(False, False, True), (True, True, True)]


def test_a_skipped_validation_inside_an_epoch_goes_on_training(points, net):
    "SkipEpoch in a validation inside an epoch drops the validation, not the rest of the epoch."
    run = st.fit(
        net,
        points,
        valid=[points],
        validate=st.Every(1, "steps"),
        callbacks=at("on_enter_valid_pred", raising(st.SkipEpoch())),
        **options(epochs=1),
    )
    assert run.ctx.step == 3
    assert len(run.history) == 3
    assert "valid_loss" not in run.history.columns


def test_a_validation_dropped_inside_an_epoch_does_not_break_it(points, net):
    "An epoch that is made to its end is complete, though a validation on the way was left."
    run = st.fit(
        net,
        points,
        valid=[points],
        validate=st.Every(2, "steps"),
        callbacks=at("on_enter_valid_pred", raising(st.SkipEpoch())),
        **options(epochs=1),
    )
    assert [(row["step"], row["epoch_complete"]) for row in run.history] == [(2, False), (3, True)]
    assert run.ctx.epoch_complete is True


@pytest.mark.parametrize("state", ["epoch", "record"])
def test_an_epoch_skipped_outside_train_leaves_nothing_to_the_next(state, points, net):
    "SkipEpoch in an epoch's own hook or in record's ends it without a row; the next row is of its own epoch."
    skip = at(f"on_enter_{state}", raising(st.SkipEpoch(), lambda ctx: ctx.epoch == 1))
    run = st.fit(net, points, callbacks=skip, **options(opt_hparams={"lr": 0.0}))
    assert run.outcome == st.Completed(2)
    assert [row["epoch"] for row in run.history] == [2]
    net[2].p = 0.0
    once = st.fit(net, points, **options(opt_hparams={"lr": 0.0}, epochs=1))
    assert run.ctx.tallies["train"].losses["opt"].count == 0
    assert len(once.history) == 1


@pytest.mark.parametrize(
    "state", ["fit", "epoch", "train", "draw", "pred", "step", "valid", "valid_loss", "record"]
)
def test_a_fit_can_be_left_from_anywhere(state, points, net):
    "StopFit from any enter hook closes every scope and ends the run, with its reason."
    life = st.supervised()
    walk = Walk(life)
    run = st.fit(
        net,
        points,
        valid=[points],
        callbacks=[walk, at(f"on_enter_{state}", raising(st.StopFit("that will do")))],
        **options(),
    )
    assert isinstance(run.outcome, st.Stopped)
    assert run.outcome.reason == "that will do"
    assert walk.open == ["end"]


def test_actions_may_raise_events_too(points, net):
    "The model, the loss or a state of one's own may raise SkipBatch and StopFit."

    def loss(pred, target):
        if len(target) == 6:
            raise st.SkipBatch("short")
        return F.cross_entropy(pred, target)

    assert st.fit(net, points, **options(loss=loss)).ctx.step == 4

    def patience_lost(ctx):
        "give up in the second epoch"
        if ctx.epoch == 2:
            raise st.StopFit("second epoch")

    life = st.supervised(validate=None).insert(
        st.State("check", patience_lost), between=("loss", "backward")
    )
    assert st.fit(net, points, lifecycle=life, **options()).outcome == st.Stopped(2, "second epoch")


def test_an_event_of_ones_own(points, net):
    "A user's event with an arrow of its own is taken like the built-in ones."

    class Rewind(st.Event):
        pass

    life = st.supervised(validate=None).add(st.Transition("epoch", "next_epoch", event=Rewind))
    run = st.fit(
        net,
        points,
        lifecycle=life,
        callbacks=at("on_enter_step", raising(Rewind("again"), lambda ctx: ctx.epoch == 1)),
        **options(),
    )
    assert run.outcome == st.Completed(2)
    assert run.ctx.step == 3
    assert str(run.ctx.event) == "again"


# -------------------- losses and gradients that are not finite


def nan_in_batch(number):
    calls = []

    def loss(pred, target):
        value = F.cross_entropy(pred, target)
        calls.append(value.requires_grad)
        return value * float("nan") if value.requires_grad and sum(calls) == number else value

    return loss


def test_a_nan_raises_unless_something_else_is_said(points, net):
    "By default, a NaN fails the run before it reaches the weights, and the error says what to do."
    before = bits(net)
    with pytest.raises(
        st.NonFiniteLoss,
        match=(
            r"^the loss is nan; the weights are as they were before this batch.*non_finite='skip'"
        ),
    ) as caught:
        st.fit(net, points, **options(loss=nan_in_batch(1)))
    run = caught.value.run
    assert bits(net) == before
    assert run.outcome.state == "loss"
    assert run.trace.states[-1] == "failed"
    assert "epoch 1, batch 1, step 0" in caught.value.__notes__[0]


def test_a_nan_stops_the_run(points, net):
    "non_finite='stop' ends the run in order: a row for what was trained before, and the reason."
    run = st.fit(net, points, non_finite="stop", **options(loss=nan_in_batch(3)))
    assert run.outcome == st.Stopped(1, "the loss is nan")
    assert run.ctx.step == 2
    assert [(row["step"], row["epoch_complete"]) for row in run.history] == [(2, False)]


def test_an_epoch_of_nothing_but_nan_has_no_row(points, net):
    "If every batch is skipped there is nothing to record, and the run goes on."
    before = bits(net)
    run = st.fit(
        net,
        points,
        non_finite="skip",
        **options(loss=lambda pred, target: pred.sum() * float("inf")),
    )
    assert run.outcome == st.Completed(2)
    assert len(run.history) == 0
    assert bits(net) == before


def test_gradients_that_are_not_finite_are_caught_if_asked(points, net):
    "A finite loss with NaN gradients passes the loss check; check_gradients stops it before the weights."

    def loss(pred, target):
        return F.cross_entropy(pred, target) + (0 * pred.sum()).abs().sqrt()

    before = bits(net)
    with pytest.raises(st.NonFiniteLoss, match="the norm of the gradients is nan"):
        st.fit(net, points, check_gradients=True, **options(loss=loss))
    assert bits(net) == before
    run = st.fit(net, points, check_gradients=True, non_finite="skip", **options(loss=loss))
    assert run.ctx.step == 0
    assert bits(net) == before
    st.fit(net, points, **options(loss=loss, epochs=1, dataloader_options={"batch_size": 22}))
    assert bits(net) != before


def test_the_norm_of_the_gradients_is_there_to_read(points, net):
    "With check_gradients, ctx.grad_norm is the norm of all gradients before the step."
    norms = []

    class Look(st.Callback):
        def on_enter_step(self, ctx):
            norms.append(
                (
                    ctx.grad_norm,
                    torch.cat([p.grad.flatten() for p in ctx.model.parameters()]).norm().item(),
                )
            )

    st.fit(net, points, check_gradients=True, callbacks=Look(), **options())
    assert len(norms) == 6
    assert all(read == pytest.approx(true) for read, true in norms)


# ---------------------------------------------------------------- computations of one's own


def test_compute_with_accumulation_and_metrics(points, net):
    "The batch is still open when the metrics see it, also where the window is not full."
    run = st.fit(
        net,
        [points] * 3,
        compute=compute,
        accumulate=2,
        metrics={"accuracy": accuracy},
        **options(dataloader_options=None),
    )
    assert run.ctx.step == 4
    assert len(run.history["train_accuracy"]) == 2


def test_compute_may_return_a_number(points, net):
    "A loss that is a plain number is recorded; what was called backward on is the function's own business."

    def own(ctx):
        loss = F.cross_entropy(ctx.model(ctx.input), ctx.target)
        loss.backward()
        return loss.item()

    run = st.fit(net, points, compute=own, **options())
    assert run.ctx.step == 6
    assert run.ctx.loss is None


def test_metrics_need_a_prediction(points, net):
    "With a computation that sets no ctx.pred, metrics say so."

    def own(ctx):
        loss = F.cross_entropy(ctx.model(ctx.input), ctx.target)
        loss.backward()
        return loss

    with pytest.raises(st.LossError, match=r"a custom computation has to set ctx\.pred"):
        st.fit(net, points, compute=own, metrics=accuracy, **options())


def test_a_step_that_computes_the_loss_again(points, net):
    "An optimizer that needs a closure (LBFGS) replays pred, loss and backward, as its loop by hand does."
    net[2].p = 0.0
    by_hand = copy.deepcopy(net)
    optimizer = torch.optim.LBFGS(by_hand.parameters(), lr=0.5, max_iter=4)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(by_hand(points[0]), points[1])
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    run = st.fit(
        net,
        [points],
        **options(
            optimizer=torch.optim.LBFGS,
            opt_hparams={"lr": 0.5, "max_iter": 4},
            epochs=3,
            dataloader_options=None,
        ),
    )
    assert bits(net) == bits(by_hand)
    assert run.ctx.step == 3
