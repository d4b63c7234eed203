"""How a run is called: its arguments that belong to no other stage."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import torch
from attrs import frozen

from statetrain.callback import Callback
from statetrain.errors import ConfigError
from statetrain.machine.machine import check_engine
from statetrain.naming import did_you_mean
from statetrain.standard.options import FitArguments
from statetrain.training.setup.words import ELSEWHERE
from statetrain.validators import check_switches, check_word, is_whole_number


@frozen
class Epochs:
    """How many epochs a fit makes.

    Attributes:
        least: epochs before which `stop` is not asked.
        most: a whole number, or infinity.
    """

    least: int
    most: float


def check_call(
    others: tuple[Any, ...],
    epochs: Any,
    options: Mapping[str, Any],
    seed: Any,
    on_interrupt: Any,
    **switches: Any,
) -> Epochs:
    """Checks the arguments that say how a run is called, and gives how many epochs it makes.

    Args:
        others: what was given without a name after the model and the data.
        epochs, seed, on_interrupt: as `fit` takes them.
        options: of the lifecycle.
        switches: by name, what is True or False.

    Raises:
        TypeError: there is no such option, or it has no name.
        ConfigError: one is out of range.
        MachineError: there is no such engine.
    """
    if others:
        raise TypeError(
            "fit takes a model and the training data, and all else by name; inputs and targets are"
            " one argument: fit(model, (inputs, targets), loss=..., optimizer=...)"
        )
    check_switches("", **switches)
    _check_names(options)
    check_word("on_interrupt", on_interrupt, ("return", "raise", "exit"))
    check_engine(options.get("engine", "table"))
    _check_seed(seed)
    return epochs_of(epochs, options)


def _check_names(options: Mapping[str, Any]) -> None:
    known = FitArguments.__annotations__
    for name in options:
        if name not in known and name in ELSEWHERE:
            raise TypeError(f"fit() has no argument {name!r}; write {ELSEWHERE[name]}")
        if name not in known:
            raise TypeError(f"fit() has no argument {name!r}{did_you_mean(name, _arguments())}")


@cache
def _arguments() -> tuple[str, ...]:
    """The names of all arguments of `fit`."""
    from statetrain.training.fitting import fit  # of the page that calls this one

    return (*inspect.signature(fit).parameters, *FitArguments.__annotations__)


def arguments_in(scope: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that `fit` was given, by name, out of all its variables."""
    given = {name: scope[name] for name in _arguments() if name in scope}
    del given["others"], given["options"]
    return {**given, **scope["options"]}


def _check_seed(seed: Any) -> None:
    """Raises a `ConfigError` unless it is a seed, or None."""
    if seed is None:
        return
    if not is_whole_number(seed, 0) or seed >= 2**63:
        raise ConfigError(f"seed must be a whole number from 0 to 2**63 - 1, or None, got {seed!r}")


def listeners(callbacks: Any, trace: Any = False) -> tuple[Callback, ...]:
    """Callbacks that were given as one or as several, and what records a trace if one is wanted.

    Args:
        callbacks: as `fit` takes them.
        trace: whether to record; or the path of a file to record to.

    Raises:
        ConfigError: one is a schedule of torch, or `trace` is neither.
    """
    found = (callbacks,)
    if not isinstance(callbacks, Callback | type) and isinstance(callbacks, Iterable):
        found = tuple(callbacks)
    for one in found:
        refuse_schedule(one, "callbacks")
    return _with_tracing(found, trace)


def refuse_schedule(given: Any, argument: str) -> None:
    """Raises a `ConfigError` for a schedule of torch, which a callback makes and steps."""
    kind = given if isinstance(given, type) else type(given)
    if issubclass(kind, torch.optim.lr_scheduler.LRScheduler):
        name = kind.__name__
        raise ConfigError(
            f"{argument} got {name}, a schedule of torch; give"
            f" callbacks=[LRScheduler(torch.optim.lr_scheduler.{name}, ...)], which makes it with"
            " these arguments and steps it"
        )


def _with_tracing(callbacks: tuple[Callback, ...], trace: Any) -> tuple[Callback, ...]:
    if trace is False:
        return callbacks
    if trace is not True and not isinstance(trace, str | os.PathLike):
        raise ConfigError(
            f"trace must be True, False or the path of a file, got {trace!r:.80}; a Tracing goes to"
            " callbacks="
        )
    from statetrain.trace import Tracing

    return (*callbacks, Tracing(file=None if trace is True else trace))


def epochs_of(epochs: Any, options: Mapping[str, Any]) -> Epochs:
    """The number of epochs as `fit` takes it.

    Args:
        epochs: a number, `(least, most)`, or None for no limit.
        options: of the lifecycle, in which there may be another end.

    Raises:
        ConfigError: it is neither, or there is no end.
    """
    if epochs is None:
        if options.get("max_steps") is None and options.get("stop") is None:
            raise ConfigError(
                "epochs=None has no end; give max_steps= or stop=, or a number of epochs"
            )
        return Epochs(0, math.inf)
    pair = epochs if isinstance(epochs, tuple) else (0, epochs)
    if len(pair) != 2 or not all(is_whole_number(number, 0) for number in pair):
        raise ConfigError(
            f"epochs must be a whole number of at least 0, or (least, most), got {epochs!r}"
        )
    if pair[0] > pair[1]:
        raise ConfigError(
            f"epochs=({pair[0]}, {pair[1]}): the least number is above the most; write (least,"
            " most)"
        )
    return Epochs(*pair)
