"""Training: a context, a lifecycle and a machine, made of what a user has."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import attrs
import torch

from statetrain.callback import Callback, hooks_of, name_of
from statetrain.callbacks.checkpoint import find
from statetrain.checkpoints.restoring import restore
from statetrain.checkpoints.snapshot import settings_of
from statetrain.compute.accelerator import Accelerator
from statetrain.compute.capture import FIELDS, capturing
from statetrain.compute.compiling import CompiledUpdate, can_trace, precision_of
from statetrain.compute.compiling import in_the_way as keeps_from_compiling
from statetrain.compute.cuda_graph import graph_for
from statetrain.compute.keeping import has_buffers
from statetrain.compute.masking import Mask
from statetrain.context.context import Context
from statetrain.context.history import History
from statetrain.context.keys import getter, root_of
from statetrain.contracts.declaring import check_fields, check_monitors, paths_in
from statetrain.data import loading, reading
from statetrain.data.datasets import as_dataset
from statetrain.data.splitting import split
from statetrain.errors import ConfigError
from statetrain.guards.base import Guard
from statetrain.guards.criteria import Every, Spike
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.losses.losses import Losses, modules_of
from statetrain.losses.metrics import Metrics, Tally, tally
from statetrain.machine.machine import Machine
from statetrain.naming import Named, did_you_mean
from statetrain.standard import actions
from statetrain.standard.computing import Compute
from statetrain.standard.evaluations import Evaluation
from statetrain.standard.fusing import Fused, check_word, fuse, in_the_way, listens_between
from statetrain.standard.modes import Evaluating
from statetrain.standard.options import Policy
from statetrain.standard.precision import MixedPrecision, Precision, mixed_precision, plain
from statetrain.standard.supervised import supervised
from statetrain.trace import Tracing
from statetrain.training.preparing import (
    Loss,
    Optimizer,
    accelerator_for,
    by_key,
    does,
    evaluations_of,
    interms_read,
    is_compiled,
    listeners,
    losses_of,
    model_of,
    needs_closure,
    optimizers_of,
    reads_loss,
    reads_target,
    refuse_several_processes,
    set_losses,
    update_of,
)
from statetrain.training.run import OnInterrupt, Run


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
    input: reading.Key = None,  # noqa: A002  # the word that users look for
    target: reading.Key = None,
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
        train: a DataLoader, a Dataset, tensors or arrays with one row a sample (`(inputs, targets)`
            or a dict), an iterable of batches with or without a length, or a function that makes
            one.
        valid: validation data, likewise; or a share of the training data between 0 and 1. None: no
            validation.
        loss: a function of prediction and target that returns a scalar tensor; a `Loss`, whose
            arguments are named by keys, or several weighted ones in `Losses`. With several
            optimizers, one for all or one for each by name. None takes the model's own `loss`
            method.
        optimizer: an instance, or a class or function that is called with the model's parameters
            and `opt_hparams`; a mapping of names to these for several. With several, classes get
            `model.<name>`'s parameters.
        epochs: how many, at least 0; `(least, most)` to keep `stop` from ending the run before
            `least`; None: no limit.
        hparams: arguments for a model class.
        opt_hparams: arguments for an optimizer class; for several, by name, or the same for all.
        metrics: functions of prediction and target (averaged over samples) or objects with
            `update`, `compute` and `reset`; one, several, or by name; by keys with `Metric`. They
            become columns `train_<name>` and `valid_<name>`.
        train_metrics, valid_metrics: the same, for one of the sets alone.
        stop, non_finite, check_gradients, spike, check: see `supervised`.
        accumulate, max_steps, compute, valid_compute: likewise.
        validate: when to validate; None is at the end of every epoch.
        evaluations: other data to look at, each with a name, metrics and times of its own.
        precision: "bf16" or "fp16", or a `MixedPrecision`; None computes in the types that the
            model has. `evaluate` and `predict` do so always.
        fused: whether `pred`, `loss`, `backward` and `step` are one state, `update`, which CUDA
            replays as a graph; it takes `check="late"` or `non_finite="ignore"`, and callbacks that
            do not listen in between. "auto": where that is so. See `fuse` and
            `statetrain.compute.cuda_graph`.
        prefetch: whether each batch is placed on the device while the one before is trained on: it
            is drawn one batch ahead, which a checkpoint knows. On CUDA alone; elsewhere nothing
            could overlap.
        callbacks: who watches, in order.
        lifecycle: one of your own, in place of `supervised(...)` with the options above.
        input, target: keys into a batch, where it is not `(input, target)`; see `BatchReader`.
        pred: the key of the part of the model's output that the loss and the metrics take; None is
            all of it.
        dataloader_options: arguments for the DataLoaders made here, such as `batch_size` (32 unless
            said).
        device: "auto" (CUDA, else MPS, else CPU), or a device.
        accelerator: what places and prepares model and optimizers, in place of `device`: an
            `Accelerator`, or Hugging Face's `accelerate.Accelerator`.
        compile: whether `torch.compile` compiles the model; or its options, as `{"mode":
            "max-autotune"}`. Weights keep their names, so a run may be continued with or without
            it. What modules return within a compiled model cannot be captured: who reads
            `interms.*` is refused. With `fused`, the loss, the gradients and the step are compiled
            with it, as one function; see `statetrain.compute.compiling`.
        seed: makes every random number a function of what it is for: the validation share, a model
            made from a class, the order of each epoch, each sample's augmentation (of DataLoaders
            over map-style datasets, whatever their number of workers), each batch's dropout. None:
            torch's global generators, as they are.
        resume: where to go on from: "last" or "best" of the `Checkpoint` among the callbacks, which
            starts anew if there is none yet; or the path of a checkpoint, or of a directory of
            them. The other arguments are those of the run that was saved; workers, callbacks,
            `epochs` and what is printed may differ.
        allow_changes: what else may differ: "lifecycle", "model", "optimizer", "data", "seed", or
            True for all. What fits is loaded; settings of optimizers that are given differently now
            hold.
        trace: whether to record the transitions, for `run.trace`; or the path of a file to write
            them to as well, with times, counters and the loss, for `statetrain watch` and
            `statetrain trace`. `Tracing` among the callbacks has more.
        debug: whether actions, guards and callbacks are held to what they declare that they read
            and write; slower.
        verbose: whether callbacks that print may do so.
        on_interrupt: what a signal (Ctrl-C, SIGTERM, SIGHUP, SIGUSR1) leads to once the run has
            ended in order: "return" it, "raise" KeyboardInterrupt, or "exit" with 128 and the
            signal's number, as a scheduler expects.
        clock: seconds from any moment on.
        start: whether to train; else the run is returned as it stands before the first transition,
            for `run.walk()` or `run.steps()`.

    Returns:
        The run: outcome, history, model.

    Raises:
        ConfigError: the arguments cannot make a run; nothing has been trained.
        CheckpointError: there is something to resume from, but it is not whole, or it is of another
            run.
        BaseException: what the model, the loss, the data or a callback raised, as it was; its
            attribute `run` is the run.
    """
    refuse_several_processes()
    ways = ("return", "raise", "exit")
    if on_interrupt not in ways:
        raise ConfigError(
            f"on_interrupt must be one of {', '.join(map(repr, ways))}, got"
            f" {on_interrupt!r}{did_you_mean(str(on_interrupt), ways)}"
        )
    if not isinstance(prefetch, bool):
        raise ConfigError(
            f"prefetch must be True or False, got {prefetch!r:.80}; it is one batch ahead"
        )
    least, most = _epochs(epochs, max_steps, stop)
    callbacks = listeners(callbacks)
    found = None if resume is None else find(resume, callbacks)
    seed = None if seed is None else _seed(seed)
    module = model_of(model, hparams, seed)
    accelerator = accelerator_for(accelerator, device)
    loaders = _loaders(train, valid, evaluations_of(evaluations), most, seed, dataloader_options)
    given = optimizer.values() if isinstance(optimizer, Mapping) else (optimizer,)
    accelerator.prepare(module, [one for one in given if isinstance(one, Optimizer)])
    optimizers = optimizers_of(optimizer, module, dict(opt_hparams or {}), lifecycle)
    losses = losses_of(loss, module, optimizers, compute, lifecycle, accelerator)
    module, optimizers = accelerator.wrap(module, optimizers)
    compiling = None if compile is False else _compile_options(compile)
    if compiling is not None:
        module = accelerator.compile(module, compiling)
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
        "prefetch": prefetch and accelerator.device.type == "cuda",
    }
    if lifecycle is None:
        if loaders.valid is None:
            _refuse_unused(
                validate=validate,
                valid_metrics=valid_metrics,
                valid_compute=None if loaders.evaluated else valid_compute,
            )
        due = (
            None if loaders.valid is None else Every(1, "epochs") if validate is None else validate
        )
        lifecycle = supervised(
            validate=due,
            optimizers=max(len(optimizers), 1),
            closure=any(map(needs_closure, optimizers.values())),
            min_epochs=least,
            seeded=seed is not None,
            buffers=has_buffers(
                [module, *(part for loss in losses.values() for part in modules_of(loss).values())]
            ),
            # Its converter has seen to it
            evaluations={one.name: one.when for one in loaders.evaluated},  # type: ignore[misc]
            **options,  # type: ignore[arg-type]  # a dict of options has no type for each
        )
    else:
        _refuse_options(lifecycle, {**options, "validate": validate, "min_epochs": least or None})
        if loaders.valid is None and "valid" in _evaluated(lifecycle):
            raise ConfigError(
                f"lifecycle {lifecycle.name!r} has a state 'valid', but there is no validation"
                " data; give valid=, or use life.without('valid')"
            )
    _check_evaluations(lifecycle, list(loaders.others))
    if precision is not None:
        lifecycle = mixed_precision(lifecycle, precision)
    _check_losses(losses, lifecycle)
    _check_turns(optimizers, lifecycle)
    if seed is None and any(
        arrow.effect in (actions.count_and_seed_batch, actions.count_and_seed_valid_batch)
        for arrow in lifecycle.transitions
    ):
        raise ConfigError(
            f"lifecycle {lifecycle.name!r} seeds each batch by the run's seed; give seed=, or make"
            " it without seeded=True"
        )
    tallies = _tallies(loaders, losses, metrics, train_metrics, valid_metrics, accelerator.device)
    everyone = (*callbacks, *_tracing(trace))
    # None stands for what ours does, without the call.
    own_backward = (
        None if type(accelerator).backward is Accelerator.backward else accelerator.backward
    )
    apart, lifecycle = lifecycle, _fused(lifecycle, fused, everyone, losses, tallies)
    if compiling is not None:
        lifecycle = _compiled(
            lifecycle, apart if fused == "auto" else None, optimizers, losses, own_backward
        )
    machine = Machine(lifecycle, everyone, debug=debug)
    _refuse_interms(module, machine, losses, tallies)
    machine = capturing(machine, accelerator.unwrap(module), *losses.values(), *tallies.values())
    check_fields(machine, Context)
    columns = [column for counted in tallies.values() for column in counted.columns]
    check_monitors(
        machine,
        columns,
        "" if "valid" in tallies else "; this run has no validation data, give valid=",
    )
    names = list(optimizers)
    update = update_of(lifecycle)
    whole = None
    if update is not None and update.compiled and compiling is not None:
        whole = CompiledUpdate(
            accelerator.compile,
            accelerator.unwrap(module),
            compiling,
            precision_of(update),
            lenient=fused == "auto",
        )
    # A lifecycle without `step` may have none
    ctx = Context(
        model=module,
        loss_fns=Named("loss for the optimizer", losses),
        optimizers=Named("optimizer", optimizers),
        train_data=loaders.train,
        valid_data=loaders.valid,
        evaluations=loaders.others,
        accelerator=accelerator,
        callbacks=machine.callbacks,
        min_epochs=least,
        max_epochs=most,
        hparams=dict(hparams or {}),
        opt_hparams=dict(opt_hparams or {}),
        read_batch=reading.BatchReader(
            accelerator.device, input, target, compute is None and reads_target(losses, tallies)
        ),
        pick=None if pred is None else getter(pred),
        on_host=reads_loss(machine, accelerator),
        backward=own_backward,
        scaler=_scaler(precision, lifecycle, accelerator),
        mask=Mask(accelerator.device) if does(lifecycle, actions.report) else None,
        graph=graph_for(accelerator.device, update, optimizers, own_backward, compiling, whole),
        verbose=verbose,
        clock=clock,
        seed=seed,
        split_state=loaders.split_state,
        opt_given=settings_of(optimizers),
        tallies=tallies,
        history=History(
            optimizers=tuple(names) if len(names) > 1 else (),
            sets=("train", "valid", *loaders.others),
        ),
        opt_name=names[0] if names else "",
        opt=optimizers[names[0]] if names else None,  # type: ignore[arg-type]
    )
    set_losses(ctx, losses)
    for callback in machine.callbacks:
        callback.check_context(ctx)
    run = Run(ctx, machine, on_interrupt)
    if found is not None:
        restore(ctx, machine, found, allow_changes)
        run.at, found = found["state"], None  # its tensors need no memory while the run goes on
    return run.walk() if start else run


