"""Putting a snapshot back into fresh objects, made as the first ones were."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch

from statetrain.callback import Callback, name_of, unwrapped
from statetrain.checkpoints.describing import describe_run
from statetrain.checkpoints.differences import differences, refuse
from statetrain.checkpoints.frozen import left_out_of
from statetrain.checkpoints.modules import (
    fits,
    restore_gradients,
    restore_loose_buffers,
    restore_modes,
)
from statetrain.checkpoints.objects import custom_values, unpack
from statetrain.checkpoints.optimizers import regroup, restore_optimizer, set_settings
from statetrain.checkpoints.snapshot import (
    Snapshot,
    device_of,
    loss_modules,
    parameters_of,
    stray_parameters,
)
from statetrain.checkpoints.tallies import placed, restore_tally
from statetrain.compute import seeding
from statetrain.compute.parts import part_like
from statetrain.context.context import Context
from statetrain.context.fields import saved_fields
from statetrain.context.position import Position
from statetrain.data.iterating import END, data_of, sets_of
from statetrain.data.splitting import split_again
from statetrain.errors import CheckpointError
from statetrain.machine.machine import Machine
from statetrain.standard.actions import AGAIN

# What a file has to have to be taken for a run; the second ones for one of supervised training.
_NEEDED = ("state", "lifecycle", "fields", "seconds", "history", "records", "callbacks", "random")
_TRAINING = ("model", "optimizers", "members", "data")


def restore(
    ctx: Position, machine: Machine, data: Snapshot, allow: bool | str | Collection[str] = ()
) -> None:
    """Puts a snapshot into a context; `machine.run(ctx, at=data["state"])` then resumes the run.

    Args:
        ctx: a context that has not run, whose objects were made as the first ones were.
        machine: what will walk it.
        data: the snapshot. Its tensors may be taken over, so it serves once.
        allow: which differences are allowed, one of `CHANGES` or several; True for all. What fits
            is loaded, the rest stays as it was made: weights whose name or shape has changed, an
            optimizer of another class or for other parameters. Settings of an optimizer that are
            given differently now are used, and so are fields of a custom context.

    Raises:
        CheckpointError: the run is another one; the message lists the differences.
    """
    _check_complete(ctx, data)
    ctx.given = ctx.given or describe_run(ctx, machine)
    changed = refuse(differences(ctx, machine, data), allow)
    _restore_progress(ctx, data)
    _restore_custom(ctx, data)
    if isinstance(ctx, Context):
        _restore_training(ctx, data)
    _restore_callbacks(machine, data)
    if isinstance(ctx, Context):
        _restore_position(ctx, data)
    keep_settings = "optimizer" not in changed
    ctx.reopening.append(lambda: _settle(ctx, machine, data, keep_settings))


def _restore_callbacks(machine: Machine, data: Snapshot) -> None:
    for callback, state in _match(machine.callbacks, data["callbacks"]):
        if state["own"] is not None and hasattr(callback, "load_state_dict"):
            callback.load_state_dict(state["own"])


def _check_complete(ctx: Position, data: Any) -> None:
    needed = [*_NEEDED]
    if isinstance(ctx, Context):
        needed += _TRAINING
    for name in needed:
        if not isinstance(data, dict) or name not in data:
            raise CheckpointError(f"what was read is not a run: it has no {name!r}")


def _restore_training(ctx: Context, data: Snapshot) -> None:
    """Restores what a `Context` has beyond a `Position`."""
    _restore_model(ctx, data)
    _restore_optimizers(ctx, data)
    _restore_gradients(ctx, data["gradients"], data.get("gradient_rows", 0))
    counts = ctx.news is None or ctx.news.group.rank == 0
    for name in ctx.tallies.keys() & data["tallies"].keys():
        restore_tally(ctx.tallies[name], data["tallies"][name], ctx.device, counts)


def _settle(ctx: Position, machine: Machine, data: Snapshot, keep_settings: bool) -> None:
    """Restores what opening the scopes and callbacks may have changed.

    These are modes, settings and generators.
    """
    if isinstance(ctx, Context):
        restore_modes(ctx.accelerator.unwrap(ctx.model), data["model"]["evaluating"])
        if keep_settings:
            _restore_settings(ctx, data)
    try:
        for callback, saved in _match(machine.callbacks, data["callbacks"]):
            seeding.set_own_states(saved["random"], callback)
        if isinstance(ctx, Context):
            _restore_generators(ctx, data)
        else:
            seeding.set_states(data["random"], device_of(ctx))
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, OverflowError) as error:
        raise CheckpointError(
            f"the state of a random generator cannot be put back: {type(error).__name__}: {error}"
        ) from error


def _restore_generators(ctx: Context, data: Snapshot) -> None:
    states, model = data["random"], ctx.accelerator.unwrap(ctx.model)
    for name in sets_of(ctx):
        seeding.set_own_states(states["data"].get(name, {}), *seeding.owners_in(data_of(ctx, name)))
    seeding.set_own_states(states["model"], *model.modules())
    for name, state in states["streams"].items():
        ctx.streams[name].set_state(state)
    ctx.accelerator.set_run_states(ctx, states)


# ---------------------------------------------------------------- the context


def _restore_progress(ctx: Position, data: Snapshot) -> None:
    """Counters, history, records and clocks."""
    fields, given_state = data["fields"], getattr(ctx, "split_state", None)
    for name in saved_fields(ctx.__class__):
        if name in fields and name != "opt_given":
            setattr(ctx, name, fields[name])
    if isinstance(ctx, Context):
        _restore_split(ctx, given_state)
        ctx.loss_value = placed(ctx.loss_value, ctx.device)
    ctx.stop, ctx.interrupt = data["stop"], None
    ctx.history.rows[:] = data["history"]
    ctx._records = {name: list(values) for name, values in data["records"].items()}
    ctx.earlier_seconds = data["seconds"]["earlier"]
    ctx.started = ctx.clock() - data["seconds"]["fit"]


def _restore_split(ctx: Context, given: Any) -> None:
    """Divides the data again as the run that was saved did."""
    if given is not None and ctx.split_state is not None and ctx.seed is None:
        generator = torch.Generator().set_state(ctx.split_state)
        split_again(ctx.train_data, ctx.valid_data, generator)


def _restore_custom(ctx: Position, data: Snapshot) -> None:
    """The fields of a custom context; plain values that are given differently now stay as given."""
    was, now = data.get("given") or {}, ctx.given
    settings = was.get("context", {})
    saved = dict(data.get("custom", {}))
    for name, value in now.get("context", {}).items():
        if settings.get(name, value) != value:
            saved.pop(name, None)
    optimizers = was.get("optimizers", {}), now.get("optimizers", {})
    for name, value in unpack(custom_values(ctx), saved, *optimizers).items():
        setattr(ctx, name, value)


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
    restore_loose_buffers(model, saved["loose"])
    frozen = set(saved["frozen"])
    known = saved["weights"].keys() | left_out_of(data).keys() | _names(data["members"])
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


def _restore_gradients(ctx: Context, saved: Mapping[str, torch.Tensor], rows: int) -> None:
    """Restores gradients; of those of several replicas this rank's own, or their mean."""
    if rows:
        saved = {name: _own_gradient(ctx, value) for name, value in saved.items()}
    restore_gradients(parameters_of(ctx), saved)


