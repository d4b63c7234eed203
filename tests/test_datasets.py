"""What a data set is: what behaves like one, whatever its class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
import torch
from tensordict import TensorDict
from torch.nn import functional as F
from torch.utils.data import ChainDataset, DataLoader, Dataset, TensorDataset

import statetrain as st

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
Y = (X.sum(1) > 0).long()


class Rows:
    """Map-style without being of torch's class, and iterable, as `datasets.Dataset` is."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        return {"x": X[index], "y": Y[index]}

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))


class Torchs(Rows, Dataset[Any]):
    """The same, of torch's class."""


def fit(data: Any, **options: Any) -> st.Run:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        "verbose": False,
    }
    return st.fit(torch.nn.Linear(4, 2), data, **{**given, **options})


def same(one: st.Run, other: st.Run) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return one.history.rows[-1]["samples"] == other.history.rows[-1]["samples"] and all(
        torch.equal(a, b) for a, b in pairs
    )


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("more", [{}, {"valid": 0.25}, {"dataloader_options": {"batch_size": 8}}])
def test_map_style_is_what_behaves_like_it(more: dict[str, Any], seed: int | None) -> None:
    """Rows of any class with a length and numbers are batched and shuffled as torch's datasets."""
    options = {"input": "x", "target": "y", "seed": seed, **more}
    assert same(fit(Rows(), **options), fit(Torchs(), **options))


@pytest.mark.parametrize(
    "data",
    [
        TensorDict({"x": X, "y": Y}, batch_size=[40]),
        {"x": X, "y": Y},
        pd.DataFrame({"x": X[:, 0].numpy(), "y": Y.numpy()}),
    ],
    ids=["a TensorDict", "a dict", "a frame"],
)
@pytest.mark.parametrize("seed", [None, 3])
def test_tables_train_as_their_columns(data: Any, seed: int | None) -> None:
    """A TensorDict and a frame give what a dict of their columns gives."""
    columns = {name: data[name] for name in ("x", "y")}
    right = {name: torch.tensor(column.tolist()) for name, column in columns.items()}
    options: dict[str, Any] = {"input": "x", "target": "y", "seed": seed, "valid": 0.25}
    if right["x"].ndim == 1:  # a column of numbers, which the model takes by itself

        def compute(ctx: Any) -> Any:
            return ctx.loss_fn(ctx.model(ctx.input[:, None].expand(-1, 4)), ctx.target)

        options |= {"compute": compute, "valid_compute": compute}
    assert same(fit(data, **options), fit(right, **options))


def test_batches_may_be_tensordicts() -> None:
    """Their parts are found by name, and a model may take the whole."""
    batches = [TensorDict({"x": X[i : i + 8], "y": Y[i : i + 8]}, [8]) for i in range(0, 40, 8)]
    right = fit([(X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8)])
    assert same(fit(batches), right)


def test_columns_of_a_frame_and_a_series() -> None:
    """A pair of a frame and a series trains as the pair of their numbers; read-only ones, too."""
    frame, series = pd.DataFrame(X.numpy()), pd.Series(Y.numpy())
    assert same(fit((frame, series)), fit((X, Y)))
    values = X.numpy().copy()
    values.flags.writeable = False
    assert same(fit((values, Y)), fit((X, Y)))


def test_a_column_of_words_is_named() -> None:
    """It cannot become a tensor."""
    frame = pd.DataFrame({"x": [1.0, 2.0], "name": ["a", "b"]})
    with pytest.raises(st.ConfigError, match="column 'name' of the data has the type"):
        fit(frame)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"train": TensorDataset(X, Y), "test": TensorDataset(X, Y)},
            r"train is a dict of datasets, 'train', 'test'; give one of them: train=data\['train'\]",
        ),
        ({"a": [(X, Y)]}, r"train is a dict of datasets, 'a'; give one of them: train=data\['a'\]"),
        ({"x": X, "y": Y.tolist()}, "train is a dict of columns, and 'y' cannot be one"),
        (lambda samples: samples, "a collate function goes to dataloader_options="),
        (TensorDataset, "train is the class TensorDataset; make an instance"),
        (torch.nn.Linear(4, 2), "train is a Linear; the model is the first argument"),
        (torch.utils.data.RandomSampler(X), "give the dataset, and dataloader_options="),
        (lambda: TensorDataset(X, Y), "returns a TensorDataset, and it has to return an iterable"),
        (lambda: (X, Y), "returns a tuple, and it has to return an iterable of batches"),
        (lambda: None, "returns a NoneType, and it has to return an iterable of batches"),
    ],
    ids=[
        *("a mapping of datasets", "a mapping of loaders", "a list as a column"),
        *("a collate function", "a class", "a model", "a sampler"),
        *("a function for a dataset", "a function for tensors", "a function for nothing"),
    ],
)
def test_what_belongs_elsewhere_is_told_so(data: Any, message: str) -> None:
    """The message names the right place."""
    with pytest.raises(st.ConfigError, match=message):
        fit(data)


