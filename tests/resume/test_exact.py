"""A run that is cut anywhere and continued is the run that was never cut."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, WeightedRandomSampler

import statetrain as st
from statetrain.errors import CheckpointError
from statetrain.testing.resuming import assert_resumable

SIZE = 22  # samples: three batches of 8, the last one short


def points() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(SIZE, 4, generator=generator)
    return torch.cat([inputs, torch.arange(SIZE)[:, None]], 1), (
        inputs @ torch.randn(4, 3, generator=generator)
    ).argmax(1)


class Net(nn.Module):
    """Linear, batch norm, dropout; the last column of the input is the sample's number."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.drop, self.b = (
            nn.Linear(4, 6),
            nn.BatchNorm1d(6),
            nn.Dropout(0.3),
            nn.Linear(6, 3),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.b(self.drop(self.norm(self.a(inputs[:, :4]))))


class Noisy(Dataset[Any]):
    """Random augmentation from all three sources at once."""

    def __init__(self) -> None:
        self.inputs, self.targets = points()

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> Any:
        noise = torch.zeros(5)
        noise[:4] = 0.1 * torch.randn(4) + 0.1 * random.random() + 0.1 * float(np.random.rand())
        return self.inputs[index] + noise, self.targets[index]


class Order(st.Callback):
    """Writes down which samples came, in training and in validation; the records are compared with the rest."""

    anywhere = True

    def on_enter_pred(self, ctx: Any) -> None:
        ctx.log("train samples", ctx.input[:, 4].round().long().tolist())

    def on_enter_valid_pred(self, ctx: Any) -> None:
        ctx.log("valid samples", ctx.input[:, 4].round().long().tolist())


def build(**options: Any) -> Callable[[], st.Run]:
    """A small run of two epochs with validation; options that are functions make what they stand for."""

    def make() -> st.Run:
        chosen = {
            name: (
                value()
                if name in ("train", "valid", "callbacks")
                and callable(value)
                and not isinstance(value, type)
                else value
            )
            for name, value in options.items()
        }
        model = chosen.pop("model", Net)()
        callbacks = [Order(), *chosen.pop("callbacks", [])]
        defaults: dict[str, Any] = {
            "train": points(),
            "valid": points(),
            "loss": F.cross_entropy,
            "optimizer": torch.optim.SGD,
            "opt_hparams": {"lr": 0.1, "momentum": 0.9} if "optimizer" not in chosen else {},
            "epochs": 2,
            "clock": lambda: 0.0,
            "verbose": False,
        }
        given = {**defaults, **chosen}
        train = given.pop("train")
        if not isinstance(train, DataLoader | IterableDataset) and isinstance(
            train, tuple | Dataset
        ):
            given.setdefault("dataloader_options", {"batch_size": 8})
        if not isinstance(given["optimizer"], type):
            given["optimizer"] = given["optimizer"](model)
        return st.fit(model, train, callbacks=callbacks, start=False, **given)

    return make


