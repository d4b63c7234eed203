"""Training, evaluating, predicting: a context, a lifecycle and a machine, made of what a user has."""

from __future__ import annotations

import inspect
import logging
import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import attrs
import torch

from statetrain import actions
from statetrain import data as loading
from statetrain.accelerator import Accelerator
from statetrain.callback import Callback, hooks_of, name_of
from statetrain.callbacks.checkpoint import find
from statetrain.capture import FIELDS, capturing, reads_of
from statetrain.compiling import CompiledUpdate, can_trace, precision_of
from statetrain.compiling import in_the_way as keeps_from_compiling
from statetrain.context import Context
from statetrain.contracts import check_fields, check_monitors, paths_in
from statetrain.criteria import Every, Spike
from statetrain.cuda_graph import graph_for
from statetrain.evaluations import Evaluation
from statetrain.fusing import Fused, check_word, fuse, in_the_way, listens_between
from statetrain.gathering import Gathering, samples_of
from statetrain.guards import Guard
from statetrain.history import History
from statetrain.huggingface import adapt
from statetrain.inferring import inferring
from statetrain.keeping import has_buffers
from statetrain.keeping import modules_of as modules_in
from statetrain.keys import getter, root_of
from statetrain.lifecycle import Lifecycle
from statetrain.lifecycles import Compute, Policy, Predicting, evaluation, prediction, supervised
from statetrain.losses import Loss as KeyedLoss
from statetrain.losses import Losses, bound, modules_of, unbound
from statetrain.machine import Machine
from statetrain.masking import Mask
from statetrain.metrics import Metrics, Tally, tally
from statetrain.modes import Evaluating
from statetrain.naming import Named, did_you_mean
from statetrain.outcome import ConfigError, Interrupted, MachineError, Stopped
from statetrain.precision import MixedPrecision, Precision, mixed_precision, plain
from statetrain.run import OnInterrupt, Run
from statetrain.seeding import aside, key, keyed
from statetrain.snapshot import restore, settings_of
from statetrain.trace import Tracing

log = logging.getLogger("statetrain")

Loss = Callable[..., Any]
Optimizer = torch.optim.Optimizer


