"""Evaluating: a lifecycle separate from a run's own, with its model or any other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from statetrain.callback import Callback
from statetrain.compute.capture import capturing
from statetrain.context.context import Context
from statetrain.data.counting import Size
from statetrain.data.reading import Key
from statetrain.errors import MachineError
from statetrain.losses.losses import Losses, unbound
from statetrain.losses.metrics import Metrics
from statetrain.losses.tally import Tally, tally
from statetrain.machine.machine import Machine
from statetrain.standard.looping import evaluation, prediction
from statetrain.standard.precision import plain
from statetrain.training.run import Run
from statetrain.training.setup.calling import listeners
from statetrain.training.setup.objective import AnyLoss, losses_of, reads_target, set_losses
from statetrain.training.setup.ranks import machine_aside
from statetrain.training.setup.walker import interms_read, reads_loss
from statetrain.training.subject import Reads, Subject, quietly, subject_of, walk_aside

Callbacks = Callback | Iterable[Callback]


def evaluate(
    model: Run | torch.nn.Module,
    data: Any,
    *,
    loss: AnyLoss | None = None,
    metrics: Metrics = None,
    callbacks: Callbacks = (),
    input: Key = None,  # noqa: A002  # the word that users look for
    target: Key = None,
    size: Size = None,
    pred: str | None = None,
    dataloader_options: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    debug: bool = False,
) -> dict[str, Any]:
    """Losses and metrics of a model on data, as means over samples.

    It is computed in torch's inference mode, a little faster than without gradients alone, where
    that is safe: with callbacks, a `valid_compute` or a compiled model it is not used. See
    `statetrain.compute.inferring`. Several threads may evaluate one model.

    Args:
        model: a run, whose loss, metrics and keys are used unless others are given here; or a
            module, with a `loss`.
        data: as in `fit`.
        loss: a function of prediction and target; None is the run's.
        metrics: as in `fit`, in place of the run's.
        callbacks: what listens; the lifecycle is `evaluation()`.
        input, target, size, pred: as in `fit`; None is the run's.
        dataloader_options, device, debug: as in `fit`.

    Returns:
        The values by name: `loss`, and the metrics.

    Raises:
        ConfigError: the arguments do not suffice.
        KeyboardInterrupt: it was interrupted; a part of the data has no loss of the whole.
        MachineError: a callback stopped it, likewise.
    """
    ctx, machine = _evaluating(
        subject_of(model, device),
        data,
        loss,
        metrics,
        callbacks,
        Reads(input, target, pred, size),
        dataloader_options,
        debug,
    )
    with quietly(ctx, machine):
        walk_aside(ctx, machine)
    if not ctx.valid_complete:
        raise MachineError(
            f"the evaluation was ended by SkipEpoch after {ctx.valid_iter} batches, so it has no"
            " result; to look at a part of the data, give that part"
        )
    return {
        name.removeprefix("valid_"): value
        for name, value in ctx.history.last.items()
        if name.startswith("valid_")
    }


def context_for(
    model: Run | torch.nn.Module,
    batch: Any,
    *,
    loss: AnyLoss | Losses | None = None,
    metrics: Metrics = None,
    reads: Iterable[str] = (),
    input: Key = None,  # noqa: A002  # the word that users look for
    target: Key = None,
    size: Size = None,
    pred: str | None = None,
    device: str | torch.device = "auto",
) -> Context:
    """A context with one batch in it, outside of any loop: to try keys, losses and metrics.

        ctx = st.context_for(run, batch, reads=["interms.**"])
        ctx["pred.logits"], ctx["interms.encoder"], ctx.flatten()
        st.Loss(F.cross_entropy, pred="pred.logits", target="batch.label")(ctx)

    The model is called as in an evaluation: in eval mode, without gradients. Model and run stay as
    they are.

    Args:
        model: a run, whose loss, metrics and keys are used unless others are given here; or a
            module.
        batch: one batch, as the data yields them.
        loss, metrics, input, target, size, pred, device: as in `evaluate`. A module without a loss
            gives a prediction alone.
        reads: what is to be captured, such as `"interms.encoder"`.

    Raises:
        ConfigError: the arguments do not suffice.
        DataError: it does not show which part of the batch is the input.
        BaseException: what the model or the loss raised.
    """
    reader = Callback()
    reader.reads = tuple(reads)
    subject, keys = subject_of(model, device, together=False), Reads(input, target, pred, size)
    if isinstance(model, Run) or loss is not None or hasattr(model, "loss"):
        ctx, machine = _evaluating(
            subject, [batch], loss, metrics, (reader,), keys, None, together=False
        )
    else:
        counted = tally("valid", (), None, torch.device("cpu"))
        ctx = subject.context([batch], None, counted, keys)
        machine = capturing(Machine(prediction(), (reader,)), subject.own_model)
    last = machine.lifecycle.by_role("valid_compute", "valid_loss", "predict_pred")[0].name
    ctx.started = ctx.clock()
    with machine.steps(ctx) as steps:
        steps.until(last)
    return ctx


def _evaluating(
    subject: Subject,
    data: Any,
    loss: AnyLoss | Losses | None,
    metrics: Metrics,
    callbacks: Callbacks,
    reads: Reads,
    options: Mapping[str, Any] | None,
    debug: bool = False,
    together: bool = True,
) -> tuple[Context, Machine]:
    """What an evaluation is made of."""
    compute = _own_compute(subject.run, loss)
    losses = _losses(subject, loss, free=compute is not None)
    counted = _counted(subject, losses, metrics)
    needed = compute is None and reads_target(losses, {"valid": counted})
    reads = Reads(reads.input, reads.target, reads.pred, reads.size, needed)
    ctx = subject.context(data, options, counted, reads)
    set_losses(ctx, losses)
    # Only their names count, one loss for each
    ctx.optimizers = dict.fromkeys(losses)  # type: ignore[assignment]
    life = evaluation(optimizers=max(len(losses), 1), compute=compute)
    if together:
        machine = machine_aside(ctx, life, listeners(callbacks), debug)
    else:
        machine = Machine(life, listeners(callbacks), debug=debug)
    if interms_read(machine, *losses.values(), counted):
        # Outputs of modules cannot be captured of a compiled one
        ctx.model = subject.uncompiled_model
    machine = capturing(machine, subject.own_model, *losses.values(), counted)
    ctx.on_host = reads_loss(machine, subject.accelerator)
    return ctx, machine


def _own_compute(run: Run | None, loss: Any) -> Callable[[Any], Any] | None:
    """The run's own computation of the validation, unless another loss was given."""
    if run is None or loss is not None:
        return None
    for state in run.lifecycle.by_role("valid_compute"):
        action: Any = state.action  # a Compute
        function: Callable[[Any], Any] = plain(action.function)
        return function
    return None


def _losses(subject: Subject, loss: Any, free: bool) -> dict[str, Any]:
    """The losses by optimizer: the run's, or what was given."""
    known: dict[str, Any] = {}
    if subject.run is not None and loss is None:
        known = unbound(subject.run.ctx.loss_fns)
    if free or any(known.values()):
        return known
    return losses_of(loss, subject.own_model, {}, False, subject.accelerator)


def _counted(subject: Subject, losses: Mapping[str, Any], metrics: Metrics) -> Tally:
    """What sums up losses and metrics."""
    if metrics is None and subject.run is not None:
        tallies = subject.run.ctx.tallies
        metrics = tallies.get("valid", tallies["train"]).own
    return tally("valid", losses or {"opt": None}, metrics, subject.accelerator.device)
