"""The whole update as one function of `torch.compile`: model, loss, gradients and step.

Theory of operation ------------------- Torch's compiler traces the gradients of a loss within a
function, if it is told to, and the steps of most optimizers. So one graph holds all that a batch is
trained with, and one call starts it: what is between two operations of an eager loop (the graph of
autograd, its engine, the optimizer's loops over weights) is gone. What the host does for a batch
(counters, means, metrics) is done after it. Everything that the graph was made for is guarded by
the compiler: another shape, mode, setting or number in the model that it depends on is compiled
anew. Learning rates are tensors while the function is called, so that others are no reason to, and
numbers again afterwards.

The first step of a run is not compiled: the optimizer sets its states up in it, and it shows which
weights have gradients. So is the first one after weights were frozen, unfrozen, added or replaced,
for which all is compiled anew; and the next one, if it was left out.

With `finite_check="late"`, weights, buffers and states are restored if a loss or gradient is not
finite, in the same graph, whatever the optimizer; what is counted of it is counted there too.

Gradients lie in `p.grad` afterwards, in memory that the next batch overwrites.

On the CPU it is tested with inductor; on a device it is untested.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from attrs import Factory, define, field, frozen
from torch.utils import _pytree as pytree

from statetrain.compute.weights import modules_of
from statetrain.context.keys import root_of
from statetrain.contracts.composing import parts_of
from statetrain.errors import ConfigError
from statetrain.losses.losses import InContext, terms_of, total
from statetrain.standard import actions
from statetrain.standard.fusing import Fused, account
from statetrain.standard.precision import Autocast, plain

if TYPE_CHECKING:
    from statetrain.context.context import Context

log = logging.getLogger("statetrain")

_KNOWN = (
    actions.pred,
    actions.loss,
    actions.backward,
    actions.update_weights,
    actions.update_finite,
    actions.count_step,
)
_UNTRACEABLE = ("Adafactor", "SparseAdam")  # their steps ask for numbers, or for sparse gradients
_WITHOUT = "use compile='model' for the model alone, or leave compile out"


def can_trace() -> bool:
    """Whether this torch's compiler can trace gradients within a function: 2.11 and later."""
    import torch._dynamo  # loading it takes a second, and most runs need it not

    return hasattr(torch._dynamo.config, "trace_autograd_ops")


def beyond(fused: Fused) -> list[Any]:
    """The actions of a fused state besides model, loss, gradients and step."""
    parts = (part for action in fused.actions for part in parts_of(action))
    return [part for part in map(plain, parts) if part not in _KNOWN]


def in_the_way(
    fused: Fused, optimizers: Mapping[str, Any], losses: Mapping[str, Any], backward: Any = None
) -> str:
    """Why a fused state cannot be compiled as a whole, and what to do; empty if it can be.

    Args:
        fused: its action.
        optimizers: by name.
        losses: by optimizer, as they were given.
        backward: what computes the gradients in place of torch; None is torch.
    """
    if len(optimizers) > 1:
        return f"there are {len(optimizers)} optimizers that take turns; {_WITHOUT}"
    if own := beyond(fused):
        return (
            f"{getattr(own[0], '__name__', own[0])!r} is more than the model, the loss, their"
            f" gradients and a step; {_WITHOUT}"
        )
    if backward is not None:
        return f"the accelerator has a backward of its own; {_WITHOUT}"
    for name, loss in losses.items():
        if why := _beyond_the_batch(loss):
            return f"the loss for {name!r} {why}; {_WITHOUT}"
    for name, optimizer in optimizers.items():
        kind = type(optimizer).__name__
        if not type(optimizer).__module__.startswith("torch.optim"):
            return (
                f"{kind} is an optimizer of your own, which may do in its step what a compiled one"
                f" leaves out; {_WITHOUT}"
            )
        if kind in _UNTRACEABLE:
            return (
                f"torch does not compile the step of {kind}; take another optimizer, or {_WITHOUT}"
            )
        if any(group.get("differentiable") for group in optimizer.param_groups):
            return (
                f"optimizer {name!r} is made with differentiable=True; make it without, or"
                f" {_WITHOUT}"
            )
        if why := _hooked(name, optimizer):
            return why
        if any(
            p._backward_hooks or p._post_accumulate_grad_hooks
            for group in optimizer.param_groups
            for p in group["params"]
        ):
            return (
                f"a weight of optimizer {name!r} has a hook on its gradient, which would not be"
                f" called; {_WITHOUT}"
            )
    return ""


