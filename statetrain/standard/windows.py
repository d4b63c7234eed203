"""whole_windows: with accumulation, a last window that is short makes no step."""

from __future__ import annotations

from attrs import field, frozen

from statetrain.context.context import Context
from statetrain.errors import ConfigError
from statetrain.guards.base import Guard
from statetrain.guards.batch import Accumulating
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.transition import Transition
from statetrain.standard import actions as do
from statetrain.validators import whole


@frozen
class ShortWindow(Guard):
    """True when the window that has come to its end has fewer than `n` batches.

    Args:
        n: batches in a whole window, at least 1.
    """

    n: int = field(validator=whole)

    reads = frozenset({"pending"})
    agree = "all"

    @property
    def label(self) -> str:
        return f"window shorter than {self.n} batches"

    def test(self, ctx: Context) -> bool:
        return bool(ctx.pending < self.n)


def whole_windows(life: Lifecycle) -> Lifecycle:
    """An edit: with accumulation, a step is made of a whole window; a short last one is dropped.

        st.fit(model, data, ..., accumulate=4, edits=st.whole_windows)

    Of ten batches in windows of four, the last two then make no step; their losses and metrics
    count in the row, as those of all batches. Without the edit they make a step by their own mean.

    Args:
        life: a lifecycle that accumulates.

    Raises:
        ConfigError: it does not.
    """
    arrows = [arrow for arrow in life.transitions if isinstance(arrow.guard, Accumulating)]
    if not arrows:
        raise ConfigError(
            f"whole_windows: lifecycle {life.name!r} accumulates nothing; give accumulate="
        )
    for arrow in arrows:
        assert isinstance(arrow.guard, Accumulating)
        short = ShortWindow(arrow.guard.n)
        life = life.add(Transition(arrow.source, arrow.dest, short, do.discard_window))
    return life
