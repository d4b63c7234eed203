"""Loaders that draw by key: each order and each sample is a function of the seed and its place.

A sample is loaded with torch's, Python's and numpy's global generators seeded by its key, in
whatever process. Seeding all three costs as much as loading many a sample, and most datasets draw
nothing. So a generator is seeded once it is found to be used: before that, it is put into a known
state, and after loading it is checked. What was loaded while it moved is loaded again, by key.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from attrs import Factory, define, frozen
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
    default_convert,
)

from statetrain.compute.chance import undisturbed
from statetrain.compute.generators import generators_in, seed_generators
from statetrain.compute.seeding import aside, key, owners_in, seed_all
from statetrain.data.combining import Combined
from statetrain.data.epochs import counted_on, listening_in
from statetrain.data.sizes import length
from statetrain.data.tensors import (
    TensorLoader,
    TensorRows,
    cut,
    draw_order,
    is_plain_order,
    takes_whole_batches,
)

# The options of a DataLoader, besides its dataset and its samplers.
_OPTIONS = (
    *("num_workers", "collate_fn", "pin_memory", "pin_memory_device", "timeout"),
    *("worker_init_fn", "multiprocessing_context", "prefetch_factor", "persistent_workers"),
    "in_order",
)
_DRAW_NOTHING = (default_collate, default_convert)
_REPEATABLE = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


class SampleKey(NamedTuple):
    """What a sampler of a keyed loader yields for a sample: its index, and the rest of its key."""

    turn: int  # the epoch, or what counts the validations
    index: Any
    nth: int  # which of several draws of this sample in this turn


# ---------------------------------------------------------------- order


@define(eq=False)
class Share:
    """The part of each batch that one of several ranks takes; parts differ by at most one sample.

    Args:
        rank: which, from 0.
        ranks: how many there are.

    Attributes:
        sizes: the samples of each whole batch that was begun, by its position in the epoch.
    """

    rank: int
    ranks: int
    sizes: dict[int, int] = Factory(dict)

    def of(self, batches: Iterator[Any], start: int) -> Iterator[Any]:
        """The parts of batches, the first of which stands at a position.

        Where a batch has fewer samples than there are ranks, a rank without one takes the first
        sample; `size_of` says that it does not count.
        """
        self.sizes.clear()
        for position, batch in enumerate(batches, start):
            if isinstance(batch, slice):
                whole = batch.stop - batch.start
            else:
                whole = len(batch)
            self.sizes[position] = whole
            first, last = self._bounds(whole)
            last = max(last, first + 1)
            if first == whole:
                first, last = 0, 1
            if isinstance(batch, slice):
                yield slice(batch.start + first, batch.start + last)
            else:
                yield batch[first:last]

    def size_of(self, position: int) -> tuple[int, int]:
        """The samples that count of this rank's part of a batch, and those of the whole batch."""
        whole = self.sizes[position]
        first, last = self._bounds(whole)
        return last - first, whole

    def _bounds(self, whole: int) -> tuple[int, int]:
        return whole * self.rank // self.ranks, whole * (self.rank + 1) // self.ranks


