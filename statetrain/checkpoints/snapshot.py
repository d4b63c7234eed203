"""Snapshots: everything about a run that matters, as plain data and tensors.

A snapshot is taken at an anchor, where no autograd graph is alive and all progress is in the
context. Put back into fresh objects, made as the first ones were (`restoring.py`), it lets the run
resume as if it had never been cut: weights to the last bit, the order of the samples, the means of
an epoch that was under way.

Each field of the context says whether it is saved as it is, saved in another form, or made again.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Any

import torch

from statetrain.callback import Callback, name_of, unwrapped
from statetrain.checkpoints import plain
from statetrain.checkpoints.modules import gradients_of, module_state
from statetrain.checkpoints.objects import custom_values, found_in, has_state, pack
from statetrain.checkpoints.optimizers import Members, members_of
from statetrain.checkpoints.settings import lenient
from statetrain.checkpoints.tallies import tally_states
from statetrain.compute import seeding
from statetrain.compute.keyed import order_of
from statetrain.context.context import Context
from statetrain.context.fields import saved_fields
from statetrain.context.position import Position
from statetrain.contracts.declaring import access_of
from statetrain.data.epochs import listening_in
from statetrain.data.iterating import END, data_of, sets_of
from statetrain.data.sizes import length
from statetrain.errors import CheckpointError, LifecycleError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.registry import fingerprint, to_dict
from statetrain.lifecycle.state import State
from statetrain.losses.losses import modules_by_name
from statetrain.machine.machine import Machine
from statetrain.naming import label_of

Snapshot = dict[str, Any]

# ---------------------------------------------------------------- taking


def snapshot(ctx: Position, machine: Machine, *, logs: bool = True) -> Snapshot:
    """Everything about a run that matters, at the anchor where it stands.

    The tensors are the run's own, not copies: write or copy them before it continues.
    Several ranks take it together: what was summed up so far is that of all.

    Args:
        ctx: the context; what it has beyond a `Position` is a `Context`'s, or your own fields.
        machine: what walks it.
        logs: whether all rows and records are in it; else only the last row, which may still
            change.
    """
    data = {
        "state": ctx.state,
        "lifecycle": describe_lifecycle(machine.lifecycle),
        "versions": {"torch": str(torch.__version__), "python": platform.python_version()},
        "given": ctx.given,
        "fields": {name: getattr(ctx, name) for name in saved_fields(ctx.__class__)},
        "custom": pack(custom_values(ctx)),
        "stop": _stop_request(ctx),
        "seconds": {"earlier": ctx.earlier_seconds, "fit": ctx.fit_seconds},
        **_logged(ctx, logs),
        "callbacks": [
            {"class": name_of(callback), "state": _callback_state(unwrapped(callback))}
            for callback in machine.callbacks
        ],
    }
    if isinstance(ctx, Context):
        return data | _training_state(ctx, machine)
    return data | {"random": seeding.states(device_of(ctx))}


def _training_state(ctx: Context, machine: Machine) -> Snapshot:
    """What a `Context` has beyond a `Position`."""
    sets = sets_of(ctx)
    rows, gradients = _gradients(ctx, machine.lifecycle)
    return {
        "seed": ctx.seed,
        "hparams": {"model": lenient(ctx.hparams), "optimizer": lenient(ctx.opt_hparams)},
        "model": _model_state(ctx),
        "losses": {name: loss.state_dict() for name, loss in loss_modules(ctx).items()},
        "optimizers": {name: _optimizer_state(name, one) for name, one in ctx.optimizers.items()},
        "members": _members(ctx),
        "strays": {name: parameter.detach() for name, parameter in stray_parameters(ctx).items()},
        "gradients": gradients,
        "gradient_rows": rows,
        "scaler": _state_of(ctx.scaler),
        "mask": _state_of(ctx.mask),
        "tallies": tally_states(ctx),
        "data": {name: _data_state(ctx, name) for name in sets if data_of(ctx, name) is not None},
        "upcoming": _upcoming(ctx),
        "random": _random_states(ctx, sets),
    }


def join_in(ctx: Position, machine: Machine) -> None:
    """What other ranks do while rank 0 takes a snapshot, for which it needs something of each."""
    assert isinstance(ctx, Context)  # only those have other ranks
    _gradients(ctx, machine.lifecycle)
    tally_states(ctx)


def _stop_request(ctx: Position) -> str | None:
    """A signal's request is over when the run resumes; a callback's is part of the run."""
    if ctx.stop == ctx.interrupt:
        return None
    return ctx.stop


def _logged(ctx: Position, whole: bool) -> dict[str, Any]:
    """Rows and records; of the rows only the last, and no records, unless the whole is wanted."""
    if not whole:
        return {"history": ctx.history.rows[-1:], "records": {}}
    records = {name: list(values) for name, values in ctx.records.items()}
    return {"history": list(ctx.history.rows), "records": records}


def _state_of(thing: Any) -> dict[str, Any] | None:
    if thing is None:
        return None
    return dict(thing.state_dict())


def _optimizer_state(name: str, optimizer: Any) -> dict[str, Any] | None:
    try:
        return _state_of(optimizer)
    except KeyError as error:  # torch counts the parameters of the groups, and looks them up
        raise CheckpointError(
            f"optimizer {name!r} has a state of a parameter that is in none of its groups any more,"
            " so it cannot be saved; where you take one out, say: del"
            " optimizer.state[parameter]"
        ) from error


def device_of(ctx: Position) -> torch.device | None:
    """The device whose generator a custom context draws from: that of its first module."""
    for module in found_in(custom_values(ctx), torch.nn.Module).values():
        for parameter in module.parameters():
            device: torch.device = parameter.device
            return device
    return None


def _random_states(ctx: Context, sets: Iterable[str]) -> dict[str, Any]:
    """The states of all generators: the shared ones, and those that data, model and run have."""
    return {
        **ctx.accelerator.run_states(ctx),
        "data": {name: seeding.own_states(*seeding.owners_in(data_of(ctx, name))) for name in sets},
        "model": seeding.own_states(*ctx.accelerator.unwrap(ctx.model).modules()),
        "streams": {name: generator.get_state() for name, generator in ctx.streams.items()},
    }


def describe_lifecycle(life: Lifecycle) -> dict[str, Any]:
    """A lifecycle as plain data, for comparing: its states and arrows as text, and its fingerprint.

    One with functions that have no name has no fingerprint; only the texts are compared then.
    """
    life = life.alone or life  # several ranks train what one process would
    states = [_describe_state(state) for state in life.states]
    try:
        mark = fingerprint(life)
    except LifecycleError:
        mark = ""
    return {
        "name": life.name,
        "fingerprint": mark,
        "states": states,
        "arrows": [str(arrow) for arrow in life.transitions],
        "parts": _describe_parts(life),
    }


def _describe_parts(life: Lifecycle) -> dict[str, Any]:
    """The guards, actions and effects with their parameters, by state and arrow."""
    try:
        data = to_dict(life)
    except LifecycleError:  # one has no name
        return {}
    named = {f"state {row['name']}": row for row in data["states"]}
    for row in data["transitions"]:
        ends = place = f"{row['source']} -> {row['dest']}"
        number = 1
        while place in named:  # there may be several between two states
            number += 1
            place = f"{ends}, arrow {number}"
        named[place] = row
    return {
        place: {key: part for key, part in row.items() if isinstance(part, dict)}
        for place, row in named.items()
    }


def _describe_state(state: State) -> str:
    action, anchor = "no action", ""
    if state.action is not None:
        action = label_of(state.action)
    if state.anchor:
        anchor = ", anchor"
    return f"{state.name} within {state.within or 'nothing'}: {action}{anchor}"


# ---------------------------------------------------------------- the model and what trains it


def _model_state(ctx: Context) -> dict[str, Any]:
    frozen = [name for name, one in parameters_of(ctx).items() if not one.requires_grad]
    return {**module_state(ctx.accelerator.unwrap(ctx.model)), "frozen": frozen}


def loss_modules(ctx: Context) -> dict[str, torch.nn.Module]:
    """The losses that are modules, and the modules in others, by name."""
    return modules_by_name(ctx.loss_fns)


def parameters_of(ctx: Context) -> dict[str, torch.nn.Parameter]:
    """All parameters that may have gradients, each under one name."""
    named = dict(ctx.accelerator.unwrap(ctx.model).named_parameters())
    for loss_name, loss in loss_modules(ctx).items():
        named |= {
            f"losses.{loss_name}.{name}": parameter for name, parameter in loss.named_parameters()
        }
    return {**named, **stray_parameters(ctx)}


def stray_parameters(ctx: Context) -> dict[str, torch.nn.Parameter]:
    """The parameters of optimizers that belong to neither the model nor a loss."""
    modules = (ctx.model, *loss_modules(ctx).values())
    own = {id(parameter) for module in modules for parameter in module.parameters()}
    return {
        f"{name}.{i}.{j}": parameter
        for name, optimizer in ctx.optimizers.items()
        for i, group in enumerate(optimizer.param_groups)
        for j, parameter in enumerate(group["params"])
        if id(parameter) not in own
    }


def _members(ctx: Context) -> dict[str, Members]:
    """The names of the parameters of each optimizer, by group."""
    names = {id(parameter): name for name, parameter in parameters_of(ctx).items()}
    return {name: members_of(one, names) for name, one in ctx.optimizers.items()}


def _gradients(ctx: Context, life: Lifecycle) -> tuple[int, dict[str, torch.Tensor]]:
    """The gradients, where the next batch does not begin by clearing them.

    Replicas have not reduced them in the middle of a window: then there is a row of each rank, and
    the number of rows comes first, else 0. Ranks other than the first get nothing.
    """
    declared = [access_of(state.action) for state in life.states]
    clears = any(own is not None and "grads" in own.drops for own in declared)
    if clears and not ctx.pending:
        return 0, {}
    own = gradients_of(parameters_of(ctx))
    sharing = ctx.accelerator.sharing
    if ctx.news is None or sharing is None or sharing.shards:
        return 0, own
    return sharing.group.size, sharing.stack(own)


# ---------------------------------------------------------------- callbacks and data


def _callback_state(callback: Callback) -> dict[str, Any]:
    """What a callback gives to be saved, and the states of generators that it has."""
    own = None
    if has_state(callback):
        own = callback.state_dict()
    return {"own": own, "random": seeding.own_states(callback)}


def _data_state(ctx: Context, name: str) -> dict[str, Any]:
    """The sizes of a set of data, and what a loader that keeps its position says of it."""
    data = data_of(ctx, name)
    state = None
    # A DataLoader with a state is asked in the middle of an epoch only: of one that has ended, some
    # drop the next.
    askable = _under_way(ctx, name) or not isinstance(data, torch.utils.data.DataLoader)
    if has_state(data) and askable:
        state = data.state_dict()
    if state is not None and name == "train" and _upcoming(ctx)["kind"] == "again":
        raise CheckpointError(
            f"a batch that was drawn ahead is a {type(ctx.upcoming).__name__}, which cannot be"
            " saved, and a loader with a state of its own cannot draw it again; give the loader a"
            " length, or let it yield tensors in tuples, lists and dicts"
        )
    return {**data_sizes(data), "state": state}


def data_sizes(loader: Any) -> dict[str, int | None]:
    """How many batches a loader gives, and how many samples its dataset has; None where unknown."""
    batches = length(loader)
    sampler = getattr(order_of(loader), "sampler", None)
    if [*listening_in(loader), *listening_in(sampler)]:
        batches = None  # it may differ from epoch to epoch
    return {"batches": batches, "samples": length(getattr(loader, "dataset", None))}


def _under_way(ctx: Context, name: str) -> bool:
    """Whether batches of a set have been drawn, and more may come."""
    if name == "train":
        begun = bool(ctx.iter) or ctx.upcoming is not None
        ended = ctx.exhausted or ctx.upcoming is END
        return ctx.iterator is not None and begun and not ended
    begun = bool(ctx.valid_iter) and ctx.tally is not None and ctx.tally.set == name
    return ctx.valid_iterator is not None and begun


def _upcoming(ctx: Context) -> dict[str, Any]:
    """The batch that was drawn ahead; if it is not plain data, that it has to be drawn again."""
    if ctx.upcoming is None:
        return {"kind": "none"}
    if ctx.upcoming is END:
        return {"kind": "end"}
    try:
        plain.encode(ctx.upcoming)
    except CheckpointError:
        return {"kind": "again"}
    return {"kind": "batch", "batch": ctx.upcoming}
