"""Tensors of which each rank holds a part: torch's `DTensor`s, as `fully_shard` makes them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from statetrain.compute.copying import computed_in


class PartPlace(NamedTuple):
    """Where a rank's part lies in the whole tensor.

    Attributes:
        shape: of the whole.
        offset: of the part's first element, by dimension.
    """

    shape: tuple[int, ...]
    offset: tuple[int, ...]


def is_part(thing: Any) -> bool:
    """Whether it is a tensor of which this rank holds a part alone."""
    return hasattr(thing, "full_tensor")


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor: all of it, of most."""
    if is_part(tensor):
        return tensor.to_local()  # type: ignore[attr-defined,no-any-return]
    return tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor. A meeting, if ranks hold parts of it."""
    if is_part(tensor):
        return tensor.full_tensor()  # type: ignore[attr-defined,no-any-return]
    return tensor


def part_like(value: Any, own: Any) -> Any:
    """A whole tensor held as another one is: this rank's part, if that is one.

    Args:
        value: the same on all ranks; anything else than a whole tensor is returned as it is.
        own: what tells how it is held; of the same shape.
    """
    if not is_part(own) or is_part(value) or not isinstance(value, torch.Tensor):
        return value
    from torch.distributed.tensor import distribute_tensor

    placed = value.to(own.device_mesh.device_type)
    # Each rank takes its part of what it has: no messages
    return distribute_tensor(placed, own.device_mesh, own.placements, src_data_rank=None)


def place_of(tensor: Any) -> PartPlace | None:
    """Where this rank's part lies; None if another rank that holds the same comes first."""
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, placements = tensor.device_mesh, tensor.placements
    here = mesh.get_coordinate()
    for coordinate, placement in zip(here, placements, strict=True):
        if isinstance(placement, Replicate) and coordinate > 0:
            return None
    _, offset = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
    return PartPlace(tuple(tensor.shape), tuple(offset))


def gathered(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """Whole tensors, for rank 0 to write; None on other ranks, if they are in parts.

    Then it is a meeting. Those that are put together lie in the memory of the host.
    """
    if not any(map(is_part, tensors.values())):
        return dict(tensors)
    import torch.distributed as dist

    first, found = dist.get_rank() == 0, {}
    for name, tensor in tensors.items():
        value = whole(tensor)
        if first:
            found[name] = value.cpu() if is_part(tensor) else value
    return found if first else None


def class_of(module: torch.nn.Module) -> type[torch.nn.Module]:
    """The class of a module; of one that is sharded, the class that it was made from."""
    kind = type(module)
    if kind.__bases__[0].__name__ == "FSDPModule":
        return kind.__bases__[1]
    return kind


def copies_of(
    modules: Iterable[torch.nn.Module], shared: Iterable[torch.nn.Parameter] = ()
) -> list[torch.nn.Module]:
    """Copies of modules, made together, so that what two of them share stays shared.

    Torch does not copy modules that are sharded. In their place are modules that hold copies of
    the tensors under the same names, and compute nothing.

    Args:
        modules: stay as they are.
        shared: those parameters, of modules that are not sharded, that are not copied: in the
            copies are others with the same memory.
    """
    modules = list(modules)
    if any(is_part(parameter) for module in modules for parameter in module.parameters()):
        return [_skeleton(module) for module in modules]
    known: dict[int, torch.Tensor] = computed_in(*modules)
    known |= {id(one): torch.nn.Parameter(one.detach(), requires_grad=False) for one in shared}
    return copy.deepcopy(modules, known)


def _skeleton(module: torch.nn.Module) -> torch.nn.Module:
    made = torch.nn.Module()
    for name, child in module.named_children():
        made.add_module(name, _skeleton(child))
    for name, parameter in module.named_parameters(recurse=False):
        made.register_parameter(
            name, torch.nn.Parameter(parameter.detach().clone(), requires_grad=False)
        )
    for name, buffer in module.named_buffers(recurse=False):
        kept = name not in module._non_persistent_buffers_set
        made.register_buffer(name, buffer.clone(), persistent=kept)
    return made
