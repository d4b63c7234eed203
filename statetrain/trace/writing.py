"""Traces as files: JSON lines that grow during a run and can be read at any moment.

The first line is the header. It says what the file is (`"statetrain": "trace"`, `"format": 1`),
which run (`id`, `started`, `versions`), and lists what the other lines refer to by number, counted
from 0: the `arrows` of the table as `[source, dest, guard, effect, event]` in words, the arrow into
the initial state first, and the parts of `guards`. The lifecycle is there as `Lifecycle.to_dict`
writes it, with its fingerprint, if it can be written; its `states` always are, as `[name, action,
within, final, anchor]`, so that any trace can be drawn; `notes` says of states who listens to them,
and what they read and write. Each other line is one of:

- `{"taken": [...], "at": n, ...}`: transitions in a row, as numbers of arrows; an arrow that the
  table has not, as one to `failed`, stands there itself. `at` is how many came before. Beside it,
  where they were recorded: `"time"`, microseconds, the first since the run began, each other one
  since the one before it; `"counters"`, `[i, epoch, iter, ...]` for each place i of the list from
  which on they are such; `"answers"`, `[i, arrow, guard, 0 or 1, reason]`; `"values"`, `[i,
  {...}]`; and `"of"`, how many batches an epoch has.
- `{"row": {...}, "n": k, "at": n}`: row k of the history; a later one replaces an earlier one.
- `{"waited": [{...}, ...], "at": n}`: of several ranks, the seconds that each has spent in each
  meeting; a later one replaces an earlier one.
- `{"outcome": {...}, "at": n, "seconds": s}`: how the run ended.
- another header, with `"resumed": n`: a run went on here after n transitions; what an earlier
  process did after those was lost with it, and does not count.

Numbers that JSON has not are written as texts: "nan", "inf", "-inf". A last line without its end is
being written, or was when the process was killed: it does not count. Nothing in a file is ever run
or imported.
"""

from __future__ import annotations

import itertools
import os
import platform
import sys
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import Factory, define

from statetrain import jsons
from statetrain.contracts.notes import notes_of
from statetrain.errors import ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.transition import Transition
from statetrain.machine.asking import Asked
from statetrain.naming import label_of
from statetrain.outcome import Outcome, as_data
from statetrain.trace.tape import COUNTERS, UNCOUNTED, KnownFacts, TapeRow
from statetrain.trace.value import Trace
from statetrain.trace.words import Words, words_of
from statetrain.validators import local_path

if TYPE_CHECKING:
    from statetrain.context.context import Context

FORMAT = 1
_CHUNK = 4096  # transitions in a line