@pytest.mark.parametrize("given", ["instance", "class"])
@pytest.mark.parametrize("argument", ["optimizer", "callbacks"])
def test_a_schedule_goes_to_a_callback(given: str, argument: str) -> None:
    """The message says how."""
    schedule: Any = torch.optim.lr_scheduler.StepLR
    if given == "instance":
        weight = torch.nn.Parameter(torch.zeros(1))
        schedule = schedule(torch.optim.SGD([weight]), 1)
    with pytest.raises(st.ConfigError, match=rf"{argument} got StepLR.*callbacks=\[LRScheduler\("):
        fit((X, Y), **{argument: schedule, "opt_hparams": None})


def test_a_list_holds_batches() -> None:
    """So does a tuple of them, and anything that is registered as a sequence."""
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8)]
    assert fit(batches).ctx.step == fit(tuple(batches)).ctx.step == 10

    class Held(Sequence[Any]):
        def __len__(self) -> int:
            return len(batches)

        def __getitem__(self, index: Any) -> Any:
            return batches[index]

    assert fit(Held()).ctx.step == 10
    assert fit(lambda: iter(Held())).ctx.step == 10


# ---------------------------------------------------------------- epochs


class Telling:
    """A batch sampler that is told the epoch, and remembers what it was told."""

    def __init__(self, epoch: int = 0) -> None:
        self.epoch, self.heard = epoch, [epoch][:0]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.heard.append(epoch)

    def __len__(self) -> int:
        return 2

    def order(self) -> list[int]:
        generator = torch.Generator().manual_seed(self.epoch)
        return torch.randperm(4, generator=generator).tolist()

    def __iter__(self) -> Any:
        order = self.order()
        return iter([order[:2], order[2:]])