def fit(
    model: torch.nn.Module | type[torch.nn.Module],
    train: Any,
    *,
    valid: Any = None,
    loss: Loss | Losses | Mapping[str, Loss | Losses] | None = None,
    optimizer: Optimizer | Callable[..., Optimizer] | Mapping[str, Any] | None = None,
    epochs: int | tuple[int, int] | None = 10,
    hparams: Mapping[str, Any] | None = None,
    opt_hparams: Mapping[str, Any] | None = None,
    metrics: Metrics = None,
    train_metrics: Metrics = None,
    valid_metrics: Metrics = None,
    stop: Guard | None = None,
    non_finite: Policy = "raise",
    check_gradients: bool = False,
    spike: Spike | None = None,
    check: Literal["now", "late"] = "now",
    accumulate: int = 1,
    validate: Guard | None = None,
    evaluations: Evaluation | Iterable[Evaluation] = (),
    max_steps: int | None = None,
    compute: Callable[[Any], Any] | None = None,
    valid_compute: Callable[[Any], Any] | None = None,
    precision: Precision | None = None,
    fused: bool | Literal["auto"] = False,
    prefetch: bool = False,
    callbacks: Callback | Iterable[Callback] = (),
    lifecycle: Lifecycle | None = None,
    input: loading.Key = None,  # noqa: A002  # the word that users look for
    target: loading.Key = None,
    pred: str | None = None,
    dataloader_options: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    accelerator: Any = None,
    compile: bool | Mapping[str, Any] = False,  # noqa: A002  # torch's own word
    seed: int | None = None,
    resume: str | os.PathLike[str] | None = None,
    allow_changes: bool | Collection[str] = (),
    trace: bool | str | os.PathLike[str] = False,
    debug: bool = False,
    verbose: bool = True,
    on_interrupt: OnInterrupt = "return",
    clock: Callable[[], float] = time.monotonic,
    start: bool = True,
) -> Run:
    """Trains a model.

    Args:
        model: a module, trained in place; or a class, made with `hparams`.
        train: a DataLoader, a Dataset, tensors or arrays with one row a sample (`(inputs, targets)` or a dict), an
            iterable of batches with or without a length, or a function that makes one.
        valid: validation data, likewise; or a share of the training data between 0 and 1. None: no validation.
        loss: a function of prediction and target that returns a scalar tensor; a `Loss`, whose arguments are named by keys,
            or several weighted ones in `Losses`. With several optimizers, one for all or one for each by name. None takes
            the model's own `loss` method.
        optimizer: an instance, or a class or function that is called with the model's parameters and `opt_hparams`; a
            mapping of names to these for several. With several, classes get `model.<name>`'s parameters.
        epochs: how many, at least 0; `(least, most)` to keep `stop` from ending the run before `least`; None: no limit.
        hparams: arguments for a model class.
        opt_hparams: arguments for an optimizer class; for several, by name, or the same for all.
        metrics: functions of prediction and target (averaged over samples) or objects with `update`, `compute` and
            `reset`; one, several, or by name; by keys with `Metric`. They become columns `train_<name>` and `valid_<name>`.
        train_metrics, valid_metrics: the same, for one of the sets alone.
        stop, non_finite, check_gradients, spike, check, accumulate, max_steps, compute, valid_compute: see `supervised`.
        validate: when to validate; None is at the end of every epoch.
        evaluations: other data to look at, each with a name, metrics and times of its own.
        precision: "bf16" or "fp16", or a `MixedPrecision`; None computes in the types that the model has. `evaluate` and
            `predict` do so always.
        fused: whether `pred`, `loss`, `backward` and `step` are one state, `update`, which CUDA replays as a graph; it takes
            `check="late"` or `non_finite="ignore"`, and callbacks that do not listen in between. "auto": where that is so. See
            `fuse` and `statetrain.cuda_graph`.
        prefetch: whether each batch is placed on the device while the one before is trained on: it is drawn one batch ahead, which a
            checkpoint knows. On CUDA alone; elsewhere nothing could overlap.
        callbacks: who watches, in order.
        lifecycle: one of your own, in place of `supervised(...)` with the options above.
        input, target: keys into a batch, where it is not `(input, target)`; see `BatchReader`.
        pred: the key of the part of the model's output that the loss and the metrics take; None is all of it.
        dataloader_options: arguments for the DataLoaders made here, such as `batch_size` (32 unless said).
        device: "auto" (CUDA, else MPS, else CPU), or a device.
        accelerator: what places and prepares model and optimizers, in place of `device`: an `Accelerator`, or Hugging
            Face's `accelerate.Accelerator`.
        compile: whether `torch.compile` compiles the model; or its options, as `{"mode": "max-autotune"}`. Weights keep their
            names, so a run may be continued with or without it. What modules return within a compiled model cannot be
            captured: who reads `interms.*` is refused. With `fused`, the loss, the gradients and the step are compiled with it, as
            one function; see `statetrain.compiling`.
        seed: makes every random number a function of what it is for: the validation share, a model made from a class,
            the order of each epoch, each sample's augmentation (of DataLoaders over map-style datasets, whatever their
            number of workers), each batch's dropout. None: torch's global generators, as they are.
        resume: where to go on from: "last" or "best" of the `Checkpoint` among the callbacks, which starts anew if there is
            none yet; or the path of a checkpoint, or of a directory of them. The other arguments are those of the run that
            was saved; workers, callbacks, `epochs` and what is printed may differ.
        allow_changes: what else may differ: "lifecycle", "model", "optimizer", "data", "seed", or True for all. What
            fits is loaded; settings of optimizers that are given differently now hold.
        trace: whether to record the transitions, for `run.trace`; or the path of a file to write them to as well, with times,
            counters and the loss, for `statetrain watch` and `statetrain trace`. `Tracing` among the callbacks has more.
        debug: whether actions, guards and callbacks are held to what they declare that they read and write; slower.
        verbose: whether callbacks that print may do so.
        on_interrupt: what a signal (Ctrl-C, SIGTERM, SIGHUP, SIGUSR1) leads to once the run has ended in order: "return" it,
            "raise" KeyboardInterrupt, or "exit" with 128 and the signal's number, as a scheduler expects.
        clock: seconds from any moment on.
        start: whether to train; else the run is returned as it stands before the first transition, for `run.walk()` or
            `run.steps()`.

    Returns:
        The run: outcome, history, model.

    Raises:
        ConfigError: the arguments cannot make a run; nothing has been trained.
        CheckpointError: there is something to resume from, but it is not whole, or it is of another run.
        BaseException: what the model, the loss, the data or a callback raised, as it was; its attribute `run` is the run.
    """
    refuse_several_processes()
    ways = ("return", "raise", "exit")
    if on_interrupt not in ways:
        raise ConfigError(f"on_interrupt must be one of {', '.join(map(repr, ways))}, got {on_interrupt!r}{did_you_mean(str(on_interrupt), ways)}")
    least, most = _epochs(epochs, max_steps, stop)
    callbacks = _listeners(callbacks)
    found = None if resume is None else find(resume, callbacks)
    seed = None if seed is None else _seed(seed)
    module = _model(model, hparams, seed)
    accelerator = _accelerator(accelerator, device)
    split_state = None
    if isinstance(valid, float | int) and not isinstance(valid, bool):
        generator = torch.default_generator if seed is None else torch.Generator().manual_seed(seed)
        split_state = generator.get_state()
        train, valid = loading.split(train, valid, generator)
    # One-shot iterators are refused before a model is moved or an optimizer made.
    train_loader = loading.as_loader(_again(train, most), name="train", shuffle=True, options=dataloader_options)
    valid_loader = None if valid is None else loading.as_loader(
        _again(valid, most), name="valid", options=_for_validation(dataloader_options, valid)
    )
    train_loader, valid_loader = _by_key(train_loader, seed, "train"), _by_key(valid_loader, seed, "valid")
    evaluated = _evaluations(evaluations)
    others = {
        one.name: _by_key(
            loading.as_loader(_again(one.data, 2), name=one.name, options=_for_validation(dataloader_options, one.data)), seed, one.name
        )
        for one in evaluated
    }
    given = optimizer.values() if isinstance(optimizer, Mapping) else (optimizer,)
    accelerator.prepare(module, [one for one in given if isinstance(one, Optimizer)])
    optimizers = _optimizers(optimizer, module, dict(opt_hparams or {}), lifecycle)
    losses = _losses(loss, module, optimizers, compute, lifecycle, accelerator)
    module, optimizers = accelerator.wrap(module, optimizers)
    if compile is not False:
        module = accelerator.compile(module, _compile_options(compile))
    options = {
        "stop": stop,
        "non_finite": non_finite,
        "check_gradients": check_gradients,
        "spike": spike,
        "check": check,
        "accumulate": accumulate,
        "max_steps": max_steps,
        "compute": compute,
        "valid_compute": valid_compute,
        "prefetch": bool(prefetch) and accelerator.device.type == "cuda",
    }
    if lifecycle is None:
        unused = {"validate": validate, "valid_metrics": valid_metrics} if valid is None else {}
        unused |= {"valid_compute": valid_compute} if valid is None and not evaluated else {}
        for name, value in unused.items():
            if value is not None:
                raise ConfigError(f"{name} would not be used: there is no validation data; give valid=")
        due = None if valid is None else Every(1, "epochs") if validate is None else validate
        lifecycle = supervised(
            validate=due,
            optimizers=max(len(optimizers), 1),
            closure=any(map(needs_closure, optimizers.values())),
            min_epochs=least,
            seeded=seed is not None,
            buffers=has_buffers([module, *(part for loss in losses.values() for part in modules_of(loss).values())]),
            evaluations={one.name: one.when for one in evaluated},  # type: ignore[misc]  # its converter has seen to it
            **options,  # type: ignore[arg-type]  # a dict of options has no type for each
        )
    else:
        _refuse_options(lifecycle, {**options, "validate": validate, "min_epochs": least or None})
        if valid_loader is None and "valid" in lifecycle.names:
            raise ConfigError(f"lifecycle {lifecycle.name!r} has a state 'valid', but there is no validation data; give valid=, or use life.without('valid')")
    _check_evaluations(lifecycle, list(others))
    if precision is not None:
        lifecycle = mixed_precision(lifecycle, precision)
    _check_losses(losses, lifecycle)
    _check_turns(optimizers, lifecycle)
    if seed is None and any(arrow.effect in (actions.count_and_seed_batch, actions.count_and_seed_valid_batch) for arrow in lifecycle.transitions):
        raise ConfigError(f"lifecycle {lifecycle.name!r} seeds each batch by the run's seed; give seed=, or make it without seeded=True")
    if isinstance(metrics, Iterator):
        metrics = list(metrics)  # they are read for each set
    tallies = {"train": tally("train", losses, metrics, accelerator.device, train_metrics)}
    if valid_loader is not None:
        tallies["valid"] = tally("valid", losses, metrics, accelerator.device, valid_metrics)
    for one in evaluated:
        tallies[one.name] = tally(one.name, losses, metrics if one.metrics is None else None, accelerator.device, one.metrics)
    everyone = (*_listeners(callbacks), *_tracing(trace))
    # None stands for what ours does, without the call.
    own_backward = None if type(accelerator).backward is Accelerator.backward else accelerator.backward
    apart, lifecycle = lifecycle, _fused(lifecycle, fused, everyone, losses, tallies)
    if compile is not False:
        lifecycle = _compiled(lifecycle, apart if fused == "auto" else None, optimizers, losses, own_backward)
    machine = Machine(lifecycle, everyone, debug=debug)
    _refuse_interms(module, machine, losses, tallies)
    machine = capturing(machine, accelerator.unwrap(module), *losses.values(), *tallies.values())
    check_fields(machine, Context)
    columns = [column for counted in tallies.values() for column in counted.columns]
    check_monitors(machine, columns, "" if "valid" in tallies else "; this run has no validation data, give valid=")
    names = list(optimizers)
    update = _update(lifecycle)
    whole = None
    if update is not None and update.compiled:
        whole = CompiledUpdate(accelerator.compile, accelerator.unwrap(module), _compile_options(compile), precision_of(update))
    ctx = Context(
        model=module,
        loss_fns=Named("loss for the optimizer", losses),
        optimizers=Named("optimizer", optimizers),
        train_data=train_loader,
        valid_data=valid_loader,
        evaluations=others,
        accelerator=accelerator,
        callbacks=machine.callbacks,
        min_epochs=least,
        max_epochs=most,
        hparams=dict(hparams or {}),
        opt_hparams=dict(opt_hparams or {}),
        read_batch=loading.BatchReader(accelerator.device, input, target, compute is None and _reads_target(losses, tallies)),
        pick=None if pred is None else getter(pred),
        on_host=reads_loss(machine, accelerator),
        backward=own_backward,
        scaler=_scaler(precision, lifecycle, accelerator),
        mask=Mask(accelerator.device) if _does(lifecycle, actions.report) else None,
        graph=graph_for(accelerator.device, update, optimizers, own_backward, compile if isinstance(compile, Mapping) else None, whole),
        verbose=verbose,
        clock=clock,
        seed=seed,
        split_state=split_state,
        opt_given=settings_of(optimizers),
        tallies=tallies,
        history=History(optimizers=tuple(names) if len(names) > 1 else (), sets=("train", "valid", *others)),
        opt_name=names[0] if names else "",
        opt=optimizers[names[0]] if names else None,  # type: ignore[arg-type]  # a lifecycle without `step` may have none
    )
    _set_losses(ctx, losses)
    for callback in machine.callbacks:
        callback.check_context(ctx)
    run = Run(ctx, machine, on_interrupt)
    if found is not None:
        restore(ctx, machine, found, allow_changes)
        run.at, found = found["state"], None  # its tensors need no memory while the run goes on
    return run.walk() if start else run


