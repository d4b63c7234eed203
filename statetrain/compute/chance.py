"""The global generators while a run with a seed is live: borrowed, and given back.

Orders, samples and streams of callbacks are drawn from private generators. But dropout, and the
like, only knows the global ones. So a run with a seed borrows them: it remembers the host's states,
seeds them for each batch, and restores the host's states at the end of the fit, whenever `steps()`
pauses, and when the run fails. While other threads exist, it does so around each batch. A lock
keeps two runs from borrowing at the same time: they take turns, batch by batch.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import chain
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

import attrs
import torch
from attrs import define, field
from torch.utils.data import get_worker_info

from statetrain.callback import unwrapped
from statetrain.compute.blocks import KeyedByBlock, by_block
from statetrain.compute.seeding import LOCK, KeyStream, States, seed_all, set_states, states
from statetrain.contracts.ways import works_of

if TYPE_CHECKING:
    from statetrain.context.context import Context

_PATIENCE = 30.0  # seconds of waiting for another run until a warning says so
_NAMED = (FunctionType, BuiltinFunctionType, type)  # they know the module that they are from

log = logging.getLogger("statetrain")


@define(eq=False)
class Chance:
    """A run's hold on the global generators.

    Args:
        device: whose generator is seeded besides the CPU's.
        torch_alone: whether no part of the run can draw from Python's or numpy's generator. These
            are left alone then.
    """

    device: torch.device
    torch_alone: bool
    # The host's states, while the global generators are the run's
    _host: States | None = field(default=None, init=False)
    _is_locked: bool = field(default=False, init=False)
    _is_live: bool = field(default=False, init=False)  # whether something will give them back
    # numpy's state when the run began, and the generator that takes the place of the host's
    _numpy_before: Any = field(default=None, init=False)
    _numpy: Any = field(default=None, init=False)

    # Python's and numpy's generators, where a part of the run can draw from them
    _by_block: list[KeyedByBlock] = field(factory=list, init=False)
    _stream: KeyStream | None = field(default=None, init=False)
    # The device, if it has a generator besides the CPU's
    _other: torch.device | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        if self.device.type != "cpu":
            self._other = self.device

    def begin(self) -> None:
        """Borrows the generators for the first time, when a fit begins or a pause ends."""
        with _turn():  # in the middle of another run's batch, the generators are not the host's
            if not self.torch_alone and (numpy := sys.modules.get("numpy")) is not None:
                self._numpy = numpy.random.MT19937(0)
                self._numpy_before = numpy.random.get_state(legacy=False)
            if not self.torch_alone:
                self._by_block = by_block(self._numpy)
            self._is_live = True
            self.borrow()

    def seed(self, begin: tuple[Any, ...], batch: int) -> None:
        """Seeds the generators for a batch, which other runs have to wait for.

        Args:
            begin: the beginning of the batch's key.
            batch: its number.
        """
        stream = self._stream
        if stream is None or stream.parts != begin:
            stream = self._stream = KeyStream(*begin)
        if not self._is_live:  # a custom lifecycle may have no scope that gives them back
            seed_all(stream.key(batch), self.device, torch_alone=self.torch_alone)
            return
        self.borrow()
        seed_all(stream.key(batch), self._other, torch_alone=True)
        for generator in self._by_block:
            generator.move_to(stream, batch)

    def borrow(self) -> None:
        """Remembers the host's states, and makes other runs wait; until `rest` or `give_back`."""
        self._lock()
        if self._host is None:
            self._host = _take_states(self._numpy, self.device, self.torch_alone)

    def rest(self) -> None:
        """Lets other runs continue, after a batch.

        The host's states are restored if there is another thread, which could draw.
        """
        if threading.active_count() > 1:
            self.give_back()
        else:
            self._unlock()

    def give_back(self) -> None:
        """Restores the host's states, and lets other runs continue."""
        if self._host is not None:
            self._lock()
            _put_back(self._host, self.device)
            self._host = None
        self._unlock()

    def end(self) -> None:
        """Gives the generators back for good, when a fit ends or a pause begins."""
        with _turn():  # as in `begin`
            self.give_back()
            self._is_live = False
            before, self._numpy_before = self._numpy_before, None
            if before is not None:
                _restore_second_normal(before)

    def read(self) -> tuple[States | None, bool]:
        """The run's own states while it has the generators, and whether others wait for it."""
        if self._host is None:
            return None, False
        return states(self.device, torch_alone=self.torch_alone), self._is_locked

    def write(self, value: tuple[States | None, bool]) -> None:
        """Goes back to what `read` returned."""
        own, is_locked = value
        if own is None:
            self.end()
            return
        self.begin()
        set_states(own, self.device)
        if not is_locked:
            self.rest()

    def _lock(self) -> None:
        if not self._is_locked:
            _acquire()
            self._is_locked = True

    def _unlock(self) -> None:
        if self._is_locked:
            self._is_locked = False
            LOCK.release()


