"""Replicas: each rank has the whole model, and gradients are averaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from attrs import define, field
from torch.nn.parallel import DistributedDataParallel

from statetrain.compute.accelerator import Accelerator
from statetrain.errors import ConfigError
from statetrain.ranks.group import join, own_device
from statetrain.ranks.sharing import BatchSharing, refuse_untrainable

if TYPE_CHECKING:
    from statetrain.machine.agreeing import News

_SPAN = 1024.0  # seconds; float32 holds whole spans and the rest of one with enough digits


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

        self.rehearses = False

    def forward(self, *args: Any, **named: Any) -> Any:
        """What the model computes; in a rehearsal, the parameters as they are."""
        if self.rehearses:
            return [own.view_as(own) for own in self.parameters() if own.requires_grad]
        return self.model(*args, **named)


class Replica(DistributedDataParallel):
    """A replica that says when it waits for the others before it computes: buffers are rank 0's.

    Args:
        model: to be replicated.
        sharing: what this rank takes of each batch.
        options: of `DistributedDataParallel`.
    """

    def __init__(self, model: torch.nn.Module, sharing: BatchSharing, **options: Any) -> None:
        super().__init__(model, **options)
        self.sharing = sharing

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the model computes."""
        outputs = super().forward(*inputs, **named)  # type: ignore[no-untyped-call]
        return self.sharing.weigh_outputs(outputs)

    def _pre_forward(self, *inputs: Any, **named: Any) -> Any:
        with self.sharing.group.waiting("share the buffers"):
            return super()._pre_forward(*inputs, **named)  # type: ignore[no-untyped-call]


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

    Raises:
        ConfigError: `sync_batch_norm` is asked for on the CPU, where torch has no such batch norm.
    """

    device: torch.device = field(factory=own_device, converter=own_device)
    find_unused_parameters: bool = field(default=False, kw_only=True)
    sync_batch_norm: bool = field(default=False, kw_only=True)
    static_graph: bool = field(default=False, kw_only=True)
    patience: float = field(default=600.0, kw_only=True)
    sharing: BatchSharing = field(init=False, repr=False)
    _wrapped: DistributedDataParallel | None = field(default=None, init=False, repr=False)
    _several: bool = field(default=False, init=False, repr=False)
    _reduces: bool = field(default=True, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.sync_batch_norm and self.device.type == "cpu":
            raise ConfigError(
                "DDP(sync_batch_norm=True): torch synchronizes batch norm on GPUs only; leave it"
                " out on the CPU, where each rank takes the statistics of its part"
            )
        self.sharing = BatchSharing(join(self.device, self.patience), self._reduce, PLACES - 2)
        self.key = self.sharing.key

    def _reduce(self, on: bool) -> None:
        assert self._wrapped is not None
        self._wrapped.require_backward_grad_sync = on and not self._several
        self._reduces = on

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
        refuse_untrainable(model)
        self._several = len(optimizers) > 1
        devices = None
        if self.device.type == "cuda":
            devices = [self.device]
        self._wrapped = Replica(
            Carrier(model, PLACES) if self.carries else model,
            self.sharing,
            device_ids=devices,
            find_unused_parameters=self.find_unused_parameters,
            static_graph=self.static_graph,
        )
        if self.carries and not _has_hooks(model):
            self._rehearse(self._wrapped)
        return self._wrapped, dict(optimizers)

    def _rehearse(self, wrapped: DistributedDataParallel) -> None:
        """Lets DDP lay out its buckets now, which it would do after the first batch.

        Of three ranks or more, the bits of a sum depend on where in a bucket it lies. So a run that
        is resumed needs the layout of one that was not cut.
        """
        carrier = wrapped.module
        carrier.rehearses = True
        with torch.enable_grad():
            outputs = wrapped()
            torch.autograd.backward(outputs, [torch.zeros_like(one) for one in outputs])
        carrier.rehearses = False
        for own in carrier.parameters():
            own.grad = None

    @property
    def carries(self) -> bool:
        """Whether the gradients carry the news; a parameter outside of the graph is one unused."""
        unused = self.find_unused_parameters or self.static_graph or self._several
        return self.sharing.calls_backward and not unused

    def unwrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """The user's own model."""
        if isinstance(model, DistributedDataParallel):
            model = model.module
        if isinstance(model, Carrier):
            model = model.model
        return super().unwrap(model)  # what was compiled is within

    def compile(self, model: torch.nn.Module, options: Mapping[str, Any]) -> torch.nn.Module:
        """The replica, with what torch compiles of the user's model in its place.

        Gradients are reduced as they are computed, as without.

        Args:
            model: from `wrap`.
            options: of `torch.compile`.

        Raises:
            ConfigError: torch has no such option or backend.
        """
        assert isinstance(model, Replica)
        compiled = super().compile(self.unwrap(model), options)
        if self.carries:
            model.module.model = compiled
        else:
            model.module = compiled
        return model

    # ------------------------------------------------------------ a batch

    def backward(self, loss: torch.Tensor, inputs: Any = None) -> None:
        """Computes the gradients and averages them over all ranks; they carry the news along."""
        assert self._wrapped is not None
        if inputs is not None:
            self._backward_of(loss, inputs)
            return
        news = self.sharing.news
        carries = self.carries and news is not None and self._wrapped.require_backward_grad_sync
        loss = self.sharing.weigh(loss)
        if self.carries:
            with torch.enable_grad():
                own = self._wrapped.module.news
                own.grad = None
                loss = loss + torch.dot(own, self._to_tell(own, carries))  # it adds 0
        if self._wrapped.require_backward_grad_sync:
            with self.sharing.group.waiting("reduce the gradients"):
                loss.backward()
                self.sharing.reduce_beside()
        else:
            loss.backward()
        if carries and news is not None:
            self._hear(news)

    def _backward_of(self, loss: torch.Tensor, inputs: Any) -> None:
        """The gradients of one of several optimizers, which DDP would wait for all of."""
        loss = self.sharing.weigh(loss)
        if not self._reduces:
            loss.backward(inputs=inputs)
            return
        with self.sharing.group.waiting("reduce the gradients"):
            loss.backward(inputs=inputs)
            self.sharing.average(inputs)

    def _to_tell(self, like: torch.Tensor, carries: bool) -> torch.Tensor:
        """What the gradient of the news is to be on this rank."""
        news, bits, time = self.sharing.news, [], [0.0, 0.0]
        if carries and news is not None:
            bits = news.agreement.bits(self.sharing.ctx, self.sharing.ctx.state)
            if self.sharing.group.rank == 0:
                now = news.clock.read()
                time = [now // _SPAN, now % _SPAN]
        empty = [0.0] * (PLACES - 2 - len(bits))
        return torch.tensor([*bits, *empty, *time], dtype=like.dtype, device=like.device)

    def _hear(self, news: News) -> None:
        assert self._wrapped is not None
        asked = len(news.agreement.rows[self.sharing.ctx.state])
        found = (self._wrapped.module.news.grad * self.sharing.group.size).tolist()
        news.carried = [int(value > 0.5) for value in found[:asked]]
        news.clock.now = round(found[-2]) * _SPAN + found[-1]


def _has_hooks(model: torch.nn.Module) -> bool:
    """Whether gradients that are no batch's would be noticed, or are not dense."""
    noticed = any(
        own._backward_hooks or getattr(own, "_post_accumulate_grad_hooks", None)
        for own in model.parameters()
    )
    return noticed or any(getattr(part, "sparse", False) for part in model.modules())


PLACES = 32
"""Of the news that gradients carry: answers, then the clock."""
