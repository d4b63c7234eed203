"""try_out: a whole run on a few batches, on copies, of which nothing is left on disk."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import torch

from statetrain.callback import Callback
from statetrain.compute.copying import computed_in
from statetrain.errors import ConfigError
from statetrain.guards.counters import Every
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.standard.evaluations import Evaluation
from statetrain.standard.limiting import limit
from statetrain.standard.options import edits_of
from statetrain.training.fitting import fit
from statetrain.training.lr_finder import generators_kept
from statetrain.training.run import Run
from statetrain.training.setup.calling import listeners
from statetrain.training.setup.data import evaluations_of
from statetrain.validators import check_whole

_ITS_OWN = ("allow_changes", "epochs", "resume", "validate")


def try_out(
    model: torch.nn.Module | type[torch.nn.Module],
    train: Any,
    *,
    batches: int = 2,
    **arguments: Any,
) -> Run:
    """Trains for one epoch of a few batches, to see whether a run will complete.

        st.try_out(model, train, valid=valid, loss=loss, optimizer=Adam, callbacks=callbacks)

    Everything that a run does is done once, on so many batches of each set: training, validation,
    each evaluation, all hooks, a checkpoint. It is done on copies, so that model, optimizer, loss,
    callbacks and generators are afterwards as they were before. The callbacks of this package write
    into a temporary folder, which is removed; your own do if they have `Callback.redirect`.

    Args:
        model, train: as in `fit`.
        batches: of each set, at least 1; with `accumulate`, as many windows.
        arguments: all others of `fit`, as for the run itself. It is one epoch from the beginning
            with each evaluation once, so `epochs`, `validate` and `resume` do not count here.

    Returns:
        The run of the copies: outcome, history.

    Raises:
        ConfigError: the arguments cannot make a run.
        BaseException: what the run raised, as `fit`.
    """
    check_whole("try_out: batches", batches)
    if "start" in arguments:
        raise ConfigError("try_out trains at once; leave start out")
    for name in _ITS_OWN:
        arguments.pop(name, None)
    callbacks = listeners(arguments.pop("callbacks", ()), arguments.pop("trace", False))
    made = ("optimizer", "loss", "metrics", "train_metrics", "valid_metrics")
    given = {name: arguments.pop(name, None) for name in made}
    model, given, callbacks = copy.deepcopy((model, given, callbacks), computed_in(model))
    few = _few(batches, batches * arguments.get("accumulate", 1))
    if arguments.get("lifecycle") is not None:
        arguments["lifecycle"] = few(arguments["lifecycle"])
    else:
        arguments["edits"] = (*edits_of(arguments.get("edits", ())), few)
        if arguments.get("valid") is not None:
            arguments["validate"] = Every(1, "epochs")
    arguments["evaluations"] = list(
        map(_each_epoch, evaluations_of(arguments.get("evaluations", ())))
    )
    with (
        generators_kept(train, arguments.get("device", "auto")),
        tempfile.TemporaryDirectory(prefix="statetrain-") as folder,
    ):
        _redirect(callbacks, Path(folder))
        return fit(model, train, **given, callbacks=callbacks, epochs=1, **arguments)


def _few(batches: int, drawn: int) -> Callable[[Lifecycle], Lifecycle]:
    def few(life: Lifecycle) -> Lifecycle:
        """A lifecycle with a few batches of whatever it goes through."""
        life = limit(train=drawn)(life)
        if life.by_role("next_valid_batch"):
            life = limit(valid=batches)(life)
        return life

    return few


def _each_epoch(evaluation: Evaluation) -> Evaluation:
    if evaluation.when == "end":
        return evaluation
    return attrs.evolve(evaluation, when=Every(1, "epochs"))


def _redirect(callbacks: Iterable[Callback], folder: Path) -> None:
    for i, callback in enumerate(callbacks):
        if isinstance(callback, Callback):  # the machine refuses others
            own = folder / str(i)
            own.mkdir()
            callback.redirect(own)