def _take_states(numpy_generator: Any, device: torch.device | None, torch_alone: bool) -> States:
    """The host's states; numpy gets another generator, which takes a hundredth of the time."""
    found = states(device, torch_alone=True)
    if not torch_alone:
        found["random"] = random.getstate()
    if numpy_generator is not None:
        found["numpy generator"] = sys.modules["numpy"].random.get_bit_generator()
        sys.modules["numpy"].random.set_bit_generator(numpy_generator)
    return found


def _put_back(taken: States, device: torch.device | None) -> None:
    set_states(taken, device)
    if "numpy generator" in taken:
        sys.modules["numpy"].random.set_bit_generator(taken["numpy generator"])


def _restore_second_normal(before: dict[str, Any]) -> None:
    """numpy draws normals in pairs, and forgets a second one when its generator is exchanged."""
    numpy = sys.modules["numpy"]
    now = numpy.random.get_state(legacy=False)["state"]
    if now["pos"] == before["state"]["pos"] and (now["key"] == before["state"]["key"]).all():
        numpy.random.set_state(before)


def _acquire() -> None:
    if LOCK.acquire(False):  # waiting with a limit of time takes longer
        return
    if LOCK.acquire(timeout=_PATIENCE):
        return
    log.warning(
        "a run with a seed has waited %g seconds for a batch of another one in this process; they"
        " take turns with the global generators. A hook or an action that waits for runs in other"
        " threads waits forever: start them outside of a batch, in processes, or with seed=None",
        _PATIENCE,
    )
    LOCK.acquire()


@contextmanager
def _turn() -> Iterator[None]:
    """While it is open, no other run has the generators."""
    _acquire()
    try:
        yield
    finally:
        LOCK.release()


@contextmanager
def undisturbed() -> Iterator[None]:
    """While it is open, no other run changes what is seeded in it.

    If there is another thread, the states of the global generators are restored afterwards. In a
    worker process of a loader it does nothing: the generators are the worker's own.
    """
    if get_worker_info() is not None:
        yield
        return
    with LOCK:
        if threading.active_count() == 1:
            yield
            return
        before = _take_states(_numpy_for_loading(), None, torch_alone=False)
        try:
            yield
        finally:
            _put_back(before, None)


@cache
def _numpy_for_loading() -> Any:
    if (numpy := sys.modules.get("numpy")) is None:
        return None
    return numpy.random.MT19937(0)


def chance_of(ctx: Context) -> Chance | None:
    """The hold that a run has on the global generators; None without a seed."""
    if ctx.seed is None:
        return None
    if ctx.chance is None:
        ctx.chance = Chance(ctx.accelerator.device, draws_from_torch_alone(ctx))
    return ctx.chance  # type: ignore[no-any-return]  # the context does not know this module


# ---------------------------------------------------------------- who draws


def draws_from_torch_alone(ctx: Context) -> bool:
    """Whether everything that runs in a batch is torch's own, or this package's.

    Then nothing draws from Python's or numpy's generator. Code of any other origin may.
    """
    modules = list(ctx.model.modules())
    counted = (tally.own.values() for tally in ctx.tallies.values())
    functions: list[Any] = [*ctx.loss_fns.values(), *chain(*counted)]
    computing = [
        *modules,
        *(getattr(one, "function", one) for one in functions if one is not None),
        *ctx.optimizers.values(),
    ]
    if any(module._forward_hooks or module._forward_pre_hooks for module in modules):
        return False
    working = [
        *ctx.callbacks,
        *map(unwrapped, ctx.callbacks),
        *(work for _, work in works_of(ctx.machine.lifecycle)),
    ]
    return all(_is_from(one, "torch") for one in computing) and all(map(_is_ours, working))


def _is_from(thing: Any, *packages: str) -> bool:
    home = thing
    if not isinstance(thing, _NAMED):
        home = type(thing)
    return str(home.__module__).partition(".")[0] in packages


def _is_ours(work: Any) -> bool:
    """Whether a callback, an action or an effect is this package's, and calls no other code."""
    if work is None:
        return True
    held = list(getattr(work, "__dict__", {}).values())
    if attrs.has(type(work)):
        held += [getattr(work, field.name) for field in attrs.fields(type(work))]
    held += [part for one in held if isinstance(one, list | tuple) for part in one]
    return _is_from(work, "statetrain") and all(
        _is_from(one, "statetrain", "torch") for one in held if callable(one)
    )
