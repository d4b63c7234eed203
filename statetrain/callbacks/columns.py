"""Columns: what sources give, as columns of the history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statetrain.callback import Callback
from statetrain.errors import ConfigError

if TYPE_CHECKING:
    from statetrain.context.context import Context


class Columns(Callback):
    """Adds what sources give to the rows of the history.

        st.fit(..., callbacks=st.Columns(st.LearningRate(), st.GradientNorm(), st.Memory()))

    So it is in `run.history`, in the frame, in plots and reports, and where the history is logged;
    a guard may monitor it. The norm of the gradients is computed in each step, and the row has its
    mean over the steps since the row before; the others are asked when a row is written.

    Args:
        sources: `LearningRate()`, `GradientNorm()`, `Throughput()`, `Memory()`, or your own: a
            function of the context that gives values by name, with an attribute `columns` that has
            these names.

    Raises:
        ConfigError: there is none, or one is no such source.
    """

    def __init__(self, *sources: Any) -> None:
        if not sources:
            raise ConfigError("Columns has nothing to add; write Columns(GradientNorm())")
        for source in sources:
            if isinstance(source, type) or not callable(source) or not hasattr(source, "columns"):
                raise ConfigError(
                    "Columns takes sources that say which columns they give, such as"
                    f" GradientNorm(), got {source!r}; a function declares it with an attribute:"
                    " function.columns = ('name',)"
                )
        self.sources = sources
        self._of_steps = [one for one in sources if getattr(one, "of_step", False)]
        self._of_rows = [one for one in sources if one not in self._of_steps]
        self.reads = {"on_enter_record": ("row_due", "epoch", *_fields(self._of_rows))}
        self.writes = {"on_enter_record": _columns(self._of_rows)}
        if self._of_steps:  # else a step costs nothing
            self.on_exit_step = self._step
            self.reads["on_exit_step"] = _fields(self._of_steps)
            self.writes["on_exit_step"] = _columns(self._of_steps)

    def _step(self, ctx: Context) -> None:
        """Adds values to their means; a step that was left by an event was not made."""
        if ctx.transition.event is not None:
            return
        for source in self._of_steps:
            for name, value in source(ctx).items():
                ctx.log_mean(name, value, set="", weight=1)

    def on_enter_record(self, ctx: Context) -> None:
        """Adds the others, if there will be a row of the training."""
        if not (ctx.row_due and ctx.epoch):
            return
        for source in self._of_rows:
            for name, value in source(ctx).items():
                ctx.log_metric(name, value, set="")

    def __repr__(self) -> str:
        return f"Columns({', '.join(map(repr, self.sources))})"


def _fields(sources: list[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for one in sources for name in getattr(one, "reads", ())))


def _columns(sources: list[Any]) -> tuple[str, ...]:
    return tuple(f"history.{name}" for one in sources for name in one.columns)
