"""Log: structured events of a run, as JSON lines or for people, through structlog."""

from __future__ import annotations

import logging
import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from statetrain.callback import Callback
from statetrain.callbacks.beginning import check_beginning
from statetrain.context.context import Context
from statetrain.data.sizes import length, parameters_of
from statetrain.errors import CallbackError, ConfigError
from statetrain.guards.base import Guard
from statetrain.guards.batch import Accumulating, NonFinite
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, START
from statetrain.logs.events import RESERVED, Format, event_logger
from statetrain.naming import did_you_mean
from statetrain.outcome import Failed, Interrupted, Outcome
from statetrain.validators import check_switches, check_word, local_path

# What an event arrow gave up, by the role of the state that it leaves.
_SKIPPED = {
    "draw": "batch",
    "batch": "batch",
    "valid_draw": "validation batch",
    "valid_batch": "validation batch",
    "predict_draw": "batch",
    "predict_batch": "batch",
    "train": "epoch",
    "epoch": "epoch",
    "valid": "validation",
}
# What is running, by the role of the state that it starts in; else a fit
_RUNS = {
    "valid": "evaluation",
    "predict": "prediction",
}


class Log(Callback):
    """Writes one structured event for each thing of interest that happens in a run.

    | event | level | fields |
    | --- | --- | --- |
    | `fit started` | info | `device`, `parameters`, `epochs`, `batches`, ... |
    | `phase started` | info | `phase`, `epoch`, `batch`, `step`; for each phase after the first |
    | `row recorded` | info | the columns of the row |
    | `batch skipped`, `epoch skipped`, ... | warning | `by`, `reason`, `epoch`, `batch`, `step` |
    | `transition` | info | `source`, `dest`, `label`, `epoch`, `batch`, `step` |
    | `fit ended` | info; warning if interrupted | `outcome`, `reason`, `epoch`, `step`, `seconds` |
    | `fit failed` | error | `error`, `message`, `state`, `epoch`, `batch`, `step`, `seconds` |

    `fit started` also has `valid_batches`, and `after_epoch` of a fit that resumes. There are also
    `validation batch skipped` and `validation skipped`. Only what `transitions` names is logged.

    `evaluation()` and `prediction()` say `evaluation started`, `prediction ended` and so on. A loss
    that is not finite and is skipped is a `batch skipped`. What is unknown, such as the batches
    of a generator, is None.

    In JSON, numbers that are not finite are the strings "nan", "inf" and "-inf", since JSON has no
    numbers for them. On the console, control characters are escaped and floats have four
    digits.

    structlog's global configuration is neither read nor changed. `verbose=False` silences what
    would go to the standard error; a `file` or a `logger` was asked for, so it gets its events. An
    output that fails leads to one warning, and the run continues.

    Args:
        transitions: arrows as `"loss -> next_batch"`, and states, whose every arrow in is meant,
            by their names or their roles; each is logged
            whenever it is taken. Nothing is spent on others if there are none here.
        format: "auto": "console" on a terminal, "json" elsewhere; "console": a line for people;
            "json": JSON lines.
        file: a path, which is appended to, or an open text stream; None is the standard error of
            the moment.
        logger: a structlog logger of your own, in place of all that.
        timestamps: whether events carry the time, in UTC. Of a logger of your own, that is its
            business.

    Raises:
        ConfigError: an argument is none of these, or two exclude each other.
    """

    ranks = "first"

    anywhere = True  # it shows what is there

    reads = ("**",)  # it asks guards for their reasons, which read what they like
    writes = ()

    def __init__(
        self,
        *,
        transitions: str | Iterable[str] = (),
        format: Format = "auto",  # noqa: A002  # the word that users look for
        file: str | os.PathLike[str] | TextIO | None = None,
        logger: Any = None,
        timestamps: bool = True,
    ) -> None:
        _check(format, file, logger)
        check_switches("Log", timestamps=timestamps)
        self._asked = _parse(transitions)
        # The same by the names of states, of the lifecycles that it serves
        self._wanted: set[tuple[str, str]] = set()
        if isinstance(file, str | os.PathLike):
            file = local_path("Log: file", file)
        self._format, self._file, self._given, self._timestamps = format, file, logger, timestamps
        self._reset()
        if self._asked:
            # A hook only where it has something to do: `on_transition` is called on every arrow.
            self.on_transition = self._transition

    def destinations(self) -> tuple[str, ...]:
        """The file that it writes, if it is given by its path."""
        if isinstance(self._file, str | os.PathLike):
            return (os.fspath(self._file),)
        return ()

    def _reset(self) -> None:
        self._run = ""  # what is running: fit, evaluation or prediction; empty between runs
        self._logger: Any = None  # None where nothing is logged
        self._opened: TextIO | None = None  # a file that is to be closed
        self._started = 0.0  # the clock
        self._logged = 0  # rows of the history

    def check_lifecycle(self, lifecycle: Lifecycle) -> None:
        """Looks up the names in `transitions`, among those of options that are off, too.

        Raises:
            CallbackError: there is no such state.
        """
        check_beginning("Log", lifecycle)
        known = {*lifecycle.names, *lifecycle.roles, *lifecycle.also, START, FAILED}
        for name in sorted({name for arrow in self._asked for name in arrow if name}):
            if name not in known:
                raise CallbackError(
                    f"Log: transitions mention {name!r}: no state {name!r} in lifecycle"
                    f" {lifecycle.name!r}{did_you_mean(name, known)}"
                )
        for arrow in (lifecycle.start, *lifecycle.transitions):
            ends = [{name, lifecycle.role(name)} for name in (arrow.source, arrow.dest)]
            if any(source in ends[0] | {""} and dest in ends[1] for source, dest in self._asked):
                self._wanted.add((arrow.source, arrow.dest))

    # ------------------------------------------------------------ hooks

    def on_enter_fit(self, ctx: Context) -> None:
        """Logs that a fit starts, or the next phase of one."""
        if self._run:
            self._say(ctx, "info", "phase started", {"phase": ctx.state, **_where(ctx, ctx.state)})
            return
        self._say(ctx, "info", "fit started", _about(ctx))

    def on_enter_train(self, ctx: Context) -> None:
        """Logs the row of a validation that came between."""
        self._rows(ctx)

    def on_enter_next_batch(self, ctx: Context) -> None:
        """Logs a batch that was skipped."""
        arrow = ctx.transition
        if arrow.event is not None or not (
            arrow.guard is None or isinstance(arrow.guard, Accumulating)
        ):  # else it is the usual way here
            self._skip(ctx)

    def on_enter_next_valid_batch(self, ctx: Context) -> None:
        """Logs a validation batch that was skipped."""
        self._skip(ctx)

    def on_enter_next_predict_batch(self, ctx: Context) -> None:
        """Logs a batch of a prediction that was skipped."""
        self._skip(ctx)

    def on_enter_valid(self, ctx: Context) -> None:
        """Logs the start of an evaluation, or that the training before it was skipped."""
        if getattr(ctx, "epoch", 0):
            self._skip(ctx)
        else:
            self._aside(ctx)

    def on_enter_predict(self, ctx: Context) -> None:
        """Logs that a prediction starts."""
        self._aside(ctx)

    def on_enter_record(self, ctx: Context) -> None:
        """Logs what was skipped."""
        self._skip(ctx)

    def on_enter_next_epoch(self, ctx: Context) -> None:
        """Logs the row of the epoch with what was added after `record`, or that it was skipped."""
        self._rows(ctx)
        self._skip(ctx)

    def on_enter_failed(self, ctx: Context) -> None:
        """Logs the failure."""
        self._rows(ctx)
        assert isinstance(ctx.outcome, Failed)
        error, state = ctx.outcome.error, ctx.outcome.state
        about = {
            "error": type(error).__name__,
            "message": str(error),
            "state": state,
            **_where(ctx, state),
            "seconds": self._seconds(ctx),
        }
        self._say(ctx, "error", f"{self._run} failed", about)

    # ------------------------------------------------------------ what is logged

    def _aside(self, ctx: Context) -> None:
        self._begin(ctx)
        about = {
            "device": str(ctx.device),
            "parameters": parameters_of(ctx.model),
            "batches": length(ctx.valid_data),
        }
        self._say(ctx, "info", f"{self._run} started", about)

    def _rows(self, ctx: Context) -> None:
        self._begin(ctx)
        for row in ctx.history[self._logged :]:
            self._say(ctx, "info", "row recorded", row)
        self._logged = len(ctx.history)

    def _skip(self, ctx: Context) -> None:
        """Logs the arrow that led here, if it gave something up."""
        arrow = ctx.transition
        if arrow.event is not None:
            what, by, reason = (
                _SKIPPED.get(ctx.machine.lifecycle.role(arrow.source), arrow.source),
                type(ctx.event).__name__,
                str(ctx.event) or None,
            )
        elif arrow.guard is not None and _refuses(arrow.guard):
            what, by, reason = "batch", arrow.guard.label, arrow.guard.reason(ctx)
        else:
            return
        self._say(
            ctx,
            "warning",
            f"{what} skipped",
            {"by": by, "reason": reason, **_where(ctx, arrow.source)},
        )

    def _transition(self, ctx: Context) -> None:
        """Logs an arrow that was asked for."""
        arrow = ctx.transition
        if (arrow.source, arrow.dest) in self._wanted:
            about = {
                "source": arrow.source,
                "dest": arrow.dest,
                "label": arrow.label,
                **_where(ctx, arrow.source),
            }
            self._say(ctx, "info", "transition", about)

    # ------------------------------------------------------------ from start to end

    def _begin(self, ctx: Context) -> None:
        if self._run:
            return
        if getattr(ctx, "epoch", 0):
            self._run = "fit"
        else:
            role = ctx.machine.lifecycle.role(ctx.transition.dest)
            self._run = _RUNS.get(role, "fit")
        # On every path the run ends with its clean-ups, and by then the outcome is known.
        ctx.defer(partial(self._finish, ctx))
        self._started, self._logged = ctx.clock(), len(ctx.history)
        if self._given is not None:
            self._logger = self._given
        elif isinstance(self._file, Path):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._opened = self._file.open("a", encoding="utf-8")
            self._logger = event_logger(self._opened, self._format, self._timestamps)
        elif self._file is not None or ctx.verbose:
            self._logger = event_logger(self._file, self._format, self._timestamps)

    def _finish(self, ctx: Context) -> None:
        try:
            if not isinstance(ctx.outcome, Failed):  # of which `on_enter_failed` has said more
                self._rows(ctx)
                level = "info"
                if isinstance(ctx.outcome, Interrupted):
                    level = "warning"
                counters = {}
                if getattr(ctx, "epoch", 1):
                    told = ctx.counters().items()
                    counters = {name: value for name, value in told if name in ("epoch", "step")}
                self._say(
                    ctx,
                    level,
                    f"{self._run} ended",
                    {**_outcome(ctx.outcome), **counters, "seconds": self._seconds(ctx)},
                )
        finally:
            opened = self._opened
            self._reset()
            if opened is not None:
                opened.close()

    def _seconds(self, ctx: Context) -> float:
        return round(float(ctx.clock() - self._started), 3)

    def _say(self, ctx: Context, level: str, event: str, fields: Mapping[str, Any]) -> None:
        self._begin(ctx)
        if self._logger is None:
            return
        try:
            getattr(self._logger, level)(
                event,
                **{
                    f"{name}_" if name in RESERVED else name: value
                    for name, value in fields.items()
                },
            )
        except OSError as error:
            self._logger = None
            warnings.warn(
                f"Log cannot write any more ({error!r}), so it logs nothing from here on; the run"
                " goes on",
                RuntimeWarning,
                stacklevel=2,
            )


