"""Telling data which epoch it is: samplers, batch samplers, iterable datasets and loaders.

Each that has a method `set_epoch` gets the number of the epoch, counted from 0 or on from what the
user has set. A number that the user sets while the run is live stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from statetrain.data.combining import Combined

if TYPE_CHECKING:
    from statetrain.context.context import Context

_PARTS = ("sampler", "batch_sampler", "dataset")
_DEEPEST = 16  # objects that are looked at: datasets within datasets end somewhere


def announce(ctx: Context) -> None:
    """Tells the parts of the training data which epoch begins."""
    for owner in listening_in(ctx.train_data):
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
            todo += [getattr(thing, name, None) for name in _PARTS]


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