def evaluate(
    model: Run | torch.nn.Module,
    data: Any,
    *,
    loss: Loss | None = None,
    metrics: Metrics = None,
    callbacks: Callback | Iterable[Callback] = (),
    input: loading.Key = None,  # noqa: A002  # the word that users look for
    target: loading.Key = None,
    pred: str | None = None,
    dataloader_options: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    debug: bool = False,
) -> dict[str, Any]:
    """Losses and metrics of a model on data, as means over samples.

    Args:
        model: a run, whose loss, metrics and keys are used unless others are given here; or a module, with a `loss`.
        data: as in `fit`.
        loss: a function of prediction and target; None is the run's.
        metrics: as in `fit`, in place of the run's.
        callbacks: who watches; the lifecycle is `evaluation()`.
        input, target, pred, dataloader_options, device, debug: as in `fit`; None is the run's.

    It is computed in torch's inference mode, a little faster than without gradients alone, where that is safe: with callbacks, a
    `valid_compute` or a compiled model it is not used. See `statetrain.inferring`.

    Returns:
        The values by name: `loss`, and the metrics.

    Raises:
        ConfigError: the arguments do not suffice.
        KeyboardInterrupt: it was interrupted; a part of the data has no loss of the whole.
        MachineError: a callback stopped it, likewise.
    """
    refuse_several_processes()
    ctx, machine = _evaluating(model, data, loss, metrics, callbacks, input, target, pred, dataloader_options, device, debug)
    with inferring(ctx, modules_in(ctx)) if _alone(ctx, machine) else nullcontext():
        _walk_aside(ctx, machine)
    row = ctx.history[-1] if len(ctx.history) else {}
    return {name.removeprefix("valid_"): value for name, value in row.items() if name.startswith("valid_")}


