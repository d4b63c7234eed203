"""The fields of a custom context as plain data and tensors; and putting them back.

Plain data is saved as it is. What has a state of its own (a module, an optimizer, a generator,
anything with `state_dict()` and `load_state_dict()`, a value of an attrs class or a dataclass) is
saved as that state, an `ObjectState`, and put back into the object that a fresh context has at the
same place: in a field, or within its lists, tuples, deques and dicts. A file never says which class
to make, so what is to take a state back has to be there.

An object that is reached by two ways is saved once, and is one object again afterwards.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeGuard

import torch
from attrs import Factory, define

from statetrain.checkpoints.modules import (
    describe_tensor,
    fits,
    gradients_of,
    module_state,
    restore_gradients,
    restore_loose_buffers,
    restore_modes,
)
from statetrain.checkpoints.optimizers import members_of, regroup, restore_optimizer
from statetrain.checkpoints.plain import ObjectState
from statetrain.compute import seeding
from statetrain.context.fields import custom_fields
from statetrain.context.position import Position
from statetrain.context.tree import field_names, parts
from statetrain.errors import CheckpointError

_CONTAINERS = (list, tuple, deque, dict)
_PLAIN = (bool, int, float, str, bytes, type(None), torch.Tensor)

FieldValues = Mapping[str, Any]
"""The values of fields, by name."""

GivenSettings = Mapping[str, Any]


# ---------------------------------------------------------------- what is there


def custom_values(ctx: Position) -> dict[str, Any]:
    """The fields that a custom context adds and that are saved, by name.

    Raises:
        CheckpointError: it keeps something that is not in a field, so it would be lost.
    """
    for name in getattr(ctx, "__dict__", ()):
        raise CheckpointError(
            f"{ctx.__class__.__name__}.{name} is not a field, so it cannot be saved; declare it in"
            f" the class, under @attrs.define(eq=False): {name}: ... = ..."
        )
    return {name: getattr(ctx, name) for name in custom_fields(ctx.__class__)}


def parts_of(value: Any) -> list[tuple[str, Any]]:
    """The parts of a container or of a value with fields, each with the name of its place."""
    if isinstance(value, deque):
        value = list(value)
    return [(str(name), part) for name, part in parts(value)]


def found_in(fields: FieldValues, kind: type) -> dict[str, Any]:
    """The objects of a class in some fields, by their paths, each once."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    todo = _owners_first(fields)
    while todo:
        path, value = todo.pop(0)
        if isinstance(value, kind) and id(value) not in seen:
            seen.add(id(value))
            found[path] = value
        elif isinstance(value, _CONTAINERS) or _is_structured(value):
            todo = [*((f"{path}.{name}", part) for name, part in parts_of(value)), *todo]
    return found


def _owners_first(fields: FieldValues) -> list[tuple[str, Any]]:
    """Fields with containers before others: `best` may be one of `members`, never the owner."""
    return sorted(fields.items(), key=lambda one: not isinstance(one[1], _CONTAINERS))


def parameters_in(fields: FieldValues) -> dict[str, Any]:
    """The parameters of all modules, and other tensors that require gradients, by path."""
    found = {
        f"{path}.{name}": parameter
        for path, module in found_in(fields, torch.nn.Module).items()
        for name, parameter in module.named_parameters()
    }
    tensors = found_in(fields, torch.Tensor).items()
    trained = {path: one for path, one in tensors if one.requires_grad and one.is_leaf}
    return found | trained


def _is_structured(value: Any) -> bool:
    """Whether a value is saved by its fields."""
    return bool(field_names(value)) and not has_state(value)


def has_state(value: object) -> TypeGuard[Any]:
    """Whether something gives its state, and takes it back."""
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


def _is_generator(value: Any) -> bool:
    return isinstance(value, torch.Generator | random.Random) or hasattr(value, "bit_generator")


# ---------------------------------------------------------------- saving


def pack(fields: FieldValues) -> dict[str, Any]:
    """The values of fields as what `plain.encode` takes.

    Raises:
        CheckpointError: a value cannot be saved; the message names its place and the remedy.
    """
    names = {id(parameter): path for path, parameter in parameters_in(fields).items()}
    packer = _Packer(names)
    return {name: packer.pack(value, name) for name, value in _owners_first(fields)}


