"""The state of a module, with what its own `state_dict` leaves out; and putting it back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from statetrain.compute.parts import part_like

ModuleState = dict[str, Any]


def module_state(module: torch.nn.Module) -> ModuleState:
    """Weights, buffers of all kinds, which parameters are frozen, and the modes of its parts."""
    return {
        "weights": dict(module.state_dict()),
        "loose": dict(loose_buffers(module)),
        "frozen": [name for name, one in module.named_parameters() if not one.requires_grad],
        "evaluating": [name for name, part in module.named_modules() if not part.training],
    }


def loose_buffers(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The buffers that the module's own state leaves out."""
    saved = module.state_dict().keys()
    return (
        (name, buffer)
        for name, buffer in module.named_buffers(remove_duplicate=False)
        if name not in saved
    )


def restore_loose_buffers(module: torch.nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    """Restores what `loose_buffers` gave."""
    loose = dict(loose_buffers(module))
    for name in loose.keys() & saved.keys():
        value = saved[name]
        if loose[name].shape == value.shape:
            loose[name].copy_(value)
        else:  # it grows
            where, _, last = name.rpartition(".")
            setattr(module.get_submodule(where), last, value.to(loose[name]))


def restore_modes(module: torch.nn.Module, evaluating: Iterable[str]) -> None:
    """Puts the named parts into eval mode, and the others into train mode."""
    names = set(evaluating)
    for name, part in module.named_modules():
        part.training = name not in names


def gradients_of(parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The gradients that are there, by name."""
    return {name: one.grad for name, one in parameters.items() if one.grad is not None}


def restore_gradients(
    parameters: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor]
) -> None:
    """Restores what `gradients_of` gave; the others have none."""
    for name, parameter in parameters.items():
        value = saved.get(name)
        if value is None:
            parameter.grad = None
        else:
            held = part_like(value, parameter)
            parameter.grad = laid_out_like(parameter, held).copy_(held)


def laid_out_like(
    parameter: torch.Tensor, value: torch.Tensor, device: torch.device | None = None
) -> torch.Tensor:
    """An empty tensor with the type of a value and the layout of a parameter."""
    return torch.empty_like(parameter, dtype=value.dtype, device=device, requires_grad=False)


def describe_tensor(value: Any) -> str:
    """The type and shape of a tensor; the class of anything else."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def fits(own: Any, saved: Any) -> bool:
    """Whether a saved value fits: both are tensors of one shape and type, or neither is."""
    if isinstance(own, torch.Tensor) and isinstance(saved, torch.Tensor):
        return own.shape == saved.shape and own.dtype == saved.dtype
    if isinstance(own, torch.Tensor) or isinstance(saved, torch.Tensor):
        return False
    return own is not None
