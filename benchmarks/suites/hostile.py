"""Hostile files: checkpoints, runs and weights that were made to do harm; and headers changed at random."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import struct
import time
import zipfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

import statetrain as st
from statetrain import jsons
from statetrain.checkpoints import checkpoint, directory, tensorfile
from statetrain.errors import CheckpointError
from suites.case import Case, listening, refused, scratch
from suites.toy import Net, Setting, train

TITLE = "hostile files and fuzzed headers"
GOAL = 2040

FUZZED = 2000
SECONDS = 1.0  # of this process, until the error is there
MEMORY = 64 << 20  # bytes above what was used before


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
    "a header that is not JSON": hostile(b"{'a': 1}"),
    "200,000 tensors": hostile({f"t{i}": row(shape=[0], offsets=[0, 0]) for i in range(200_000)}),
    "a header that is no text": hostile(b"\xff\xfe\xfd"),
    "a list": hostile([]),
    "a number": hostile(3),
    "a key twice": hostile(
        b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}',
        b"x",
    ),
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


class Runs:
    """What a pickle calls when it is read.

    Args:
        call: a function, and what it is called with.
    """

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


MARKS = Path("harm-was-done")


def _pickles(mark: Path) -> dict[str, bytes]:
    """Pickles that leave a mark when they are read, bare and as torch writes them."""
    harm = {
        "os.system": Runs(os.system, f"touch {mark}"),
        "exec": Runs(exec, f"open({str(mark)!r}, 'w')"),
        "eval": Runs(eval, f"open({str(mark)!r}, 'w')"),
        "open": Runs(open, str(mark), "w"),
        "an import": Runs(__import__, "antigravity"),
    }
    found: dict[str, bytes] = {}
    for name, thing in harm.items():
        found[f"a pickle of {name}"] = pickle.dumps({"model": thing})
        buffer = io.BytesIO()
        torch.save({"weights": thing}, buffer)
        found[f"torch's pickle of {name}"] = buffer.getvalue()
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(50 << 20))
    found["a zip of 50 MB of zeros"] = bomb.getvalue()
    found["50 MB of brackets"] = b"[" * (50 << 20)
    return found


STATES = {
    "a name that is code": {"~": "os.system", "items": ["touch x"]},
    "an import path": {"~": "statetrain.outcome:StopFit"},
    "a kind that is no text": {"~": ["tuple"]},
    "a tensor that is not there": {"~": "tensor", "name": "nowhere"},
    "items that are no list": {"~": "tuple", "items": {"a": 1}},
    "bytes that are none": {"~": "bytes", "base64": "%%%"},
    "a number that is none": {"~": "float", "value": "1e999999"},
    "a dict with keys that cannot be": {"~": "dict", "items": [[{"a": 1}, 2]]},
    "a state without its parts": {},
    "a list for a state": [1, 2, 3],
}


@cache
def _sound(process: int) -> Path:
    """A run that was saved, to be changed in copies."""
    from suites.damage import run_folder

    return run_folder(process)


def _sealed(path: Path, name: str, content: bytes) -> None:
    """Puts a file into a checkpoint, and sums that are right into its manifest: whoever made it knew how."""
    rows = json.loads((path / checkpoint.MANIFEST).read_bytes())
    del rows["sha256"]
    (path / name).write_bytes(content)
    rows["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    own = hashlib.sha256(jsons.to_bytes(rows)).hexdigest()
    (path / checkpoint.MANIFEST).write_bytes(jsons.to_bytes({**rows, "sha256": own}))


def _readers(path: Path) -> dict[str, Callable[[], object]]:
    """All that reads such a directory."""
    return {
        "read": lambda: checkpoint.read(path),
        "load_checkpoint": lambda: st.load_checkpoint(Net(), path),
        "fit": lambda: train(Setting(), None, resume=str(path)),
    }


def _harmless(work: Callable[[], object], around: Path, *kinds: type[BaseException]) -> None:
    """Expects an error at once, no memory taken, and nothing written around."""
    before = sorted(around.rglob("*"))
    used, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    refused(work, *kinds)
    assert time.process_time() - began < SECONDS, f"it took {time.process_time() - began:.2f} s"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used) * 1024
    largest = max((file.stat().st_size for file in before if file.is_file()), default=0)
    assert grown < MEMORY + 2 * largest, f"it took {grown >> 20} MB"
    assert sorted(around.rglob("*")) == before, "something was written"
    assert not Path("x").exists(), "something was run"


def in_checkpoint(name: str, content: Callable[[Path], bytes], reader: str) -> None:
    """Puts a file into a checkpoint whose sums are right, and reads it in one way."""
    with scratch() as base, listening():
        newest = directory.complete(_sound(os.getpid()), aside=False)[0].path
        path = base / newest.name
        shutil.copytree(newest, path)
        _sealed(path, name, content(base / MARKS))
        _harmless(_readers(path)[reader], base, CheckpointError)


def as_weights(content: Callable[[Path], bytes], load: str) -> None:
    """Gives a file to what reads weights or runs."""
    with scratch() as base:
        path = base / "given.safetensors"
        path.write_bytes(content(base / MARKS))
        loads = {
            "tensorfile": lambda: tensorfile.read(path),
            "load": lambda: st.load(path),
            "load_weights": lambda: st.load_weights(Net(), path),
        }
        _harmless(loads[load], base, CheckpointError)


def _link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def no_file(name: str, change: Callable[[Path], None], reader: str) -> None:
    """Puts something that is no file in a file's place."""
    with scratch() as base, listening():
        newest = directory.complete(_sound(os.getpid()), aside=False)[0].path
        path = base / newest.name
        shutil.copytree(newest, path)
        change(path / name)
        _harmless(_readers(path)[reader], base, CheckpointError, OSError)