class Told(Sampler[int]):
    """An order that depends on the epoch that it is told, as a distributed sampler's."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter([(index * 7 + self.epoch) % SIZE for index in range(SIZE)])

    def __len__(self) -> int:
        return SIZE


class Stream(IterableDataset[Any]):
    """Samples with random noise in an order drawn when iteration begins, without a length."""

    def __init__(self) -> None:
        self.data = points()

    def __iter__(self) -> Iterator[Any]:
        for i in torch.randperm(SIZE).tolist():
            noise = torch.zeros(5)
            noise[:4] = 0.1 * torch.randn(4)
            yield self.data[0][i] + noise, self.data[1][i]


class Remembering:
    """Batches from a place that the loader itself keeps, within an epoch and from one to the next."""

    def __init__(self) -> None:
        self.inputs, self.targets = points()
        self.rng, self.order, self.at = random.Random(5), list(range(SIZE)), 0

    def __iter__(self) -> Iterator[Any]:
        if self.at == 0:
            self.rng.shuffle(self.order)
        while self.at < SIZE:
            chosen = self.order[self.at : self.at + 8]
            self.at += 8
            yield self.inputs[chosen], self.targets[chosen]
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"order": list(self.order), "at": self.at if self.at < SIZE else 0}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.order, self.at = list(state["order"]), state["at"]


class Coins(Dataset[Any]):
    """A dataset with generators of its own."""

    def __init__(self) -> None:
        self.inputs, self.targets = points()
        self.generator, self.rng, self.dice = (
            torch.Generator().manual_seed(3),
            np.random.default_rng(4),
            random.Random(5),
        )

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> Any:
        noise = torch.zeros(5)
        noise[:4] = (
            torch.randn(4, generator=self.generator) + float(self.rng.random()) + self.dice.random()
        )
        return self.inputs[index] + noise * 0.1, self.targets[index]


class Count:
    """A metric that is a plain object: how many samples were right."""

    def __init__(self) -> None:
        self.reset()

    def update(self, pred: torch.Tensor, target: torch.Tensor) -> None:
        self.right += int((pred.argmax(1) == target).sum())
        self.seen.append(len(target))

    def compute(self) -> float:
        return self.right / sum(self.seen)

    def reset(self) -> None:
        self.right, self.seen = 0, []


class Draws(st.Callback):
    """Draws from a stream of its own, from torch's generator, and from one that it has."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(8)

    def on_exit_batch(self, ctx: Any) -> None:
        numbers = (
            torch.rand(2, generator=ctx.generator("draws")).sum(),
            torch.rand(1),
            self.rng.random(),
            np.random.rand(),
            random.random(),
        )
        ctx.log("drawn", [float(number) for number in numbers])

    def on_enter_next_epoch(self, ctx: Any) -> None:
        ctx.log("drawn", float(torch.rand(1)))


class Scheduled(st.Callback):
    """A schedule that is made anew when the run goes on, which sets the learning rate of its beginning."""

    def on_enter_fit(self, ctx: Any) -> None:
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(ctx.opt, 0.1, total_steps=9)

    def on_resume(self, ctx: Any) -> None:
        state = self.schedule
        self.on_enter_fit(ctx)
        self.schedule.load_state_dict(state)

    def on_exit_step(self, ctx: Any) -> None:
        self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        return self.schedule.state_dict() if hasattr(self, "schedule") else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.schedule = state


class Freezes(st.Callback):
    """Thaws a layer after the first epoch, and keeps the batch norm from learning in each epoch's training."""

    def on_enter_fit(self, ctx: Any) -> None:
        ctx.model.a.requires_grad_(False)

    def on_enter_epoch(self, ctx: Any) -> None:
        if ctx.epoch == 2:
            ctx.model.a.requires_grad_(True)

    def on_enter_train(self, ctx: Any) -> None:
        if ctx.epoch < 3:
            ctx.model.norm.eval()


class Skips(st.Callback):
    """Skips a batch, a validation and an epoch."""

    def on_enter_batch(self, ctx: Any) -> None:
        if (ctx.epoch, ctx.iter) in {(1, 2), (3, 1)}:
            raise st.SkipBatch("not this one")

    def on_enter_valid_batch(self, ctx: Any) -> None:
        if (ctx.epoch, ctx.valid_iter) == (1, 2):
            raise st.SkipEpoch("enough validation")

    def on_enter_pred(self, ctx: Any) -> None:
        if (ctx.epoch, ctx.iter) == (2, 2):
            raise st.SkipEpoch("enough of this epoch")


class Growing(nn.Module):
    """A net with a buffer that its state leaves out, one that grows, a generator of its own, and a setting per call."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.register_buffer("mean", torch.zeros(()), persistent=False)
        self.register_buffer("seen", torch.zeros(0), persistent=False)
        self.noise = torch.Generator().manual_seed(6)
        self.calls = 0

    def get_extra_state(self) -> Any:
        return {"calls": self.calls}

    def set_extra_state(self, state: Any) -> None:
        self.calls = state["calls"]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.calls += 1
            self.mean = self.mean * 0.9 + inputs.mean() * 0.1
            self.seen = torch.cat([self.seen, inputs.mean()[None]])
        return (
            self.net(inputs)
            + self.mean
            + self.calls * 0.01
            + 0.01 * torch.randn(3, generator=self.noise)
        )


class Weighted(nn.Module):
    """A loss with a parameter and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("running", torch.zeros(()))

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        value = F.cross_entropy(pred * self.scale, target)
        self.running = self.running * 0.9 + value.detach() * 0.1
        return value + 0.1 * self.running