class KeyedOrder:
    """The order of a loader's samples, or batches of samples, as a function of the seed and turn.

    An order that torch shuffles is drawn from a generator of its own. Any other sampler is iterated
    over with all generators seeded by the key and restored afterwards. So the position in an epoch
    is a number, and resuming there draws nothing.

    Args:
        sampler: the loader's own, of finite length.
        seed, stream: the beginning of the key.
        batched: whether it yields batches, not samples.
        bare: whether indices are yielded without a key: for a dataset that draws nothing.
    """

    tells_epochs = True  # to its sampler, when it asks for the order

    def __init__(self, sampler: Any, seed: int, stream: str, *, batched: bool, bare: bool) -> None:
        self.sampler, self.seed, self.stream = sampler, seed, stream
        self.batched, self.bare = batched, bare
        self.generator = torch.Generator()  # draws the seed of a loader's workers
        self.share: Share | None = None  # which part of each batch is yielded; None is all of it
        self._turn = self._start = 0
        self._first_epochs: dict[int, Any] = {}  # of samplers that are told the epoch

    def begin(self, turn: int, start: int = 0) -> None:
        """Sets where the next iteration begins.

        Args:
            turn: the epoch, or what counts the validations.
            start: batches (or samples) of it to leave out.
        """
        self._turn, self._start = turn, start
        self.generator.manual_seed(key(self.seed, self.stream, "workers", turn))

    def order(self, turn: int) -> list[Any]:
        """All indices of a turn, batch by batch."""
        if self._is_plain():
            return [_numbers(rows) for rows in self._plain_rows(turn, 0)]
        with self._told(turn), aside(self._key(turn), *owners_in(self.sampler)):
            entries = [entry for _, entry in zip(range(len(self)), self.sampler, strict=False)]
        if self.batched:
            return [list(entry) for entry in entries]
        return entries

    def rows(self) -> Iterator[TensorRows]:
        """The samples of each batch from the beginning that was set, as `tensors.rows_of`."""
        if self._is_plain():
            return self._parts(self._plain_rows(self._turn, self._start))
        return map(torch.tensor, self._parts(iter(self.order(self._turn)[self._start :])))

    def __iter__(self) -> Iterator[Any]:
        turn, start = self._turn, self._start
        if self._is_plain():
            batches = map(_numbers, self._parts(self._plain_rows(turn, start)))
            if self.bare:
                return batches
            return ([SampleKey(turn, index, 1) for index in batch] for batch in batches)
        entries = self.order(turn)
        if self.bare:
            return self._parts(iter(entries[start:]))
        return self._parts(self._numbered(entries, turn, start))

    def _parts(self, batches: Iterator[Any]) -> Iterator[Any]:
        """What is this rank's of each batch; all of it in one process."""
        if self.share is None:
            return batches
        return self.share.of(batches, self._start)

    def __len__(self) -> int:
        if self._turn == 0:  # no iteration has been set
            return len(self.sampler)
        with self._told(self._turn):
            return len(self.sampler)

    @contextmanager
    def _told(self, turn: int) -> Iterator[None]:
        """Tells the sampler, and those within, the turn as the epoch; see `data.epochs`."""
        told = []
        for owner in listening_in(self.sampler):
            own = getattr(owner, "epoch", None)
            first = self._first_epochs.setdefault(id(owner), own)
            if own == first:  # else the user has set it
                told.append((owner, first))
                owner.set_epoch(counted_on(first, max(turn - 1, 0)))
        yield
        for owner, first in told:
            if isinstance(first, int):
                owner.set_epoch(first)

    def _numbered(self, entries: list[Any], turn: int, start: int) -> Iterator[Any]:
        """Adds to each index its key; an index that comes again gets another one."""
        seen: Counter[Any] = Counter()

        def keyed(index: Any) -> SampleKey:
            name = index
            if not isinstance(index, int | str | tuple):
                name = repr(index)
            seen[name] += 1
            return SampleKey(turn, index, seen[name])

        for position, entry in enumerate(entries):
            found: Any
            if self.batched:
                found = list(map(keyed, entry))
            else:
                found = keyed(entry)
            if position >= start:
                yield found

    def _is_plain(self) -> bool:
        return (
            self.batched
            and type(self.sampler) is BatchSampler
            and is_plain_order(self.sampler.sampler)
        )

    def _plain_rows(self, turn: int, start: int) -> Iterator[TensorRows]:
        within = self.sampler.sampler
        generator = torch.Generator().manual_seed(self._key(turn))
        own = getattr(within, "generator", None)
        if own is None:
            order = draw_order(within, generator)
        else:  # it would be seeded by the key
            order = torch.randperm(len(within.data_source), generator=generator)
        return cut(order, self.sampler, start)

    def _key(self, turn: int) -> int:
        return key(self.seed, self.stream, "order", turn)


def _numbers(rows: TensorRows) -> list[int]:
    if isinstance(rows, slice):
        return list(range(rows.start, rows.stop))
    return rows.tolist()


# ---------------------------------------------------------------- samples


