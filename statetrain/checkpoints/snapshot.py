"""Snapshots: everything about a run that matters, as plain data and tensors; and putting it back.

A snapshot is taken at an anchor, where no autograd graph is alive and all progress is in the
context. What is put back into fresh objects, made as the first ones were, lets the run go on as if
it had never been cut: weights to the last bit, the order of the samples, the means of an epoch that
was under way.

Each field of the context says whether it is saved as it is, saved in a form of its own, or made
anew.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch

from statetrain.callback import Callback, name_of, unwrapped
from statetrain.checkpoints import plain
from statetrain.compute import seeding
from statetrain.context.context import Context
from statetrain.context.fields import Fact, fields_with
from statetrain.data.iterating import END, data_of, sets_of
from statetrain.data.sizes import length
from statetrain.data.splitting import split_again
from statetrain.errors import CheckpointError, LifecycleError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.registry import fingerprint
from statetrain.losses.losses import modules_of
from statetrain.losses.metrics import MeanOf, Metric, MetricObject, Tally
from statetrain.machine.machine import Machine
from statetrain.naming import label_of
from statetrain.standard.actions import AGAIN, open_batch, open_shared_batch

Snapshot = dict[str, Any]

_SAVED = fields_with(Context, Fact.SAVED)

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
    "callbacks",
    "data",
    "random",
)

CHANGES = ("lifecycle", "model", "optimizer", "data", "seed")
"""What may differ when a run is continued, if it is allowed."""


# ---------------------------------------------------------------- taking


def snapshot(ctx: Context, machine: Machine) -> Snapshot:
    """Everything about a run that matters, at the anchor where it stands.

    The tensors are the run's own, not copies: write them down, or copy them, before it goes on.

    Args:
        ctx: a `Context`.
        machine: what walks it.
    """
    return {
        "state": ctx.state,
        "lifecycle": described(machine.lifecycle),
        "versions": {"torch": str(torch.__version__), "python": platform.python_version()},
        "seed": ctx.seed,
        "fields": {name: getattr(ctx, name) for name in _SAVED},
        # A signal's request is over when the run goes on; a callback's is part of the run.
        "stop": None if ctx.stop == ctx.interrupt else ctx.stop,
        "seconds": {"earlier": ctx.earlier_seconds, "fit": ctx.fit_seconds},
        "hparams": {"model": _lenient(ctx.hparams), "optimizer": _lenient(ctx.opt_hparams)},
        "history": list(ctx.history.rows),
        "records": {name: list(values) for name, values in ctx.records.items()},
        "model": _model_state(ctx),
        "losses": {name: loss.state_dict() for name, loss in _loss_modules(ctx).items()},
        "optimizers": {
            name: _optimizer_state(optimizer) for name, optimizer in ctx.optimizers.items()
        },
        "strays": {name: parameter.detach() for name, parameter in _strays(ctx).items()},
        "gradients": _gradients(ctx, machine.lifecycle),
        "scaler": None if ctx.scaler is None else ctx.scaler.state_dict(),
        "mask": None if ctx.mask is None else ctx.mask.state_dict(),
        "tallies": {name: _tally_state(tally) for name, tally in ctx.tallies.items()},
        "callbacks": [
            {"class": name_of(callback), "state": _callback_state(unwrapped(callback))}
            for callback in machine.callbacks
        ],
        "data": {
            name: _data_state(ctx, name) for name in sets_of(ctx) if data_of(ctx, name) is not None
        },
        "upcoming": _upcoming(ctx),
        "random": {
            **ctx.accelerator.random_states(),
            "data": {
                name: seeding.own_states(*seeding.owners_in(data_of(ctx, name)))
                for name in sets_of(ctx)
            },
            "model": seeding.own_states(*ctx.accelerator.unwrap(ctx.model).modules()),
            "streams": {name: generator.get_state() for name, generator in ctx.streams.items()},
        },
    }


def described(life: Lifecycle) -> dict[str, Any]:
    """What a lifecycle is, for comparing: its states and arrows in words, and its fingerprint.

    One with functions that have no name has no fingerprint; it is compared in words alone.
    """
    states = [
        f"{state.name} within {state.within or 'nothing'}: {_word(state.action)}"
        + (", anchor" if state.anchor else "")
        for state in life.states
    ]
    try:
        mark = fingerprint(life)
    except LifecycleError:
        mark = ""
    return {
        "name": life.name,
        "fingerprint": mark,
        "states": states,
        "arrows": [str(arrow) for arrow in life.transitions],
    }


def _word(action: Any) -> str:
    return label_of(action) if action is not None else "no action"


def _lenient(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as they were given; in words where they are more than plain data."""
    found: dict[str, Any] = {}
    for name, value in hparams.items():
        try:
            plain.encode(value)
            # As it is now
            found[str(name)] = value.tolist() if isinstance(value, torch.Tensor) else value
        except CheckpointError:
            found[str(name)] = {"words": f"{value!r:.200}"}
    return found


