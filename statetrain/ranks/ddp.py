"""Replicas: each rank has the whole model, and gradients are averaged."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from attrs import define, field
from torch.nn.parallel import DistributedDataParallel

from statetrain.compute.accelerator import Accelerator, choose_device
from statetrain.compute.keyed import order_of
from statetrain.data.iterating import data_of
from statetrain.errors import ConfigError, DataError
from statetrain.machine.agreeing import Agreement, News
from statetrain.ranks.group import Processes, join
from statetrain.standard.several import BatchPart

if TYPE_CHECKING:
    from statetrain.context.context import Context

_SPAN = 1024.0  # seconds; float32 holds whole spans and the rest of one with enough digits


def _device(given: Any = "auto") -> torch.device:
    """The device of this process: of several GPUs, the one with its local rank."""
    if given == "auto" and torch.cuda.is_available():
        return choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    return choose_device(given)


class Carrier(torch.nn.Module):
    """A model with one parameter more, whose gradient is what this rank has to tell.

    DDP adds it up over all ranks with the other gradients, so it costs no message. It is not among
    the optimizer's parameters, and does not change what the model computes.

    Args:
        model: the user's.
        places: of the news.
    """

    def __init__(self, model: torch.nn.Module, places: int) -> None:
        super().__init__()
        self.model = model
        device = next(model.parameters()).device
        self.news = torch.nn.Parameter(torch.zeros(places, device=device))

    def forward(self, *args: Any, **named: Any) -> Any:
        """What the model computes."""
        return self.model(*args, **named)


@define(eq=False)
class DDP(Accelerator):
    """One of several processes that each train the whole model on a part of each batch.

    `fit` takes it by itself where a launcher has started several processes; give it to set an
    option:

        st.fit(..., accelerator=st.DDP(sync_batch_norm=True))

    Args:
        device: of this process; "auto" is the GPU with its local rank, or the CPU.
        find_unused_parameters: whether some parameters may have no gradient in some batches, as of
            `DistributedDataParallel`; slower.
        sync_batch_norm: whether batch norm takes its statistics over all ranks.
        static_graph: as of `DistributedDataParallel`.
        patience: seconds after which ranks that do not move are given up.
    """

    device: torch.device = field(factory=_device, converter=_device)
    find_unused_parameters: bool = field(default=False, kw_only=True)
    sync_batch_norm: bool = field(default=False, kw_only=True)
    static_graph: bool = field(default=False, kw_only=True)
    patience: float = field(default=600.0, kw_only=True)
    group: Processes = field(init=False, repr=False)
    calls_backward: bool = field(default=True, init=False, repr=False)
    """Whether the table computes the gradients; else a function of the user's does."""
    _wrapped: DistributedDataParallel | None = field(default=None, init=False, repr=False)
    _news: News | None = field(default=None, init=False, repr=False)
    _ctx: Any = field(default=None, init=False, repr=False)
    _scale: float = field(default=1.0, init=False, repr=False)
    _last: Any = field(default=None, init=False, repr=False)
    _compared: bool = field(default=False, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.group = join(self.device, self.patience)

    def prepare(self, model: torch.nn.Module, optimizers: Any = ()) -> None:
        """Moves a model to the device; with `sync_batch_norm`, replaces its batch norms."""
        super().prepare(model, optimizers)
        if self.sync_batch_norm:
            for name, child in model.named_children():
                setattr(model, name, torch.nn.SyncBatchNorm.convert_sync_batchnorm(child))

    def wrap(
        self, model: torch.nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]
    ) -> tuple[torch.nn.Module, dict[str, torch.optim.Optimizer]]:
        """The model in DDP; it begins with rank 0's weights."""
        trainable = any(parameter.requires_grad for parameter in model.parameters())
        if not trainable:
            raise ConfigError("the model has no parameter that requires a gradient")
        devices = [self.device] if self.device.type == "cuda" else None
        self._wrapped = DistributedDataParallel(
            Carrier(model, PLACES) if self.carries else model,
            device_ids=devices,
            find_unused_parameters=self.find_unused_parameters,
            static_graph=self.static_graph,
        )
        return self._wrapped, dict(optimizers)

    @property
    def carries(self) -> bool:
        """Whether the gradients carry the news; a parameter outside of the graph is one unused."""
        return self.calls_backward and not (self.find_unused_parameters or self.static_graph)

    def unwrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """The user's own model."""
        model = super().unwrap(model)
        if isinstance(model, DistributedDataParallel):
            model = model.module
        return model.model if isinstance(model, Carrier) else model

    def compile(self, model: torch.nn.Module, options: Mapping[str, Any]) -> torch.nn.Module:
        """Refused so far.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("several ranks cannot train with compile= so far; leave it out")

    def attach(self, ctx: Context, agreement: Agreement, news: News) -> None:
        """Says what this rank will have to tell.

        Raises:
            ConfigError: there are more questions than the gradients can carry.
        """
        for name in agreement.gradients:
            if len(agreement.rows.get(name, ())) > PLACES - 2:
                raise ConfigError(f"ranks agree on at most {PLACES - 2} guards in a batch")
        self._ctx, self._news, self._compared = ctx, news, False

    # ------------------------------------------------------------ a batch

    def seed(self, ctx: Context, *parts: Any) -> None:
        """Seeds this rank's generators: ranks draw different numbers for the same batch."""
        super().seed(ctx, *parts, *(("rank", self.group.rank) if self.group.rank else ()))

    def part(
        self,
        ctx: Context,
        set: str,  # noqa: A002  # the field's word
        number: int,
    ) -> BatchPart:
        """How much of the present batch is this rank's; see `Sharing`."""
        order = order_of(data_of(ctx, set))
        if order is None or order.share is None:
            return BatchPart(ctx.batch_size, ctx.batch_size * self.group.size)
        size, total = order.share.size_of(number - 1)
        if ctx.news is not None and ctx.news.skips is not None:
            size = 0
        return BatchPart(size, total)

    def open_part(self, part: BatchPart, reduces: bool) -> None:
        """Weighs this rank's mean by its share of the batch."""
        self._scale = 1.0
        if part.size * self.group.size != part.total:
            self._scale = part.size * self.group.size / part.total
        assert self._wrapped is not None
        self._wrapped.require_backward_grad_sync = reduces

    def backward(self, loss: torch.Tensor, inputs: Any = None) -> None:
        """Computes the gradients and averages them over all ranks; they carry the news along."""
        if inputs is not None:
            raise ConfigError("several ranks cannot train with several optimizers so far")
        assert self._wrapped is not None
        news = self._news
        carries = self.carries and news is not None and self._wrapped.require_backward_grad_sync
        with torch.enable_grad():
            if self._scale != 1.0:
                loss = loss * self._scale
            if self.carries:
                own = self._wrapped.module.news
                own.grad = None
                loss = loss + torch.dot(own, self._to_tell(own, carries))  # it adds 0
        if self._wrapped.require_backward_grad_sync:
            with self.group.waiting("reduce the gradients"):
                loss.backward()
        else:
            loss.backward()
        if carries and news is not None:
            self._hear(news)

    def _to_tell(self, like: torch.Tensor, carries: bool) -> torch.Tensor:
        """What the gradient of the news is to be on this rank."""
        news, bits, time = self._news, [], [0.0, 0.0]
        if carries and news is not None:
            bits = news.agreement.bits(self._ctx, self._ctx.state)
            if self.group.rank == 0:
                now = news.clock.read()
                time = [now // _SPAN, now % _SPAN]
        empty = [0.0] * (PLACES - 2 - len(bits))
        return torch.tensor([*bits, *empty, *time], dtype=like.dtype, device=like.device)

    def _hear(self, news: News) -> None:
        assert self._wrapped is not None
        asked = len(news.agreement.rows[self._ctx.state])
        found = (self._wrapped.module.news.grad * self.group.size).tolist()
        news.carried = [int(value > 0.5) for value in found[:asked]]
        news.clock.now = round(found[-2]) * _SPAN + found[-1]

    def remember(self, batch: Any) -> None:
        """Keeps a batch, in case the next one is left out."""
        self._last = batch
        if not self._compared and self._ctx is not None:
            self._compared = True
            self._compare(batch)

    def _compare(self, batch: Any) -> None:
        """Ranks that have data of their own must not all have the same."""
        order = order_of(self._ctx.train_data)
        if order is not None and order.share is not None:
            return
        marks = self.group.gather("compare the first batches", _mark(batch))
        twice = [
            rank for rank, mark in enumerate(marks) if mark is not None and mark in marks[:rank]
        ]
        if twice:
            first = marks.index(marks[twice[0]])
            raise DataError(
                f"ranks {first} and {twice[0]} have the same first batch, so both would train on"
                " the same data. Give data that can be divided (a Dataset, tensors, or a"
                " DataLoader over a map-style dataset), or let each rank iterate over its own"
            )

    def stand_in(self, event: BaseException) -> Any:
        """The batch before; see `Sharing`."""
        if self._last is None:
            event.add_note(
                "statetrain: with several ranks, the first batch of one cannot be left out: the"
                " others wait for its gradients"
            )
            raise event
        return self._last

    def share_buffers(self, ctx: Context) -> None:
        """Makes the model's buffers those of rank 0."""
        import torch.distributed as dist

        for buffer in self.unwrap(ctx.model).buffers():
            dist.broadcast(buffer, 0)


PLACES = 32
"""Of the news that gradients carry: answers, then the clock."""


def _mark(batch: Any) -> str | None:
    """What tells a batch from others; None where that cannot be said."""
    import hashlib

    tensors: list[torch.Tensor] = []
    torch.utils._pytree.tree_map(
        lambda leaf: tensors.append(leaf) if isinstance(leaf, torch.Tensor) else None, batch
    )
    if not tensors:
        return None
    digest = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
