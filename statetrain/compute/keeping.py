"""Copies of what trains: of a model's buffers for one batch, and of everything to go back to."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from attrs import Factory, define
from torch.nn.parameter import is_lazy

from statetrain.losses import losses

if TYPE_CHECKING:
    from statetrain.context.context import Context

Kept = dict[str, Any]


def first_not_finite(*modules: torch.nn.Module) -> str | None:
    """The name of a parameter or buffer that has a NaN or an infinity; None if all are finite.

    It waits for the device once.
    """
    named = [
        (name, value)
        for module in modules
        for name, value in itertools.chain(module.named_parameters(), module.named_buffers())
        if not is_lazy(value) and value.is_floating_point()
    ]
    if not named:
        return None
    device = named[0][1].device
    found = torch.stack(
        [torch.isfinite(value.detach()).all().to(device) for _, value in named]
    ).tolist()
    return next((name for (name, _), finite in zip(named, found, strict=True) if not finite), None)


def modules_of(ctx: Context) -> list[torch.nn.Module]:
    """The model, and the losses that are modules."""
    return [
        ctx.accelerator.unwrap(ctx.model),
        *(module for loss in ctx.loss_fns.values() for module in losses.modules_of(loss).values()),
    ]


def has_buffers(modules: Iterable[torch.nn.Module]) -> bool:
    """Whether a forward pass may change more than gradients: batch norm's running statistics are buffers."""
    return any(True for module in modules for _ in module.buffers())


# ---------------------------------------------------------------- for one batch


