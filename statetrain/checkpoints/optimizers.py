"""The state of an optimizer: its groups, its settings, and what it remembers of each parameter."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch

from statetrain.checkpoints.modules import laid_out_like
from statetrain.compute.parts import is_part, part_like
from statetrain.errors import CheckpointError
from statetrain.standard.parameters import parameters_of

Members = list[list[str]]
"""The names of an optimizer's parameters, by group."""


def members_of(optimizer: Any, names: Mapping[int, str]) -> Members:
    """The parameters of an optimizer; a callback or an action may add some in a run.

    Args:
        optimizer: any.
        names: by the number of a parameter, `id(parameter)`; what has none is called "".
    """
    return [
        [names.get(id(parameter), "") for parameter in group["params"]]
        for group in optimizer.param_groups
    ]


def regroup(optimizer: Any, members: Members, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Gives an optimizer the groups of parameters that the saved one had grown or lost in its run.

    One that is for parameters that are not there is left as it was made.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    groups = optimizer.param_groups
    wanted_names = set(itertools.chain(*members))
    if members_of(optimizer, names) == members or not wanted_names <= parameters.keys():
        return
    for group in groups:
        group["params"] = []
    del groups[len(members) :]
    for i, group_members in enumerate(members):
        wanted = [parameters[name] for name in group_members]
        if i < len(groups):
            groups[i]["params"] = wanted
        else:
            optimizer.add_param_group({"params": wanted})


def restore_optimizer(optimizer: Any, saved: dict[str, Any], before: Any, now: Any) -> None:
    """Loads the state of an optimizer; leaves one that is for other parameters as it was made.

    Args:
        optimizer: the fresh one.
        saved: the state of the other.
        before: the settings with which that was made, as `settings_of` gives them; None if unknown.
        now: the settings of the fresh one.
    """
    parameters = parameters_of(optimizer)
    if not _same_parameters(optimizer, saved, parameters):
        return  # allowed by the user: it starts from scratch
    if before is None or now is None:  # then nothing is known to have changed
        before = now = {"class": "", "groups": []}
    if before["class"] != now["class"]:
        return
    given = [dict(group) for group in optimizer.param_groups]
    saved = {**saved, "state": _held_like(saved["state"], parameters)}
    optimizer.load_state_dict(saved)
    for i, group in enumerate(optimizer.param_groups):
        loaded = dict(group)
        group.update(given[i])  # a setting that is a tensor keeps its place
        set_settings(group, loaded)
        if i < min(len(before["groups"]), len(now["groups"])):
            group.update(_changed_settings(given[i], before["groups"][i], now["groups"][i]))
    _undo_casts(optimizer, saved["state"], parameters)


def _undo_casts(
    optimizer: Any, states: Mapping[int, Mapping[str, Any]], parameters: list[torch.Tensor]
) -> None:
    """Restores the type and the layout of what belongs to a parameter.

    Torch casts it to the parameter's type and lays it out as it was saved; both may differ from
    what it was.
    """
    for i, state in states.items():
        own = optimizer.state.get(parameters[i], {})
        for name, value in state.items():
            own[name] = _as_saved(own.get(name), value, parameters[i])


def _held_like(
    states: Mapping[int, Mapping[str, Any]], parameters: list[torch.Tensor]
) -> dict[int, dict[str, Any]]:
    """The states of an optimizer, of which this rank holds its parts where it does of weights.

    Raises:
        CheckpointError: there is one of another shape, so that it is not known which part.
    """
    return {
        i: {name: _value_like(name, value, parameters[i]) for name, value in state.items()}
        for i, state in states.items()
    }


def _value_like(name: str, value: Any, own: torch.Tensor) -> Any:
    if not is_part(own) or not isinstance(value, torch.Tensor) or not value.ndim:
        return value
    if value.shape != own.shape:
        raise CheckpointError(
            f"the optimizer keeps {name!r} of shape {tuple(value.shape)} for a parameter of shape"
            f" {tuple(own.shape)}, of which each rank holds a part; resume this run with st.DDP or"
            " in one process"
        )
    return part_like(value, own)


def _same_parameters(optimizer: Any, saved: dict[str, Any], parameters: list[torch.Tensor]) -> bool:
    """Whether an optimizer can load a saved state: groups of the same sizes, tensors that fit."""
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != [len(group["params"]) for group in saved["param_groups"]]:
        return False
    return all(_state_fits(parameters[i], state) for i, state in saved["state"].items())


def _state_fits(parameter: torch.Tensor, state: Mapping[str, Any]) -> bool:
    """Whether what an optimizer keeps in the shape of its parameter has the shape of this one."""
    for name in ("exp_avg", "momentum_buffer", "square_avg", "sum"):
        value = state.get(name)
        if isinstance(value, torch.Tensor) and value.shape != parameter.shape:
            return False
    return True


def _changed_settings(
    given: Mapping[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings that are given differently now than before."""
    return {
        key: value
        for key, value in given.items()
        if key != "params" and before.get(key) != now.get(key)
    }


def set_settings(group: dict[str, Any], saved: Mapping[str, Any]) -> None:
    """Puts back the settings of a group of parameters."""
    for key, value in saved.items():
        if key == "params":
            continue
        if isinstance(value, torch.Tensor) and isinstance(group.get(key), torch.Tensor):
            value = value.to(group[key])
        group[key] = value


def _as_saved(loaded: Any, saved: Any, parameter: torch.Tensor) -> Any:
    """A value of an optimizer's state with its saved type, in the layout of its parameter."""
    if isinstance(saved, torch.Tensor):
        device = getattr(loaded, "device", parameter.device)
        if saved.shape == parameter.shape:
            return laid_out_like(parameter, saved, device).copy_(saved)
        return saved.to(device)
    if not isinstance(saved, list | tuple) or not isinstance(loaded, list | tuple):
        return saved
    if type(saved) not in (list, tuple) or len(saved) != len(loaded):
        return saved
    return type(saved)(
        _as_saved(one, other, parameter) for one, other in zip(loaded, saved, strict=True)
    )
