"""The callbacks of one class in a run, each of which needs a place of its own."""

from __future__ import annotations

from typing import TypeVar

from statetrain.callback import Callback, unwrapped
from statetrain.context.position import Position

C = TypeVar("C", bound=Callback)


def peers_in(ctx: Position, kind: type[C]) -> list[C]:
    """The callbacks of a class, without the conditions that they are wrapped in."""
    return [one for one in map(unwrapped, ctx.machine.callbacks) if isinstance(one, kind)]


def place_among(peers: list[C], own: C, name: str) -> str:
    """Where the intervals of a callback remember that they fired: `name`, `name 2` and so on."""
    if own in peers[1:]:
        return f"{name} {1 + peers.index(own)}"
    return name
