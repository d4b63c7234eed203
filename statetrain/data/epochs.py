"""Telling data which epoch it is: samplers, batch samplers, iterable datasets and loaders.

Each that has a method `set_epoch` gets the number of the epoch, counted from 0 or on from what the
user has set. A number that the user sets while the run is live stays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from statetrain.data.combining import Combined

if TYPE_CHECKING:
    from statetrain.context.context import Context

log = logging.getLogger("statetrain")

_PARTS = ("sampler", "batch_sampler", "dataset")
_DEEPEST = 16  # objects that are looked at: datasets within datasets end somewhere


def announce(ctx: Context) -> None:
    """Tells the parts of the training data which epoch begins."""
    for owner in listening_in(ctx.train_data):
        if id(owner) not in ctx.announced:
            _warn_of_copies(ctx, owner)
        _tell(ctx, owner)


def listening_in(data: Any) -> Iterator[Any]:
    """The parts of a loader, itself included, whose class has a method `set_epoch`.

    The sampler of an order by key is left out: it is told at each request for an epoch.
    """
    found: list[Any] = []
    todo = [data]
    while todo and len(found) < _DEEPEST:
        thing = todo.pop(0)
        if thing is None or any(thing is other for other in found):
            continue
        found.append(thing)
        if hasattr(type(thing), "set_epoch"):
            yield thing
        if isinstance(thing, Combined):
            todo += thing.loaders.values()
        elif not getattr(thing, "tells_epochs", False):
            todo += _parts_of(thing)


def _parts_of(thing: Any) -> Iterator[Any]:
    """What a loader, a sampler or a dataset is made of, under whichever name."""
    for name in _PARTS:
        yield getattr(thing, name, None)
    # Torch is loaded by then; a table alone is walked without it
    from torch.utils.data import DataLoader, Dataset, Sampler

    kinds: tuple[type, ...] = (DataLoader, Dataset, Sampler)
    for kind in (Dataset, Sampler):
        if isinstance(thing, kind):
            kinds = (kind,)  # a sampler's data is told by the loader
    for value in getattr(thing, "__dict__", {}).values():
        if not isinstance(value, list | tuple):
            value = (value,)
        yield from (part for part in value[:_DEEPEST] if isinstance(part, kinds))


def _warn_of_copies(ctx: Context, owner: Any) -> None:
    """Warns of workers that stay, whose copies of a dataset do not hear of later epochs."""
    data: Any = ctx.train_data
    stays = getattr(data, "num_workers", 0) and getattr(data, "persistent_workers", False)
    if not stays or ctx.max_epochs == 1:
        return
    if not any(owner is one for one in listening_in(getattr(data, "dataset", None))):
        return
    if not any(map(_is_shared, vars(owner).values())):
        log.warning(
            "set_epoch of %s does not reach its copies in workers that persist, so they stay in the"
            " first epoch; leave persistent_workers=True out, or keep the number where processes"
            " share it, as in torch.tensor(0).share_memory_()",
            type(owner).__name__,
        )


def _is_shared(value: Any) -> bool:
    """Whether all processes see a value: a tensor in shared memory, a number of multiprocessing."""
    if hasattr(value, "is_shared"):
        return bool(value.is_shared())
    return hasattr(value, "get_lock")


def _tell(ctx: Context, owner: Any) -> None:
    own = getattr(owner, "epoch", None)
    first, last = ctx.announced.get(id(owner), (own, own))
    if own != last:  # the user has set it since
        return
    if id(owner) not in ctx.announced:
        ctx.defer(lambda: _restore(ctx, owner))
    owner.set_epoch(counted_on(first, ctx.epoch - 1))
    ctx.announced[id(owner)] = (first, getattr(owner, "epoch", None))


def counted_on(first: Any, epoch: int) -> int:
    """The number of an epoch where the first one has another number than 0."""
    return epoch + (first if isinstance(first, int) else 0)


def _restore(ctx: Context, owner: Any) -> None:
    """Makes the next run begin where this one began."""
    first, last = ctx.announced.pop(id(owner))
    if isinstance(first, int) and owner.epoch == last:
        owner.set_epoch(first)
