"""The context of a run, before its first transition."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from statetrain.checkpoints.settings import settings_of
from statetrain.compute.masking import Mask
from statetrain.context.context import Context
from statetrain.context.history import History
from statetrain.context.keys import getter
from statetrain.contracts.composing import parts_of
from statetrain.data.counting import Size
from statetrain.data.passing import arguments_of
from statetrain.data.reading import BatchReader, Key
from statetrain.errors import ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.machine.machine import Machine
from statetrain.naming import ByName
from statetrain.standard import actions
from statetrain.standard.computing import Compute
from statetrain.standard.fusing import update_of
from statetrain.standard.options import FitArguments, FitOptions
from statetrain.standard.precision import MixedPrecision, Precision, plain
from statetrain.training.advice import advice
from statetrain.training.setup.calling import Epochs
from statetrain.training.setup.data import Data
from statetrain.training.setup.model import Trained
from statetrain.training.setup.objective import Objective, set_losses
from statetrain.training.setup.table import is_own
from statetrain.training.setup.walker import reads_loss

if TYPE_CHECKING:
    from statetrain.compute.compiling import CompiledUpdate


def make_context(
    machine: Machine,
    data: Data,
    trained: Trained,
    objective: Objective,
    reader: BatchReader,
    **settings: Any,
) -> Context:
    """The context that a machine will run.

    Args:
        machine: lifecycle and callbacks.
        data, trained, objective: from the stages before.
        reader: finds input and target in a batch.
        settings: other fields of the context.

    Raises:
        BaseException: what a callback has against it.
    """
    life, device = machine.lifecycle, trained.accelerator.device
    names = list(trained.optimizers)
    first = next(iter(trained.optimizers.values()), None)
    ctx = Context(
        model=trained.module,
        loss_fns=ByName("loss for the optimizer", objective.losses),
        optimizers=ByName("optimizer", trained.optimizers),
        train_data=data.train,
        valid_data=data.valid,
        evaluations=data.others,
        accelerator=trained.accelerator,
        callbacks=machine.callbacks,
        read_batch=reader,
        on_host=reads_loss(machine, trained.accelerator),
        compute_gradients=trained.backward,
        advise=advice,
        mask=Mask(device) if life.by_role("report") else None,
        split_state=data.split_state,
        opt_given=settings_of(trained.optimizers),
        tallies=objective.tallies,
        history=History(
            optimizers=tuple(names) if len(names) > 1 else (),
            sets=("train", "valid", *data.others),
            formats={
                column: form
                for tally in objective.tallies.values()
                for column, form in tally.formats.items()
            },
        ),
        opt_name=next(iter(names), ""),
        opt=first,  # type: ignore[arg-type]  # a lifecycle without `step` may have none
        **settings,
    )
    set_losses(ctx, objective.losses)
    _check_pick(ctx, life)
    for callback in machine.callbacks:
        callback.check_context(ctx)
    return ctx


def _check_pick(ctx: Context, life: Lifecycle) -> None:
    """Raises a `ConfigError` if nothing takes the part of the output that `pred=` names."""
    if ctx.pick is None or any(tally.takes_pred for tally in ctx.tallies.values()):
        return
    computed = [state for state in life.states if isinstance(state.action, Compute)]
    works = [state.action for state in life.states if state not in computed]
    taken = any(is_own(work) or actions.loss in map(plain, parts_of(work)) for work in works)
    if computed and not taken:
        raise ConfigError(
            "pred= would not be used: compute= takes what it likes of the model's output, and no"
            " metric takes a prediction; leave it out"
        )


def settings_for(
    epochs: Epochs,
    hparams: Mapping[str, Any] | None,
    opt_hparams: Mapping[str, Any] | None,
    pred: str | None,
    verbose: bool,
    options: FitArguments,
    seed: int | None,
) -> dict[str, Any]:
    """The fields of a context that are settings, by name."""
    return {
        "min_epochs": epochs.least,
        "max_epochs": epochs.most,
        "hparams": dict(hparams or {}),
        "opt_hparams": dict(opt_hparams or {}),
        "pick": None if pred is None else getter(pred),
        "verbose": verbose,
        "clock": options.get("clock", time.monotonic),
        "seed": seed,
    }


def reader_for(
    input_key: Key,
    target_key: Key,
    size: Size,
    options: FitOptions,
    trained: Trained,
    objective: Objective,
) -> BatchReader:
    """What finds input and target in a batch; a custom computation may need no target."""
    needed = options.get("compute") is None and objective.reads_target
    return BatchReader(
        trained.accelerator.device,
        input_key,
        target_key,
        needed,
        size,
        arguments_of(trained.model),
    )


def parts_for(life: Lifecycle, options: FitOptions, trained: Trained) -> dict[str, Any]:
    """The parts of a context that a lifecycle needs, by field."""
    return {
        "scaler": _scaler(options.get("precision"), life, trained.accelerator.device),
        "compiled_step": _compiled_step(life, trained),
    }


def _scaler(
    precision: Precision | None, life: Lifecycle, device: torch.device
) -> torch.amp.GradScaler | None:
    """What scales the loss, if the lifecycle scales it."""
    if not life.by_role("unscale"):
        return None
    given = precision.scaler if isinstance(precision, MixedPrecision) else None
    return torch.amp.GradScaler(device.type) if given is None else given


def _compiled_step(life: Lifecycle, trained: Trained) -> CompiledUpdate | None:
    """What does the work of the fused state as one function; None where its parts do."""
    update = update_of(life)
    if update is None or not update.compiled or trained.compiling is None:
        return None
    from statetrain.compute.compiling import CompiledUpdate, precision_of

    return CompiledUpdate(
        trained.accelerator.compile,
        trained.model,
        trained.compiling,
        precision_of(update),
        lenient=trained.compiled == "auto",
    )