class _Loaders(NamedTuple):
    """The data of a run.

    Attributes:
        train, valid: what to iterate over; `valid` is None if there is none.
        evaluated: the evaluations.
        others: their data, by name.
        split_state: the generator's state with which the validation share was drawn; None if there
            is none.
    """

    train: Any
    valid: Any
    evaluated: list[Evaluation]
    others: dict[str, Any]
    split_state: torch.Tensor | None


def _loaders(
    train: Any,
    valid: Any,
    evaluated: list[Evaluation],
    most: float,
    seed: int | None,
    options: Mapping[str, Any] | None,
) -> _Loaders:
    """The data as it is iterated over. One-shot iterators are refused, before a model is moved or an optimizer made."""
    split_state = None
    if isinstance(valid, float | int) and not isinstance(valid, bool):
        generator = torch.default_generator if seed is None else torch.Generator().manual_seed(seed)
        split_state = generator.get_state()
        train, valid = split(train, valid, generator)

    def looked_at(data: Any, epochs: float, name: str) -> Any:
        return loading.as_loader(
            _again(data, epochs), name=name, options=_for_validation(options, data)
        )

    train_loader = loading.as_loader(
        _again(train, most), name="train", shuffle=True, options=options
    )
    valid_loader = None if valid is None else looked_at(valid, most, "valid")
    train_loader, valid_loader = (
        by_key(train_loader, seed, "train"),
        by_key(valid_loader, seed, "valid"),
    )
    others = {
        one.name: by_key(looked_at(one.data, 2, one.name), seed, one.name) for one in evaluated
    }
    return _Loaders(train_loader, valid_loader, evaluated, others, split_state)


