"""Damaged checkpoints: flipped bits, cuts, zeros, junk, files missing, swapped or of another run, edited manifests."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import statetrain as st
from statetrain import jsons
from statetrain.checkpoints import checkpoint, directory
from statetrain.checkpoints.checkpoint import LOG, MANIFEST, STATE, TENSORS
from statetrain.errors import CheckpointError
from suites.case import Case, refused, scratch_place
from suites.toy import Setting, digest, train

TITLE = "damaged checkpoints, verified"
GOAL = 1500

FILES = (MANIFEST, STATE, TENSORS, LOG)
SETTING = Setting(augmentation="torch", ema=True)

Change = Callable[[bytes], bytes]


@cache
def _home(process: int) -> Path:
    folder = tempfile.mkdtemp(dir=scratch_place())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


class Verbose(st.Callback):
    """Logs so much that the records are in a file of their own, which checkpoints share."""

    def on_enter_fit(self, ctx: Any) -> None:
        for i in range(250):
            ctx.log("notes", {"number": i})


@cache
def run_folder(process: int) -> Path:
    """The directory of a run that was stopped in its second epoch, with three checkpoints in it."""

    class Stop(st.Callback):
        def on_exit_step(self, ctx: Any) -> None:
            if ctx.step == 5:
                ctx.request_stop("for now")

    folder = _home(process) / "run"
    train(SETTING, folder, Verbose(), Stop())
    return folder


@cache
def contents(process: int) -> dict[str, bytes]:
    """The files of the newest checkpoint."""
    saved = newest()
    return {name: (saved / name).read_bytes() for name in FILES}


def newest() -> Path:
    return directory.complete(run_folder(os.getpid()), aside=False)[0].path


@cache
def ended() -> str:
    """How the run ends that nothing happens to."""
    return digest(train(SETTING, None, Verbose()))


def flip(bit: int, content: bytes) -> bytes:
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


def cut(at: int, content: bytes) -> bytes:
    return content[:at]


def put(at: int, what: bytes, content: bytes) -> bytes:
    return content[:at] + what + content[at + len(what) :]


def edit(key: str, value: Any, sum_too: bool, content: bytes) -> bytes:
    """A manifest with one thing changed, and its own sum too if whoever did it was thorough."""
    rows: dict[str, Any] = json.loads(content)
    own = rows.pop("sha256")
    rows[key] = value(rows[key]) if callable(value) else value
    if sum_too:
        own = hashlib.sha256(jsons.to_bytes(rows)).hexdigest()
    return jsons.to_bytes({**rows, "sha256": own})


def _with_other_sums(files: dict[str, Any]) -> dict[str, Any]:
    return {name: {**row, "sha256": "0" * 64} for name, row in files.items()}


def _with_other_sizes(files: dict[str, Any]) -> dict[str, Any]:
    return {name: {**row, "size": row["size"] + 1} for name, row in files.items()}


def _without_tensors(files: dict[str, Any]) -> dict[str, Any]:
    return {name: row for name, row in files.items() if name != TENSORS}


def changes() -> Iterator[tuple[str, str, Change]]:
    """What may become of a file: which, in words, and what it does to the bytes."""
    draw, sizes = (
        random.Random(0),
        {name: len(content) for name, content in contents(os.getpid()).items()},
    )
    for name, size in sizes.items():
        for bit in draw.sample(range(8 * size), 340):
            yield name, f"bit {bit} flipped", partial(flip, bit)
        for at in sorted(draw.sample(range(size), 110)):
            yield name, f"cut at {at}", partial(cut, at)
        block = min(4096, size // 4)
        for at in draw.sample(range(size - block), 20):
            yield name, f"{block} zeros at {at}", partial(put, at, bytes(block))
            yield name, f"{block} of junk at {at}", partial(put, at, draw.randbytes(block))
        if name != LOG:  # which later checkpoints add to, so each knows how much of it is its own
            yield name, "longer by a byte", lambda content: content + b"\n"
            yield name, "twice in a row", lambda content: content + content
        yield name, "backwards", lambda content: content[::-1]
        for other in sizes:
            if other != name:
                # Bound now
                yield (
                    name,
                    f"swapped for {other}",
                    lambda content, other=other: contents(os.getpid())[other],  # type: ignore[misc]
                )
    for key, value, sum_too in (
        *(
            ("format", 2, True),
            ("format", 2, False),
            ("name", "step-00000001-next_batch", True),
            ("sequence", 99, False),
            ("sequence", "x", True),
        ),
        *(
            ("files", {}, True),
            ("files", _with_other_sums, True),
            ("files", _with_other_sizes, True),
            ("files", _without_tensors, True),
        ),
        *(
            ("about", {"~": "code"}, True),
            ("about", {}, False),
            ("files", _with_other_sums, False),
            ("name", "../elsewhere", True),
        ),
    ):
        word = value if not callable(value) else value.__name__.strip("_").replace("_", " ")
        yield (
            MANIFEST,
            f"{key}: {word}, {'with' if sum_too else 'without'} its sum",
            partial(edit, key, value, sum_too),
        )


def overwrite(path: Path, content: bytes) -> None:
    """In place, which takes a hundredth of the time of writing it anew."""
    file = os.open(path, os.O_RDWR)
    os.pwrite(file, content, 0)
    os.ftruncate(file, len(content))
    os.close(file)


def verified(name: str, change: Change) -> None:
    """Damages a file, and expects that `verify` names it."""
    path, content = _path(os.getpid()) / name, contents(os.getpid())[name]
    changed = change(content)
    assert changed != content, "nothing was changed"
    overwrite(path, changed)
    try:
        words = refused(lambda: checkpoint.verify(path.parent), CheckpointError)
    finally:
        overwrite(path, content)
    # A manifest that lies about a file is the file's matter, for all that anybody can know.
    assert name in words or (name == MANIFEST and any(file in words for file in FILES)), (
        f"the file is not named: {words}"
    )


@cache
def _path(process: int) -> Path:
    return newest()


def missing(name: str) -> None:
    """Takes a file away, and expects that `verify` says so."""
    path = _path(os.getpid()) / name
    path.rename(path.with_name("away"))
    try:
        words = refused(lambda: checkpoint.verify(path.parent), CheckpointError)
    finally:
        path.with_name("away").rename(path)
    assert f"{name} is missing" in words, words


def other_step(name: str) -> None:
    """Puts the file of the checkpoint before it in its place."""
    older = directory.complete(run_folder(os.getpid()), aside=False)[1].path
    verified(name, lambda content: (older / name).read_bytes())


def cases() -> list[Case]:
    """Every one of them alone, seen by `verify`."""
    found = [
        Case(f"{name}: {words}", partial(verified, name, change))
        for name, words, change in changes()
        if change(contents(os.getpid())[name]) != contents(os.getpid())[name]
    ]
    found += [Case(f"{name}: missing", partial(missing, name)) for name in FILES]
    return found + [
        Case(f"{name}: of the checkpoint before", partial(other_step, name)) for name in FILES
    ]