@frozen
class _GeneratorSource:
    """One of the global generators.

    Args:
        seed: seeds it.
        draw: draws a number from it.
        first: the number that comes first after `seed(0)`.
    """

    seed: Callable[[int], Any]
    draw: Callable[[], Any]
    first: Any

    def was_used(self) -> bool:
        """Whether something was drawn from it since `seed(0)`; this draws, too."""
        return bool(self.draw() != self.first)


@cache
def _source(name: str) -> _GeneratorSource:
    sources: dict[str, tuple[Callable[[int], Any], Callable[[], Any]]] = {
        "torch": (torch.default_generator.manual_seed, _draw_from_torch),
        "random": (random.seed, partial(random.getrandbits, 64)),
        "numpy": (_seed_numpy, _draw_from_numpy),
    }
    seed, draw = sources[name]
    seed(0)
    return _GeneratorSource(seed, draw, draw())


def _draw_from_torch() -> int:
    return int(torch.empty((), dtype=torch.int64).random_().item())


def _seed_numpy(number: int) -> None:
    sys.modules["numpy"].random.seed(number & 0xFFFFFFFF)


def _draw_from_numpy() -> float:
    return float(sys.modules["numpy"].random.random_sample())


class KeyedDataset(Dataset[Any]):
    """A dataset whose samples are loaded by key, in whatever process.

    Its other attributes are those of the wrapped dataset. A dataset with a method `__getitems__`,
    which loads a batch, is seeded once a batch.

    Args:
        dataset: map-style.
        seed, stream: the beginning of the keys.
        is_collated: whether the samples of a batch carry a key for what collates them.
    """

    def __init__(self, dataset: Any, seed: int, stream: str, *, is_collated: bool = False) -> None:
        self.dataset, self.seed, self.stream = dataset, seed, stream
        self.is_collated = is_collated
        self._used: tuple[str, ...] = ()  # the generators that loading was seen to draw from
        self._is_tried = False  # whether a batch was loaded in this process
        self._own: list[Any] | None = None  # the dataset's generators, in this process

    def __getitem__(self, at: SampleKey) -> Any:
        with undisturbed():
            return self._load([at])[0]

    def __getitems__(self, batch: Sequence[SampleKey]) -> Any:
        """The samples of a batch, which is how a loader asks for them."""
        with undisturbed():
            return self._load_batch(batch)

    def _load_batch(self, batch: Sequence[SampleKey]) -> Any:
        if _loads_batches(self.dataset):
            seed_all(self._batch_key(batch, "batch"))
            seed_generators(self._own_generators(), self._batch_key(batch, "batch"))
            samples = self.dataset.__getitems__([at.index for at in batch])
        elif self._is_tried:
            samples = self._load(batch)
        else:
            self._is_tried = True
            # What draws is found out with one sample
            samples = [self._load([at])[0] for at in batch]
        if not self.is_collated or type(samples) is not list:
            return samples
        return Samples(samples, self._batch_key(batch, "collate"))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_own": None}  # in another process they are others

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # Before they are set, as when it is unpickled
        if name in ("dataset", "seed", "stream", "is_collated") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def _load(self, batch: Sequence[SampleKey]) -> list[Any]:
        """Loads samples, with the generators that are used seeded by key for each.

        The others are watched. If one turns out to be used, the samples are loaded again.
        """
        watched = [name for name in _generators() if name not in self._used]
        for name in watched:
            _source(name).seed(0)
        try:
            samples = list(map(self._sample, batch))
        except Exception:
            if not self._find_used(watched):
                raise
        else:
            if not self._find_used(watched):
                return samples
        return self._load(batch)

    def _sample(self, at: SampleKey) -> Any:
        own = self._own_generators()
        if self._used or own:
            number = key(self.seed, self.stream, at.turn, at.index, at.nth)
            for name in self._used:
                _source(name).seed(number)
            seed_generators(own, number)
        return self.dataset[at.index]

    def _batch_key(self, batch: Sequence[SampleKey], what: str) -> int:
        places = [(at.index, at.nth) for at in batch]
        return key(self.seed, self.stream, batch[0].turn, what, places)

    def _own_generators(self) -> list[Any]:
        """The generators that the dataset holds."""
        if self._own is None:
            self._own = [one for _, one in generators_in((self.dataset,))]
        return self._own

    def _find_used(self, watched: list[str]) -> bool:
        """Whether generators were used that were not known to be; they are from now on."""
        found = [name for name in watched if _source(name).was_used()]
        self._used += tuple(found)
        return bool(found)