def context_for(
    model: Run | torch.nn.Module,
    batch: Any,
    *,
    loss: Loss | Losses | None = None,
    metrics: Metrics = None,
    reads: Iterable[str] = (),
    input: loading.Key = None,  # noqa: A002  # the word that users look for
    target: loading.Key = None,
    pred: str | None = None,
    device: str | torch.device = "auto",
) -> Context:
    """A context with one batch in it, outside of any loop: to try keys, losses and metrics.

        ctx = st.context_for(run, batch, reads=["interms.**"])
        ctx["pred.logits"], ctx["interms.encoder"], ctx.flatten()
        st.Loss(F.cross_entropy, pred="pred.logits", target="batch.label")(ctx)

    The model is called as in an evaluation: in eval mode, without gradients. Model and run stay as they are.

    Args:
        model: a run, whose loss, metrics and keys are used unless others are given here; or a module.
        batch: one batch, as the data yields them.
        loss, metrics, input, target, pred, device: as in `evaluate`. A module without a loss gives a prediction alone.
        reads: what is to be captured, such as `"interms.encoder"`.

    Raises:
        ConfigError: the arguments do not suffice.
        BaseException: what the model or the loss raised.
    """
    refuse_several_processes()
    reader = Callback()
    reader.reads = tuple(reads)
    if isinstance(model, Run) or loss is not None or hasattr(model, "loss"):
        ctx, machine = _evaluating(model, [batch], loss, metrics, (reader,), input, target, pred, None, device)
    else:
        module, counted = _made(model), tally("valid", (), None, torch.device("cpu"))
        accelerator = _accelerator_of(None, module, device)
        ctx = _context_for(None, module, accelerator, [batch], input, target, pred, None, counted)
        machine = capturing(Machine(prediction(), (reader,)), accelerator.unwrap(module))
    last = next(name for name in ("valid_compute", "valid_loss", "predict_pred") if name in machine.lifecycle.names)
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
    input: loading.Key,  # noqa: A002  # as above
    target: loading.Key,
    pred: str | None,
    dataloader_options: Mapping[str, Any] | None,
    device: str | torch.device,
    debug: bool = False,
) -> tuple[Context, Machine]:
    """What an evaluation is made of."""
    run = model if isinstance(model, Run) else None
    module = _looking(run, model)
    accelerator = _accelerator_of(run, module, device)
    compute = None
    if run is not None and loss is None and "valid_compute" in run.lifecycle.names:
        compute = plain(run.lifecycle.state("valid_compute").action.function)  # type: ignore[union-attr]  # it is a Compute
    known = unbound(run.ctx.loss_fns) if run is not None and loss is None else {}
    losses: dict[str, Loss] = known if compute is not None or any(known.values()) else _losses(loss, module, {}, None, None, accelerator)
    if metrics is None and run is not None:
        metrics = run.ctx.tallies.get("valid", run.ctx.tallies["train"]).own
    counted = tally("valid", losses or {"opt": None}, metrics, accelerator.device)
    needed = compute is None and _reads_target(losses, {"valid": counted})
    ctx = _context_for(run, module, accelerator, data, input, target, pred, dataloader_options, counted, target_needed=needed)
    _set_losses(ctx, losses)
    ctx.optimizers = dict.fromkeys(losses)  # type: ignore[assignment]  # only their names count, one loss for each
    machine = Machine(evaluation(optimizers=max(len(losses), 1), compute=compute), _listeners(callbacks), debug=debug)
    if _interms(machine, *losses.values(), counted):
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
    input: loading.Key = None,  # noqa: A002  # the word that users look for
    pred: str | None = None,
    dataloader_options: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    debug: bool = False,
) -> Any:
    """What a model says about data, in the data's order.

    Args:
        model: a run, or a module.
        data: as in `fit`; a lone tensor is all inputs. What stands beside the inputs is not looked at.
        stack: whether the batches' predictions are joined along the first dimension; False gives a list of them.
        compute: a function of the context that returns the prediction for `ctx.input`, in place of calling the model.
        callbacks: who watches; the lifecycle is `prediction()`.
        input, pred, dataloader_options, device, debug: as in `fit`; None is the run's.

    Returns:
        The predictions, on the device where they were made, or the list of them. They are plain tensors, though they are
        computed in torch's inference mode, as `evaluate` does; with `stack=False`, it is not used.

    Raises:
        KeyboardInterrupt: it was interrupted.
        MachineError: a callback stopped it; a part of the predictions would pass for all.
    """
    refuse_several_processes()
    run = model if isinstance(model, Run) else None
    module = _looking(run, model)
    accelerator = _accelerator_of(run, module, device)
    if dataloader_options and dataloader_options.get("shuffle"):
        raise ConfigError("predictions come in the data's order; leave shuffle out of dataloader_options")
    ctx = _context_for(run, module, accelerator, data, input, None, pred, dataloader_options, tally("valid", (), None, accelerator.device))
    preds: Any = Gathering(samples_of(ctx.valid_data)) if stack else []
    ctx.buffers["preds"] = preds
    machine = Machine(prediction(compute=compute), _listeners(callbacks), debug=debug)
    if _interms(machine):
        ctx.model = accelerator.unwrap(module)  # as in an evaluation
    machine = capturing(machine, accelerator.unwrap(module))
    with inferring(ctx, modules_in(ctx)) if stack and _alone(ctx, machine) else nullcontext():  # what is joined outside is plain again
        _walk_aside(ctx, machine)
    return preds.joined() if stack else preds


