"""One way to use a library."""

from __future__ import annotations

from attrs import frozen
from loops import Loop


@frozen
class Variant:
    """One way to use a library, and what it is compared with.

    Args:
        loop: trains the setting's model.
        hand: the hand-written loop that computes the same.
        note: how the library is used, and what it has no word for.
        hand_feed: whether the hand-written loop too draws from a DataLoader.
    """

    loop: Loop
    hand: Loop
    note: str
    hand_feed: bool = False