def _tallies(
    loaders: _Loaders,
    losses: Mapping[str, Any],
    metrics: Metrics,
    train_metrics: Metrics,
    valid_metrics: Metrics,
    device: torch.device,
) -> dict[str, Tally]:
    """What sums up the losses and metrics of each set."""
    if isinstance(metrics, Iterator):
        metrics = list(metrics)  # they are read for each set
    tallies = {"train": tally("train", losses, metrics, device, train_metrics)}
    if loaders.valid is not None:
        tallies["valid"] = tally("valid", losses, metrics, device, valid_metrics)
    for one in loaders.evaluated:
        tallies[one.name] = tally(
            one.name, losses, metrics if one.metrics is None else None, device, one.metrics
        )
    return tallies


def _compile_options(given: Any) -> dict[str, Any]:
    if given is True:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(
            "compile must be True, False, or the options of torch.compile by name, got"
            f" {given!r:.80}"
        )
    return dict(given)


def _fused(
    lifecycle: Lifecycle,
    given: Any,
    callbacks: Sequence[Callback],
    losses: Mapping[str, Any],
    tallies: Mapping[str, Tally],
) -> Lifecycle:
    """The lifecycle as it is to be walked: fused where that was asked for, and nobody reads what is within."""
    check_word(given)
    readers = {
        **{
            f"callback {name_of(callback)!r}": paths_in(callback.reads)
            for callback in callbacks
            if isinstance(callback, Callback)
        },  # the machine refuses others
        **{f"the loss for {name!r}": getattr(loss, "reads", ()) for name, loss in losses.items()},
        **{f"a metric of the set {name!r}": counted.reads for name, counted in tallies.items()},
    }
    captured = sorted(
        (path, who) for who, paths in readers.items() for path in paths if root_of(path) in FIELDS
    )
    if given == "auto":
        free = not (in_the_way(lifecycle) or captured or listens_between(callbacks, lifecycle))
        return fuse(lifecycle) if free else lifecycle
    if given:
        lifecycle = fuse(lifecycle)
    if captured and update_of(lifecycle) is not None:
        for callback in callbacks:
            hooks_of(callback, lifecycle)  # a listener is the better thing to name
        path, who = captured[0]
        raise ConfigError(
            f"{path!r} is read by {who}, and it comes to be within the states that are fused; train"
            " without fused=True, or with fused='auto', which fuses where nobody reads in between"
        )
    return lifecycle