def _loads_batches(dataset: Any) -> bool:
    """Whether a dataset has a way of its own to load a batch; a `Subset` asks that of another."""
    if type(dataset) is Subset:
        return _loads_batches(dataset.dataset)
    return callable(getattr(dataset, "__getitems__", None))


class Samples(list[Any]):
    """The samples of a batch, with the number that what collates them is seeded by."""

    def __init__(self, samples: list[Any], number: int) -> None:
        super().__init__(samples)
        self.number = number


class KeyedCollate:
    """A function that makes a batch of samples, seeded by the batch's key.

    Args:
        function: the loader's own, which may draw random numbers once for a batch.
    """

    def __init__(self, function: Callable[[list[Any]], Any]) -> None:
        self.function = function
        self._own: list[Any] | None = None  # its generators, in this process

    def __call__(self, samples: list[Any]) -> Any:
        if not isinstance(samples, Samples):
            return self.function(samples)
        if self._own is None:
            self._own = [one for _, one in generators_in((self.function,))]
        with undisturbed():
            seed_all(samples.number)
            seed_generators(self._own, samples.number)
            return self.function(list(samples))

    def __getstate__(self) -> dict[str, Any]:
        return {"function": self.function, "_own": None}


def _generators() -> tuple[str, ...]:
    if "numpy" in sys.modules:
        return ("torch", "random", "numpy")
    return ("torch", "random")


# ---------------------------------------------------------------- loaders


def keyed(data: Any, seed: int, stream: str) -> tuple[Any, str]:
    """A loader that draws by key, made of a DataLoader over a map-style dataset.

    Args:
        data: what is iterated over, batch by batch.
        seed: of the run.
        stream: what the data is for, "train" or "valid"; a part of the keys.

    Returns:
        The data to use, and why it does not draw by key; empty if it does.
    """
    if isinstance(data, Combined):
        return _keyed_parts(data, seed, stream)
    known = type(data) in (DataLoader, TensorLoader)
    if not known and not (isinstance(data, DataLoader) and hasattr(data, "load_state_dict")):
        return data, f"it is a {type(data).__name__}, whose order is its own"
    if isinstance(data.dataset, IterableDataset):
        return data, "its dataset is iterable, so its order is its own"
    batched = data.batch_sampler is not None
    if batched:
        sampler = data.batch_sampler
    else:
        sampler = data.sampler
    bare = _draws_nothing(data.dataset) and data.collate_fn is default_collate
    order = KeyedOrder(sampler, seed, stream, batched=batched, bare=bare)
    if why := _why_not_repeatable(order):
        return data, why
    return _rebuilt(data, order), ""


def _keyed_parts(data: Combined, seed: int, stream: str) -> tuple[Any, str]:
    """Loaders that are gone through together, each drawing by a key of its own."""
    loaders, begins = dict(data.loaders), {}
    for name, part in data.loaders.items():
        if isinstance(part, list | tuple):  # whose order is always the same
            continue
        loaders[name], why = keyed(part, seed, f"{stream} {name}")
        if (order := order_of(loaders[name])) is None:
            return data, f"of its loader {name!r}: {why}"
        begins[name] = order.begin
    return data.keyed(loaders, begins), ""


def _rebuilt(data: DataLoader[Any], order: KeyedOrder) -> DataLoader[Any]:
    """A loader with the options of another one, in an order by key."""
    options = options_of(data)
    options["generator"] = order.generator
    if order.batched:
        options["batch_sampler"] = order
    else:
        options |= {"sampler": order, "batch_size": None}
    if not order.bare:
        draws = order.batched and data.collate_fn not in _DRAW_NOTHING
        if draws:
            options["collate_fn"] = KeyedCollate(data.collate_fn)
        dataset = KeyedDataset(data.dataset, order.seed, order.stream, is_collated=draws)
        return DataLoader(dataset, **options)
    if takes_whole_batches(data):
        return TensorLoader(data.dataset, **options)
    return DataLoader(data.dataset, **options)


