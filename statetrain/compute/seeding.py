"""Randomness: keys, and the states of all generators.

With a seed, each draw is a function of its key: the order of an epoch of (seed, epoch); what is
drawn while a sample is loaded of (seed, epoch, index), in whatever process; what is drawn in a
training step of (seed, batch). A place in a run is then given by its numbers, and results do not
depend on the number of workers. Without a seed, a run depends on the generators' states.
"""

from __future__ import annotations

import hashlib
import random
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from statetrain.compute.generators import generators_in, seed_generators

States = dict[str, Any]

LOCK = threading.RLock()
"""Held while one run uses the global generators and others have to wait."""

# ---------------------------------------------------------------- keys


def key(*parts: Any) -> int:
    """A number of 63 bits for a key; equal for equal parts, on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class KeyStream:
    """Keys by number, as those of all batches of a run: a key is made in a tenth of the time.

    No two numbers below 2**32 have keys with the same lower 32 bits, which are all that torch's CPU
    generator looks at.

    Args:
        parts: what tells this stream from others.
    """

    def __init__(self, *parts: Any) -> None:
        self.parts = parts
        self._first = key(*parts)

    def key(self, number: int) -> int:
        """The key of a number of at least 0."""
        return (self._first + number * _ODD) & _LARGEST


_ODD = 0x9E3779B97F4A7C15  # the golden ratio, as in splitmix64
_LARGEST = 2**63 - 1


def seed_all(number: int, device: torch.device | None = None, *, torch_alone: bool = False) -> None:
    """Seeds torch's generators of the CPU and of a device, Python's, and numpy's if it is loaded.

    torch's CPU generator looks at the lower 32 bits only.

    Args:
        number: the seed.
        device: whose generator is seeded, too.
        torch_alone: leaves out Python's and numpy's.
    """
    torch.default_generator.manual_seed(number)  # torch.manual_seed takes a hundred times as long
    if device is not None:
        _seed_device(number, device)
    if torch_alone:
        return
    random.seed(number)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(number & 0xFFFFFFFF)


def _seed_device(number: int, device: torch.device) -> None:
    kind = device.type  # each time it is read, a string is made
    if kind == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(number)
    elif kind == "mps":
        torch.mps.manual_seed(number)


# ---------------------------------------------------------------- states


def states(device: torch.device | None = None, *, torch_alone: bool = False) -> States:
    """The states of the global generators: torch's (CPU and device), Python's and numpy's."""
    found: States = {"torch": torch.get_rng_state()}
    if device is not None and device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    elif device is not None and device.type == "mps":
        found["mps"] = torch.mps.get_rng_state()
    if torch_alone:
        return found
    found["random"] = random.getstate()
    if (numpy := sys.modules.get("numpy")) is not None:
        found["numpy"] = numpy.random.get_state(legacy=False)
    return found


def set_states(saved: States, device: torch.device | None = None) -> None:
    """Restores what `states` returned. A device that is not in use here is left as it is."""
    if "torch" in saved:
        torch.set_rng_state(saved["torch"])
    if "random" in saved:
        random.setstate(saved["random"])
    if device is not None and device.type in saved:
        _set_device_state(device, saved[device.type])
    if "numpy" in saved and (numpy := sys.modules.get("numpy")) is not None:
        _check_position(saved["numpy"])
        numpy.random.set_state(saved["numpy"])


def _set_device_state(device: torch.device, state: Any) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)


# The longest positions within the numbers that a generator of numpy has drawn ahead.
_POSITIONS = {"MT19937": ("pos", 624), "Philox": ("buffer_pos", 4)}


def _check_position(state: Any) -> None:
    """Refuses a state that would have numpy read beyond its memory, which numpy does not check.

    Raises:
        ValueError: the position is out of range.
    """
    if not isinstance(state, dict):
        state = {"bit_generator": state[0], "pos": state[2]}  # numpy's older form
    kind = str(state.get("bit_generator"))
    name, longest = _POSITIONS.get(kind, ("", 0))
    within = state.get("state")
    position = state.get(name, within.get(name) if isinstance(within, dict) else None)
    if name and not (type(position) is int and 0 <= position <= longest):
        raise ValueError(
            f"a state of numpy's {kind} has {name} {position!r:.40}; it lies between 0 and"
            f" {longest}"
        )


def own_states(*owners: Any) -> States:
    """The states of the generators that objects hold, by owner and path; see `generators_in`."""
    return {path: state_of(generator) for path, generator in generators_in(owners)}


def set_own_states(saved: States, *owners: Any) -> None:
    """Restores what `own_states` returned, for those that still exist."""
    if not saved:
        return
    for path, generator in generators_in(owners):
        if path in saved:
            set_state_of(generator, saved[path])


def state_of(generator: Any) -> Any:
    """The state of a generator of torch, Python or numpy."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    if hasattr(generator, "bit_generator"):
        return generator.bit_generator.state
    return generator.get_state()


def set_state_of(generator: Any, state: Any) -> None:
    """Restores what `state_of` returned.

    Raises:
        ValueError: it is not the state of such a generator.
    """
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "bit_generator"):
        _check_position(state)
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def owners_in(data: Any) -> list[Any]:
    """What a loader is made of and may hold generators: itself, its samplers, its datasets."""
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
    """Seeds all generators with a number, and restores their states on exit."""
    with LOCK:
        before, own = states(), own_states(*owners)
        try:
            _seed_with_owners(number, owners)
            yield
        finally:
            set_states(before)
            set_own_states(own, *owners)


def _seed_with_owners(number: int, owners: Iterable[Any]) -> None:
    seed_all(number)
    seed_generators((one for _, one in generators_in(owners)), number)
