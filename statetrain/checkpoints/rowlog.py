"""The rows and records of a run as lines that are only added to.

A long run has millions of them, and they do not change: only what is new is written in a save. The
checkpoints of a directory share one file, by hard links: each names how much of it is its own, by
length and sum. There are two copies, written alternately, so that damage to one leaves the
checkpoint before the newest whole. A run that resumes begins new files, with all its lines.

A line is a JSON array: null and a row of the history, or a name and a value of that record; then
the tensors in it, if there are any, as type, shape and bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import Factory, define

from statetrain import jsons
from statetrain.checkpoints import plain, tensorfile
from statetrain.checkpoints.files import create, flushed, write_all
from statetrain.checkpoints.tensorfile import Digest
from statetrain.errors import CheckpointError

LANES = (".log-0", ".log-1")
"""Names of the two files that checkpoints share."""

_CHUNK = 1 << 22  # bytes that are read at once
_SIMPLE = (str, int, float, bool, type(None))

Row = dict[str, Any]
Records = Mapping[str, Sequence[Any]]

# ---------------------------------------------------------------- lines


def encode(rows: Sequence[Row], records: Records) -> bytes:
    """Rows and records as lines.

    Raises:
        CheckpointError: a value cannot be saved; the message says where it is.
    """
    lines = [_line(None, row, f"history.{i}") for i, row in enumerate(rows)]
    for name, values in records.items():
        lines += [_line(name, value, f"records.{name}.{i}") for i, value in enumerate(values)]
    return b"".join(lines)


def _line(name: str | None, value: Any, where: str) -> bytes:
    try:
        structure, tensors = plain.encode(value)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error
    parts: list[Any] = [name, structure]
    if tensors:
        parts.append({key: tensorfile.as_text(tensor) for key, tensor in tensors.items()})
    return jsons.to_bytes(parts) + b"\n"


def decode(data: bytes) -> tuple[list[Row], dict[str, list[Any]]]:
    """The rows and records in some lines.

    Raises:
        CheckpointError: they are not what `encode` makes.
    """
    rows: list[Row] = []
    records: dict[str, list[Any]] = {}
    try:
        for name, value in map(_read_line, filter(None, data.split(b"\n"))):
            if name is None:
                rows.append(value)
            else:
                records.setdefault(name, []).append(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"a line of the history cannot be read: {error}") from error
    return rows, records


def _read_line(line: bytes) -> tuple[str | None, Any]:
    name, structure, *rest = jsons.loads(line)
    if not rest and _is_simple(structure):
        return name, structure
    texts = {}
    if rest:
        texts = rest[0]
    tensors = {key: tensorfile.from_text(parts) for key, parts in texts.items()}
    return name, plain.decode(structure, tensors)


def _is_simple(structure: Any) -> bool:
    """Whether it is a row of plain numbers and texts, as most are; it stands for itself."""
    if not isinstance(structure, dict) or "~" in structure:
        return False
    return all(isinstance(part, _SIMPLE) for part in structure.values())


# ---------------------------------------------------------------- a file that grows


@define(eq=False)
class Lane:
    """One of the files that checkpoints share.

    Args:
        path: of the file, in the directory of the checkpoints.
    """

    path: Path
    _file: int | None = None
    _size: int = 0  # bytes that have been written whole
    _sha: Any = Factory(hashlib.sha256)
    _rows: int = 0
    _records: dict[str, int] = Factory(dict)

    def __reduce__(self) -> tuple[type[Lane], tuple[Path]]:
        """A copy writes from the first line."""
        return Lane, (self.path,)

    def take(self, rows: Sequence[Row], records: Records, but_last: int = 0) -> bytes:
        """The lines of what is new since the last call; all of them after a `restart`.

        Args:
            rows: all rows.
            records: all records, by name.
            but_last: rows at the end that are left for later, since they may still change.
        """
        end = len(rows) - but_last
        counts = {name: len(values) for name, values in records.items()}
        shrunk = any(counts.get(name, 0) < count for name, count in self._records.items())
        if end < self._rows or shrunk:
            self.restart()
        new = {name: values[self._records.get(name, 0) :] for name, values in records.items()}
        lines = encode(rows[self._rows : end], new)
        self._rows, self._records = end, counts
        return lines

    def put(self, lines: bytes, target: Path) -> Digest:
        """Adds lines, flushes them to the disk, and gives the file another name.

        Args:
            lines: what `take` gave.
            target: the name, which must be free.

        Raises:
            OSError: they cannot be written; the next `take` gives all lines again.
        """
        try:
            self._write(lines)
            self._link(target)
        except BaseException:
            self.restart()
            raise
        return Digest(self._size, self._sha.hexdigest())

    def restart(self) -> None:
        """Forgets the file: it is written again, from its first line."""
        self.close()
        self._size, self._sha, self._rows, self._records = 0, hashlib.sha256(), 0, {}

    def close(self) -> None:
        """Removes the file's name here; those that checkpoints have stay."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _write(self, lines: bytes) -> None:
        if self._file is None:
            self._file = create(self.path)
        os.lseek(self._file, self._size, os.SEEK_SET)  # over what a failed write has left
        write_all(self._file, lines)
        os.fsync(self._file)
        self._size += len(lines)
        self._sha.update(lines)

    def _link(self, target: Path) -> None:
        assert self._file is not None
        there, own = self.path.lstat(), os.fstat(self._file)
        if (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino):
            raise OSError(f"{self.path} was replaced while the run was writing into it")
        try:
            os.link(self.path, target, follow_symlinks=False)
        except (OSError, NotImplementedError):
            _copy(self.path, target, self._size)  # a file system without hard links


def _copy(source: Path, target: Path, size: int) -> None:
    with flushed(create(target)) as file, source.open("rb") as reader:
        while size and (chunk := reader.read(min(_CHUNK, size))):
            size -= len(chunk)
            write_all(file, chunk)


def chunks(path: Path, size: int) -> Iterator[bytes]:
    """The first bytes of a file, chunk by chunk; what was added later is left out.

    Raises:
        CheckpointError: it is shorter, or not a regular file.
        OSError: it cannot be read.
    """
    left = size
    with tensorfile.open_file(path) as file:
        while left:
            chunk = file.read(min(_CHUNK, left))
            if not chunk:
                raise CheckpointError(f"{path.name} has {size - left} bytes, expected {size}")
            left -= len(chunk)
            yield chunk


def read(path: Path, expected: Digest) -> tuple[list[Row], dict[str, list[Any]]]:
    """The rows and records that a checkpoint has; verified while they are read.

    Raises:
        CheckpointError: they are not what was written.
        OSError: the file cannot be read.
    """
    data = b"".join(chunks(path, expected.size))
    if hashlib.sha256(data).hexdigest() != expected.sha256:
        raise CheckpointError(f"{path.name} is not what was written: its sha256 differs")
    return decode(data)


def as_tensor(lines: bytes) -> torch.Tensor:
    """Lines as the bytes of a tensor, for a file of tensors."""
    return torch.frombuffer(bytearray(lines or b"\n"), dtype=torch.uint8)
