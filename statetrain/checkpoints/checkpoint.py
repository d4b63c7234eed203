"""A checkpoint on disk: a directory that is whole or does not count.

    runs/digits/
      step-00000030-next_batch/
        tensors.safetensors     all tensors
        state.json              everything else, with the tensors' names in their places
        log.jsonl               of long runs, rows and records; see `rowlog.py`
        tensors-00001-of-00004.safetensors    of ranks that hold parts of tensors; see `shards.py`
        MANIFEST.json           size and sha256 of each, and what the checkpoint is; published last

Theory of operation
-------------------
A checkpoint is complete if and only if its manifest verifies: the manifest's own sum, and the size
and the sum of each file. Writing goes: all files under temporary names (`.part`), each flushed to
the disk; the directory flushed; all but the manifest renamed; the directory flushed; the manifest
renamed; the directory flushed, and the one around it. Whatever the moment at which the process is
killed or the power goes, there is a complete checkpoint, or one that is known to be unfinished: it
has no manifest, and something in it is still a `.part`, or it is empty. Deleting does the reverse
round, so that what is half deleted is unfinished. What to do with many of them, and with broken
ones, is in `directory.py`.

Nothing here is pickled. Files are read with `statetrain.checkpoints.plain` and
`statetrain.checkpoints.tensorfile`, which trust nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from statetrain import jsons
from statetrain.checkpoints import plain, rowlog, tensorfile
from statetrain.checkpoints.files import flushed, open_new
from statetrain.checkpoints.rowlog import Lane
from statetrain.checkpoints.shards import check_shards, is_shard, join_parts
from statetrain.checkpoints.tensorfile import Digest, TensorWriter
from statetrain.errors import CheckpointError

MANIFEST, STATE, TENSORS = "MANIFEST.json", "state.json", "tensors.safetensors"
LOG = "log.jsonl"  # of long runs only
FORMAT = 1

_PART = ".part"
_LONGEST = {MANIFEST: 1 << 20, STATE: 1 << 28}  # bytes that are read
# Of files and directories: no path, nothing to escape
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}")

Log = tuple[Lane, bytes]  # a file that checkpoints share, and the lines to add to it

log = logging.getLogger("statetrain")


@frozen
class Saved:
    """A checkpoint whose manifest is sound.

    Attributes:
        path: the directory.
        sequence: counts the checkpoints of a directory, from 1.
        about: what the writer said it is: state, counters, lifecycle, versions, monitored value.
        files: by name.
    """

    path: Path
    sequence: int
    about: Mapping[str, Any] = field(eq=False)
    files: Mapping[str, Digest] = field(eq=False)

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def size(self) -> int:
        """Bytes of all files that the manifest names."""
        return sum(digest.size for digest in self.files.values())


# ---------------------------------------------------------------- writing


def write(
    folder: Path, name: str, data: Any, about: Mapping[str, Any], log: Log | None = None
) -> Saved:
    """Writes a checkpoint and publishes it. When this returns, it is on the disk.

    Args:
        folder: where checkpoints lie; made if it is not there.
        name: of the new one; a number is added if there is one of that name already.
        data: what `plain.encode` takes.
        about: plain data for the manifest, to be read without the rest.
        log: rows and records that are not in the data, in a file that checkpoints share.

    Raises:
        CheckpointError: a part of the data cannot be saved; nothing has been written.
        OSError: the disk is full, or the like; nothing is left of it.
    """
    return write_encoded(folder, name, *plain.encode(data), about, log)


def write_encoded(
    folder: Path,
    name: str,
    structure: Any,
    tensors: Mapping[str, Any],
    about: Mapping[str, Any],
    log: Log | None = None,
) -> Saved:
    """The same of what `plain.encode` gave; it may be called in another thread."""
    text = state_text(structure)
    path = make(folder, name)
    try:
        return publish(path, about, put_files(path, tensors, text, log))
    except BaseException:
        remove_unfinished(path)
        raise


def state_text(structure: Any) -> bytes:
    """What `state.json` is to hold.

    Raises:
        CheckpointError: it would be longer than what is read.
    """
    text = jsons.to_bytes(structure)
    if len(text) > _LONGEST[STATE]:
        raise CheckpointError(
            f"{STATE} would have {len(text)} bytes, of which at most {_LONGEST[STATE]} are read;"
            " keep large data in tensors"
        )
    return text


def make(folder: Path, name: str) -> Path:
    """Makes the directory of a new checkpoint.

    Raises:
        OSError: it cannot be made.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    if made:
        _flush(folder.parent)
    path = free_name(folder, name)
    os.mkdir(path, 0o777)  # less the user's umask
    return path


