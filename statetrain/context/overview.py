"""A context as a person reads it: one line for each thing that matters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from statetrain.context.context import Context


def overview(ctx: Context) -> str:
    """A table of where a run stands: state, counters, time, loss, last row."""
    lines = {
        "state": ctx.state or "before the run",
        "last transition": str(ctx.transition or "none"),
        "outcome": _outcome(ctx),
        "epoch": str(ctx.epoch),
        "batch": str(ctx.iter),
        "step": str(ctx.step),
        "samples": str(ctx.samples),
        "time": f"{ctx.seconds:.1f} s",
        "loss": "none yet",
        "last row": "none yet",
    }
    if ctx.max_epochs != math.inf:
        lines["epoch"] += f" of {ctx.max_epochs:g}"
    if ctx.length:
        lines["batch"] += f" of {ctx.length}"
    if ctx.loss_value is not None:
        lines["loss"] = _number(ctx.loss_value)
    if len(ctx.history):
        lines["last row"] = ", ".join(
            f"{name}={_short(value)}" for name, value in ctx.history[-1].items()
        )
    width = max(map(len, lines))
    return "\n".join(f"{name.rjust(width)}  {value}" for name, value in lines.items())


def _outcome(ctx: Context) -> str:
    if ctx.outcome:
        return repr(ctx.outcome)
    if ctx.state:
        return "still running"
    return "none yet"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _number(value: Any) -> str:
    try:
        return f"{float(value):.6g}"
    except (TypeError, ValueError, RuntimeError):  # not one real number, or on a failed device
        return f"a {type(value).__name__} that cannot be read"


def in_words(value: Any) -> Any:
    """Nested plain data as it is; whatever else is in it as its repr."""
    if isinstance(value, dict):
        return {str(key): in_words(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(in_words, value))
    if isinstance(value, bool | int | float | str | None):
        return value
    return repr(value)