# ---------------------------------------------------------------- arguments


def _check(format: Any, file: Any, logger: Any) -> None:  # noqa: A002  # as in Log
    check_word("Log: format", format, ("auto", "console", "json"))
    if file is not None and not isinstance(file, str | os.PathLike) and not hasattr(file, "write"):
        raise ConfigError(f"Log: file must be a path or an open text stream, got {file!r}")
    if logger is None:
        return
    _check_logger(logger)
    if file is not None or format != "auto":
        raise ConfigError(
            "Log: a logger has its own file and format; give either a logger or these"
        )


def _check_logger(logger: Any) -> None:
    if isinstance(logger, logging.Logger):
        raise ConfigError(
            "Log: loggers of the standard library take no fields; wrap it:"
            " structlog.stdlib.get_logger(...)"
        )
    for name in ("info", "warning", "error"):
        if not hasattr(logger, name):
            raise ConfigError(
                f"Log: logger must be a structlog logger, got {logger!r}, which has no {name!r}"
            )


def _parse(transitions: str | Iterable[str]) -> frozenset[tuple[str, str]]:
    """The arrows as pairs; a lone state has no source."""
    asked = set()
    for text in (transitions,) if isinstance(transitions, str) else transitions:
        found = None
        if isinstance(text, str):
            found = re.fullmatch(r"\s*(?:(\w+|\[\*\])\s*->\s*)?(\w+)\s*", text)
        if found is None:
            raise ConfigError(
                f"Log: transitions are written 'source -> dest' or 'state', got {text!r}"
            )
        asked.add((found[1] or "", found[2]))
    return frozenset(asked)


