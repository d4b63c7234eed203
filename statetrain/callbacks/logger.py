"""Logger: what is worth keeping of a run, to wherever it is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from statetrain.callback import Callback
from statetrain.callbacks.peers import peers_in
from statetrain.context.history import COUNTERS
from statetrain.contracts.declaring import paths_read
from statetrain.errors import ConfigError
from statetrain.guards.base import AnyOf, Guard, as_guard, strict
from statetrain.logs.loggables import Loggable, Value, as_loggable
from statetrain.logs.sources import LearningRate, Source
from statetrain.naming import printable
from statetrain.outcome import Outcome
from statetrain.validators import check_interval

if TYPE_CHECKING:
    from statetrain.context.context import Context

Items = Mapping[str, Loggable]
Counters = Mapping[str, Any]


class Backend(Protocol):
    """Where a logger writes: `CSVLogger`, `JSONLines`, `TensorBoard`, `WandB`, `MLflow`, yours."""

    takes: frozenset[type]
    """The kinds of loggables that it can hold."""

    what: tuple[Source, ...]
    """What it wants to be collected, in addition to what the logger is told to."""

    def check(self) -> None:
        """Checks that it can be written to; called before the first batch.

        Raises:
            ConfigError: it cannot.
        """

    def open(self, ctx: Context, fresh: bool) -> bool:
        """Called when a run starts, and when it is resumed.

        Args:
            ctx: the context.
            fresh: whether the run is a new one; else what was written after the state that was
                loaded is taken back or marked.

        Returns:
            Whether what this run has written before is there. If not, it starts over, and gets the
            rows of the history again.
        """

    def log(self, items: Items, counters: Counters) -> None:
        """Writes what was collected at one moment: loggables of its kinds, and the counters."""

    def close(self, outcome: Outcome | None) -> None:
        """Called when the run ends, on every path."""

    def state_dict(self) -> dict[str, Any]:
        """What it needs to resume, as plain data. What was logged before is on disk afterwards."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""


