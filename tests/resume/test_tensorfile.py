"""Tensors in files: the safetensors format, written so that others can read it, and read without trusting it."""

import hashlib
import json
import os
import struct
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from suites.hostile import HOSTILE, hostile, row

from statetrain.checkpoints import tensorfile
from statetrain.errors import CheckpointError

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
    return a.keys() == b.keys() and all(
        a[name].dtype is b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


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
    save(
        tmp_path / "a",
        {
            "a": torch.zeros(3, dtype=torch.int8),
            "b": torch.zeros(1, dtype=torch.float64),
            "c": torch.zeros(3, dtype=torch.int16),
        },
    )
    content = (tmp_path / "a").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert (8 + length) % 8 == 0
    assert [
        header[name]["data_offsets"][0] % size for name, size in (("a", 1), ("b", 8), ("c", 2))
    ] == [0, 0, 0]


def test_a_type_that_the_format_has_no_name_for_is_refused(tmp_path: Path) -> None:
    """The error names the tensor and its type."""
    with pytest.raises(CheckpointError, match=r"'z' has the type torch.complex128"):
        save(tmp_path / "a", {"z": torch.zeros(1, dtype=torch.complex128)})


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