# ---------------------------------------------------------------- fields


def _about(ctx: Context) -> dict[str, Any]:
    """What a fit begins with; of a context of your own, its lifecycle."""
    if not isinstance(ctx, Context):
        return {"lifecycle": ctx.machine.lifecycle.name}
    about: dict[str, Any] = {"device": str(ctx.device), "parameters": parameters_of(ctx.model)}
    about |= {
        "epochs": None if ctx.max_epochs == math.inf else int(ctx.max_epochs),
        "batches": length(ctx.train_data),
    }
    if ctx.valid_data is not None:
        about["valid_batches"] = length(ctx.valid_data)
    if ctx.epoch:
        about["after_epoch"] = ctx.epoch
    return about


def _where(ctx: Context, state: str) -> dict[str, Any]:
    """Where the run was. The state says in which loop: its scopes may be closed by now."""
    if not isinstance(ctx, Context):
        return ctx.counters()
    if ctx.machine.lifecycle.lies_in(state, "valid", "predict"):
        batch = ctx.valid_iter
    else:
        batch = ctx.iter
    if ctx.epoch:
        return {"epoch": ctx.epoch, "batch": batch, "step": ctx.step}
    return {"batch": batch}


def _refuses(guard: Guard) -> bool:
    """Whether a guard holds for what is not finite."""
    return isinstance(guard, NonFinite) or any(map(_refuses, guard.parts()))


def _outcome(outcome: Outcome | None) -> dict[str, Any]:
    about = {"outcome": type(outcome).__name__.lower()}
    if reason := getattr(outcome, "reason", ""):
        about["reason"] = reason
    return about
