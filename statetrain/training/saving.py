"""Saving a finished run, or weights alone, in one file.

Loading it runs no code that is in the file.

The files are in the safetensors format, whose header holds what is no tensor, as JSON. There is no
pickle and no name that becomes code, so a file cannot say which class to make: the reader
provides the model. (To resume a run, there is the callback `Checkpoint` and
`fit(..., resume=...)`.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen

from statetrain import jsons
from statetrain.checkpoints import checkpoint, directory, plain, rowlog, tensorfile
from statetrain.checkpoints.frozen import compare_frozen, left_out_of
from statetrain.checkpoints.partial import choose_weights, read_weights
from statetrain.checkpoints.weightsfile import frozen_unless_all, write_tensors, write_weights
from statetrain.compute.parts import class_of, part_like
from statetrain.compute.weights import put_weights
from statetrain.context.history import History
from statetrain.errors import CheckpointError, ConfigError
from statetrain.losses.losses import modules_by_name
from statetrain.outcome import Outcome, as_data, from_data
from statetrain.training.run import Run
from statetrain.validators import check_switches, local_path

_KEY = "statetrain"  # of the text in the header
_FORMAT = 4

AnyPath = str | os.PathLike[str]


@frozen(repr=False, eq=False)
class SavedRun:
    """What `save` has kept of a run.

    Attributes:
        model: the name of the model's class.
        weights: the model's state, on the CPU.
        losses: those of losses that are modules, by the optimizer's name, and that of the loss if
            there are several: "opt", "opt.label".
        history: its rows.
        records: what was logged in addition to the history, by name.
        hparams, opt_hparams: what model and optimizers were made with; as text where that is more
            than plain data.
        outcome: how the run ended; None if it has not. The error of a failed one says what it was.
    """

    model: str
    weights: Mapping[str, Any]
    losses: Mapping[str, Mapping[str, Any]]
    history: History
    records: Mapping[str, list[Any]]
    hparams: Mapping[str, Any]
    opt_hparams: Mapping[str, Any]
    outcome: Outcome | None

    def restore(
        self, model: torch.nn.Module | Callable[..., torch.nn.Module], *, loss: Any = None
    ) -> torch.nn.Module:
        """Puts the weights into a model, for `evaluate` and `predict`.

        Args:
            model: one like the run's; or its class or a function, called with the saved `hparams`.
            loss: a loss like the run's, whose modules get their weights, too; of several
                optimizers, a mapping by their names.

        Returns:
            The model.

        Raises:
            CheckpointError: the weights are another model's, or another loss's.
        """
        made = model if isinstance(model, torch.nn.Module) else model(**self.hparams)
        modules = modules_by_name(loss if isinstance(loss, Mapping) else {"opt": loss})
        for name, module in modules.items():
            if name not in self.losses:
                known = ", ".join(map(repr, self.losses)) or "no loss"
                raise CheckpointError(
                    f"the file has no weights of the loss {name!r}; it has {known}"
                )
            _check(module, self.losses[name])
        _put(made, self.weights)
        for name, module in modules.items():
            _put(module, self.losses[name])
        return made

    def _repr_html_(self) -> str:
        from statetrain.notebook import badge

        ended = badge("unfinished", "", "")
        if self.outcome is not None:
            ended = self.outcome._repr_html_()
        return f"{ended}{self.history._repr_html_()}"

    def __repr__(self) -> str:
        return f"<SavedRun of {self.model}: {self.outcome!r}, {len(self.history)} rows>"


def save(run: Run, path: AnyPath) -> None:
    """Saves what a run has come to: weights, history, records, hyperparameters and outcome.

    Where ranks hold parts of the weights, all ranks call it, and rank 0 writes.

    Args:
        run: what `fit` returned.
        path: of the file, such as "digits.safetensors"; it is replaced when the new one is
            complete. Folders are made.

    Raises:
        ConfigError: it is no run.
        CheckpointError: something in it cannot be saved; the message says where.
        OSError: the file cannot be written.
    """
    if not isinstance(run, Run):
        raise ConfigError(
            f"save takes the run that fit returned, got {run!r:.80}; for a model alone, use"
            " save_weights"
        )
    about = {
        "format": _FORMAT,
        "model": class_of(run.model).__name__,
        "outcome": as_data(run.outcome),
    }
    losses = {name: loss.state_dict() for name, loss in modules_by_name(run.ctx.loss_fns).items()}
    state = run.ctx.state_dict()
    log = rowlog.as_tensor(rowlog.encode(state.pop("history"), state.pop("records")))
    structure, tensors = plain.encode({**about, **state, "losses": losses, "log": log})
    write_tensors(local_path("save", path), tensors, {_KEY: jsons.dumps(structure)})


def load(path: AnyPath) -> SavedRun:
    """Reads what `save` wrote.

    Raises:
        CheckpointError: it is not sound, or no saved run.
        OSError: it cannot be read.
    """
    tensors, texts = tensorfile.read(local_path("load", path))
    if _KEY not in texts:
        raise CheckpointError(
            f"{Path(path).name} holds no run; for weights alone, use load_weights(model, path)"
        )
    try:
        data = plain.decode(jsons.loads(texts[_KEY]), tensors)
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']!r:.20}, where this version reads {_FORMAT}")
        rows, records = rowlog.decode(bytes(data["log"].numpy()))
        history = History(rows, tuple(data["optimizers"]), tuple(data["sets"]))
        return SavedRun(
            data["model"],
            data["weights"],
            data["losses"],
            history,
            records,
            data["hparams"],
            data["opt_hparams"],
            data["outcome"] and from_data(data["outcome"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, CheckpointError) as error:
        raise CheckpointError(f"{Path(path).name} is no sound run: {error}") from error


def save_weights(
    model: Run | torch.nn.Module, path: AnyPath, *, trained_only: bool = False
) -> None:
    """Saves a model's weights under their own names, for any tool that reads safetensors.

    Where ranks hold parts of them, all ranks call it, and rank 0 writes.

    Args:
        model: a run, or a module.
        path: of the file; it is replaced when the new one is complete. Folders are made.
        trained_only: whether parameters that require no gradient now are left out, as for adapters
            on a frozen model. Buffers are saved. `load_weights(..., strict=False)` puts them into a
            model that has the others.

    Raises:
        ConfigError: `trained_only` is neither True nor False.
        CheckpointError: the model's state has parts that are no tensors, or only trained ones are
            wanted and there are none.
        OSError: the file cannot be written.
    """
    check_switches("save_weights", trained_only=trained_only)
    module = _module_of(model)
    left_out: set[str] = set()
    if trained_only:
        left_out = frozen_unless_all(module)
    write_weights(local_path("save_weights", path), module, left_out)


def load_weights(
    model: Run | torch.nn.Module,
    path: AnyPath,
    *,
    part: str | None = None,
    rename: Mapping[str, str] | None = None,
    exclude: str | Sequence[str] = (),
    strict: bool = True,
) -> None:
    """Puts weights into a model, in place.

        load_weights(model, "lightning.ckpt", rename={"model.": ""})

    Args:
        model: a run, or a module.
        path: a file that `save_weights`, `save` or another tool wrote: safetensors, or one of
            `torch.save` with tensors by name, or with a mapping in which these are among other
            things. It is read with `weights_only=True`.
        part: the key of the weights in such a mapping, if several are in it.
        rename: beginnings of names in the file and what the model has instead, such as
            `{"encoder.": "backbone."}`; of several that fit, the longest.
        exclude: patterns of names in the file that are left out, such as `"head.*"`.
        strict: whether the model and the chosen weights must have the same names. False loads what
            both have; it has to be something, and shapes have to fit.

    Raises:
        ConfigError: a part of `rename` or `exclude` fits no name.
        CheckpointError: the file is not sound, or the weights are another model's, which stays as
            it was.
    """
    tensors, texts = read_weights(local_path("load_weights", path), part)
    weights = load(path).weights if _KEY in texts else tensors
    _put(model, choose_weights(weights, rename, exclude), strict)


def load_checkpoint(
    model: Run | torch.nn.Module,
    path: AnyPath,
    which: str | int = "last",
    *,
    average: bool = False,
    rename: Mapping[str, str] | None = None,
    exclude: str | Sequence[str] = (),
    strict: bool = True,
) -> None:
    """Puts the weights of a checkpoint into a model, in place, and nothing else of it.

    Args:
        model: a run, or a module. What `Checkpoint(trained_only=True)` leaves out, it has to have.
        path: a checkpoint, a directory of them, or one in it: "runs/digits/best".
        which: of a directory: "last", the newest that is whole; "best" by the column that the
            checkpoints were monitored by; or the number of a step.
        average: whether it is the average that `EMA` has made, with its statistics. Before the
            average's first update these are the weights. It is of the whole model.
        rename: beginnings of names and what the model has instead, as in `load_weights`.
        exclude: patterns of names that are left out, as in `load_weights`.
        strict: whether the names must be the same, as in `load_weights`.

    Raises:
        ConfigError: `which` is none of these, the path is not one of this machine, or a part of the
            weights is asked for together with the average.
        CheckpointError: there is none, it is not whole, it has no average, or the weights are
            another model's, which stays as it was.
    """
    check_switches("load_checkpoint", average=average)
    in_part = bool(rename or exclude or not strict)
    if average and in_part:
        raise ConfigError(
            "load_checkpoint(average=True) loads a whole model; load it into one like the run's,"
            " and its parts from there with save_weights and load_weights"
        )
    folder = _chosen_checkpoint(directory.located(local_path("load_checkpoint", path)), which)
    data = _read_model(folder)
    averages = _averages_in(data)
    if average and not averages:
        raise CheckpointError(f"{folder.name} has no average: no EMA was among the callbacks")
    if in_part and any(one.get("swapped") for one in averages):
        raise CheckpointError(
            f"{folder.name} was taken in a validation, while the model had EMA's average; choose"
            " another checkpoint, or load the whole model"
        )
    weights = data["model"]["weights"]
    if not in_part:
        weights = {**weights, **_frozen_of(model, data, folder)}
    _put(model, choose_weights(weights, rename, exclude), strict)
    # Without updates so far there is no average; within a validation the model has it already
    if averages and not in_part and averages[0].get("swapped", average) != average:
        put_weights([_module_of(model)], {"tensors": averages[0]["average"], "extra": {}})


def _frozen_of(
    model: Run | torch.nn.Module, data: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """The model's own frozen weights, if they are those that a checkpoint leaves out."""
    own, left_out = _module_of(model).state_dict(), left_out_of(data)
    wrong = list(compare_frozen(left_out, own))
    if wrong:
        raise CheckpointError(f"{folder.name} does not suit the model: {'; '.join(wrong[:4])}")
    return {name: own[name] for name in left_out}


