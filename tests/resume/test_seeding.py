"""Randomness by key: what is drawn depends on what it is for, and on nothing else."""

import logging
import pickle
import random
import tracemalloc
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

import statetrain as st
from statetrain.compute import seeding
from statetrain.compute.keyed import KeyedDataset, SampleKey, caveat, order_of
from statetrain.compute.keyed import keyed as make_keyed


class Random(Dataset[Any]):
    """A sample is its index and what the three generators give."""

    def __init__(self, size: int = 10) -> None:
        self.size, self.label = size, "mine"

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        return index, float(torch.rand(())), float(np.random.rand()), random.random()


def drawn(loader: Any, turn: int, start: int = 0) -> list[Any]:
    order_of(loader).begin(turn, start)
    return [
        [part.tolist() if isinstance(part, torch.Tensor) else part for part in batch]
        for batch in loader
    ]


def keyed(loader: Any, seed: int = 1) -> Any:
    found, why = make_keyed(loader, seed, "train")
    assert why == ""
    return found


# ---------------------------------------------------------------- keys


def test_a_key_is_the_same_number_everywhere() -> None:
    """Runs of other days and machines depend on it."""
    assert [seeding.key(0), seeding.key(1, "train", 3)] == [
        2631537505891389924,
        4343099521675022518,
    ]


def test_keys_of_different_parts_are_different() -> None:
    """Of numbers and texts, in any order and grouping; and they fit into 63 bits."""
    parts = [
        (1,),
        ("1",),
        (1, 2),
        (2, 1),
        (12,),
        ("1", "2"),
        ((1, 2),),
        (1, (2,)),
        (None,),
        (0,),
        (True,),
    ]
    keys = [seeding.key(*part) for part in parts]
    assert len(set(keys)) == len(parts)
    assert all(0 <= key < 2**63 for key in keys)


def test_seeding_reaches_all_three_generators() -> None:
    """The same number gives the same draws of torch, numpy and Python; another number gives others."""

    def draw(number: int) -> tuple[float, float, float]:
        seeding.seed_all(number)
        return float(torch.rand(())), float(np.random.rand()), random.random()

    assert draw(5) == draw(5)
    assert all(a != b for a, b in zip(draw(5), draw(6), strict=True))


def test_states_are_put_back() -> None:
    """Of the shared generators, and of those that objects have for themselves."""

    class Owner:
        def __init__(self) -> None:
            self.torch, self.numpy, self.old, self.python = (
                torch.Generator(),
                np.random.default_rng(1),
                np.random.RandomState(2),
                random.Random(3),
            )

        def draw(self) -> list[float]:
            own = [
                float(torch.rand((), generator=self.torch)),
                self.numpy.random(),
                self.old.rand(),
                self.python.random(),
            ]
            return [
                *own,
                float(torch.rand(())),
                np.random.rand(),
                np.random.randn(),
                random.gauss(0, 1),
            ]

    owner = Owner()
    owner.draw()  # a normal number is kept back by numpy and Python: that is state, too
    states, own = seeding.states(), seeding.own_states(owner)
    first = owner.draw()
    owner.draw()
    seeding.set_states(states)
    seeding.set_own_states(own, owner)
    assert owner.draw() == first


def test_what_is_drawn_aside_moves_nobody() -> None:
    """Afterwards all generators are as before, though the work failed."""
    sampler = RandomSampler(range(5), generator=torch.Generator().manual_seed(4))
    before = torch.get_rng_state(), random.getstate(), sampler.generator.get_state()

    def work() -> None:
        with seeding.aside(3, sampler):
            for draw in (
                lambda: torch.rand(1),
                random.random,
                lambda: list(sampler),
                np.random.rand,
            ):
                draw()
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        work()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert torch.equal(sampler.generator.get_state(), before[2])


# ---------------------------------------------------------------- loaders