def _beyond_the_batch(loss: Any) -> str:
    """What a loss by keys reads besides the batch, or that changes; empty if nothing."""
    for one in terms_of(loss):
        if one.masked:
            return "has a mask or weights of samples"
        if not isinstance(one.weight, int | float):
            return f"has the weight {one.weight!r:.80}, which may be another one in each batch"
        if beyond := sorted(
            path for path in one.reads if root_of(path) not in ("pred", "input", "target", "batch")
        ):
            return f"reads {beyond[0]!r}, which is more than the batch and the prediction"
    return ""


def _hooked(name: str, optimizer: Any) -> str:
    """What would not be called around an optimizer's step, in words; empty if there is nothing."""
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return (
            f"optimizer {name!r} has hooks around its step, which would not be called; write a"
            f" callback with on_exit_step, or {_WITHOUT}"
        )
    own = vars(optimizer).get("step")
    if own is not None and not hasattr(
        own, "_wrapped_by_lr_sched"
    ):  # torch's schedules put theirs there, to see that steps are made
        return (
            f"optimizer {name!r} has a step of its own, which would not be called; make it a method"
            f" of its class, or {_WITHOUT}"
        )
    return ""


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
        weights = _trained(ctx.opt)
        if self._weights is None:
            # Of a run that is continued
            self._used = [p for p in weights if ctx.opt.state.get(p)] or None if ctx.step else None
        elif list(map(id, weights)) != list(map(id, self._weights)) or (
            self.ready and len(ctx.opt.param_groups) != len(self._rates)
        ):  # frozen, unfrozen, added, replaced
            self._function = self._used = None
        self._weights = weights
        if self._used is None:
            self._learn(ctx, fused)
            return
        if self._function is None:
            self._make(ctx, weights, self._used)
        if (
            self.number is not None and self._at != ctx.step
        ):  # as a rule the function has counted on by itself
            self.number.fill_(ctx.step)
        if not self.compute(ctx):
            self._aside(ctx, fused)
        else:
            self._at = ctx.step + 1
            account(ctx, fused, self.counted)

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
            if not self._gave_up:
                log.warning(
                    "compile='step': torch has compiled as often as it may, so other kinds of"
                    " batches are trained on without it: %s",
                    error.__cause__ or error,
                )
            self._gave_up = True
            return False
        except torch._dynamo.exc.TorchDynamoException as error:
            if self.lenient and not self._compiled:
                log.warning(
                    "compile='auto': the model is compiled alone, since torch cannot compile the"
                    " step with it: %.300s",
                    error,
                )
                self._apart = True
                return False
            error.add_note(
                "statetrain: compile='step' compiles the model, the loss and the step as one"
                f" function, which torch could not; {_WITHOUT}"
            )
            raise
        finally:
            for group, values in zip(groups, own, strict=True):
                group.update(values)
        return True

    def _call(self, ctx: Context) -> Any:
        by_keys = isinstance(ctx.loss_fn, InContext)
        arguments = (
            ctx.layout.forward,
            ctx.input,
            ctx.target,
            ctx.batch if by_keys else None,
            ctx.batch_size if by_keys else 0,
        )
        if self._compiled:
            try:
                return self._function(*arguments)
            except torch._dynamo.exc.Unsupported:
                # Something else has to be compiled, for which torch has to be told to trace
                # gradients
                pass
        with torch._dynamo.config.patch(
            trace_autograd_ops=True
        ):  # costs more than a small step, so not each time
            found = self._function(*arguments)
        self._compiled = True
        return found

    def _make(self, ctx: Context, weights: list[Any], used: list[Any]) -> None:
        for name, optimizer in ctx.optimizers.items():
            if why := _hooked(name, optimizer):
                raise ConfigError(
                    f"compile='step' compiles the whole step as one function, but {why}"
                )
        groups = ctx.opt.param_groups
        self._gradients = [(p, torch.zeros_like(p)) for p in used]
        if weights[0].is_cuda:
            for _, gradient in self._gradients:
                torch._dynamo.mark_static_address(gradient)
        self._rates = [_Rate.of(group) for group in groups]
        buffers = (
            [buffer for module in modules_of(ctx) for buffer in module.buffers()]
            if ctx.held is not None
            else []
        )
        if ctx.mask is not None:
            self.number = torch.full(
                (), ctx.step, dtype=ctx.mask.found.dtype, device=ctx.mask.device
            )
        update = _update(
            self.model,
            ctx.pick,
            ctx.loss_fn,
            ctx.opt,
            weights,
            _MaskedStep(ctx.mask.found, self.number, buffers) if ctx.mask is not None else None,
            self.dtype,
        )
        # What torch has compiled it keeps with the code, of which other runs have the same; this
        # one has its own.
        fresh = FunctionType(
            update.__code__.replace(),
            update.__globals__,
            update.__name__,
            update.__defaults__,
            update.__closure__,
        )
        self._function = self.compile(fresh, {**self.options, "fullgraph": True})

    def _learn(self, ctx: Context, fused: Fused) -> None:
        """Trains without the compiled function, and notes which weights have gradients.

        Not from a step that was left out, which makes no states.
        """
        masked = 0 if ctx.mask is None else ctx.mask.now()[0]
        self._aside(ctx, fused)
        if ctx.mask is None or ctx.mask.now()[0] == masked:
            self._used = [p for p in _trained(ctx.opt) if p.grad is not None]

    def _aside(self, ctx: Context, fused: Fused) -> None:
        """Trains without the compiled function."""
        ctx.accelerator.clear(ctx.opt)  # what was lent to the weights is of the batch before
        with torch.compiler.set_stance(
            "force_eager"
        ):  # the model alone is not worth compiling for it
            fused.run(ctx)


