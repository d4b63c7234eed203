"""Predicting: what a model returns for data, joined, batch by batch, or into a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from statetrain.callback import Callback
from statetrain.compute.capture import capturing
from statetrain.compute.gathering import Gathering, samples_of
from statetrain.compute.holding import held_in_eval
from statetrain.compute.writing import Writing
from statetrain.context.context import Context
from statetrain.data.joining import join
from statetrain.data.reading import Key
from statetrain.errors import ConfigError
from statetrain.losses.tally import tally
from statetrain.machine.machine import Machine
from statetrain.standard.looping import prediction
from statetrain.training.ordering import in_order
from statetrain.training.run import Run
from statetrain.training.setup.calling import listeners
from statetrain.training.setup.ranks import machine_aside
from statetrain.training.setup.walker import interms_read
from statetrain.training.subject import Reads, Subject, quietly, refuse_part, subject_of, walk_aside
from statetrain.validators import check_switches, local_path


def predict(
    model: Run | torch.nn.Module,
    data: Any,
    *,
    stack: bool = True,
    out: str | os.PathLike[str] | None = None,
    compute: Callable[[Any], Any] | None = None,
    callbacks: Callback | Iterable[Callback] = (),
    input: Key = None,  # noqa: A002  # the word that users look for
    pred: str | None = None,
    dataloader_options: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    debug: bool = False,
) -> Any:
    """What a model returns for data, in the data's order.

    A loader that shuffles, or drops a short last batch, is made again without. Several threads may
    predict with one model.

    Args:
        model: a run, or a module.
        data: as in `fit`; a lone tensor is all inputs. What comes with the inputs is not read.
        stack: whether the batches' predictions are joined along the first dimension; False gives a
            list of them.
        out: a `.npy` file to write the predictions to, batch by batch, so that they take no memory.
            They have to be tensors. What is returned is mapped from the file.
        compute: a function of the context that returns the prediction for `ctx.input`, in place of
            calling the model.
        callbacks: what listens; the lifecycle is `prediction()`.
        input, pred, dataloader_options, device, debug: as in `fit`; None is the run's.

    Returns:
        The predictions, on the device where they were made, or the list of them. They are plain
        tensors, though they are computed in torch's inference mode, as `evaluate` does; with
        `stack=False`, it is not used.

    Raises:
        ConfigError: a loader draws its samples at random, so they have no order.
        KeyboardInterrupt: it was interrupted.
        MachineError: a callback stopped it; a part of the predictions would pass for all.
    """
    check_switches("predict", stack=stack)
    subject, reads = subject_of(model, device), Reads(input, pred=pred)
    ctx, machine = _predicting(subject, data, compute, callbacks, reads, dataloader_options, debug)
    if out is not None:
        return _written(ctx, machine, local_path("predict: out", out), stack)
    preds: Any = []
    if stack and ctx.news is None:
        preds = Gathering(samples_of(ctx.valid_data))
    ctx.buffers["preds"] = preds
    with quietly(ctx, machine, inference=stack):  # what is joined outside of it is plain again
        walk_aside(ctx, machine)
    if isinstance(preds, Gathering):
        return preds.joined()
    if ctx.news is not None:
        from statetrain.training.setup.several import joined_predictions

        preds = joined_predictions(ctx, preds)
    return join(preds) if stack else preds


def predict_batches(
    model: Run | torch.nn.Module,
    data: Any,
    *,
    compute: Callable[[Any], Any] | None = None,
    callbacks: Callback | Iterable[Callback] = (),
    input: Key = None,  # noqa: A002  # the word that users look for
    pred: str | None = None,
    dataloader_options: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    debug: bool = False,
) -> Iterator[Any]:
    """The predictions of `predict`, one batch after the other, as they are asked for.

    Between two of them, the model is in the mode in which it was.

    Args:
        model, data, compute, callbacks, input, pred, dataloader_options, device, debug: as in
            `predict`.

    Yields:
        The prediction for each batch.

    Raises:
        BaseException: as `predict`.
    """
    subject, reads = subject_of(model, device), Reads(input, pred=pred)
    ctx, machine = _predicting(subject, data, compute, callbacks, reads, dataloader_options, debug)
    _refuse_several(ctx, "predict_batches")
    return _one_by_one(ctx, machine)


def _refuse_several(ctx: Context, what: str) -> None:
    if ctx.news is not None:
        raise ConfigError(f"{what} is for one process; predict(...) joins what all ranks predict")


def _one_by_one(ctx: Context, machine: Machine) -> Iterator[Any]:
    preds: list[Any] = []
    ctx.buffers["preds"] = preds
    ctx.started = ctx.clock()
    with machine.steps(ctx) as steps:
        while True:
            with held_in_eval(ctx.model):
                at = steps.until("collect")
            if at is None:
                break
            yield preds.pop()
    refuse_part(Run(ctx, machine))


def _written(ctx: Context, machine: Machine, path: Path, stack: bool) -> torch.Tensor:
    if not stack:
        raise ConfigError("out= writes all predictions to one file; leave out stack=False")
    _refuse_several(ctx, "out=")
    preds = Writing(path)
    ctx.buffers["preds"] = preds
    try:
        with quietly(ctx, machine):
            walk_aside(ctx, machine)
        return preds.joined()
    finally:
        preds.close()


def _predicting(
    subject: Subject,
    data: Any,
    compute: Callable[[Any], Any] | None,
    callbacks: Callback | Iterable[Callback],
    reads: Reads,
    options: Mapping[str, Any] | None,
    debug: bool,
) -> tuple[Context, Machine]:
    """What a prediction is made of."""
    if options and options.get("shuffle"):
        raise ConfigError(
            "predictions come in the data's order; leave shuffle out of dataloader_options"
        )
    counted = tally("valid", (), None, subject.accelerator.device)
    ctx = subject.context(data, options, counted, reads)
    ctx.valid_data = in_order(ctx.valid_data)
    machine = machine_aside(ctx, prediction(compute=compute), listeners(callbacks), debug)
    if interms_read(machine):
        ctx.model = subject.uncompiled_model  # as in an evaluation
    return ctx, capturing(machine, subject.own_model)
