"""The record of a failure, next to the checkpoints: what, where, when, and how to resume."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statetrain import jsons
from statetrain.checkpoints.files import replace_file

if TYPE_CHECKING:
    from statetrain.context.position import Position

FILE = "failure.json"
_COUNTERS = ("epoch", "iter", "valid_iter", "step")
_RESUME = "fit(..., resume='last')"

_SECRET = re.compile(r"(?i)(token|secret|passw|credential|api[-_]?key)")


def describe(
    ctx: Position, error: BaseException, newest: Path | None, command: Sequence[str] | None = None
) -> dict[str, Any]:
    """A failure as plain data.

    Args:
        ctx: the context, failed.
        error: what was raised.
        newest: the newest checkpoint; None if there is none.
        command: the words that started the process; None takes the process's own. What looks like a
            secret is left out.
    """
    return {
        "error": f"{type(error).__module__}.{type(error).__qualname__}",
        "message": str(error),
        "notes": list(getattr(error, "__notes__", ())),
        "traceback": traceback.format_exception(error),
        "state": getattr(ctx.outcome, "state", None),
        "where": ctx.where(),
        **{name: getattr(ctx, name) for name in _COUNTERS if hasattr(ctx, name)},
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "pid": os.getpid(),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("statetrain", "torch")},
        },
        "checkpoint": newest and str(newest),
        "resume": _RESUME if newest else "fit(...) starts from scratch: there is no checkpoint",
        "command": command_line(command),
    }


def command_line(words: Sequence[str] | None = None) -> str:
    """The command that started the process, or another one; what looks like a secret is stars."""
    return shlex.join(_without_secrets(sys.orig_argv if words is None else words))


def _version(module: str) -> str:
    return str(getattr(sys.modules.get(module), "__version__", ""))


def _without_secrets(words: Sequence[str]) -> list[str]:
    """A command with its secrets replaced by stars: `--token=abc`, and what follows `--token`."""
    shown, hide = [], False
    for word in words:
        name, sign, _ = word.partition("=")
        secret = bool(_SECRET.search(name)) and (name.startswith("-") or bool(sign))
        if hide:
            word = "***"
        elif secret and sign:
            word = f"{name}=***"
        shown.append(word)
        hide = secret and not sign and not hide
    return shown


def write(folder: Path, data: dict[str, Any]) -> Path:
    """Writes a record; one that is there is replaced when the new one is complete.

    Raises:
        OSError: it cannot be written.
    """
    text = jsons.dumps(jsons.jsonable(data), indent=2, ascii_only=False)
    replace_file(folder / FILE, text.encode())
    return folder / FILE
