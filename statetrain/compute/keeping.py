"""Copies of what trains: of a model's buffers for one batch, and of everything to go back to."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from attrs import Factory, define
from torch.nn.parameter import is_lazy

from statetrain.compute.parts import whole
from statetrain.compute.weights import Kept, copy_weights, modules_of, put_weights, tensors_of
from statetrain.losses.losses import modules_of as loss_modules
from statetrain.standard.parameters import parameters_of

if TYPE_CHECKING:
    from statetrain.context.context import Context


def first_not_finite(*modules: torch.nn.Module) -> str | None:
    """The name of a parameter or buffer that has a NaN or an infinity; None if all are finite.

    It waits for the device once; a second time if something may not be finite. Where ranks hold
    parts of the weights, it is a meeting, and all get to know the same.
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
    found = torch.stack([_sum_is_finite(value.detach()).to(device) for _, value in named]).tolist()
    doubtful = [pair for pair, finite in zip(named, found, strict=True) if not finite]
    return next((name for name, value in doubtful if not _all_are_finite(value.detach())), None)


def _sum_is_finite(values: torch.Tensor) -> torch.Tensor:
    """Whether the sum is finite, for which all have to be; a sum of finite numbers may overflow.

    It reads the numbers once and makes no copies: a thirtieth of the time of looking at each.
    """
    if values.element_size() == 1:  # torch does not add float8
        return _all_are_finite(values)
    return torch.isfinite(whole(values.sum()))


def _all_are_finite(values: torch.Tensor) -> torch.Tensor:
    return whole(torch.isfinite(values).all())


def moded(ctx: Context) -> list[torch.nn.Module]:
    """The model as it is run, and the losses and metrics that are modules."""
    found: dict[int, torch.nn.Module] = {id(ctx.model): ctx.model}
    for loss in ctx.loss_fns.values():
        found |= {id(module): module for module in loss_modules(loss).values()}
    for tally in ctx.tallies.values():
        found |= {id(module): module for module in loss_modules(tally.loss_fn).values()}
        for metric in tally.metrics.values():
            for part in (metric, getattr(metric, "function", None)):
                if isinstance(part, torch.nn.Module):
                    found[id(part)] = part
    return list(found.values())


def has_buffers(modules: Iterable[torch.nn.Module]) -> bool:
    """Whether a forward pass may change buffers, such as batch norm's running statistics."""
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
        """Copies their present values; if the buffers are the same as last time, in place."""
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

    @property
    def copies(self) -> list[torch.Tensor]:
        """The copies, in the order of the buffers."""
        return self._copies

    def load(self, copies: list[torch.Tensor]) -> None:
        """Takes copies that another one of the same modules has made.

        Args:
            copies: in the order of the buffers; of other buffers, they are taken as they are now.
        """
        self._resolve([buffer for owner in self.owners for buffer in owner.values()])
        if [copy.shape for copy in copies] != [copy.shape for copy in self._copies]:
            self.take()
            return
        with torch.no_grad():
            for own, copy in zip(self._copies, copies, strict=True):
                own.copy_(copy)

    def _resolve(self, now: list[torch.Tensor | None]) -> None:
        """Allocates copies of the existing buffers.

        Buffers that are still lazy are looked at again next time.
        """
        self._there = [
            (owner, name, buffer)
            for owner in self.owners
            for name, buffer in owner.items()
            if buffer is not None and not is_lazy(buffer)
        ]
        self._seen = now
        if any(buffer is not None and is_lazy(buffer) for buffer in now):
            self._seen = []
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

    def _take_replaced(self) -> None:
        """Takes the values of buffers that a module has put in the place of ours."""
        for owner, name, buffer in self._there:
            other = owner[name]
            if other is buffer or other is None or other.shape != buffer.shape:
                continue
            owner[name] = buffer.copy_(other)

    def put_back_where(self, flag: torch.Tensor) -> None:
        """The same where a flag on the device, of shape (), is set, without waiting for it.

        Those of one type are restored together.
        """
        with torch.no_grad():
            self._take_replaced()
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
    """A copy of weights, buffers, the states of optimizers and the scale of the loss.

    The copy that is there already, `ctx.kept`, is overwritten: there is never more than one.

    Returns:
        The copy; None if a weight or a buffer is not finite.
    """
    modules = modules_of(ctx)
    if first_not_finite(*modules) is not None:
        return None
    old: Kept = ctx.kept or {}
    strays = _strays(ctx)
    scaler = None
    if ctx.scaler is not None:
        scaler = dict(ctx.scaler.state_dict())
    return {
        "weights": copy_weights(modules, into=old.get("weights")),
        "strays": {
            name: _copy(parameter, old.get("strays", {}).get(name))
            for name, parameter in strays.items()
        },
        "optimizers": {
            name: _copy(_states(optimizer), old.get("optimizers", {}).get(name))
            for name, optimizer in ctx.optimizers.items()
        },
        "scaler": scaler,
    }


