"""The whole update as one function of `torch.compile`: model, loss, gradients and step.

Torch's compiler can trace the gradients of a loss within a function, and the steps of most
optimizers. So one graph trains on a batch, and one call starts it: what an eager loop spends
between two operations (the graph of autograd, its engine, the optimizer's loops over weights) is
gone. What the host does for a batch (counters, means, metrics) comes after it. The compiler guards
everything that the graph depends on: another shape, mode, setting or number in the model compiles
it again. Learning rates are tensors while the function runs, so a new one compiles nothing, and
numbers again afterwards.

The first step of a run is not compiled: the optimizer creates its state in it, and it shows which
weights have gradients. Nor is the first step after weights were frozen, unfrozen, added or
replaced, after which everything is compiled again; nor the next one, if that step was left out.

With `finite_check="late"`, the graph itself restores weights, buffers and states if a loss or
gradient is not finite, whatever the optimizer, and counts the steps that were left out.

Gradients lie in `p.grad` afterwards, in memory that the next batch overwrites.

It is tested on the CPU, with inductor; on a device it is untested.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from attrs import Factory, define, field

from statetrain.compute.compilable import INSTEAD, find_step_hook
from statetrain.compute.update import MaskedStep, make_update
from statetrain.compute.weights import modules_of
from statetrain.errors import ConfigError
from statetrain.losses.losses import InContext
from statetrain.standard.fusing import Fused, account
from statetrain.standard.parameters import parameters_of
from statetrain.standard.precision import Autocast

if TYPE_CHECKING:
    from statetrain.context.context import Context

log = logging.getLogger("statetrain")


def precision_of(fused: Fused) -> str | None:
    """Torch's name of the type that a fused state computes in where autocast does; None without."""
    return next((action.dtype for action in fused.actions if isinstance(action, Autocast)), None)


@define(eq=False)
class CompiledUpdate:
    """Does the work of a fused state by one compiled function.

    Args:
        compile: compiles a function; see `Accelerator.compile`.
        model: as the user gave it.
        options: of `torch.compile`. The whole is always one graph, so `fullgraph` is true.
        dtype: see `precision_of`.
        lenient: whether what cannot be compiled as a whole is trained on part by part, with a
            warning; else it is an error.
    """

    compile: Callable[[Any, Mapping[str, Any]], Any]
    model: torch.nn.Module
    options: Mapping[str, Any] = Factory(dict)
    dtype: str | None = None
    lenient: bool = False
    _function: Any = field(default=None, init=False)
    _compiled: bool = field(default=False, init=False)  # whether it has been, for one kind of batch
    _gradients: list[tuple[Any, torch.Tensor]] = field(factory=list, init=False)
    # Weights that have gradients; None if no step has shown it
    _used: list[Any] | None = field(default=None, init=False)
    # Those that were trained with the batch before; None before the first
    _weights: list[Any] | None = field(default=None, init=False)
    _rates: list[_Rate] = field(factory=list, init=False)
    _gave_up: bool = field(default=False, init=False)
    # Whether it cannot be compiled, and that is no error
    _apart: bool = field(default=False, init=False)
    # With a mask, the loss as it counts, and whether it does
    counted: tuple[Any, Any] | None = field(default=None, init=False)
    # With a mask, of the step that was made last, on the device
    number: Any = field(default=None, init=False)
    _at: int = field(default=-1, init=False)  # the same as the host knows it

    def __call__(self, ctx: Context, fused: Fused) -> None:
        """Trains on the batch of a context."""
        if self._apart:
            fused.run(ctx)
            return
        self._look_at_weights(ctx)
        if self._used is None:
            self._learn(ctx, fused)
            return
        _refuse_step_hooks(ctx)
        if self._function is None:
            self._make(ctx, self._weights or [], self._used)
        if self.number is not None and self._at != ctx.step:
            self.number.fill_(ctx.step)  # else the function has counted on by itself
        if not self.compute(ctx):
            self._aside(ctx, fused)
        else:
            self._at = ctx.step + 1
            account(ctx, fused, self.counted)

    def _look_at_weights(self, ctx: Context) -> None:
        """Notes which weights are trained; forgets the function if it was made for others."""
        weights = _trained(ctx.opt)
        if self._weights is None:
            if ctx.step:  # the run was resumed: weights with a state have had gradients
                self._used = [p for p in weights if ctx.opt.state.get(p)] or None
        elif not self._fits(weights, ctx.opt.param_groups):
            self._function = self._used = None
        self._weights = weights

    def _fits(self, weights: list[Any], groups: list[Any]) -> bool:
        """Whether no weight or group was frozen, unfrozen, added or replaced."""
        if list(map(id, weights)) != list(map(id, self._weights or ())):
            return False
        return not self.ready or len(groups) == len(self._rates)

    @property
    def ready(self) -> bool:
        """Whether there is a function to call."""
        return self._function is not None

    def compute(self, ctx: Context) -> bool:
        """Makes the step without counting it; False if torch compiles no other kind of batch.

        Raises:
            BaseException: the model cannot be compiled in one piece, or raised something itself.
        """
        groups = ctx.opt.param_groups
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        own = [rate.lend(group) for rate, group in zip(self._rates, groups, strict=True)]
        try:
            ctx.pred, ctx.loss_grad, self.counted, states = self._call(ctx)
            if states is not None:
                ctx.loss_states = states
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            self._give_up(error)
            return False
        except torch._dynamo.exc.TorchDynamoException as error:
            if not self.lenient or self._compiled:
                error.add_note(
                    "statetrain: compile='step' compiles the model, the loss and the step as one"
                    f" function, which torch could not; {INSTEAD}"
                )
                raise
            log.warning(
                "compile='auto': the model is compiled alone, since torch cannot compile the"
                " step with it: %.300s",
                error,
            )
            self._apart = True
            return False
        finally:
            for group, values in zip(groups, own, strict=True):
                group.update(values)
        return True

    def _give_up(self, error: BaseException) -> None:
        if not self._gave_up:
            log.warning(
                "compile='step': torch has compiled as often as it may, so other kinds of"
                " batches are trained on without it: %s",
                error.__cause__ or error,
            )
        self._gave_up = True

    def _call(self, ctx: Context) -> Any:
        batch, size = None, 0
        if isinstance(ctx.loss_fn, InContext):  # others do not see the batch as a whole
            batch, size = ctx.batch, ctx.batch_size
        arguments = (ctx.layout.forward, ctx.input, ctx.target, batch, size)
        if self._compiled:
            try:
                return self._function(*arguments)
            except torch._dynamo.exc.Unsupported:
                pass  # something else has to be compiled, and traced with its gradients
        # The setting costs more than a small step, so it is not made each time.
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            found = self._function(*arguments)
        self._compiled = True
        return found

    def _make(self, ctx: Context, weights: list[Any], used: list[Any]) -> None:
        self._gradients = [(p, torch.zeros_like(p)) for p in used]
        if weights[0].is_cuda:
            for _, gradient in self._gradients:
                torch._dynamo.mark_static_address(gradient)
        self._rates = [_Rate.of(group) for group in ctx.opt.param_groups]
        update = make_update(
            self.model,
            ctx.pick,
            ctx.loss_fn,
            ctx.opt,
            weights,
            self._mask_step(ctx),
            self.dtype,
        )
        self._function = self.compile(update, {**self.options, "fullgraph": True})

    def _mask_step(self, ctx: Context) -> MaskedStep | None:
        """What steps that are not finite are left out with; None if all are made."""
        mask = ctx.mask
        if mask is None:
            return None
        self.number = torch.full((), ctx.step, dtype=mask.found.dtype, device=mask.device)
        buffers = []
        if ctx.held is not None:
            buffers = [buffer for module in modules_of(ctx) for buffer in module.buffers()]
        return MaskedStep(mask.found, self.number, buffers)

    def _learn(self, ctx: Context, fused: Fused) -> None:
        """Trains without the compiled function, and notes which weights have gradients.

        Not from a step that was left out, which makes no states.
        """
        masked = _count_masked(ctx)
        self._aside(ctx, fused)
        if _count_masked(ctx) == masked:
            self._used = [p for p in _trained(ctx.opt) if p.grad is not None]

    def _aside(self, ctx: Context, fused: Fused) -> None:
        """Trains without the compiled function."""
        ctx.accelerator.clear(ctx.opt)  # what was lent to the weights is of the batch before
        # The model alone is not worth compiling for it.
        with torch.compiler.set_stance("force_eager"):
            fused.run(ctx)