@define
class _Packer:
    parameters: dict[int, str]  # their paths
    seen: dict[int, str] = Factory(dict)  # the paths of objects that have been saved

    def pack(self, value: Any, path: str) -> Any:
        if isinstance(value, _PLAIN) or hasattr(value, "__array_interface__"):
            return value
        if isinstance(value, _CONTAINERS):
            return _like(
                value, [self.pack(part, f"{path}.{name}") for name, part in parts_of(value)]
            )
        kind = type(value).__name__
        if id(value) in self.seen:
            return ObjectState(kind, same_as=self.seen[id(value)])
        self.seen[id(value)] = path
        return ObjectState(kind, self._state(value, path))

    def _state(self, value: Any, path: str) -> Any:
        if isinstance(value, torch.nn.Module):
            gradients = gradients_of(dict(value.named_parameters()))
            return {**module_state(value), "gradients": gradients}
        if isinstance(value, torch.optim.Optimizer):
            members = members_of(value, self.parameters)
            return {"optimizer": dict(value.state_dict()), "members": members}
        if has_state(value):
            return value.state_dict()
        if _is_generator(value):
            return seeding.state_of(value)
        if names := field_names(value):
            return {name: self.pack(getattr(value, name), f"{path}.{name}") for name in names}
        raise CheckpointError(
            f"{path!r} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be"
            " saved; declare the field with not_saved() if the script makes it again, or give it"
            " state_dict() and load_state_dict(state)"
        )


def _like(container: Any, parts: list[Any]) -> Any:
    """Other parts in a container of the same kind; `plain.encode` refuses those of other kinds."""
    if type(container) in (list, tuple):
        return type(container)(parts)
    if isinstance(container, deque):
        return deque(parts, container.maxlen)
    if isinstance(container, dict):
        same = container.copy()  # a defaultdict stays one
        same.update(zip(container, parts, strict=True))
        return same
    return container


# ---------------------------------------------------------------- putting back


def unpack(
    fields: FieldValues, saved: FieldValues, was: GivenSettings, now: GivenSettings
) -> dict[str, Any]:
    """The values of fields, restored; objects are the fresh ones, in which their state is put back.

    Args:
        fields: those of a fresh context.
        saved: what `pack` gave.
        was: the settings of optimizers by path, as they were given in the run that was saved.
        now: as they are given in this one; those that differ are used.

    Raises:
        CheckpointError: a fresh context has not what a state could be put back into.
    """
    unpacker = _Unpacker(parameters_in(fields), was, now)
    restored = {
        name: unpacker.unpack(fields[name], value, name)
        for name, value in saved.items()
        if name in fields
    }
    for restore in unpacker.later:
        restore()
    return restored


