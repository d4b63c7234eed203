"""Files whose rows are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define

from statetrain.checkpoints.files import replace_file
from statetrain.errors import ConfigError


def lines_of(text: str) -> list[str]:
    """The complete lines of a text."""
    return [line + "\n" for line in text.split("\n")[:-1]]


@define(eq=False)
class RowFile:
    """A text file that grows by rows; where a row could not be written whole, none of it is left.

    It is a run's: one that is new replaces the file when its first row is there, and one that is
    continued takes back the rows that came after the point where it resumes.

    Args:
        path: of the file; folders that are missing are made.
        owner: whose it is, for errors.
        append: whether a new run writes below the rows that are there.
        split: finds the rows in the file's text; what has not come to its end is none.
        head: how many rows in front are no data.
    """

    path: Path
    owner: str
    append: bool = False
    split: Callable[[str], list[str]] = lines_of
    head: int = 0
    before: int | None = None  # rows of other runs; None before the run began
    written: int = 0  # rows of this run
    ready: bool = False  # whether the file holds what is to be kept and nothing else

    # ------------------------------------------------------------ a run

    def open(self, fresh: bool) -> bool:
        """Prepares the file for a run.

        Args:
            fresh: whether it is a new one.

        Returns:
            Whether what the run has written before is there; if not, it starts over.
        """
        self.check()
        self.ready = False
        rows = []
        if self.append or not fresh:
            rows = self.rows()
        there = max(len(rows) - self.head, 0)
        if fresh or self.before is None:
            self.before, self.written = there if self.append else 0, 0
            return fresh
        if there < self.before + self.written:
            self.before, self.written = min(self.before, there), 0
            return False
        self.replace("".join(self.kept()))
        return True

    def rows(self) -> list[str]:
        """The rows of the file."""
        if not self.path.exists():
            return []
        return self.split(self.path.read_bytes().decode("utf-8", "backslashreplace"))

    def kept(self) -> list[str]:
        """The rows that belong into it, those in front included; none if there is no data."""
        n = (self.before or 0) + self.written
        if n:
            return self.rows()[: self.head + n]
        return []

    def add(self, row: str) -> None:
        """Adds a row at the end; the first one of a new run replaces what is not to be kept."""
        if self.ready:
            self.append_text(row)
        else:
            self.replace("".join(self.kept()) + row)
        self.written += 1

    def state_dict(self) -> dict[str, Any]:
        """How many rows the file has of other runs, and of this one."""
        return {"before": self.before, "written": self.written}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.before, self.written, self.ready = state["before"], state["written"], False

    # ------------------------------------------------------------ the file

    def check(self) -> None:
        """Makes the folders, and sees whether the file can be written.

        Raises:
            ConfigError: it cannot.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_dir():
                raise IsADirectoryError(f"{self.path} is a folder")
            if self.path.exists() and not self.path.is_file():
                raise OSError(f"{self.path} is not a regular file")
            new = not self.path.exists()
            with self.path.open("ab"):  # what a file system allows, only trying can tell
                pass
            if new:
                self.path.unlink()
        except (OSError, ValueError) as error:  # a name with a null character is a ValueError
            raise ConfigError(f"{self.owner} cannot write {str(self.path)!r}: {error}") from error

    def append_text(self, text: str) -> None:
        """Adds whole rows at its end.

        Raises:
            OSError: it cannot be written; it is as it was before.
        """
        try:
            with self.path.open("ab", buffering=0) as file:
                before, data = file.seek(0, os.SEEK_END), text.encode("utf-8", "backslashreplace")
                try:
                    while data:
                        data = data[file.write(data) :]
                except OSError:
                    file.truncate(before)
                    raise
        except OSError as error:
            raise self._named(error) from error

    def replace(self, text: str) -> None:
        """Writes it from scratch: a reader sees the old one or the new one, whole.

        Raises:
            OSError: it cannot be written; it is as it was before.
        """
        other = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            replace_file(self.path, text.encode("utf-8", "backslashreplace"), other)
        except OSError as error:
            raise self._named(error) from error
        self.ready = True

    def _named(self, error: OSError) -> OSError:
        return type(error)(
            error.errno, f"{self.owner} cannot write: {error.strerror}", str(self.path)
        )