@define(eq=False)
class TraceWriting:
    """A trace file that is being written.

    Attributes:
        id: of the run; it stays the same when the run is continued.
    """

    path: Path
    id: str
    _descriptor: int
    _arrows: list[Transition]
    _guards: dict[str, int]
    # By identity; the arrow is kept, so that it stays its own
    _numbers: dict[int, tuple[Transition, int]] = Factory(dict)
    _counters: tuple[int | None, ...] = UNCOUNTED
    _rows: list[str] = Factory(list)  # as they are in the file
    _length: Any = None
    _waited: Any = None  # the last that was written

    @staticmethod
    def check(path: Path) -> None:
        """Raises a `ConfigError` if a file cannot be written there."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(f"{path} is a folder")
            if not os.access(path if path.exists() else path.parent, os.W_OK):
                raise PermissionError(f"{path} is not writable")
        except OSError as error:
            raise ConfigError(
                f"a trace cannot be written to {str(path)!r}: {error}; give the path of a file"
                " that can"
            ) from error

    @classmethod
    def open(
        cls,
        path: Path,
        life: Lifecycle,
        ctx: Context,
        answers: bool,
        resumed: int | None = None,
        of: str = "",
    ) -> TraceWriting:
        """Begins a file, or continues the one of a run that is continued, if it is there.

        Args:
            path: the file. One that is there and is not gone on with is replaced by a new one, so
                that who reads it sees it.
            life: the table.
            ctx: the context of the run.
            answers: whether answers of guards are recorded.
            resumed: after how many transitions the run continues; None begins one.
            of: the id of the run that is resumed.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        identity = uuid.uuid4().hex[:12]
        if resumed is not None and of != "" and _id_in(path) == of:
            identity = of
            _mend(path)
        elif path.is_file():  # not a device
            path.unlink()
        descriptor = os.open(
            path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666
        )
        guards = dict.fromkeys(guard.label for guard in life.guards)
        writing = cls(
            path,
            identity,
            descriptor,
            [life.start, *life.transitions],
            {label: i for i, label in enumerate(guards)},
        )
        header = header_of(life, identity) | {"answers": answers, "run": _about(ctx)}
        machine = getattr(ctx, "machine", None)
        if machine is not None:
            header["notes"] = notes_of(machine.dataflow(), machine.outline())
        writing.line(header if resumed is None else header | {"resumed": resumed})
        return writing

    def line(self, record: Mapping[str, Any]) -> None:
        """Writes one record."""
        self._put([record])

    def _put(self, records: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(jsons.dumps(record) + "\n" for record in records).encode()
        while text:  # a disk that is full takes a part
            text = text[os.write(self._descriptor, text) :]

    def write(
        self,
        at: int,
        taken: Sequence[Transition],
        moments: Sequence[KnownFacts],
        length: Any = None,
    ) -> None:
        """Writes transitions.

        Args:
            at: how many came before.
            taken: the arrows.
            moments: what is known of each; empty if nothing is.
            length: batches in an epoch, if it is known.
        """
        for begin in range(0, len(taken), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            self._put([self._record(at + begin, taken[part], moments[part], length)])

    def _record(
        self, at: int, taken: Sequence[Transition], moments: Sequence[KnownFacts], length: Any
    ) -> dict[str, Any]:
        record: dict[str, Any] = {"taken": list(map(self._number, taken)), "at": at}
        if isinstance(length, int) and length != self._length:
            record["of"] = self._length = length
        if moments and moments[0][0] is not None:
            clock = [round(moment[0] * 1e6) for moment in moments]
            record["time"] = [clock[0], *itertools.starmap(_elapsed, itertools.pairwise(clock))]
        parts = {
            "counters": self._counters_of(moments),
            "answers": self._answers_of(moments),
            "values": _values_of(moments),
        }
        return record | {key: part for key, part in parts.items() if part}

    def _counters_of(self, moments: Sequence[KnownFacts]) -> list[list[Any]]:
        """The counters, where they change."""
        changes = []
        for i, moment in enumerate(moments):
            now = moment[1:-2]
            if now != self._counters and now[0] is not None:
                changes.append([i, *now])
                self._counters = now
        return changes

    def _answers_of(self, moments: Sequence[KnownFacts]) -> list[list[Any]]:
        answers = []
        for i, moment in enumerate(moments):
            answers += [[i, *self._answer(asked)] for asked in moment[-2] or ()]
        return answers

    def _number(self, arrow: Transition) -> int | Words:
        known = self._numbers.get(id(arrow))
        if known is not None:
            return known[1]
        if arrow not in self._arrows:
            return words_of(arrow)
        number = self._arrows.index(arrow)
        self._numbers[id(arrow)] = (arrow, number)
        return number

    def _answer(self, asked: Asked) -> list[Any]:
        guard = self._guards.get(asked.guard, asked.guard)
        if asked.reason not in ("", asked.guard):
            reason = [asked.reason]
        else:
            reason = []
        return [self._number(asked.transition), guard, int(bool(asked.answer)), *reason]

    def write_rows(self, rows: Sequence[TapeRow], at: int) -> None:
        """Writes the rows that are not in the file, or not as they are now."""
        records = []
        for n in range(
            max(0, len(self._rows) - 1), len(rows)
        ):  # of those that are there, only the last may have changed
            row = {str(name): _number(value) for name, value in rows[n].items()}
            text = jsons.dumps(row)
            if n < len(self._rows) and text == self._rows[n]:
                continue
            self._rows[n:] = [text]
            records.append({"row": row, "n": n, "at": at})
        self._put(records)

    def write_waited(self, waited: Sequence[Mapping[str, float]], at: int) -> None:
        """Writes what ranks have waited, if it is new."""
        if waited and waited is not self._waited:
            self._waited = waited
            rounded = [{word: round(one[word], 6) for word in one} for one in waited]
            self.line({"waited": rounded, "at": at})

    def end(self, outcome: Outcome | None, error: str, at: int, seconds: float) -> None:
        """Writes how the run ended, and closes the file."""
        about = as_data(outcome)
        if about is not None and "error" in about:
            about["error"] = error
        self.line({"outcome": about, "at": at, "seconds": round(seconds, 6)})
        self.close()

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


def header_of(life: Lifecycle, identity: str) -> dict[str, Any]:
    """The first line of a file."""
    written: dict[str, Any] | None
    fingerprint: str | None
    try:
        written, fingerprint = life.to_dict(), life.fingerprint
    except ValueError:  # a part of it has no name; the words are there
        written = fingerprint = None
    return {
        "statetrain": "trace",
        "format": FORMAT,
        "id": identity,
        "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "versions": versions(),
        "name": life.name,
        "fingerprint": fingerprint,
        "counters": COUNTERS,
        "arrows": [words_of(arrow) for arrow in (life.start, *life.transitions)],
        "guards": list(dict.fromkeys(guard.label for guard in life.guards)),
        "states": [
            [
                s.name,
                label_of(s.action) if s.action is not None else None,
                s.within,
                s.final,
                s.anchor,
            ]
            for s in life.states
        ],
        "lifecycle": written,
    }


def save(trace: Trace, path: str | Path) -> None:
    """Writes a trace to a file, whole.

    Args:
        trace: the trace.
        path: the file; one that is there is replaced.

    Raises:
        ConfigError: the trace does not know its lifecycle, or the file cannot be written.
    """
    path = local_path("Trace.save", path)
    if trace.lifecycle is None:
        raise ConfigError(
            "this trace does not know its lifecycle, which a file begins with; make it with"
            " Trace(transitions, lifecycle=life)"
        )
    TraceWriting.check(path)
    writing = TraceWriting.open(
        path,
        trace.lifecycle,
        None,  # type: ignore[arg-type]  # there is no run any more
        any(moment.answers for moment in trace.moments),
        trace.dropped or None,
    )
    writing.write(trace.dropped, trace.transitions, trace.moments)
    writing.write_rows(trace.rows, trace.dropped + len(trace))
    writing.write_waited(trace.waited, trace.dropped + len(trace))
    if trace.outcome is not None:
        seconds = None
        if trace.moments:
            seconds = trace.moments[-1].time
        writing.end(trace.outcome, trace.error, trace.dropped + len(trace), seconds or 0.0)
    else:
        writing.close()


def versions() -> dict[str, str]:
    """The versions that matter for a run, by name."""
    import statetrain

    versions = {"statetrain": statetrain.__version__, "python": platform.python_version()}
    if "torch" in sys.modules:
        versions["torch"] = str(sys.modules["torch"].__version__)
    return versions


def _about(ctx: Context) -> dict[str, Any]:
    """What is known of a run when it begins."""
    if ctx is None:
        return {}
    about: dict[str, Any] = {}
    epochs = getattr(ctx, "max_epochs", None)
    if isinstance(epochs, int | float) and epochs != float("inf"):
        about["epochs"] = int(epochs)
    if getattr(ctx, "seed", None) is not None:
        about["seed"] = ctx.seed
    if getattr(ctx, "accelerator", None) is not None:
        about["device"] = str(ctx.device)
    about["process"] = os.getpid()
    return about


def _elapsed(before: int, after: int) -> int:
    return after - before


def _values_of(moments: Sequence[KnownFacts]) -> list[list[Any]]:
    values = []
    for i, moment in enumerate(moments):
        if moment[-1]:
            values.append([i, {name: _number(value) for name, value in moment[-1].items()}])
    return values


def _number(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, float):
        return jsons.number(value)
    if isinstance(value, int | str) or value is None:
        return value
    return f"{value!r:.200}"


def _id_in(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return str(jsons.loads(file.readline())["id"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _mend(path: Path) -> None:
    """Takes away a last line that was cut off."""
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end and file.read(1) != b"\n":
            end -= 1
            file.seek(end)
        file.truncate(end + 1 if end else 0)