def _own_gradient(ctx: Context, stacked: torch.Tensor) -> torch.Tensor:
    sharing = ctx.accelerator.sharing
    if sharing is None:
        return stacked.mean(0)
    own: torch.Tensor = sharing.unstack(stacked)
    return own


# ---------------------------------------------------------------- optimizers


def _restore_optimizers(ctx: Context, data: Snapshot) -> None:
    before, now = data["fields"]["opt_given"], ctx.opt_given
    for name, optimizer, saved in _saved_optimizers(ctx, data):
        if _sizes(before.get(name)) == _sizes(now.get(name)):  # they were made alike
            regroup(optimizer, data["members"].get(name, []), parameters_of(ctx))
        restore_optimizer(optimizer, saved, before.get(name), now.get(name))
    if ctx.scaler is not None and data["scaler"] is not None:
        ctx.scaler.load_state_dict(data["scaler"])
    if ctx.mask is not None and data.get("mask") is not None:
        ctx.mask.load_state_dict(data["mask"])


def _saved_optimizers(ctx: Context, data: Snapshot) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """The optimizers that were saved and that this run has, each with its state."""
    for name, optimizer in ctx.optimizers.items():
        if name in data["optimizers"]:
            yield name, optimizer, data["optimizers"][name]


def _sizes(described: Any) -> list[int]:
    """How many parameters an optimizer's groups had when it was made; empty if that is unknown."""
    if described is None:
        return []
    return [group["parameters"] for group in described["groups"]]


def _names(members: Mapping[str, list[list[str]]]) -> set[str]:
    return set(itertools.chain(*itertools.chain(*members.values())))


def _restore_settings(ctx: Context, data: Snapshot) -> None:
    for _, optimizer, saved in _saved_optimizers(ctx, data):
        groups, settings = optimizer.param_groups, saved["param_groups"]
        if len(groups) == len(settings):  # else it was left as it was made
            for group, saved_group in zip(groups, settings, strict=True):
                set_settings(group, saved_group)


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