def _compiled(
    lifecycle: Lifecycle,
    apart: Lifecycle | None,
    optimizers: Mapping[str, Any],
    losses: Mapping[str, Any],
    backward: Any,
) -> Lifecycle:
    """The lifecycle with its fused states compiled as a whole, if there are any and this torch can; or `apart`, where that cannot be."""
    updates = {
        state.name: state.action for state in lifecycle.states if isinstance(state.action, Fused)
    }
    if not updates or not can_trace():
        return lifecycle
    for name, update in updates.items():
        if why := keeps_from_compiling(update, optimizers, losses, backward):
            if apart is not None:
                return apart
            raise ConfigError(f"fused=True with compile= compiles the update as a whole, but {why}")
        lifecycle = lifecycle.replace(name, action=attrs.evolve(update, compiled=True))
    return lifecycle


def _refuse_interms(
    module: torch.nn.Module,
    machine: Machine,
    losses: Mapping[str, Any],
    tallies: Mapping[str, Tally],
) -> None:
    """What is compiled is one function: nothing comes out of the modules within it."""
    if not is_compiled(module) or not (
        read := interms_read(machine, *losses.values(), *tallies.values())
    ):
        return
    parts = {
        **{
            f"callback {name_of(callback)!r}": paths_in(callback.reads)
            for callback in machine.callbacks
        },
        **{f"the loss for {name!r}": getattr(loss, "reads", ()) for name, loss in losses.items()},
        **{f"a metric of the set {name!r}": counted.reads for name, counted in tallies.items()},
    }
    who = next((who for who, paths in parts.items() if read[0] in paths), "a guard or an action")
    raise ConfigError(
        f"{read[0]!r} is read by {who}, and the model is compiled: what its modules return cannot"
        " be captured. Train without compile=, or let the model return what is needed and read"
        " that as 'pred.<name>'"
    )


