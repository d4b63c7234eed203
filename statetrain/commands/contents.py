"""What is in a checkpoint, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from statetrain.checkpoints.checkpoint import Saved
from statetrain.checkpoints.modules import describe_tensor

_UNKNOWN = "unknown"


def describe_contents(saved: Saved, data: Any) -> Iterator[tuple[str, str]]:
    """The lines of `checkpoint show`, each with what it is about.

    Args:
        saved: what the manifest says.
        data: as `checkpoint.read` gives it.
    """
    about = dict(saved.about)
    origin = about.get("origin") or {}
    size = describe_size(saved.size)
    yield "checkpoint", f"{saved.name}, the {saved.sequence}. of its directory, {size}, verified"
    yield "at", _describe_place(about)
    yield "lifecycle", _describe_lifecycle(data["lifecycle"])
    yield "versions", ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    yield "command", str(origin.get("command") or _UNKNOWN)
    yield "commit", str(origin.get("commit") or "none")
    yield "seed", str(data["seed"])
    yield "monitored", describe_monitored(saved) or "nothing"
    yield "optimizers", _describe_optimizers(data["fields"].get("opt_given") or {})
    yield "settings", "; ".join(_describe_settings(about.get("optimizers") or {})) or _UNKNOWN
    yield "callbacks", ", ".join(one["class"] for one in data["callbacks"]) or "none"
    yield "history", _describe_history(data["history"])
    yield from _describe_weights(data["model"]["weights"])


def describe_monitored(saved: Saved) -> str:
    """The monitored column and its value; empty if nothing was monitored."""
    value = saved.about.get("value")
    if value is None:
        return ""
    return f"{saved.about.get('monitor')} {value:.6g}"


def describe_size(size: int) -> str:
    """A number of bytes in the unit that fits: `"12.3 MB"`."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def _describe_place(about: dict[str, Any]) -> str:
    counters = f"epoch {about.get('epoch')}, batch {about.get('iter')}, step {about.get('step')}"
    return f"{about.get('state')}, {counters}, {about.get('seconds', 0.0):.1f} s"


def _describe_lifecycle(life: dict[str, Any]) -> str:
    return f"{life['name']} {life['fingerprint'] or '(without a fingerprint)'}"


def _describe_optimizers(given: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {one['class']}" for name, one in given.items()) or _UNKNOWN


def _describe_settings(optimizers: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """The settings of each group of parameters of each optimizer."""
    for name, groups in optimizers.items():
        for number, group in enumerate(groups):
            place = name
            if len(groups) > 1:
                place += f" group {number}"
            yield f"{place}: " + ", ".join(f"{key}={value}" for key, value in group.items())


def _describe_history(rows: list[dict[str, Any]]) -> str:
    text = f"{len(rows)} rows"
    if rows:
        cells = (f"{name} {_describe_value(value)}" for name, value in rows[-1].items())
        text += f", the last {', '.join(cells)}"
    return text


def _describe_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _describe_weights(weights: dict[str, Any]) -> Iterator[tuple[str, str]]:
    tensors = {name: one for name, one in weights.items() if isinstance(one, torch.Tensor)}
    count = sum(tensor.numel() for tensor in tensors.values())
    yield "weights", f"{count:,} numbers in {len(tensors)} tensors"
    for name, tensor in tensors.items():
        yield "", f"{name}  {describe_tensor(tensor)}"
