"""What a command exits with."""

from __future__ import annotations

OK = 0
BROKEN = 1  # something is not as it should be
USAGE = 2  # the command cannot be done


def exit_code(sound: bool) -> int:
    """`OK` if all is as it should be, else `BROKEN`."""
    if sound:
        return OK
    return BROKEN
