"""Checkpoints on disk: whole or not there, whatever happens to the process, the power and the bytes."""

import errno
import json
import logging
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from suites.disk import Died, Disk

from statetrain import jsons
from statetrain.checkpoints import checkpoint, directory, files, tensorfile
from statetrain.errors import CheckpointError

ABOUT = {"state": "next_batch", "step": 30, "loss": float("nan")}


def data(n: int) -> dict[str, Any]:
    weights = torch.randn(20, 13, generator=torch.Generator().manual_seed(n))
    return {
        "n": n,
        "weights": weights,
        "history": [{"loss": 0.1 * n, "epoch": 1}],
        "nan": float("nan"),
        "order": (3, 1, 2),
    }


def save(folder: Path, n: int) -> checkpoint.Saved:
    return checkpoint.write(folder, f"step-{n:08d}-next_batch", data(n), ABOUT)


def is_data(found: Any, n: int) -> bool:
    return repr(found) == repr(data(n)) and torch.equal(found["weights"], data(n)["weights"])


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    "In memory where there is a file system for it: what a disk would do is played by `Disk`."
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def warnings_(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="statetrain")
    return caplog


# ---------------------------------------------------------------- as it should be


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Its data, and what its manifest says without the rest."""
    saved = save(tmp_path, 30)
    assert saved.path == tmp_path / "step-00000030-next_batch"
    assert sorted(path.name for path in saved.path.iterdir()) == [
        "MANIFEST.json",
        "state.json",
        "tensors.safetensors",
    ]
    assert is_data(checkpoint.read(saved.path), 30)
    assert checkpoint.verify(saved.path) == saved
    assert repr(checkpoint.read_manifest(saved.path).about) == repr(ABOUT)
    assert saved.size == sum(
        (saved.path / name).stat().st_size for name in ("state.json", "tensors.safetensors")
    )


def test_a_manifest_can_be_read_by_anybody(tmp_path: Path) -> None:
    """It is JSON with the size and the sum of each file."""
    found = json.loads((save(tmp_path, 3).path / "MANIFEST.json").read_text())
    assert (
        found["files"]["state.json"]["size"]
        == (tmp_path / found["name"] / "state.json").stat().st_size
    )
    assert found["format"] == 1


def test_the_newest_is_the_last_that_was_written(tmp_path: Path) -> None:
    """Not the one with the highest step, and not the last by name or by date."""
    for n in (5, 20, 10):
        saved = save(tmp_path, n)
        os.utime(saved.path, (n, n))
    assert directory.newest(tmp_path).name == "step-00000010-next_batch"
    assert [found.sequence for found in directory.complete(tmp_path)] == [3, 2, 1]


def test_the_same_place_twice_is_two_checkpoints(tmp_path: Path) -> None:
    """A second one of the same name gets a number; the first stays."""
    assert [save(tmp_path, 7).name for _ in range(3)] == [
        f"step-00000007-next_batch{end}" for end in ("", "-2", "-3")
    ]


def test_a_directory_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    """Nor has one that is not there."""
    assert directory.newest(tmp_path) is None
    assert directory.newest(tmp_path / "missing") is None


def test_what_cannot_be_saved_leaves_nothing(tmp_path: Path) -> None:
    """The error comes before anything is written."""
    with pytest.raises(CheckpointError, match=r"'f' is a builtins\.function"):
        checkpoint.write(tmp_path, "step-1-x", {"f": lambda: 1}, {})
    assert list(tmp_path.iterdir()) == []


def test_what_a_person_adds_is_no_harm(tmp_path: Path) -> None:
    """A file beside the checkpoints, or in one, is left alone."""
    saved = save(tmp_path, 1)
    (saved.path / "notes.txt").write_text("good one")
    (tmp_path / "other").mkdir()
    (tmp_path / "step-readme").write_text("a file, no directory")
    assert directory.newest(tmp_path) == saved
    directory.sweep(tmp_path)
    assert (saved.path / "notes.txt").exists()


def test_links_are_followed_to_read_and_never_to_write(tmp_path: Path) -> None:
    """A checkpoint that was moved to another disk is read through the link that was left for it.

    Neither deleting nor sweeping nor setting aside touches the link, or what it leads to.
    """
    name = "step-00000001-next_batch"
    save(tmp_path / "real", 1)
    (tmp_path / "run").mkdir()
    link = tmp_path / "run" / name
    link.symlink_to(tmp_path / "real" / name)
    assert directory.newest(tmp_path / "run").path == link
    checkpoint.delete(link)
    directory.sweep(tmp_path / "run")
    (tmp_path / "real" / name / "state.json").write_text("{}")
    directory.weed(directory.complete(tmp_path / "run"))
    assert link.is_symlink()
    assert sorted(path.name for path in (tmp_path / "real" / name).iterdir()) == [
        "MANIFEST.json",
        "state.json",
        "tensors.safetensors",
    ]
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be used"):
        directory.newest(tmp_path / "alias", aside=False)


def test_a_link_that_leads_nowhere_is_not_nothing(tmp_path: Path) -> None:
    """A directory with nothing but broken links is refused, not taken for a fresh one."""
    (tmp_path / "step-00000001-next_batch").symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="can be used, of step-00000001-next_batch"):
        directory.newest(tmp_path)


@pytest.mark.parametrize("left", ["tensors.safetensors.part", "MANIFEST.json.part", "x.part"])
def test_whole_weights_are_not_deleted(left: str, tmp_path: Path) -> None:
    """A checkpoint that has lost its manifest is broken, whatever temporary file lies in it."""
    path = save(tmp_path, 1).path
    (path / "MANIFEST.json").unlink()
    (path / left).touch()
    directory.sweep(tmp_path)
    assert (path / "tensors.safetensors").stat().st_size > 0
    with pytest.raises(CheckpointError, match="can be used"):
        directory.newest(tmp_path, aside=False)


def test_emptied_checkpoints_are_not_taken_for_a_fresh_start(tmp_path: Path, caplog: Any) -> None:
    """One may be left by a run that was killed in its first save, with a warning; two may not."""
    (tmp_path / "step-00000001-next_batch").mkdir()
    assert directory.newest(tmp_path) is None
    assert "has no whole checkpoint, only step-00000001-next_batch" in caplog.text
    (tmp_path / "step-00000002-next_batch").mkdir()
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be used"):
        directory.newest(tmp_path)


def test_files_of_others_in_a_checkpoint_outlive_it(tmp_path: Path) -> None:
    """Deleting a checkpoint leaves a person's notes in it."""
    path = save(tmp_path, 1).path
    (path / "notes.txt").write_text("precious")
    checkpoint.delete(path)
    assert [left.name for left in path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "name", ["with space", "日本語 ✓", "emoji 🙂", "new\nline", "$(x)`y`", "-dash", "x" * 200]
)
def test_directories_may_have_any_name(name: str, tmp_path: Path) -> None:
    """Where checkpoints lie is the user's business."""
    save(tmp_path / name, 1)
    assert is_data(checkpoint.read(directory.newest(tmp_path / name).path), 1)


