"""Checkpoint: the run is saved as it goes, so that it cannot be lost."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from statetrain.callback import Callback
from statetrain.callbacks.checkpointing.due import Due
from statetrain.callbacks.checkpointing.own_directory import OwnDirectory
from statetrain.callbacks.checkpointing.retention import Retention
from statetrain.callbacks.checkpointing.trial import try_run
from statetrain.callbacks.checkpointing.writing import CheckpointWriting, writer_of
from statetrain.callbacks.monitoring import read_monitor
from statetrain.callbacks.peers import peers_in, place_among
from statetrain.checkpoints import checkpoint, directory, plain
from statetrain.checkpoints.checkpoint import Saved
from statetrain.checkpoints.frozen import frozen_sums, leave_out_frozen
from statetrain.checkpoints.lock import FILE
from statetrain.checkpoints.origin import describe_origin, optimizer_settings
from statetrain.checkpoints.progress import (
    counters_of,
    divides_weights,
    is_fresh,
    modules_of,
    number_of,
    optimizers_of,
)
from statetrain.checkpoints.snapshot import Snapshot, join_in, snapshot
from statetrain.checkpoints.together import attempt
from statetrain.compute.keeping import first_not_finite
from statetrain.context.position import Position
from statetrain.contracts.declaring import paths_read
from statetrain.errors import CallbackError, CheckpointError, ConfigError
from statetrain.guards.base import Guard, as_guard
from statetrain.guards.comparing import Direction
from statetrain.guards.counters import Every
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.validators import check_interval, check_switches, check_whole, local_path

log = logging.getLogger("statetrain")


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

    reads: tuple[str, ...] = ("**",)  # a snapshot is of everything
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
        check_switches("Checkpoint", at_start=at_start, at_end=at_end, preflight=preflight)
        check_switches("Checkpoint", background=background, trained_only=trained_only)
        # Without a monitor nothing is compared, but what is given has to be sound
        by = read_monitor("Checkpoint", monitor or "nothing", mode, min_delta)
        check_interval("Checkpoint: every", every)
        if keep_every is not None and not _counts_training(keep_every):
            raise ConfigError(
                "Checkpoint: keep_every takes an interval in epochs or steps, such as"
                f' Every(10, "epochs"), got {keep_every!r}'
            )
        # A script may change the working directory
        self.redirect(Path(os.path.abspath(local_path("Checkpoint", folder))))
        self.every = as_guard(every)
        self.reads = (*self.reads, *paths_read(self.every), *paths_read(keep_every))
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
        self.resumed: Saved | None = None
        """The checkpoint that the run was resumed from, if it was."""
        self._forget()

    def destinations(self) -> tuple[str, ...]:
        """The files that it writes."""
        return (str(self.folder / FILE),)

    def redirect(self, folder: Path) -> None:
        """Saves into another directory."""
        self.folder = folder
        self._own = OwnDirectory(folder)

    def _forget(self) -> None:
        self._due = Due()
        self._writing: CheckpointWriting | None = None
        self._origin: dict[str, str | None] = {}
        self._began = False  # whether the directory is this run's
        self._follows = False  # whether another rank owns the directory, and this one takes part
        self._shards = False  # whether each rank holds, and writes, a part of the weights
        self._judged: Any = None  # the last row that was looked at

    @property
    def saved(self) -> list[Saved]:
        """The checkpoints in the directory, the newest first; known from the start of the run."""
        return self._own.saved

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
        if self._takes_part:
            return
        self._open(ctx)
        if is_fresh(ctx):
            self._start(ctx)
        else:
            self._begin()

    def _start(self, ctx: Position) -> None:
        """Begins a run from scratch."""
        if self.trained_only:  # later, what was trained may be frozen
            self._frozen = frozen_sums(ctx)
        if self.saved:
            raise CheckpointError(
                f"{self.folder} has checkpoints of an earlier run, the newest {self.saved[0].name};"
                " resume it by fit(..., resume='last'), give this run another directory, or"
                " delete that one"
            )
        self._begin()
        if self.preflight:
            seconds = try_run(ctx, self.folder, self.clock, self._shards)
            ctx.save_seconds = max(ctx.save_seconds, seconds)

    def on_resume(self, ctx: Position) -> None:
        """Takes the directory, and sets aside the files that were found to be broken.

        They were found while looking for a whole checkpoint.
        """
        self._open(ctx)
        if self.resumed is not None and self._follows:
            last = self.resumed.sequence
            self._own.saved = [saved for saved in self.saved if saved.sequence <= last]
        elif self.resumed is not None:
            self._own.weed_after(self.resumed)
        self._begin()

    def _begin(self) -> None:
        self._began = True
        if not self._follows:
            self._own.forget_failure()

    def on_anchor(self, ctx: Position) -> None:
        """Responds to a signal, and saves if a checkpoint is due."""
        if not self._takes_part:  # an evaluation, or the like
            self._own.warn_a_forked_child()
            return
        if ctx.interrupt is not None:
            ctx.request_stop(ctx.interrupt)
        self._own.lock.touch(ctx.clock())
        if self._writing is not None and self._writing.is_over:
            self._collect(ctx)
        if self._is_due(ctx) and _is_finite(ctx):
            self._save_in_the_run(ctx)

    def _save_in_the_run(self, ctx: Position) -> None:
        if self.background:
            self._hand_over(ctx)
        elif ctx.news is None:
            self.save(ctx)
        else:
            # The others wait for rank 0 anyway, and then a full disk fails all alike
            attempt(ctx.news.group, "save the run", partial(self._save_as_rank, ctx))

    def _save_as_rank(self, ctx: Position) -> None:
        self.save(ctx)  # what it returns is not for the other ranks

    def on_enter_failed(self, ctx: Position) -> None:
        """Notes in the error, and in a file, where the run can be resumed from."""
        error = ctx.error
        if error is None or not (self._own.lock.held and (self._began or self.saved)):
            return
        try:
            self._collect(ctx)
        except Exception as second:
            error.add_note(f"statetrain: the checkpoint that was being written is lost: {second!r}")
        newest = None
        if self.saved:
            newest = self.saved[0].path
            error.add_note(
                f"statetrain: the newest checkpoint is {newest}; fit(..., resume='last') resumes"
                " from there"
            )
        if self._began:
            self._own.note_failure(ctx, error, newest)

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
        anchors = [state.name for state in ctx.machine.lifecycle.states if state.anchor]
        if ctx.state not in anchors:
            raise CheckpointError(
                f"a run is saved where it can resume, at an anchor, and this one is in"
                f" {ctx.state!r}; call save() in on_anchor, or on entering one of"
                f" {', '.join(map(repr, anchors))}"
            )
        self._hand_over(ctx)
        return self._collect(ctx)

    def _hand_over(self, ctx: Position) -> None:
        """Starts writing, in a thread if asked to; a write in progress is finished first."""
        name = f"step-{number_of(ctx):08d}"
        if self._follows and not self._shards:
            join_in(ctx, ctx.machine)  # what was summed up by all ranks is saved
            self.saved.insert(0, Saved(self.folder / name, 0, self._monitored(ctx), {}))
            return
        self._collect(ctx)
        if not self._shards:
            self._own.lock.check()
        began = self.clock()
        lines = None
        if not self._follows:
            lines = self._own.take_new_lines(ctx)
        data = snapshot(ctx, ctx.machine, logs=lines is None)
        if self.trained_only:
            leave_out_frozen(data, ctx, self._frozen)
        promised = Saved(self.folder / f"{name}-{ctx.state}", 0, self._about(ctx, data), {})
        together = None
        if self._shards and ctx.news is not None:
            together = ctx.news.group
        write = writer_of(promised, data, lines, self.background, together, self._own.lock.check)
        self._writing = CheckpointWriting(write, promised, began, self.clock)
        self._writing.start(self.background)

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
            self._own.thin_out(self._retention)
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

    # ------------------------------------------------------------ what is due

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

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """The sums of what was frozen when the run began, if it is to be left out."""
        return {"frozen": self._frozen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._frozen = state["frozen"]

    def __getstate__(self) -> dict[str, Any]:
        """Without what is bound to the table and the files of a run."""
        return {k: value for k, value in self.__dict__.items() if k not in ("_due", "_writing")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget()
        self.__dict__.update(state)

    # ------------------------------------------------------------ the directory

    @property
    def _takes_part(self) -> bool:
        """Whether a run has the directory, and this rank saves it or takes part in that."""
        return self._own.lock.held or self._follows

    def _open(self, ctx: Position) -> None:
        self._forget()
        group = None
        if ctx.news is not None:
            group = ctx.news.group
        self._follows = group is not None and group.rank > 0
        self._shards = divides_weights(ctx)
        if self._shards:
            self._refuse_shards()
        self._own.open(group)
        self._origin = describe_origin()
        ctx.defer(partial(self._close, ctx))
        ctx.saves, ctx.check_logged = True, plain.encode
        place = place_among(peers_in(ctx, Checkpoint), self, "checkpoint")
        self._due = Due.bind(ctx.machine.lifecycle, self.every, place, self.at_end)

    def _refuse_shards(self) -> None:
        if self.background:
            raise ConfigError(
                "Checkpoint(background=True) cannot save a run with st.FSDP: the ranks meet while"
                " they write their parts; leave background=True out"
            )
        if self.trained_only:
            raise ConfigError(
                "Checkpoint(trained_only=True) cannot save a run with st.FSDP, whose ranks hold"
                " parts of each weight; leave trained_only=True out"
            )

    def _close(self, ctx: Position) -> None:
        if self._follows:
            self.resumed, ctx.saves, self._follows = None, False, False
            return
        if self._own.lock.inherited:  # a forked child; the directory is its parent's
            return
        try:
            self._collect(ctx)
        finally:
            self.resumed, ctx.saves, ctx.check_logged = None, False, None
            self._own.give_back()

    # ------------------------------------------------------------ finding

    def newest(self) -> tuple[Saved, Snapshot] | None:
        """The newest checkpoint that is whole, with its data; None if there is none.

        Raises:
            CheckpointError: there are checkpoints, and none of them is whole.
        """
        return self._read_first(directory.complete(self.folder, aside=False))

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
        self._own.saved = directory.complete(self.folder, aside=False)
        return self._read_first(self._retention.rank(self._known()))

    def _read_first(self, candidates: list[Saved]) -> tuple[Saved, Snapshot] | None:
        return directory.first_usable(self.folder, candidates, checkpoint.read, aside=False)

    def at_step(self, step: int) -> tuple[Saved, Snapshot]:
        """The newest whole checkpoint of a step, with its data.

        Raises:
            CheckpointError: there is none.
        """
        saved = directory.choose(self.folder, step)
        return saved, checkpoint.read(saved.path)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.folder)!r}, {self.every.label})"


def _is_finite(ctx: Position) -> bool:
    """Whether all weights are finite, as rank 0 finds them; else the run is not worth saving."""
    name = first_not_finite(*modules_of(ctx))
    if ctx.news is not None:
        name = ctx.news.group.gather("look for what is not finite", name)[0]
    if name is not None:  # the checkpoints that are there are worth more
        log.warning("the run is not saved in %s: %s is not finite", ctx.where(), name)
    return name is None


def _counts_training(interval: object) -> bool:
    return isinstance(interval, Every) and interval.unit in ("epochs", "steps")
