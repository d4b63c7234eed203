"""Weights that fit a model in part: chosen by name, renamed, from files of several kinds."""

from __future__ import annotations

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


def read_weights(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors of a safetensors file with its texts; or of a file of `torch.save`, without any.

    The latter is read with `weights_only=True`, which runs no code that is in the file.

    Raises:
        CheckpointError: it is neither, or holds more than tensors by name.
        OSError: it cannot be read.
    """
    if not zipfile.is_zipfile(path):
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
    others = [name for name, value in found.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise CheckpointError(
            f"{path.name} holds more than tensors by name: {others[0]!r} is a"
            f" {type(found[others[0]]).__name__}; save model.state_dict() alone"
        )
    return dict(found), {}


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
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    left_out = {name for pattern in patterns for name in _matching(weights, pattern)}
    rename = rename or {}
    for start in rename:
        if not any(name.startswith(start) for name in weights):
            raise ConfigError(f"rename: no name begins with {start!r}, of {_some(weights)}")
    chosen: dict[str, Any] = {}
    for name in weights:
        if name in left_out:
            continue
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
