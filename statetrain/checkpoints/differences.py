"""How a run differs from the one that was saved, and which differences are allowed."""

from __future__ import annotations

import itertools
import platform
import re
from collections.abc import Collection, Iterator
from typing import Any

from statetrain.checkpoints.frozen import compare_frozen, left_out_of
from statetrain.checkpoints.modules import describe_tensor, fits
from statetrain.checkpoints.snapshot import Snapshot, data_sizes, describe_lifecycle, parameters_of
from statetrain.context.context import Context
from statetrain.context.position import Position
from statetrain.data.iterating import data_of, sets_of
from statetrain.errors import CheckpointError, ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.machine.machine import Machine
from statetrain.naming import did_you_mean

CHANGES = (
    *("lifecycle", "model", "loss", "metrics", "optimizer", "data", "callbacks", "seed"),
    "context",
)
"""What may differ when a run is resumed, if it is allowed."""

Changed = tuple[str, str]  # which of `CHANGES` it is, and what differs

_CODE = re.compile(r" #[0-9a-f]{12}")
# What it means for a run that resumes that a callback is given other settings
_MEANT = {
    "LRScheduler": (
        "; what a schedule was made with is part of its state, and is resumed as it was saved. To"
        " train for longer than the schedule, start it with its full length, or end it and continue"
        " with run.fit(...)"
    )
}
# What a description has, of which each kind of context gives a part
_EMPTY: dict[str, Any] = {
    "model": {},
    "optimizers": {},
    "loss": {},
    "metrics": {},
    "data": {},
    "callbacks": [],
    "context": {},
}
_MOST = 20  # differences that a message lists


def differences(ctx: Position, machine: Machine, data: Snapshot) -> list[Changed]:
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
    found: list[Changed] = []
    for kind, lines in (
        *_compare_training(ctx, data),
        *_compare_given(ctx, data),
        # The longest, and often only what follows from the others
        ("lifecycle", _compare_lifecycles(machine.lifecycle, data)),
    ):
        found.extend((kind, line) for line in lines)
    return found


def _compare_training(ctx: Position, data: Snapshot) -> Iterator[tuple[str, Iterator[str]]]:
    """What only a run of supervised training has."""
    if not isinstance(ctx, Context):
        return
    yield "model", _compare_models(ctx, data)
    yield "optimizer", _compare_optimizers(ctx, data)
    yield "optimizer", _compare_members(ctx, data)
    yield "data", _compare_data(ctx, data)
    yield "seed", _compare_seeds(ctx, data)


def read_allowed(allow: bool | str | Collection[str]) -> set[str]:
    """The kinds of differences that `allow_changes` allows: a word, several, or all.

    Raises:
        ConfigError: a word is none of `CHANGES`.
    """
    if isinstance(allow, bool):
        if allow:
            return set(CHANGES)
        return set()
    if isinstance(allow, str):
        allowed = {allow}
    else:
        allowed = set(allow)
    for word in sorted(allowed, key=str):
        if word not in CHANGES:
            known = ", ".join(map(repr, CHANGES))
            raise ConfigError(
                f"allow_changes takes {known}, several of them, or True, got"
                f" {word!r}{did_you_mean(str(word), CHANGES)}"
            )
    return allowed


def refuse(found: list[Changed], allow: bool | str | Collection[str]) -> set[str]:
    """The kinds of differences, if all of them are allowed.

    Args:
        found: what `differences` gave.
        allow: kinds out of `CHANGES`; True allows all.

    Raises:
        CheckpointError: one is not allowed; the message lists them, and says how to allow them.
    """
    allowed = read_allowed(allow)
    refused = [(kind, line) for kind, line in found if kind not in allowed]
    if refused:
        raise CheckpointError(_describe(refused))
    return {kind for kind, _ in found}


def _describe(refused: list[Changed]) -> str:
    """The first of what differs, and what allows it."""
    lines = [line for _, line in refused[:_MOST]]
    if len(refused) > _MOST:
        lines.append(f"and {len(refused) - _MOST} more")
    listed = "\n- ".join(lines)
    kinds = sorted({kind for kind, _ in refused})
    word: str | list[str] = kinds
    if len(kinds) == 1:
        word = kinds[0]
    return (
        f"the run differs from the one that was saved:\n- {listed}\nMake it the same, or say that"
        f" it may differ: allow_changes={word!r}"
    )


