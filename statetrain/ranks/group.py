"""The processes of a run, as one of them sees them, over `torch.distributed`."""

from __future__ import annotations

import atexit
import datetime
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from attrs import define, field
from torch._C._distributed_c10d import PrefixStore, TCPStore

from statetrain.errors import ConfigError
from statetrain.machine.agreeing import refuse_apart

_PLACES = 64  # of the one vector that all meetings exchange; sizes that differ would abort gloo


def world_size() -> int:
    """How many processes there are, of a group that exists or that the environment names."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    try:
        return int(os.environ.get("WORLD_SIZE", "1") or 1)
    except ValueError:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']!r}; a launcher sets it to a whole number"
        ) from None


@define(eq=False)
class Processes:
    """The ranks of a run: the `Group` of its machine.

    Args:
        meetings: the process group over which ranks meet, on the host.
    """

    meetings: Any
    rank: int = field(init=False)
    size: int = field(init=False)
    count: int = field(default=0, init=False)
    """Messages that were sent by `largest` and `gather`."""

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
        dist.all_reduce(vector, op=dist.ReduceOp.MAX, group=self.meetings)
        found = vector[: len(values) + 2].tolist()
        if found[0] != -found[1]:
            words: list[Any] = [None] * self.size
            dist.all_gather_object(words, word, group=self.meetings)
            refuse_apart(words)
        return found[2:]

    def gather(self, word: str, value: Any) -> list[Any]:
        """See `statetrain.machine.agreeing.Group`."""
        self.largest(word, ())
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.meetings)
        return found


def _mark(word: str) -> int:
    digest = hashlib.blake2b(word.encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")


def join(device: torch.device, seconds: float) -> Processes:
    """Joins the group of all processes, which is made if it does not exist.

    Args:
        device: where gradients are reduced.
        seconds: after which a collective that not all ranks come to is given up.

    Raises:
        ConfigError: torch has no `distributed`, or the environment does not say where the others
            are.
    """
    if not dist.is_available():
        raise ConfigError(
            f"WORLD_SIZE is {world_size()}, but this torch was built without torch.distributed"
        )
    patience = datetime.timedelta(seconds=seconds)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend,
            store=_store(patience),
            rank=int(os.environ["RANK"]),
            world_size=world_size(),
            timeout=patience,
        )
        atexit.register(leave)
    return Processes(dist.new_group(backend="gloo", timeout=patience))


def store_of_launcher(patience: datetime.timedelta) -> Any:
    """The store that all processes share: the launcher's own, or one that rank 0 keeps."""
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise ConfigError(
                f"WORLD_SIZE is {world_size()}, but {name} is not set, so the other processes cannot"
                " be found. Start the script with torchrun, or initialize torch.distributed yourself"
            )
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        None if kept else world_size(),
        not kept and os.environ["RANK"] == "0",
        patience,
    )


def attempt() -> str:
    """What tells this start of the processes from those before it, whose addresses the store has."""
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "WORLD_SIZE")
    return "statetrain/" + "/".join(os.environ.get(name, "0") for name in names)


def _store(patience: datetime.timedelta) -> Any:
    return PrefixStore(attempt(), store_of_launcher(patience))


def leave() -> None:
    """Leaves the group in order: destroying it while another rank still sends aborts the process."""
    if dist.is_initialized():
        try:
            dist.barrier()
            dist.destroy_process_group()
        except Exception:  # another rank is gone already; there is nothing left to do in order
            return
