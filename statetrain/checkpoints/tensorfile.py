"""Tensors in a file, in the safetensors format: a length, a header in JSON, and the numbers.

The format is simple enough to be written in one pass, with its checksum, and to be read straight
into the tensors. Any tool that knows safetensors can read what is written here. What is read is not
trusted: each entry of the header is checked against the file before a byte is allocated for it, and
nothing in a file is ever executed.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import io
import math
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from statetrain import jsons
from statetrain.compute.parts import is_part
from statetrain.errors import CheckpointError

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_LONGEST_HEADER = 16 << 20  # bytes
_MOST_TENSORS = 100_000
_CHUNK = 16 << 20  # bytes that are written or read at once
_METADATA = "__metadata__"


class Digest(NamedTuple):
    """What a file is known by."""

    size: int  # bytes
    sha256: str  # hexadecimal


class TensorEntry(NamedTuple):
    """A tensor in the header of a file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int  # bytes after the header
    end: int


# ---------------------------------------------------------------- writing


def write(
    file: int, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> Digest:
    """Writes tensors to an open file; it is not flushed to the disk.

    Args:
        file: a descriptor, at the start of an empty file.
        tensors: strided ones, on any device, by name.
        metadata: texts by name, for the header.

    Raises:
        CheckpointError: a type of numbers has no name in the format, or there are too many tensors.
        OSError: the file could not be written.
    """
    if sys.byteorder != "little":
        raise CheckpointError(
            "tensors are written as little-endian machines hold them, and this machine is not one"
        )
    if len(tensors) > _MOST_TENSORS:
        raise CheckpointError(
            f"a file holds at most {_MOST_TENSORS:,} tensors, got {len(tensors):,}; stack them"
        )
    # The largest numbers first, so that each tensor lies where a multiple of its number's size is.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    at = 0
    for name in order:
        tensor = tensors[name]
        _refuse_unfit(name, tensor)
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = jsons.to_bytes(header)
    text += b" " * (-len(text) % 8)
    if len(text) > _LONGEST_HEADER:
        raise CheckpointError(
            f"{len(tensors)} tensors need a header of {len(text)} bytes; at most {_LONGEST_HEADER}"
            " are read"
        )
    writer = TensorWriter(file)
    writer.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        held = tensors[name].detach().resolve_conj().resolve_neg().to("cpu").contiguous()
        writer.write(_memory(held))
    return writer.digest


def _refuse_unfit(name: str, tensor: torch.Tensor) -> None:
    """Raises a `CheckpointError` for a tensor that cannot be in a file."""
    if is_part(tensor):
        raise CheckpointError(
            f"of {name!r} each rank holds a part, and what is written here is of one rank; only"
            " Checkpoint, save and save_weights put parts together"
        )
    if tensor.dtype not in _NAMES:
        raise CheckpointError(
            f"tensor {name!r} has the type {tensor.dtype}, which the safetensors format has no name"
            " for"
        )


class TensorWriter:
    """Writes bytes to a descriptor and keeps their digest."""

    def __init__(self, file: int) -> None:
        self._file, self._size, self._sha = file, 0, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        """Writes all of it.

        Raises:
            OSError: the file could not be written.
        """
        rest = memoryview(data)
        while len(rest):
            written = os.write(self._file, rest[:_CHUNK])
            self._sha.update(rest[:written])
            self._size += written
            rest = rest[written:]

    @property
    def digest(self) -> Digest:
        """Of what was written so far."""
        return Digest(self._size, self._sha.hexdigest())


def _memory(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, which has to outlive them."""
    size = tensor.numel() * tensor.element_size()
    if not size:
        return memoryview(b"")
    return memoryview((ctypes.c_ubyte * size).from_address(tensor.data_ptr())).cast("B")


def as_text(tensor: torch.Tensor) -> list[Any]:
    """A small tensor as type, shape, and its bytes in base 64."""
    held = tensor.detach().resolve_conj().resolve_neg().to("cpu").contiguous()
    if held.dtype not in _NAMES:
        raise CheckpointError(f"a tensor has the type {held.dtype}, which cannot be saved")
    return [_NAMES[held.dtype], list(held.shape), base64.b64encode(_memory(held)).decode()]


def from_text(parts: Any) -> torch.Tensor:
    """What `as_text` was given, on the CPU.

    Raises:
        ValueError, KeyError, TypeError: it is not what that gives.
    """
    kind, shape, text = parts
    dtype, data = _DTYPES[kind], base64.b64decode(text, validate=True)
    if not _whole_numbers(shape, 0, 32) or len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"a tensor of shape {shape!r:.80} does not have {len(data)} bytes")
    tensor = torch.empty(shape, dtype=dtype)
    _memory(tensor)[:] = data
    return tensor


# ---------------------------------------------------------------- reading


def open_file(path: Path) -> io.FileIO:
    """Opens a regular file for reading; a link, a device or a pipe is refused.

    Raises:
        CheckpointError: it is none.
        OSError: it is not there, or cannot be read.
    """
    flags = (
        os.O_RDONLY
        | getattr(os, "O_NOFOLLOW", 0)
        | getattr(os, "O_NONBLOCK", 0)
        | getattr(os, "O_BINARY", 0)
    )
    file = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise CheckpointError(f"{path.name} is not a regular file")
    return io.FileIO(file)


def read(
    path: Path, expected: Digest | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Reads all tensors, on the CPU, and the metadata.

    Args:
        path: a safetensors file of any origin.
        expected: what the file has to be; checked while it is read.

    Raises:
        CheckpointError: the file is not sound, or not the expected one; the message names it.
        OSError: it cannot be opened or read.
    """
    with open_file(path) as file:
        return _read(file, path.name, os.fstat(file.fileno()).st_size, expected)


def _read(
    file: io.FileIO, name: str, size: int, expected: Digest | None
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if expected is not None and size != expected.size:
        raise CheckpointError(f"{name} has {size} bytes, expected {expected.size}")
    sha = hashlib.sha256()
    length = _header_length(file, name, size, sha)
    try:
        entries, metadata = parse(_exactly(file, length, name, sha), size - 8 - length)
        tensors = {entry.name: _read_tensor(file, entry, name, sha) for entry in entries}
    except (ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{name}: {error}") from error
    if expected is not None and sha.hexdigest() != expected.sha256:
        raise CheckpointError(f"{name} is not what was written: its sha256 differs")
    return tensors, metadata


def _header_length(file: io.FileIO, name: str, size: int, sha: Any) -> int:
    if size < 8:
        raise CheckpointError(f"{name} has {size} bytes, too few for a safetensors file")
    length = int.from_bytes(_exactly(file, 8, name, sha), "little")
    if length > min(_LONGEST_HEADER, size - 8):
        raise CheckpointError(
            f"{name}: its header cannot have {length} bytes, in a file of {size}; at most"
            f" {_LONGEST_HEADER} are read"
        )
    return length


def _read_tensor(file: io.FileIO, entry: TensorEntry, name: str, sha: Any) -> torch.Tensor:
    tensor = torch.empty(entry.shape, dtype=entry.dtype)
    _fill(file, _memory(tensor), name, sha)
    if entry.dtype is torch.bool and tensor.view(torch.uint8).gt(1).any():
        raise ValueError(f"{entry.name!r} is of bools, but has others than 0 and 1")
    return tensor


def _exactly(file: io.FileIO, size: int, name: str, sha: Any) -> bytes:
    buffer = bytearray(size)
    _fill(file, memoryview(buffer), name, sha)
    return bytes(buffer)


def _fill(file: io.FileIO, view: memoryview, name: str, sha: Any) -> None:
    while len(view):
        count = file.readinto(view[:_CHUNK])
        if not count:
            raise CheckpointError(f"{name} ended while it was read")
        sha.update(view[:count])
        view = view[count:]


def parse(header: bytes, size: int) -> tuple[list[TensorEntry], dict[str, str]]:
    """The entries of a header, in the order of their bytes, and its metadata.

    Args:
        header: the JSON.
        size: bytes after the header.

    Raises:
        ValueError: it is malformed, has too many entries, or they do not fill those bytes exactly,
            each with the bytes that it needs.
    """
    # A quotation mark within a text is escaped, so this counts keys; parsing would take seconds.
    if (most := header.count(b'"data_offsets"')) > _MOST_TENSORS:
        raise ValueError(f"the header has {most:,} tensors, at most {_MOST_TENSORS:,} are read")
    data = jsons.loads(header)
    metadata = None
    if isinstance(data, dict):
        metadata = data.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(
        isinstance(text, str) for text in metadata.values()
    ):
        raise ValueError(
            f"the header must be tensors by name, and {_METADATA} texts by name, got {data!r:.80}"
        )
    entries = sorted(_entries(data), key=lambda entry: (entry.begin, entry.end))
    at = 0
    for entry in entries:
        if entry.begin != at:
            raise ValueError(
                f"tensor {entry.name!r:.80} begins at byte {entry.begin}, where the one before ends"
                f" at {at}"
            )
        at = entry.end
    if at != size:
        raise ValueError(f"the tensors have {at} bytes, the file has {size} for them")
    return entries, metadata


def _entries(data: dict[str, Any]) -> Iterator[TensorEntry]:
    for name, row in data.items():
        if not isinstance(row, dict) or set(row) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(
                f"tensor {name!r:.80} must have dtype, shape and data_offsets, got {row!r:.80}"
            )
        dtype = _DTYPES.get(str(row["dtype"]))
        if dtype is None:
            raise ValueError(f"tensor {name!r:.80} has the unknown dtype {row['dtype']!r:.40}")
        shape, offsets = row["shape"], row["data_offsets"]
        if not _whole_numbers(shape, 0, 32) or not _whole_numbers(offsets, 2, 2):
            raise ValueError(
                f"tensor {name!r:.80}: shape and data_offsets must be whole numbers from 0, got"
                f" {shape!r:.80} and {offsets!r:.80}"
            )
        if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
            raise ValueError(
                f"tensor {name!r:.80} of shape {shape!r:.80} and dtype {row['dtype']} does not have"
                f" {offsets[1] - offsets[0]} bytes"
            )
        yield TensorEntry(name, dtype, tuple(shape), *offsets)


def _whole_numbers(values: Any, least: int, most: int) -> bool:
    """Whether it is a list of so many whole numbers from 0."""
    if not isinstance(values, list) or not least <= len(values) <= most:
        return False
    return all(type(n) is int and 0 <= n < 1 << 48 for n in values)