# ---------------------------------------------------------------- what is compared


def _compare_lifecycles(life: Lifecycle, data: Snapshot) -> Iterator[str]:
    was, now = data["lifecycle"], describe_lifecycle(life)
    known = bool(was["fingerprint"] and now["fingerprint"])
    if known and was["fingerprint"] == now["fingerprint"]:
        return
    for what in ("states", "arrows"):
        yield from _compare_rows(what, was[what], now[what])
    parts = list(_compare_parts(was.get("parts", {}), now["parts"]))
    yield from parts
    if known and not parts and all(was[what] == now[what] for what in ("states", "arrows")):
        yield "lifecycle: a function or a parameter in it is another one"
    anchors = [state.name for state in life.states if state.anchor]
    if data["state"] not in anchors:
        raise CheckpointError(
            f"the run was saved in {data['state']!r}, which is not an anchor of lifecycle"
            f" {life.name!r}; its anchors are {', '.join(anchors) or 'none'}"
        )


def _compare_parts(was: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What differs in the guards, actions and effects of states and arrows that are in both."""
    found: dict[str, str] = {}  # what differs, and where first
    for place in was.keys() & now.keys():
        for line in _compare_values(was[place], now[place], ""):
            found.setdefault(line, place)
    for line, place in sorted(found.items()):
        yield f"lifecycle: {line} (in {place})"


def _compare_values(was: Any, now: Any, name: str) -> Iterator[str]:
    if isinstance(was, dict) and isinstance(now, dict):
        kind = str(now.get("is", "")).rpartition(":")[2] or name
        for key, old, new in _changed(was, now):
            yield from _compare_values(old, new, f"{kind}({key})")
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for old, new in zip(was, now, strict=True):
            yield from _compare_values(old, new, name)
    elif was != now:
        yield f"{name} was {_say(was)}, is {_say(now)}"


def _changed(was: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The entries that are not the same, each with what it was and is; None where there is none."""
    for key in dict.fromkeys((*was, *now)):
        old, new = was.get(key), now.get(key)
        if repr(old) != repr(new):  # a NaN is like itself
            yield key, old, new


def _compare_names(what: str, was: Collection[Any], now: Collection[Any]) -> Iterator[str]:
    yield from (f"{what} {name} removed" for name in was if name not in now)
    yield from (f"{what} {name} added" for name in now if name not in was)


def _say(value: Any) -> str:
    """A part of a lifecycle as a text: its class or function, if it has one."""
    if isinstance(value, dict) and "is" in value:
        return str(value["is"]).rpartition(":")[2]
    return f"{value!r:.80}"


def _compare_rows(what: str, was: list[str], now: list[str]) -> Iterator[str]:
    yield from _compare_names(f"lifecycle: {what.rstrip('s')}", was, now)
    if was != now and sorted(was) == sorted(now):
        yield f"lifecycle: the {what} are in another order"


def _compare_models(ctx: Context, data: Snapshot) -> Iterator[str]:
    was, now = data["model"]["weights"], ctx.accelerator.unwrap(ctx.model).state_dict()
    for name, value in was.items():
        if name not in now:
            yield f"model: {name} {describe_tensor(value)} removed"
    left_out = left_out_of(data)
    yield from compare_frozen(left_out, now)
    for name, value in now.items():
        if name in left_out:
            continue
        if name not in was:
            yield f"model: {name} {describe_tensor(value)} added"
        elif not fits(value, was[name]):
            yield f"model: {name} was {describe_tensor(was[name])}, is {describe_tensor(value)}"


def _compare_optimizers(ctx: Context, data: Snapshot) -> Iterator[str]:
    yield from _compare_named(data["fields"]["opt_given"], ctx.opt_given)


def _compare_named(was: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    if not was or not now:  # a context that was made by hand need not say
        return
    yield from _compare_names("optimizer", list(map(repr, was)), list(map(repr, now)))
    for name in (name for name in was if name in now):
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
        for key, before, after in _changed(old, new):
            yield f"{where}: {key} was {before!r}, is {after!r}"


def _compare_members(ctx: Context, data: Snapshot) -> Iterator[str]:
    """Names parameters outside of the model that an optimizer had, and that are not there."""
    there = parameters_of(ctx).keys() | data["model"]["weights"].keys()
    there |= left_out_of(data).keys()
    for name, groups in data["members"].items():
        missing = [one for one in itertools.chain(*groups) if one not in there]
        if name in ctx.optimizers and missing:
            more = ""
            if len(missing) > 1:
                more = f" and {len(missing) - 1} more"
            yield f"optimizer {name!r} had the parameter {missing[0]}{more}, which this run has not"


def _compare_data(ctx: Context, data: Snapshot) -> Iterator[str]:
    there = [name for name in sets_of(ctx) if data_of(ctx, name) is not None]
    for name, was in data["data"].items():
        if name not in there:
            yield f"data: {name} data was there, is not"
            continue
        for what, new in data_sizes(data_of(ctx, name)).items():
            if was[what] != new:
                yield f"data: {name} data had {was[what]} {what}, has {new}"
    yield from (f"data: {name} data added" for name in there if name not in data["data"])


def _compare_given(ctx: Position, data: Snapshot) -> Iterator[tuple[str, Iterator[str]]]:
    """What a run was made with, and its snapshot does not hold; see `describing`."""
    was, now = data.get("given") or {}, ctx.given
    if not was or not now:  # a context that was made by hand need not say
        return
    code = data["versions"]["python"] == platform.python_version()
    was, now = _EMPTY | was, _EMPTY | now
    yield "model", _compare_settings("model", was["model"], now["model"])
    yield "optimizer", _compare_named(was["optimizers"], now["optimizers"])
    yield "loss", _compare_texts("loss", was["loss"], now["loss"], code)
    yield "metrics", _compare_texts("metrics", was["metrics"], now["metrics"], code)
    yield "data", _compare_settings("data", was["data"], now["data"], ordered=False)
    yield "callbacks", _compare_callbacks(was["callbacks"], now["callbacks"], code)
    yield "context", _compare_texts("context", was["context"], now["context"], code)


def _compare_settings(
    what: str, was: dict[str, Any], now: dict[str, Any], ordered: bool = True
) -> Iterator[str]:
    """Settings by the name of their part and their own; parts with weights are named elsewhere."""
    for name in was.keys() & now.keys():
        where = f"{what}: {name or 'the model'}"
        if "class" in now[name]:
            where += f" ({now[name]['class']})"
        for key, old, new in _changed(was[name], now[name]):
            if key == "content":
                yield f"{where}: other samples"
            else:
                yield f"{where}: {key} was {old}, is {new}"
    if ordered and list(was) != list(now):
        changed = sorted(was.keys() ^ now.keys())
        yield f"{what}: other modules: {', '.join(changed[:5]) or 'in another order'}"


def _compare_texts(
    what: str, was: dict[str, str], now: dict[str, str], code: bool
) -> Iterator[str]:
    for name in was.keys() & now.keys():
        old, new = was[name], now[name]
        if not code:  # functions are compiled to other code by another Python
            old, new = (_CODE.sub("", text) for text in (old, new))
        if old != new:
            yield f"{what}: {name} was {old:.200}, is {new:.200}"


def _compare_callbacks(
    was: list[dict[str, Any]], now: list[dict[str, Any]], code: bool
) -> Iterator[str]:
    """Callbacks that take part in the training: the first of a class with the first."""
    before = _settings_by_class(was)
    for kind, settings in _settings_by_class(now).items():
        for old, new in zip(before.get(kind, []), settings, strict=False):
            for line in _compare_texts(f"callbacks: {kind}", old, new, code):
                yield line + _MEANT.get(kind, "")
    gone, there = ([row["class"] for row in rows if row.get("trains")] for rows in (was, now))
    for kind in dict.fromkeys((*gone, *there)):
        more = there.count(kind) - gone.count(kind)
        yield from [f"callbacks: {kind} added"] * more
        yield from [f"callbacks: {kind} removed"] * -more


def _settings_by_class(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        found.setdefault(row["class"], []).append(row["settings"])
    return found


def _compare_seeds(ctx: Context, data: Snapshot) -> Iterator[str]:
    if data["seed"] != ctx.seed:
        yield f"seed was {data['seed']}, is {ctx.seed}"