LOADERS = {
    "shuffled": lambda: DataLoader(Random(), batch_size=3, shuffle=True),
    "in order": lambda: DataLoader(Random(), batch_size=3),
    "the last dropped": lambda: DataLoader(Random(), batch_size=3, shuffle=True, drop_last=True),
    "a generator of its own": lambda: DataLoader(
        Random(), batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(1)
    ),
    "weighted": lambda: DataLoader(
        Random(), batch_size=3, sampler=WeightedRandomSampler([1.0] * 9 + [30.0], 12)
    ),
    "batches of a sampler": lambda: DataLoader(
        Random(), batch_sampler=BatchSampler(RandomSampler(range(10)), 4, False)
    ),
    "one by one": lambda: DataLoader(Random(), batch_size=None, shuffle=True),
    "workers": lambda: DataLoader(Random(), batch_size=3, shuffle=True, num_workers=2),
}


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_an_epoch_is_a_function_of_its_key(make: Any) -> None:
    """Order and samples: the same in a new loader, whatever was drawn before; and others in the next epoch, or with another seed."""
    torch.manual_seed(1)
    first = drawn(keyed(make()), 1)
    torch.manual_seed(2)
    assert drawn(keyed(make()), 1) == first
    assert drawn(keyed(make()), 2) != first
    assert drawn(keyed(make(), seed=2), 1) != first
    assert len(first) == len(make())


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_a_position_is_a_number(make: Any) -> None:
    """Beginning at a batch gives the batches from there on, and leaves the length alone."""
    loader = keyed(make())
    whole = drawn(loader, 4)
    for start in range(len(loader) + 1):
        assert drawn(loader, 4, start) == whole[start:]
    assert len(loader) == len(whole)


def test_workers_change_nothing() -> None:
    """None, one or two."""
    results = [
        drawn(keyed(DataLoader(Random(), batch_size=3, shuffle=True, num_workers=n)), 1)
        for n in (0, 1, 2)
    ]
    assert results[0] == results[1] == results[2]


def test_a_sample_that_is_drawn_twice_is_augmented_twice() -> None:
    """Its second draw in an epoch has a key of its own."""
    loader = keyed(DataLoader(Random(1), batch_size=4, sampler=WeightedRandomSampler([1.0], 4)))
    ((_, *noises),) = drawn(loader, 1)
    assert all(len(set(values)) == 4 for values in noises)


def test_the_order_is_a_permutation_and_not_always_the_same() -> None:
    """Over many epochs each sample comes first about as often as any other."""
    order = order_of(keyed(DataLoader(Random(5), batch_size=5, shuffle=True)))
    firsts = [order.order(turn)[0][0] for turn in range(500)]
    assert all(sorted(order.order(turn)[0]) == [0, 1, 2, 3, 4] for turn in range(5))
    assert all(70 < firsts.count(index) < 130 for index in range(5))


def test_what_the_loader_was_made_with_stays() -> None:
    """How batches are put together, workers, pinning; and a dataset's attributes can be read."""

    def collate(samples: list[Any]) -> list[Any]:
        return samples

    loader = keyed(
        DataLoader(
            Random(),
            batch_size=3,
            collate_fn=collate,
            num_workers=1,
            prefetch_factor=3,
            timeout=7,
            drop_last=True,
        )
    )
    assert (
        loader.collate_fn.function,
        loader.num_workers,
        loader.prefetch_factor,
        loader.timeout,
        len(loader),
    ) == (collate, 1, 3, 7, 3)
    assert (loader.dataset.label, len(loader.dataset)) == ("mine", 10)
    assert not hasattr(loader.dataset, "labels")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: data,
        lambda data: Subset(data, [3, 1, 2]),
        lambda data: ConcatDataset([data, Subset(data, [1])]),
    ],
    ids=["plain", "subset", "joined"],
)
def test_tensors_are_loaded_without_the_price_of_keys(wrap: Any) -> None:
    """A dataset that draws nothing gets its indices as they are."""
    loader = keyed(DataLoader(wrap(TensorDataset(torch.arange(6))), batch_size=2, shuffle=True))
    assert not isinstance(loader.dataset, KeyedDataset)
    assert torch.equal(
        *(
            torch.cat([part for (part,) in one]).sort().values
            for one in (loader, DataLoader(loader.dataset))
        )
    )