# ---------------------------------------------------------------- what fit is made of


def refuse_several_processes() -> None:
    """Raises a `ConfigError` where torch runs several processes: they would train apart."""
    world = int(os.environ.get("WORLD_SIZE", "1") or 1)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        world = torch.distributed.get_world_size()
    if world > 1:
        raise ConfigError(
            f"statetrain runs in one process so far, got {world} (torch.distributed or WORLD_SIZE); each would train a model of "
            f"its own. Start one process, or wrap the loop yourself"
        )


def _accelerator(given: Any, device: str | torch.device) -> Accelerator:
    if given is None:
        return Accelerator(device)
    if device != "auto":
        raise ConfigError(f"device={device!r} would not be used: the accelerator has its own, {given.device}")
    return adapt(given)


def _compile_options(given: Any) -> dict[str, Any]:
    if given is True:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"compile must be True, False, or the options of torch.compile by name, got {given!r:.80}")
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in given.items()}  # torch takes some out of `options`


def _fused(lifecycle: Lifecycle, given: Any, callbacks: Sequence[Callback], losses: Mapping[str, Any], tallies: Mapping[str, Tally]) -> Lifecycle:
    """The lifecycle as it is to be walked: fused where that was asked for, and nobody reads what is within."""
    check_word(given)
    readers = {
        **{f"callback {name_of(callback)!r}": paths_in(callback.reads) for callback in callbacks if isinstance(callback, Callback)},  # the machine refuses others
        **{f"the loss for {name!r}": getattr(loss, "reads", ()) for name, loss in losses.items()},
        **{f"a metric of the set {name!r}": counted.reads for name, counted in tallies.items()},
    }
    captured = sorted((path, who) for who, paths in readers.items() for path in paths if root_of(path) in FIELDS)
    if given == "auto":
        free = not (in_the_way(lifecycle) or captured or listens_between(callbacks, lifecycle))
        return fuse(lifecycle) if free else lifecycle
    if given:
        lifecycle = fuse(lifecycle)
    if captured and _update(lifecycle) is not None:
        for callback in callbacks:
            hooks_of(callback, lifecycle)  # a listener is the better thing to name
        path, who = captured[0]
        raise ConfigError(
            f"{path!r} is read by {who}, and it comes to be within the states that are fused; train without fused=True, or with "
            f"fused='auto', which fuses where nobody reads in between"
        )
    return lifecycle


def _compiled(lifecycle: Lifecycle, apart: Lifecycle | None, optimizers: Mapping[str, Any], losses: Mapping[str, Any], backward: Any) -> Lifecycle:
    """The lifecycle with its fused states compiled as a whole, if there are any and this torch can; or `apart`, where that cannot be."""
    updates = {state.name: state.action for state in lifecycle.states if isinstance(state.action, Fused)}
    if not updates or not can_trace():
        return lifecycle
    for name, update in updates.items():
        if why := keeps_from_compiling(update, optimizers, losses, backward):
            if apart is not None:
                return apart
            raise ConfigError(f"fused=True with compile= compiles the update as a whole, but {why}")
        lifecycle = lifecycle.replace(name, action=attrs.evolve(update, compiled=True))
    return lifecycle


def _update(lifecycle: Lifecycle) -> Fused | None:
    """The action of the fused state; None if there is none."""
    return next((state.action for state in lifecycle.states if isinstance(state.action, Fused)), None)


