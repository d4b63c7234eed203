"""Where a checkpoint comes from: the command, the commit, and the settings of the optimizers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from statetrain.checkpoints.failure import command_line

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LONGEST_COMMAND = 4000  # characters
_MOST_GROUPS = 8  # of an optimizer; the manifest is to be read by people


def describe_origin(folder: Path | None = None) -> dict[str, str | None]:
    """The command that started the process, without secrets, and the git commit it runs at.

    Args:
        folder: where the commit is looked for, and above; None is the working directory.
    """
    # A manifest is UTF-8, and what was typed need not be
    command = command_line().encode("utf-8", "backslashreplace").decode()
    return {"command": command[:_LONGEST_COMMAND], "commit": git_commit(folder)}


def git_commit(folder: Path | None) -> str | None:
    """The commit that is checked out in a folder, read from git's files; None if there is none.

    Changes that are not committed are not seen.
    """
    try:
        folder = folder or Path.cwd()  # which may have been deleted
        git = next(path / ".git" for path in (folder, *folder.parents) if (path / ".git").exists())
        if git.is_file():  # of a worktree or a submodule
            git = git.parent / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if head.startswith("ref:"):
            head = _resolve(git, head.removeprefix("ref:").strip())
    except (StopIteration, OSError, ValueError):
        return None
    if _COMMIT.fullmatch(head):
        return head
    return None


def _resolve(git: Path, ref: str) -> str:
    """The commit of a branch, from its own file or the list of packed ones."""
    shared = git / "commondir"
    common = git
    if shared.is_file():
        common = git / shared.read_text().strip()
    if (common / ref).is_file():
        return (common / ref).read_text().strip()
    rows = (line.split() for line in (common / "packed-refs").read_text().splitlines())
    return next((row[0] for row in rows if row[1:] == [ref]), "")


def optimizer_settings(
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> dict[str, list[dict[str, Any]]]:
    """The settings of each optimizer's first parameter groups, as they are now."""
    return {
        name: [_settings(group) for group in optimizer.param_groups[:_MOST_GROUPS]]
        for name, optimizer in optimizers.items()
    }


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a group, without its parameters; a learning rate may be a tensor."""
    found = {}
    for name, value in group.items():
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        if _is_plain(value):
            found[name] = value
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
