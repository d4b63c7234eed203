"""How a run differs from the one that a snapshot was taken of, and which differences are allowed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import torch

from statetrain.checkpoints.snapshot import Snapshot, data_sizes, describe_lifecycle, parameters_of
from statetrain.data.iterating import data_of, sets_of
from statetrain.errors import CheckpointError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.machine.machine import Machine

if TYPE_CHECKING:
    from statetrain.context.context import Context

CHANGES = ("lifecycle", "model", "optimizer", "data", "seed")
"""What may differ when a run is resumed, if it is allowed."""

Difference = tuple[str, str]  # which of `CHANGES` it is, and what differs

_MOST = 20  # differences that a message lists


def differences(ctx: Context, machine: Machine, data: Snapshot) -> list[Difference]:
    """How a run differs from the one that a snapshot was taken of.

    Args:
        ctx: the context of the run that is about to resume.
        machine: what walks it.
        data: the snapshot.

    Returns:
        Pairs of one of `CHANGES` and a line for a person.

    Raises:
        CheckpointError: the run was saved in a state that is not an anchor of this lifecycle.
    """
    found: list[Difference] = []
    for kind, lines in (
        ("lifecycle", _compare_lifecycles(machine.lifecycle, data)),
        ("model", _compare_models(ctx, data)),
        ("optimizer", _compare_optimizers(ctx, data)),
        ("optimizer", _compare_members(ctx, data)),
        ("data", _compare_data(ctx, data)),
        ("seed", _compare_seeds(ctx, data)),
    ):
        found.extend((kind, line) for line in lines)
    return found


def refuse(found: list[Difference], allow: bool | Collection[str]) -> set[str]:
    """The kinds of differences, if all of them are allowed.

    Args:
        found: what `differences` gave.
        allow: kinds out of `CHANGES`; True allows all.

    Raises:
        CheckpointError: one is not allowed; the message lists them, and says how to allow them.
    """
    if allow is True:
        return {kind for kind, _ in found}
    allowed = allow or ()
    for word in allowed:
        if word not in CHANGES:
            known = ", ".join(map(repr, CHANGES))
            raise CheckpointError(f"allow_changes knows {known}, got {word!r}")
    refused = [(kind, line) for kind, line in found if kind not in allowed]
    if refused:
        lines = [line for _, line in refused[:_MOST]]
        if len(refused) > _MOST:
            lines.append(f"and {len(refused) - _MOST} more")
        listed = "".join(f"\n- {line}" for line in lines)
        kinds = sorted({kind for kind, _ in refused})
        raise CheckpointError(
            f"the run differs from the one that was saved:{listed}\nMake it the same, or say that"
            f" it may differ: allow_changes={kinds!r}"
        )
    return {kind for kind, _ in found}


# ---------------------------------------------------------------- what is compared


def _compare_lifecycles(life: Lifecycle, data: Snapshot) -> Iterator[str]:
    was, now = data["lifecycle"], describe_lifecycle(life)
    known = bool(was["fingerprint"] and now["fingerprint"])
    if known and was["fingerprint"] == now["fingerprint"]:
        return
    for what in ("states", "arrows"):
        yield from _compare_rows(what, was[what], now[what])
    if known and was["states"] == now["states"] and was["arrows"] == now["arrows"]:
        yield "lifecycle: a function or a parameter in it is another one"
    anchors = [state.name for state in life.states if state.anchor]
    if data["state"] not in anchors:
        raise CheckpointError(
            f"the run was saved in {data['state']!r}, which is not an anchor of lifecycle"
            f" {life.name!r}; its anchors are {', '.join(anchors) or 'none'}"
        )


def _compare_rows(what: str, was: list[str], now: list[str]) -> Iterator[str]:
    one = what.rstrip("s")
    yield from (f"lifecycle: {one} {row} removed" for row in was if row not in now)
    yield from (f"lifecycle: {one} {row} added" for row in now if row not in was)
    if was != now and sorted(was) == sorted(now):
        yield f"lifecycle: the {what} are in another order"


def _compare_models(ctx: Context, data: Snapshot) -> Iterator[str]:
    was, now = data["model"]["weights"], ctx.accelerator.unwrap(ctx.model).state_dict()
    for name, value in was.items():
        if name not in now:
            yield f"model: {name} {describe_tensor(value)} removed"
    for name, value in now.items():
        if name not in was:
            yield f"model: {name} {describe_tensor(value)} added"
        elif not fits(value, was[name]):
            yield f"model: {name} was {describe_tensor(was[name])}, is {describe_tensor(value)}"


def describe_tensor(value: Any) -> str:
    """The type and shape of a tensor; the class of anything else."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def fits(own: Any, saved: Any) -> bool:
    """Whether a saved value can take the place of one: a tensor of its shape and type, or no tensor."""
    if isinstance(own, torch.Tensor) and isinstance(saved, torch.Tensor):
        return own.shape == saved.shape and own.dtype == saved.dtype
    if isinstance(own, torch.Tensor) or isinstance(saved, torch.Tensor):
        return False
    return own is not None


def _compare_optimizers(ctx: Context, data: Snapshot) -> Iterator[str]:
    was, now = data["fields"]["opt_given"], ctx.opt_given
    if not was or not now:  # a context that was made by hand need not say
        return
    yield from (f"optimizer {name!r} removed" for name in was if name not in now)
    yield from (f"optimizer {name!r} added" for name in now if name not in was)
    for name in was:
        if name in now:
            yield from _compare_optimizer(name, was[name], now[name])


def _compare_optimizer(name: str, was: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    if was["class"] != now["class"]:
        yield f"optimizer {name!r} was {was['class']}, is {now['class']}"
        return
    if len(was["groups"]) != len(now["groups"]):
        yield (
            f"optimizer {name!r} had {len(was['groups'])} groups of parameters, has"
            f" {len(now['groups'])}"
        )
        return
    for i, (old, new) in enumerate(zip(was["groups"], now["groups"], strict=True)):
        where = f"optimizer {name!r}"
        if len(was["groups"]) > 1:
            where += f", group {i}"
        for key in dict.fromkeys((*old, *new)):
            if repr(old.get(key)) != repr(new.get(key)):
                yield f"{where}: {key} was {old.get(key)!r}, is {new.get(key)!r}"


def _compare_members(ctx: Context, data: Snapshot) -> Iterator[str]:
    """Names parameters outside of the model that an optimizer had, and that are not there."""
    there = parameters_of(ctx).keys() | data["model"]["weights"].keys()
    for name, groups in data["members"].items():
        missing = [one for group in groups for one in group if one not in there]
        if name in ctx.optimizers and missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            yield f"optimizer {name!r} had the parameter {missing[0]}{more}, which this run has not"


def _compare_data(ctx: Context, data: Snapshot) -> Iterator[str]:
    there = [name for name in sets_of(ctx) if data_of(ctx, name) is not None]
    for name, was in data["data"].items():
        if name not in there:
            yield f"data: {name} data was there, is not"
            continue
        now = data_sizes(data_of(ctx, name))
        for what in now:
            if was[what] != now[what]:
                yield f"data: {name} data had {was[what]} {what}, has {now[what]}"
    yield from (f"data: {name} data added" for name in there if name not in data["data"])


def _compare_seeds(ctx: Context, data: Snapshot) -> Iterator[str]:
    if data["seed"] != ctx.seed:
        yield f"seed was {data['seed']}, is {ctx.seed}"
