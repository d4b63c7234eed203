"""Putting a snapshot back into fresh objects, made as the first ones were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from statetrain.callback import Callback, name_of, unwrapped
from statetrain.checkpoints.describing import describe_run
from statetrain.checkpoints.differences import differences, fits, refuse
from statetrain.checkpoints.snapshot import (
    SAVED,
    Snapshot,
    loose_buffers,
    loss_modules,
    parameters_of,
    stray_parameters,
)
from statetrain.checkpoints.tallies import placed, restore_tally
from statetrain.compute import seeding
from statetrain.compute.parts import is_part, part_like
from statetrain.data.iterating import END, data_of, sets_of
from statetrain.data.splitting import split_again
from statetrain.errors import CheckpointError
from statetrain.machine.machine import Machine
from statetrain.standard.actions import AGAIN

if TYPE_CHECKING:
    from statetrain.context.context import Context

# What a file has to have to be taken for a run.
_NEEDED = (
    "state",
    "lifecycle",
    "fields",
    "seconds",
    "history",
    "records",
    "model",
    "optimizers",
    "members",
    "callbacks",
    "data",
    "random",
)


def restore(
    ctx: Context, machine: Machine, data: Snapshot, allow: bool | str | Collection[str] = ()
) -> None:
    """Puts a snapshot into a context; `machine.run(ctx, at=data["state"])` then resumes the run.

    Args:
        ctx: a `Context` that has not run, whose objects were made as the first ones were.
        machine: what will walk it.
        data: the snapshot. Its tensors may be taken over, so it serves once.
        allow: which differences are allowed, one of `CHANGES` or several; True for all. What fits
            is loaded, the rest stays as it was made: weights whose name or shape has changed, an
            optimizer of another class or for other parameters. Settings of an optimizer that are
            given differently now are used.

    Raises:
        CheckpointError: the run is another one; the message lists the differences.
    """
    for name in _NEEDED:
        if not isinstance(data, dict) or name not in data:
            raise CheckpointError(f"what was read is not a run: it has no {name!r}")
    ctx.given = ctx.given or describe_run(ctx, machine)
    changed = refuse(differences(ctx, machine, data), allow)
    _restore_progress(ctx, data)
    _restore_model(ctx, data)
    _restore_optimizers(ctx, data)
    _restore_gradients(ctx, data["gradients"], data.get("gradient_rows", 0))
    counts = ctx.news is None or ctx.news.group.rank == 0
    for name in ctx.tallies.keys() & data["tallies"].keys():
        restore_tally(ctx.tallies[name], data["tallies"][name], ctx.device, counts)
    _restore_callbacks(machine, data)
    _restore_position(ctx, data)
    keep_settings = "optimizer" not in changed
    ctx.reopening.append(lambda: _settle(ctx, machine, data, keep_settings))


def _restore_callbacks(machine: Machine, data: Snapshot) -> None:
    for callback, state in _match(machine.callbacks, data["callbacks"]):
        if state["own"] is not None and hasattr(callback, "load_state_dict"):
            callback.load_state_dict(state["own"])


def _settle(ctx: Context, machine: Machine, data: Snapshot, keep_settings: bool) -> None:
    """Restores what opening the scopes and callbacks may have changed.

    These are modes, settings and generators.
    """
    evaluating = set(data["model"]["evaluating"])
    model = ctx.accelerator.unwrap(ctx.model)
    for name, module in model.named_modules():
        module.training = name not in evaluating
    if keep_settings:
        _restore_settings(ctx, data)
    try:
        _restore_generators(ctx, machine, data)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, OverflowError) as error:
        raise CheckpointError(
            f"the state of a random generator cannot be put back: {type(error).__name__}: {error}"
        ) from error


def _restore_generators(ctx: Context, machine: Machine, data: Snapshot) -> None:
    states, model = data["random"], ctx.accelerator.unwrap(ctx.model)
    for name in sets_of(ctx):
        seeding.set_own_states(states["data"].get(name, {}), *seeding.owners_in(data_of(ctx, name)))
    seeding.set_own_states(states["model"], *model.modules())
    for name, state in states["streams"].items():
        ctx.streams[name].set_state(state)
    for callback, saved in _match(machine.callbacks, data["callbacks"]):
        seeding.set_own_states(saved["random"], callback)
    ctx.accelerator.set_run_states(ctx, states)


# ---------------------------------------------------------------- the context


def _restore_progress(ctx: Context, data: Snapshot) -> None:
    """Counters, history, records, clocks, and the split of the data."""
    fields, given_state = data["fields"], ctx.split_state
    for name in SAVED:
        if name in fields and name != "opt_given":
            setattr(ctx, name, fields[name])
    if given_state is not None and fields["split_state"] is not None and ctx.seed is None:
        generator = torch.Generator().set_state(fields["split_state"])
        split_again(ctx.train_data, ctx.valid_data, generator)
    ctx.loss_value = placed(ctx.loss_value, ctx.device)
    ctx.stop, ctx.interrupt = data["stop"], None
    ctx.history.rows[:] = data["history"]
    ctx._records = {name: list(values) for name, values in data["records"].items()}
    ctx.earlier_seconds = data["seconds"]["earlier"]
    ctx.started = ctx.clock() - data["seconds"]["fit"]


def _restore_position(ctx: Context, data: Snapshot) -> None:
    """The optimizer whose turn it is, the batch that was drawn ahead, and the places of loaders."""
    if ctx.opt_name in ctx.optimizers:
        ctx.opt = ctx.optimizers[ctx.opt_name]
    if ctx.opt_name in ctx.loss_fns:
        ctx.loss_fn = ctx.loss_fns[ctx.opt_name]
    saved = data["upcoming"]
    words = {"none": None, "end": END, "again": AGAIN}
    ctx.upcoming = words.get(saved["kind"], saved.get("batch"))
    ctx.loader_states = {
        name: state["state"] for name, state in data["data"].items() if state["state"] is not None
    }
    ctx.streams = {name: torch.Generator() for name in data["random"]["streams"]}


# ---------------------------------------------------------------- the model


def _restore_model(ctx: Context, data: Snapshot) -> None:
    model, saved = ctx.accelerator.unwrap(ctx.model), data["model"]
    own = model.state_dict()
    fitting = {
        name: part_like(value, own[name])
        for name, value in saved["weights"].items()
        if fits(own.get(name), value)
    }
    model.load_state_dict(fitting, strict=False)
    _restore_loose_buffers(model, saved["loose"])
    frozen = set(saved["frozen"])
    known = saved["weights"].keys() | _names(data["members"])
    for name, parameter in parameters_of(ctx).items():
        if name in known:
            parameter.requires_grad_(name not in frozen)
    for name, loss in loss_modules(ctx).items():
        if name in data["losses"]:
            loss.load_state_dict(data["losses"][name])
    with torch.no_grad():
        for name, parameter in stray_parameters(ctx).items():
            if fits(parameter, data["strays"].get(name)):
                parameter.copy_(part_like(data["strays"][name], parameter))


def _restore_loose_buffers(model: torch.nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    loose = dict(loose_buffers(model))
    for name in loose.keys() & saved.keys():
        value = saved[name]
        if loose[name].shape == value.shape:
            loose[name].copy_(value)
        else:  # it grows
            where, _, last = name.rpartition(".")
            setattr(model.get_submodule(where), last, value.to(loose[name]))


def _restore_gradients(ctx: Context, saved: dict[str, torch.Tensor], rows: int) -> None:
    """Puts gradients back; of those of several replicas this rank's own, or their mean."""
    sharing = ctx.accelerator.sharing
    for name, parameter in parameters_of(ctx).items():
        value = saved.get(name)
        if value is not None and rows:
            value = value.mean(0) if sharing is None else sharing.unstack(value)
        if value is None:
            parameter.grad = None
        else:
            held = part_like(value, parameter)
            parameter.grad = _laid_out_like(parameter, held).copy_(held)