def put_files(
    path: Path, tensors: Mapping[str, Any], text: bytes, log: Log | None
) -> dict[str, Digest]:
    """Writes the files that each checkpoint has, under temporary names."""
    files = {TENSORS: put(path / TENSORS, tensors), STATE: put(path / STATE, text)}
    if log is not None:
        lane, lines = log
        files[LOG] = lane.put(lines, path / (LOG + _PART))
    return files


def publish(path: Path, about: Mapping[str, Any], files: Mapping[str, Digest]) -> Saved:
    """Gives files their names, the manifest last; then the checkpoint counts.

    Args:
        path: the directory of the checkpoint.
        about: plain data for the manifest.
        files: all that have been written into it under temporary names.
    """
    folder = path.parent
    sequence = _next_sequence(folder)
    put(path / MANIFEST, _manifest(path.name, sequence, about, files))
    # Or the power might take the name `MANIFEST.json.part` and leave the other files', renamed
    _flush(path)
    for file in files:
        os.rename(path / (file + _PART), path / file)
    _flush(path)
    os.rename(path / (MANIFEST + _PART), path / MANIFEST)
    _flush(path)
    _flush(folder)
    return Saved(path, sequence, about, files)


def put(
    path: Path, content: bytes | Mapping[str, Any], texts: Mapping[str, str] | None = None
) -> Digest:
    """A file under its temporary name, flushed to the disk.

    Args:
        path: without the ending of the temporary name.
        content: bytes, or tensors by name.
        texts: for the header of tensors; None says that they are torch's.
    """
    with flushed(open_new(f"{path}{_PART}")) as file:
        if not isinstance(content, bytes):
            return tensorfile.write(file, content, texts or {"format": "pt"})
        writer = TensorWriter(file)
        writer.write(content)
        return writer.digest


def _flush(folder: Path) -> None:
    """Flushes a directory to the disk: which names are in it."""
    if os.name != "posix":  # elsewhere a directory cannot be opened
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _next_sequence(folder: Path) -> int:
    numbers = [0]
    for path in folders_in(folder):
        with contextlib.suppress(CheckpointError, OSError):
            numbers.append(read_manifest(path).sequence)
    return 1 + max(numbers)


def folders_in(folder: Path) -> list[Path]:
    """What may be a checkpoint: directories whose name begins like one, and links to some."""
    if not folder.is_dir():
        return []
    entries = [entry for entry in os.scandir(folder) if entry.name.startswith("step-")]
    names = sorted(entry.name for entry in entries if entry.is_dir() or entry.is_symlink())
    return [folder / name for name in names]


def free_name(folder: Path, name: str) -> Path:
    """A path that is not taken: a number is added to the name if need be."""
    path, n = folder / name, 2
    while path.exists():
        path, n = folder / f"{name}-{n}", n + 1
    return path


def _manifest(
    name: str, sequence: int, about: Mapping[str, Any], files: Mapping[str, Digest]
) -> bytes:
    """The manifest, with its own sum at the end."""
    rows = {file: {"size": digest.size, "sha256": digest.sha256} for file, digest in files.items()}
    data = {
        "format": FORMAT,
        "name": name,
        "sequence": sequence,
        "about": plain.encode(dict(about))[0],
        "files": rows,
    }
    return jsons.to_bytes({**data, "sha256": hashlib.sha256(jsons.to_bytes(data)).hexdigest()})


