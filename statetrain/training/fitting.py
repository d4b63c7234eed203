"""Training: a context, a lifecycle and a machine, made of what a user has."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Never, Unpack

import torch

from statetrain.callback import Callback
from statetrain.compute.uncompiled import uncompiled
from statetrain.data.counting import Size
from statetrain.data.reading import Key
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.losses.losses import Losses
from statetrain.losses.metrics import Metrics
from statetrain.standard.evaluations import Evaluation
from statetrain.standard.options import FitArguments
from statetrain.training.run import OnInterrupt, Run
from statetrain.training.setup.calling import arguments_in, check_call, listeners
from statetrain.training.setup.data import load_data
from statetrain.training.setup.model import Optimizer, accelerator_for, make_model
from statetrain.training.setup.objective import AnyLoss, make_objective
from statetrain.training.setup.ranks import ranks_of
from statetrain.training.setup.starting import begin, find_saved
from statetrain.training.setup.state import make_context, parts_for, reader_for, settings_for
from statetrain.training.setup.table import RunParts, make_lifecycle
from statetrain.training.setup.walker import make_machine


@uncompiled
def fit(
    model: torch.nn.Module | type[torch.nn.Module],
    train: Any,
    *others: Never,
    valid: Any = None,
    loss: AnyLoss | Losses | Mapping[str, AnyLoss | Losses] | None = None,
    optimizer: Optimizer | Callable[..., Optimizer] | Mapping[str, Any] | None = None,
    epochs: int | tuple[int, int] | None = 10,
    hparams: Mapping[str, Any] | None = None,
    opt_hparams: Mapping[str, Any] | None = None,
    metrics: Metrics = None,
    train_metrics: Metrics = None,
    valid_metrics: Metrics = None,
    evaluations: Evaluation | Iterable[Evaluation] = (),
    callbacks: Callback | Iterable[Callback] = (),
    lifecycle: Lifecycle | None = None,
    input: Key = None,  # noqa: A002  # the word that users look for
    target: Key = None,
    size: Size = None,
    pred: str | None = None,
    dataloader_options: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    accelerator: Any = None,
    compile: bool | str | Mapping[str, Any] = False,  # noqa: A002  # torch's own word
    seed: int | None = None,
    resume: str | int | os.PathLike[str] | None = None,
    allow_changes: bool | str | Collection[str] = (),
    trace: bool | str | os.PathLike[str] = False,
    debug: bool = False,
    verbose: bool = True,
    on_interrupt: OnInterrupt = "return",
    start: bool = True,
    **options: Unpack[FitArguments],
) -> Run:
    """Trains a model.

    Args:
        model: a module, trained in place; or a class, made with `hparams`.
        train: a DataLoader, a Dataset, tensors or arrays with one row a sample (`(inputs, targets)`
            or a dict), an iterable of batches with or without a length, or a function that makes
            one.
        others: none; all that follows is given by name.
        valid: validation data, likewise; or a share of the training data between 0 and 1. None: no
            validation.
        loss: a function of prediction and target that returns a scalar tensor; a `Loss`, whose
            arguments are named by keys, or several weighted ones in `Losses`. With several
            optimizers, one for all or one for each by name. None takes the model's own `loss`
            method, or the part `loss` of its output.
        optimizer: an instance, or a class or function that is called with the model's parameters
            and `opt_hparams`; a mapping of names to these for several. With several, classes get
            `model.<name>`'s parameters.
        epochs: how many, at least 0; `(least, most)` to keep what reads the history in `stop` (not
            limits, as of steps or time) from ending the run before `least`; None: no limit.
        hparams: arguments for a model class.
        opt_hparams: arguments for an optimizer class; for several, by name, or the same for all.
        metrics: functions of prediction and target (averaged over samples) or objects with
            `update`, `compute` and `reset`; one, several, or by name; by keys with `Metric`. They
            become columns `train_<name>` and `valid_<name>`.
        train_metrics, valid_metrics: the same, for one of the sets alone.
        evaluations: other data to look at, each with a name, metrics and times of its own.
        callbacks: what listens, in order.
        lifecycle: your own, in place of `supervised(...)` with the options below.
        input, target: keys into a batch, where it is not `(input, target)`; `input="*"` is
            `model(**batch)`; see `BatchReader`.
        size: the number of samples of a batch, which means are weighted by: a number, a key into
            the batch, or a function of it. None: what input and target agree on; see
            `statetrain.data.counting`.
        pred: the key of the part of the model's output that the loss and the metrics take; None is
            all of it.
        dataloader_options: arguments for the DataLoaders made here, such as `batch_size` (32 unless
            said).
        device: "auto" (CUDA, else MPS, else CPU), or a device.
        accelerator: what places and prepares model and optimizers, in place of `device`: an
            `Accelerator`, or Hugging Face's `accelerate.Accelerator`.
        compile: what `torch.compile` compiles: False for nothing, True or "model" for the model,
            "step" for the model, the loss, their gradients and the optimizer's step as one
            function, "auto" for the step where nothing is in the way, else the model. Or a mapping
            of torch's options with `what`: `{"what": "step", "mode": "reduce-overhead"}`. Weights
            keep their names, so a run may be continued with or without it. What modules return
            within a compiled model cannot be captured: reading `interms.*` is refused. A compiled
            step finds out late what is not finite; see `statetrain.compute.compiling`.
        seed: makes every random number a function of what it is for: the validation share, a model
            made from a class, the order of each epoch, each sample's augmentation (of DataLoaders
            over map-style datasets, whatever their number of workers), each batch's dropout. None:
            torch's global generators, as they are.
        resume: where to resume from: "last" or "best" of the `Checkpoint` among the callbacks,
            which starts from the beginning if there is none yet; the number of a step that it has
            saved; or the path of a checkpoint, of a directory of them, or of one in it:
            "runs/trunk/best", "runs/trunk/step-1000". The other arguments are those of the run that
            was saved; workers, callbacks that only watch, `epochs` and what is printed may
            differ.
        allow_changes: what else may differ: "lifecycle", "model", "loss", "metrics", "optimizer",
            "data", "callbacks" (those that take part in training), "seed", several of them, or True
            for all. What fits is loaded; the settings of optimizers that are given differently now
            are used.
        trace: whether to record the transitions, for `run.trace`; or the path of a file to write
            them to as well, with times, counters and the loss, for `statetrain watch` and
            `statetrain trace`. `Tracing` among the callbacks has more.
        debug: whether actions, guards and callbacks are held to what they declare that they read
            and write; slower.
        verbose: whether callbacks that print may do so.
        on_interrupt: what a signal (Ctrl-C, SIGTERM, SIGHUP, SIGUSR1) leads to once the run has
            ended in order: "return" it, "raise" KeyboardInterrupt, or "exit" with 128 and the
            signal's number, as a scheduler expects.
        start: whether to train; else the run is returned as it stands before the first transition,
            for `run.walk()` or `run.steps()`.
        options: of the lifecycle: `stop`, `non_finite`, `check_gradients`, `spike`, `finite_check`,
            `accumulate`, `validate`, `max_steps`, `compute`, `valid_compute`, `precision`,
            `prefetch`, `closure`, `edits`; `statetrain.standard.options.Options` has each with its
            default and its meaning. `validate` is the end of every epoch unless said. And `clock`,
            a function that gives seconds from any moment on, in place of `time.monotonic`; and
            `engine`, what walks the lifecycle: "table", or a machine of the package `transitions`,
            for its tools, see `Machine`.

    Returns:
        The run: outcome, history, model.

    Raises:
        ConfigError: the arguments cannot make a run; nothing has been trained.
        CheckpointError: there is something to resume from, but it is not whole, or it is of another
            run.
        BaseException: what the model, the loss, the data or a callback raised, as it was; its
            attribute `run` is the run.
    """
    limits = check_call(
        others, epochs, options, seed, on_interrupt, debug=debug, verbose=verbose, start=start
    )
    ranks = ranks_of(placing := accelerator_for(accelerator, device), options, lifecycle)
    listening = ranks.listening(listeners(callbacks, trace))
    saved = find_saved(resume, allow_changes, listening, seed, ranks)
    data = ranks.divide(
        load_data(train, valid, evaluations, limits.most, saved.seed, dataloader_options)
    )
    trained = make_model(
        model, hparams, optimizer, opt_hparams, placing, compile, saved.seed, lifecycle
    )
    objective = make_objective(
        loss,
        trained,
        data,
        (metrics, train_metrics, valid_metrics),
        free=options.get("compute") is not None or lifecycle is not None,
    )
    machine = make_machine(
        make_lifecycle(
            lifecycle,
            options,
            RunParts(limits, data, trained, objective, saved.seed, listening, size),
        ),
        listening,
        trained,
        objective,
        ranks,
        data.divided,
        debug=debug,
        engine=options.get("engine", "table"),
    )
    ctx = make_context(
        machine,
        data,
        trained,
        objective,
        reader_for(input, target, size, options, trained, objective),
        arguments=arguments_in(locals()),
        **settings_for(limits, hparams, opt_hparams, pred, verbose, options, saved.seed),
        **parts_for(machine.lifecycle, options, trained),
    )
    return begin(Run(ranks.begin(ctx, machine), machine, on_interrupt), saved, start)
