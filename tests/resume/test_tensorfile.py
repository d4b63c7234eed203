"""Tensors in files: the safetensors format, written so that others can read it, and read without trusting it."""

import hashlib
import json
import os
import random
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from statetrain import tensorfile
from statetrain.outcome import CheckpointError

TENSORS = {
    "weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "läuft ✓": torch.arange(5, dtype=torch.uint8),
    "empty": torch.zeros(0, 7),
    "scalar": torch.tensor(3, dtype=torch.int16),
    "flag": torch.tensor([True, False]),
    "half": torch.ones(3, dtype=torch.bfloat16),
}


def save(path: Path, tensors: dict[str, torch.Tensor]) -> tensorfile.Digest:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        return tensorfile.write(file, tensors, {"made by": "a test"})
    finally:
        os.close(file)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].dtype is b[name].dtype and torch.equal(a[name], b[name]) for name in a)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Names, types, shapes and bits; and the digest is that of the file."""
    digest = save(tmp_path / "a.safetensors", TENSORS)
    back, metadata = tensorfile.read(tmp_path / "a.safetensors", digest)
    assert same(back, TENSORS)
    assert metadata == {"made by": "a test"}
    content = (tmp_path / "a.safetensors").read_bytes()
    assert digest == (len(content), hashlib.sha256(content).hexdigest())


def test_other_tools_read_what_is_written_and_the_other_way_round(tmp_path: Path) -> None:
    """The safetensors package and this file agree on the format."""
    save(tmp_path / "ours", TENSORS)
    assert same(safetensors.torch.load_file(tmp_path / "ours"), TENSORS)
    safetensors.torch.save_file(TENSORS, tmp_path / "theirs", {"a": "b"})
    back, metadata = tensorfile.read(tmp_path / "theirs")
    assert same(back, TENSORS)
    assert metadata == {"a": "b"}


def test_tensors_lie_where_their_numbers_can_be_read_in_place(tmp_path: Path) -> None:
    """Each begins at a multiple of its number's size, whatever the order in which they were given."""
    save(tmp_path / "a", {"a": torch.zeros(3, dtype=torch.int8), "b": torch.zeros(1, dtype=torch.float64), "c": torch.zeros(3, dtype=torch.int16)})
    content = (tmp_path / "a").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert (8 + length) % 8 == 0
    assert [header[name]["data_offsets"][0] % size for name, size in (("a", 1), ("b", 8), ("c", 2))] == [0, 0, 0]


def test_a_type_that_the_format_has_no_name_for_is_refused(tmp_path: Path) -> None:
    """The error names the tensor and its type."""
    with pytest.raises(CheckpointError, match=r"'z' has the type torch.complex128"):
        save(tmp_path / "a", {"z": torch.zeros(1, dtype=torch.complex128)})