# ---------------------------------------------------------------- reading


def read_manifest(path: Path) -> Saved:
    """What a checkpoint's manifest says, if the manifest is sound; its files are not looked at.

    Raises:
        CheckpointError: it is not sound.
        OSError: it cannot be read.
    """
    return _read_manifest(path, MANIFEST)


def _read_manifest(path: Path, name: str) -> Saved:
    try:
        with tensorfile.open_file(path / name) as file:
            text = file.read(_LONGEST[MANIFEST] + 1)
        data = _parse_manifest(text)
        if data["name"] != path.name:
            raise ValueError(f"it belongs to {data['name']!r:.140}")
        files = _digests(data["files"])
        return Saved(path, int(data["sequence"]), plain.decode(data["about"], {}), files)
    except FileNotFoundError:
        raise CheckpointError(f"{path.name}: {MANIFEST} is missing") from None
    except KeyError as error:
        raise CheckpointError(f"{path.name}: {MANIFEST}: {error} is missing") from error
    except (ValueError, TypeError, AttributeError, CheckpointError) as error:
        raise CheckpointError(f"{path.name}: {MANIFEST}: {error}") from error


def _parse_manifest(text: bytes) -> dict[str, Any]:
    data: dict[str, Any] = jsons.loads(text)
    if jsons.to_bytes(data) != text:
        raise ValueError("it is not as it was written")
    own = data.pop("sha256")
    if data["format"] != FORMAT:
        raise ValueError(f"it has format {data['format']!r:.20}; this version reads {FORMAT}")
    if hashlib.sha256(jsons.to_bytes(data)).hexdigest() != own:
        raise ValueError("its own sha256 differs")
    return data


def _digests(rows: Mapping[str, Any]) -> dict[str, Digest]:
    files = {
        _bare(name): Digest(int(row["size"]), str(row["sha256"])) for name, row in rows.items()
    }
    if {name for name in files if not is_shard(name)} - {LOG} != {STATE, TENSORS}:
        raise ValueError(f"it must name {STATE} and {TENSORS}, got {', '.join(files) or 'none'}")
    check_shards(files)
    return files


def _bare(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r:.80} is not a bare file name")
    return name


def verify(path: Path) -> Saved:
    """Compares a checkpoint with its manifest, byte by byte.

    Raises:
        CheckpointError: it is not what was written; the message names the file and what is wrong
            with it.
        OSError: it cannot be read.
    """
    saved = read_manifest(path)
    for name, digest in saved.files.items():
        sha, size = hashlib.sha256(), 0
        try:
            for chunk in _chunks(path / name, digest.size):
                sha.update(chunk)
                size += len(chunk)
        except FileNotFoundError:
            raise CheckpointError(f"{path.name}: {name} is missing") from None
        except CheckpointError as error:
            raise CheckpointError(f"{path.name}: {error}") from error
        if size != digest.size:
            raise CheckpointError(f"{path.name}: {name} has {size} bytes, expected {digest.size}")
        if sha.hexdigest() != digest.sha256:
            raise CheckpointError(
                f"{path.name}: {name} is not what was written: its sha256 differs"
            )
    return saved


def check_sizes(path: Path) -> Saved:
    """Compares the sizes of a checkpoint's files with its manifest; their bytes are not read.

    Right after writing, this is what reading can find: each file was flushed to the disk, and what
    is read back then comes from memory, not from the disk.

    Raises:
        CheckpointError: the manifest is not sound, a file is missing, or its size is another.
        OSError: it cannot be looked at.
    """
    saved = read_manifest(path)
    for name, digest in saved.files.items():
        try:
            size = os.lstat(path / name).st_size
        except FileNotFoundError:
            raise CheckpointError(f"{path.name}: {name} is missing") from None
        grown = name == LOG and size > digest.size  # other checkpoints have added to it
        if size != digest.size and not grown:
            raise CheckpointError(f"{path.name}: {name} has {size} bytes, expected {digest.size}")
    return saved