# ---------------------------------------------------------------- killed, without power, full


def points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Any) -> list[str]:
    """The calls that change the disk in some work."""
    disk = use(Disk(), monkeypatch)
    work()
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    return disk.calls


def use(disk: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(checkpoint, "os", disk)
    monkeypatch.setattr(tensorfile, "os", disk)
    monkeypatch.setattr(files, "os", disk)
    return disk


@pytest.mark.parametrize("lost", ["nothing", "all", 1, 2, 3])
def test_a_save_that_dies_anywhere_leaves_a_whole_checkpoint(
    lost: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings_: Any
) -> None:
    """At every call that changes the disk, in the first save and in a later one: the newest whole one is the new or the old, and no litter stays."""
    folder = tmp_path / "run"
    for earlier in (0, 2):

        def before(earlier: int = earlier) -> None:
            use(os, monkeypatch)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for n in range(1, earlier + 1):
                save(folder, n)

        before()
        calls = points(tmp_path, monkeypatch, lambda: save(folder, 3))
        assert len(calls) > 15
        outcomes = set()
        for at in range(len(calls) + 1):
            before()
            disk = use(Disk(at), monkeypatch)
            try:
                save(folder, 3)
            except Died:
                pass
            use(os, monkeypatch)
            if lost != "nothing":
                disk.lose_power(None if lost == "all" else lost * 1000 + at)
            found = directory.newest(folder)
            last = 0 if found is None else checkpoint.read(found.path)["n"]
            assert last in (earlier, 3), calls[:at]
            assert found is None or is_data(checkpoint.read(found.path), last)
            if at == len(calls):
                assert last == 3
            directory.sweep(folder)
            assert len(list(folder.iterdir())) == earlier + (last == 3), "litter was left"
            assert save(folder, 4).name == "step-00000004-next_batch"
            outcomes.add(last)
        assert outcomes == {earlier, 3}
    said = {record.message.partition(" has no whole")[2] for record in warnings_.records}
    assert said <= {" checkpoint, only step-00000003-next_batch, which is unfinished"}


def test_a_deletion_that_dies_anywhere_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings_: Any
) -> None:
    """What is half deleted counts as unfinished, and is swept up; the others are whole."""
    folder = tmp_path / "run"

    def before() -> None:
        use(os, monkeypatch)
        shutil.rmtree(folder, ignore_errors=True)
        save(folder, 1)
        save(folder, 2)

    before()
    calls = points(
        tmp_path, monkeypatch, lambda: checkpoint.delete(folder / "step-00000001-next_batch")
    )
    for at in range(len(calls) + 1):
        before()
        disk = use(Disk(at), monkeypatch)
        try:
            checkpoint.delete(folder / "step-00000001-next_batch")
        except Died:
            pass
        use(os, monkeypatch)
        disk.lose_power()
        assert directory.newest(folder).name == "step-00000002-next_batch"
        directory.sweep(folder)
        left = sorted(path.name for path in folder.iterdir())
        assert left in (
            ["step-00000001-next_batch", "step-00000002-next_batch"],
            ["step-00000002-next_batch"],
        )
        for name in left:
            checkpoint.verify(folder / name)
    assert not warnings_.records


