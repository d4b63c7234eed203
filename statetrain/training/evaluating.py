"""Evaluating and predicting: a lifecycle beside a run's own, with its model or any other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch

from statetrain.callback import Callback
from statetrain.compute.accelerator import Accelerator
from statetrain.compute.capture import capturing
from statetrain.compute.gathering import Gathering, samples_of
from statetrain.compute.inferring import inferring
from statetrain.compute.weights import modules_of as modules_in
from statetrain.context.context import Context
from statetrain.context.keys import getter
from statetrain.data import loading, reading
from statetrain.data.joining import join
from statetrain.errors import ConfigError, MachineError
from statetrain.losses.losses import Losses, unbound
from statetrain.losses.metrics import Metrics
from statetrain.losses.tally import Tally, tally
from statetrain.machine.machine import Machine
from statetrain.outcome import Interrupted, Stopped
from statetrain.standard.computing import Compute, Predicting
from statetrain.standard.looping import evaluation, prediction
from statetrain.standard.precision import plain
from statetrain.training.run import Run
from statetrain.training.setup.calling import listeners
from statetrain.training.setup.model import accelerator_for, is_compiled, module_of
from statetrain.training.setup.objective import Loss, losses_of, reads_target, set_losses
from statetrain.training.setup.ranks import joined_predictions, machine_aside
from statetrain.training.setup.walker import interms_read, reads_loss


def evaluate(
    model: Run | torch.nn.Module,
    data: Any,
    *,
    loss: Loss | None = None,
    metrics: Metrics = None,
    callbacks: Callback | Iterable[Callback] = (),
    input: reading.Key = None,  # noqa: A002  # the word that users look for
    target: reading.Key = None,
    pred: str | None = None,
    dataloader_options: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    debug: bool = False,
) -> dict[str, Any]:
    """Losses and metrics of a model on data, as means over samples.

    Args:
        model: a run, whose loss, metrics and keys are used unless others are given here; or a
            module, with a `loss`.
        data: as in `fit`.
        loss: a function of prediction and target; None is the run's.
        metrics: as in `fit`, in place of the run's.
        callbacks: who watches; the lifecycle is `evaluation()`.
        input, target, pred, dataloader_options, device, debug: as in `fit`; None is the run's.

    It is computed in torch's inference mode, a little faster than without gradients alone, where
    that is safe: with callbacks, a `valid_compute` or a compiled model it is not used. See
    `statetrain.compute.inferring`.

    Returns:
        The values by name: `loss`, and the metrics.

    Raises:
        ConfigError: the arguments do not suffice.
        KeyboardInterrupt: it was interrupted; a part of the data has no loss of the whole.
        MachineError: a callback stopped it, likewise.
    """
    ctx, machine = _evaluating(
        model,
        data,
        loss,
        metrics,
        callbacks,
        input,
        target,
        pred,
        dataloader_options,
        device,
        debug,
    )
    with inferring(ctx, modules_in(ctx)) if _alone(ctx, machine) else nullcontext():
        _walk_aside(ctx, machine)
    row = ctx.history[-1] if len(ctx.history) else {}
    return {
        name.removeprefix("valid_"): value
        for name, value in row.items()
        if name.startswith("valid_")
    }


def context_for(
    model: Run | torch.nn.Module,
    batch: Any,
    *,
    loss: Loss | Losses | None = None,
    metrics: Metrics = None,
    reads: Iterable[str] = (),
    input: reading.Key = None,  # noqa: A002  # the word that users look for
    target: reading.Key = None,
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
        loss, metrics, input, target, pred, device: as in `evaluate`. A module without a loss gives
            a prediction alone.
        reads: what is to be captured, such as `"interms.encoder"`.

    Raises:
        ConfigError: the arguments do not suffice.
        BaseException: what the model or the loss raised.
    """
    reader = Callback()
    reader.reads = tuple(reads)
    if isinstance(model, Run) or loss is not None or hasattr(model, "loss"):
        ctx, machine = _evaluating(
            model,
            [batch],
            loss,
            metrics,
            (reader,),
            input,
            target,
            pred,
            None,
            device,
            together=False,
        )
    else:
        module, counted = module_of(model), tally("valid", (), None, torch.device("cpu"))
        accelerator = _accelerator_of(None, module, device, together=False)
        ctx = _context_for(None, module, accelerator, [batch], input, target, pred, None, counted)
        machine = capturing(Machine(prediction(), (reader,)), accelerator.unwrap(module))
    last = machine.lifecycle.by_role("valid_compute", "valid_loss", "predict_pred")[0].name
    ctx.started = ctx.clock()
    with machine.steps(ctx) as steps:
        steps.until(last)
    return ctx


