"""combine: several loaders that are gone through together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from attrs import field, frozen

from statetrain.data.sizes import length
from statetrain.data.workers import iterate
from statetrain.errors import ConfigError, DataError
from statetrain.naming import did_you_mean

Begin = Callable[[int, int], Any]
_NONE = object()


@frozen(eq=False)
class Combined:
    """Several loaders as one, whose batches are dicts of a batch of each; `combine` makes it.

    Args:
        loaders: by name.
        batches: in an epoch.
        begins: what sets the turn and the batch with which a loader that draws by key begins next.
        is_keyed: whether all loaders draw by key, or are lists.
    """

    loaders: Mapping[str, Any]
    batches: int
    begins: Mapping[str, Begin] = field(factory=dict)
    is_keyed: bool = False
    _next: list[int] = field(factory=lambda: [0, 0])  # turn and batch of the next iteration

    def keyed(self, loaders: Mapping[str, Any], begins: Mapping[str, Begin]) -> Combined:
        """The same of loaders that draw by key."""
        return Combined(loaders, self.batches, begins, True)

    def begin(self, turn: int, start: int) -> None:
        """Sets where the next iteration begins, if all loaders draw by key."""
        self._next[:] = turn, start

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        turn, start = self._next
        self._next[:] = turn, 0
        if start == self.batches:  # no pass begins for nothing
            return
        begun = {name: self._begun(name, turn, start) for name in self.loaders}
        endless = {name: self._endless(name, begun[name], turn, start) for name in begun}
        for _ in range(start, self.batches):
            yield {name: next(batches) for name, batches in endless.items()}

    def _begun(self, name: str, turn: int, start: int) -> Iterator[Any]:
        """The rest of a loader's pass in which a batch of a turn lies."""
        loader, size = self.loaders[name], len(self.loaders[name])
        number, first = divmod(start, size)
        if name not in self.begins:
            return islice(iterate(loader), first, None)
        passes = -(-self.batches // size)  # of a turn; each is a turn of the loader
        self.begins[name](turn * passes + number, first)
        return iterate(loader)

    def _endless(self, name: str, batches: Iterator[Any], turn: int, start: int) -> Iterator[Any]:
        """What is left of a pass, and then pass after pass."""
        size = len(self.loaders[name])
        while True:
            batch = _NONE
            for batch in batches:
                yield batch
            if batch is _NONE and start % size == 0:
                raise DataError(f"the loader {name!r} gave no batch")
            start += size - start % size
            batches = self._begun(name, turn, start)


def combine(loaders: Mapping[str, Any], epoch: str = "longest") -> Combined:
    """Several loaders as one: each batch is a dict with a batch of each.

        both = st.combine({"labelled": labelled, "unlabelled": unlabelled})
        st.fit(model, both, input="labelled[0]", target="labelled[1]", ...)

    A loader that comes to its end before the epoch does begins again, in a new order if it shuffles
    itself. With a seed, each pass of a DataLoader over a map-style dataset is drawn by key, so a
    run is resumed exactly, as with one loader.

    Args:
        loaders: by name; each has a length and can be gone through again and again, as a DataLoader
            or a list of batches.
        epoch: how long one is: "longest", "shortest", or the name of the loader that is gone
            through once.

    Raises:
        ConfigError: there are no loaders, one has no length or no batch, or `epoch` is none of
            these.
    """
    if not isinstance(loaders, Mapping) or not loaders:
        raise ConfigError(
            "combine takes loaders by name, such as {'labelled': a, 'unlabelled': b}, got"
            f" {loaders!r:.80}"
        )
    sizes = {name: _size(name, loader) for name, loader in loaders.items()}
    known = {"longest": max(sizes.values()), "shortest": min(sizes.values()), **sizes}
    if epoch not in known:
        raise ConfigError(
            "combine: epoch must be 'longest', 'shortest' or the name of a loader, got"
            f" {epoch!r}{did_you_mean(str(epoch), known)}"
        )
    return Combined(dict(loaders), known[epoch])


def _size(name: str, loader: Any) -> int:
    from statetrain.data.datasets import as_dataset  # here, since tables are read without torch

    if as_dataset(loader) is not None:
        raise ConfigError(
            f"combine: {name!r} is a {type(loader).__name__} of samples; make a loader of it:"
            " DataLoader(dataset, batch_size=32, shuffle=True)"
        )
    size = length(loader)
    if not isinstance(loader, Iterable) or not size:
        raise ConfigError(
            f"combine: {name!r} must be a loader with batches and a length, as a DataLoader, got a"
            f" {type(loader).__name__} of length {size}"
        )
    return size
