"""fork: a run that continues from a checkpoint of another one, on copies."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from statetrain.callback import unwrapped
from statetrain.callbacks.checkpoint import Checkpoint
from statetrain.checkpoints.optimizers import set_settings
from statetrain.compute.copying import computed_in
from statetrain.errors import ConfigError
from statetrain.standard.options import FitOptions
from statetrain.training.fitting import fit
from statetrain.training.run import Run

_TRAINED = ("model", "loss", "optimizer", "metrics", "train_metrics", "valid_metrics")
_OF_THE_TABLE = FitOptions.__annotations__.keys() - {"precision"}


def fork(run: Run, at: str | int | os.PathLike[str], changes: Mapping[str, Any]) -> Run:
    """Trains on from a checkpoint of a run; see `Run.fork`."""
    if not run.ctx.arguments or run.ctx.news is not None:
        raise ConfigError(
            "fork takes a run that fit made in one process and that is not cleaned; otherwise, call"
            " fit again with resume= and allow_changes="
        )
    if "resume" in changes:
        raise ConfigError("fork goes on from the checkpoint that at= names; leave resume= out")
    given = {**run.ctx.arguments, "callbacks": (), "trace": False, "start": True}
    if changes.get("lifecycle") is not None:  # it has these options in it
        given = {name: value for name, value in given.items() if name not in _OF_THE_TABLE}
    trained = {name: given[name] for name in _TRAINED if name not in changes}
    given |= copy.deepcopy(trained, computed_in(*trained.values()))
    given |= {"allow_changes": ("callbacks", "lifecycle"), **changes, "resume": _path(run, at)}
    _put_settings_back(run, given["optimizer"])
    return fit(**given)


def _put_settings_back(run: Run, optimizers: Any) -> None:
    """Gives copies of optimizers the settings that these had when the run was made."""
    if not isinstance(optimizers, Mapping):
        optimizers = dict.fromkeys(run.ctx.optimizers, optimizers)
    for name, optimizer in optimizers.items():
        if isinstance(optimizer, Optimizer):
            groups = run.ctx.opt_given[name]["groups"]
            for group, settings in zip(optimizer.param_groups, groups, strict=False):
                set_settings(group, {key: settings[key] for key in settings.keys() & group.keys()})


def _path(run: Run, at: str | int | os.PathLike[str]) -> str | os.PathLike[str]:
    """Where a checkpoint of a run is."""
    if isinstance(at, int):
        name = f"step-{at}"
    elif at in ("last", "best"):
        name = str(at)
    else:
        return at
    for one in map(unwrapped, run.machine.callbacks):
        if isinstance(one, Checkpoint):
            return one.folder / name
    raise ConfigError(f"fork(at={at!r}): this run has no Checkpoint; give the path of a checkpoint")
