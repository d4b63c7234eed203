"""Files that are replaced as a whole; no link is followed where something is written.

A directory of checkpoints may come from elsewhere, out of an archive say, and have links in it that
lead to other files of the user's. So a temporary file is always created, and what has its name is
removed first: of a link, the link.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def replace_file(path: Path, content: bytes, part: Path | None = None) -> None:
    """Writes a file: a reader sees the old one or the new one, whole.

    Args:
        path: of the file. If it is a link, the link is replaced, not what it leads to.
        content: what the file is to hold.
        part: where it is written first, in the same folder; None is the path with `.part` behind.

    Raises:
        OSError: it cannot be written; the file that was there is as it was.
    """
    part = part or path.with_name(f"{path.name}.part")
    file = create(part)
    try:
        with flushed(file):
            write_all(file, content)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def create(path: Path) -> int:
    """A descriptor of a new, empty file; what had its name is removed.

    Raises:
        OSError: it cannot be made.
    """
    path.unlink(missing_ok=True)
    return open_new(path)


def open_new(path: Path | str) -> int:
    """A descriptor of a new file.

    Raises:
        OSError: it cannot be made, or something has its name, if only a link that leads elsewhere.
    """
    return os.open(path, _NEW, 0o666)  # less the user's umask


@contextmanager
def flushed(file: int) -> Iterator[int]:
    """While it is open, a descriptor is written to; then it is flushed to the disk, and closed."""
    try:
        yield file
        os.fsync(file)
    finally:
        os.close(file)


def write_all(file: int, content: bytes) -> None:
    """Writes to a descriptor, which may take a part at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]