def _chunks(path: Path, size: int) -> Iterator[bytes]:
    """The bytes of a file; of one that other checkpoints add to, those that were there."""
    if path.name == LOG:
        yield from rowlog.chunks(path, size)
        return
    with tensorfile.open_file(path) as file:
        while chunk := file.read(1 << 20):
            yield chunk


def read(path: Path) -> Any:
    """What was written; verified while it is read. Tensors come on the CPU.

    Raises:
        CheckpointError: it is not what was written, or nothing that could have been written.
        OSError: it cannot be read.
    """
    saved = read_manifest(path)
    try:
        return _read_files(path, saved.files)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name}: {Path(error.filename).name} is missing") from None
    except (ValueError, CheckpointError) as error:
        raise CheckpointError(f"{path.name}: {error}") from error


def _read_files(path: Path, files: Mapping[str, Digest]) -> Any:
    tensors, _ = tensorfile.read(path / TENSORS, files[TENSORS])
    tensors |= join_parts(
        tensorfile.read(path / name, digest) for name, digest in files.items() if is_shard(name)
    )
    with tensorfile.open_file(path / STATE) as file:
        text = file.read(_LONGEST[STATE] + 1)
    if Digest(len(text), hashlib.sha256(text).hexdigest()) != files[STATE]:
        raise CheckpointError(f"{STATE} is not what was written: its size or sha256 differs")
    data = plain.decode(jsons.loads(text), tensors)
    if LOG in files:
        if not (isinstance(data, dict) and isinstance(data.get("history"), list)):
            raise CheckpointError(f"{STATE} has no list of rows, though {LOG} has some")
        rows, data["records"] = rowlog.read(path / LOG, files[LOG])
        data["history"] = rows + data["history"]
    return data


# ---------------------------------------------------------------- deleting


def delete(path: Path) -> None:
    """Deletes a checkpoint; if that is interrupted, an unfinished one is left.

    A link to a checkpoint elsewhere is left, and so is that checkpoint.

    Raises:
        OSError: it cannot be deleted.
    """
    if path.is_symlink():
        log.warning("%s has become a link; neither it nor what it leads to is deleted", path)
        return
    os.rename(path / MANIFEST, path / (MANIFEST + _PART))
    _flush(path)
    remove_unfinished(path)


def remove_unfinished(path: Path) -> None:
    """Removes what was not finished, as far as that can be done; files of others stay."""
    if path.is_symlink() or (path / MANIFEST).exists():
        return  # a checkpoint elsewhere, or one that was published in time
    try:
        names = sorted(os.listdir(path))
        for name in filter(_is_content, names):
            os.unlink(path / name)
        with contextlib.suppress(OSError):  # of a disk that is full; there is room in a moment
            _flush(path)
        # One that is left shows that it is unfinished; the manifest's is the last
        for name in sorted(filter(_is_part, names), key=lambda name: name == MANIFEST + _PART):
            os.unlink(path / name)
        os.rmdir(path)
    except OSError as error:
        log.warning("unfinished checkpoint %s could not be removed: %s", path, error)


def _is_content(name: str) -> bool:
    return name in (TENSORS, STATE, LOG) or is_shard(name)


def _is_part(name: str) -> bool:
    """Whether it is the name of an unfinished file of a checkpoint."""
    whole = name.removesuffix(_PART)
    return whole != name and (whole == MANIFEST or _is_content(whole))


def is_unfinished(path: Path) -> bool:
    """Whether a checkpoint was never published, or is half deleted, and can be removed.

    What has whole weights in it counts only if the manifest that would have been published is
    there: otherwise the manifest was lost, and the weights may be worth something.
    """
    if path.is_symlink():
        return False
    names = set(os.listdir(path))
    if MANIFEST in names:
        return False
    if not any(map(_is_content, names - {LOG})):
        return not names or any(map(_is_part, names))
    try:
        _read_manifest(path, MANIFEST + _PART)
    except (CheckpointError, OSError):
        return False
    return True
