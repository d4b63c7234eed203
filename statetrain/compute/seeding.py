"""Randomness: the states of all generators, and numbers that depend on nothing but what they are for.

With a seed, each draw is a function of its key: the order of an epoch of (seed, epoch); what is
drawn while a sample is loaded of (seed, epoch, index), in whatever process; what is drawn in a
training step of (seed, batch). A place in a run is then given by its numbers, and results do not
depend on the number of workers. Without a seed, the generators' states are all there is to go by.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

States = dict[str, Any]

# ---------------------------------------------------------------- keys


def key(*parts: Any) -> int:
    """A number of 63 bits for a key; equal for equal parts, on every machine."""
    return (
        int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1
    )


def seed_all(number: int, device: torch.device | None = None) -> None:
    """Seeds torch's generators of the CPU and of a device, Python's, and numpy's if it is loaded.

    torch's CPU generator looks at the lower 32 bits only.
    """
    torch.default_generator.manual_seed(number)  # torch.manual_seed takes a hundred times as long
    if device is not None and device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(number)
    elif device is not None and device.type == "mps":
        torch.mps.manual_seed(number)
    random.seed(number)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(number & 0xFFFFFFFF)


# ---------------------------------------------------------------- states


def states(device: torch.device | None = None) -> States:
    """The states of the generators that everybody shares: torch's of the CPU and of a device, Python's and numpy's."""
    found: States = {"torch": torch.get_rng_state(), "random": random.getstate()}
    if device is not None and device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    elif device is not None and device.type == "mps":
        found["mps"] = torch.mps.get_rng_state()
    if (numpy := sys.modules.get("numpy")) is not None:
        found["numpy"] = numpy.random.get_state(legacy=False)
    return found


