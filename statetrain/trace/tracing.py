"""Tracing: the callback that records the transitions of a run."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve

from statetrain.callback import Callback
from statetrain.errors import ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, START
from statetrain.lifecycle.transition import Transition
from statetrain.machine.asking import answers_to
from statetrain.naming import did_you_mean
from statetrain.outcome import Failed, Outcome
from statetrain.trace.tape import COUNTERS, UNCOUNTED, Tape, TapeRow
from statetrain.trace.value import Trace
from statetrain.trace.writing import TraceWriting
from statetrain.validators import check_switches, check_whole, local_path

if TYPE_CHECKING:
    from statetrain.context.context import Context

_PAUSE = 1.0  # seconds after which what has been gathered is written
_MOST = 4096  # transitions after which it is, at the latest
_LOSS = {"loss": ("loss_value",)}


class Tracing(Callback):
    """Records the transitions of a run.

    A new run starts a new trace; another `fit` of the same run, or one that resumes, continues it.

    An exception that no arrow takes is the last transition: from the state that it was raised in to
    `failed`.

        tracing = Tracing()
        Machine(life, [tracing]).run(ctx)
        print(tracing.trace)

    With `file`, the whole run is written as JSON lines too, which `Trace.load`, `statetrain trace`
    and `statetrain watch` read: every second, and when the run ends. Of a process that is killed,
    the file has all but about the last second. A resumed run appends to the file, at the
    transition at which its checkpoint was made. When the file cannot be written any more, there is
    one warning, and the run continues.

    Args:
        last: how many transitions are kept in memory, at least 1; None keeps all, 8 bytes each. How
            often each arrow was taken is known of all.
        lifecycle: the table that is walked, if not the machine's.
        file: where everything is written as well; None is nowhere. A file that is there is
            replaced.
        counters: whether epoch, batch, step and samples are kept with each transition. A file has
            them always.
        times: whether the seconds since the run began are. A file has them always.
        answers: whether it is kept what each part of each guard answered.
        values: paths of the context by state, such as `{"loss": "loss_value", "grad_norm":
            ["grad_norm"]}`: numbers that are kept when the state has done its work. A tensor is
            read, which waits for its device. None with a file: the loss, where it is a number
            anyway.
        every_rank: whether each of several ranks writes a file, those after rank 0 with their
            number in its name, such as `trace.rank1.jsonl`; else rank 0 alone does.
        clock: seconds from any moment on.

    Raises:
        ConfigError: an argument makes no sense, or the file cannot be written.
    """

    anywhere = True
    reads = ("**",)  # the values that are asked for are at any path
    writes = ()

    def __init__(
        self,
        last: int | None = 100_000,
        lifecycle: Lifecycle | None = None,
        *,
        file: str | os.PathLike[str] | None = None,
        counters: bool = False,
        times: bool = False,
        answers: bool = False,
        values: Mapping[str, str | Iterable[str]] | None = None,
        every_rank: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_switches(
            "Tracing", counters=counters, times=times, answers=answers, every_rank=every_rank
        )
        self._full = math.inf
        if last is not None:
            check_whole("Tracing: last", last, also=", or None for all")
            self._full = 2 * last
        self.file: Path | None = None
        if file is not None:
            self.file = local_path("Tracing", file)
            counters = times = True
        self.asks, self.every_rank = answers, every_rank
        self._clock = clock
        self._given_table = self._table = lifecycle
        self._counters, self._times = counters, times
        self._given = values
        self._host_only = values is None  # wait for no number unless it is asked for
        if values is None and file is not None:
            values = _LOSS
        self._asked: dict[str, tuple[str, ...]] = _paths(values or {})
        self._values: dict[str, tuple[str, ...]] = {}  # the same, by the names of states
        self._detailed = bool(self._counters or self._times or answers or self._asked)
        self._tape = Tape(last)
        self._ctx: Any = None  # until the run ends: it has this callback, and would never be freed
        self._history: Any = None
        self._ended: tuple[Outcome | None, str] = None, ""  # how, and the error in words
        self._waited: list[dict[str, float]] = []  # by rank
        self._began: float | None = None
        self._writing: TraceWriting | None = None
        self._written = 0  # transitions that are in the file
        self._due = 0.0  # the time at which to write next
        # What `state_dict` gave, until the run is continued
        self._continued: dict[str, Any] | None = None
        self._counts_with = False  # whether the context has the counters

    def destinations(self) -> tuple[str, ...]:
        """The file that it writes, if there is one."""
        if self.file is None:
            return ()
        return (str(self.file),)

    def check_lifecycle(self, lifecycle: Lifecycle) -> None:
        """Looks up the states, by name or by role, whose values are asked for."""
        for state in self._given or ():
            if state not in (*lifecycle.names, *lifecycle.roles):
                raise ConfigError(
                    f"Tracing: values of {state!r}: no such state in lifecycle"
                    f" {lifecycle.name!r}{did_you_mean(state, lifecycle.names)}"
                )
        for one in lifecycle.states:
            if paths := self._asked.get(one.name) or self._asked.get(one.role):
                self._values[one.name] = paths

    def redirect(self, folder: Path) -> None:
        """Writes a file of the same name in another folder."""
        if self.file is not None:
            self.file = folder / self.file.name

    def name_for(self, rank: int) -> None:
        """Writes the file of one of several ranks."""
        if self.file is not None:
            self.file = self.file.with_name(f"{self.file.stem}.rank{rank}{self.file.suffix}")

    def check_context(self, ctx: Context) -> None:
        """Refuses a file that cannot be written."""
        if self.file is not None:
            TraceWriting.check(self.file)

    @property
    def trace(self) -> Trace:
        """What was recorded so far."""
        taken, moments, dropped, earlier = self._tape.kept()
        outcome, error = self._ended
        waited = self._waited
        if self._ctx is not None:
            outcome, error = self._ctx.outcome, _in_words(self._ctx.error)
            waited = _waited(self._ctx)
        return Trace(
            taken,
            dropped,
            self._table,
            moments=moments,
            rows=self._rows(),
            outcome=outcome,
            error=error,
            earlier=earlier,
            waited=tuple(waited),
        )

    # ------------------------------------------------------------ hooks

    def on_transition(self, ctx: Context) -> None:
        """Records the arrow."""
        if ctx.transition.source == START:
            self._begin(ctx)
        self._record(ctx, ctx.transition)

    def on_enter_failed(self, ctx: Context) -> None:
        """Records how the run failed.

        By the arrow that raised the error, or from the state that it was raised in.
        """
        arrow = ctx.transition
        if arrow is None or arrow.dest != FAILED:
            assert isinstance(ctx.outcome, Failed)
            arrow = Transition(ctx.outcome.state, FAILED)
        elif self._tape.taken and self._tape.taken[-1] == arrow:
            return  # an arrow that raised nothing is there already
        self._record(ctx, arrow)

    def on_resume(self, ctx: Context) -> None:
        """Continues from where the checkpoint was made."""
        state, self._continued = self._continued or {}, None
        self._tape.cut(state.get("count", 0))
        self._open(ctx, state.get("seconds", 0.0))
        if self.file is not None:
            self._start_file(ctx, resumed=self._tape.count, of=str(state.get("id", "")))

    # ------------------------------------------------------------ saved and put back

    def state_dict(self) -> dict[str, Any]:
        """How far the trace is, and in which file."""
        self._write()
        seconds = 0.0
        if self._began is not None:
            seconds = self._clock() - self._began
        return {"count": self._tape.count, "seconds": seconds, "id": self._file_id()}

    def _file_id(self) -> str:
        """The id of the file that is being written; empty if there is none."""
        if self._writing is None:
            return ""
        return self._writing.id

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._continued = state

    # ------------------------------------------------------------ recording

    def _begin(self, ctx: Context) -> None:
        has_begun = bool(getattr(ctx, "epoch", 0))
        goes_on = has_begun and getattr(ctx, "history", None) is self._history
        seconds = 0.0
        resumed = None
        if goes_on:  # another fit of the same run
            assert self._began is not None
            seconds = self._clock() - self._began
            resumed = self._tape.count
        else:
            self._tape.clear()
        self._open(ctx, seconds)
        if self.file is not None:
            self._start_file(ctx, resumed=resumed, of=self._file_id())

    def _open(self, ctx: Context, seconds: float) -> None:
        self._ctx, self._began = ctx, self._clock() - seconds
        self._history = getattr(ctx, "history", None)
        self._table = self._given_table or ctx.machine.lifecycle
        ctx.defer(self._finish)
        self._counts_with = self._counters and all(hasattr(ctx, name) for name in COUNTERS)

    def _record(self, ctx: Context, taken: Transition) -> None:
        tape = self._tape
        if self._detailed:
            now = self._clock()
            if self._times:
                time = now - self._began  # type: ignore[operator]  # it has begun
            else:
                time = None
            if self.asks:
                answers = answers_to(ctx, taken) or None
            else:
                answers = None
            if taken.source in self._values:
                values = self._values_in(ctx, self._values[taken.source])
            else:
                values = None
            tape.moments.append(
                (time, ctx.epoch, ctx.iter, ctx.valid_iter, ctx.step, ctx.samples, answers, values)
                if self._counts_with
                else (time, *UNCOUNTED, answers, values)
            )
            tape.taken.append(taken)
            if self._writing is not None and (
                now >= self._due or tape.count - self._written >= _MOST
            ):
                self._write()
                self._due = now + _PAUSE
        else:
            tape.taken.append(taken)
        if len(tape.taken) >= self._full:
            self._write()
            tape.fold()

    def _values_in(self, ctx: Context, paths: tuple[str, ...]) -> Mapping[str, float] | None:
        found: dict[str, float] = {}
        for path in paths:
            # A failed state may have made none
            if hasattr(type(ctx), "__getitem__"):
                value = ctx[f"{path.removesuffix('?')}?"]
            else:
                value = getattr(ctx, path)
            if isinstance(value, int | float):
                found[path] = value
            elif value is not None and not self._host_only:
                found[path] = float(value)
        return found or None

    def _rows(self) -> list[TapeRow]:
        if self._history is None:
            return []
        rows: list[TapeRow] = self._history.rows
        return rows

    # ------------------------------------------------------------ the file

    def _start_file(self, ctx: Context, resumed: int | None, of: str) -> None:
        assert self.file is not None
        assert self._table is not None
        try:
            self._writing = TraceWriting.open(self.file, self._table, ctx, self.asks, resumed, of)
        except OSError as error:
            self._give_up(error)
            return
        self._written = self._tape.count
        self._due = self._clock() + _PAUSE

    def _write(self) -> None:
        """Writes what the file has not yet."""
        if self._writing is None:
            return
        tape, begin = self._tape, self._written - self._tape.folded
        try:
            self._writing.write(
                self._written,
                tape.taken[begin:],
                tape.moments[begin:],
                getattr(self._ctx, "length", None),
            )
            self._writing.write_rows(self._rows(), tape.count)
            self._writing.write_waited(_waited(self._ctx), tape.count)
        except OSError as error:
            self._give_up(error)
        self._written = tape.count

    def _finish(self) -> None:
        """On every path a run ends with its clean-ups, and by then the outcome is known."""
        self._write()
        outcome = self._ctx.outcome
        if isinstance(outcome, Failed):
            outcome = evolve(outcome, error=None)  # it has the run, which has this callback
        self._ended = outcome, _in_words(self._ctx.error)
        self._waited = _waited(self._ctx)
        self._ctx = None
        if self._writing is None:
            return
        assert self._began is not None
        try:
            self._writing.end(*self._ended, self._tape.count, self._clock() - self._began)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if self._writing is not None:
            self._writing.close()
            self._writing = None
        warnings.warn(
            f"Tracing cannot write {str(self.file)!r} any more ({error!r}); the run continues, with"
            " its trace in memory",
            RuntimeWarning,
            stacklevel=2,
        )

    def __repr__(self) -> str:
        if self.file is None:
            return "Tracing()"
        return f"Tracing(file={str(self.file)!r})"


def _paths(values: Mapping[str, str | Iterable[str]]) -> dict[str, tuple[str, ...]]:
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"Tracing: values are given by state, as {{'loss': 'loss_value'}}, got {values!r:.80}"
        )
    return {
        state: (paths,) if isinstance(paths, str) else tuple(paths)
        for state, paths in values.items()
    }


def _waited(ctx: Context | None) -> list[dict[str, float]]:
    """The seconds of each rank in each meeting, as the ranks have told each other."""
    news = getattr(ctx, "news", None)
    if news is None:
        return []
    told: list[dict[str, float]] = news.waited
    return told


def _in_words(error: BaseException | None) -> str:
    """An exception with its notes; empty if there is none."""
    if error is None:
        return ""
    return "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