def _is_compiled(module: torch.nn.Module) -> bool:
    return hasattr(module, "_orig_mod")


def _refuse_interms(module: torch.nn.Module, machine: Machine, losses: Mapping[str, Any], tallies: Mapping[str, Tally]) -> None:
    """What is compiled is one function: nothing comes out of the modules within it."""
    if not _is_compiled(module) or not (read := _interms(machine, *losses.values(), *tallies.values())):
        return
    parts = {
        **{f"callback {name_of(callback)!r}": paths_in(callback.reads) for callback in machine.callbacks},
        **{f"the loss for {name!r}": getattr(loss, "reads", ()) for name, loss in losses.items()},
        **{f"a metric of the set {name!r}": counted.reads for name, counted in tallies.items()},
    }
    who = next((who for who, paths in parts.items() if read[0] in paths), "a guard or an action")
    raise ConfigError(
        f"{read[0]!r} is read by {who}, and the model is compiled: what its modules return cannot be captured. Train without "
        f"compile=, or let the model return what is needed and read that as 'pred.<name>'"
    )


def _interms(machine: Machine, *more: Any) -> list[str]:
    """The outputs of modules that somebody reads."""
    return sorted(path for path in reads_of(machine, *more) if root_of(path) == "interms")


def _looking(run: Run | None, model: Any) -> torch.nn.Module:
    """The model to evaluate or to predict with: of a run that was compiled, what was compiled."""
    if run is None:
        return _made(model)
    return run.ctx.model if _is_compiled(run.ctx.model) else run.model


def _epochs(epochs: Any, max_steps: int | None, stop: Guard | None) -> tuple[int, float]:
    if epochs is None:
        if max_steps is None and stop is None:
            raise ConfigError("epochs=None has no end; give max_steps= or stop=, or a number of epochs")
        return 0, math.inf
    pair = epochs if isinstance(epochs, tuple) else (0, epochs)
    if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in pair):
        raise ConfigError(f"epochs must be a whole number of at least 0, or (least, most), got {epochs!r}")
    if pair[0] > pair[1]:
        raise ConfigError(f"epochs=({pair[0]}, {pair[1]}): the least number is above the most; write (least, most)")
    return pair


def _seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ConfigError(f"seed must be a whole number from 0 to 2**63 - 1, or None, got {seed!r}")
    return seed


def _by_key(data: Any, seed: int | None, name: str) -> Any:
    """Data that draws by key, if there is a seed and it can."""
    if seed is None or data is None:
        return data
    data, why = keyed(data, seed, name)
    if why:
        log.warning(
            "seed=%s does not reach the %s data: %s. A run that is continued goes through it again, which is exact if its order is "
            "decided when an epoch begins; give a DataLoader over a map-style dataset for more",
            seed, name, why,
        )  # fmt: skip
    return data


def _model(model: Any, hparams: Mapping[str, Any] | None, seed: int | None = None) -> torch.nn.Module:
    if isinstance(model, torch.nn.Module):
        if hparams:
            raise ConfigError("hparams are for making a model; this one is made already, so give its class, or leave hparams out")
        return model
    if isinstance(model, type) and issubclass(model, torch.nn.Module):
        try:
            with aside(key(seed, "model")) if seed is not None else nullcontext():
                return model(**(hparams or {}))
        except TypeError as error:
            error.add_note(f"statetrain: while making the model: {model.__name__}(**{dict(hparams or {})!r})")
            raise
    raise ConfigError(f"model must be a torch.nn.Module or a class of one, got {model!r:.80}")


def _made(model: Any) -> torch.nn.Module:
    if isinstance(model, type):
        raise ConfigError(f"the class {model.__name__} has learnt nothing; give a trained model, or the run that fit returned")
    return _model(model, None)


def _listeners(callbacks: Any) -> tuple[Callback, ...]:
    return tuple(callbacks) if isinstance(callbacks, Iterable) and not isinstance(callbacks, type) else (callbacks,)


def _tracing(trace: Any) -> tuple[Callback, ...]:
    if isinstance(trace, bool):
        return (Tracing(),) if trace else ()
    if not isinstance(trace, str | os.PathLike):
        raise ConfigError(f"trace must be True, False or the path of a file, got {trace!r:.80}; a Tracing goes to callbacks=")
    return (Tracing(file=trace),)


def _again(data: Any, epochs: float) -> Any:
    if epochs > 1 and hasattr(data, "__next__") and iter(data) is data:
        raise ConfigError(
            f"a {type(data).__name__} can be read once, and there are more epochs; give a list, a loader, or a function that makes one"
        )
    return data


def _for_validation(options: Mapping[str, Any] | None, data: Any) -> dict[str, Any] | None:
    """The loader options as they make sense for validation; none for a loader that is made already."""
    if options is None or loading.as_dataset(data) is None:
        return None
    return {name: value for name, value in options.items() if name not in ("shuffle", "sampler", "batch_sampler", "drop_last", "generator")}