def test_a_full_disk_leaves_the_older_ones_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever write the room ends: the error is the system's own, and when there is room again, saving works at once."""
    folder = tmp_path / "run"
    save(folder, 1)
    calls = points(tmp_path / "nowhere", monkeypatch, lambda: save(folder, 2))
    use(os, monkeypatch)
    checkpoint.delete(folder / "step-00000002-next_batch")
    full, left = OSError(errno.ENOSPC, "No space left on device"), []
    for at in range(len(calls)):
        use(Disk(at, full), monkeypatch)
        try:
            save(folder, 2)
        except OSError as error:
            left.append(error)
        use(os, monkeypatch)
        assert not any(path.name.endswith(".part") for path in folder.rglob("*"))
        # The last calls flush what is published already.
        assert directory.newest(folder).name in (
            "step-00000001-next_batch",
            "step-00000002-next_batch",
        )
        for found in directory.complete(folder)[:-1]:
            checkpoint.delete(found.path)
    assert len(left) > 10
    assert set(left) == {full}
    assert save(folder, 2).name == "step-00000002-next_batch"


# ---------------------------------------------------------------- broken afterwards


def broken(path: Path, change: Any) -> None:
    content = path.read_bytes()
    path.write_bytes(change(bytearray(content)))


def put(path: Path, content: bytes) -> None:
    """Overwrites a file in place, which takes a hundredth of the time of writing it anew."""
    file = os.open(path, os.O_RDWR)
    os.pwrite(file, content, 0)
    os.ftruncate(file, len(content))
    os.close(file)


