"""A directory of checkpoints: which is the newest, which are broken, which are unfinished.

What was complete and is not any more is broken. It is renamed to `<name>.corrupt-<reason>` and
never deleted, and the newest one before it is used. A link to a checkpoint that lies elsewhere is
followed to read it, and left as it is when others are deleted or renamed.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from statetrain.checkpoints.checkpoint import (
    Saved,
    folders_in,
    free_name,
    is_unfinished,
    read_manifest,
    remove_unfinished,
    verify,
)
from statetrain.errors import CheckpointError, ConfigError
from statetrain.guards.comparing import rank
from statetrain.validators import is_whole_number

_CORRUPT = ".corrupt-"
_SLUG = re.compile(r"[^a-z0-9]+")

T = TypeVar("T")

log = logging.getLogger("statetrain")


def newest(folder: Path, aside: bool = True) -> Saved | None:
    """The newest checkpoint of a directory that verifies; None if there is none.

    Args:
        folder: where checkpoints lie.
        aside: whether newer ones that do not verify are renamed; each leads to a warning. Only the
            run that owns the directory may do so.

    Raises:
        CheckpointError: there are checkpoints, and none of them verifies; the message lists them
            all.
    """
    found = first_usable(folder, complete(folder, aside), verify, aside)
    if found is not None:
        return found[0]
    return None


def choose(folder: Path, which: str | int) -> Saved:
    """One of the checkpoints of a directory; nothing is renamed.

    Args:
        folder: where checkpoints lie.
        which: "last", the newest that is whole; "best", by the column that they were monitored by;
            or the number of a step.

    Raises:
        ConfigError: it is none of these.
        CheckpointError: there is no such checkpoint, or none that is whole.
    """
    candidates = complete(folder, aside=False)
    if which == "best":
        candidates = by_value(candidates)
    elif is_whole_number(which):
        candidates = [saved for saved in candidates if saved.about.get("step") == which]
    elif which != "last":
        raise ConfigError(f"which must be 'last', 'best' or the number of a step, got {which!r}")
    found = None
    if candidates:
        found = first_usable(folder, candidates, verify, aside=False)
    if found is None:
        raise CheckpointError(_describe_missing(folder, which))
    return found[0]


def _describe_missing(folder: Path, which: str | int) -> str:
    words = {"last": "checkpoint", "best": "checkpoint with a monitored value"}
    text = f"there is no {words.get(str(which), f'checkpoint of step {which}')} in {folder}"
    steps = [str(saved.about.get("step")) for saved in complete(folder, aside=False)]
    if steps:
        text += f"; there are those of the steps {', '.join(steps)}"
    return text


def located(path: Path) -> Path:
    """Where the checkpoint lies that a path means: `<folder>/best`, `/last` and `/step-<number>`.

    Any other path, and one at which there is something, means itself.

    Raises:
        CheckpointError: the directory has no such checkpoint.
    """
    number = path.name.removeprefix("step-")
    if path.exists() or not path.parent.is_dir():
        return path
    if path.name in ("last", "best"):
        return choose(path.parent, path.name).path
    if path.name != number and number.isdecimal():
        return choose(path.parent, int(number)).path
    return path


def by_value(candidates: Iterable[Saved]) -> list[Saved]:
    """Those of some checkpoints that have a value of what the newest monitors, the best first.

    Of equals, the earliest is the best; a NaN never is.
    """
    newest_first = sorted(candidates, key=lambda saved: -saved.sequence)
    monitored = [saved for saved in newest_first if saved.about.get("monitor") is not None]
    if not monitored:
        return []
    column, mode = (monitored[0].about[name] for name in ("monitor", "mode"))
    found = [
        saved
        for saved in reversed(monitored)
        if saved.about["monitor"] == column and _is_number(saved.about.get("value"))
    ]
    return sorted(found, key=lambda saved: rank(saved.about["value"], mode))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def first_usable(
    folder: Path, candidates: Iterable[Saved], look: Callable[[Path], T], aside: bool
) -> tuple[Saved, T] | None:
    """The first of some checkpoints that `verify` or `read` accepts, with what that returns.

    It is None if nothing is there. The other arguments and the errors are those of `newest`.
    """
    for saved in candidates:
        try:
            return saved, look(saved.path)
        except (CheckpointError, OSError) as error:
            _report(saved.path, error, aside)
    there = folders_in(folder)
    # A run that was killed in its first save leaves one that is unfinished; never two of them.
    if all(is_unfinished(path) for path in there) and len(there) <= 1:
        if there:
            log.warning(
                "%s has no whole checkpoint, only %s, which is unfinished", folder, there[0].name
            )
        return None
    raise CheckpointError(
        f"no checkpoint in {folder} can be used, of {', '.join(path.name for path in there)}. None"
        " has been deleted: put a copy of a whole one in place, or move them away to start from"
        " scratch"
    )


def complete(folder: Path, aside: bool = True) -> list[Saved]:
    """The checkpoints of a directory whose manifest is sound, the newest first.

    The arguments are those of `newest`.
    """
    found = []
    for path in folders_in(folder):
        if _CORRUPT in path.name or is_unfinished(path):
            continue
        try:
            found.append(read_manifest(path))
        except (CheckpointError, OSError) as error:
            _report(path, error, aside)
    return sorted(found, key=lambda saved: -saved.sequence)


def _report(path: Path, error: Exception, aside: bool) -> None:
    """Warns that a checkpoint is broken, and sets it aside."""
    reason, where = str(error).removeprefix(f"{path.name}: "), "skipped"
    if aside and not path.is_symlink():
        where = _set_aside(path, reason)
    log.warning("checkpoint %s is broken and was %s: %s", path, where, reason)


def _set_aside(path: Path, reason: str) -> str:
    words = reason.lower().replace(".json", "").replace(".safetensors", "")
    slug = _SLUG.sub("-", words).strip("-")[:48].rstrip("-")
    aside = free_name(path.parent, f"{path.name}{_CORRUPT}{slug or 'unreadable'}")
    try:
        os.rename(path, aside)
    except OSError as error:
        return f"left where it is ({error.strerror})"
    return f"set aside as {aside.name}"


def weed(candidates: Iterable[Saved]) -> None:
    """Sets aside those of some checkpoints that do not verify; the caller owns the directory."""
    for saved in candidates:
        try:
            verify(saved.path)
        except (CheckpointError, OSError) as error:
            _report(saved.path, error, aside=True)


def sweep(folder: Path) -> None:
    """Deletes what a process that was killed left unfinished; the caller owns the directory."""
    for path in folders_in(folder):
        if is_unfinished(path):
            remove_unfinished(path)