def _epochs(epochs: Any, max_steps: int | None, stop: Guard | None) -> tuple[int, float]:
    if epochs is None:
        if max_steps is None and stop is None:
            raise ConfigError(
                "epochs=None has no end; give max_steps= or stop=, or a number of epochs"
            )
        return 0, math.inf
    pair = epochs if isinstance(epochs, tuple) else (0, epochs)
    if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in pair):
        raise ConfigError(
            f"epochs must be a whole number of at least 0, or (least, most), got {epochs!r}"
        )
    if pair[0] > pair[1]:
        raise ConfigError(
            f"epochs=({pair[0]}, {pair[1]}): the least number is above the most; write (least,"
            " most)"
        )
    return pair


def _seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ConfigError(f"seed must be a whole number from 0 to 2**63 - 1, or None, got {seed!r}")
    return seed


def _tracing(trace: Any) -> tuple[Callback, ...]:
    if isinstance(trace, bool):
        return (Tracing(),) if trace else ()
    if not isinstance(trace, str | os.PathLike):
        raise ConfigError(
            f"trace must be True, False or the path of a file, got {trace!r:.80}; a Tracing goes to"
            " callbacks="
        )
    return (Tracing(file=trace),)


def _again(data: Any, epochs: float) -> Any:
    if epochs > 1 and hasattr(data, "__next__") and iter(data) is data:
        raise ConfigError(
            f"a {type(data).__name__} can be read once, and there are more epochs; give a list, a"
            " loader, or a function that makes one"
        )
    return data