def damages(saved: Path) -> list[tuple[str, str, Any]]:
    """Flips of bits all over, cuts, zeroed and overwritten stretches: the file, a name, and what it does."""
    draw, cases = random.Random(0), []
    for name in ("MANIFEST.json", "state.json", "tensors.safetensors"):
        size = (saved / name).stat().st_size
        for _ in range(334):
            bit = draw.randrange(8 * size)
            cases.append(
                (
                    name,
                    f"bit {bit}",
                    lambda b, bit=bit: (
                        b[: bit // 8] + bytes([b[bit // 8] ^ 1 << bit % 8]) + b[bit // 8 + 1 :]
                    ),
                )
            )
        cases += [
            (name, f"cut at {at}", lambda b, at=at: b[:at])
            for at in range(0, size, max(size // 107, 1))
        ]
        for _ in range(34):
            at = draw.randrange(size - 40)
            cases.append(
                (name, f"zeros at {at}", lambda b, at=at: b[:at] + bytes(40) + b[at + 40 :])
            )
            junk = draw.randbytes(40)
            cases.append(
                (name, f"junk at {at}", lambda b, at=at, junk=junk: b[:at] + junk + b[at + 40 :])
            )
        cases.append((name, "longer", lambda b: b + b"\n"))
    return cases


def test_no_damage_goes_unnoticed(tmp_path: Path) -> None:
    """More than 1,500 damaged checkpoints: each is refused with the file's name, by `verify` and by `read`."""
    saved = save(tmp_path, 1).path
    cases, silent, began = damages(saved), [], time.perf_counter()
    contents = {path.name: path.read_bytes() for path in saved.iterdir()}
    for i, (name, what, change) in enumerate(cases):
        content = contents[name]
        changed = bytes(change(bytearray(content)))
        if changed == content:
            continue  # zeros where there were zeros
        put(saved / name, changed)
        for look in (checkpoint.verify, checkpoint.read) if i % 4 == 0 else (checkpoint.verify,):
            try:
                look(saved)
                said = ""
            except CheckpointError as error:
                said = str(error)
            if name not in said:
                silent.append((name, what, said))
        put(saved / name, content)
    assert len(cases) > 1500
    assert not silent
    assert time.perf_counter() - began < 20
    checkpoint.verify(saved)


@pytest.mark.parametrize("name", ["MANIFEST.json", "state.json", "tensors.safetensors"])
@pytest.mark.parametrize(
    "how", ["flipped", "cut", "empty", "missing", "swapped", "a directory", "a link"]
)
def test_the_newest_whole_one_is_used_and_the_broken_one_set_aside(
    name: str, how: str, tmp_path: Path, warnings_: Any
) -> None:
    """With a warning that names the file and the reason; the broken one is renamed, with all that it holds."""
    folder = tmp_path / "run"
    save(folder, 1)
    file = save(folder, 2).path / name
    content = file.read_bytes()
    if how == "flipped":
        broken(file, lambda b: b[:50] + bytes([b[50] ^ 4]) + b[51:])
    elif how == "cut":
        broken(file, lambda b: b[:-30])
    elif how == "empty":
        broken(file, lambda b: b"")
    elif how == "missing":
        file.unlink()
    elif how == "swapped":
        shutil.copy(folder / "step-00000001-next_batch" / name, file)
    elif how == "a directory":
        file.unlink()
        file.mkdir()
    else:
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    found = directory.newest(folder)
    assert is_data(checkpoint.read(found.path), 1)
    (aside,) = (path.name for path in folder.iterdir() if path != found.path)
    assert aside.startswith("step-00000002-next_batch.corrupt-")
    assert name in warnings_.text
    assert aside in warnings_.text
    if how == "missing":
        assert "is missing" in warnings_.text
    assert len(content) > 0
    warnings_.clear()
    assert directory.newest(folder) == found, "what was set aside is not looked at again"
    assert not warnings_.records


def test_a_checkpoint_under_another_name_is_refused(tmp_path: Path) -> None:
    """Two directories that were swapped are noticed, though each is whole."""
    one, two = save(tmp_path, 1).path, save(tmp_path, 2).path
    one.rename(tmp_path / "step-x")
    two.rename(one)
    with pytest.raises(CheckpointError, match="it belongs to 'step-00000002-next_batch'"):
        checkpoint.verify(one)


def test_without_a_whole_one_all_are_named_and_none_is_deleted(
    tmp_path: Path, warnings_: Any
) -> None:
    """Training anew in silence would lose the run; it is an error, now and the next time."""
    for n in (1, 2, 3):
        broken(save(tmp_path, n).path / "state.json", lambda b: b[:-1])
    for _ in range(2):
        with pytest.raises(CheckpointError) as caught:
            directory.newest(tmp_path)
        assert all(f"step-0000000{n}" in str(caught.value) for n in (1, 2, 3))
    assert len(list(tmp_path.iterdir())) == 3
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3


def test_who_does_not_own_the_directory_sets_nothing_aside(tmp_path: Path, warnings_: Any) -> None:
    """A reader goes past a broken one, with a warning, and changes nothing."""
    save(tmp_path, 1)
    broken(save(tmp_path, 2).path / "state.json", lambda b: b[:-1])
    before = sorted(path.name for path in tmp_path.iterdir())
    assert directory.newest(tmp_path, aside=False).name == "step-00000001-next_batch"
    assert "skipped" in warnings_.text
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": 2}, "format 2"),
        ({"files": {}}, "must name"),
        ({"files": {"../../etc/passwd": {"size": 1, "sha256": "0"}}}, "is not a bare file name"),
        ({"files": {"/etc/passwd": {"size": 1, "sha256": "0"}}}, "is not a bare file name"),
        ({"files": {"..": {"size": 1, "sha256": "0"}}}, "is not a bare file name"),
        ({"files": {"a\\b": {"size": 1, "sha256": "0"}}}, "is not a bare file name"),
        ({"files": {"": {"size": 1, "sha256": "0"}}}, "is not a bare file name"),
        ({"files": {"a\x00": {"size": 1, "sha256": "0"}}}, "is not a bare file name"),
        ({"files": {"x" * 200: {"size": 1, "sha256": "0"}}}, "is not a bare file name"),
        ({"files": [1]}, "MANIFEST.json"),
        ({"files": {"state.json": 3, "tensors.safetensors": 4}}, "MANIFEST.json"),
        ({"sequence": "first"}, "MANIFEST.json"),
        ({"about": {"~": "os.system"}}, "unknown kind"),
        ({"name": "../elsewhere"}, "belongs to"),
    ],
    ids=str,
)
def test_a_hostile_manifest_is_refused(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    """Though its own sum is right: names are bare, kinds are known, and the format is ours."""
    path = save(tmp_path, 1).path / "MANIFEST.json"
    rows = {**json.loads(path.read_text()), **change}
    del rows["sha256"]
    text = jsons.to_bytes(rows)
    path.write_bytes(
        jsons.to_bytes({**rows, "sha256": checkpoint.hashlib.sha256(text).hexdigest()})
    )
    with pytest.raises(
        CheckpointError, match=r"step-00000001-next_batch: MANIFEST\.json: "
    ) as caught:
        checkpoint.verify(path.parent)
    assert named in str(caught.value)


def test_a_manifest_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    """Two megabytes of manifest are an error."""
    path = save(tmp_path, 1).path / "MANIFEST.json"
    path.write_bytes(b"[" + b"1," * (1 << 20) + b"1]")
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json"):
        checkpoint.read_manifest(path.parent)