def _trained(optimizer: Any) -> list[Any]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]


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
        kind, rate = group["params"][0].device, group["lr"]
        return cls(
            torch.tensor(
                float(rate),
                dtype=torch.float64 if kind.type == "cpu" else torch.float32,
                device=kind,
            ),
            rate,
        )

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


@frozen
class _MaskedStep:
    """What a step is left out with; see `Mask`.

    Args:
        found: how many steps were masked, and the number of the first, or infinity.
        number: of the step that was made last, shape ().
        buffers: those that are put back.
    """

    found: torch.Tensor
    number: torch.Tensor
    buffers: list[torch.Tensor]


@define
class _Seen:
    """What losses by keys read, in the place of a context."""

    pred: Any
    pick: Any
    input: Any
    target: Any
    batch: Any
    batch_size: int


def _update(
    model: Any,
    pick: Any,
    loss_fn: Any,
    optimizer: Any,
    weights: list[Any],
    masked: _MaskedStep | None,
    dtype: str | None,
) -> Any:
    """The function that is compiled.

    It takes how the model is called and a batch; it returns the prediction, the loss, how it
    counts, and what each of several losses gave.
    """
    # As it is written; around it torch keeps its compiler out
    step = inspect.unwrap(type(optimizer).step)
    by_name = None
    if isinstance(loss_fn, InContext):
        by_name = loss_fn.by_name
    kind, shorter = weights[0].device.type, None if dtype is None else getattr(torch, dtype)

    # The field's name
    def update(forward: Any, input: Any, target: Any, batch: Any, size: int) -> Any:  # noqa: A002
        buffers = [] if masked is None else [(buffer, buffer.clone()) for buffer in masked.buffers]
        with torch.enable_grad():
            with torch.autocast(kind, shorter, enabled=shorter is not None):
                pred = model(input) if forward is None else forward(model, input)
                states = None
                if by_name is None:
                    loss = loss_fn(pred if pick is None else pick(pred), target)
                else:
                    seen: Any = _Seen(pred, pick, input, target, batch, size)
                    loss, states = total(by_name, seen)
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        loss = loss.detach()
        for weight, gradient in zip(weights, gradients, strict=True):
            if (gradient is None) != (weight.grad is None):
                raise NotImplementedError(
                    "other weights have gradients than in the first step; give the optimizer those"
                    " that always have one"
                )
            if gradient is not None:
                weight.grad.copy_(gradient)
        counted = None
        if masked is None:
            step(optimizer)
        else:
            finite = torch.isfinite(loss)
            refused = ~(
                finite
                & torch.isfinite(
                    torch.nn.utils.get_total_norm(
                        [gradient for gradient in gradients if gradient is not None]
                    )
                )
            )
            before = [
                (part, part.clone())
                for weight in weights
                for part in (weight, *optimizer.state[weight].values())
                if isinstance(part, torch.Tensor)
            ]
            step(optimizer)
            for part, old in (*before, *buffers):
                part.copy_(torch.where(refused, old, part))
            masked.number.add_(1)
            first = torch.where(
                refused, torch.minimum(masked.found[1], masked.number), masked.found[1]
            )
            masked.found.copy_(torch.stack([masked.found[0] + refused, first]))
            counted = (torch.where(finite, loss, 0.0).to(masked.found.dtype), finite)
        return pytree.tree_map(_detached, pred), loss, counted, states

    return update


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, torch.Tensor) else leaf