@define
class _Unpacker:
    parameters: dict[str, Any]
    was: GivenSettings
    now: GivenSettings
    restored: dict[str, Any] = Factory(dict)  # objects by path
    later: list[Callable[[], None]] = Factory(list)  # optimizers, when all parameters are there

    def unpack(self, fresh: Any, saved: Any, path: str) -> Any:
        if isinstance(saved, ObjectState):
            return self._object(fresh, saved, path)
        if isinstance(saved, torch.Tensor):
            return _tensor(fresh, saved, path)
        if isinstance(saved, _CONTAINERS) and _holds_objects(saved):
            return self._container(fresh, saved, path)
        return saved

    def _container(self, fresh: Any, saved: Any, path: str) -> Any:
        there = {}
        if isinstance(fresh, _CONTAINERS):
            there = dict(parts_of(fresh))
        parts = [
            self.unpack(there.get(name), part, f"{path}.{name}") for name, part in parts_of(saved)
        ]
        return _like(saved, parts)

    def _object(self, fresh: Any, saved: ObjectState, path: str) -> Any:
        if saved.same_as:
            return self.restored[saved.same_as]
        if saved.kind != type(fresh).__name__:
            raise CheckpointError(
                f"{path!r} was a {saved.kind} in the run that was saved, and is"
                f" {_article(fresh)} in this context; make the context as it was made then, so that"
                " there is an object to take the state back"
            )
        for other, one in self.restored.items():
            if one is fresh:
                raise CheckpointError(
                    f"{path!r} is the same object as {other!r} in this context, and was not in the"
                    " run that was saved; make one for each"
                )
        self.restored[path] = fresh
        self._put_back(fresh, saved.state, path)
        return fresh

    def _put_back(self, fresh: Any, state: Any, path: str) -> None:
        if isinstance(fresh, torch.nn.Module):
            _restore_module(fresh, state, path)
        elif isinstance(fresh, torch.optim.Optimizer):
            self.later.append(lambda: self._restore_optimizer(fresh, state, path))
        elif has_state(fresh):
            fresh.load_state_dict(state)
        elif _is_generator(fresh):
            seeding.set_state_of(fresh, state)
        else:
            self._restore_fields(fresh, state, path)

    def _restore_optimizer(self, fresh: Any, state: Any, path: str) -> None:
        regroup(fresh, state["members"], self.parameters)
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        if members_of(fresh, names) != state["members"]:
            raise CheckpointError(
                f"{path!r} optimizes other parameters than in the run that was saved: they were"
                f" {_listed(state['members'])}, are {_listed(members_of(fresh, names))}"
            )
        restore_optimizer(fresh, state["optimizer"], self.was.get(path), self.now.get(path))
        # For schedules of torch, which warn where they step before the optimizer has
        fresh._opt_called = bool(fresh.state)

    def _restore_fields(self, fresh: Any, state: Any, path: str) -> None:
        for name in field_names(fresh):
            before = getattr(fresh, name)
            value = self.unpack(before, state.get(name), f"{path}.{name}")
            if value is before:
                continue
            try:
                setattr(fresh, name, value)
            except AttributeError as error:  # it is frozen
                if value != before:
                    raise CheckpointError(
                        f"{path!r} is frozen, so its {name!r} cannot be put back: it was"
                        f" {value!r:.80}, is {before!r:.80}"
                    ) from error


def _holds_objects(saved: Any) -> bool:
    """Whether an `ObjectState` or a tensor is somewhere within plain data."""
    if isinstance(saved, ObjectState | torch.Tensor):
        return True
    return isinstance(saved, _CONTAINERS) and any(_holds_objects(one) for _, one in parts_of(saved))


def _tensor(fresh: Any, saved: torch.Tensor, path: str) -> torch.Tensor:
    """A tensor where the fresh one is; one that is trained is the fresh one itself."""
    if not isinstance(fresh, torch.Tensor):
        return saved
    if not fresh.requires_grad:
        return saved.to(fresh.device)
    if not fits(fresh, saved):
        raise CheckpointError(
            f"{path!r} was {describe_tensor(saved)}, is {describe_tensor(fresh)} in this context"
        )
    with torch.no_grad():
        return fresh.copy_(saved)


def _restore_module(module: torch.nn.Module, state: Any, path: str) -> None:
    own, weights = module.state_dict(), state["weights"]
    for name in dict.fromkeys((*weights, *own)):
        if not fits(own.get(name), weights.get(name)):
            raise CheckpointError(
                f"{path}.{name} was {describe_tensor(weights.get(name))} in the run that was saved,"
                f" is {describe_tensor(own.get(name))} in this context"
            )
    module.load_state_dict(weights)
    restore_loose_buffers(module, state["loose"])
    restore_modes(module, state["evaluating"])
    parameters = dict(module.named_parameters())
    for name, parameter in parameters.items():
        parameter.requires_grad_(name not in state["frozen"])
    restore_gradients(parameters, state["gradients"])


def _article(fresh: Any) -> str:
    if fresh is None:
        return "nothing"
    return f"a {type(fresh).__name__}"


def _listed(members: Iterable[Iterable[str]]) -> str:
    names = [name or "one that is in no field" for group in members for name in group]
    if len(names) > 4:
        return f"{', '.join(names[:4])} and {len(names) - 4} more"
    return ", ".join(names)
