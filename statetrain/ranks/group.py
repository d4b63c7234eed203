"""The processes of a run, as one of them sees them, over `torch.distributed`."""

from __future__ import annotations

import atexit
import datetime
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from attrs import define, field
from torch._C._distributed_c10d import PrefixStore, TCPStore

from statetrain.compute.accelerator import choose_device
from statetrain.errors import ConfigError
from statetrain.machine.agreeing import refuse_apart
from statetrain.ranks.size import world_size
from statetrain.ranks.watch import LEAVING, RankWatch, patience_of

_PLACES = 64  # of the one vector that all meetings exchange; sizes that differ would abort gloo

# The store has been there since the ranks joined; if it does not answer, it is gone
_STORE_ANSWERS = datetime.timedelta(seconds=3)


def own_device(given: Any = "auto") -> torch.device:
    """The device of this process: of several GPUs, the one with its local rank."""
    if given == "auto" and torch.cuda.is_available():
        return choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    return choose_device(given)


@define(eq=False)
class Processes:
    """The ranks of a run: the `Group` of its machine.

    Args:
        meetings: the process group over which ranks meet, on the host.
        watch: knows where each rank is.
    """

    meetings: Any
    watch: RankWatch
    rank: int = field(init=False)
    size: int = field(init=False)
    count: int = field(default=0, init=False)
    """Messages that were sent by `largest` and `gather`."""
    waited: dict[str, float] = field(factory=dict, init=False)
    """Seconds spent in `waiting`, by its word."""

    def __attrs_post_init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def largest(self, word: str, values: Sequence[int]) -> list[int]:
        """See `statetrain.machine.agreeing.Group`."""
        if len(values) > _PLACES - 2:
            raise ConfigError(f"{word}: ranks exchange at most {_PLACES - 2} answers at once")
        self.count += 1
        mark = _mark(word)
        vector = torch.zeros(_PLACES, dtype=torch.int64)
        vector[: len(values) + 2] = torch.tensor([mark, -mark, *values])
        with self.waiting(word):
            dist.all_reduce(vector, op=dist.ReduceOp.MAX, group=self.meetings)
        found = vector[: len(values) + 2].tolist()
        if found[0] != -found[1]:
            refuse_apart(self._gathered(word, word))
        return found[2:]

    def gather(self, word: str, value: Any) -> list[Any]:
        """See `statetrain.machine.agreeing.Group`."""
        self.largest(word, ())
        return self._gathered(word, value)

    def _gathered(self, word: str, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        with self.waiting(word):
            dist.all_gather_object(found, value, group=self.meetings)
        return found

    @contextmanager
    def waiting(self, word: str) -> Iterator[None]:
        """While it is open, this rank waits for the others.

        Args:
            word: what for.
        """
        self.watch.meeting, began = word, time.perf_counter()
        try:
            yield
        except RuntimeError as error:
            _say_who_is_gone(error, self.watch)
            raise
        finally:
            self.watch.meeting = ""
            self.waited[word] = self.waited.get(word, 0.0) + time.perf_counter() - began


def _mark(word: str) -> int:
    digest = hashlib.blake2b(word.encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")


def _say_who_is_gone(error: RuntimeError, watch: RankWatch) -> None:
    """Adds to the error of a collective that it is another rank's, and tells the others."""
    word, gone = watch.meeting, watch.find_gone()
    words = "that rank has failed, or was killed"
    if gone is not None:
        words = f"rank {gone[0]}: {gone[1]}"
        watch.fail(gone[1], gone[0])
    error.add_note(
        f"statetrain: rank {watch.rank} waited to {word}, and the connection to another rank broke:"
        f" {words}"
    )


_watches: list[RankWatch] = []  # the one of this process, once it has joined


def join(device: torch.device, patience: float) -> Processes:
    """Joins the group of all processes, which is made if it does not exist.

    Args:
        device: where gradients are reduced.
        patience: seconds after which ranks that do not move are given up.

    Raises:
        ConfigError: torch has no `distributed`, or the environment does not say where the others
            are.
    """
    if not dist.is_available():
        raise ConfigError(
            f"WORLD_SIZE is {world_size()}, but this torch was built without torch.distributed"
        )
    limit = patience_of(patience)
    if not dist.is_initialized():
        backend = "gloo"
        if device.type == "cuda":
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(
            backend,
            store=PrefixStore(attempt(), connect(limit, serves=os.environ.get("RANK") == "0")),
            rank=int(os.environ["RANK"]),
            world_size=world_size(),
            timeout=limit,
        )
        atexit.register(leave)
    if not _watches:
        _watches.append(_watch(patience))
    _watches[0].patience = patience
    return Processes(dist.new_group(backend="gloo", timeout=limit), _watches[0])


def _watch(patience: float) -> RankWatch:
    """Begins to watch over the ranks; an error that the script does not catch is a failure."""

    def store() -> Any:
        found = connect(_STORE_ANSWERS)
        return PrefixStore(f"{attempt()}/watch", found)

    watch = RankWatch(
        store, dist.get_rank(), dist.get_world_size(), patience, served=not _launcher_keeps_store()
    )
    if "MASTER_ADDR" in os.environ:  # else the script has joined in a way of its own
        watch.start()
    shown = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        shown(kind, error, trace)
        watch.fail(f"{kind.__name__}: {str(error)[:300]}, in {watch.whereabouts()}")

    sys.excepthook = hook
    return watch


def connect(patience: datetime.timedelta, serves: bool = False) -> Any:
    """The store that all processes share: the launcher's own, or one that rank 0 keeps.

    Args:
        patience: how long to wait for it.
        serves: whether this process keeps it, if the launcher does not.

    Raises:
        ConfigError: the environment does not say where it is.
    """
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise ConfigError(
                f"WORLD_SIZE is {world_size()}, but {name} is not set, so the other processes"
                " cannot be found. Start the script with torchrun, or initialize torch.distributed"
                " yourself"
            )
    kept = _launcher_keeps_store()
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        world_size() if serves and not kept else None,
        serves and not kept,
        patience,
        wait_for_workers=False,
    )


def _launcher_keeps_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def attempt() -> str:
    """What tells this start of the processes from earlier ones, whose addresses the store has."""
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "WORLD_SIZE")
    return "statetrain/" + "/".join(os.environ.get(name, "0") for name in names)


def leave() -> None:
    """Leaves the group in order: destroying it while another rank still sends would abort."""
    if not dist.is_initialized():
        return
    for watch in _watches:
        watch.meeting = LEAVING
    try:
        dist.barrier()
        for watch in _watches:
            watch.stop()
        dist.destroy_process_group()
    except Exception:  # another rank is gone already; there is nothing left to do in order
        for watch in _watches:
            watch.let_read()
