"""Checkpoint: the run is saved as it goes, so that it cannot be lost."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from attrs import define

from statetrain.callback import Callback, unwrapped
from statetrain.callbacks.monitoring import read_monitor
from statetrain.checkpoints import checkpoint, directory, failure, plain
from statetrain.checkpoints.checkpoint import Log, Saved
from statetrain.checkpoints.files import refuse_remote
from statetrain.checkpoints.lock import Lock
from statetrain.checkpoints.origin import describe_origin, optimizer_settings
from statetrain.checkpoints.rowlog import LANES, Lane
from statetrain.checkpoints.snapshot import Snapshot, snapshot
from statetrain.checkpoints.tallies import tally_states
from statetrain.compute.keeping import first_not_finite
from statetrain.errors import CallbackError, CheckpointError, ConfigError
from statetrain.guards.base import AnyOf, Guard, Test, as_guard, strict
from statetrain.guards.comparing import Direction
from statetrain.guards.counters import Every
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.transition import Transition
from statetrain.validators import check_switches, check_whole

if TYPE_CHECKING:
    from statetrain.context.context import Context

# Checkpoints that are always kept: should the newest be damaged, the run goes on from the one
# before
_LATEST = 2
_DRY = "dry-run"
_FEW = 200  # rows and records that are part of each checkpoint; more are in a file that grows


@define(eq=False)
class _Background:
    """A checkpoint that is being written.

    Args:
        write: writes it.
        promised: what it will be, for those who compare values meanwhile.
        began: by the clock, when the copy was begun.
        clock: seconds.
    """

    write: Callable[[], Saved]
    promised: Saved
    began: float
    clock: Callable[[], float]
    seconds: float = 0.0  # that it took
    _thread: threading.Thread | None = None
    _saved: Saved | None = None
    _error: BaseException | None = None

    def start(self, aside: bool) -> None:
        """Writes, in a thread of its own or here."""
        if aside:
            self._thread = threading.Thread(target=self._work, name="statetrain checkpoint")
            self._thread.start()
        else:
            self._work()

    def _work(self) -> None:
        try:
            self._saved = self.write()
        except BaseException as error:
            self._error = error
        self.seconds = self.clock() - self.began

    @property
    def is_over(self) -> bool:
        return self._thread is None or not self._thread.is_alive()

    def wait(self) -> None:
        """Waits until it is over."""
        if self._thread is not None:
            self._thread.join()

    def result(self) -> Saved:
        """What was written, when it is over."""
        if self._error is not None:
            raise self._error
        assert self._saved is not None
        return self._saved


class Checkpoint(Callback):
    """Saves the run into a directory, from where `fit(..., resume="last")` goes on exactly.

        st.fit(..., callbacks=[st.Checkpoint("runs/digits", every=st.Every(15, "minutes"))],
        resume="last")

    A checkpoint is taken at anchors: between epochs, between batches, between validation batches.
    Beside those that are due, one is taken when the run is asked to stop (a signal, a request, a
    limit), at the next anchor, before it acts on it; and one when it ends in order, so that the
    newest is how it ended. Weights that are not finite are not saved; there is a warning instead.

    The two latest are kept, and the `keep` best by `monitor`. An older one is deleted when the new
    one is on the disk, its manifest is sound and its files have their sizes; their contents are
    verified when a run goes on from it. A NaN is never best.

    When the run fails, `failure.json` beside the checkpoints says what was raised, where, and how
    to go on; the next run in the directory deletes it. How long saving takes is measured, and the
    guard `Deadline` leaves time for it.

    One run owns a directory, by a lock that names its process. Before the first batch, the run as
    it starts is saved, read back and compared.

    Args:
        folder: where the checkpoints go; made if it is not there.
        every: when one is due: an interval such as `Every(500, "steps")` or `Every(10, "minutes")`,
            or several joined by `|`. In epochs, it counts complete ones; the others fall due within
            epochs too.
        keep: how many of the best are kept, at least 1; without a monitor, how many of the latest,
            if more than two.
        monitor: the exact name of a column of the history. A row that is among the `keep` best so
            far makes a checkpoint due, if it was recorded at this very step.
        mode: "min" (lower is better), "max", or "zero" (nearer to 0 is better). None is "min", with
            a warning for columns such as "valid_accuracy".
        min_delta: a row makes a checkpoint due only if it is better by more than this than the one
            that it would replace, at least 0.
        keep_every: an interval in epochs or steps; the first checkpoint at or after each multiple
            of it is never deleted. It makes nothing due.
        at_start: whether the run is also saved before its first epoch, so that one that fails in it
            has a checkpoint to go on from. Needs an anchor there, which the standard tables have.
        at_end: whether the run is also saved as it ends, completed or stopped by what its history
            says, if nothing is due then. `StopFit` leaves from a place that is no anchor, so
            nothing is saved after it; `ctx.request_stop` is saved.
        preflight: whether the disk is tried before the first batch.
        background: whether a thread of its own writes, while training goes on. At the anchor
            everything is copied into the memory of the host, so what is written is the same, and
            nothing of the run changes. One is written at a time. What goes wrong is raised at the
            next anchor, or when the run ends; it ends when the last one is on the disk.
        clock: seconds from any moment on, to measure how long saving takes.

    Raises:
        ConfigError: an argument is none of these.
    """

    reads = ("**",)  # a snapshot is of everything
    writes = {
        "on_enter_fit": ("saves", "save_seconds", "check_logged"),
        "on_resume": ("saves", "save_seconds", "check_logged"),
        "on_anchor": ("stop", "save_seconds"),
        "defer": ("saves", "save_seconds", "check_logged"),
    }
    commutes_with = ("Checkpoint",)

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every: Guard = Every(1, "epochs"),  # noqa: B008  # a frozen value
        *,
        keep: int = 1,
        monitor: str | None = None,
        mode: Direction | None = None,
        min_delta: float = 0.0,
        keep_every: Every | None = None,
        at_start: bool = False,
        at_end: bool = True,
        preflight: bool = True,
        background: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_whole("Checkpoint: keep", keep)
        check_switches("Checkpoint", at_end=at_end, preflight=preflight, background=background)
        refuse_remote("Checkpoint", folder)
        # Without a monitor nothing is compared, but what is given has to be sound
        self._by = read_monitor("Checkpoint", monitor or "nothing", mode, min_delta)
        if isinstance(every, int | float):
            raise ConfigError(
                f"Checkpoint: every takes an interval with its unit, got {every!r}; write"
                f' Every({every}, "steps")'
            )
        if keep_every is not None and not _counts_training(keep_every):
            raise ConfigError(
                "Checkpoint: keep_every takes an interval in epochs or steps, such as"
                f' Every(10, "epochs"), got {keep_every!r}'
            )
        self._write_to(Path(os.path.abspath(folder)))  # a script may change the working directory
        self.every, self.keep, self.monitor, self.mode, self.preflight = (
            as_guard(every),
            keep,
            monitor,
            self._by.mode,
            preflight,
        )
        self.monitors = () if monitor is None else (monitor,)
        self.saved: list[Saved] = []
        """The checkpoints in the directory, the newest first.

        They are known from the start of the run.
        """
        self.resumed: Saved | None = None
        """The checkpoint that the run was continued from, if it was."""
        self.min_delta, self.at_end, self.background, self.clock = (
            min_delta,
            at_end,
            background,
            clock,
        )
        self.keep_every, self.at_start = keep_every, at_start
        self._writing: _Background | None = None
        self._forget()

    def _write_to(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock(folder)
        self._lanes = [Lane(folder / name) for name in LANES]

    def redirect(self, folder: Path) -> None:
        """Saves into another directory."""
        self._write_to(folder)

    def _forget(self) -> None:
        # Each with whether it is in epochs, as it is asked
        self._intervals: list[tuple[Guard, bool, Test, tuple[Callable[[Any], None], ...]]] = []
        self._origin: dict[str, str | None] = {}
        self._began = False  # whether the directory is this run's
        self._follows = False  # whether another rank writes, and this one takes part
        self._judged: Any = None  # the last row that was looked at
        self._warned = False  # whether it was said that a forked child saves nothing
        self._stopping = False  # whether the request to stop has been dealt with
        # Of anchors that may be the last: guards out of them, whether the run ends there
        self._last: dict[str, list[tuple[Test | None, bool]]] = {}
        # By whether it may be the last, what at an anchor says that the run is about to stop
        self._limits: dict[bool, list[Test]] = {}

    def check_lifecycle(self, lifecycle: Lifecycle) -> None:
        """Looks for anchors: without one, nothing would ever be saved."""
        if not any(state.anchor for state in lifecycle.states):
            raise CallbackError(
                f"Checkpoint: lifecycle {lifecycle.name!r} has no anchor to save at; declare one"
                " with State(..., anchor=True)"
            )

    # ------------------------------------------------------------ hooks

    def on_enter_fit(self, ctx: Context) -> None:
        """Takes the directory, and tries the disk; in a later phase it is there."""
        if self._lock.held or self._follows:
            return
        self._open(ctx)
        if ctx.epoch == 0 and self.saved:
            raise CheckpointError(
                f"{self.folder} has checkpoints of an earlier run, the newest {self.saved[0].name};"
                " go on with it by fit(..., resume='last'), give this run another directory, or"
                " delete that one"
            )
        self._begin()
        if ctx.epoch == 0 and self.preflight:
            self._try(ctx)

    def on_resume(self, ctx: Context) -> None:
        """Takes the directory, and sets aside the files that were found to be broken.

        They were found while looking for a whole checkpoint.
        """
        self._open(ctx)
        if self.resumed is not None:
            later = [saved for saved in self.saved if saved.sequence > self.resumed.sequence]
            if self._follows:
                self.saved = [saved for saved in self.saved if saved not in later]
            else:
                directory.weed(later)
                self.saved = directory.complete(self.folder)
        self._begin()

    def _begin(self) -> None:
        self._began = True
        if self._follows:
            return
        (self.folder / failure.FILE).unlink(missing_ok=True)

    def on_anchor(self, ctx: Context) -> None:
        """Heeds a signal, and saves, if it is time."""
        if not self._lock.held and not self._follows:  # an evaluation, or the like
            self._warn_a_forked_child()
            return
        if ctx.interrupt is not None:
            ctx.request_stop(ctx.interrupt)
        if self._lock.held:
            self._lock.touch(ctx.clock())
        if self._writing is not None and self._writing.is_over:
            self._collect(ctx)
        if not self._is_due(ctx):
            return
        name = first_not_finite(ctx.accelerator.unwrap(ctx.model))
        if ctx.news is not None:
            name = ctx.news.group.gather("look for what is not finite", name)[0]
        if name is None:
            self._hand_over(ctx)
            if not self.background:
                self._collect(ctx)
        else:  # the checkpoints that are there are worth more
            checkpoint.log.warning(
                "the run is not saved in %s: %s is not finite", ctx.where(), name
            )

    def _warn_a_forked_child(self) -> None:
        if self._lock.inherited and not self._warned:
            self._warned = True
            checkpoint.log.warning(
                "this process was forked from the run that owns %s: it saves nothing there",
                self.folder,
            )

    def on_enter_failed(self, ctx: Context) -> None:
        """Says in the error, and in a file, where the run can go on from."""
        if not (self._lock.held and (self._began or self.saved)):
            return
        try:
            self._collect(ctx)
        except Exception as second:
            assert ctx.error is not None
            ctx.error.add_note(
                f"statetrain: the checkpoint that was being written is lost: {second!r}"
            )
        assert ctx.error is not None
        if self.saved:
            ctx.error.add_note(
                f"statetrain: the newest checkpoint is {self.saved[0].path}; fit(...,"
                " resume='last') goes on from there"
            )
        if self._began:
            try:
                failure.write(
                    self.folder,
                    failure.describe(ctx, ctx.error, self.saved[0].path if self.saved else None),
                )
            except Exception as second:  # a full disk, say; the error itself is worth more
                checkpoint.log.warning(
                    "%s could not be written: %s", self.folder / failure.FILE, second
                )

    # ------------------------------------------------------------ saving

    def save(self, ctx: Context) -> Saved | None:
        """Saves the run now, and deletes what need not be kept.

        Args:
            ctx: the context, at an anchor.

        Raises:
            CheckpointError: something in the run cannot be saved; the message names it.
            OSError: the disk is full, or the like. The checkpoints that are there stay whole.
        """
        self._hand_over(ctx)
        return self._collect(ctx)

    def _hand_over(self, ctx: Context) -> None:
        """Starts writing, in a thread if asked to; a write in progress is finished first."""
        if self._follows:
            tally_states(ctx)  # the sums of all ranks are saved
            about = {"monitor": self.monitor, "mode": self.mode, "value": self._value(ctx)}
            self.saved.insert(0, Saved(self.folder / f"step-{ctx.step:08d}", 0, about, {}))
            return
        self._collect(ctx)
        self._lock.check()
        began, name = self.clock(), f"step-{ctx.step:08d}-{ctx.state}"
        log = self._new_lines(ctx)
        data = snapshot(ctx, ctx.machine, logs=log is None)
        about = self._about(ctx, data)
        write = partial(checkpoint.write, self.folder, name, data, about, log)
        if self.background:
            structure, tensors = plain.encode(data)
            copies = {key: tensor.to("cpu", copy=True) for key, tensor in tensors.items()}
            write = partial(
                checkpoint.write_encoded, self.folder, name, structure, copies, about, log
            )
        self._writing = _Background(
            write, Saved(self.folder / name, 0, about, {}), began, self.clock
        )
        self._writing.start(self.background)

    def _new_lines(self, ctx: Context) -> Log | None:
        """What a long run has logged since the file that is next in turn was written.

        None while there is little of it: it is part of each checkpoint then.
        """
        rows, records = ctx.history.rows, ctx.records
        if len(rows) + sum(map(len, records.values())) <= _FEW:
            return None
        lane = self._lanes[0]
        self._lanes.reverse()
        return lane, lane.take(rows, records, but_last=min(1, len(rows)))

    def _collect(self, ctx: Context) -> Saved | None:
        """Waits for what is being written, and deletes what need not be kept any more.

        Raises:
            CheckpointError, OSError: it could not be written.
        """
        writing = self._writing
        if writing is None:
            return None
        writing.wait()  # if a person interrupts this, it is waited for when the run ends
        self._writing = None
        saved = writing.result()
        ctx.save_seconds = max(ctx.save_seconds, writing.seconds)
        self.saved.insert(0, saved)
        self._thin_out()
        return saved

    def _about(self, ctx: Context, data: Snapshot) -> dict[str, Any]:
        counters = {
            name: getattr(ctx, name)
            for name in ("epoch", "iter", "valid_iter", "step", "samples", "seconds")
        }
        life = {"name": data["lifecycle"]["name"], "fingerprint": data["lifecycle"]["fingerprint"]}
        monitored = {"monitor": self.monitor, "mode": self.mode, "value": self._value(ctx)}
        return {
            "state": ctx.state,
            **counters,
            "lifecycle": life,
            "versions": data["versions"],
            "origin": self._origin,
            "optimizers": optimizer_settings(ctx.optimizers),
            **monitored,
        }

    def _is_due(self, ctx: Context) -> bool:
        improved = self._has_improved(ctx)
        starts = self.at_start and ctx.epoch == 0 and not self.saved and self._writing is None
        due = (
            self._interval_is_over(ctx)
            or improved
            or starts
            or (ctx.state in self._last and self._ends(ctx))
        )
        if not self._stops(ctx):
            self._stopping = False
            return due
        # What follows a stop (the row of a part of an epoch) is no part of the run when it goes on.
        first, self._stopping = not self._stopping, True
        return (first and self._goes_on_from_here(ctx)) or (due and ctx.epoch_complete)

    def _goes_on_from_here(self, ctx: Context) -> bool:
        return ctx.epoch_complete or ctx.epoch == 0 or ctx.iterator is not None

    def _stops(self, ctx: Context) -> bool:
        """Whether the run is about to stop: someone asked it to, or a limit has been reached."""
        return ctx.stop is not None or any(
            test(ctx) for test in self._limits.get(ctx.state in self._last, ())
        )

    def _ends(self, ctx: Context) -> bool:
        """Whether the next arrow ends the run and the end is to be saved.

        This evaluates guards a second time, which is allowed.
        """
        if not self.at_end or ctx.epoch == 0:
            return False
        try:
            return next(
                (final for test, final in self._last[ctx.state] if test is None or test(ctx)), False
            )
        except Exception:  # it is raised again where the table asks, which says whose it is
            return False

    def _interval_is_over(self, ctx: Context) -> bool:
        over = [
            marks
            for part, in_epochs, test, marks in self._intervals
            if (ctx.epoch_complete or not in_epochs) and strict(part, test(ctx))
        ]
        for marks in over:
            for mark in marks:
                mark(ctx)
        return bool(over)

    def _value(self, ctx: Context) -> float | None:
        """The monitored value, if it was recorded with the weights as they are now."""
        row = ctx.history[-1] if self.monitor is not None and len(ctx.history) else {}
        return float(row[self.monitor]) if self.monitor in row and row["step"] == ctx.step else None

    def _has_improved(self, ctx: Context) -> bool:
        row = ctx.history[-1] if len(ctx.history) else None
        if self.monitor is None or row is None or row is self._judged:
            return False
        self._judged, value = row, self._value(ctx)
        if value is None or math.isnan(value):
            return False
        ranked = self._by_value()
        if len(ranked) < self.keep:
            return True
        return self._by.improves(value, ranked[self.keep - 1].about["value"])

    def _by_value(self) -> list[Saved]:
        """The checkpoints with a monitored value, the best first; the earliest of equals."""
        there = [*([] if self._writing is None else [self._writing.promised]), *self.saved]
        found = [
            saved
            for saved in reversed(there)
            if saved.about.get("monitor") == self.monitor
            and saved.about.get("value") is not None
            and not math.isnan(saved.about["value"])
        ]
        return sorted(found, key=lambda saved: self._by.rank(saved.about["value"]))

    def _milestones(self) -> Iterator[Saved]:
        """The first checkpoint at or after each multiple of `keep_every`."""
        if self.keep_every is None:
            return
        counter, reached = self.keep_every.unit.removesuffix("s"), 0
        for saved in reversed(self.saved):
            multiples = saved.about[counter] // self.keep_every.n
            if multiples > reached:
                reached = multiples
                yield saved

    def _thin_out(self) -> None:
        best = self._by_value()[: self.keep] if self.monitor is not None else []
        latest = self.saved[: max(_LATEST, 0 if self.monitor is not None else self.keep)]
        kept = [*best, *latest, *self._milestones()]
        superfluous = [saved for saved in self.saved if saved not in kept]
        if not superfluous:
            return
        try:
            checkpoint.check_sizes(self.saved[0].path)
        except (CheckpointError, OSError) as error:
            checkpoint.log.warning("no checkpoint is deleted, for the newest is broken: %s", error)
            return
        for saved in superfluous:
            self.saved.remove(saved)
            if not saved.path.exists():
                continue
            try:
                checkpoint.delete(saved.path)
            except OSError as error:  # a run is worth more than room on the disk
                checkpoint.log.warning("checkpoint %s could not be deleted: %s", saved.path, error)

    # ------------------------------------------------------------ before the first batch

    def __getstate__(self) -> dict[str, Any]:
        """Without what is bound to the table and the files of a run."""
        bound = ("_intervals", "_last", "_limits", "_writing", "_lanes")
        return {name: value for name, value in self.__dict__.items() if name not in bound}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._lanes = [Lane(state["folder"] / name) for name in LANES]
        self._writing = None
        self._forget()
        self.__dict__.update(state)

    def _open(self, ctx: Context) -> None:
        self._forget()
        self._follows = ctx.news is not None and ctx.news.group.rank > 0
        self._take_directory(ctx)
        self._origin = describe_origin()
        ctx.defer(partial(self._close, ctx))
        ctx.saves, ctx.check_logged = True, plain.encode
        self._bind_arrows(ctx.machine.lifecycle)
        self._bind_intervals(list(map(unwrapped, ctx.machine.callbacks)))

    def _bind_arrows(self, life: Lifecycle) -> None:
        """Binds the guards of anchors: of those that may end the run, and of limits."""
        final = {state.name for state in life.states if state.final}
        bound: list[tuple[bool, Guard, str]] = []
        for name in (state.name for state in life.states if state.anchor):
            arrows = life.arrows(name)
            may_end = any(arrow.dest in final for arrow in arrows)
            if may_end:
                self._last[name] = [(_test_of(arrow), arrow.dest in final) for arrow in arrows]
            for arrow in arrows:
                if arrow.guard is None or arrow.guard.label != "stop now":
                    continue
                limit = (may_end, arrow.guard, arrow.dest)
                if limit not in bound:
                    bound.append(limit)
                    self._limits.setdefault(may_end, []).append(arrow.guard.bind(arrow.dest))

    def _bind_intervals(self, callbacks: list[Callback]) -> None:
        """Binds the parts of `every` to the place where they remember that they fired."""
        peers = [callback for callback in callbacks if isinstance(callback, Checkpoint)]
        place = "checkpoint"
        if self in peers[1:]:
            place = f"checkpoint {1 + peers.index(self)}"
        parts: tuple[Guard, ...] = (self.every,)
        if isinstance(self.every, AnyOf):
            parts = self.every.parts()
        self._intervals = [
            (part, _in_epochs(part), part.bind(place), part.marks(place)) for part in parts
        ]

    def _take_directory(self, ctx: Context) -> None:
        """Rank 0 takes the directory, and tells the others what is in it, or what is wrong."""
        problem: CheckpointError | None = None
        if not self._follows:
            try:
                self._take()
            except CheckpointError as error:
                problem = error
        if ctx.news is not None:
            there = [(saved.path.name, saved.sequence, saved.about) for saved in self.saved]
            told = ctx.news.group.gather("open the directory", (problem and str(problem), there))
            if self._follows and told[0][0] is not None:
                raise CheckpointError(f"{told[0][0]} (rank 0)")
            if self._follows:
                self.saved = [
                    Saved(self.folder / name, n, about, {}) for name, n, about in told[0][1]
                ]
        if problem is not None:
            raise problem

    def _take(self) -> None:
        try:
            self._lock.take()
        except OSError as error:
            raise CheckpointError(
                f"checkpoints cannot be written to {self.folder}: {error.strerror}; give another"
                " directory"
            ) from error
        directory.sweep(self.folder)
        for lane in LANES:  # of a run that was killed
            (self.folder / lane).unlink(missing_ok=True)
        self._clear_dry_run()
        self.saved = directory.complete(self.folder)

    def _close(self, ctx: Context) -> None:
        if self._follows:
            self.resumed, ctx.saves, self._follows = None, False, False
            return
        if self._lock.inherited:  # a forked child; the directory is its parent's
            return
        try:
            self._collect(ctx)
        finally:
            self.resumed, ctx.saves, ctx.check_logged = None, False, None
            for lane in self._lanes:
                lane.restart()
            self._lock.give_back()

    def _try(self, ctx: Context) -> None:
        """Saves the run as it starts, reads it back, compares, and looks for room."""
        if self._follows:
            tally_states(ctx)
            return
        data, began = snapshot(ctx, ctx.machine), self.clock()
        try:
            saved = checkpoint.write(self.folder / _DRY, "step-0-dry", data, {})
            ctx.save_seconds = max(ctx.save_seconds, self.clock() - began)
            if not _same(checkpoint.read(saved.path), data):
                raise CheckpointError(
                    f"what is written to {self.folder} is not what is read back; is the disk sound?"
                )
            free, size = shutil.disk_usage(self.folder).free, saved.size
        finally:
            self._clear_dry_run()
        if free < 3 * size:
            raise CheckpointError(
                f"{self.folder} has room for {free} bytes, and a checkpoint needs {size} or more;"
                " three have to fit while they are replaced"
            )

    def _clear_dry_run(self) -> None:
        """Removes what a trial of the disk has left, and nothing else.

        Raises:
            CheckpointError: a link has the name of its folder.
        """
        folder = self.folder / _DRY
        if folder.is_symlink():
            raise CheckpointError(
                f"{folder} is a link, and a trial of the disk would write where it leads to; remove"
                " it, or give preflight=False"
            )
        for path in checkpoint.folders_in(folder):
            shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.rmdir()

    # ------------------------------------------------------------ finding

    def newest(self) -> tuple[Saved, Snapshot] | None:
        """The newest checkpoint that is whole, with its data; None if there has never been one.

        Raises:
            CheckpointError: there are checkpoints, and none of them is whole.
        """
        return directory.first_usable(
            self.folder, directory.complete(self.folder, aside=False), checkpoint.read, aside=False
        )

    def best(self) -> tuple[Saved, Snapshot] | None:
        """The best whole checkpoint by the monitor, with its data; None if there never was one.

        Raises:
            ConfigError: there is no monitor.
            CheckpointError: there are checkpoints, and none of them is whole and has a value.
        """
        if self.monitor is None:
            raise ConfigError(
                "there is no best checkpoint without a monitor: Checkpoint(...,"
                " monitor='valid_loss')"
            )
        self.saved = directory.complete(self.folder, aside=False)
        return directory.first_usable(self.folder, self._by_value(), checkpoint.read, aside=False)

    def at_step(self, step: int) -> tuple[Saved, Snapshot]:
        """The newest whole checkpoint of a step, with its data.

        Raises:
            CheckpointError: there is none.
        """
        saved = directory.choose(self.folder, step)
        return saved, checkpoint.read(saved.path)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.folder)!r}, {self.every.label})"


def _test_of(arrow: Transition) -> Test | None:
    if arrow.guard is None:
        return None
    return arrow.guard.bind(arrow.dest)


def _in_epochs(guard: Guard) -> bool:
    return isinstance(guard, Every) and guard.unit == "epochs"


def _counts_training(interval: object) -> bool:
    return isinstance(interval, Every) and interval.unit in ("epochs", "steps")


def _same(a: Any, b: Any) -> bool:
    """Whether two snapshots are the same, bit for bit."""
    (one, ones), (two, twos) = plain.encode(a), plain.encode(b)
    return plain.dumps(one) == plain.dumps(two) and all(
        torch.equal(_bits(ones[name]), _bits(twos[name])) for name in ones
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8)


def _find_in(owner: Checkpoint, source: object) -> tuple[Saved, Snapshot] | None:
    if source == "last":
        return owner.newest()
    if source == "best":
        return owner.best()
    if isinstance(source, bool) or not isinstance(source, int):
        raise ConfigError(f"resume takes 'last', 'best', a step or a path, got {source!r}")
    return owner.at_step(source)


def find(source: str | int | os.PathLike[str], callbacks: Iterable[Callback]) -> Snapshot | None:
    """The snapshot that `resume=` means; None where there is nothing to resume from yet.

    Args:
        source: "last", "best" or the number of a step, of the first `Checkpoint` among the
            callbacks; or the path of a checkpoint, or of a directory of them, of which it is the
            newest.
        callbacks: of the run.

    Raises:
        ConfigError: no such thing is there.
        CheckpointError: what is there is not whole.
    """
    owner = next(
        (callback for callback in map(unwrapped, callbacks) if isinstance(callback, Checkpoint)),
        None,
    )
    if isinstance(source, int) or source in ("last", "best"):
        if owner is None:
            raise ConfigError(
                f"resume={source!r} needs to know where checkpoints are: give"
                " callbacks=[Checkpoint(folder)], or a path as resume"
            )
        found = _find_in(owner, source)
    else:
        path = Path(source)
        if (path / checkpoint.MANIFEST).exists():
            found = checkpoint.read_manifest(path), checkpoint.read(path)
        elif path.is_dir():
            found = directory.first_usable(
                path, directory.complete(path, aside=False), checkpoint.read, aside=False
            )
        else:
            found = None
        if found is None:
            raise ConfigError(
                f"resume={os.fspath(source)!r}: there is no checkpoint; give 'last', 'best', or the"
                " path of one"
            )
    if found is None:
        return None
    saved, data = found
    for callback in map(unwrapped, callbacks):
        if (
            isinstance(callback, Checkpoint)
            and saved.path.parent.resolve() == callback.folder.resolve()
        ):
            callback.resumed = saved
    return data
