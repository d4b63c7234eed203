"""A run: what `fit` returns."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from attrs import define, evolve

from statetrain.callback import unwrapped
from statetrain.compute.keyed import caveat
from statetrain.context.context import Context
from statetrain.context.history import History, Row
from statetrain.errors import CheckpointError, ConfigError, MachineError
from statetrain.guards.comparing import Direction
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.machine.interrupts import heeded
from statetrain.machine.machine import Machine
from statetrain.machine.steps import Steps
from statetrain.outcome import Failed, Interrupted, Outcome
from statetrain.training.claiming import claim
from statetrain.training.record import RunRecord
from statetrain.validators import check_whole

if TYPE_CHECKING:
    from statetrain.machine.asking import Explanation
    from statetrain.trace import Trace

OnInterrupt = Literal["return", "raise", "exit"]


_SHOWN = 60  # rows of the history that `print` shows


@define(eq=False, repr=False)
class Run:
    """A machine and the context that it ran.

    Attributes:
        ctx: everything that the run knows; of a lifecycle of your own, your own context.
        machine: the lifecycle and the callbacks.
        on_interrupt: what a signal leads to once the run has ended in order: "return" it, "raise"
            KeyboardInterrupt, or "exit" the process with the code that a scheduler expects, 128 and
            the signal's number.
        at: the anchor at which the next walk continues, when a snapshot has been put back; None: it
            starts anew.
    """

    ctx: Context
    machine: Machine
    on_interrupt: OnInterrupt = "return"
    at: str | None = None

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None before it started."""
        return self.ctx.outcome

    @property
    def first(self) -> bool:
        """Whether this is the first of several ranks, or the only process: the one that prints."""
        return self.ctx.news is None or self.ctx.news.group.rank == 0

    @property
    def history(self) -> History:
        """The rows that it recorded."""
        return self.ctx.history

    @property
    def lifecycle(self) -> Lifecycle:
        """The table that it walked."""
        return self.machine.lifecycle

    @property
    def model(self) -> torch.nn.Module:
        """The model, trained as far as the run got."""
        self._refuse_custom("model")
        assert self.ctx.model is not None
        return (
            self.ctx.model
            if self.ctx.accelerator is None
            else self.ctx.accelerator.unwrap(self.ctx.model)
        )

    @property
    def caveats(self) -> list[str]:
        """What may keep this run from resuming exactly; empty if nothing is known to.

        It looks at the data (a sample is loaded twice) and, in a run that is saved, at attributes
        of modules that have changed. `statetrain.testing.assert_resumable` proves it for all of a
        script.
        """
        if not isinstance(self.ctx, Context):
            return []
        sets = {"train": self.ctx.train_data, "valid": self.ctx.valid_data, **self.ctx.evaluations}
        found = [f"{name} data: {words}" for name, data in sets.items() if (words := caveat(data))]
        if self.ctx.given:
            from statetrain.checkpoints.describing import changed_attributes

            found += changed_attributes(self.model, self.ctx.given["model"])
        return found

    @property
    def trace(self) -> Trace:
        """The transitions that it took: the last 100,000, unless a `Tracing` keeps more.

        Counts are of all.

        Raises:
            ConfigError: they were not recorded.
        """
        if (recorded := self._recorded()) is None:
            raise ConfigError("this run has no trace; ask for one with fit(..., trace=True)")
        return recorded

    def _recorded(self) -> Trace | None:
        from statetrain.trace import Tracing

        return next(
            (
                callback.trace
                for callback in map(unwrapped, self.machine.callbacks)
                if isinstance(callback, Tracing)
            ),
            None,
        )

    def svg(self, **options: Any) -> str:
        """The lifecycle as SVG text, with what a traced run did; options as for `Lifecycle.svg`."""
        return self.lifecycle.svg(trace=self._recorded(), **options)

    def draw(self, path: str | Path, **options: Any) -> None:
        """The same in a file (`.svg`, `.png`, `.pdf`, `.dot`, `.mmd`); see `Lifecycle.draw`."""
        self.lifecycle.draw(path, trace=self._recorded(), **options)

    def report(self, path: str | os.PathLike[str], against: Run | Trace | None = None) -> None:
        """Writes a page on the run: lifecycle, curves, outcome, time, callbacks, decisions.

        See `statetrain.report`.

        Args:
            path: the file.
            against: another run, or its trace, which is shown next to this one.
        """
        from statetrain.report import report

        other = against._whole_trace() if isinstance(against, Run) else against
        report(self._whole_trace(), path, self.machine, other)

    def _whole_trace(self) -> Trace:
        """Its trace; of a run without one, the rest of what a trace has."""
        from statetrain.trace import Trace

        recorded = self._recorded()
        if recorded is not None:
            return recorded
        return Trace((), lifecycle=self.lifecycle, rows=self.history.rows, outcome=self.outcome)

    def control(self, port: int = 0) -> Run:
        """Walks a run that has not begun from a page in a browser.

        The page has single steps, breakpoints and a button that asks the run to stop. Its address
        is printed; it is on this machine alone and needs its token.

            run = fit(..., start=False)
            run.control()

        Args:
            port: of the page; 0 takes a free one.

        Returns:
            This run, when it has ended.

        Raises:
            ConfigError: the port is taken.
            BaseException: as `walk`.
        """
        from statetrain.live.stepping import control

        control(self, port)
        return self

    def _repr_html_(self) -> str:
        from statetrain.notebook import badge, picture

        ended = self.outcome._repr_html_() if self.outcome is not None else badge("begun", "", "")
        outline = self.svg(detail="outline")
        return f"{ended}{self.history._repr_html_()}{picture(outline)}"

    def why(self) -> Explanation:
        """Why it is where it is, or ended as it did: the last arrow, and the guards before it."""
        return self.machine.why(self.ctx)

    def why_not(self, state: str) -> Explanation:
        """Why it is not in a state or a scope: the guards on the way there, with their answers.

        Raises:
            LifecycleError: there is no such state.
        """
        return self.machine.why_not(self.ctx, state)

    def best(self, monitor: str = "valid_loss", mode: Direction = "min") -> Row:
        """The row of the history in which a column is best; see `History.best`."""
        return self.history.best(monitor, mode)

    def fit(self, epochs: int) -> Run:
        """Trains for more epochs, from where the run ended, with the same machine.

        Args:
            epochs: how many more.

        Returns:
            This run. Guards on the history look at the new rows only, limits (of time, of steps, of
            times to roll back) count from 0.

        Raises:
            ConfigError: `epochs` is no whole number of at least 0.
            MachineError: the run is still going on, as inside one of its callbacks.
            BaseException: as `walk`.
        """
        check_whole("epochs", epochs, 0)
        self._refuse_custom("fit")
        self._refuse_if_under_way()
        self.ctx.max_epochs = self.ctx.epoch + epochs
        self.ctx.first_row, self.ctx.first_step = len(self.ctx.history), self.ctx.step
        self.ctx.rolled_back = 0
        return self.walk()

    def walk(self) -> Run:
        """Walks the machine to the end, from its initial state or from where it is to be continued.

        Raises:
            BaseException: what was raised in it, as it was; its attribute `run` is this run.
            KeyboardInterrupt: the run was interrupted, and `on_interrupt` is "raise".
            SystemExit: likewise, and it is "exit".
        """
        _refuse_inference()
        return self._walk()

    def _walk(self, whole: bool = False) -> Run:
        self._refuse_if_under_way()
        self._begin()
        at, self.at = self.at, None
        if self.ctx.news is not None:
            self.ctx.news.begin(partial(_place, self.ctx))
        try:
            with heeded(self.ctx, whole):
                self.machine.run(self.ctx, at)
            if self.on_interrupt != "return" and isinstance(self.outcome, Interrupted):
                raise (
                    KeyboardInterrupt(self.outcome.reason)
                    if self.on_interrupt == "raise"
                    else SystemExit(self.outcome.exit_code)
                )
        except BaseException as error:
            # A promise of `fit`: the run is not lost with the error
            error.run = self  # type: ignore[attr-defined]
            if self.ctx.news is not None:
                self.ctx.news.fail(
                    f"{type(error).__name__}: {str(error)[:300]}, in {_place(self.ctx)}"
                )
            self._let_be_freed(error)
            raise
        finally:
            self.ctx.rest()
        return self

    def steps(self) -> Steps:
        """The same walk, one transition at a time; signals are left alone."""
        _refuse_inference()
        self._refuse_if_under_way()
        self._begin()
        at, self.at = self.at, None
        return self.machine.steps(self.ctx, at=at)

    def stop(self, reason: str = "stopped") -> None:
        """Asks the run to stop at the next loop head; it then ends in order, with this reason.

        It may be called from another thread, a signal handler or a hook, and before the run has
        begun: it stops at its first loop head then.

        Args:
            reason: why; it becomes the outcome's. The first reason stays.
        """
        self.ctx.request_stop(reason)

    def _begin(self) -> None:
        """Claims the callbacks, and sees that a request to stop is over when the run is."""
        self.ctx.defer(self._forget_request)
        self.ctx.machine = self.machine
        claim(self.ctx)

    def _let_be_freed(self, error: BaseException) -> None:
        """Keeps a bare copy of an error, so that all is freed as soon as the error is released.

        The error has this run, and the run would have the error: only Python's garbage collector
        would free model and batch, some time later, and what is tried next might have no memory.
        """
        if self.ctx.error is error:
            self.ctx.error = _without_traceback(error)
        outcome = self.ctx.outcome
        if isinstance(outcome, Failed) and outcome.error is error:
            self.ctx.outcome = evolve(outcome, error=_without_traceback(error))

    def _forget_request(self) -> None:
        self.ctx.stop = None

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process there is a record of it, which an error can carry."""
        rows = tuple(dict(row) for row in self.history.rows)
        return RunRecord, (self.lifecycle.name, repr(self.outcome), rows)

    def resume(
        self, source: str | int = "last", allow_changes: bool | str | Collection[str] = ()
    ) -> Run:
        """Goes back to a checkpoint and on from there, as after an interrupt in a notebook.

        Args:
            source: "last", "best", a step or a path, as in `fit(resume=...)`.
            allow_changes: as in `fit`.

        Returns:
            This run.

        Raises:
            ConfigError: nothing says where checkpoints are: there is no `Checkpoint`, and no path.
            CheckpointError: there is no checkpoint, none is whole, or the run has changed.
            BaseException: as `walk`.
        """
        from statetrain.callbacks.checkpointing.finding import find
        from statetrain.checkpoints.restoring import restore

        self._refuse_if_under_way()
        found = find(source, self.machine.callbacks)
        if found is None:
            raise CheckpointError(f"there is no checkpoint to go back to: resume={source!r}")
        restore(self.ctx, self.machine, found, allow_changes)
        self.at, found = found["state"], None  # frees the memory of its tensors during the run
        return self.walk()

    def fork(self, at: str | int | os.PathLike[str] = "last", **changes: Any) -> Run:
        """Trains copies on from one of this run's checkpoints, as several cool-downs of one trunk.

            for step in (1000, 2000):
                run.fork(step, epochs=None, max_steps=step + 200, callbacks=[cool_down(step)])

        The fork is what `fit` gives with this run's arguments and the changes: the same data and
        seed, the weights, counters and history of the checkpoint. This run and its checkpoints stay
        as they are. The callbacks are those in `changes` alone; where one has a counterpart in this
        run, it continues with its state.

        Args:
            at: the number of a step that was saved, "last" or "best"; or the path of a checkpoint.
            changes: arguments of `fit`, such as `lifecycle`, `epochs`, `callbacks` or `opt_hparams`
                (with `allow_changes="optimizer"`). Callbacks and lifecycle are allowed to differ
                unless `allow_changes` is given.

        Returns:
            The new run.

        Raises:
            ConfigError: `fit` did not make this run, several ranks train it, or there is no such
                checkpoint.
            CheckpointError: something else than is allowed differs.
            BaseException: as `fit`.
        """
        from statetrain.training.forking import fork

        self._refuse_custom("fork")
        return fork(self, at, changes)

    def _refuse_if_under_way(self) -> None:
        if self.ctx.state is not None and self.ctx.outcome is None:
            raise MachineError(
                f"this run is under way, in state {self.ctx.state!r}; let it end first"
            )

    def _refuse_custom(self, name: str) -> None:
        if not isinstance(self.ctx, Context):
            raise ConfigError(
                f"run.{name} is for runs of fit; this one has a context of its own, a"
                f" {type(self.ctx).__name__}: use run.ctx"
            )

    def evaluate(self, data: Any, **options: Any) -> dict[str, Any]:
        """Losses and metrics on other data; see `statetrain.evaluate`."""
        from statetrain.training.evaluating import evaluate

        self._refuse_custom("evaluate")

        return evaluate(self, data, **options)

    def predict(self, data: Any, **options: Any) -> Any:
        """Predictions on other data; see `statetrain.predict`."""
        from statetrain.training.predicting import predict

        self._refuse_custom("predict")

        return predict(self, data, **options)

    def plot(self, metrics: str | list[str] | None = None, *, x: str = "epoch") -> Any:
        """The curves of the history as a matplotlib figure.

        See `statetrain.report.plotting.plot`.
        """
        from statetrain.report.plotting import plot

        return plot(self.history, metrics, x=x)

    def __repr__(self) -> str:
        last = {name: value for name, value in self.history.last.items() if "loss" in name}
        numbers = "".join(
            f", {name}={value:.4g}" for name, value in last.items() if isinstance(value, float)
        )
        return f"<Run {self.lifecycle.name!r}: {self.outcome!r}, {len(self.history)} rows{numbers}>"

    def __str__(self) -> str:
        counted = ""
        if hasattr(self.ctx, "step"):
            counted = f"{self.ctx.step} steps and "
        seconds = f"{self.ctx.seconds:.1f} s"
        return f"{self.outcome!r} after {counted}{seconds}\n\n{self.history.text(_SHOWN)}"


def _without_traceback(error: BaseException) -> BaseException:
    """A copy of an error with its notes; the error itself if it cannot be copied."""
    try:
        bare = copy.copy(error)
    except Exception:  # a class of the user's may take other arguments than it keeps
        return error
    if type(bare) is not type(error):
        return error
    bare.__dict__.pop("run", None)
    return bare


def _place(ctx: Context) -> str:
    """Where a run is, for the other ranks."""
    state = ctx.outcome.state if isinstance(ctx.outcome, Failed) else ctx.state
    if not isinstance(ctx, Context):
        return repr(state)
    return f"{state!r} of epoch {ctx.epoch}, batch {ctx.iter}"


def _refuse_inference() -> None:
    """Raises a `MachineError` where torch would compute no gradients whatever is asked for."""
    if torch.is_inference_mode_enabled():
        raise MachineError(
            "a run inside torch.inference_mode() cannot compute gradients; start it outside, or in"
            " `with torch.inference_mode(False):`"
        )
