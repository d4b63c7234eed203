"""Optuna's pruning: a guard ends a trial that is not worth finishing, with its own outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from attrs import frozen

from statetrain.callback import Callback
from statetrain.errors import ConfigError
from statetrain.guards.base import Guard
from statetrain.outcome import Stopped

if TYPE_CHECKING:
    from statetrain.context.context import Context
    from statetrain.training.run import Run


class OptunaTrial(Protocol):
    """What is needed of an `optuna.Trial`."""

    @property
    def number(self) -> int:
        """Counted from 0 in its study."""

    def report(self, value: float, step: int) -> None:
        """Takes an intermediate value."""

    def should_prune(self) -> bool:
        """Whether the study's pruner would end the trial."""


@frozen(eq=False)
class TrialPruned(Guard):
    """True when the study's pruner ends a trial.

    Args:
        trial: of Optuna.
        monitor: the column that it is judged by.
    """

    trial: OptunaTrial
    monitor: str

    @property
    def label(self) -> str:
        """It names the column, and not the trial: the table is the same for all trials."""
        return f"{self.monitor} is not worth going on"

    @property
    def reads(self) -> frozenset[str]:
        """The history: a pruner is asked once a row."""
        return frozenset({"history"})

    @property
    def monitors(self) -> tuple[str, ...]:
        """The column."""
        return (self.monitor,)

    def test(self, ctx: Context) -> bool:
        return bool(ctx.fit_rows()) and bool(self.trial.should_prune())

    def reason(self, ctx: Context) -> str:
        """It names the trial."""
        return f"trial {self.trial.number} was pruned by its {self.monitor}"


class Pruning(Callback):
    """Reports a column to a trial of Optuna, and ends the run when the study's pruner decides to.

        def objective(trial):
            pruning = Pruning(trial, "valid_loss")
            run = fit(..., stop=pruning.guard, callbacks=[pruning])
            return pruning.value(run)

    Args:
        trial: of Optuna.
        monitor: the column of the history that the study minimises or maximises.
    """

    def __init__(self, trial: OptunaTrial, monitor: str) -> None:
        if not hasattr(trial, "should_prune"):
            raise ConfigError(
                f"Pruning takes the trial that Optuna gives to an objective, got {trial!r:.80}"
            )
        self.trial = trial
        self.monitor = monitor
        self.guard = TrialPruned(trial, monitor)

    def on_exit_record(self, ctx: Context) -> None:
        """Reports the new row's value, by its epoch."""
        rows = ctx.fit_rows()
        if rows and self.monitor in rows[-1]:
            self.trial.report(float(rows[-1][self.monitor]), int(rows[-1]["epoch"]))

    def value(self, run: Run) -> float:
        """The run's last value of the column, for the study.

        Raises:
            optuna.TrialPruned: the run ended because the trial was pruned.
        """
        outcome: Any = run.outcome
        if isinstance(outcome, Stopped) and outcome.reason == self.guard.reason(run.ctx):
            import optuna

            raise optuna.TrialPruned(outcome.reason)
        return float(run.history[self.monitor][-1])
