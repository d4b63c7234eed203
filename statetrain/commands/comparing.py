"""What differs between the data of two checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from statetrain.checkpoints.modules import describe_tensor


def differences(one: Any, two: Any, path: str = "") -> Iterator[str]:
    """What differs between the data of two checkpoints, as text, each with its path.

    Args:
        one: of the first, as `checkpoint.read` gives it.
        two: of the second.
        path: where they are within larger ones.
    """
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        yield from _different_tensors(one, two, path)
    elif _are_arrays(one, two):
        yield from _different_tensors(torch.as_tensor(one), torch.as_tensor(two), path)
    elif isinstance(one, dict) and isinstance(two, dict):
        yield from _different_entries(one, two, path)
    elif isinstance(one, list | tuple) and type(one) is type(two):
        yield from _different_lists(one, two, path)
    elif repr(one) != repr(two):  # so that NaN is NaN, and 1 is not 1.0
        yield f"{path}: {one!r:.60}, {two!r:.60}"


def _are_arrays(one: Any, two: Any) -> bool:
    """Whether both are arrays of numpy, whose repr leaves out most numbers of a large one."""
    return hasattr(one, "__array_interface__") and hasattr(two, "__array_interface__")


def _different_entries(one: dict[Any, Any], two: dict[Any, Any], path: str) -> Iterator[str]:
    for key in dict.fromkeys([*one, *two]):
        at = f"{path}.{key}".removeprefix(".")
        if key not in two:
            yield f"{at}: only in the first"
        elif key not in one:
            yield f"{at}: only in the second"
        else:
            yield from differences(one[key], two[key], at)


def _different_lists(one: Any, two: Any, path: str) -> Iterator[str]:
    if len(one) != len(two):
        yield f"{path}: {len(one)} entries, {len(two)}"
    for i, (a, b) in enumerate(zip(one, two, strict=False)):
        yield from differences(a, b, f"{path}[{i}]")


def _different_tensors(one: torch.Tensor, two: torch.Tensor, path: str) -> Iterator[str]:
    if one.shape != two.shape or one.dtype != two.dtype:
        yield f"{path}: {describe_tensor(one)}, {describe_tensor(two)}"
    elif _bits(one).equal(_bits(two)):
        return
    elif not (one.is_floating_point() or one.is_complex()):
        yield f"{path}: {int((one != two).sum())} of {one.numel()} numbers differ"
    else:
        apart = ~((one == two) | (one.isnan() & two.isnan()))
        most = 0.0  # of zeros that have another sign
        if apart.any():
            most = float((one.to(torch.complex128) - two.to(torch.complex128)).abs()[apart].max())
        yield (f"{path}: {int(apart.sum())} of {one.numel()} numbers differ, by at most {most:.3g}")


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
