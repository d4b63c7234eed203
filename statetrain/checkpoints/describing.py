"""What a run was made with, as short texts, so that a resumed run notices what has changed.

A description is taken before the first batch, of fresh objects, both times; so what changes while a
run trains makes no difference. It names classes, functions and settings, and of data a few rows: it
costs a millisecond, and proves nothing about what it does not show.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import attrs
import torch
from torch.utils.data import Subset

from statetrain.callback import Callback, name_of, unwrapped
from statetrain.checkpoints.objects import custom_values, found_in
from statetrain.checkpoints.settings import settings_of
from statetrain.compute.parts import class_of
from statetrain.context.context import Context
from statetrain.context.position import Position
from statetrain.data.iterating import data_of, sets_of
from statetrain.losses.losses import LossMean, unbound
from statetrain.losses.metrics import MeanOf, Metric
from statetrain.machine.machine import Machine

Description = dict[str, Any]

_DEEPEST = 4  # objects within objects
_ROWS = 32  # of a tensor that are looked at
_BYTES = 4096  # of a row
_LONGEST = 160  # characters of plain data; of longer ones, the beginning and a sum
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_FUNCTIONS = (FunctionType, BuiltinFunctionType)
# What a callback may write without taking part in the training
_ASIDE = (
    "saves",
    "save_seconds",
    "check_logged",
    "stop",
    "history",
    "records",
    "logged",
    "logged_means",
    "buffers",
)

# Where it may write what was trained, without changing how
_AFTERWARDS = ("on_enter_ending", "on_exit_ending", "defer")


def describe_run(ctx: Position, machine: Machine) -> Description:
    """What a run is made with, before its first batch, that a snapshot does not hold.

    Args:
        ctx: the context; nothing has been trained with it.
        machine: what walks it.

    Returns:
        Texts: of modules, losses and optimizers by name, of the data by set, of the settings of
        callbacks that take part in the training, and of the fields of a custom context.
    """
    callbacks = [
        {
            "class": name_of(one),
            "settings": arguments_of(unwrapped(one)),
            "trains": takes_part(unwrapped(one), _AFTERWARDS),
        }
        for one in machine.callbacks
        if takes_part(unwrapped(one))
    ]
    if isinstance(ctx, Context):
        return {**_describe_training(ctx), "callbacks": callbacks}
    return {**_describe_fields(ctx), "callbacks": callbacks}


def _describe_fields(ctx: Position) -> Description:
    """The modules, optimizers and plain values in the fields of a custom context."""
    fields = custom_values(ctx)
    return {
        "model": {
            f"{path}.{name}".rstrip("."): settings
            for path, module in found_in(fields, torch.nn.Module).items()
            for name, settings in describe_modules(module).items()
        },
        "optimizers": settings_of(found_in(fields, torch.optim.Optimizer)),
        "context": {
            name: _shorten(repr(value)) for name, value in fields.items() if _is_data(value)
        },
    }


def _is_data(value: Any) -> bool:
    """Whether a value is plain data: numbers and texts, in containers of any depth."""
    if isinstance(value, dict):
        return _is_data([*value, *value.values()])
    if isinstance(value, list | tuple):
        return all(map(_is_data, value))
    return value is None or isinstance(value, bool | int | float | str)


def _shorten(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}... #{_short(text.encode())}"


def _describe_training(ctx: Context) -> Description:
    return {
        "model": describe_modules(ctx.accelerator.unwrap(ctx.model)),
        "loss": {name: describe(loss) for name, loss in unbound(ctx.loss_fns).items()},
        "metrics": {
            f"{tally.set}_{name}": describe_metric(metric)
            for tally in ctx.tallies.values()
            for name, metric in tally.metrics.items()
            if not isinstance(metric, LossMean)
        },
        "data": {
            name: describe_data(data_of(ctx, name), keep_indices=ctx.split_state is None)
            for name in sets_of(ctx)
            if data_of(ctx, name) is not None
        }
        | {"batches": describe_reading(ctx)},
    }


# ---------------------------------------------------------------- model and losses


def describe_modules(model: torch.nn.Module) -> dict[str, dict[str, str]]:
    """The class and the settings of each module, by its name and theirs."""
    return {name: _settings_of_module(module) for name, module in model.named_modules()}


def changed_attributes(model: torch.nn.Module, before: dict[str, dict[str, str]]) -> list[str]:
    """Attributes of modules that have changed since they were described, and are in no snapshot.

    Args:
        model: as it is now.
        before: what `describe_modules` gave.
    """
    found = []
    for name, settings in describe_modules(model).items():
        for key, value in settings.items():
            if name in before and before[name].get(key) != value:
                if name:
                    where = f"{name}.{key}"
                else:
                    where = key
                found.append(
                    f"model: the attribute {where} has changed since the run began, and is not"
                    " saved; make it a buffer, or save it by get_extra_state"
                )
    return found


def _settings_of_module(module: torch.nn.Module) -> dict[str, str]:
    found = {"class": class_of(module).__name__}
    for name, value in vars(module).items():
        if not name.startswith("_") and name != "training" and _is_plain(value):
            found[name] = repr(value)
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return len(value) <= 16 and all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def describe_metric(metric: Any) -> str:
    """What a metric computes: its function, or the class of an object and what it was made with."""
    if isinstance(metric, MeanOf):
        return describe(metric.function)
    if isinstance(metric, Metric):
        return f"{describe_metric(metric.state)} of {', '.join(sorted(metric.reads))}"
    given = (f"{name}={value}" for name, value in arguments_of(metric).items())
    return f"{type(metric).__name__}({', '.join(given)})"


def describe(thing: Any, depth: int = 0) -> str:
    """A function, an object or plain data as a short text, the same in each process."""
    if _is_plain(thing):
        return repr(thing)
    if depth > _DEEPEST:
        return type(thing).__name__
    if isinstance(thing, torch.Tensor):
        return f"tensor {tuple(thing.shape)} {_sum_of(thing)}"
    if isinstance(thing, type):
        return thing.__qualname__
    if isinstance(thing, MethodType):
        return f"{describe(thing.__self__, depth + 1)}.{thing.__name__}"
    if isinstance(thing, _FUNCTIONS):
        return _describe_function(thing, depth)
    if isinstance(thing, torch.nn.Module):
        return _describe_module(thing, depth)
    return _describe_object(thing, depth)


def _describe_function(function: Any, depth: int) -> str:
    name = str(getattr(function, "__qualname__", "?"))
    code = getattr(function, "__code__", None)
    if code is None or (function.__module__ or "").partition(".")[0] == "torch":
        return name
    text = repr((code.co_code, code.co_names, [c for c in code.co_consts if _is_plain(c)]))
    within = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    inner = ", ".join(describe(part, depth + 1) for part in within)
    described = f"{name} #{_short(text.encode())}"
    if inner:
        described += f" of {inner}"
    return described


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # it raises if there is nothing
    except ValueError:
        return False
    return True


def _describe_module(module: torch.nn.Module, depth: int) -> str:
    settings = _settings_of_module(module)
    name = settings.pop("class")
    within = {**dict(module.named_children()), **dict(module.named_buffers(recurse=False))}
    texts = settings | {key: describe(part, depth + 1) for key, part in within.items()}
    return f"{name}({', '.join(f'{key}={text}' for key, text in texts.items())})"


def _describe_object(thing: Any, depth: int) -> str:
    parts: dict[Any, Any]
    name = type(thing).__name__
    if isinstance(thing, partial):
        name = describe(thing.func, depth + 1)
        parts = {**dict(enumerate(thing.args)), **thing.keywords}
    elif isinstance(thing, Mapping):
        name, parts = "", dict(thing)
    elif isinstance(thing, list | tuple):
        name, parts = "", dict(enumerate(thing))
    elif attrs.has(type(thing)):
        names = [field.name for field in attrs.fields(type(thing))]
        parts = {name: getattr(thing, name, None) for name in names}
    else:
        held = getattr(thing, "__dict__", {})
        parts = {key: value for key, value in held.items() if not key.startswith("_")}
    inner = ", ".join(f"{key}={describe(value, depth + 1)}" for key, value in parts.items())
    return _ADDRESS.sub("", f"{name}({inner})")


# ---------------------------------------------------------------- data


def describe_data(loader: Any, *, keep_indices: bool = True) -> dict[str, str]:
    """How a loader makes batches, and a few rows of what its dataset holds, as sums.

    Args:
        loader: what is iterated over.
        keep_indices: whether the samples of a subset are part of it.
    """
    found: dict[str, str] = {}
    sampler = _inner_sampler(getattr(loader, "batch_sampler", None))
    size = getattr(sampler, "batch_size", None)
    if isinstance(size, int):
        found["batch size"] = str(size)
        found["drop_last"] = str(getattr(sampler, "drop_last", None))
    order = getattr(sampler, "sampler", None) or _inner_sampler(getattr(loader, "sampler", None))
    if order is not None:
        found["order"] = type(order).__name__
    dataset = getattr(loader, "dataset", loader if isinstance(loader, list | tuple) else None)
    if content := ", ".join(_contents(dataset, keep_indices, 0)):
        found["content"] = _short(content.encode())
    return found


def _inner_sampler(sampler: Any) -> Any:
    """What decides the order in a loader that draws by key."""
    is_keyed = type(sampler).__name__ == "KeyedOrder"
    if is_keyed:
        return sampler.sampler
    return sampler


def _contents(thing: Any, keep_indices: bool, depth: int) -> Iterator[str]:
    """Sums of the arrays and of the plain data in a dataset."""
    if depth > _DEEPEST or thing is None:
        return
    if isinstance(thing, torch.Tensor) or hasattr(thing, "__array_interface__"):
        yield _sum_of(thing)
    elif isinstance(thing, str | bytes | int | float):
        yield repr(thing)
    else:
        if isinstance(thing, list | tuple):
            yield str(len(thing))
        for part in _parts(thing):
            yield from _contents(part, keep_indices, depth + 1)
        if isinstance(thing, Subset) and keep_indices:
            yield _short(repr(list(thing.indices)).encode())


def _parts(thing: Any) -> list[Any]:
    """Some of what a dataset, or a part of one, holds."""
    if isinstance(thing, list | tuple):
        return [thing[i] for i in _spread(len(thing))]
    if isinstance(thing, Mapping):
        return list(thing.values())[:_ROWS]
    if isinstance(thing, Subset):
        return [thing.dataset]
    if callable(thing):
        return []
    return [value for name, value in getattr(thing, "__dict__", {}).items() if name != "seed"]


def _sum_of(values: Any) -> str:
    """The shape of an array, and a sum of some of its rows."""
    if isinstance(values, torch.Tensor):
        tensor = values
    else:
        tensor = torch.as_tensor(values)
    if tensor.dim():
        rows = tensor[_spread(len(tensor))]
    else:
        rows = tensor
    data = rows.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    return f"{tuple(tensor.shape)} {tensor.dtype} {_short(bytes(data[: _ROWS * _BYTES].numpy()))}"


def _spread(size: int) -> list[int]:
    """Numbers of some rows, from the first to the last."""
    count = min(size, _ROWS)
    return [i * (size - 1) // max(count - 1, 1) for i in range(count)]


def _short(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=6).hexdigest()


def describe_reading(ctx: Context) -> dict[str, str]:
    """What is taken of a batch, and of the model's output, and how samples are counted."""
    reader = ctx.read_batch
    found = {name: getattr(reader, name, None) for name in ("input", "target", "size")}
    found["pred"] = getattr(ctx.pick, "path", None)
    # Of a function its name alone: other versions of Python compile it otherwise
    return {
        name: getattr(value, "__qualname__", None) or repr(value) for name, value in found.items()
    }


# ---------------------------------------------------------------- callbacks


def takes_part(callback: Callback, aside: Collection[str] = ()) -> bool:
    """Whether a callback declares that it writes what is trained, or what trains it.

    Args:
        callback: any.
        aside: hooks that do not count.
    """
    writes = callback.writes
    listed = [writes]
    if isinstance(writes, Mapping):
        listed = [fields for hook, fields in writes.items() if hook not in aside]
    fields = {field.partition(".")[0] for fields in listed for field in fields}
    return bool(fields - set(_ASIDE))


def arguments_of(thing: Any) -> dict[str, str]:
    """What an object was made with: the arguments of its class that are its attributes."""
    names = inspect.signature(type(thing).__init__).parameters
    found = {}
    for name in names:
        for attribute in (name, f"_{name}"):
            if name != "self" and hasattr(thing, attribute):
                found[name] = describe(getattr(thing, attribute))
                break
    return found