def _optimizers(given: Any, model: torch.nn.Module, hparams: dict[str, Any], lifecycle: Lifecycle | None) -> dict[str, Optimizer]:
    if given is None:
        if lifecycle is not None and "step" not in lifecycle.names and _update(lifecycle) is None:
            return {}
        raise ConfigError("fit needs an optimizer; give optimizer=torch.optim.Adam, opt_hparams={'lr': 1e-3}, or an instance")
    if not isinstance(given, Mapping):
        return {"opt": _optimizer("opt", given, model, model, hparams)}
    if not given:
        raise ConfigError("optimizer={} names no optimizer")
    by_name = bool(hparams) and set(hparams) <= set(given)
    optimizers = {}
    for name, one in given.items():
        part = getattr(model, name, None)
        if not isinstance(one, Optimizer) and not isinstance(part, torch.nn.Module):
            parts = [child for child, _ in model.named_children()]
            raise ConfigError(
                f"optimizer {name!r} is a class, so it takes the parameters of model.{name}, which is no module{did_you_mean(name, parts)} "
                f"Or give an instance with the parameters that it is to train"
            )
        optimizers[name] = _optimizer(name, one, model, part, dict(hparams.get(name, {})) if by_name else hparams)
    return optimizers


def _optimizer(name: str, given: Any, model: torch.nn.Module, part: Any, hparams: dict[str, Any]) -> Optimizer:
    if isinstance(given, Optimizer):
        if hparams:
            raise ConfigError(f"opt_hparams are for making an optimizer; {name!r} is made already, so give its class, or leave opt_hparams out")
        optimizer = given
    else:
        parameters = [p for p in part.parameters() if p.requires_grad]
        if not parameters:
            raise ConfigError(f"the model has no parameter to train: {type(part).__name__} has none that requires a gradient")
        if not callable(given):
            raise ConfigError(f"optimizer must be an optimizer, its class, or a mapping of names to these, got {given!r:.80}")
        try:
            optimizer = given(parameters, **hparams)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"opt_hparams {hparams!r} do not make the optimizer {getattr(given, '__name__', given)}: {error}") from error
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(f"optimizer {name!r} must make a torch.optim.Optimizer, got {type(optimizer).__name__}")
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise ConfigError(
            f"optimizer {name!r} has none of the model's parameters, so training would change nothing; was it made for another "
            f"instance? Make it from this model's parameters(), or give its class"
        )
    for group in optimizer.param_groups:
        if not math.isfinite(group.get("lr", 0.0)):
            raise ConfigError(f"optimizer {name!r} has the learning rate {group['lr']}, which is no finite number")
    return optimizer


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether an optimizer's step cannot be made without a function that computes the loss, as LBFGS's."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _losses(
    given: Any,
    model: torch.nn.Module,
    optimizers: Mapping[str, Optimizer],
    compute: Any,
    lifecycle: Lifecycle | None,
    accelerator: Accelerator,
) -> dict[str, Any]:
    names = list(optimizers) or ["opt"]
    if given is None:
        given = getattr(model, "loss", None)
    if given is None and (compute is not None or lifecycle is not None):
        return dict.fromkeys(names)
    if isinstance(given, Mapping):
        if set(given) != set(names):
            raise ConfigError(f"loss names {sorted(given)} must be those of the optimizers, {sorted(names)}")
        losses = {name: given[name] for name in names}
    else:
        losses = dict.fromkeys(names, given)
    for loss in losses.values():
        if isinstance(loss, type):
            raise ConfigError(f"loss must be a function of prediction and target, got the class {loss.__name__}; write {loss.__name__}()")
        if not callable(loss):
            got = "none" if loss is None else repr(loss)
            raise ConfigError(f"loss must be a function of prediction and target, got {got}; for example loss=torch.nn.functional.cross_entropy")
        for module in modules_of(loss).values():
            module.to(accelerator.device)
    return losses


def _evaluations(given: Any) -> list[Evaluation]:
    found = [given] if isinstance(given, Evaluation) else list(given)
    for one in found:
        if not isinstance(one, Evaluation):
            raise ConfigError(f'evaluations are made with their name: Evaluation("test", data); got {one!r:.80}')
    twice = [one.name for i, one in enumerate(found) if one.name in [other.name for other in found[:i]]]
    if twice:
        raise ConfigError(f"two evaluations are called {twice[0]!r}; give each a name of its own")
    return found


def _check_evaluations(lifecycle: Lifecycle, names: list[str]) -> None:
    """A lifecycle that was made by the user has the scopes of all evaluations, and no others."""
    there = [state.name for state in lifecycle.states if isinstance(state.mode, Evaluating) and state.name != "valid"]
    if missing := [name for name in names if name not in there]:
        raise ConfigError(f"lifecycle {lifecycle.name!r} has no evaluation {missing[0]!r}; make it with supervised(evaluations={{{missing[0]!r}: ...}})")
    if extra := [name for name in there if name not in names]:
        raise ConfigError(f"lifecycle {lifecycle.name!r} evaluates {extra[0]!r}, but there is no data for it; give evaluations=[Evaluation({extra[0]!r}, data)]")


def _set_losses(ctx: Context, losses: Mapping[str, Any]) -> None:
    """Gives a context its losses; those by keys read it."""
    ctx.loss_fns = bound(losses, ctx)
    ctx.loss_fn = next(iter(ctx.loss_fns.values()), None)


def _reads_target(losses: Mapping[str, Any], tallies: Mapping[str, Tally]) -> bool:
    """Whether a batch without a target is of no use: a loss or a metric takes it."""
    keyed = [loss for loss in losses.values() if isinstance(loss, KeyedLoss | Losses)]
    if len(keyed) < sum(loss is not None for loss in losses.values()):
        return True
    named = any(root_of(path) == "target" for loss in keyed for path in loss.reads)
    return named or (bool(keyed) and any(counted.takes_pred for counted in tallies.values()))