# ---------------------------------------------------------------- the model and what trains it


def _model_state(ctx: Context) -> dict[str, Any]:
    model = ctx.accelerator.unwrap(ctx.model)
    return {
        "weights": dict(model.state_dict()),
        "loose": dict(_loose(model)),
        "frozen": [
            name for name, parameter in model.named_parameters() if not parameter.requires_grad
        ],
        "evaluating": [name for name, module in model.named_modules() if not module.training],
    }


def _loose(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The buffers that the model's own state leaves out."""
    saved = model.state_dict().keys()
    return (
        (name, buffer)
        for name, buffer in model.named_buffers(remove_duplicate=False)
        if name not in saved
    )


def _loss_modules(ctx: Context) -> dict[str, torch.nn.Module]:
    return {
        f"{name}.{part}" if part else name: module
        for name, loss in ctx.loss_fns.items()
        for part, module in modules_of(loss).items()
    }


def _parameters(ctx: Context) -> dict[str, torch.nn.Parameter]:
    """All parameters that may have gradients, each under one name."""
    named = dict(ctx.accelerator.unwrap(ctx.model).named_parameters())
    for loss_name, loss in _loss_modules(ctx).items():
        named |= {
            f"losses.{loss_name}.{name}": parameter for name, parameter in loss.named_parameters()
        }
    return {**named, **_strays(ctx)}


def _strays(ctx: Context) -> dict[str, torch.nn.Parameter]:
    """The parameters of optimizers that belong to neither the model nor a loss."""
    own = {
        id(parameter)
        for module in (ctx.model, *_loss_modules(ctx).values())
        for parameter in module.parameters()
    }
    return {
        f"{name}.{i}.{j}": parameter
        for name, optimizer in ctx.optimizers.items()
        for i, group in enumerate(optimizer.param_groups if optimizer is not None else ())
        for j, parameter in enumerate(group["params"])
        if id(parameter) not in own
    }


def _gradients(ctx: Context, life: Lifecycle) -> dict[str, torch.Tensor]:
    """The gradients, where the next batch does not begin by clearing them."""
    clears = any(state.action in (open_batch, open_shared_batch) for state in life.states)
    if clears and not ctx.pending:
        return {}
    return {
        name: parameter.grad
        for name, parameter in _parameters(ctx).items()
        if parameter.grad is not None
    }


def _optimizer_state(optimizer: Any) -> dict[str, Any] | None:
    return None if optimizer is None else dict(optimizer.state_dict())


def settings_of(optimizers: Mapping[str, Any]) -> dict[str, Any]:
    """What optimizers are, before a run: class, and settings and number of parameters by group."""
    return {
        name: {
            "class": type(optimizer).__name__,
            "groups": [
                {
                    **_lenient({key: value for key, value in group.items() if key != "params"}),
                    "parameters": len(group["params"]),
                }
                for group in optimizer.param_groups
            ],
        }
        for name, optimizer in optimizers.items()
        if optimizer is not None
    }


# -------------------- what is summed up, callbacks, data


def _tally_state(tally: Tally) -> dict[str, Any]:
    begun = any(mean.count for mean in tally.losses.values())
    return {
        "losses": {name: (mean.total, mean.count) for name, mean in tally.losses.items()},
        # A metric that has seen nothing yet is as good as a new one.
        "metrics": (
            {name: _metric_state(metric) for name, metric in tally.metrics.items()} if begun else {}
        ),
    }


def _metric_state(metric: MetricObject) -> dict[str, Any]:
    if isinstance(metric, Metric):
        return _metric_state(metric.state)
    if isinstance(metric, MeanOf):
        return {"total": metric.mean.total, "count": metric.mean.count}
    if parts := _measuring(metric):
        return {
            name: {"states": dict(part.metric_state), "updates": part.update_count}
            for name, part in parts.items()
        }
    if hasattr(metric, "state_dict") and hasattr(metric, "load_state_dict"):
        return dict(metric.state_dict())
    # Functions do not change
    found = {
        name: value
        for name, value in getattr(metric, "__dict__", {}).items()
        if not callable(value)
    }
    try:
        plain.encode(found)
    except CheckpointError as error:
        found, why = {}, f": {error}"
    else:
        why = ""
    if not found:
        raise CheckpointError(
            f"metric {type(metric).__name__} cannot be saved within an epoch; give it state_dict()"
            f" and load_state_dict(state){why}"
        )
    return found


def _set_metric_state(metric: MetricObject, state: dict[str, Any], device: torch.device) -> None:
    if isinstance(metric, Metric):
        _set_metric_state(metric.state, state, device)
    elif isinstance(metric, MeanOf):
        metric.mean.total, metric.mean.count = (
            placed(state["total"], device),
            placed(state["count"], device),
        )
    elif parts := _measuring(metric):
        for name, part in parts.items():
            for field, value in placed(state[name]["states"], device).items():
                setattr(part, field, value)
            part._update_count, part._computed = state[name]["updates"], None
    elif hasattr(metric, "load_state_dict"):
        metric.load_state_dict(placed(state, device))
    else:
        vars(metric).update(placed(state, device))


def _measuring(metric: Any) -> dict[str, Any]:
    """The torchmetrics objects that a metric is made of, itself included; their own `state_dict` leaves their state out."""
    if not isinstance(metric, torch.nn.Module):
        return {}
    if hasattr(metric, "compute_groups"):
        # A collection lets metrics share states; this gives each its own
        list(metric.items())  # type: ignore[operator]
    return {
        name: module
        for name, module in metric.named_modules()
        if hasattr(module, "metric_state") and hasattr(module, "_update_count")
    }


def placed(thing: Any, device: torch.device) -> Any:
    """Plain data with its tensors on a device."""
    if isinstance(thing, torch.Tensor):
        return thing.to(device)
    if isinstance(thing, dict):
        return {key: placed(value, device) for key, value in thing.items()}
    return (
        type(thing)(placed(value, device) for value in thing)
        if type(thing) in (list, tuple)
        else thing
    )


def _callback_state(callback: Callback) -> dict[str, Any]:
    """What a callback gives to be saved, and the states of generators that it has."""
    state = (
        callback.state_dict()
        if hasattr(callback, "state_dict") and hasattr(callback, "load_state_dict")
        else None
    )
    return {"own": state, "random": seeding.own_states(callback)}


def _data_state(ctx: Context, name: str) -> dict[str, Any]:
    data = data_of(ctx, name)
    iterator = ctx.iterator if name == "train" else ctx.valid_iterator
    begun = (
        bool(ctx.iter or ctx.upcoming is not None)
        if name == "train"
        else bool(ctx.valid_iter) and ctx.tally is not None and ctx.tally.set == name
    )
    ended = name == "train" and (ctx.exhausted or ctx.upcoming is END)
    under_way = iterator is not None and begun and not ended
    state = None
    if hasattr(data, "state_dict") and hasattr(data, "load_state_dict"):
        # A DataLoader with a state is asked in the middle of an epoch only: of one that has ended,
        # some drop the next.
        state = (
            data.state_dict()
            if under_way or not isinstance(data, torch.utils.data.DataLoader)
            else None
        )
    if state is not None and name == "train" and _upcoming(ctx)["kind"] == "again":
        raise CheckpointError(
            f"a batch that was drawn ahead is a {type(ctx.upcoming).__name__}, which cannot be"
            " saved, and a loader with a state of its own cannot draw it again; give the loader a"
            " length, or let it yield tensors in tuples, lists and dicts"
        )
    dataset = getattr(data, "dataset", None)
    return {
        "batches": length(data),
        "samples": length(dataset) if dataset is not None else None,
        "state": state,
    }


def _upcoming(ctx: Context) -> dict[str, Any]:
    """The batch that was drawn ahead; where it is more than plain data, that it has to be drawn again."""
    if ctx.upcoming is None:
        return {"kind": "none"}
    if ctx.upcoming is END:
        return {"kind": "end"}
    try:
        plain.encode(ctx.upcoming)
    except CheckpointError:
        return {"kind": "again"}
    return {"kind": "batch", "batch": ctx.upcoming}


# ---------------------------------------------------------------- putting back


def restore(
    ctx: Context, machine: Machine, data: Snapshot, allow: bool | Collection[str] = ()
) -> None:
    """Puts a snapshot into a context whose objects were made as the first ones were; `machine.run(ctx, at=data["state"])` goes on.

    Args:
        ctx: a `Context` that has not run.
        machine: what will walk it.
        data: the snapshot. Its tensors may be taken over, so it serves once.
        allow: which differences are allowed, of `CHANGES`; True for all. What fits is loaded, the
            rest stays as it was made: weights whose name or shape has changed, an optimizer of
            another class or for other parameters. Settings of an optimizer that are given
            differently now hold.

    Raises:
        CheckpointError: the run is another one; the message lists the differences.
    """
    missing = [name for name in _NEEDED if not isinstance(data, dict) or name not in data]
    if missing:
        raise CheckpointError(f"what was read is no run: it has no {missing[0]!r}")
    changed = _refuse(differences(ctx, machine, data), allow)
    fields, given_state = data["fields"], ctx.split_state
    for name in _SAVED:
        if name in fields and name != "opt_given":
            setattr(ctx, name, fields[name])
    if given_state is not None and fields["split_state"] is not None and ctx.seed is None:
        split_again(
            ctx.train_data, ctx.valid_data, torch.Generator().set_state(fields["split_state"])
        )
    ctx.loss_value = placed(ctx.loss_value, ctx.device)
    ctx.stop, ctx.interrupt = data["stop"], None
    ctx.history.rows[:] = data["history"]
    ctx._records = {name: list(values) for name, values in data["records"].items()}
    ctx.earlier_seconds, ctx.started = (
        data["seconds"]["earlier"],
        ctx.clock() - data["seconds"]["fit"],
    )
    _restore_model(ctx, data)
    for name, optimizer in ctx.optimizers.items():
        if optimizer is not None and data["optimizers"].get(name) is not None:
            _restore_optimizer(
                optimizer,
                data["optimizers"][name],
                fields["opt_given"].get(name),
                ctx.opt_given.get(name),
            )
    _restore_gradients(ctx, data["gradients"])
    if ctx.scaler is not None and data["scaler"] is not None:
        ctx.scaler.load_state_dict(data["scaler"])
    if ctx.mask is not None and data.get("mask") is not None:
        ctx.mask.load_state_dict(data["mask"])
    for name, tally in ctx.tallies.items():
        if name in data["tallies"]:
            _restore_tally(tally, data["tallies"][name], ctx.device)
    _restore_callbacks(machine, data["callbacks"])
    _select(ctx)
    ctx.upcoming = {"none": None, "end": END, "again": AGAIN}.get(
        data["upcoming"]["kind"], data["upcoming"].get("batch")
    )
    ctx.loader_states = {
        name: state["state"] for name, state in data["data"].items() if state["state"] is not None
    }
    ctx.streams = {name: torch.Generator() for name in data["random"]["streams"]}
    ctx.reopening.append(
        lambda: _settle(ctx, machine, data, keep_settings="optimizer" not in changed)
    )


def _settle(ctx: Context, machine: Machine, data: Snapshot, keep_settings: bool) -> None:
    """What opening the scopes may have moved, and callbacks on the way: modes, settings of optimizers, generators."""
    evaluating = set(data["model"]["evaluating"])
    for name, module in ctx.accelerator.unwrap(ctx.model).named_modules():
        module.training = name not in evaluating
    for name, optimizer in ctx.optimizers.items():
        if keep_settings and optimizer is not None and data["optimizers"].get(name) is not None:
            for group, saved in zip(
                optimizer.param_groups, data["optimizers"][name]["param_groups"], strict=True
            ):
                _set_settings(group, saved)
    states = data["random"]
    for name in sets_of(ctx):
        seeding.set_own_states(states["data"].get(name, {}), *seeding.owners_in(data_of(ctx, name)))
    seeding.set_own_states(states["model"], *ctx.accelerator.unwrap(ctx.model).modules())
    for name, state in states["streams"].items():
        ctx.streams[name].set_state(state)
    for callback, saved in _matched(machine.callbacks, data["callbacks"]):
        seeding.set_own_states(saved["random"], callback)
    ctx.accelerator.set_random_states(states)


def _restore_model(ctx: Context, data: Snapshot) -> None:
    model, saved = ctx.accelerator.unwrap(ctx.model), data["model"]
    own = model.state_dict()
    model.load_state_dict(
        {name: value for name, value in saved["weights"].items() if _fits(own.get(name), value)},
        strict=False,
    )
    loose = dict(_loose(model))
    for name, value in saved["loose"].items():
        if name in loose and loose[name].shape == value.shape:
            loose[name].copy_(value)
        elif name in loose:  # it grows
            where, _, last = name.rpartition(".")
            setattr(model.get_submodule(where), last, value.to(loose[name]))
    frozen = set(saved["frozen"])
    for name, parameter in model.named_parameters():
        if name in saved["weights"]:
            parameter.requires_grad_(name not in frozen)
    for name, loss in _loss_modules(ctx).items():
        if name in data["losses"]:
            loss.load_state_dict(data["losses"][name])
    with torch.no_grad():
        for name, parameter in _strays(ctx).items():
            if _fits(parameter, data["strays"].get(name)):
                parameter.copy_(data["strays"][name])


def _fits(own: Any, saved: Any) -> bool:
    if isinstance(own, torch.Tensor) and isinstance(saved, torch.Tensor):
        return own.shape == saved.shape and own.dtype == saved.dtype
    return (
        own is not None
        and not isinstance(own, torch.Tensor)
        and not isinstance(saved, torch.Tensor)
    )


def _restore_optimizer(optimizer: Any, saved: dict[str, Any], before: Any, now: Any) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    same = [len(group["params"]) for group in optimizer.param_groups] == [
        len(group["params"]) for group in saved["param_groups"]
    ]
    if not same or (before is not None and now is not None and before["class"] != now["class"]):
        return  # allowed by the user: it begins anew
    if any(not _state_fits(parameters[i], state) for i, state in saved["state"].items()):
        return
    settings = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for i, group in enumerate(optimizer.param_groups):
        loaded = dict(group)
        group.update(settings[i])  # a setting that is a tensor keeps its place
        _set_settings(group, loaded)
        if before is not None and now is not None:
            changed = (
                key
                for key in settings[i]
                if before["groups"][i].get(key) != now["groups"][i].get(key)
            )
            group.update({key: settings[i][key] for key in changed if key != "params"})
    # torch casts what belongs to a parameter to its type and lays it out as it was saved; both may
    # differ from what it was.
    for i, state in saved["state"].items():
        own = optimizer.state.get(parameters[i], {})
        for name, value in state.items():
            own[name] = _as_saved(own.get(name), value, parameters[i])


def _set_settings(group: dict[str, Any], saved: Mapping[str, Any]) -> None:
    """Puts back the settings of a group of parameters."""
    for key, value in saved.items():
        if key == "params":
            continue
        if isinstance(value, torch.Tensor) and isinstance(group.get(key), torch.Tensor):
            value = value.to(group[key])
        group[key] = value


def _state_fits(parameter: torch.Tensor, state: Mapping[str, Any]) -> bool:
    """Whether an optimizer's state can belong to a parameter: what has its number of dimensions has its shape."""
    exact = [
        value
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
        and name in ("exp_avg", "momentum_buffer", "square_avg", "sum")
    ]
    return all(value.shape == parameter.shape for value in exact)


def _as_saved(loaded: Any, saved: Any, parameter: torch.Tensor) -> Any:
    if isinstance(saved, torch.Tensor):
        device = loaded.device if isinstance(loaded, torch.Tensor) else parameter.device
        if saved.shape == parameter.shape:
            return torch.empty_like(
                parameter, dtype=saved.dtype, device=device, requires_grad=False
            ).copy_(saved)
        return saved.to(device)
    if (
        type(saved) in (list, tuple)
        and isinstance(loaded, list | tuple)
        and len(saved) == len(loaded)
    ):
        return type(saved)(
            _as_saved(one, other, parameter) for one, other in zip(loaded, saved, strict=True)
        )
    return saved


def _restore_gradients(ctx: Context, saved: dict[str, torch.Tensor]) -> None:
    for name, parameter in _parameters(ctx).items():
        value = saved.get(name)
        parameter.grad = (
            None
            if value is None
            else torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
        )


def _restore_tally(tally: Tally, saved: dict[str, Any], device: torch.device) -> None:
    tally.reset()
    for name, (total, count) in saved["losses"].items():
        if name in tally.losses:
            tally.losses[name].total, tally.losses[name].count = (
                placed(total, device),
                placed(count, device),
            )
    for name, state in saved["metrics"].items():
        if name in tally.metrics:
            _set_metric_state(tally.metrics[name], state, device)


def _restore_callbacks(machine: Machine, saved: list[dict[str, Any]]) -> None:
    for callback, state in _matched(machine.callbacks, saved):
        if state["own"] is not None and hasattr(callback, "load_state_dict"):
            callback.load_state_dict(state["own"])


def _matched(
    callbacks: Collection[Callback], saved: list[dict[str, Any]]
) -> Iterator[tuple[Callback, dict[str, Any]]]:
    """Callbacks with what was saved of them: the first of a class with the first, the second with the second."""
    states: dict[tuple[str, int], dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    for row in saved:
        seen[row["class"]] += 1
        states[row["class"], seen[row["class"]]] = row["state"]
    seen.clear()
    for callback in callbacks:
        seen[name_of(callback)] += 1
        state = states.get((name_of(callback), seen[name_of(callback)]))
        if state is not None:
            yield unwrapped(callback), state


def _select(ctx: Context) -> None:
    if ctx.opt_name in ctx.optimizers:
        ctx.opt = ctx.optimizers[ctx.opt_name]
    if ctx.opt_name in ctx.loss_fns:
        ctx.loss_fn = ctx.loss_fns[ctx.opt_name]


# ---------------------------------------------------------------- differences


def differences(ctx: Context, machine: Machine, data: Snapshot) -> list[tuple[str, str]]:
    """How a run differs from the one that a snapshot was taken of: what of `CHANGES`, and in words."""
    return [
        *(("lifecycle", words) for words in _lifecycle_differences(machine.lifecycle, data)),
        *(("model", words) for words in _model_differences(ctx, data)),
        *(("optimizer", words) for words in _optimizer_differences(ctx, data)),
        *(("data", words) for words in _data_differences(ctx, data)),
        *(
            [("seed", f"seed was {data['seed']}, is {ctx.seed}")]
            if data["seed"] != ctx.seed
            else []
        ),
    ]


def _refuse(found: list[tuple[str, str]], allow: bool | Collection[str]) -> set[str]:
    """What differs, if all of it is allowed."""
    if unknown := (
        [] if isinstance(allow, bool) else [name for name in allow if name not in CHANGES]
    ):
        raise CheckpointError(
            f"allow_changes knows {', '.join(map(repr, CHANGES))}, got {unknown[0]!r}"
        )
    refused = [
        (what, words) for what, words in found if allow is not True and what not in (allow or ())
    ]
    if refused:
        kinds = sorted({what for what, _ in refused})
        listed = "".join(f"\n- {words}" for _, words in refused[:20]) + (
            f"\n- and {len(refused) - 20} more" if len(refused) > 20 else ""
        )
        raise CheckpointError(
            f"the run differs from the one that was saved:{listed}\nMake it the same, or say that"
            f" it may differ: allow_changes={kinds!r}"
        )
    return {what for what, _ in found}


def _lifecycle_differences(life: Lifecycle, data: Snapshot) -> Iterator[str]:
    was, now = data["lifecycle"], described(life)
    if was["fingerprint"] == now["fingerprint"] and was["fingerprint"]:
        return
    for what in ("states", "arrows"):
        yield from (
            f"lifecycle: {what.rstrip('s')} {row} removed"
            for row in was[what]
            if row not in now[what]
        )
        yield from (
            f"lifecycle: {what.rstrip('s')} {row} added"
            for row in now[what]
            if row not in was[what]
        )
        if sorted(was[what]) == sorted(now[what]) and was[what] != now[what]:
            yield f"lifecycle: the {what} are in another order"
    if (
        was["fingerprint"]
        and now["fingerprint"]
        and all(was[what] == now[what] for what in ("states", "arrows"))
    ):
        yield "lifecycle: a function or a parameter in it is another one"
    anchors = [state.name for state in life.states if state.anchor]
    if data["state"] not in anchors:
        raise CheckpointError(
            f"the run was saved in {data['state']!r}, which is no anchor of lifecycle"
            f" {life.name!r}; its anchors are {', '.join(anchors) or 'none'}"
        )


def _model_differences(ctx: Context, data: Snapshot) -> Iterator[str]:
    was, now = data["model"]["weights"], ctx.accelerator.unwrap(ctx.model).state_dict()
    yield from (
        f"model: {name} {_shown(value)} removed" for name, value in was.items() if name not in now
    )
    yield from (
        f"model: {name} {_shown(value)} added" for name, value in now.items() if name not in was
    )
    yield from (
        f"model: {name} was {_shown(was[name])}, is {_shown(now[name])}"
        for name in was
        if name in now and not _fits(now[name], was[name])
    )


def _shown(value: Any) -> str:
    return (
        f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
        if isinstance(value, torch.Tensor)
        else type(value).__name__
    )


def _optimizer_differences(ctx: Context, data: Snapshot) -> Iterator[str]:
    was, now = data["fields"]["opt_given"], ctx.opt_given
    if not was or not now:  # a context that was made by hand need not say
        return
    yield from (f"optimizer {name!r} removed" for name in was if name not in now)
    yield from (f"optimizer {name!r} added" for name in now if name not in was)
    for name in was:
        if name not in now:
            continue
        if was[name]["class"] != now[name]["class"]:
            yield f"optimizer {name!r} was {was[name]['class']}, is {now[name]['class']}"
        elif len(was[name]["groups"]) != len(now[name]["groups"]):
            yield (
                f"optimizer {name!r} had {len(was[name]['groups'])} groups of parameters, has"
                f" {len(now[name]['groups'])}"
            )
        else:
            for i, (old, new) in enumerate(
                zip(was[name]["groups"], now[name]["groups"], strict=True)
            ):
                where = f"optimizer {name!r}" + (
                    f", group {i}" if len(was[name]["groups"]) > 1 else ""
                )
                for key in dict.fromkeys((*old, *new)):
                    if repr(old.get(key)) != repr(new.get(key)):
                        yield f"{where}: {key} was {old.get(key)!r}, is {new.get(key)!r}"


def _data_differences(ctx: Context, data: Snapshot) -> Iterator[str]:
    for name, was in data["data"].items():
        loader = data_of(ctx, name) if name in sets_of(ctx) else None
        if loader is None:
            yield f"data: {name} data was there, is not"
            continue
        dataset = getattr(loader, "dataset", None)
        now = {
            "batches": length(loader),
            "samples": length(dataset) if dataset is not None else None,
        }
        yield from (
            f"data: {name} data had {was[what]} {what}, has {now[what]}"
            for what in now
            if was[what] != now[what]
        )
    yield from (
        f"data: {name} data added"
        for name in sets_of(ctx)
        if name not in data["data"] and data_of(ctx, name) is not None
    )
