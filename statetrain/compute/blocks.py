"""Python's and numpy's generators, keyed by the batch, at the cost of a comparison.

Seeding them takes seven microseconds, and most models never draw from them. So they are seeded for
a block of batches, and each batch of it begins one number further. That number is drawn and
compared with the one that is due: if it differs, something has drawn since (or the generator was
given back in between), and the generator is put to its place. So the state at the beginning of a
batch depends on the batch's number alone.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
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
        draw: gives its next number, of 64 bits.
        skip: draws so many numbers at once.
    """

    seed: Callable[[int], object]
    draw: Callable[[], int]
    skip: Callable[[int], object]
    _stream: KeyStream | None = field(default=None, init=False)
    _block: int = field(default=0, init=False)
    _position: int = field(default=0, init=False)  # of the batch before, within its block
    _number: int = field(default=0, init=False)  # the block's key
    _due: list[int] = field(factory=list, init=False)  # the block's numbers

    def move_to(self, stream: KeyStream, batch: int) -> None:
        """Puts it to the place of a batch.

        Args:
            stream: the beginning of the batch's key.
            batch: its number within the stream.
        """
        block, position = divmod(batch, BLOCK)
        if block != self._block or stream is not self._stream:
            self._begin(stream, block)
        elif position == self._position + 1 and self.draw() == self._due[self._position]:
            self._position = position
            return
        self.seed(self._number)
        if position:
            self.skip(position)
        self._position = position

    def _begin(self, stream: KeyStream, block: int) -> None:
        self._stream, self._block = stream, block
        self._number = KeyStream(*stream.parts, "block").key(block)
        self.seed(self._number)
        self._due = [self.draw() for _ in range(BLOCK)]


def by_block(numpy_generator: Any = None) -> list[KeyedByBlock]:
    """Python's global generator, and numpy's if it is loaded.

    Args:
        numpy_generator: the bit generator that numpy has while a run is live; None leaves it out.
    """
    found = [KeyedByBlock(random.seed, partial(random.getrandbits, 64), _skip_in_python)]
    if (raw := getattr(numpy_generator, "random_raw", None)) is not None:
        found.append(KeyedByBlock(_seed_numpy, raw, raw))
    return found


def _skip_in_python(numbers: int) -> None:
    random.getrandbits(64 * numbers)


def _seed_numpy(number: int) -> None:
    sys.modules["numpy"].random.seed(number & 0xFFFFFFFF)