class Pair(nn.Module):
    """Two halves, each with an optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Net(), nn.Linear(3, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(inputs))


def tied() -> nn.Module:
    net = nn.Sequential(
        nn.Linear(5, 5), nn.ReLU(), nn.Dropout(0.2), nn.Linear(5, 5), nn.Linear(5, 3)
    )
    net[3].weight = net[0].weight
    return net


def stopping(ctx: Any) -> None:
    if ctx.step == 5:
        ctx.request_stop("five steps are enough")


class Asks(st.Callback):
    def on_exit_batch(self, ctx: Any) -> None:
        stopping(ctx)


def weighted(num_workers: int = 0) -> DataLoader[Any]:
    sampler = WeightedRandomSampler(torch.arange(1.0, SIZE + 1), num_samples=20, replacement=True)
    return DataLoader(Noisy(), batch_size=6, sampler=sampler, num_workers=num_workers)


def loader(dataset: Any = Noisy, **options: Any) -> Callable[[], DataLoader[Any]]:
    return lambda: DataLoader(
        dataset(),
        **{"batch_size": 8, "shuffle": not issubclass(dataset, IterableDataset), **options},
    )


def generators() -> Iterator[Any]:
    inputs, targets = points()
    order = torch.randperm(SIZE)
    return ((inputs[chosen], targets[chosen]) for chosen in order.split(8))


ADAM = {"optimizer": torch.optim.Adam, "opt_hparams": {"lr": 0.01}}
CASES: dict[str, dict[str, Any]] = {
    "sgd": {"epochs": 3},
    "adam": ADAM,
    "seeded": {"seed": 7, "epochs": 3},
    "accumulation": {"accumulate": 2, "epochs": 3},
    "accumulation, seeded": {"accumulate": 2, "seed": 3},
    "validation inside": {"validate": st.Every(2, "steps"), "epochs": 3},
    "validation inside, seeded": {"validate": st.Every(2, "steps"), "seed": 5},
    "two optimizers": {
        "model": Pair,
        "optimizer": lambda model: {
            "one": torch.optim.Adam(model.one.parameters()),
            "two": torch.optim.SGD(model.two.parameters(), 0.1, 0.9),
        },
    },
    "a schedule per step": {
        **ADAM,
        "callbacks": lambda: [
            st.LRScheduler(
                torch.optim.lr_scheduler.OneCycleLR, per="step", max_lr=0.1, total_steps=9
            )
        ],
    },
    "a schedule per validation": {
        "callbacks": lambda: [
            st.LRScheduler(
                torch.optim.lr_scheduler.ReduceLROnPlateau,
                per="valid",
                monitor="valid_loss",
                patience=0,
            )
        ]
    },
    "a schedule of one's own": {"callbacks": lambda: [Scheduled()]},
    "settings by parameter": {
        "optimizer": lambda model: torch.optim.AdamW(
            [
                {"params": model.a.parameters(), "lr": 0.1},
                {"params": [*model.b.parameters(), *model.norm.parameters()]},
            ],
            lr=torch.tensor(0.01),
        )
    },
    "lbfgs": {"optimizer": lambda model: torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)},
    "random augmentation": {"train": loader(), "valid": loader()},
    "random augmentation, seeded": {"train": loader(), "valid": loader(), "seed": 1},
    "a weighted sampler": {"train": weighted, "seed": 1},
    "samples drawn twice, seeded": {"train": weighted, "seed": 1, "accumulate": 3},
    "a sampler's own generator": {
        "train": lambda: DataLoader(
            Noisy(), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(3)
        )
    },
    "a sampler that is told the epoch": {
        "train": lambda: DataLoader(Noisy(), batch_size=8, sampler=Told())
    },
    "a dataset's own generators": {"train": loader(Coins)},
    "an iterable": {"train": loader(Stream)},
    "an iterable without length, accumulated": {
        "train": lambda: (Stream(), None)[0],
        "accumulate": 2,
        "dataloader_options": {"batch_size": 8},
    },
    "a function that makes batches": {"train": lambda: generators},
    "a function that makes batches, seeded, accumulated": {
        "train": lambda: generators,
        "seed": 4,
        "accumulate": 2,
    },
    "a loader with a state": {"train": Remembering},
    "a loader with a state, accumulated": {"train": Remembering, "accumulate": 2},
    "a validation share": {"train": lambda: (points()[0], points()[1]), "valid": 0.3},
    "metrics": {
        "train_metrics": {
            "mean": lambda pred, target: (pred.argmax(1) == target).double().mean(),
            "count": Count(),
        }
    },
    "callbacks that draw": {"callbacks": lambda: [Draws()]},
    "callbacks that draw, seeded": {"callbacks": lambda: [Draws()], "seed": 2},
    "frozen parts": {"callbacks": lambda: [Freezes()], "epochs": 3},
    "skips": {"callbacks": lambda: [Skips()], "epochs": 3},
    "skips, accumulated": {"callbacks": lambda: [Skips()], "accumulate": 2},
    "mixup and the best weights": {
        "callbacks": lambda: [st.Mixup(per="batch"), st.KeepBest("valid_loss")]
    },
    "buffers, a generator and a counter in the model": {"model": Growing},
    "tied weights": {"model": tied},
    "a stop that a callback asked for": {"callbacks": lambda: [Asks()]},
    "early stopping": {
        "epochs": 9,
        "stop": st.EarlyStopping("valid_loss", patience=1),
        "opt_hparams": {"lr": 2.0},
    },
    "bfloat16": {"precision": "bf16"},
    "float16 with a scale": {"precision": st.MixedPrecision("fp16", scaler=None)},
    "losses that are not finite": {"non_finite": "skip", "opt_hparams": {"lr": 1e19}},
    "a lifecycle of one's own": {
        "lifecycle": st.supervised(check_gradients=True, accumulate=2, seeded=True),
        "seed": 1,
    },
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_it_can_be_cut_at_any_anchor(options: dict[str, Any]) -> None:
    """Between epochs, between batches, in a window, in validation: at all of them."""
    assert assert_resumable(build(**options), anchors=None) > 7


class Nudge(st.Callback):
    """Gives a gradient to a parameter that belongs to neither model nor loss."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = parameter

    def on_exit_backward(self, ctx: Any) -> None:
        self.parameter.grad = torch.full((3,), ctx.loss_value) + (
            0.0 if self.parameter.grad is None else self.parameter.grad
        )