def _evaluating(
    model: Run | torch.nn.Module,
    data: Any,
    loss: Loss | Losses | None,
    metrics: Metrics,
    callbacks: Callback | Iterable[Callback],
    input: reading.Key,  # noqa: A002  # as above
    target: reading.Key,
    pred: str | None,
    dataloader_options: Mapping[str, Any] | None,
    device: str | torch.device,
    debug: bool = False,
    together: bool = True,
) -> tuple[Context, Machine]:
    """What an evaluation is made of."""
    run = model if isinstance(model, Run) else None
    module = _looking(run, model)
    accelerator = _accelerator_of(run, module, device, together)
    compute = None
    computed = run.lifecycle.by_role("valid_compute") if run is not None and loss is None else ()
    if computed:
        # It is a Compute
        compute = plain(computed[0].action.function)  # type: ignore[union-attr]
    known = unbound(run.ctx.loss_fns) if run is not None and loss is None else {}
    losses: dict[str, Loss] = (
        known
        if compute is not None or any(known.values())
        else losses_of(loss, module, {}, False, accelerator)
    )
    if metrics is None and run is not None:
        metrics = run.ctx.tallies.get("valid", run.ctx.tallies["train"]).own
    counted = tally("valid", losses or {"opt": None}, metrics, accelerator.device)
    needed = compute is None and reads_target(losses, {"valid": counted})
    ctx = _context_for(
        run,
        module,
        accelerator,
        data,
        input,
        target,
        pred,
        dataloader_options,
        counted,
        target_needed=needed,
    )
    set_losses(ctx, losses)
    # Only their names count, one loss for each
    ctx.optimizers = dict.fromkeys(losses)  # type: ignore[assignment]
    life = evaluation(optimizers=max(len(losses), 1), compute=compute)
    if together:
        machine = machine_aside(ctx, life, listeners(callbacks), debug)
    else:
        machine = Machine(life, listeners(callbacks), debug=debug)
    if interms_read(machine, *losses.values(), counted):
        ctx.model = accelerator.unwrap(module)  # they cannot be captured of one that is compiled
    machine = capturing(machine, accelerator.unwrap(module), *losses.values(), counted)
    ctx.on_host = reads_loss(machine, accelerator)
    return ctx, machine


