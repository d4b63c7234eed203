"""What is evaluated or predicted with: a model, and the run that it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from attrs import frozen

from statetrain.compute.accelerator import Accelerator
from statetrain.compute.holding import held_in_eval
from statetrain.compute.inferring import inferring
from statetrain.compute.uncompiled import Uncompiled
from statetrain.compute.weights import modules_of as modules_in
from statetrain.context.context import Context
from statetrain.context.keys import getter
from statetrain.data.counting import Size
from statetrain.data.loading import as_loader
from statetrain.data.passing import arguments_of
from statetrain.data.reading import BatchReader, Key
from statetrain.errors import MachineError
from statetrain.losses.tally import Tally
from statetrain.machine.machine import Machine
from statetrain.outcome import Interrupted, Stopped
from statetrain.standard.computing import Compute, Predicting
from statetrain.training.advice import advice
from statetrain.training.run import Run
from statetrain.training.setup.model import accelerator_for, is_compiled, module_of


@frozen
class Reads:
    """How batches are read; None is as the run does.

    Attributes:
        input, target, pred, size: as in `fit`.
        needs_target: whether a batch without a target is an error.
    """

    input: Key = None
    target: Key = None
    pred: str | None = None
    size: Size = None
    needs_target: bool = False


@frozen(eq=False)
class Subject:
    """A model to evaluate or to predict with.

    Attributes:
        run: where its loss, metrics and keys come from; None for a module alone.
        model: what is called: of a run that was compiled, what was compiled.
        accelerator: places batches.
    """

    run: Run | None
    model: torch.nn.Module
    accelerator: Accelerator

    @property
    def own_model(self) -> torch.nn.Module:
        """The user's own model."""
        return self.accelerator.unwrap(self.model)

    @property
    def uncompiled_model(self) -> torch.nn.Module:
        """The user's own model, called as it is written: what its modules return can be seen."""
        if is_compiled(self.own_model):
            return Uncompiled(self.own_model)
        return self.own_model

    def context(
        self, data: Any, options: Mapping[str, Any] | None, counted: Tally, reads: Reads
    ) -> Context:
        """A context separate from the run's.

        Args:
            data: as `fit` takes it.
            options: for the loader that is made here.
            counted: sums up losses and metrics.
            reads: how a batch is read.
        """
        ctx = Context(
            model=self.model,
            # A generator of its own: what a loader draws at its beginning is not the host's
            valid_data=as_loader(data, options=options, generator=torch.Generator()),
            accelerator=self.accelerator,
            read_batch=self._reader(reads),
            tallies={"valid": counted},
            advise=advice,
            opt_name=next(iter(counted.losses), ""),
        )
        if self.run is not None:
            ctx.pick = self.run.ctx.pick
            ctx.hparams = dict(self.run.ctx.hparams)
            ctx.opt_hparams = dict(self.run.ctx.opt_hparams)
        if reads.pred is not None:
            ctx.pick = getter(reads.pred)
        return ctx

    def _reader(self, reads: Reads) -> BatchReader:
        given, target, size = reads.input, reads.target, reads.size
        own = None if self.run is None else self.run.ctx.read_batch
        if isinstance(own, BatchReader):
            given = own.input if given is None else given
            size = own.size if size is None else size
            if target is None and reads.needs_target:
                target = own.target
        return BatchReader(
            self.accelerator.device,
            given,
            target,
            reads.needs_target,
            size,
            arguments_of(self.own_model),
        )


def subject_of(
    model: Run | torch.nn.Module, device: str | torch.device, *, together: bool = True
) -> Subject:
    """What a run or a module is evaluated as.

    Args:
        model: a run, or a module.
        device: "auto" is the run's.
        together: whether several processes share the work, where there are several.

    Raises:
        ConfigError: it is a class.
    """
    if not isinstance(model, Run):
        return _placed(None, module_of(model), device, together)
    called = model.ctx.model if is_compiled(model.ctx.model) else model.model
    if device != "auto":
        return _placed(model, called, device, together)
    assert model.ctx.accelerator is not None
    return Subject(model, called, model.ctx.accelerator)


def _placed(
    run: Run | None, module: torch.nn.Module, device: str | torch.device, together: bool
) -> Subject:
    accelerator = accelerator_for(None, device) if together else Accelerator(device)
    accelerator.prepare(module)
    return Subject(run, module, accelerator)


@contextmanager
def quietly(ctx: Context, machine: Machine, *, inference: bool = True) -> Iterator[None]:
    """While it is open, the model is in eval mode, in all threads, and nothing is tracked.

    Args:
        ctx: has not run.
        machine: will run it.
        inference: whether torch's inference mode may be used: it is if no code but the model's, the
            loss's and the metrics' sees what is computed; see `statetrain.compute.inferring`.
    """
    with held_in_eval(ctx.model):
        if not inference or not _is_alone(ctx, machine):
            yield
            return
        with inferring(ctx, modules_in(ctx)):
            yield


def _is_alone(ctx: Context, machine: Machine) -> bool:
    actions = [state.action for state in machine.lifecycle.states]
    own = any(isinstance(action, Compute | Predicting) for action in actions)
    return not machine.callbacks and not own and not is_compiled(ctx.model)


def walk_aside(ctx: Context, machine: Machine) -> None:
    """Runs a machine outside of a fit, to its end.

    Raises:
        KeyboardInterrupt: it was interrupted.
        MachineError: it was stopped: a part of an answer is not the answer.
    """
    ctx.started = ctx.clock()
    run = Run(ctx, machine)._walk(whole=True)
    refuse_part(run)


def refuse_part(run: Run) -> None:
    """Raises what `walk_aside` raises for a run that did not come to its end."""
    if isinstance(run.outcome, Interrupted):
        raise KeyboardInterrupt(run.outcome.reason)
    if isinstance(run.outcome, Stopped):
        raise MachineError(
            f"the {run.lifecycle.name} was stopped after {run.ctx.valid_iter} batches"
            f" ({run.outcome.reason}), so it has no result; to look at a part of the data, give"
            " that part"
        )
