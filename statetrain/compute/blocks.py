"""Python's and numpy's generators, keyed by the batch, at the cost of a comparison.

Seeding them takes seven microseconds, and most models never draw from them. So they are seeded for
a block of batches, and each batch of it begins one number further. That number is drawn and
compared with the one that is due: if it differs, something has drawn since (or the generator was
given back in between), and the generator is put to its place. So the state at the beginning of a
batch depends on the batch's number alone.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from attrs import define, field

from statetrain.compute.seeding import KeyStream

BLOCK = 64
"""Batches between two seedings of a generator that nothing draws from."""


@define(eq=False)
class KeyedByBlock:
    """A generator that is put to the place of each batch.

    Args:
        seed: sets it by a number.
        draw: gives its next number.
        draw_many: gives as many of its next numbers at once.
    """

    seed: Callable[[int], object]
    draw: Callable[[], int]
    draw_many: Callable[[int], Sequence[int]]
    _stream: KeyStream | None = field(default=None, init=False)
    _batch: int = field(default=-1, init=False)  # the one before
    _number: int = field(default=0, init=False)  # the block's key
    _due: Sequence[int] = field(factory=tuple, init=False)  # the block's numbers

    def move_to(self, stream: KeyStream, batch: int) -> None:
        """Puts it to the place of a batch.

        Args:
            stream: the beginning of the batch's key.
            batch: its number within the stream.
        """
        position = batch % BLOCK
        is_next = position and batch == self._batch + 1 and stream is self._stream
        if not (is_next and self.draw() == self._due[position - 1]):
            self._seek(stream, batch)
        self._batch = batch

    def _seek(self, stream: KeyStream, batch: int) -> None:
        block, position = divmod(batch, BLOCK)
        if block != self._batch // BLOCK or stream is not self._stream:
            self._stream = stream
            self._number = KeyStream(*stream.parts, "block").key(block)
            self.seed(self._number)
            self._due = self.draw_many(BLOCK)
        self.seed(self._number)
        if position:
            self.draw_many(position)


def by_block(numpy_generator: Any = None) -> list[KeyedByBlock]:
    """Python's global generator, and numpy's if it is loaded.

    Args:
        numpy_generator: the bit generator that numpy has while a run is live; None leaves it out.
    """
    found = [KeyedByBlock(random.seed, partial(random.getrandbits, 64), _draw_many)]
    if (raw := getattr(numpy_generator, "random_raw", None)) is not None:
        found.append(KeyedByBlock(_seed_numpy, raw, lambda count: raw(count).tolist()))
    return found


def _draw_many(count: int) -> Sequence[int]:
    """Numbers of 64 bits from Python's generator, which fills longer ones from the lowest bits."""
    return struct.unpack(f"<{count}Q", random.getrandbits(64 * count).to_bytes(8 * count, "little"))


def _seed_numpy(number: int) -> None:
    sys.modules["numpy"].random.seed(number & 0xFFFFFFFF)