class Samples(Telling, torch.utils.data.Sampler[Any]):
    """The same for samples, within another sampler."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Any:
        return iter(self.order())


class Pairs(torch.utils.data.Sampler[Any]):
    """Batches of two; what it takes the samples from is called as its author likes."""

    def __init__(self, base: Samples) -> None:
        self.base = [base]

    def __iter__(self) -> Any:
        return iter(torch.utils.data.BatchSampler(self.base[0], 2, False))

    def __len__(self) -> int:
        return 2


class Stream(torch.utils.data.IterableDataset[Any]):
    """The same, of an iterable dataset."""

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Any:
        return iter([DATA[i] for i in Samples(self.epoch).order()])


DATA = TensorDataset(torch.arange(4.0)[:, None], torch.zeros(4).long())


def loader(kind: str, epoch: int = 0) -> tuple[Any, Any]:
    if kind == "batches":
        sampler: Any = Telling(epoch)
        return DataLoader(DATA, batch_sampler=sampler), sampler
    if kind == "by another name":
        sampler = Samples(epoch)
        return DataLoader(DATA, batch_sampler=Pairs(sampler)), sampler
    if kind == "chained":
        stream = Stream(epoch)
        return DataLoader(ChainDataset([stream]), batch_size=2), stream
    if kind == "within":
        sampler = Samples(epoch)
        batches = torch.utils.data.BatchSampler(sampler, 2, False)
        return DataLoader(DATA, batch_sampler=batches), sampler
    stream = Stream(epoch)
    return DataLoader(stream, batch_size=2), stream


def orders(data: Any, epochs: int = 3, **options: Any) -> list[list[int]]:
    seen: list[int] = []

    class See(st.Callback):
        def on_enter_pred(self, ctx: Any) -> None:
            seen.extend(ctx.input[:, 0].int().tolist())

    model, callbacks = torch.nn.Linear(1, 2), [See(), *options.pop("callbacks", [])]
    st.fit(
        model,
        data,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        epochs=epochs,
        callbacks=callbacks,
        **options,
    )
    return [seen[i : i + 4] for i in range(0, len(seen), 4)]


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("kind", ["batches", "within", "by another name", "stream", "chained"])
def test_the_epoch_reaches_everything_that_is_told_it(kind: str, seed: int | None) -> None:
    """Batch samplers, samplers within them and iterable datasets, from where the user set them on."""
    for first in (0, 5):
        right = [Samples(first + epoch).order() for epoch in range(3)]
        data, told = loader(kind, first)
        assert orders(data, seed=seed) == right
        assert told.epoch == first  # so that the next run begins alike
        assert orders(data, seed=seed) == right


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("kind", ["batches", "within"])
def test_what_the_user_sets_meanwhile_stays(kind: str, seed: int | None) -> None:
    """A hook that sets the epoch at its beginning decides."""
    data, told = loader(kind)

    class Set(st.Callback):
        def on_enter_epoch(self, ctx: Any) -> None:
            told.epoch = 10 * (ctx.epoch + 1)

    right = [Samples(10 * (epoch + 1)).order() for epoch in (1, 2, 3)]
    assert orders(data, seed=seed, callbacks=[Set()]) == right


def test_workers_that_persist_are_warned_of(caplog: Any) -> None:
    """Their copies of a dataset stay in the first epoch, unless the number is in shared memory."""

    class Sharing(Stream):
        def __init__(self) -> None:
            self.number = torch.tensor(0).share_memory_()

        epoch = property(lambda self: int(self.number), lambda self, n: self.number.fill_(n))

    right = [Samples(epoch).order() for epoch in range(3)]
    for stream, found in ((Stream(), [right[0]] * 3), (Sharing(), right)):
        caplog.clear()
        data = DataLoader(stream, batch_size=2, num_workers=1, persistent_workers=True)
        assert orders(data) == found
        assert ("does not reach its copies" in caplog.text) == (found != right)


# ---------------------------------------------------------------- the order of predictions


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": True},
        {"shuffle": True, "drop_last": True},
        {"drop_last": True},
        {"batch_size": None, "shuffle": True},
        {"shuffle": True, "num_workers": 1},
    ],
    ids=["shuffled", "shuffled and dropped", "dropped", "one by one", "workers"],
)
@pytest.mark.parametrize("rows", [False, True], ids=["tensors", "a dataset"])
def test_predictions_come_in_the_datas_order(options: dict[str, Any], rows: bool) -> None:
    """All of them, though the loader shuffles, or drops a short batch."""
    values = torch.arange(7.0)[:, None]

    class Own(Dataset[Any]):
        def __len__(self) -> int:
            return 7

        def __getitem__(self, index: int) -> Any:
            return [values[index]]

    data = DataLoader(Own() if rows else TensorDataset(values), **{"batch_size": 3, **options})
    found = st.predict(torch.nn.Identity(), data)
    assert found.flatten().tolist() == list(range(7))


def test_the_training_data_of_a_run_is_predicted_in_order() -> None:
    """Though its order is drawn by key."""
    run = fit((X, Y), seed=1)
    with torch.no_grad():
        right = run.model(X)
    assert torch.allclose(run.predict(run.ctx.train_data), right)


def test_samples_that_are_drawn_at_random_have_no_order() -> None:
    """It says so; and of a sampler that nobody knows, a warning does."""
    sampler = torch.utils.data.WeightedRandomSampler([1.0] * 40, 40)
    with pytest.raises(st.ConfigError, match="draws its samples with a WeightedRandomSampler"):
        st.predict(torch.nn.Identity(), DataLoader(TensorDataset(X), sampler=sampler))


def test_an_order_that_is_unknown_is_warned_of(caplog: Any) -> None:
    """Predictions come as the sampler gives them."""

    class Backwards(torch.utils.data.Sampler[int]):
        def __len__(self) -> int:
            return 4

        def __iter__(self) -> Any:
            return iter([3, 2, 1, 0])

    data = DataLoader(TensorDataset(torch.arange(4.0)[:, None]), 3, sampler=Backwards())
    assert st.predict(torch.nn.Identity(), data).flatten().tolist() == [3, 2, 1, 0]
    assert "the loader's Backwards, which may not be the data's" in caplog.text