def predict(
    model: Run | torch.nn.Module,
    data: Any,
    *,
    stack: bool = True,
    compute: Callable[[Any], Any] | None = None,
    callbacks: Callback | Iterable[Callback] = (),
    input: reading.Key = None,  # noqa: A002  # the word that users look for
    pred: str | None = None,
    dataloader_options: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    debug: bool = False,
) -> Any:
    """What a model says about data, in the data's order.

    Args:
        model: a run, or a module.
        data: as in `fit`; a lone tensor is all inputs. What stands beside the inputs is not looked
            at.
        stack: whether the batches' predictions are joined along the first dimension; False gives a
            list of them.
        compute: a function of the context that returns the prediction for `ctx.input`, in place of
            calling the model.
        callbacks: who watches; the lifecycle is `prediction()`.
        input, pred, dataloader_options, device, debug: as in `fit`; None is the run's.

    Returns:
        The predictions, on the device where they were made, or the list of them. They are plain
        tensors, though they are computed in torch's inference mode, as `evaluate` does; with
        `stack=False`, it is not used.

    Raises:
        KeyboardInterrupt: it was interrupted.
        MachineError: a callback stopped it; a part of the predictions would pass for all.
    """
    run = model if isinstance(model, Run) else None
    module = _looking(run, model)
    accelerator = _accelerator_of(run, module, device)
    if dataloader_options and dataloader_options.get("shuffle"):
        raise ConfigError(
            "predictions come in the data's order; leave shuffle out of dataloader_options"
        )
    ctx = _context_for(
        run,
        module,
        accelerator,
        data,
        input,
        None,
        pred,
        dataloader_options,
        tally("valid", (), None, accelerator.device),
    )
    preds: Any = Gathering(samples_of(ctx.valid_data)) if stack else []
    ctx.buffers["preds"] = preds
    machine = machine_aside(ctx, prediction(compute=compute), listeners(callbacks), debug)
    if ctx.news is not None:
        preds = ctx.buffers["preds"] = []
    if interms_read(machine):
        ctx.model = accelerator.unwrap(module)  # as in an evaluation
    machine = capturing(machine, accelerator.unwrap(module))
    with (
        inferring(ctx, modules_in(ctx)) if stack and _alone(ctx, machine) else nullcontext()
    ):  # what is joined outside is plain again
        _walk_aside(ctx, machine)
    if ctx.news is not None:
        preds = joined_predictions(ctx, preds)
        return join(preds) if stack else preds
    return preds.joined() if stack else preds


def _looking(run: Run | None, model: Any) -> torch.nn.Module:
    """The model to evaluate or to predict with: of a run that was compiled, what was compiled."""
    if run is None:
        return module_of(model)
    return run.ctx.model if is_compiled(run.ctx.model) else run.model


def _accelerator_of(
    run: Run | None,
    module: torch.nn.Module,
    device: str | torch.device,
    together: bool = True,
) -> Accelerator:
    if run is not None and device == "auto":
        assert run.ctx.accelerator is not None
        return run.ctx.accelerator
    accelerator = accelerator_for(None, device) if together else Accelerator(device)
    accelerator.prepare(module)
    return accelerator


def _context_for(
    run: Run | None,
    module: torch.nn.Module,
    accelerator: Accelerator,
    data: Any,
    input_key: reading.Key,
    target_key: reading.Key,
    pred: str | None,
    options: Mapping[str, Any] | None,
    counted: Tally,
    target_needed: bool = False,
) -> Context:
    reader = run.ctx.read_batch if run is not None else None
    if isinstance(reader, reading.BatchReader):
        input_key = reader.input if input_key is None else input_key
        target_key = reader.target if target_key is None and target_needed else target_key
    pick = getter(pred) if pred is not None else run.ctx.pick if run is not None else None
    return Context(
        model=module,
        valid_data=loading.as_loader(
            data, name="data", options=options, generator=torch.Generator()
        ),
        accelerator=accelerator,
        read_batch=reading.BatchReader(accelerator.device, input_key, target_key, target_needed),
        pick=pick,
        tallies={"valid": counted},
        opt_name=next(iter(counted.losses), ""),
        hparams=dict(run.ctx.hparams) if run is not None else {},
        opt_hparams=dict(run.ctx.opt_hparams) if run is not None else {},
    )


def _alone(ctx: Context, machine: Machine) -> bool:
    """Whether nobody but the model, the loss and the metrics will see what is computed, as it is; see `inferring`."""
    own = any(isinstance(state.action, Compute | Predicting) for state in machine.lifecycle.states)
    return not machine.callbacks and not own and not is_compiled(ctx.model)


def _walk_aside(ctx: Context, machine: Machine) -> None:
    """Runs a machine beside a fit. An interrupt is passed on, and so is a stop: part of an answer is not the answer."""
    ctx.started = ctx.clock()
    run = Run(ctx, machine)._walk(whole=True)
    if isinstance(run.outcome, Interrupted):
        raise KeyboardInterrupt(run.outcome.reason)
    if isinstance(run.outcome, Stopped):
        raise MachineError(
            f"the {machine.lifecycle.name} was stopped after {ctx.valid_iter} batches"
            f" ({run.outcome.reason}), so it has no result; to look at a part of the data, give"
            " that part"
        )