def _laid_out_like(
    parameter: torch.Tensor, value: torch.Tensor, device: torch.device | None = None
) -> torch.Tensor:
    """An empty tensor with the type of a value and the layout of a parameter."""
    return torch.empty_like(parameter, dtype=value.dtype, device=device, requires_grad=False)


# ---------------------------------------------------------------- optimizers


def _restore_optimizers(ctx: Context, data: Snapshot) -> None:
    before, now = data["fields"]["opt_given"], ctx.opt_given
    for name, optimizer in ctx.optimizers.items():
        saved = data["optimizers"].get(name)
        if optimizer is not None and saved is not None:
            if _sizes(before.get(name)) == _sizes(now.get(name)):  # they were made alike
                _regroup(optimizer, data["members"].get(name, []), parameters_of(ctx))
            _restore_optimizer(optimizer, saved, before.get(name), now.get(name))
    if ctx.scaler is not None and data["scaler"] is not None:
        ctx.scaler.load_state_dict(data["scaler"])
    if ctx.mask is not None and data.get("mask") is not None:
        ctx.mask.load_state_dict(data["mask"])


def _sizes(described: Any) -> list[int]:
    """How many parameters an optimizer's groups had when it was made; empty if that is unknown."""
    if described is None:
        return []
    return [group["parameters"] for group in described["groups"]]


