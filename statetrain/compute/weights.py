"""The weights of a run: which tensors training changes, copies of them, and which are judged.

Wherever weights are averaged, exchanged, kept or put back, these are the same tensors: every
parameter and every buffer of the model and of the losses that are modules, each once though it has
several names, and buffers that are not saved, too.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parameter import is_lazy

from statetrain.callback import unwrapped
from statetrain.compute.parts import part_like
from statetrain.losses import losses
from statetrain.standard.parameters import parameters_of

if TYPE_CHECKING:
    from statetrain.context.context import Context

Kept = dict[str, Any]


def modules_of(ctx: Context) -> list[torch.nn.Module]:
    """The model, and the losses that are modules."""
    found = [ctx.accelerator.unwrap(ctx.model)]
    for loss in ctx.loss_fns.values():
        found += losses.modules_of(loss).values()
    return found


def judged_modules(ctx: Context) -> list[torch.nn.Module]:
    """The modules whose weights validation looks at; as `modules_of`, or averages of these.

    A callback that has validation look at other weights than those that are trained, as
    `EMA(valid=True)` does, has a method `judged_modules`. The last one counts, since it is the last
    to exchange them.
    """
    for callback in reversed(ctx.machine.callbacks):
        averaged = getattr(unwrapped(callback), "judged_modules", None)
        if averaged is not None and (found := averaged()):
            return list(found)
    return modules_of(ctx)


def tensors_of(modules: Iterable[torch.nn.Module]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter and buffer once, as `0.layer.weight`: the number of its module, and its name.

    What a lazy module has not made yet is left out.
    """
    seen: set[int] = set()
    for name, tensor in _named(modules):
        if id(tensor) not in seen and not is_lazy(tensor):
            seen.add(id(tensor))
            yield name, tensor


def pairs_of(
    modules: Iterable[torch.nn.Module], copies: Iterable[torch.nn.Module]
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """The tensors of some modules, each once, with those of the same name in copies of them."""
    others = dict(_named(copies))
    for name, tensor in tensors_of(modules):
        yield name, tensor, others[name]


def frozen_in(module: torch.nn.Module) -> set[str]:
    """The names of the parameters that require no gradient, each under all that it has."""
    named = module.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if not parameter.requires_grad}


def _named(modules: Iterable[torch.nn.Module]) -> Iterator[tuple[str, torch.Tensor]]:
    for i, module in enumerate(modules):
        both = itertools.chain(
            module.named_parameters(remove_duplicate=False),
            module.named_buffers(remove_duplicate=False),
        )
        for name, tensor in both:
            yield f"{i}.{name}", tensor


def untrained(ctx: Context) -> list[str]:
    """The trainable parameters that no optimizer has: `layer.weight`, `loss.scale`."""
    optimizers = ctx.optimizers.values()
    held = {id(parameter) for one in optimizers for parameter in parameters_of(one)}
    return [
        name
        for name, parameter in _named_parameters(ctx)
        if parameter.requires_grad and id(parameter) not in held
    ]


def _named_parameters(ctx: Context) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The parameters of the model by name, and those of losses with `loss.` in front."""
    for i, module in enumerate(modules_of(ctx)):
        prefix = ""
        if i:
            prefix = "loss"
        yield from module.named_parameters(prefix)


def warn_of_untrained(ctx: Context) -> None:
    """Warns, once in a run, of parameters that get gradients and that no optimizer changes."""
    if "untrained" in ctx.marks or not ctx.optimizers:
        return
    gradients = {name for name, one in _named_parameters(ctx) if one.grad is not None}
    names = [name for name in untrained(ctx) if name in gradients]
    if names:
        ctx.marks["untrained"] = len(names)
        listed = ", ".join(map(repr, names[:4]))
        if len(names) > 4:
            listed += f" and {len(names) - 4} others"
        warnings.warn(
            f"no optimizer has {listed}, which get gradients, so training does not change them:"
            " give an optimizer all parameters (those of a loss, too:"
            " optimizer=Adam([*model.parameters(), *loss.parameters()])), add what is unfrozen"
            " later by ctx.opt.add_param_group({'params': [...]}), or freeze them by"
            " requires_grad_(False)",
            UserWarning,
            stacklevel=2,
        )


# ---------------------------------------------------------------- copies


def copy_weights(
    modules: Iterable[torch.nn.Module], *, into: Kept | None = None, device: str | None = None
) -> Kept:
    """A copy of the weights of modules, and of the extra state that some have.

    Args:
        modules: as `modules_of` gives them.
        into: an earlier copy, whose memory is used again: then there is never more than one.
        device: where the copy lies; None is where the weights are.
    """
    modules = list(modules)
    old: Mapping[str, torch.Tensor] = {}
    if into is not None:
        old = into["tensors"]
    kept = {
        name: _copy(tensor, old.get(name), device or tensor.device)
        for name, tensor in tensors_of(modules)
    }
    return {"tensors": kept, "extra": dict(_extra_states(modules))}


def _copy(
    tensor: torch.Tensor, old: torch.Tensor | None, device: str | torch.device
) -> torch.Tensor:
    tensor = tensor.detach()
    if old is None or (type(old), old.shape, old.dtype) != (
        type(tensor),
        tensor.shape,
        tensor.dtype,
    ):
        return tensor.to(device, copy=True)
    return old.copy_(tensor)


def put_weights(modules: Iterable[torch.nn.Module], kept: Kept) -> None:
    """Puts a copy back, in place; what it does not have stays as it is."""
    modules = list(modules)
    with torch.no_grad():
        for name, tensor in tensors_of(modules):
            if name in kept["tensors"]:
                tensor.copy_(part_like(kept["tensors"][name], tensor))
    for name, part in _parts(modules):
        if name in kept["extra"]:
            part.set_extra_state(copy.deepcopy(kept["extra"][name]))


def exchange(pairs: Iterable[tuple[str, torch.Tensor, torch.Tensor]]) -> None:
    """Exchanges the values of the tensors of each pair, in place."""
    with torch.no_grad():
        for _, one, other in pairs:
            before = one.clone()
            one.copy_(other)
            other.copy_(before)


def _extra_states(modules: list[torch.nn.Module]) -> Iterator[tuple[str, Any]]:
    for name, part in _parts(modules):
        if type(part).get_extra_state is not torch.nn.Module.get_extra_state:
            yield name, copy.deepcopy(part.get_extra_state())


def _parts(modules: list[torch.nn.Module]) -> Iterator[tuple[str, torch.nn.Module]]:
    for i, module in enumerate(modules):
        for name, part in module.named_modules():
            yield f"{i}.{name}", part