def _refuse_step_hooks(ctx: Context) -> None:
    """Refuses hooks around the optimizers' steps, also those that were registered meanwhile."""
    for name, optimizer in ctx.optimizers.items():
        if why := find_step_hook(name, optimizer):
            raise ConfigError(f"compile='step' compiles the whole step as one function, but {why}")


def _count_masked(ctx: Context) -> int:
    """How many steps have been left out so far."""
    if ctx.mask is None:
        return 0
    return int(ctx.mask.now()[0])


def _trained(optimizer: Any) -> list[Any]:
    return [p for p in parameters_of(optimizer) if p.requires_grad]


@define(eq=False)
class _Rate:
    """The learning rate of a group as a tensor, lent to it while the compiled function runs.

    Args:
        tensor: the rate, shape ().
        value: what it was set to last.
    """

    tensor: torch.Tensor
    value: Any

    @classmethod
    def of(cls, group: dict[str, Any]) -> _Rate:
        """That of a group; in float64, as a number is, on the CPU."""
        device, rate = group["params"][0].device, group["lr"]
        dtype = torch.float32
        if device.type == "cpu":
            dtype = torch.float64
        return cls(torch.tensor(float(rate), dtype=dtype, device=device), rate)

    def lend(self, group: dict[str, Any]) -> dict[str, Any]:
        """Lends it to the group, lets the compiler choose the step; returns what was there."""
        rate = group["lr"]
        if isinstance(rate, torch.Tensor):
            lent = {"lr": rate}  # the user's own
        else:
            if rate != self.value:
                self.tensor.fill_(rate)
                self.value = rate
            lent = {"lr": self.tensor}
        own: dict[str, Any] = {
            name: group[name] for name in ("lr", "capturable", "fused") if name in group
        }
        group.update({name: lent.get(name, name == "capturable") for name in own})
        return own
