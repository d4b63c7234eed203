"""An evaluation with a name: other data that a fit looks at, at its own times."""

from __future__ import annotations

from typing import Any

from attrs import Attribute, field, frozen

from statetrain.errors import ConfigError
from statetrain.guards.base import Guard, as_guard
from statetrain.guards.counters import Every
from statetrain.losses.metrics import Metrics
from statetrain.standard.options import When


def _word(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not value.isidentifier():
        raise ConfigError(
            "an evaluation's name begins the names of its states and columns, so it is a word such"
            f" as 'test', got {value!r}"
        )


def _condition(value: Any) -> When:
    if value == "end":
        return "end"
    if isinstance(value, str | int | float):
        raise ConfigError(
            'an evaluation is made when a guard holds, such as Every(2, "epochs") or Once(500,'
            f" \"steps\"), or at the 'end', got {value!r}"
        )
    return as_guard(value)


@frozen(eq=False)
class Evaluation:
    """Other data to evaluate on during a fit, with columns `<name>_loss` and `<name>_<metric>`.

    In the lifecycle it is a scope of its own, made as `valid` is: `<name>`, `next_<name>_batch`,
    `<name>_draw`, ... with hooks `on_enter_<name>` and so on. It takes no part in whether an epoch
    is complete, and with `fit(..., seed=...)` the training is what it is without; without a seed,
    its loader draws from the generators that all share, as the validation's does.

    Args:
        name: a word such as "test".
        data: as in `fit`.
        when: an interval, `Every(2, "epochs")` or `Every(100, "steps")`; `Once(500, "steps")`; any
            other guard, which is asked at the end of each epoch, and inside it if it is prompt
            (`@guard(prompt=True)`); or "end": once, before the run
            ends, unless it is interrupted or fails, or `StopFit` is raised between two epochs. At
            the end of an epoch it follows the validation, and its values are in the same row. At
            the "end" it looks at the weights that the run ends with, such as those that `KeepBest`
            or `EMA(restore=True)` put back, in the scope `ending`.
        loss: in place of the run's, such as a plain one for a training with smoothed labels, or one
            for data of another kind; None is the run's. For one optimizer.
        metrics: in place of those that `fit` is given for all sets; None is these.

    Raises:
        ConfigError: the name is no word, or the condition is none.
    """

    name: str = field(validator=_word)
    data: Any
    when: Guard | str = field(default=Every(1, "epochs"), converter=_condition)
    loss: Any = field(default=None, kw_only=True)
    metrics: Metrics = field(default=None, kw_only=True)
