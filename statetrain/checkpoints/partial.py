"""Weights that fit a model in part: chosen by name, renamed, from files of several kinds."""

from __future__ import annotations

import itertools
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from statetrain.checkpoints import tensorfile
from statetrain.errors import CheckpointError, ConfigError

Rename = Mapping[str, str]


_LEGACY = b"\x80\x02\x8a\x0a"  # how `torch.save` began a file before it wrote archives


def read_weights(path: Path, part: str | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors of a safetensors file with its texts; or of a file of `torch.save`, without any.

    The latter is read with `weights_only=True`, which runs no code that is in the file.

    Args:
        path: of the file.
        part: of a file of `torch.save` that holds more than one model's weights, the key of those
            that are wanted; None is the only ones.

    Raises:
        CheckpointError: it is neither, or it has no such weights.
        OSError: it cannot be read.
    """
    if not _is_by_torch(path):
        if part is not None:
            raise CheckpointError(f"{path.name} holds tensors by name, so it has no {part!r}")
        return tensorfile.read(path)
    with tensorfile.open_file(path) as file:
        try:
            found = torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{path.name} cannot be read with weights_only=True: {error!s:.300}; save"
                " model.state_dict() alone"
            ) from error
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path.name} holds a {type(found).__name__}, no tensors by name")
    return _weights_in(found, part, path.name), {}


def _is_by_torch(path: Path) -> bool:
    if zipfile.is_zipfile(path):
        return True
    with tensorfile.open_file(path) as file:
        return file.read(len(_LEGACY)) == _LEGACY


def _weights_in(found: Mapping[Any, Any], part: str | None, name: str) -> dict[str, Any]:
    """The tensors of what was read: all of it, the part that was asked for, or the only one."""
    if part is None and _are_weights(found):
        return dict(found)
    parts = {str(key): value for key, value in found.items() if _are_weights(value)}
    if part is None and len(parts) == 1:
        return dict(*parts.values())
    if part in parts:
        return dict(parts[part])
    if not parts:
        raise CheckpointError(f"{name} holds no tensors by name; save model.state_dict() alone")
    raise CheckpointError(
        f"{name} holds tensors by name in {', '.join(map(repr, parts))}; say which with part=, got"
        f" part={part!r}"
    )


def _are_weights(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(one, torch.Tensor) for one in value.values())


def choose_weights(
    weights: Mapping[str, Any], rename: Rename | None, exclude: str | Sequence[str]
) -> dict[str, Any]:
    """Those weights that are wanted, under the names that the model has for them.

    Args:
        weights: by the names of the file.
        rename: beginnings of names and their replacements, such as {"encoder.": "backbone."};
            the longest that fits counts.
        exclude: patterns such as "head.*", of the names in the file, that are left out.

    Raises:
        ConfigError: a beginning or a pattern fits no name, or two weights get one name.
    """
    if isinstance(exclude, str):
        exclude = [exclude]
    left_out = set(itertools.chain(*(_matching(weights, pattern) for pattern in exclude)))
    rename = rename or {}
    for start in rename:
        if not any(name.startswith(start) for name in weights):
            raise ConfigError(f"rename: no name begins with {start!r}, of {_some(weights)}")
    chosen: dict[str, Any] = {}
    for name in (name for name in weights if name not in left_out):
        new = _rename(name, rename)
        if new in chosen:
            raise ConfigError(f"rename gives two weights the name {new!r}")
        chosen[new] = weights[name]
    return chosen


def _matching(weights: Mapping[str, Any], pattern: str) -> list[str]:
    found = [name for name in weights if fnmatchcase(name, pattern)]
    if not found:
        raise ConfigError(f"exclude={pattern!r} fits none of {_some(weights)}")
    return found


def _rename(name: str, rename: Rename) -> str:
    fitting = [start for start in rename if name.startswith(start)]
    if not fitting:
        return name
    start = max(fitting, key=len)
    return rename[start] + name.removeprefix(start)


def _some(weights: Mapping[str, Any]) -> str:
    names = list(weights)
    return ", ".join(map(repr, names[:6])) + (" ..." if len(names) > 6 else "")
