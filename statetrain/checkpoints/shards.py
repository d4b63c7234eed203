"""Files with the parts of tensors that ranks hold, and the tensors that they make together.

Each rank writes one file, `tensors-00003-of-00008.safetensors`, with its parts under the names of
the whole tensors. The header says of each where it lies: the shape of the whole, and the offset of
the part by dimension. Parts are boxes; together they have to fill the whole, and none twice.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch

from statetrain import jsons
from statetrain.compute.parts import PartPlace, is_part, local, place_of
from statetrain.errors import CheckpointError

_NAME = re.compile(r"tensors-(\d{5})-of-(\d{5})\.safetensors")
_KEY = "parts"  # of the text in the header
_LARGEST = 1 << 48  # elements of a dimension


def shard_name(rank: int, ranks: int) -> str:
    """The name of a rank's file, which counts from 1."""
    return f"tensors-{rank + 1:05d}-of-{ranks:05d}.safetensors"


def is_shard(name: str) -> bool:
    """Whether a file is named as one with parts."""
    return _NAME.fullmatch(name) is not None


def check_shards(names: Collection[str]) -> None:
    """Checks that the files of all ranks are there, if there are any.

    Raises:
        ValueError: some are missing, or those of another number of ranks are among them.
    """
    numbers = {match.groups() for name in names if (match := _NAME.fullmatch(name))}
    counts = {ranks for _, ranks in numbers}
    wanted = {(f"{n + 1:05d}", ranks) for ranks in counts for n in range(int(ranks))}
    if len(counts) > 1 or numbers != wanted:
        raise ValueError(f"it names the parts of some ranks, not of all: {', '.join(names)}")


# ---------------------------------------------------------------- writing


def own_parts(
    tensors: Mapping[str, torch.Tensor], rank: int
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What this rank writes: the parts that it holds, and the text of the header.

    Of what several ranks hold alike, the first writes; parts without an element are rank 0's.
    """
    parts: dict[str, torch.Tensor] = {}
    places: dict[str, Any] = {}
    for name, tensor in tensors.items():
        place = place_of(tensor)
        held = local(tensor.detach())
        if place is None or (rank > 0 and not held.numel()):
            continue
        parts[name], places[name] = held, [list(place.shape), list(place.offset)]
    return parts, {"format": "pt", _KEY: jsons.to_bytes(places).decode()}


def divided(
    tensors: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The tensors that are whole on each rank, and those of which ranks hold parts."""
    rest = {name: tensor for name, tensor in tensors.items() if not is_part(tensor)}
    return rest, {name: tensor for name, tensor in tensors.items() if is_part(tensor)}


# ---------------------------------------------------------------- reading


class _PartBox(NamedTuple):
    """A part as it was read, and where it lies."""

    place: PartPlace
    held: torch.Tensor

    @property
    def box(self) -> tuple[slice, ...]:
        return tuple(
            slice(start, start + size)
            for start, size in zip(self.place.offset, self.held.shape, strict=True)
        )

    def overlaps(self, other: _PartBox) -> bool:
        """Whether an element lies in both; of boxes with elements."""
        return all(
            one.start < two.stop and two.start < one.stop
            for one, two in zip(self.box, other.box, strict=True)
        )


def join_parts(
    files: Iterable[tuple[dict[str, torch.Tensor], Mapping[str, str]]],
) -> dict[str, torch.Tensor]:
    """The whole tensors of the files of all ranks, on the CPU.

    Args:
        files: the tensors of each, and the texts of its header.

    Raises:
        CheckpointError: parts do not fill a tensor, or overlap; the message names it.
    """
    found: dict[str, list[_PartBox]] = {}
    for tensors, texts in files:
        places = _places(texts)
        if places.keys() != tensors.keys():
            raise CheckpointError("a file of parts does not say where each of them lies")
        for name, held in tensors.items():
            found.setdefault(name, []).append(_PartBox(places[name], held))
    return {name: _join(name, parts) for name, parts in found.items()}


def _places(texts: Mapping[str, str]) -> dict[str, PartPlace]:
    try:
        data = jsons.loads(texts[_KEY])
        return {
            name: PartPlace(_sizes(shape), _sizes(offset)) for name, (shape, offset) in data.items()
        }
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"a file of parts does not say where they lie: {error}") from error


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(
        type(n) is int and 0 <= n < _LARGEST for n in values
    ):
        raise ValueError(f"a shape or an offset is whole numbers from 0, got {values!r:.80}")
    return tuple(values)


def _join(name: str, parts: list[_PartBox]) -> torch.Tensor:
    """One whole tensor."""
    shape, dtype = parts[0].place.shape, parts[0].held.dtype
    if any((part.place.shape, part.held.dtype) != (shape, dtype) for part in parts):
        raise CheckpointError(f"the parts of {name!r} are of tensors of several shapes or types")
    if not all(_fits(part) for part in parts):
        raise CheckpointError(f"a part of {name!r} lies outside of its shape {shape}")
    filled = [part for part in parts if part.held.numel()]
    overlap = any(one.overlaps(two) for one, two in itertools.combinations(filled, 2))
    if overlap or sum(part.held.numel() for part in parts) != math.prod(shape):
        raise CheckpointError(f"the parts of {name!r} do not make a tensor of shape {shape}")
    if len(filled) == 1 and filled[0].held.shape == shape:
        return filled[0].held
    made = torch.empty(shape, dtype=dtype)
    for part in filled:
        made[part.box] = part.held
    return made


def _fits(part: _PartBox) -> bool:
    ends = [start + size for start, size in zip(part.place.offset, part.held.shape, strict=False)]
    dims = (len(part.place.shape), len(part.place.offset), part.held.ndim)
    return len(set(dims)) == 1 and all(
        end <= most for end, most in zip(ends, part.place.shape, strict=True)
    )