def _for_validation(options: Mapping[str, Any] | None, data: Any) -> dict[str, Any] | None:
    """The loader options as they make sense for validation; none for a loader that is made already."""
    if options is None or as_dataset(data) is None:
        return None
    return {
        name: value
        for name, value in options.items()
        if name not in ("shuffle", "sampler", "batch_sampler", "drop_last", "generator")
    }


def _check_evaluations(lifecycle: Lifecycle, names: list[str]) -> None:
    """A lifecycle that was made by the user has the scopes of all evaluations, and no others."""
    there = [name for name in _evaluated(lifecycle) if name != "valid"]
    if missing := [name for name in names if name not in there]:
        raise ConfigError(
            f"lifecycle {lifecycle.name!r} has no evaluation {missing[0]!r}; make it with"
            f" supervised(evaluations={{{missing[0]!r}: ...}})"
        )
    if extra := [name for name in there if name not in names]:
        raise ConfigError(
            f"lifecycle {lifecycle.name!r} evaluates {extra[0]!r}, but there is no data for it;"
            f" give evaluations=[Evaluation({extra[0]!r}, data)]"
        )


def _evaluated(lifecycle: Lifecycle) -> list[str]:
    """The sets that a lifecycle evaluates: "valid", and the names of evaluations."""
    modes = [state.mode for state in lifecycle.states]
    return list(dict.fromkeys(mode.set for mode in modes if isinstance(mode, Evaluating)))


def _check_losses(losses: Mapping[str, Any], lifecycle: Lifecycle) -> None:
    """Every state that asks for the loss function needs one: `compute` may do without in training, and validation not."""
    if all(loss is not None for loss in losses.values()):
        return
    for state in lifecycle.states:
        if any(
            plain(action) in (actions.loss, actions.valid_loss)
            for action in getattr(state.action, "actions", (state.action,))
        ):
            raise ConfigError(
                f"state {state.name!r} needs a loss, a function of prediction and target; give"
                " loss=, or valid_compute="
            )


def _check_turns(optimizers: Mapping[str, Any], lifecycle: Lifecycle) -> None:
    """Several optimizers need a lifecycle that lets each have its turn; else the first alone would ever step."""
    parts = [
        *(plain(state.action) for state in lifecycle.states),
        *(arrow.effect for arrow in lifecycle.transitions),
    ]
    own = any(
        part is not None and not getattr(part, "__module__", "").startswith("statetrain.")
        for part in parts
    )
    # One's own code may select, or step, as it likes
    own = own or any(isinstance(part, Compute) for part in parts)
    if (
        len(optimizers) > 1
        and (lifecycle.by_role("step") or update_of(lifecycle) is not None)
        and actions.select_next not in parts
        and not own
    ):
        raise ConfigError(
            f"there are {len(optimizers)} optimizers, {', '.join(map(repr, optimizers))}, and in"
            f" lifecycle {lifecycle.name!r} only the first would ever step; make it with"
            f" supervised(optimizers={len(optimizers)})"
        )


def _scaler(
    precision: Precision | None, lifecycle: Lifecycle, accelerator: Accelerator
) -> torch.amp.GradScaler | None:
    """What scales the loss, if the lifecycle scales it."""
    if not does(lifecycle, actions.unscale):
        return None
    given = precision.scaler if isinstance(precision, MixedPrecision) else None
    return torch.amp.GradScaler(accelerator.device.type) if given is None else given


def _refuse_unused(**options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise ConfigError(f"{name} would not be used: there is no validation data; give valid=")


def _refuse_options(lifecycle: Lifecycle, options: dict[str, Any]) -> None:
    defaults = {
        "non_finite": "raise",
        "accumulate": 1,
        "check_gradients": False,
        "check": "now",
        "prefetch": False,
    }
    given = [name for name, value in options.items() if value != defaults.get(name)]
    if given:
        raise ConfigError(
            f"{', '.join(given)} would not be used: lifecycle {lifecycle.name!r} is made already;"
            f" make it with them: supervised({given[0]}=...)"
        )
