"""Where a run stands: what every context has, including your own.

A lifecycle of your own walks a subclass of `Position` with the fields that its loop needs. What it
inherits is what built-in guards and callbacks work on:

- the history (`history`, `add_row`), records (`log`) and `buffers`, a place for callbacks;
- the clock (`clock`, `seconds`, `fit_seconds`);
- the request to stop (`request_stop`), clean-ups (`defer`), the place (`state`, `role`, `scope`).

Counters are yours: declare those that your loop counts, under the names in `COUNTED`, and guards
such as `Every(10, "steps")`, rows, logs and checkpoints use them.

Each field of the subclass is saved in checkpoints and restored when the run is resumed; one that
the script makes again, such as an environment, is declared with `not_saved()`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import define

from statetrain.context.columns import as_columns
from statetrain.context.fields import Fact, field, made_of
from statetrain.context.history import History
from statetrain.errors import CheckpointError, ConfigError, MachineError

if TYPE_CHECKING:
    from transitions.extensions import HierarchicalMachine

    from statetrain.lifecycle.transition import Transition
    from statetrain.machine.agreeing import News
    from statetrain.machine.asking import Asked
    from statetrain.machine.machine import Machine
    from statetrain.outcome import Outcome


Place: TypeAlias = "tuple[Transition, str]"
NOWHERE: Any = (None, None)
"""The place before a run."""

COUNTED = ("epoch", "batches", "step", "samples")
"""The counters that built-in guards and callbacks know, of those that a context has."""

_COLUMNS = {"batches": "batch"}

LAST = 32
"""How many decisions are kept for the note on a failure."""


@define(eq=False, repr=False, kw_only=True)
class Position:
    """The least context that a machine can run; `Context` adds what supervised training needs.

    Slots: a misspelt field is an error, not a new field, and the machine's note on the error names
    the nearest one. (A `__getattr__` that did so would make every read of every field several times
    slower.)
    """

    machine: Machine = field(Fact.ANEW, Fact.OF_MACHINE, Fact.OPEN)
    """What walks it, or walked it last."""

    live_machine: HierarchicalMachine | None = field(Fact.ANEW, Fact.OF_MACHINE, Fact.OPEN)
    """The machine of the `transitions` package that drives it; None where the table does."""

    place: Place = field(Fact.SAVED_APART, Fact.OF_MACHINE, Fact.OPEN, default=NOWHERE)
    """The arrow being taken or last taken, and the innermost open state: `transition`, `state`."""

    event: BaseException | None = field(Fact.ANEW, Fact.OF_MACHINE)
    """The event that the last event arrow was taken on."""

    stop: str | None = field(Fact.SAVED_APART, Fact.OWN)
    """Why the run was asked to stop."""

    interrupt: str | None = field(Fact.ANEW, Fact.OWN)
    """The signal that asked the process to stop."""

    saves: bool = field(Fact.ANEW, default=False)
    """Whether a callback saves the run at anchors, and heeds signals there."""

    save_seconds: float = field(Fact.ANEW, Fact.OWN, default=0.0)
    """The longest that saving this run has taken, in seconds."""

    check_logged: Callable[[Any], Any] | None = field(Fact.ANEW, default=None)
    """What refuses a value that `log` is given and that cannot be saved; None where none is."""

    outcome: Outcome | None = field(Fact.ANEW, Fact.OF_MACHINE)
    """How the run ended; None until then."""

    error: BaseException | None = field(Fact.ANEW, Fact.OF_MACHINE)
    """The exception that the run failed with."""

    news: News | None = field(Fact.ANEW, Fact.OF_MACHINE, Fact.OPEN, Fact.OWN)
    """What several ranks have told each other; None in one process."""

    deferred: list[Callable[[], object]] = field(Fact.ANEW, Fact.OF_MACHINE, factory=list)
    """Clean-ups, run last-in first-out on every path."""

    reopening: list[Callable[[], object]] = field(Fact.ANEW, Fact.OF_MACHINE, factory=list)
    """What is still to be put back, last of all, when a run is continued."""

    modes: list[list[Any]] = field(Fact.ANEW, Fact.OF_MACHINE, factory=list)
    """The open scopes' modes, each with what is to be put back."""

    marks: dict[str, float] = field(Fact.SAVED, Fact.NOTED, factory=dict)
    """When intervals last fired."""

    folds: dict[Any, Any] = field(Fact.ANEW, Fact.NOTED, Fact.OPEN, factory=dict)
    """How far guards on the history have read; see `statetrain.guards.folding`."""

    grounds: dict[str, int] = field(Fact.ANEW, Fact.NOTED, Fact.OPEN, factory=dict)
    """Of guards that are alternatives, by label, which part was true when they were last asked."""

    asked: list[Asked] = field(Fact.ANEW, Fact.NOTED, factory=list)
    """What guards answered at the last decision, if the run is stepped or recorded."""

    flight: deque[Any] = field(Fact.ANEW, Fact.NOTED, factory=lambda: deque(maxlen=LAST))
    """The last decisions; see `statetrain.machine.flight`."""

    verbose: bool = field(Fact.ANEW, Fact.OPEN, default=True)
    """Whether callbacks may print."""

    clock: Callable[[], float] = field(Fact.ANEW, Fact.OPEN, default=time.monotonic)
    """Seconds since some fixed moment."""

    started: float | None = field(Fact.SAVED_APART)
    """The clock when this fit began; None between fits."""

    earlier_seconds: float = field(Fact.SAVED_APART, default=0.0)
    """Seconds that earlier fits took."""

    given: dict[str, Any] = field(Fact.SAVED_APART, factory=dict)
    """What a run that is saved was made with, before it began: settings, model, loss, data."""

    buffers: dict[str, Any] = field(Fact.SAVED, Fact.OWN, factory=dict)
    """Free for callbacks."""

    history: History = field(Fact.SAVED_APART, factory=History)
    """The rows that have been recorded."""

    first_row: int = field(Fact.SAVED, Fact.OPEN, default=0)
    """The row of the history with which this fit began."""

    _records: dict[str, list[Any]] = field(Fact.SAVED_APART, factory=dict)
    """What was logged in addition to the history; see `log`."""

    @property
    @made_of("place", facts=(Fact.OF_MACHINE, Fact.OPEN))
    def transition(self) -> Transition:
        """The arrow that is being taken, or was taken last; None before a run."""
        return self.place[0]

    @property
    @made_of("place", facts=(Fact.OF_MACHINE, Fact.OPEN))
    def state(self) -> str:
        """The innermost state that is open; None before a run."""
        return self.place[1]

    @property
    @made_of("place", "machine", facts=(Fact.OF_MACHINE, Fact.OPEN))
    def role(self) -> str:
        """The current state's role, whatever a phase calls it; None before a run."""
        if self.state is None:
            return self.state
        return self.machine.lifecycle.role(self.state)

    @made_of("place", "machine", facts=(Fact.OPEN,))
    def scope(self, role: str) -> str | None:
        """The name of the innermost open state that has a role; None if none is open.

        ctx.scope("valid")      # "valid", or "test" in an evaluation of that name
        ctx.scope("fit")        # "pretrain_fit" in a phase with that prefix
        """
        if self.state is None:
            return None
        lifecycle = self.machine.lifecycle
        open_states = reversed(lifecycle.path(self.state))
        return next((name for name in open_states if lifecycle.role(name) == role), None)

    # ------------------------------------------------------------ time

    @property
    @made_of("earlier_seconds", "started", "clock")
    def seconds(self) -> float:
        """Seconds that the run has taken, by its clock, earlier fits included."""
        return self.earlier_seconds + self.fit_seconds

    @property
    @made_of("started", "clock")
    def fit_seconds(self) -> float:
        """Seconds that this fit has taken."""
        return 0.0 if self.started is None else self.clock() - self.started

    def begin(self) -> None:
        """Starts the clock, when a machine begins a run.

        Time that earlier runs of this context took stays counted.
        """
        self.earlier_seconds, self.started = self.seconds, self.clock()

    def rest(self) -> None:
        """Stops the clock, between two runs."""
        self.earlier_seconds, self.started = self.seconds, None

    # ------------------------------------------------------------ what is recorded

    def counters(self) -> dict[str, Any]:
        """The counters that this context has, of those in `COUNTED`, by name."""
        return {name: getattr(self, name) for name in COUNTED if hasattr(self, name)}

    def counter_columns(self) -> dict[str, Any]:
        """The counters under the names that they have in rows: `batches` is the column `batch`."""
        return {_COLUMNS.get(name, name): value for name, value in self.counters().items()}

    def add_row(self, columns: Mapping[str, Any]) -> None:
        """Adds a row to the history, with all counters and the seconds so far.

            ctx.add_row({"return": mean_return, "loss": loss})

        Args:
            columns: numbers and tensors by name; a tensor of several numbers becomes several
                columns.

        Raises:
            MachineError: a column has the name of a counter, or these are no columns.
        """
        if not isinstance(columns, Mapping):
            raise MachineError(
                f"add_row takes columns by name, such as {{'loss': loss}}, got {columns!r:.80}"
            )
        row: dict[str, Any] = {**self.counter_columns(), "seconds": self.seconds}
        for name, value in columns.items():
            if name in row:
                raise MachineError(
                    f"add_row: the column {name!r} is a counter of every row; take another name"
                )
            row |= as_columns(name, value)
        self.history.rows.append(row)

    @made_of("history")
    def fit_rows(self) -> list[dict[str, Any]]:
        """The rows of the history that this fit has written, without those of earlier fits."""
        return self.history[self.first_row :]

    @property
    @made_of("_records")
    def records(self) -> Mapping[str, list[Any]]:
        """What was logged in addition to the history, by name. Only `log` writes it."""
        return MappingProxyType(self._records)

    def log(self, name: str, value: Any) -> None:
        """Adds a value to the record of that name, separate from the history. None is not added.

        Raises:
            CheckpointError: the run is saved, and such a value cannot be.
        """
        if value is not None and self.check_logged is not None:
            try:
                self.check_logged(value)
            except CheckpointError as error:
                raise CheckpointError(
                    f"log({name!r}, ...) in a run that is saved: {error}"
                ) from error
        if value is not None:
            self._records.setdefault(name, []).append(value)

    @made_of("records")
    def get_log(self, name: str, index: int = -1) -> Any:
        """A value of a record, the last one unless said; None if there is none."""
        values = self._records.get(name, [])
        return values[index] if -len(values) <= index < len(values) else None

    # ------------------------------------------------------------ how it ends

    def defer(self, function: Callable[[], object]) -> None:
        """Registers a clean-up for the end of the run, however it ends; the last one runs first."""
        self.deferred.append(function)

    def request_stop(self, reason: str) -> None:
        """Asks the run to stop at the next loop head. The first reason stays.

        Args:
            reason: why; it becomes the outcome's.

        Raises:
            MachineError: no guard of the lifecycle reads such a request, so it would be lost.
            ConfigError: the reason is no text.
        """
        if not isinstance(reason, str):
            raise ConfigError(f"request_stop takes the reason as a text, got {reason!r:.80}")
        if self.machine is not None and not self.machine.plan.may_stop:
            raise MachineError(
                f"lifecycle {self.machine.lifecycle.name!r} cannot be asked to stop: none of its"
                " guards reads ctx.stop; give a loop head the arrow Transition(<state>, <end>,"
                f" statetrain.stop_requested); the reason was: {reason}"
            )
        if self.news is not None:  # all ranks have it at the next meeting
            self.news.request_stop(reason)
        elif self.stop is None:
            self.stop = reason

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.state or 'before the run'}>"

    def where(self) -> str:
        """Where the run stands, for error notes: its counters; empty if it has none."""
        return ", ".join(f"{name} {value}" for name, value in self.counters().items())

    def advice(self, error: BaseException) -> str:
        """What to do about an error, for its note; empty if there is nothing to say."""
        return ""
