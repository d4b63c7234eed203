"""Tensors are taken out a batch at a time, in torch's own order, with torch's own draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

import statetrain as st
from statetrain.compute.keyed import keyed, order_of
from statetrain.compute.seeding import aside, key
from statetrain.data.datasets import ColumnData
from statetrain.data.loading import as_loader
from statetrain.data.tensors import TensorLoader

N = 23
X = torch.arange(N * 3.0).reshape(N, 3)
Y = torch.arange(N) % 4

DATASETS = {
    "tuple": TensorDataset(X, Y),
    "dict": ColumnData({"x": X, "y": Y}),
    "subset": Subset(TensorDataset(X, Y), list(range(22, 2, -1))),
    "strided": TensorDataset(X.t().contiguous().t(), Y),
    "pictures": TensorDataset(X.reshape(N, 3, 1, 1).to(memory_format=torch.channels_last), Y),
}
OPTIONS: dict[str, Any] = {
    "in order": {},
    "shuffled": {"shuffle": True},
    "whole batches": {"shuffle": True, "drop_last": True},
    "one more than a batch": {"batch_size": 22, "shuffle": True},
    "with a generator": {"shuffle": True, "generator": 5},
    "drawn again": {"sampler": lambda: WeightedRandomSampler([1.0] * 9, 20)},
    "with replacement": {"sampler": lambda: RandomSampler(range(9), replacement=True)},
    "fewer": {"sampler": lambda: RandomSampler(range(20), num_samples=7)},
    "batches": {"batch_sampler": lambda: BatchSampler(SequentialSampler(range(11)), 3, False)},
}


def made(kind: Any, dataset: Any, options: dict[str, Any]) -> tuple[Any, torch.Generator | None]:
    """A loader with parts of its own, and its generator."""
    given = {"batch_size": 5, **options}
    generator = None
    if "generator" in given:
        generator = given["generator"] = torch.Generator().manual_seed(given["generator"])
    for name in ("sampler", "batch_sampler"):
        if name in given:
            given[name] = given[name]()
    if "batch_sampler" in given:
        given.pop("batch_size")
    return kind(dataset, **given), generator


def epochs(loader: Any) -> list[Any]:
    return [batch for _ in range(3) for batch in loader]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        layout = (one.dtype, one.shape, one.stride())
        return layout == (other.dtype, other.shape, other.stride()) and torch.equal(one, other)
    if type(one) is not type(other) or len(one) != len(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    return all(map(same, one, other))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
def test_batches_and_draws_are_those_of_torch(dataset: Any, options: dict[str, Any]) -> None:
    """Batches of three epochs, their memory layout, and where all generators are afterwards."""
    results = []
    for kind in (DataLoader, TensorLoader):
        loader, generator = made(kind, dataset, options)
        torch.manual_seed(3)
        batches = epochs(loader)
        states = [torch.get_rng_state(), *([generator.get_state()] if generator else [])]
        results.append((len(loader), batches, states))
    (length, theirs, their_states), (own_length, ours, our_states) = results
    assert length == own_length
    assert same(ours, theirs)
    assert all(map(torch.equal, our_states, their_states))


def test_an_epoch_that_is_left_draws_what_torch_draws() -> None:
    """Also when only its first batch was taken."""
    states = []
    for kind in (DataLoader, TensorLoader):
        torch.manual_seed(3)
        next(iter(kind(DATASETS["tuple"], batch_size=5, shuffle=True)))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_batch_is_a_copy(shuffle: bool) -> None:
    """A model that works in place leaves the data alone."""
    before = X.clone()
    for inputs, _ in TensorLoader(TensorDataset(X, Y), batch_size=5, shuffle=shuffle):
        inputs.zero_()
    assert torch.equal(X, before)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ((X, Y), {"num_workers": 1}),
        ((X, Y), {"collate_fn": list}),
        ((X, Y), {"batch_size": None}),
        ((X.to_sparse(), Y), {}),
        (TensorDataset(torch.nn.Parameter(X)), {}),
        (Subset(Subset(TensorDataset(X), [0, 1]), [1]), {}),
    ],
    ids=["workers", "collated otherwise", "one by one", "sparse", "a subclass", "nested subsets"],
)
def test_where_batches_may_differ_torch_makes_them(data: Any, options: dict[str, Any]) -> None:
    """What a `TensorLoader` could not give alike is left to a DataLoader."""
    assert type(as_loader(data, options=options)) is DataLoader


def trained(data: Any, **options: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.3))
    st.fit(
        model,
        data,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.01},
        epochs=3,
        **options,
    )
    return list(model.parameters())


def test_weights_are_those_of_a_loop_over_torchs_loader() -> None:
    """Bit for bit, with dropout, and with a validation between the epochs."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = DataLoader(TensorDataset(X, Y), batch_size=32, shuffle=True)
    valid = DataLoader(TensorDataset(X, Y), batch_size=32)
    for _ in range(3):
        for inputs, targets in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        list(valid)  # it draws the seed of its workers
    ours = trained((X, Y), valid=(X, Y))
    assert all(map(torch.equal, ours, model.parameters()))


@pytest.mark.parametrize("generator", [None, 9], ids=["shared", "own"])
def test_with_a_seed_the_order_is_what_the_sampler_draws_under_the_key(
    generator: int | None,
) -> None:
    """Computed by asking torch's sampler, with all generators seeded by the epoch's key."""

    def loader() -> DataLoader[Any]:
        own = None if generator is None else torch.Generator().manual_seed(generator)
        return DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True, generator=own)

    found, why = keyed(loader(), 7, "train")
    assert (type(found), why) == (TensorLoader, "")
    plain = loader()
    for turn in (1, 2):
        with aside(key(7, "train", "order", turn), plain.sampler):
            right = list(plain.batch_sampler)
        order_of(found).begin(turn)
        assert [targets.tolist() for _, targets in found] == [Y[rows].tolist() for rows in right]
        assert order_of(found).order(turn) == right
        order_of(found).begin(turn, 3)
        assert len(list(found)) == len(right) - 3


def test_a_validation_share_of_tensors_is_trained_alike() -> None:
    """With a share drawn from them, whole batches give the weights of samples one by one."""

    class Rows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return N

        def __getitem__(self, index: int) -> Any:
            return X[index], Y[index]

    for seed in (None, 4):
        ours = trained((X, Y), valid=0.25, seed=seed)
        theirs = trained(Rows(), valid=0.25, seed=seed)
        assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("size", [1, 5, 64])
def test_evaluating_and_predicting_are_those_of_slices(size: int) -> None:
    """The mean over samples and the outputs of a loop that slices by hand."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 4)
    with torch.no_grad():
        parts = [model(X[i : i + size]) for i in range(0, N, size)]
        right = F.cross_entropy(torch.cat(parts), Y).item()
    options = {"dataloader_options": {"batch_size": size}}
    found = st.evaluate(model, (X, Y), loss=F.cross_entropy, **options)
    assert found["loss"] == pytest.approx(right, rel=1e-6)
    assert torch.equal(st.predict(model, X, **options), torch.cat(parts))
