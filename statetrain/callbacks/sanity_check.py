"""SanityCheck: the usual mistakes, looked for before the first batch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from statetrain.callback import Callback
from statetrain.errors import ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.naming import did_you_mean
from statetrain.sanity import CHECKS, problems
from statetrain.sanity.probe import Check
from statetrain.validators import check_word

if TYPE_CHECKING:
    from statetrain.context.context import Context

Level = Literal["warn", "raise"]

log = logging.getLogger("statetrain")


class SanityCheck(Callback):
    """Looks for the usual mistakes before anything is trained, and says how to mend them.

    It takes one batch through a copy of the model, its losses and its optimizers: can it be read,
    do model and loss fit, are labels in range and values finite, does every parameter get a
    gradient, does a step lower the loss? And it looks at what is there: is the data shuffled and
    the validation apart, does the optimizer have all parameters? `statetrain.sanity` has the list.
    The run is the same with it and without it, to the last bit; for a moment there is memory needed
    for a second model. Data that could not be looked at without moving it, such as a bare iterator,
    is left alone.

    A lifecycle that does not have the states `pred` and `loss`, as with `compute=`, is looked at
    without computing.

    Args:
        then: what problems lead to: "warn" writes them to the log `statetrain`, "raise" ends the
            run before it begins, with a `ConfigError`. A mapping says which for each check by its
            name, such as `{"labels_in_range": "raise"}`; those that it leaves out warn.
        more: your own checks, called after the others: functions of a `statetrain.sanity.Probe`
            that return None, or what is wrong.
        without: the names of checks that are left out.

    Attributes:
        problems: what was found, by the names of the checks.

    Raises:
        ConfigError: the arguments are none of these; when a fit begins, that problems were found.
    """

    anywhere = True
    reads = ("model", "loss_fns", "optimizers", "train_data", "valid_data")
    writes = ()

    def __init__(
        self,
        then: Level | Mapping[str, Level] = "warn",
        *,
        more: Iterable[Check] = (),
        without: str | Iterable[str] = (),
    ) -> None:
        own = tuple(more)
        _check_functions(own)
        left_out = set(without)
        if isinstance(without, str):
            left_out = {without}
        known = [check.__name__ for check in (*CHECKS, *own)]
        levels = dict.fromkeys(known, then)
        if isinstance(then, Mapping):
            levels = dict(then)
        _check_known((*left_out, *levels), known)
        for level in levels.values():
            check_word("SanityCheck: then", level, get_args(Level))
        self.then = then
        self.checks = (*(check for check in CHECKS if check.__name__ not in left_out), *own)
        self._levels = levels
        self.problems: dict[str, str] = {}
        self._lifecycle: Lifecycle | None = None

    def check_lifecycle(self, lifecycle: Lifecycle) -> None:
        """Notes what is to be walked."""
        self._lifecycle = lifecycle

    def check_context(self, ctx: Context) -> None:
        """Looks, before anything runs."""
        self.problems = problems(ctx, self._lifecycle, self.checks)
        if not self.problems:
            return
        lines = [f"  {name}: {found}" for name, found in self.problems.items()]
        words = (
            f"sanity check: {len(lines)} of {len(self.checks)} checks found a problem\n"
            + "\n".join(lines)
        )
        if any(self._levels.get(name) == "raise" for name in self.problems):
            raise ConfigError(
                f"{words}\nSanityCheck(without=...) omits a check, SanityCheck('warn') only warns"
            )
        log.warning("%s", words)

    def __repr__(self) -> str:
        return f"SanityCheck({self.then!r})"


def _check_functions(checks: Iterable[Any]) -> None:
    for check in checks:
        if not callable(check) or not hasattr(check, "__name__"):
            raise ConfigError(f"SanityCheck: a check is a function of a Probe, got {check!r}")


def _check_known(names: Iterable[str], known: list[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"SanityCheck: there is no check {name!r}{did_you_mean(name, known)}")