@define(eq=False)
class Buffers:
    """The buffers of some modules, and a copy of them as they were before a batch.

    Args:
        owners: the dictionaries in which modules keep theirs; a module may put another tensor
            there.
    """

    owners: list[dict[str, torch.Tensor | None]]
    # What the owners held when the following was resolved
    _seen: list[torch.Tensor | None] = Factory(list)
    # Shape and type of each of those there
    _kinds: list[tuple[torch.Size, torch.dtype]] = Factory(list)
    _there: list[tuple[dict[str, torch.Tensor | None], str, torch.Tensor]] = Factory(list)
    _copies: list[torch.Tensor] = Factory(list)
    # Copies and buffers of one type, which a device copies at once
    _alike: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = Factory(list)

    def take(self) -> None:
        """Copies them as they are now. Of the same buffers as last time it only copies the values."""
        now = [buffer for owner in self.owners for buffer in owner.values()]
        same = len(now) == len(self._seen) and all(map(operator.is_, now, self._seen))
        if (
            not same
            or [(buffer.shape, buffer.dtype) for _, _, buffer in self._there] != self._kinds
        ):
            self._resolve(now)
        with torch.no_grad():
            for copies, buffers in self._alike:
                torch._foreach_copy_(copies, buffers)

    def _resolve(self, now: list[torch.Tensor | None]) -> None:
        """Makes room for copies of the buffers that are there; what is still lazy is looked at again next time."""
        self._there = [
            (owner, name, buffer)
            for owner in self.owners
            for name, buffer in owner.items()
            if buffer is not None and not is_lazy(buffer)
        ]
        self._seen = [] if any(buffer is not None and is_lazy(buffer) for buffer in now) else now
        self._kinds = [(buffer.shape, buffer.dtype) for _, _, buffer in self._there]
        self._copies = [torch.empty_like(buffer) for _, _, buffer in self._there]
        alike: dict[torch.dtype, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
        for copy, (_, _, buffer) in zip(self._copies, self._there, strict=True):
            copies, buffers = alike.setdefault(buffer.dtype, ([], []))
            copies.append(copy)
            buffers.append(buffer)
        self._alike = list(alike.values())

    def put_back(self) -> None:
        """Makes them as they were when the copy was taken."""
        with torch.no_grad():
            for (owner, name, buffer), copy in zip(self._there, self._copies, strict=True):
                buffer.copy_(copy)
                owner[name] = buffer

    def put_back_where(self, flag: torch.Tensor) -> None:
        """The same where a flag on the device, of shape (), is set; nobody waits for it. Those of one type are put back together."""
        with torch.no_grad():
            for owner, name, buffer in self._there:
                if (
                    (other := owner[name]) is not buffer
                    and other is not None
                    and other.shape == buffer.shape
                ):  # a module put it there
                    owner[name] = buffer.copy_(other)
            for copies, buffers in self._alike:
                before, now = (
                    torch.cat([tensor.reshape(-1) for tensor in side]) for side in (copies, buffers)
                )
                parts = torch.where(flag, before, now).split([buffer.numel() for buffer in buffers])
                torch._foreach_copy_(
                    buffers,
                    [part.view(buffer.shape) for part, buffer in zip(parts, buffers, strict=True)],
                )


def buffers_of(modules: Iterable[torch.nn.Module]) -> Buffers:
    """The buffers of modules and of all that is in them."""
    return Buffers(
        [part._buffers for module in modules for part in module.modules() if part._buffers]
    )


# ---------------------------------------------------------------- to go back to


def keep(ctx: Context) -> Kept | None:
    """A copy of weights, buffers, the states of optimizers and the scale of the loss; None if a weight or buffer is not finite."""
    if first_not_finite(*modules_of(ctx)) is not None:
        return None
    return {
        "tensors": {name: tensor.detach().clone() for name, tensor in _tensors(ctx)},
        "optimizers": {
            name: [_copied(optimizer.state.get(p, {})) for p in _parameters(optimizer)]
            for name, optimizer in ctx.optimizers.items()
        },
        "scaler": None if ctx.scaler is None else dict(ctx.scaler.state_dict()),
    }


def go_back(ctx: Context, kept: Kept) -> None:
    """Makes everything as it was when a copy was kept. Settings of optimizers, such as the learning rate, stay as they are."""
    with torch.no_grad():
        for name, tensor in _tensors(ctx):
            if name in kept["tensors"]:
                tensor.copy_(kept["tensors"][name])
    for name, optimizer in ctx.optimizers.items():
        for parameter, state in zip(_parameters(optimizer), kept["optimizers"][name], strict=True):
            if state:
                optimizer.state[parameter] = {
                    key: _beside(value, parameter, optimizer.state.get(parameter, {}).get(key))
                    for key, value in state.items()
                }
            else:
                optimizer.state.pop(parameter, None)
    if ctx.scaler is not None and kept["scaler"]:
        ctx.scaler.load_state_dict(kept["scaler"])


def lower_rates(ctx: Context, factor: float) -> None:
    """Multiplies the learning rates of all optimizers, and those that schedules start from or lead to."""
    for optimizer in ctx.optimizers.values():
        for group in optimizer.param_groups:
            for key in ("lr", "initial_lr", "max_lr", "min_lr"):
                if isinstance(group.get(key), torch.Tensor):
                    group[key].mul_(factor)
                elif key in group:
                    group[key] *= factor


def _tensors(ctx: Context) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor that training may change, once, under a name of its own."""
    seen: set[int] = set()
    for i, module in enumerate(modules_of(ctx)):
        for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
            if id(tensor) not in seen and not is_lazy(tensor):
                seen.add(id(tensor))
                yield f"{i}.{name}", tensor
    for name, optimizer in ctx.optimizers.items():
        for i, parameter in enumerate(_parameters(optimizer)):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{name}.{i}", parameter


def _parameters(optimizer: Any) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _copied(thing: Any) -> Any:
    if isinstance(thing, torch.Tensor):
        return thing.detach().clone()
    if isinstance(thing, dict):
        return {key: _copied(value) for key, value in thing.items()}
    return type(thing)(map(_copied, thing)) if type(thing) in (list, tuple) else thing


def _beside(value: Any, parameter: torch.Tensor, own: Any) -> Any:
    """A copy of a kept value where the optimizer has it, or would have it: a checkpoint gives all of them on the CPU."""
    if not isinstance(value, torch.Tensor):
        return _copied(value)
    device = (
        own.device
        if isinstance(own, torch.Tensor)
        else parameter.device
        if value.ndim
        else value.device
    )
    return value.to(device, copy=True)