class Rarely(Dataset[Any]):
    """One sample in five draws, each from another generator; it counts how often it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        draw = {2: lambda: float(torch.rand(())), 7: np.random.rand, 14: random.random}
        value = draw.get(index % 15, lambda: 0.0)()
        return index, value


def by_hand(turn: int, index: int) -> float:
    """What a sample of `Rarely` gives with all three generators seeded by its key."""
    seeding.seed_all(seeding.key(1, "train", turn, index, 1))
    return float(Rarely()[index][1])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_generator_that_few_samples_use_is_seeded_for_them(workers: int) -> None:
    """Values are those with all generators seeded for each sample, wherever the first use comes."""
    dataset = Rarely()
    loader = keyed(DataLoader(dataset, batch_size=4, shuffle=True, num_workers=workers))
    for turn in (1, 2):
        found = {i: v for batch in drawn(loader, turn) for i, v in zip(*batch, strict=True)}
        assert found == {index: pytest.approx(by_hand(turn, index)) for index in range(30)}


def test_samples_are_read_once_but_for_what_was_found_out() -> None:
    """A dataset that draws nothing is read once a sample; one that draws, some samples more."""

    class Plain(Rarely):
        def __getitem__(self, index: int) -> Any:
            self.reads += 1
            return index, 0.0

    plain, rare, always = Plain(), Rarely(), Random()
    for dataset in (plain, rare, always):
        drawn(keyed(DataLoader(dataset, batch_size=10)), 1)
    assert plain.reads == 30
    assert 30 < rare.reads <= 30 + 3 * 10  # at most the batches in which a generator was found


def test_what_loading_raises_passes_through() -> None:
    """After a second try, if it may have come of a number that was not drawn by key."""

    class Failing(Rarely):
        def __getitem__(self, index: int) -> Any:
            self.reads += 1
            if index == 3:
                raise ValueError(f"sample 3: {random.random():.6f}")
            return index

    seeding.seed_all(seeding.key(1, "train", 1, 3, 1))
    right = f"sample 3: {random.random():.6f}"
    with pytest.raises(ValueError, match=right):
        drawn(keyed(DataLoader(Failing(), batch_size=4)), 1)


GENERATOR = np.random.default_rng(3)  # at the level of a module


class Jitter:
    """A transform with a generator of its own."""

    def __init__(self, generator: Any) -> None:
        self.steps = [{"inner": generator}]

    def __call__(self, index: int) -> float:
        generator = self.steps[0]["inner"]
        if isinstance(generator, torch.Generator):
            return float(torch.rand((), generator=generator))
        return float(generator.random() if hasattr(generator, "random") else generator.rand())


class Owner(Random):
    """Draws from a generator that is none of the global ones."""

    def __init__(self, where: str) -> None:
        super().__init__()
        generator = np.random.default_rng(5)
        made: dict[str, Any] = {
            "numpy": Jitter(generator),
            "python": Jitter(random.Random(5)),
            "torch": Jitter(torch.Generator()),
            "older numpy": Jitter(np.random.RandomState(5)),
            "closure": lambda index: generator.random(),
            "partial": partial(lambda rng, index: rng.random(), generator),
            "method": Jitter(generator).__call__,
            "module": _from_module,
        }
        self.transform = made[where]

    def __getitem__(self, index: int) -> Any:
        return index, self.transform(index)


def _from_module(index: int) -> float:
    return float(GENERATOR.random())


PLACES = ["numpy", "python", "torch", "older numpy", "closure", "partial", "method", "module"]


@pytest.mark.parametrize("where", PLACES)
def test_generators_of_the_users_own_draw_by_key(where: str) -> None:
    """Nested, bound, in a closure or in a module: a sample depends on its key, not on what came before.

    Each sample draws another number, each epoch others, and a position in the middle is exact.
    """
    loader = keyed(DataLoader(Owner(where), 4, shuffle=True))
    first, second = drawn(loader, 1), drawn(loader, 2)
    assert first == drawn(loader, 1)
    assert first[1:] == drawn(loader, 1, start=1)
    numbers = [number for batch in (*first, *second) for number in batch[1]]
    assert len(set(numbers)) == 20
    assert caveat(loader) == ""


def test_classes_whose_module_has_no_name_are_looked_into() -> None:
    """As those of functions that Cython compiles: a dataset and a metric may hold them."""
    odd = type(
        "Odd",
        (),
        {"__call__": lambda self, pred, target: (pred.argmax(1) == target).float().mean()},
    )
    odd.__module__ = property(lambda self: "compiled")  # type: ignore[assignment]

    class Holding(Random):
        def __init__(self) -> None:
            super().__init__()
            self.compiled = odd()

    assert drawn(keyed(DataLoader(Holding(), 4)), 1)
    data = torch.randn(8, 4), torch.randint(0, 2, (8,))
    run = st.fit(
        nn.Linear(4, 2),
        data,
        loss=nn.functional.cross_entropy,
        metrics={"accuracy": odd()},
        optimizer=torch.optim.SGD,
        epochs=1,
    )
    assert 0 <= run.history[-1]["train_accuracy"] <= 1


@pytest.mark.parametrize("where", ["numpy", "module"])
def test_generators_of_the_users_own_draw_by_key_in_workers(where: str) -> None:
    """Two workers make the same samples as none."""
    alone = drawn(keyed(DataLoader(Owner(where), 4)), 1)
    assert drawn(keyed(DataLoader(Owner(where), 4, num_workers=2)), 1) == alone


def test_what_a_seed_does_not_reach_is_a_caveat() -> None:
    """A sample that differs when it is loaded twice by one key says so."""

    class Counting(Random):
        calls = 0

        def __getitem__(self, index: int) -> Any:
            self.calls += 1
            return torch.tensor([index, self.calls])

    assert "loaded twice by the same key differs" in caveat(keyed(DataLoader(Counting(), 4)))
    assert caveat(keyed(DataLoader(Random(), 4))) == ""


def test_what_collates_draws_by_key_for_each_batch() -> None:
    """Also where the dataset draws nothing: each batch another number, the same when it is resumed."""

    class Fixed(Random):
        def __getitem__(self, index: int) -> Any:
            return index

    def collate(samples: list[int]) -> Any:
        return [samples, float(torch.rand(())), random.random(), float(np.random.rand())]

    loader = keyed(DataLoader(Fixed(), 2, collate_fn=collate))
    first, second = drawn(loader, 1), drawn(loader, 2)
    assert first[2:] == drawn(loader, 1, start=2)
    for i in (1, 2, 3):
        assert len({batch[i] for batch in (*first, *second)}) == 10


def test_a_dataset_that_loads_batches_does_so_with_a_seed() -> None:
    """`__getitems__` gets the indices of a batch, and draws by key."""

    class Batched(Rarely):
        def __getitems__(self, indices: list[int]) -> Any:
            self.reads += 1
            return {"index": torch.tensor(indices), "noise": torch.rand(len(indices))}

    def make(workers: int) -> Any:
        loader = DataLoader(
            Batched(), batch_size=8, shuffle=True, collate_fn=same_batch, num_workers=workers
        )
        return keyed(loader)

    def epoch(loader: Any, turn: int, start: int = 0) -> list[Any]:
        order_of(loader).begin(turn, start)
        return [(b["index"].tolist(), b["noise"].tolist()) for b in loader]

    loader = make(0)
    first = epoch(loader, 1)
    assert loader.dataset.dataset.reads == 4
    assert sorted(i for indices, _ in first for i in indices) == list(range(30))
    assert epoch(make(2), 1) == first
    assert epoch(make(0), 1, 2) == first[2:]
    assert epoch(make(0), 2) != first


def same_batch(batch: Any) -> Any:
    return batch


def test_an_epoch_begins_without_the_keys_of_all_its_samples() -> None:
    """Of ten million samples, the first batch takes no more Python objects than it has samples."""

    class Many(Rarely):
        def __len__(self) -> int:
            return 10_000_000

        def __getitem__(self, index: int) -> Any:
            return index

    loader = keyed(DataLoader(Many(), batch_size=8))
    order_of(loader).begin(1)
    tracemalloc.start()
    assert next(iter(loader)).tolist() == list(range(8))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_how_batches_are_put_together_may_draw() -> None:
    """Then samples are keyed though they are tensors, so that it draws by key."""

    def noisy(samples: list[Any]) -> Any:
        return [torch.stack([sample[0] for sample in samples]) + torch.rand(())]

    # Made three times below
    make = lambda: keyed(DataLoader(TensorDataset(torch.zeros(6)), batch_size=2, collate_fn=noisy))  # noqa: E731
    torch.manual_seed(1)
    first = drawn(make(), 1)
    torch.manual_seed(2)
    assert drawn(make(), 1) == first
    assert drawn(make(), 1, 2) == first[2:]


def test_a_keyed_dataset_can_be_sent_to_a_process() -> None:
    """As to workers that are spawned, not forked."""
    dataset = keyed(DataLoader(Random(), batch_size=3)).dataset
    again = pickle.loads(pickle.dumps(dataset))
    assert again[SampleKey(1, 2, 1)] == dataset[SampleKey(1, 2, 1)]


class Own(Sampler[int]):
    """An order from a source that nobody else can seed."""

    def __init__(self) -> None:
        self.hidden = [random.SystemRandom()]

    def __iter__(self) -> Iterator[int]:
        order = list(range(50))
        self.hidden[0].shuffle(order)
        return iter(order)

    def __len__(self) -> int:
        return 50


class Seedable(Own):
    """The same, from the shared generators."""

    def __init__(self) -> None:
        self.hidden = [random]  # type: ignore[list-item]  # a module that shuffles


class Epochs(Own):
    """An order that depends on the epoch that it is told, as a distributed sampler's."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter([(index * 7 + self.epoch) % 50 for index in range(50)])


