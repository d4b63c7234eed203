"""Shards: each rank holds a part of every weight, and the whole ones only while they are used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from attrs import define, field
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from statetrain.compute.accelerator import Accelerator
from statetrain.errors import ConfigError
from statetrain.ranks.group import join, own_device
from statetrain.ranks.sharing import BatchSharing, refuse_untrainable

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class ShardedModel(torch.nn.Module):
    """A sharded model, whose forward pass all ranks make together.

    Args:
        model: the user's.
        sharing: whose group waits for each other.
    """

    def __init__(self, model: torch.nn.Module, sharing: BatchSharing) -> None:
        super().__init__()
        self.model, self.sharing = model, sharing

    def forward(self, *args: Any, **named: Any) -> Any:
        """What the model computes."""
        with self.sharing.group.waiting("gather the weights"):
            return self.sharing.weigh_outputs(self.model(*args, **named))


@define(eq=False)
class FSDP(Accelerator):
    """One of several processes that hold a part of each weight, by torch's `fully_shard`.

    Weights, gradients and the optimizers' states take a share of the memory that they take with
    `DDP`. For the passes, the weights of one module at a time are put together, so name the blocks
    of the model:

        st.fit(..., accelerator=st.FSDP(shard=(Block,)))

    Weights are those of one process up to the rounding of float32. `model.state_dict()` has
    `DTensor`s, of which `.full_tensor()`, on all ranks, is the whole. Checkpoints have a file for
    each rank, and any number of ranks, or one process, resumes them.

    Args:
        device: of this process; "auto" is the GPU with its local rank, or the CPU.
        shard: the classes of modules whose weights are put together one module at a time; what
            remains of the model is one more. Without, all of the model is one.
        reshard: whether the whole weights are given up between a forward pass and its backward
            pass, where they are put together again: less memory, more messages.
        mesh: the ranks as a `DeviceMesh` of all of them; with two dimensions, the model is
            replicated over the first and sharded over the second. None is one dimension.
        patience: seconds after which ranks that do not move are given up.

    Raises:
        ConfigError: `shard` has something else than classes of modules, or the mesh has not all
            ranks.
    """

    device: torch.device = field(factory=own_device, converter=own_device)
    shard: tuple[type[torch.nn.Module], ...] = field(default=(), kw_only=True, converter=tuple)
    reshard: bool = field(default=True, kw_only=True)
    mesh: DeviceMesh | None = field(default=None, kw_only=True, repr=False)
    patience: float = field(default=600.0, kw_only=True)
    sharing: BatchSharing = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        for one in self.shard:
            if not (isinstance(one, type) and issubclass(one, torch.nn.Module)):
                raise ConfigError(f"FSDP: shard takes classes of modules, got {one!r:.80}")
        self.sharing = BatchSharing(join(self.device, self.patience), shards=True)
        self.key = self.sharing.key
        if self.mesh is None:
            self.mesh = init_device_mesh(self.device.type, (dist.get_world_size(),))
        if self.mesh.size() != dist.get_world_size():
            raise ConfigError(
                f"FSDP: the mesh has {self.mesh.size()} of {dist.get_world_size()} ranks; it takes"
                " all of them, and other kinds of parallelism are not supported with it"
            )

    # ------------------------------------------------------------ the model

    def prepare(
        self, model: torch.nn.Module, optimizers: Iterable[torch.optim.Optimizer] = ()
    ) -> None:
        """Moves a model to the device, gives all ranks rank 0's weights, and shards them.

        The parameters are replaced by their parts, also in optimizers that have made no step.

        Raises:
            ConfigError: an optimizer has made steps, or the model has no module of a class that is
                to be sharded.
        """
        optimizers = list(optimizers)
        super().prepare(model, optimizers)
        if isinstance(model, FSDPModule):
            return
        self._refuse(model, optimizers)
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor, 0)
        before = dict(model.named_parameters(remove_duplicate=False))
        inner = [module for module in model.modules() if isinstance(module, self.shard)]
        for module in (*reversed(inner), model):
            if not isinstance(module, FSDPModule):
                fully_shard(module, mesh=self.mesh, reshard_after_forward=self.reshard)
        after = dict(model.named_parameters(remove_duplicate=False))
        _follow(optimizers, {id(before[name]): after[name] for name in before})

    def _refuse(self, model: torch.nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        refuse_untrainable(model)
        for one in self.shard:
            if not any(isinstance(module, one) for module in model.modules()):
                raise ConfigError(
                    f"FSDP(shard=...) names {one.__name__}, and the model has no module of that"
                    " class"
                )
        if any(optimizer.state for optimizer in optimizers):
            raise ConfigError(
                "an optimizer that has made steps cannot be sharded; give its class, and resume"
                " the run from a checkpoint"
            )

    def wrap(
        self, model: torch.nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]
    ) -> tuple[torch.nn.Module, dict[str, torch.optim.Optimizer]]:
        """The model, whose forward pass all ranks make together.

        Raises:
            ConfigError: there are several optimizers.
        """
        if len(optimizers) > 1:
            raise ConfigError(
                "st.FSDP cannot train with several optimizers; give one, or train with st.DDP"
            )
        return ShardedModel(model, self.sharing), dict(optimizers)

    def unwrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """The user's own model, whose parameters are sharded."""
        model = super().unwrap(model)
        return model.model if isinstance(model, ShardedModel) else model

    # ------------------------------------------------------------ a batch

    def backward(self, loss: torch.Tensor, inputs: Any = None) -> None:
        """Computes the gradients; each rank gets its part of their average.

        With accumulation, too: gradients that are not reduced take the memory of the whole model.
        """
        loss = self.sharing.weigh(loss)
        with self.sharing.group.waiting("reduce the gradients"):
            loss.backward()


def _follow(
    optimizers: Iterable[torch.optim.Optimizer], parts: Mapping[int, torch.nn.Parameter]
) -> None:
    """Gives optimizers the parts of the parameters that they were made for."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["params"] = [parts.get(id(one), one) for one in group["params"]]