class Logger(Callback):
    """Logs the rows of the history, and what else is asked for, to one backend or several.

        Logger(JSONLines("runs/one/log.jsonl"), every=Every(100, "steps"))
        Logger(TensorBoard("runs/one"), what=[Histograms(gradients=True), samples], every=Every(1,
        "epochs"))

    Each row of the history is logged once, when everything that belongs to it is there. What else
    there is, is collected when the logger is due, and not before: until then values stay where they
    are. Each row carries all counters: epoch, batch, step, samples, seconds.

    Where `every` speaks of anything but epochs, the logger is also due within an epoch, at the end
    of a batch. Such a row has, as `loss`, the mean of the training loss over the samples since the
    row before.

    A resumed run continues its logs: what came after the point where it resumes is
    taken back where the backend can do so, and marked elsewhere. A backend among the callbacks by
    itself logs the rows of the history.

    Args:
        backends: where to. What one of them cannot hold goes to the others; it is an error if none
            can.
        what: what to collect in addition to the rows of the history: sources such as
            `LearningRate()`, `HyperParameters()`, `Histograms()`, `Records()`, `Summaries({...})`,
            or functions of the context that give values by name. None: the learning rate, if there
            is an interval.
        every: when: an interval such as `Every(100, "steps")`, a guard, or several joined by `|`.
            None: with the row of each complete epoch.

    Raises:
        ConfigError: there is no backend, or an argument is none of these.
    """

    ranks = "first"

    anywhere = True  # it logs what is there
    writes = ()

    def __init__(
        self,
        *backends: Backend,
        what: Source | Iterable[Source] | None = None,
        every: Guard | None = None,
    ) -> None:
        _check_backends(backends)
        check_interval("Logger: every", every)
        self.backends = backends
        self.every = None
        if every is not None:
            self.every = as_guard(every)
        given = _sources(what, self.every)
        self.what = (*given, *(source for backend in backends for source in backend.what))
        _check_sources(self.what, backends)
        self._in_epochs, self._in_batches = _by_moment(_intervals(self.every))
        if not self._in_batches:
            _check_not_in_batch(self.what)
        parts = (*self.what, *backends)
        fields = (field for part in parts for field in getattr(part, "reads", ()))
        self.reads = tuple(
            dict.fromkeys(("**", "history", *fields, *sorted(paths_read(self.every))))
        )
        if self._in_batches:  # else a batch costs nothing
            self.on_exit_batch = self._batch
        self._reset()

    def _reset(self) -> None:
        self._rows = 0  # of the history that have been logged
        self._announced = False  # whether what is logged once has been
        # Losses and samples when the last row was logged; see `_losses`
        self._counted: dict[str, Any] = {}
        self._open = False
        self._broken = False  # whether a backend could not write

    # ------------------------------------------------------------ before the first batch

    def destinations(self) -> tuple[str, ...]:
        """The files that the backends write."""
        return tuple(
            path
            for one in self.backends
            if isinstance(one, Callback)
            for path in one.destinations()
        )

    def redirect(self, folder: Path) -> None:
        """Has each backend write into a folder below another one."""
        for i, backend in enumerate(self.backends):
            if hasattr(backend, "redirect"):
                backend.redirect(folder / str(i))

    def check_context(self, ctx: Context) -> None:
        """Checks that the backends can be written to, and that the sources can be read."""
        for backend in self.backends:
            backend.check()
        for source in self.what:
            if hasattr(source, "check"):
                source.check(ctx)

    # ------------------------------------------------------------ hooks

    def on_enter_fit(self, ctx: Context) -> None:
        """Opens the backends, afresh unless this fit continues; in a later phase they are open."""
        if not self._open:
            self._begin(ctx, fresh=not getattr(ctx, "epoch", 0))

    def on_resume(self, ctx: Context) -> None:
        """Opens the backends where they were."""
        self._begin(ctx, fresh=False)

    def on_enter_valid(self, ctx: Context) -> None:
        """Opens the backends for an evaluation, which enters no `fit`."""
        if not getattr(ctx, "epoch", 0):
            self._begin(ctx, fresh=True)

    def _batch(self, ctx: Context) -> None:
        """Logs what is due within an epoch; a batch that was skipped has nothing to tell."""
        if ctx.transition.event is None and self._is_due(ctx, self._in_batches):
            self._log({**self._losses(ctx), **self._collect(ctx)}, _counters(ctx))

    def on_exit_record(self, ctx: Context) -> None:
        """Logs a row that no epoch closes, as an evaluation's; the others may still get columns."""
        if not getattr(ctx, "epoch_complete", True) or not getattr(ctx, "epoch", 0):
            self._log_rows(ctx)

    def on_enter_next_epoch(self, ctx: Context) -> None:
        """Logs the row of the epoch, with what is due with it."""
        due = getattr(ctx, "epoch_complete", True) and (
            len(ctx.history) > self._rows
            if self.every is None
            else self._is_due(ctx, self._in_epochs)
        )
        self._log_rows(ctx, self._collect(ctx) if due else {})

    def on_enter_failed(self, ctx: Context) -> None:
        """Logs what has been recorded."""
        if not self._broken and self._open:
            self._log_rows(ctx)

    # ------------------------------------------------------------ from start to end

    def _begin(self, ctx: Context, fresh: bool) -> None:
        if fresh:
            self._reset()
        self._broken, self._open = False, True
        number = 1 + peers_in(ctx, Logger).index(self)
        self._place = f"log {number}"  # where intervals remember that they fired
        for backend in self.backends:
            whole = backend.open(ctx, fresh)
            ctx.defer(partial(self._close, backend, ctx))
            if not whole:
                self._log_again(backend, ctx)
        if not self._announced:
            self._announced = True
            self._log(self._collect(ctx, once=True), _counters(ctx))

    def _close(self, backend: Backend, ctx: Context) -> None:
        self._open = False
        backend.close(ctx.outcome)

    def _log_again(self, backend: Backend, ctx: Context) -> None:
        for row in ctx.history[: self._rows]:
            counters, items = _split_row(row)
            backend.log(_pick_supported(items, backend), counters)

    def _log_rows(self, ctx: Context, more: Items | None = None) -> None:
        if not self._open:  # a lifecycle of one's own may have no `fit`
            self._begin(ctx, fresh=not self._rows)
        rows = ctx.history[self._rows :]
        if rows:
            self._counted = {}
        elif more:
            self._log(more, _counters(ctx))
        for i, row in enumerate(rows):
            counters, items = _split_row(row)
            self._rows += 1
            self._log(
                {**(more or {}), **items} if i == len(rows) - 1 else items, counters, is_row=True
            )

    def _log(self, items: Items, counters: Counters, is_row: bool = False) -> None:
        for name, item in items.items():
            if not any(_takes(backend, item) for backend in self.backends):
                kind = type(item).__name__
                others = ""
                if kind not in ("Value", "Text", "File"):
                    others = " Among those that do are TensorBoard, WandB and MLflow"
                raise ConfigError(
                    f"Logger: {name!r} is of the kind {kind}, which"
                    f" {' and '.join(map(repr, self.backends))} cannot hold.{others}"
                )
        for backend in self.backends:
            taken = _pick_supported(items, backend)
            if taken or is_row:
                self._broken = True
                backend.log(taken, counters)
                self._broken = False

    # ------------------------------------------------------------ what is logged

    def _is_due(self, ctx: Context, parts: Iterable[Guard]) -> bool:
        over = [part for part in parts if strict(part, part.bind(self._place)(ctx))]
        for part in over:
            for mark in part.marks(self._place):
                mark(ctx)
        return bool(over)

    def _collect(self, ctx: Context, once: bool = False) -> dict[str, Loggable]:
        found: dict[str, Loggable] = {}
        for source in self.what:
            if getattr(source, "once", False) is not once:
                continue
            values = source(ctx)
            if not isinstance(values, Mapping):
                raise ConfigError(
                    f"Logger: a source gives values by name, {{'name': value}}; {source!r} gave"
                    f" {values!r:.80}"
                )
            found |= {
                _safe_name(name): as_loggable(value)
                for name, value in values.items()
                if value is not None
            }
        return found

    def _losses(self, ctx: Context) -> dict[str, Loggable]:
        """The means of the losses over the samples since the last row."""
        tally = getattr(ctx, "tallies", {}).get("train")
        if tally is None:
            return {}
        sums = {name: (float(mean.total), mean.count) for name, mean in tally.losses.items()}
        before = {}
        if self._counted.get("epoch") == ctx.epoch:
            before = self._counted.get("sums", {})
        self._counted = {"epoch": ctx.epoch, "sums": {name: list(sums[name]) for name in sums}}
        found: dict[str, Loggable] = {}
        for name, (total, count) in sums.items():
            total_before, count_before = before.get(name, (0.0, 0))
            if count > count_before:
                found["loss" if len(sums) == 1 else f"loss_{printable(name)}"] = Value(
                    (total - total_before) / (count - count_before)
                )
        return found

    # ------------------------------------------------------------ saved and put back

    def state_dict(self) -> dict[str, Any]:
        """How much has been logged, and where the backends stand."""
        backends = [[type(backend).__name__, backend.state_dict()] for backend in self.backends]
        return {
            "rows": self._rows,
            "announced": self._announced,
            "counted": self._counted,
            "backends": backends,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; that of other backends is left."""
        self._reset()
        if [name for name, _ in state["backends"]] != [
            type(backend).__name__ for backend in self.backends
        ]:
            return
        self._rows, self._announced, self._counted = (
            state["rows"],
            state["announced"],
            state["counted"],
        )
        for backend, (_, own) in zip(self.backends, state["backends"], strict=True):
            backend.load_state_dict(own)

    def __repr__(self) -> str:
        words = [*map(repr, self.backends)]
        words += [f"what={list(self.what)!r}"] if self.what else []
        words += [f"every=[{self.every.label}]"] if self.every is not None else []
        return f"Logger({', '.join(words)})"


def alone(backend: Backend) -> Logger:
    """The logger that a backend among the callbacks stands for."""
    logger = Logger(backend, what=())
    logger.label = type(backend).__name__
    return logger


# ---------------------------------------------------------------- arguments


def _sources(what: Any, every: Guard | None) -> tuple[Any, ...]:
    """What is to be collected; unless it is said, the learning rate where there is an interval."""
    if what is not None:
        if isinstance(what, Iterable):
            return tuple(what)
        return (what,)
    if every is None:
        return ()
    return (LearningRate(),)


def _by_moment(parts: tuple[Guard, ...]) -> tuple[tuple[Guard, ...], tuple[Guard, ...]]:
    """The intervals that are looked at when an epoch ends, and those after each batch."""
    ours = [not part.reads.isdisjoint(("epoch", "history")) for part in parts]
    in_epochs = tuple(part for part, is_ours in zip(parts, ours, strict=True) if is_ours)
    in_batches = tuple(part for part, is_ours in zip(parts, ours, strict=True) if not is_ours)
    return in_epochs, in_batches


def _intervals(every: Guard | None) -> tuple[Guard, ...]:
    """The guards that are asked one by one, each of which remembers when it last fired."""
    if every is None:
        return ()
    if isinstance(every, AnyOf):
        return tuple(every.parts())
    return (every,)


def _check_not_in_batch(sources: Iterable[Any]) -> None:
    for source in sources:
        if getattr(source, "in_batch", False):
            raise ConfigError(
                f"Logger: {source!r} reads what is there within a batch only; say when:"
                " every=Every(100, 'steps')"
            )


def _check_backends(backends: tuple[Any, ...]) -> None:
    if not backends:
        raise ConfigError("Logger needs to know where to: Logger(JSONLines('runs/one/log.jsonl'))")
    for backend in backends:
        if (
            isinstance(backend, type)
            or not hasattr(backend, "takes")
            or not callable(getattr(backend, "log", None))
        ):
            hint = "; write JSONLines('log.jsonl') or the like"
            if isinstance(backend, type):
                hint = f"; write {backend.__name__}(...)"
            raise ConfigError(f"Logger takes backends, got {backend!r}{hint}")


def _check_sources(sources: tuple[Any, ...], backends: tuple[Backend, ...]) -> None:
    taken = frozenset().union(*(backend.takes for backend in backends))
    for source in sources:
        if isinstance(source, type) or not callable(source):
            hint = ""
            if isinstance(source, type):
                hint = f"; write {source.__name__}()"
            raise ConfigError(
                f"Logger: what takes sources and functions of the context, got {source!r}{hint}"
            )
        for kind in getattr(source, "makes", None) or ():
            if not any(issubclass(kind, one) for one in taken):
                raise ConfigError(
                    f"Logger: {source!r} makes {kind.__name__}s, which"
                    f" {' and '.join(map(repr, backends))} cannot hold"
                )


# ---------------------------------------------------------------- rows


def _counters(ctx: Context) -> dict[str, Any]:
    return {**ctx.counter_columns(), "seconds": ctx.seconds}


def _split_row(row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Loggable]]:
    """The counters of a row of the history, and what was recorded."""
    counters = {name: row[name] for name in COUNTERS if name in row}
    return counters, {
        _safe_name(name): as_loggable(value)
        for name, value in row.items()
        if name not in counters and value is not None
    }


def _safe_name(name: object) -> str:
    """A name on one line that hides no counter."""
    text = printable(str(name)) or "_"
    if text in COUNTERS:
        return f"{text}_"
    return text


def _takes(backend: Backend, item: Loggable) -> bool:
    return isinstance(item, tuple(backend.takes))


def _pick_supported(items: Items, backend: Backend) -> dict[str, Loggable]:
    return {name: item for name, item in items.items() if _takes(backend, item)}
