"""Output streams whose failure does not end a run."""

from __future__ import annotations

from typing import Any

from statetrain.naming import encodable


def is_terminal(file: Any) -> bool:
    """Whether a stream says that it is one."""
    try:
        return bool(file.isatty())
    except (AttributeError, ValueError):  # no such method, or closed
        return False


class Stream:
    """A stream whose failure does not end a run: keeps the first error, drops what comes after it.

    Args:
        file: an open text stream.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        self.encoding = getattr(file, "encoding", None) or "utf-8"
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        """Writes what the stream's encoding can hold; the rest is escaped."""
        if self.error is None:
            try:
                self.file.write(encodable(text, self.encoding))
            except (OSError, ValueError) as error:  # a closed file raises ValueError
                self.error = error
        return len(text)

    def flush(self) -> None:
        """Hands on what was written."""
        if self.error is None:
            try:
                self.file.flush()
            except (OSError, ValueError) as error:
                self.error = error

    def line(self, text: str) -> None:
        """Writes a line and hands it on."""
        self.write(text + "\n")
        self.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return is_terminal(self.file)

    def fileno(self) -> int:
        """The file's own number."""
        return int(self.file.fileno())
