"""Checkpoint: the run is saved as it goes, so that it cannot be lost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from statetrain.callback import Callback, unwrapped
from statetrain.callbacks.checkpointing.due import Due
from statetrain.callbacks.checkpointing.retention import Retention
from statetrain.callbacks.checkpointing.trial import clear_trial, try_disk, try_disk_together
from statetrain.callbacks.checkpointing.writing import CheckpointWriting
from statetrain.callbacks.monitoring import read_monitor
from statetrain.checkpoints import checkpoint, directory, failure, plain
from statetrain.checkpoints.checkpoint import Log, Saved
from statetrain.checkpoints.frozen import frozen_sums, leave_out_frozen
from statetrain.checkpoints.lock import Lock
from statetrain.checkpoints.origin import describe_origin, optimizer_settings
from statetrain.checkpoints.progress import (
    counters_of,
    divides_weights,
    is_fresh,
    modules_of,
    number_of,
    optimizers_of,
)
from statetrain.checkpoints.rowlog import LANES, Lane
from statetrain.checkpoints.snapshot import Snapshot, join_in, snapshot
from statetrain.checkpoints.together import attempt, write_together
from statetrain.compute.keeping import first_not_finite
from statetrain.context.position import Position
from statetrain.errors import CallbackError, CheckpointError, ConfigError
from statetrain.guards.base import Guard, as_guard
from statetrain.guards.comparing import Direction
from statetrain.guards.counters import Every
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.machine.agreeing import Group
from statetrain.validators import check_switches, check_whole, local_path

_FEW = 200  # rows and records that are part of each checkpoint; more are in a file that grows


class Checkpoint(Callback):
    """Saves the run into a directory, from where `fit(..., resume="last")` resumes exactly.

        st.fit(..., callbacks=[st.Checkpoint("runs/digits", every=st.Every(15, "minutes"))],
        resume="last")

    A checkpoint is taken at anchors: between epochs, between batches, between validation batches.
    Beside those that are due, one is taken when the run is asked to stop (a signal, a request, a
    limit), at the next anchor, before it acts on it; and one when it ends in order, so that the
    newest is how it ended. Weights that are not finite are not saved; there is a warning instead.

    The two latest are kept, and the `keep` best by `monitor`. An older one is deleted when the new
    one is on the disk, its manifest is sound and its files have their sizes; their contents are
    verified when a run resumes from it. A NaN is never best.

    When the run fails, `failure.json` next to the checkpoints says what was raised, where, and how
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
            has a checkpoint to resume from. Needs an anchor there, which the standard tables have.
        at_end: whether the run is also saved as it ends, completed or stopped by what its history
            says, if nothing is due then. `StopFit` leaves from a place that is no anchor, so
            nothing is saved after it; `ctx.request_stop` is saved.
        preflight: whether the disk is tried before the first batch.
        background: whether a thread of its own writes, while training continues. At the anchor
            everything is copied into the memory of the host, so what is written is the same, and
            nothing of the run changes. One is written at a time. What goes wrong is raised at the
            next anchor, or when the run ends; it ends when the last one is on the disk.
        trained_only: whether parameters of the model are left out that require no gradient and are
            as they were when the run began. The model that resumes has to have the same: their
            sums (sha256) are compared, and others are refused. Copies that `KeepBest` has are
            whole. Not with `FSDP`.
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
    saves_run = True

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
        trained_only: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_whole("Checkpoint: keep", keep)
        check_switches("Checkpoint", at_end=at_end, preflight=preflight, background=background)
        check_switches("Checkpoint", trained_only=trained_only)
        # Without a monitor nothing is compared, but what is given has to be sound
        by = read_monitor("Checkpoint", monitor or "nothing", mode, min_delta)
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
        self.redirect(
            Path(os.path.abspath(local_path("Checkpoint", folder)))
        )  # a script may change the working directory
        self.every = as_guard(every)
        self.keep = keep
        self.monitor = monitor
        self.mode = by.mode
        self.min_delta = min_delta
        self.keep_every = keep_every
        self.at_start = at_start
        self.at_end = at_end
        self.preflight = preflight
        self.background = background
        self.trained_only = trained_only
        self._frozen: dict[str, str] = {}  # sums of what was frozen when the run began
        self.clock = clock
        self.monitors: tuple[str, ...] = ()
        self._retention = Retention(keep, None, keep_every)
        if monitor is not None:
            self.monitors = (monitor,)
            self._retention = Retention(keep, by, keep_every)
        self.saved: list[Saved] = []
        """The checkpoints in the directory, the newest first.

        They are known from the start of the run.
        """
        self.resumed: Saved | None = None
        """The checkpoint that the run was resumed from, if it was."""
        self._writing: CheckpointWriting | None = None
        self._forget()

    def redirect(self, folder: Path) -> None:
        """Saves into another directory."""
        self.folder = folder
        self._lock = Lock(folder)
        self._lanes = [Lane(folder / name) for name in LANES]

    def _forget(self) -> None:
        self._due = Due()
        self._origin: dict[str, str | None] = {}
        self._began = False  # whether the directory is this run's
        self._follows = False  # whether another rank owns the directory, and this one takes part
        self._shards = False  # whether each rank holds, and writes, a part of the weights
        self._judged: Any = None  # the last row that was looked at
        self._warned = False  # whether it was said that a forked child saves nothing

    def check_lifecycle(self, lifecycle: Lifecycle) -> None:
        """Looks for anchors: without one, nothing would ever be saved."""
        if not any(state.anchor for state in lifecycle.states):
            raise CallbackError(
                f"Checkpoint: lifecycle {lifecycle.name!r} has no anchor to save at; declare one"
                " with State(..., anchor=True)"
            )

    # ------------------------------------------------------------ hooks

    def on_enter_fit(self, ctx: Position) -> None:
        """Takes the directory and tests the disk; a later phase has both already."""
        if self._lock.held or self._follows:
            return
        self._open(ctx)
        if self.trained_only and is_fresh(ctx):  # later, what was trained may be frozen
            self._frozen = frozen_sums(ctx)
        if is_fresh(ctx) and self.saved:
            raise CheckpointError(
                f"{self.folder} has checkpoints of an earlier run, the newest {self.saved[0].name};"
                " resume it by fit(..., resume='last'), give this run another directory, or"
                " delete that one"
            )
        self._begin()
        if is_fresh(ctx) and self.preflight:
            self._try(ctx)

    def on_resume(self, ctx: Position) -> None:
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

    def on_anchor(self, ctx: Position) -> None:
        """Responds to a signal, and saves if a checkpoint is due."""
        if not self._lock.held and not self._follows:  # an evaluation, or the like
            self._warn_a_forked_child()
            return
        if ctx.interrupt is not None:
            ctx.request_stop(ctx.interrupt)
        self._keep_up(ctx)
        if not self._is_due(ctx):
            return
        name = _find_not_finite(ctx)
        if name is not None:  # the checkpoints that are there are worth more
            checkpoint.log.warning(
                "the run is not saved in %s: %s is not finite", ctx.where(), name
            )
            return
        if self.background:
            self._hand_over(ctx)
        elif ctx.news is None:
            self.save(ctx)
        else:
            # The others wait for rank 0 anyway, and then a full disk fails all alike
            attempt(ctx.news.group, "save the run", partial(self._save_as_rank, ctx))

    def _save_as_rank(self, ctx: Position) -> None:
        self.save(ctx)

    def _keep_up(self, ctx: Position) -> None:
        """Shows that the run is alive, and collects what has been written since."""
        if self._lock.held:
            self._lock.touch(ctx.clock())
        if self._writing is not None and self._writing.is_over:
            self._collect(ctx)

    def _warn_a_forked_child(self) -> None:
        if self._lock.inherited and not self._warned:
            self._warned = True
            checkpoint.log.warning(
                "this process was forked from the run that owns %s: it saves nothing there",
                self.folder,
            )

    def on_enter_failed(self, ctx: Position) -> None:
        """Notes in the error, and in a file, where the run can be resumed from."""
        if not (self._lock.held and (self._began or self.saved)):
            return
        assert ctx.error is not None
        try:
            self._collect(ctx)
        except Exception as second:
            ctx.error.add_note(
                f"statetrain: the checkpoint that was being written is lost: {second!r}"
            )
        newest = None
        if self.saved:
            newest = self.saved[0].path
            ctx.error.add_note(
                f"statetrain: the newest checkpoint is {newest}; fit(..., resume='last') resumes"
                " from there"
            )
        if not self._began:
            return
        try:
            failure.write(self.folder, failure.describe(ctx, ctx.error, newest))
        except Exception as second:  # a full disk, say; the error itself is worth more
            checkpoint.log.warning(
                "%s could not be written: %s", self.folder / failure.FILE, second
            )

    # ------------------------------------------------------------ saving

    def save(self, ctx: Position) -> Saved | None:
        """Saves the run now, and deletes what need not be kept.

        Args:
            ctx: the context, at an anchor.

        Raises:
            CheckpointError: the run is at no anchor, so it could not resume from here; or something
                in it cannot be saved, and the message names it.
            OSError: the disk is full, or the like. The checkpoints that are there stay whole.
        """
        life = ctx.machine.lifecycle
        if ctx.state not in life.names or not life.state(ctx.state).anchor:
            anchors = [state.name for state in life.states if state.anchor]
            raise CheckpointError(
                f"a run is saved where it can resume, at an anchor, and this one is in"
                f" {ctx.state!r}; call save() in on_anchor, or on entering one of"
                f" {', '.join(map(repr, anchors))}"
            )
        self._hand_over(ctx)
        return self._collect(ctx)

    def _hand_over(self, ctx: Position) -> None:
        """Starts writing, in a thread if asked to; a write in progress is finished first."""
        if self._follows and not self._shards:
            join_in(ctx, ctx.machine)  # what was summed up by all ranks is saved
            path = self.folder / f"step-{number_of(ctx):08d}"
            self.saved.insert(0, Saved(path, 0, self._monitored(ctx), {}))
            return
        self._collect(ctx)
        if not self._shards:
            self._lock.check()
        began, name = self.clock(), f"step-{number_of(ctx):08d}-{ctx.state}"
        log = self._new_lines(ctx)
        data = snapshot(ctx, ctx.machine, logs=log is None)
        if self.trained_only:
            leave_out_frozen(data, ctx, self._frozen)
        about = self._about(ctx, data)
        write = self._writer(ctx, name, data, about, log)
        promised = Saved(self.folder / name, 0, about, {})
        self._writing = CheckpointWriting(write, promised, began, self.clock)
        self._writing.start(self.background)

    def _writer(
        self, ctx: Position, name: str, data: Snapshot, about: dict[str, Any], log: Log | None
    ) -> Callable[[], Saved]:
        """What writes a checkpoint, here or in a thread."""
        if self._shards:
            assert ctx.news is not None
            write = partial(write_together, ctx.news.group, self.folder, name, data, about)
            return partial(write, log, self._lock.check)
        if not self.background:
            return partial(checkpoint.write, self.folder, name, data, about, log)
        structure, tensors = plain.encode(data)
        copies = {key: tensor.to("cpu", copy=True) for key, tensor in tensors.items()}
        return partial(checkpoint.write_encoded, self.folder, name, structure, copies, about, log)

    def _new_lines(self, ctx: Position) -> Log | None:
        """What a long run has logged since the next file to write was last written.

        None while there is little of it: it is part of each checkpoint then.
        """
        rows, records = ctx.history.rows, ctx.records
        if self._follows:
            return None
        if len(rows) + sum(map(len, records.values())) <= _FEW:
            return None
        lane = self._lanes[0]
        self._lanes.reverse()
        return lane, lane.take(rows, records, but_last=min(1, len(rows)))

    def _collect(self, ctx: Position) -> Saved | None:
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
        if not self._follows:
            self._thin_out()
        return saved

    def _about(self, ctx: Position, data: Snapshot) -> dict[str, Any]:
        life = {"name": data["lifecycle"]["name"], "fingerprint": data["lifecycle"]["fingerprint"]}
        return {
            "state": ctx.state,
            **counters_of(ctx),
            "lifecycle": life,
            "versions": data["versions"],
            "origin": self._origin,
            "optimizers": optimizer_settings(optimizers_of(ctx)),
            **self._monitored(ctx),
        }

    def _monitored(self, ctx: Position) -> dict[str, Any]:
        return {"monitor": self.monitor, "mode": self.mode, "value": self._value(ctx)}

    def _is_due(self, ctx: Position) -> bool:
        improved = self._has_improved(ctx)
        starts = self.at_start and is_fresh(ctx) and not self._known()
        return self._due.is_now(ctx, improved or starts)

    def _known(self) -> list[Saved]:
        """The checkpoints, the newest first, with one that is being written."""
        if self._writing is None:
            return self.saved
        return [self._writing.promised, *self.saved]

    def _value(self, ctx: Position) -> float | None:
        """The monitored value, if it was recorded with the weights as they are now."""
        row = ctx.history.last
        if self.monitor not in row or row.get("step", 0) != getattr(ctx, "step", 0):
            return None
        return float(row[self.monitor])

    def _has_improved(self, ctx: Position) -> bool:
        row = ctx.history.last
        if self.monitor is None or not row or row is self._judged:
            return False
        self._judged, value = row, self._value(ctx)
        return value is not None and self._retention.admits(value, self._known())

    def _thin_out(self) -> None:
        superfluous = self._retention.find_superfluous(self.saved)
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

    def state_dict(self) -> dict[str, Any]:
        """The sums of what was frozen when the run began, if it is to be left out."""
        return {"frozen": self._frozen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._frozen = state["frozen"]

    # ------------------------------------------------------------ before the first batch

    def __getstate__(self) -> dict[str, Any]:
        """Without what is bound to the table and the files of a run."""
        bound = ("_due", "_writing", "_lanes")
        return {name: value for name, value in self.__dict__.items() if name not in bound}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._lanes = [Lane(state["folder"] / name) for name in LANES]
        self._writing = None
        self._forget()
        self.__dict__.update(state)

    def _open(self, ctx: Position) -> None:
        self._forget()
        self._follows = ctx.news is not None and ctx.news.group.rank > 0
        self._shards = divides_weights(ctx)
        if self._shards and self.background:
            raise ConfigError(
                "Checkpoint(background=True) cannot save a run with st.FSDP: the ranks meet while"
                " they write their parts; leave background=True out"
            )
        if self._shards and self.trained_only:
            raise ConfigError(
                "Checkpoint(trained_only=True) cannot save a run with st.FSDP, whose ranks hold"
                " parts of each weight; leave trained_only=True out"
            )
        self._take_directory(ctx)
        self._origin = describe_origin()
        ctx.defer(partial(self._close, ctx))
        ctx.saves, ctx.check_logged = True, plain.encode
        place = self._place_among(list(map(unwrapped, ctx.machine.callbacks)))
        self._due = Due.bind(ctx.machine.lifecycle, self.every, place, self.at_end)

    def _place_among(self, callbacks: list[Callback]) -> str:
        """The place where the intervals remember that they fired."""
        peers = [callback for callback in callbacks if isinstance(callback, Checkpoint)]
        if self in peers[1:]:
            return f"checkpoint {1 + peers.index(self)}"
        return "checkpoint"

    def _take_directory(self, ctx: Position) -> None:
        """Rank 0 takes the directory, and tells the others what is in it, or what is wrong."""
        problem: CheckpointError | None = None
        if not self._follows:
            try:
                self._take()
            except CheckpointError as error:
                problem = error
        if ctx.news is not None:
            there = [(saved.path.name, saved.sequence, saved.about) for saved in self.saved]
            what = (problem and str(problem), there)
            self._follow(*ctx.news.group.gather("open the directory", what)[0])
        if problem is not None:
            raise problem

    def _follow(self, problem: str | None, there: list[tuple[str, int, Any]]) -> None:
        """On the other ranks, takes what rank 0 found in the directory."""
        if not self._follows:
            return
        if problem is not None:
            raise CheckpointError(f"{problem} (rank 0)")
        self.saved = [Saved(self.folder / name, n, about, {}) for name, n, about in there]

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
        clear_trial(self.folder)
        self.saved = directory.complete(self.folder)

    def _close(self, ctx: Position) -> None:
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

    def _try(self, ctx: Position) -> None:
        """Tests the disk with the run as it starts; if that fails on one rank, it fails on all."""
        if ctx.news is None:
            seconds = try_disk(self.folder, snapshot(ctx, ctx.machine), self.clock)
        else:
            group = ctx.news.group
            seconds = attempt(group, "try the disk", partial(self._try_as_rank, ctx, group))[0]
        ctx.save_seconds = max(ctx.save_seconds, seconds)

    def _try_as_rank(self, ctx: Position, group: Group) -> float:
        if self._shards:
            return try_disk_together(group, self.folder, snapshot(ctx, ctx.machine), self.clock)
        if not self._follows:
            return try_disk(self.folder, snapshot(ctx, ctx.machine), self.clock)
        join_in(ctx, ctx.machine)
        return 0.0

    # ------------------------------------------------------------ finding

    def newest(self) -> tuple[Saved, Snapshot] | None:
        """The newest checkpoint that is whole, with its data; None if there is none.

        Raises:
            CheckpointError: there are checkpoints, and none of them is whole.
        """
        return directory.first_usable(
            self.folder, directory.complete(self.folder, aside=False), checkpoint.read, aside=False
        )

    def best(self) -> tuple[Saved, Snapshot] | None:
        """The best whole checkpoint by the monitor, with its data; None if there is none.

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
        ranked = self._retention.rank(self._known())
        return directory.first_usable(self.folder, ranked, checkpoint.read, aside=False)

    def at_step(self, step: int) -> tuple[Saved, Snapshot]:
        """The newest whole checkpoint of a step, with its data.

        Raises:
            CheckpointError: there is none.
        """
        saved = directory.choose(self.folder, step)
        return saved, checkpoint.read(saved.path)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.folder)!r}, {self.every.label})"


def _find_not_finite(ctx: Position) -> str | None:
    """The name of a weight that is not finite, as rank 0 finds it; None if all are."""
    name = first_not_finite(*modules_of(ctx))
    if ctx.news is None:
        return name
    found: list[str | None] = ctx.news.group.gather("look for what is not finite", name)
    return found[0]


def _counts_training(interval: object) -> bool:
    return isinstance(interval, Every) and interval.unit in ("epochs", "steps")