def hostile(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def row(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HOSTILE = {
    "nothing": b"",
    "seven bytes": b"1234567",
    "no header": struct.pack("<Q", 0),
    "a header longer than the file": hostile({}, length=1 << 20),
    "a header of 8 exabytes": hostile({}, length=(1 << 63) - 1),
    "a header of all ones": b"\xff" * 64,
    "a header that is no JSON": hostile(b"{'a': 1}"),
    "a header that is no text": hostile(b"\xff\xfe\xfd"),
    "a list": hostile([]),
    "a number": hostile(3),
    "a key twice": hostile(b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', b"x"),
    "NaN": hostile(b'{"a": NaN}'),
    "depth": hostile(b'{"a":' * 100_000),
    "a row that is no object": hostile({"a": [1, 2]}),
    "a row with too little": hostile({"a": {"dtype": "F32", "shape": [2]}}),
    "a row with too much": hostile({"a": {**row(), "strides": [1]}}, bytes(8)),
    "an unknown dtype": hostile({"a": row("F31")}, bytes(8)),
    "a dtype that is no text": hostile({"a": row(["F32"])}, bytes(8)),
    "a dtype that is a name": hostile({"a": row("os.system")}, bytes(8)),
    "a negative dimension": hostile({"a": row(shape=[-2])}, bytes(8)),
    "a dimension that is no number": hostile({"a": row(shape=["2"])}, bytes(8)),
    "a dimension that is a bool": hostile({"a": row(shape=[True, 2])}, bytes(8)),
    "a fraction": hostile({"a": row(shape=[2.0])}, bytes(8)),
    "shapes that overflow": hostile({"a": row(shape=[1 << 40, 1 << 40])}, bytes(8)),
    "a product that wraps around": hostile({"a": row(shape=[1 << 32, 1 << 32, 2])}, bytes(8)),
    "a thousand dimensions": hostile({"a": row(shape=[1] * 1000 + [2])}, bytes(8)),
    "a shape that is larger than its bytes": hostile({"a": row(shape=[3])}, bytes(8)),
    "bytes that are larger than the shape": hostile({"a": row(offsets=[0, 12])}, bytes(12)),
    "an end before the beginning": hostile({"a": row(offsets=[8, 0])}, bytes(8)),
    "a negative beginning": hostile({"a": row(offsets=[-8, 0])}, bytes(8)),
    "an end behind the file": hostile({"a": row()}, bytes(4)),
    "three offsets": hostile({"a": row(offsets=[0, 4, 8])}, bytes(8)),
    "tensors that overlap": hostile({"a": row(), "b": row()}, bytes(8)),
    "tensors that overlap by half": hostile({"a": row(), "b": row(offsets=[4, 12])}, bytes(12)),
    "a hole between tensors": hostile({"a": row(), "b": row(offsets=[12, 20])}, bytes(20)),
    "bytes of nobody": hostile({"a": row()}, bytes(9)),
    "a terabyte": hostile({"a": row("U8", [1 << 40], [0, 1 << 40])}, bytes(8)),
    "a bool that is two": hostile({"a": row("BOOL", [2], [0, 2])}, b"\x01\x02"),
    "metadata that is no object": hostile({"__metadata__": 3}),
    "metadata of numbers": hostile({"__metadata__": {"a": 3}}),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_an_error_at_once(content: bytes, tmp_path: Path) -> None:
    """The message names the file; it takes less than a second, and nothing is allocated for what the file only claims."""
    path = tmp_path / "evil.safetensors"
    path.write_bytes(content)
    began = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"^evil\.safetensors"):
        tensorfile.read(path)
    assert time.perf_counter() - began < 1


def test_empty_shapes_of_any_size_are_no_trap(tmp_path: Path) -> None:
    """A dimension of 0 beside an enormous one needs no bytes; it is read or refused, and nothing else."""
    (tmp_path / "a").write_bytes(hostile({"a": row(shape=[0, 1 << 47], offsets=[0, 0])}))
    assert tensorfile.read(tmp_path / "a")[0]["a"].numel() == 0
    (tmp_path / "b").write_bytes(hostile({"a": row(shape=[0, *([1 << 47] * 9)], offsets=[0, 0])}))
    with pytest.raises(CheckpointError, match=r"^b: "):
        tensorfile.read(tmp_path / "b")


def test_fuzzed_headers_are_read_or_refused(tmp_path: Path) -> None:
    """2,000 headers with bytes changed, cut and repeated: each is a file's error or a sound file, never anything else."""
    save(tmp_path / "a", TENSORS)
    content = (tmp_path / "a").read_bytes()
    file = os.open(tmp_path / "b", os.O_RDWR | os.O_CREAT)
    (length,) = struct.unpack("<Q", content[:8])
    draw, refused = random.Random(0), 0
    for _ in range(2000):
        header = bytearray(content[: 8 + length])
        for _ in range(draw.choice((1, 1, 2, 8))):
            at = draw.randrange(len(header))
            change = draw.choice(("flip", "set", "cut", "repeat", "digit"))
            if change == "flip":
                header[at] ^= 1 << draw.randrange(8)
            elif change == "set":
                header[at] = draw.choice(b'{}[]",:0\x00\xff')
            elif change == "cut":
                del header[at : at + draw.randrange(1, 9)]
            elif change == "repeat":
                header[at:at] = header[at : at + draw.randrange(1, 30)]
            else:
                digits = [i for i, byte in enumerate(header) if i >= 8 and chr(byte).isdigit()]
                header[draw.choice(digits)] = draw.choice(b"0123456789-")
            if not header:
                break
        os.ftruncate(file, os.pwrite(file, bytes(header) + content[8 + length :], 0))  # far faster than a file anew
        try:
            tensors, _ = tensorfile.read(tmp_path / "b")
            assert sum(tensor.nbytes for tensor in tensors.values()) <= len(content)
        except CheckpointError:
            refused += 1
    os.close(file)
    assert refused > 1500


@pytest.mark.parametrize("kind", ["link", "directory", "pipe", "device", "missing"])
def test_only_regular_files_are_opened(kind: str, tmp_path: Path) -> None:
    """A link, a pipe (which would wait for ever), a device or a directory in a file's place is an error."""
    path = tmp_path / "a"
    if kind == "link":
        save(tmp_path / "real", TENSORS)
        path.symlink_to(tmp_path / "real")
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    with pytest.raises((CheckpointError, OSError), match=path.name):
        tensorfile.read(path)