def test_a_loss_with_parameters_of_its_own_goes_on() -> None:
    """Its weights, its buffers and its part of the optimizer's state; and a parameter that belongs to nothing else."""

    def make() -> st.Run:
        model, loss, stray = Net(), Weighted(), nn.Parameter(torch.zeros(3))
        optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters(), stray], 0.05)
        options = {
            "loss": loss,
            "optimizer": optimizer,
            "epochs": 2,
            "accumulate": 2,
            "callbacks": [Nudge(stray)],
        }
        return st.fit(
            model,
            points(),
            dataloader_options={"batch_size": 8},
            verbose=False,
            clock=lambda: 0.0,
            start=False,
            **options,
        )

    assert assert_resumable(make, anchors=None) > 5


# ---------------------------------------------------------------- workers


@pytest.mark.parametrize("seed", [None, 5])
def test_it_can_be_cut_while_workers_load(seed: int | None) -> None:
    """With random augmentation in two worker processes, which are started anew: from the position, or by going through the epoch again."""
    make = build(train=loader(num_workers=2), valid=loader(num_workers=1), seed=seed, epochs=2)
    assert assert_resumable(make, anchors=5) == 5


def test_with_a_seed_the_number_of_workers_changes_nothing() -> None:
    """Weights, history and the order of the samples are the same bits, though samples are augmented at random."""
    results = []
    for workers in (0, 2):
        torch.manual_seed(workers)  # what comes before the run has no part in it
        run = build(
            train=loader(num_workers=workers),
            valid=loader(num_workers=workers),
            model=st_model,
            seed=5,
            epochs=2,
        )().walk()
        results.append((run.model.state_dict(), list(run.history), dict(run.ctx.records)))
    (weights, *rest), (others, *more) = results
    assert rest == more
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def st_model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net()


