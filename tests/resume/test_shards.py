"""Files with parts of tensors: together they are the tensors, or they are refused."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as hy

from statetrain import jsons
from statetrain.checkpoints import checkpoint, plain, tensorfile
from statetrain.checkpoints.shards import check_shards, is_shard, join_parts, shard_name
from statetrain.errors import CheckpointError


def file_of(places: dict[str, tuple[list[int], list[int]]], tensors: dict[str, torch.Tensor]):
    """A file as it is read: the tensors, and the texts of its header."""
    return tensors, {"parts": jsons.to_bytes(places).decode()}


def cut(whole: torch.Tensor, cuts: list[list[int]]) -> list:
    """A tensor in boxes, one a file, between the cuts of each dimension."""
    edges = [[0, *sorted(set(own)), size] for own, size in zip(cuts, whole.shape, strict=True)]
    files = []
    for box in itertools.product(*(itertools.pairwise(own) for own in edges)):
        part = whole[tuple(slice(a, b) for a, b in box)]
        place = (list(whole.shape), [a for a, _ in box])
        files.append(file_of({"w": place}, {"w": part.clone()}))
    return files


@settings(max_examples=60, deadline=None)
@given(hy.data())
def test_boxes_make_the_whole_whatever_their_number_and_order(data):
    """A tensor cut anywhere, along any dimensions, is put together again bit for bit."""
    shape = data.draw(hy.lists(hy.integers(1, 5), min_size=1, max_size=3))
    cuts = [data.draw(hy.lists(hy.integers(0, size), max_size=3)) for size in shape]
    whole = torch.randn(shape)
    files = data.draw(hy.permutations(cut(whole, cuts)))
    assert torch.equal(join_parts(files)["w"], whole)


def half(offset: int, size: int = 2, shape: int = 4, dtype: torch.dtype = torch.float32):
    """A part of a vector."""
    return file_of({"w": ([shape], [offset])}, {"w": torch.ones(size, dtype=dtype)})


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([half(0)], "do not make a tensor of shape"),
        ([half(0), half(1), half(2)], "do not make"),
        ([half(0), half(0)], "do not make"),
        ([half(0), half(3)], "lies outside of its shape"),
        ([half(0), half(2, shape=5)], "of several shapes or types"),
        ([half(0), half(2, dtype=torch.float64)], "of several shapes or types"),
        ([({"w": torch.ones(2)}, {})], "does not say where they lie"),
        ([({"w": torch.ones(2)}, {"parts": "{}"})], "does not say where each of them lies"),
        ([({"w": torch.ones(2)}, {"parts": '{"w":[[2],[-1]]}'})], "whole numbers from 0"),
        ([file_of({"w": ([2], [0, 0])}, {"w": torch.ones(2)})], "outside"),
    ],
)
def test_parts_that_make_no_tensor_are_refused(files, words):
    """Gaps, overlaps, other shapes and places that are none: the message says which."""
    with pytest.raises(CheckpointError, match=words):
        join_parts(files)


def test_a_manifest_names_the_parts_of_all_ranks():
    """Those of some ranks, or of two numbers of ranks, are no checkpoint."""
    names = [shard_name(rank, 3) for rank in range(3)]
    assert names[2] == "tensors-00003-of-00003.safetensors"
    assert all(map(is_shard, names))
    check_shards([*names, "state.json"])
    check_shards(["state.json"])
    for wrong in (names[:2], [*names, shard_name(0, 1)], [shard_name(3, 3), *names]):
        with pytest.raises(ValueError, match="of some ranks, not of all"):
            check_shards(wrong)


@pytest.fixture
def sharded(tmp_path):
    """A checkpoint with the parts of two ranks."""
    path = checkpoint.make(tmp_path, "step-00000001-next_batch")
    structure, _ = plain.encode({"b": torch.zeros(2)})
    structure["w"] = {"~": "tensor", "name": "w"}
    files = checkpoint.put_files(path, {"b": torch.zeros(2)}, jsons.to_bytes(structure), None)
    for rank, (tensors, texts) in enumerate([half(0), half(2)]):
        name = shard_name(rank, 2)
        files[name] = checkpoint.put(path / name, tensors, texts)
    return checkpoint.publish(path, {}, files)


def test_a_checkpoint_of_parts_is_verified_byte_by_byte(sharded):
    """A byte that differs, a file that is missing: named."""
    data = checkpoint.read(sharded.path)
    assert data["w"].tolist() == [1.0] * 4
    assert (
        sharded.size
        == sum(path.stat().st_size for path in sharded.path.iterdir())
        - (sharded.path / checkpoint.MANIFEST).stat().st_size
    )
    last = sharded.path / shard_name(1, 2)
    content = last.read_bytes()
    last.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for look in (checkpoint.verify, checkpoint.read):
        with pytest.raises(
            CheckpointError, match=r"tensors-00002-of-00002.safetensors is not what"
        ):
            look(sharded.path)
    last.unlink()
    for look in (checkpoint.verify, checkpoint.read, checkpoint.check_sizes):
        with pytest.raises(CheckpointError, match=r"tensors-00002-of-00002.safetensors is missing"):
            look(sharded.path)


def test_unfinished_parts_are_known_and_removed(sharded):
    """Whatever of the files is there without a manifest, and a deletion that was cut short."""
    path = sharded.path
    checkpoint.delete(path)
    assert not path.exists()
    path.mkdir()
    (path / (shard_name(1, 2) + ".part")).write_bytes(b"half")
    assert checkpoint.is_unfinished(path)
    checkpoint.remove_unfinished(path)
    assert not path.exists()


def test_parts_are_no_whole_tensors_for_a_file_of_one_process(tmp_path):
    """What writes tensors alone refuses a part by name."""

    class Part(torch.Tensor):
        def full_tensor(self) -> torch.Tensor:
            raise AssertionError

    part = torch.zeros(2).as_subclass(Part)
    with (tmp_path / "x").open("wb") as file, pytest.raises(CheckpointError, match="of 'w' each"):
        tensorfile.write(file.fileno(), {"w": part})