def go_back(ctx: Context, kept: Kept) -> None:
    """Restores everything to what it was when a copy was kept.

    Settings of optimizers, such as the learning rate, stay as they are.
    """
    put_weights(modules_of(ctx), kept["weights"])
    with torch.no_grad():
        for name, parameter in _strays(ctx).items():
            if name in kept["strays"]:
                parameter.copy_(kept["strays"][name])
    for name, optimizer in ctx.optimizers.items():
        for parameter, state in zip(
            parameters_of(optimizer), kept["optimizers"][name], strict=True
        ):
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
    """Multiplies the learning rates of all optimizers.

    Those that schedules start from or lead to are multiplied as well.
    """
    for optimizer in ctx.optimizers.values():
        for group in optimizer.param_groups:
            for key in ("lr", "initial_lr", "max_lr", "min_lr"):
                if isinstance(group.get(key), torch.Tensor):
                    group[key].mul_(factor)
                elif key in group:
                    group[key] *= factor


def _strays(ctx: Context) -> dict[str, torch.Tensor]:
    """The parameters of optimizers that belong to no module of the run."""
    own = {id(tensor) for _, tensor in tensors_of(modules_of(ctx))}
    return {
        f"{name}.{i}": parameter
        for name, optimizer in ctx.optimizers.items()
        for i, parameter in enumerate(parameters_of(optimizer))
        if id(parameter) not in own
    }


def _states(optimizer: Any) -> list[Any]:
    """What an optimizer remembers of each parameter."""
    return [optimizer.state.get(parameter, {}) for parameter in parameters_of(optimizer)]


def _copy(thing: Any, old: Any = None) -> Any:
    """A copy; tensors are copied into those of an earlier copy of the same structure."""
    if isinstance(thing, torch.Tensor):
        thing = thing.detach()
        if isinstance(old, torch.Tensor) and (old.shape, old.dtype) == (thing.shape, thing.dtype):
            return old.copy_(thing)
        return thing.clone()
    if isinstance(thing, dict):
        before = {}
        if isinstance(old, dict):
            before = old
        return {key: _copy(value, before.get(key)) for key, value in thing.items()}
    if type(thing) in (list, tuple):
        befores = old
        if not (type(old) is type(thing) and len(old) == len(thing)):
            befores = [None] * len(thing)
        return type(thing)(map(_copy, thing, befores))
    return thing


def _beside(value: Any, parameter: torch.Tensor, own: Any) -> Any:
    """A copy of a kept value on the device where the optimizer keeps it.

    A checkpoint gives all of them on the CPU.
    """
    if not isinstance(value, torch.Tensor):
        return _copy(value)
    device = value.device
    if isinstance(own, torch.Tensor):
        device = own.device
    elif value.ndim:
        device = parameter.device
    return value.to(device, copy=True)