def test_a_sampler_of_ones_own_is_asked_under_the_key() -> None:
    """If what it draws from can be seeded; one with a source of its own is found out, and left alone."""
    assert drawn(keyed(DataLoader(Random(50), batch_size=9, sampler=Seedable())), 1) == drawn(
        keyed(DataLoader(Random(50), batch_size=9, sampler=Seedable())), 1
    )
    epochs = keyed(DataLoader(Random(50), batch_size=50, sampler=Epochs()))
    assert [drawn(epochs, turn)[0][0][0] for turn in (1, 2, 3)] == [0, 1, 2]
    loader = DataLoader(Random(50), batch_size=9, sampler=Own())
    assert make_keyed(loader, 1, "train") == (
        loader,
        "its sampler Own draws from a source of its own",
    )


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield 1


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.zeros(4), 0)] * 4)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ([1, 2], "it is a list, whose order is its own"),
        (DataLoader(Stream()), "its dataset is iterable, so its order is its own"),
        (DataLoader(Random(), sampler=Endless()), "its sampler BatchSampler has no length"),
        (type("Mine", (DataLoader,), {})(Random()), "it is a Mine, whose order is its own"),
    ],
    ids=["a list", "a stream", "an endless sampler", "a loader of one's own"],
)
def test_what_does_not_draw_by_key_says_why(data: Any, why: str) -> None:
    """And is used as it is."""
    assert make_keyed(data, 1, "train") == (data, why)