def set_states(saved: States, device: torch.device | None = None) -> None:
    """Puts back what `states` gave. What is not there here, such as another kind of device, is left as it is."""
    torch.set_rng_state(saved["torch"])
    random.setstate(saved["random"])
    if "cuda" in saved and device is not None and device.type == "cuda":
        torch.cuda.set_rng_state(saved["cuda"], device)
    if "mps" in saved and device is not None and device.type == "mps":
        torch.mps.set_rng_state(saved["mps"])
    if "numpy" in saved and (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.set_state(saved["numpy"])


def own_states(*owners: Any) -> States:
    """The states of the generators that objects have as attributes of their own, by owner and name."""
    return {name: _state(generator) for name, generator in _own(owners)}


def set_own_states(saved: States, *owners: Any) -> None:
    """Puts back what `own_states` gave, for those that are still there."""
    for name, generator in _own(owners):
        if name in saved:
            _set_state(generator, saved[name])


def _own(owners: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    numpy = sys.modules.get("numpy")
    kinds = (
        (torch.Generator, random.Random)
        if numpy is None
        else (torch.Generator, random.Random, numpy.random.Generator, numpy.random.RandomState)
    )
    for i, owner in enumerate(owners):
        yield from (
            (f"{i}.{name}", value)
            for name, value in getattr(owner, "__dict__", {}).items()
            if isinstance(value, kinds)
        )


def _state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if hasattr(generator, "bit_generator"):
        return generator.bit_generator.state
    return generator.get_state()


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def owners_in(data: Any) -> list[Any]:
    """The objects that a loader is made of, which may have generators of their own: itself, its samplers, its datasets."""
    found: list[Any] = []
    todo = [data]
    while todo and len(found) < 16:  # datasets within datasets end somewhere
        thing = todo.pop(0)
        if thing is None or any(thing is other for other in found):
            continue
        found.append(thing)
        todo += [
            getattr(thing, name, None)
            for name in ("sampler", "batch_sampler", "dataset", "data_source", "collate_fn")
        ]
    return found


@contextmanager
def aside(number: int, *owners: Any) -> Iterator[None]:
    """While it is open, all generators are seeded with a number; afterwards they are as before."""
    before, own = states(), own_states(*owners)
    try:
        seed_all(number)
        for _, generator in _own(owners):
            if isinstance(generator, torch.Generator):
                generator.manual_seed(number)
            elif isinstance(generator, random.Random) or not hasattr(generator, "bit_generator"):
                generator.seed(number & 0xFFFFFFFF)
            else:
                generator.bit_generator.state = type(generator.bit_generator)(number).state
        yield
    finally:
        set_states(before)
        set_own_states(own, *owners)


# ---------------------------------------------------------------- data

# What a loader is made with, beside its dataset and its samplers.
_OPTIONS = (
    *(
        "num_workers",
        "collate_fn",
        "pin_memory",
        "pin_memory_device",
        "timeout",
        "worker_init_fn",
        "multiprocessing_context",
    ),
    *("prefetch_factor", "persistent_workers", "in_order"),
)


class Keyed(NamedTuple):
    """What a sampler of a keyed loader yields for a sample: its index, and the rest of its key."""

    turn: int  # the epoch, or what counts the validations
    index: Any
    nth: int  # which of several draws of this sample in this turn


class KeyedOrder:
    """The order of a loader's samples, or batches of samples, as a function of the seed and the turn.

    The loader's own sampler is asked, with all generators seeded by the key and put back
    afterwards. So the position in an epoch is a number, and finding it again takes no drawing.

    Args:
        sampler: the loader's own, of finite length.
        seed, stream: the beginning of the key.
        batched: whether it yields batches, not samples.
        bare: whether indices are yielded without a key: for a dataset that draws nothing.
    """

    def __init__(self, sampler: Any, seed: int, stream: str, *, batched: bool, bare: bool) -> None:
        self.sampler, self.seed, self.stream, self.batched, self.bare = (
            sampler,
            seed,
            stream,
            batched,
            bare,
        )
        self._turn = self._start = 0

    def begin(self, turn: int, start: int = 0) -> None:
        """Says where the next iteration is to begin.

        Args:
            turn: the epoch, or what counts the validations.
            start: batches (or samples) of it to leave out.
        """
        self._turn, self._start = turn, start

    def order(self, turn: int) -> list[Any]:
        """All indices of a turn, batch by batch."""
        owners = owners_in(self.sampler)
        for owner in owners:
            if hasattr(owner, "set_epoch"):
                owner.set_epoch(max(turn - 1, 0))  # which they count from 0
        with aside(key(self.seed, self.stream, "order", turn), *owners):
            return [
                list(entry) if self.batched else entry
                for _, entry in zip(range(len(self.sampler)), self.sampler, strict=False)
            ]

    def __iter__(self) -> Iterator[Any]:
        turn, entries = self._turn, self.order(self._turn)
        if self.bare:
            return iter(entries[self._start :])
        seen: Counter[Any] = Counter()

        def keyed(index: Any) -> Keyed:
            name = index if isinstance(index, int | str | tuple) else repr(index)
            seen[name] += 1
            return Keyed(turn, index, seen[name])

        return iter(
            [
                [keyed(index) for index in entry] if self.batched else keyed(entry)
                for entry in entries
            ][self._start :]
        )

    def __len__(self) -> int:
        return len(self.sampler)


class KeyedDataset(Dataset[Any]):
    """A dataset whose samples are loaded with all generators seeded by their keys, in whatever process.

    Its other attributes are those of the dataset within.
    """

    def __init__(self, dataset: Any, seed: int, stream: str) -> None:
        self.dataset, self.seed, self.stream = dataset, seed, stream

    def __getitem__(self, at: Keyed) -> Any:
        seed_all(key(self.seed, self.stream, at.turn, at.index, at.nth))
        return self.dataset[at.index]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name in ("dataset", "seed", "stream") or name.startswith(
            "__"
        ):  # before they are set, as when it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


def keyed(data: Any, seed: int, stream: str) -> tuple[Any, str]:
    """A loader that draws by key, made of a DataLoader over a map-style dataset; anything else as it is.

    Args:
        data: what is iterated over, batch by batch.
        seed: of the run.
        stream: what the data is for, "train" or "valid"; a part of the keys.

    Returns:
        The data to use, and why it does not draw by key; empty if it does.
    """
    if type(data) is not DataLoader and not (
        isinstance(data, DataLoader) and hasattr(data, "load_state_dict")
    ):
        return data, f"it is a {type(data).__name__}, whose order is its own"
    if isinstance(data.dataset, IterableDataset):
        return data, "its dataset is iterable, so its order is its own"
    batched = data.batch_sampler is not None
    sampler = data.batch_sampler if batched else data.sampler
    bare = _draws_nothing(data.dataset) and data.collate_fn is default_collate
    order = KeyedOrder(sampler, seed, stream, batched=batched, bare=bare)
    if why := _own_mind(order):
        return data, why
    options: dict[str, Any] = (
        {"batch_sampler": order} if batched else {"sampler": order, "batch_size": None}
    )
    dataset = data.dataset if bare else KeyedDataset(data.dataset, seed, stream)
    return (
        DataLoader(
            dataset,
            **options,
            **{name: getattr(data, name) for name in _OPTIONS if hasattr(data, name)},
        ),
        "",
    )


def _draws_nothing(dataset: Any) -> bool:
    """Whether loading a sample is known to draw no random number: what it holds are tensors."""
    if isinstance(dataset, Subset):
        return _draws_nothing(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return all(map(_draws_nothing, dataset.datasets))
    return type(dataset) is TensorDataset or getattr(type(dataset), "draws_nothing", False) is True


def _own_mind(order: KeyedOrder) -> str:
    """Why a sampler's order is no function of the key; empty if it is."""
    try:
        len(order)
    except TypeError:
        return f"its sampler {type(order.sampler).__name__} has no length"
    within = order.sampler.sampler if type(order.sampler) is BatchSampler else order.sampler
    if type(within) in (
        SequentialSampler,
        RandomSampler,
        SubsetRandomSampler,
        WeightedRandomSampler,
    ):
        return ""
    if repr(order.order(0)) != repr(order.order(0)):  # the same key has to give the same order
        return f"its sampler {type(within).__name__} draws from a source of its own"
    return ""


def caveat(data: Any) -> str:
    """What may keep a loader from going on exactly as it would have gone on; empty if nothing is known to."""
    if data is None or order_of(data) is not None or isinstance(data, list | tuple):
        return ""
    if not isinstance(data, DataLoader):
        if hasattr(data, "load_state_dict"):
            return "it says itself where it is"
        return "its order has to be decided when an epoch begins, since it is gone through again"
    if data.num_workers and hasattr(data, "load_state_dict"):
        return "what it says of itself leaves out the random numbers of its workers"
    if data.num_workers and data.persistent_workers:
        return "its workers persist, and their random numbers go on from epoch to epoch"
    if isinstance(data.dataset, IterableDataset):
        return "its order has to be decided when an epoch begins, since it is gone through again"
    return ""


def order_of(data: Any) -> Any:
    """The order that a keyed loader goes through; None for other data."""
    for name in ("batch_sampler", "sampler"):
        if isinstance(order := getattr(data, name, None), KeyedOrder):
            return order
    return None