def test_a_seeded_run_does_not_depend_on_what_was_drawn_before() -> None:
    """The same seed is the same run, model included if it is made from its class; another seed is another."""
    rows = {}
    for name, seed, before in (("a", 1, 0), ("b", 1, 99), ("c", 2, 0)):
        torch.manual_seed(before)
        np.random.seed(before)
        run = st.fit(
            Net,
            points(),
            loss=F.cross_entropy,
            optimizer=torch.optim.SGD,
            opt_hparams={"lr": 0.1},
            valid=0.3,
            epochs=2,
            seed=seed,
            verbose=False,
            clock=lambda: 0.0,
        )
        rows[name] = list(run.history)
    assert rows["a"] == rows["b"]
    assert rows["a"] != rows["c"]


# ---------------------------------------------------------------- metrics


def test_metrics_of_torchmetrics_go_on_within_an_epoch() -> None:
    """Sums, lists of tensors, and collections that share states; their own `state_dict` holds none of it."""
    import torchmetrics

    def make() -> st.Run:
        metrics = {
            "accuracy": torchmetrics.Accuracy(task="multiclass", num_classes=3),
            "auroc": torchmetrics.AUROC(task="multiclass", num_classes=3),
            "collection": torchmetrics.MetricCollection(
                [
                    torchmetrics.Precision(task="multiclass", num_classes=3),
                    torchmetrics.Recall(task="multiclass", num_classes=3),
                ]
            ),
        }
        return build(metrics=metrics, epochs=2)()

    assert assert_resumable(make, anchors=None) > 10


class Sealed:
    """A metric whose state nobody can see."""

    __slots__ = ("total",)

    def __init__(self) -> None:
        self.reset()

    def update(self, pred: torch.Tensor, target: torch.Tensor) -> None:
        self.total += len(target)

    def compute(self) -> float:
        return self.total

    def reset(self) -> None:
        self.total = 0


class Opened(Sealed):
    """The same, which can say it."""

    __slots__ = ()

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = state["total"]


def test_a_metric_without_a_visible_state_is_refused_within_an_epoch_and_told_what_to_have() -> (
    None
):
    """With `state_dict` and `load_state_dict` it goes on."""
    with pytest.raises(
        CheckpointError,
        match=(
            r"metric Sealed cannot be saved within an epoch; give it state_dict\(\) and"
            r" load_state_dict\(state\)"
        ),
    ):
        assert_resumable(build(metrics={"n": Sealed()}, epochs=1), anchors=None)
    assert assert_resumable(build(metrics={"n": Opened()}, epochs=1), anchors=None) > 5


# ---------------------------------------------------------------- what it says


class Forgets(st.Callback):
    """Has a memory that it does not give to be saved."""

    def __init__(self) -> None:
        self.steps = 0

    def on_enter_step(self, ctx: Any) -> None:
        self.steps += 1
        for group in ctx.opt.param_groups:
            group["lr"] = 0.1 / self.steps


def test_what_is_not_resumed_exactly_is_found() -> None:
    """The message says where the run was cut, and what differs."""
    with pytest.raises(
        AssertionError,
        match=(
            r"cut at anchor 3 of \d+ \(next_batch, epoch 1, batch 1, step 1\) and continued"
            r" differs:\n- "
        ),
    ):
        assert_resumable(build(callbacks=lambda: [Forgets()], epochs=1), anchors=None)


class Chance(st.Callback):
    def on_exit_batch(self, ctx: Any) -> None:
        ctx.log("id", id(object()) + random.SystemRandom().random())


def test_a_script_that_is_not_deterministic_is_told_apart() -> None:
    """It cannot be judged."""
    with pytest.raises(AssertionError, match=r"two runs of this script from the same seeds differ"):
        assert_resumable(build(callbacks=lambda: [Chance()], epochs=1), anchors=2)


def test_build_has_to_return_a_run_that_has_not_started() -> None:
    """The error says how."""
    with pytest.raises(AssertionError, match=r"start=False"):
        assert_resumable(lambda: build(epochs=1)().walk())


def test_anchors_are_spread_evenly() -> None:
    """The first and the last are among them."""
    from statetrain.testing.resuming import _spread

    assert _spread(10, 4) == {1, 4, 7, 10}
    assert _spread(3, 12) == {1, 2, 3}
    assert _spread(5, None) == {1, 2, 3, 4, 5}
    assert _spread(5, 1) == {1}