def _regroup(
    optimizer: Any, members: list[list[str]], parameters: Mapping[str, torch.nn.Parameter]
) -> None:
    """Gives an optimizer the groups of parameters that the saved one had grown or lost in its run.

    One that is for parameters that are not there is left as it was made.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    groups = optimizer.param_groups
    own = [[names.get(id(parameter)) for parameter in group["params"]] for group in groups]
    if own == members or not _names({"": members}) <= parameters.keys():
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


def _names(members: Mapping[str, list[list[str]]]) -> set[str]:
    return {name for groups in members.values() for group in groups for name in group}


def _restore_optimizer(optimizer: Any, saved: dict[str, Any], before: Any, now: Any) -> None:
    """Loads the state of an optimizer; leaves one that is for other parameters as it was made.

    Args:
        optimizer: the fresh one.
        saved: the state of the other.
        before: the settings with which that was made, as `settings_of` gives them; None if unknown.
        now: the settings of the fresh one.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not _same_parameters(optimizer, saved, parameters):
        return  # allowed by the user: it starts from scratch
    described = before is not None and now is not None
    if described and before["class"] != now["class"]:
        return
    given = [dict(group) for group in optimizer.param_groups]
    saved = {**saved, "state": _held_like(saved["state"], parameters)}
    optimizer.load_state_dict(saved)
    for i, group in enumerate(optimizer.param_groups):
        loaded = dict(group)
        group.update(given[i])  # a setting that is a tensor keeps its place
        _set_settings(group, loaded)
        if described and i < min(len(before["groups"]), len(now["groups"])):
            group.update(_changed_settings(given[i], before["groups"][i], now["groups"][i]))
    _undo_casts(optimizer, saved["state"], parameters)


def _undo_casts(
    optimizer: Any, states: Mapping[int, Mapping[str, Any]], parameters: list[torch.Tensor]
) -> None:
    """Gives back the type and the layout of what belongs to a parameter.

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
    found: dict[int, dict[str, Any]] = {}
    for i, state in states.items():
        own = parameters[i]
        found[i] = dict(state)
        for name, value in state.items():
            if not is_part(own) or not isinstance(value, torch.Tensor) or not value.ndim:
                continue
            if value.shape != own.shape:
                raise CheckpointError(
                    f"the optimizer keeps {name!r} of shape {tuple(value.shape)} for a parameter of"
                    f" shape {tuple(own.shape)}, of which each rank holds a part; resume this run"
                    " with st.DDP or in one process"
                )
            found[i][name] = part_like(value, own)
    return found


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


def _restore_settings(ctx: Context, data: Snapshot) -> None:
    for name, optimizer in ctx.optimizers.items():
        saved = data["optimizers"].get(name)
        if optimizer is None or saved is None:
            continue
        groups, settings = optimizer.param_groups, saved["param_groups"]
        if len(groups) == len(settings):  # else it was left as it was made
            for group, saved_group in zip(groups, settings, strict=True):
                _set_settings(group, saved_group)


def _set_settings(group: dict[str, Any], saved: Mapping[str, Any]) -> None:
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
        if isinstance(loaded, torch.Tensor):
            device = loaded.device
        else:
            device = parameter.device
        if saved.shape == parameter.shape:
            return _laid_out_like(parameter, saved, device).copy_(saved)
        return saved.to(device)
    if not isinstance(saved, list | tuple) or not isinstance(loaded, list | tuple):
        return saved
    if type(saved) not in (list, tuple) or len(saved) != len(loaded):
        return saved
    return type(saved)(
        _as_saved(one, other, parameter) for one, other in zip(loaded, saved, strict=True)
    )


# ---------------------------------------------------------------- callbacks


def _match(
    callbacks: Collection[Callback], saved: list[dict[str, Any]]
) -> Iterator[tuple[Callback, dict[str, Any]]]:
    """Callbacks with what was saved of them: the first of a class with the first, and so on."""
    states: dict[tuple[str, int], dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    for row in saved:
        seen[row["class"]] += 1
        states[row["class"], seen[row["class"]]] = row["state"]
    seen.clear()
    for callback in callbacks:
        name = name_of(callback)
        seen[name] += 1
        state = states.get((name, seen[name]))
        if state is not None:
            yield unwrapped(callback), state