def _averages_in(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each `EMA` has saved of its average; empty for one that has made no update yet."""
    rows = data.get("callbacks", ())
    return [row["state"]["own"] or {} for row in rows if row["class"] == "EMA"]


def _chosen_checkpoint(folder: Path, which: str | int) -> Path:
    """A checkpoint itself, or the one of a directory that is asked for."""
    if not (folder / checkpoint.MANIFEST).exists():
        return directory.choose(folder, which).path
    if which != "last":
        raise ConfigError(f"{folder} is one checkpoint; which={which!r} chooses of a directory")
    return folder


def _read_model(folder: Path) -> dict[str, Any]:
    """What a checkpoint holds, a model with weights among it."""
    data: Any = checkpoint.read(folder)
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("weights"), dict):
        raise CheckpointError(f"{folder.name} holds no model")
    found: dict[str, Any] = data
    return found


def _module_of(model: Run | torch.nn.Module) -> torch.nn.Module:
    if isinstance(model, Run):
        return model.model
    return model


def _put(model: Run | torch.nn.Module, weights: Mapping[str, Any], strict: bool = True) -> None:
    module = _module_of(model)
    _check(module, weights, strict)
    own = module.state_dict()
    wanted = {
        name: part_like(value, own.get(name))
        for name, value in weights.items()
        if strict or name in own
    }
    module.load_state_dict(wanted, strict=strict)


def _check(module: torch.nn.Module, weights: Mapping[str, Any], strict: bool = True) -> None:
    """Raises a `CheckpointError` if these are not the weights of such a module.

    torch would load what fits before it says what does not.
    """
    own, given = _shapes(module.state_dict()), _shapes(weights)
    if not strict and own.keys().isdisjoint(given):
        raise CheckpointError(
            f"none of the weights has a name that {type(module).__name__} has; see rename="
        )
    wrong = [
        f"{name!r} of shape {given[name]}, where the model's is {shape}"
        for name, shape in own.items()
        if given.get(name, shape) != shape
    ]
    if strict:
        wrong += [f"no {name!r}" for name in own if name not in given]
        wrong += [f"{name!r}, which the model does not have" for name in given if name not in own]
    if wrong:
        more = " ..." * (len(wrong) > 4)
        raise CheckpointError(
            f"the weights are another model's than {type(module).__name__}'s:"
            f" {'; '.join(wrong[:4])}{more}{_hint(own, given)}"
        )


def _hint(own: Collection[str], given: Collection[str]) -> str:
    """What to write where the weights have the model's names with something before them."""
    first = next(iter(own), "")
    for name in given:
        start = name.removesuffix(first)
        if start and name.endswith(first) and all(start + other in given for other in own):
            return f"; their names have {start!r} before them: rename={{{start!r}: ''}}"
    return ""


def _shapes(weights: Mapping[str, Any]) -> dict[str, tuple[int, ...] | None]:
    return {name: _shape(value) for name, value in weights.items()}


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None