def _check_losses(losses: Mapping[str, Any], lifecycle: Lifecycle) -> None:
    """Every state that asks for the loss function needs one: `compute` may do without in training, and validation not."""
    if all(loss is not None for loss in losses.values()):
        return
    for state in lifecycle.states:
        if any(plain(action) in (actions.loss, actions.valid_loss) for action in getattr(state.action, "actions", (state.action,))):
            raise ConfigError(f"state {state.name!r} needs a loss, a function of prediction and target; give loss=, or valid_compute=")


def _check_turns(optimizers: Mapping[str, Any], lifecycle: Lifecycle) -> None:
    """Several optimizers need a lifecycle that lets each have its turn; else the first alone would ever step."""
    parts = [*(plain(state.action) for state in lifecycle.states), *(arrow.effect for arrow in lifecycle.transitions)]
    own = any(part is not None and not getattr(part, "__module__", "").startswith("statetrain.") for part in parts)
    own = own or any(isinstance(part, Compute) for part in parts)  # one's own code may select, or step, as it likes
    if len(optimizers) > 1 and ("step" in lifecycle.names or _update(lifecycle) is not None) and actions.select_next not in parts and not own:
        raise ConfigError(
            f"there are {len(optimizers)} optimizers, {', '.join(map(repr, optimizers))}, and in lifecycle {lifecycle.name!r} only the first "
            f"would ever step; make it with supervised(optimizers={len(optimizers)})"
        )


def _does(lifecycle: Lifecycle, action: Callable[[Any], None]) -> bool:
    """Whether a state does this, whatever a phase calls it."""
    return any(state.action is action for state in lifecycle.states)


def _scaler(precision: Precision | None, lifecycle: Lifecycle, accelerator: Accelerator) -> torch.amp.GradScaler | None:
    """What scales the loss, if the lifecycle scales it."""
    if not _does(lifecycle, actions.unscale):
        return None
    given = precision.scaler if isinstance(precision, MixedPrecision) else None
    return torch.amp.GradScaler(accelerator.device.type) if given is None else given


def _refuse_options(lifecycle: Lifecycle, options: dict[str, Any]) -> None:
    defaults = {"non_finite": "raise", "accumulate": 1, "check_gradients": False, "check": "now", "prefetch": False}
    given = [name for name, value in options.items() if value != defaults.get(name)]
    if given:
        raise ConfigError(f"{', '.join(given)} would not be used: lifecycle {lifecycle.name!r} is made already; make it with them: supervised({given[0]}=...)")


def reads_loss(machine: Machine, accelerator: Accelerator) -> bool:
    """Whether the loss is read as a number in every batch: on the CPU always, elsewhere if somebody reads it."""
    late = _does(machine.lifecycle, actions.report)  # then the device finds out what is not finite
    return (accelerator.device.type == "cpu" and not late) or "loss_value" in reads_of(machine)


# ---------------------------------------------------------------- what evaluate and predict share


def _accelerator_of(run: Run | None, module: torch.nn.Module, device: str | torch.device) -> Accelerator:
    if run is not None and device == "auto":
        assert run.ctx.accelerator is not None
        return run.ctx.accelerator
    accelerator = Accelerator(device)
    accelerator.prepare(module)
    return accelerator


def _context_for(
    run: Run | None,
    module: torch.nn.Module,
    accelerator: Accelerator,
    data: Any,
    input_key: loading.Key,
    target_key: loading.Key,
    pred: str | None,
    options: Mapping[str, Any] | None,
    counted: Tally,
    target_needed: bool = False,
) -> Context:
    reader = run.ctx.read_batch if run is not None else None
    if isinstance(reader, loading.BatchReader):
        input_key = reader.input if input_key is None else input_key
        target_key = reader.target if target_key is None and target_needed else target_key
    pick = getter(pred) if pred is not None else run.ctx.pick if run is not None else None
    return Context(
        model=module,
        valid_data=loading.as_loader(data, name="data", options=options),
        accelerator=accelerator,
        read_batch=loading.BatchReader(accelerator.device, input_key, target_key, target_needed),
        pick=pick,
        tallies={"valid": counted},
        opt_name=next(iter(counted.losses), ""),
        hparams=dict(run.ctx.hparams) if run is not None else {},
        opt_hparams=dict(run.ctx.opt_hparams) if run is not None else {},
    )


def _alone(ctx: Context, machine: Machine) -> bool:
    """Whether nobody but the model, the loss and the metrics will see what is computed, as it is; see `inferring`."""
    own = any(isinstance(state.action, Compute | Predicting) for state in machine.lifecycle.states)
    return not machine.callbacks and not own and not _is_compiled(ctx.model)


def _walk_aside(ctx: Context, machine: Machine) -> None:
    """Runs a machine beside a fit. An interrupt is passed on, and so is a stop: part of an answer is not the answer."""
    ctx.started = ctx.clock()
    run = Run(ctx, machine)._walk(whole=True)
    if isinstance(run.outcome, Interrupted):
        raise KeyboardInterrupt(run.outcome.reason)
    if isinstance(run.outcome, Stopped):
        raise MachineError(
            f"the {machine.lifecycle.name} was stopped after {ctx.valid_iter} batches ({run.outcome.reason}), so it has no result; "
            f"to look at a part of the data, give that part"
        )