def options_of(loader: DataLoader[Any]) -> dict[str, Any]:
    """What a loader was made with, except for its dataset, its order and its batch size."""
    return {name: getattr(loader, name) for name in _OPTIONS if hasattr(loader, name)}


def _draws_nothing(dataset: Any) -> bool:
    """Whether loading a sample is known to draw no random number: the dataset holds tensors."""
    if isinstance(dataset, Subset):
        return _draws_nothing(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return all(map(_draws_nothing, dataset.datasets))
    return type(dataset) is TensorDataset or getattr(type(dataset), "draws_nothing", False) is True


def _why_not_repeatable(order: KeyedOrder) -> str:
    """Why a sampler's order is not a function of the key; empty if it is."""
    if length(order) is None:
        return f"its sampler {type(order.sampler).__name__} has no length"
    within = order.sampler
    if type(within) is BatchSampler:
        within = within.sampler
    if type(within) in _REPEATABLE:
        return ""
    if repr(order.order(0)) != repr(order.order(0)):
        return f"its sampler {type(within).__name__} draws from a source of its own"
    return ""


def caveat(data: Any) -> str:
    """What may keep a loader from resuming exactly; empty if nothing is known to."""
    if data is None or isinstance(data, list | tuple):
        return ""
    if isinstance(data, Combined):
        if not data.is_keyed:
            return _GONE_THROUGH_AGAIN
        return next(filter(None, map(caveat, data.loaders.values())), "")
    if order_of(data) is not None:
        if _repeats(data.dataset):
            return ""
        return _NOT_BY_KEY
    if not isinstance(data, DataLoader):
        if hasattr(data, "load_state_dict"):
            return "it keeps its position itself"
        return _GONE_THROUGH_AGAIN
    if data.num_workers and hasattr(data, "load_state_dict"):
        return "its state leaves out the random numbers of its workers"
    if data.num_workers and data.persistent_workers:
        return "its workers persist, and their random numbers go on from epoch to epoch"
    if isinstance(data.dataset, IterableDataset):
        return _GONE_THROUGH_AGAIN
    return ""


def _repeats(dataset: Any) -> bool:
    """Whether a sample that is loaded twice by one key is twice the same; this loads one twice."""
    if not isinstance(dataset, KeyedDataset) or not length(dataset):
        return True
    at = SampleKey(0, 0, 1)
    with aside(0, dataset.dataset):
        try:
            first, second = (_comparable(dataset[at]) for _ in range(2))
        except Exception:  # its indices are others, or it fails by itself; training will tell
            return True
    return bool(first == second)


def _comparable(sample: Any) -> Any:
    """A sample as something that can be compared: arrays by their bytes; None for other objects."""
    if isinstance(sample, torch.Tensor):
        return (tuple(sample.shape), sample.detach().cpu().contiguous().numpy(force=True).tobytes())
    if isinstance(sample, dict):
        return {str(name): _comparable(part) for name, part in sample.items()}
    if isinstance(sample, list | tuple):
        return [_comparable(part) for part in sample]
    if hasattr(sample, "tobytes"):  # an array, an image
        return sample.tobytes()
    if isinstance(sample, str | bytes | int | float):
        return sample
    return None


_NOT_BY_KEY = (
    "a sample that is loaded twice by the same key differs: it draws from a source that a seed does"
    " not reach"
)
_GONE_THROUGH_AGAIN = (
    "its order has to be decided when an epoch begins, since resuming goes through it again"
)


def order_of(data: Any) -> KeyedOrder | None:
    """The order that a keyed loader goes through; None for other data."""
    for name in ("batch_sampler", "sampler"):
        if isinstance(order := getattr(data, name, None), KeyedOrder):
            return order
    return None