def manifest_names(names: str) -> None:
    """A manifest, rightly summed up, that names files elsewhere."""
    with scratch() as base, listening():
        newest = directory.complete(_sound(os.getpid()), aside=False)[0].path
        path = base / newest.name
        shutil.copytree(newest, path)
        rows = json.loads((path / checkpoint.MANIFEST).read_bytes())
        del rows["sha256"]
        rows["files"] = {
            names: rows["files"][checkpoint.STATE],
            checkpoint.TENSORS: rows["files"][checkpoint.TENSORS],
        }
        own = hashlib.sha256(jsons.to_bytes(rows)).hexdigest()
        (path / checkpoint.MANIFEST).write_bytes(jsons.to_bytes({**rows, "sha256": own}))
        _harmless(lambda: checkpoint.verify(path), base, CheckpointError)


# ---------------------------------------------------------------- headers


@cache
def _header(process: int) -> tuple[bytes, int, int, Path]:
    """A sound file of tensors, the length of its header, and an open file to write others over."""
    from suites.damage import _home

    path = _home(process) / "fuzzed"
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "weight": torch.randn(3, 4, generator=generator),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "empty": torch.zeros(0, 7),
    }
    tensorfile.write(
        file,
        {
            **tensors,
            "flag": torch.tensor([True, False]),
            "half": torch.ones(3, dtype=torch.bfloat16),
        },
        {"made by": "a test"},
    )
    content = path.read_bytes()
    return content, struct.unpack("<Q", content[:8])[0], file, path


def fuzzed(seed: int) -> int:
    """A header with bytes changed, cut and repeated: a file's error or a sound file, never anything else. Whether it was refused."""
    content, length, file, path = _header(os.getpid())
    draw, header = random.Random(seed), bytearray(content[: 8 + length])
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
    # Far faster than a file anew
    os.ftruncate(file, os.pwrite(file, bytes(header) + content[8 + length :], 0))
    began = time.process_time()
    try:
        tensors, _ = tensorfile.read(path)
    except CheckpointError:
        return 1
    finally:
        assert time.process_time() - began < SECONDS, f"it took {time.process_time() - began:.2f} s"
    assert sum(tensor.nbytes for tensor in tensors.values()) <= len(content)
    return 0


def cases() -> list[Case]:
    """Each file through each reader, and the headers."""
    found = []
    for name, content in HOSTILE.items():
        found.append(
            Case(
                f"tensors: {name}, read",
                partial(
                    in_checkpoint,
                    checkpoint.TENSORS,
                    lambda mark, content=content: content,  # type: ignore[misc]  # bound now
                    "read",
                ),
            )
        )
        found += [
            Case(
                f"{load}: {name}",
                partial(as_weights, lambda mark, content=content: content, load),  # type: ignore[misc]
            )
            for load in ("tensorfile", "load", "load_weights")
        ]
    for name in _pickles(MARKS):
        made = partial(_pickle, name)
        found += [
            Case(f"{file}: {name}, {reader}", partial(in_checkpoint, file, made, reader))
            for file in (checkpoint.STATE, checkpoint.TENSORS)
            for reader in _readers(MARKS)
        ]
        found += [
            Case(f"{load}: {name}", partial(as_weights, made, load))
            for load in ("load", "load_weights")
        ]
    for name, state in STATES.items():
        text = json.dumps(state).encode()
        readers = (
            ("fit", "load_checkpoint")
            if name.endswith(("parts", "a state"))
            else tuple(_readers(MARKS))
        )
        found += [
            Case(
                f"state: {name}, {reader}",
                partial(in_checkpoint, checkpoint.STATE, lambda mark, text=text: text, reader),  # type: ignore[misc]
            )
            for reader in readers
        ]
    for file in (checkpoint.MANIFEST, checkpoint.STATE, checkpoint.TENSORS):
        for change in (_link, _pipe, _device, _folder):
            found += [
                Case(
                    f"{file}: a {change.__name__.strip('_')}, {reader}",
                    partial(no_file, file, change, reader),
                )
                for reader in ("read", "fit")
            ]
    names = (
        "../state.json",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a/b",
        "a\\b",
        "C:\\x",
        "a\x00b",
        "x" * 200,
        "-rf",
        "state.json ",
        "$(x)",
        "\u202ejson",
    )
    found += [
        Case(f"a manifest that names {name!r:.40}", partial(manifest_names, name)) for name in names
    ]
    return found + [Case(f"header {seed}", partial(fuzzed, seed)) for seed in range(FUZZED)]


def _pickle(name: str, mark: Path) -> bytes:
    return _pickles(mark)[name]