# ---------------------------------------------------------------- runs


def points() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(12, 4, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3


def fit(data: Any = None, **options: Any) -> st.Run:
    given: dict[str, Any] = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        "verbose": False,
    }
    return st.fit(
        nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.2)),
        points() if data is None else data,
        **{**given, **options},
    )


def test_the_table_shows_that_a_run_is_seeded() -> None:
    """And without a seed there is nothing of it."""
    assert fit(seed=1, valid=points()).lifecycle == st.supervised(seeded=True)
    assert str(st.supervised(seeded=True)).count("seed its randomness") == 2
    assert "seed" not in str(st.supervised())


def test_a_seeded_lifecycle_needs_a_seed() -> None:
    """The error says what to give, before anything runs."""
    with pytest.raises(st.ConfigError, match="seeds each batch by the run's seed; give seed="):
        fit(valid=points(), lifecycle=st.supervised(seeded=True))


def test_data_that_a_seed_does_not_reach_is_named(caplog: Any) -> None:
    """With what that means, and what to do."""
    with caplog.at_level(logging.WARNING, "statetrain"):
        fit(DataLoader(Stream(), batch_size=2), seed=1)
        assert "seed=1 does not reach the train data: its dataset is iterable" in caplog.text
        caplog.clear()
        fit(seed=1, valid=points())
    assert not caplog.records


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (lambda: points(), ""),
        (lambda: [points()], ""),
        (lambda: DataLoader(TensorDataset(*points()), num_workers=1), ""),
        (
            lambda: DataLoader(TensorDataset(*points()), num_workers=1, persistent_workers=True),
            "train data: its workers persist",
        ),
        (
            lambda: DataLoader(Stream(), batch_size=2),
            "train data: its order has to be decided when an epoch begins",
        ),
        (
            lambda: lambda: iter([points()]),
            "train data: its order has to be decided when an epoch begins",
        ),
    ],
    ids=["tensors", "a list", "workers", "workers that stay", "a stream", "a function"],
)
def test_a_run_says_what_may_keep_it_from_being_resumed_exactly(data: Any, named: str) -> None:
    """Empty where nothing is known to."""
    caveats = fit(data(), epochs=1, start=False).caveats
    assert [words[: len(named)] for words in caveats] == ([named] if named else [])


def test_streams_are_separate() -> None:
    """Who draws from one moves neither another one nor what everybody shares; they depend on the seed and the name."""

    class Draw(st.Callback):
        def __init__(self, *names: str) -> None:
            self.names = names

        def on_exit_batch(self, ctx: Any) -> None:
            for name in self.names:
                ctx.log(name, float(torch.rand((), generator=ctx.generator(name))))

    alone, both, other = (
        fit(seed=1, callbacks=Draw("a")),
        fit(seed=1, callbacks=Draw("b", "a")),
        fit(seed=2, callbacks=Draw("a")),
    )
    assert alone.ctx.records["a"] == both.ctx.records["a"]
    assert alone.ctx.records["a"] != both.ctx.records["b"]
    assert alone.ctx.records["a"] != other.ctx.records["a"]
    torch.manual_seed(0)
    plain = fit()
    torch.manual_seed(0)
    drawing = fit(callbacks=Draw("a", "b"))
    assert all(
        torch.equal(one, two)
        for one, two in zip(plain.model.parameters(), drawing.model.parameters(), strict=True)
    )
