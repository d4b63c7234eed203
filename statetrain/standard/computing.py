"""A user's own computation in place of the standard states."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from statetrain.context.fields import UNSET
from statetrain.contracts.declaring import Access, access_of
from statetrain.errors import ConfigError, LossError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.naming import label_of
from statetrain.standard import actions as do
from statetrain.standard.actions.batch import WINDOW, add_weighed, set_gradients_aside
from statetrain.standard.parameters import parameters_of

if TYPE_CHECKING:
    from statetrain.context.context import Context

log = logging.getLogger("statetrain")

_MADE_OF_LOSS = Access(
    {"on_host", "pending", "opt", "optimizers", "compute_gradients", "inputs"},
    {"loss_grad", "loss_value", "loss_states", "interms", "grads", "pending"},
)
_WINDOW = Access({"loss_states", *WINDOW}, WINDOW)
_MADE_OF_VALID_LOSS = Access(
    {"on_host", "batch_size", "tally", "opt_name", "opt_index", "pred?", "pick", "target", "**"},
    {"loss_grad", "loss_value", "loss_states", "tally"},
)


@frozen
class Compute:
    """A user's function as the action of `compute` or `valid_compute`.

    In the training, gradients of the loss that it returns are computed, unless the function did
    that itself: called backward, or stepped an optimizer of its own.

    Args:
        function: of the context; the loss is what it returns.
        training: whether it trains.
        weighed: whether a batch weighs by what its loss counts in a window of accumulated ones.
    """

    function: Callable[[Any], Any]
    training: bool = True
    weighed: bool = False
    _warned: list[bool] = field(factory=list, init=False, eq=False, repr=False)

    @property
    def label(self) -> str:
        """What the table says."""
        return label_of(self.function)

    @property
    def access(self) -> Access | None:
        """What the function declares, and what is made of the loss; None if it declares nothing."""
        own = access_of(self.function)
        if own is None:
            return None
        if self.weighed:
            own |= _WINDOW
        return own | {True: _MADE_OF_LOSS, False: _MADE_OF_VALID_LOSS}[self.training]

    def __call__(self, ctx: Context) -> None:
        ctx.loss_states = {}
        if not self.training:
            self._take(ctx, self.function(ctx))
            do.count_loss(ctx)
            return
        held: list[Any] = []
        if self.weighed:
            held = set_gradients_aside(ctx)
        before = _gradients(ctx)
        with ctx.accelerator.steps_made() as stepped:
            loss = self.function(ctx)
        self._take(ctx, loss)
        self._refuse_own_step(ctx, stepped)
        if not _changed(before, _gradients(ctx)) and not _steps_own(ctx, stepped):
            self._train_on(ctx, loss)
        if self.weighed:
            add_weighed(ctx, held)
        ctx.pending += 1

    def _take(self, ctx: Context, loss: Any) -> None:
        if loss is None:
            raise LossError(
                f"{self.label} must return the loss of the batch, got None; end it with: return"
                " loss"
            )
        ctx.loss_grad = UNSET
        if hasattr(loss, "detach"):
            ctx.loss_grad = loss
        ctx.loss_value = self._number(ctx, loss)

    def _refuse_own_step(self, ctx: Context, stepped: list[Any]) -> None:
        """Raises if the function made a step, and left the gradients for the table's to make it."""
        if not stepped or not ctx.machine.lifecycle.by_role("step"):
            return
        if all(gradient is None for gradient, _ in _gradients(ctx)):
            return
        mine = {id(group) for one in ctx.optimizers.values() for group in one.param_groups}
        for optimizer in stepped:
            if not mine.isdisjoint(map(id, optimizer.param_groups)):
                raise ConfigError(
                    f"{self.label} called step() of the run's optimizer"
                    f" {type(optimizer).__name__}, and the run makes that step again, since the"
                    " gradients are still there; leave optimizer.step() and optimizer.zero_grad()"
                    " out and return the loss"
                )

    def _train_on(self, ctx: Context, loss: Any) -> None:
        """Computes the gradients of a loss whose function left that to the run."""
        if getattr(loss, "requires_grad", False):
            ctx.backward(loss)
        elif not self._warned:
            self._warned.append(True)
            log.warning(
                "%s returned a loss without a gradient and called no backward, so its batch trains"
                " nothing; return the loss as a tensor with its graph, without .item() or"
                " .detach()",
                self.label,
            )

    def _number(self, ctx: Context, loss: Any) -> Any:
        """The loss as it is counted: a number on the host, a tensor where it is not read."""
        tensor = hasattr(loss, "detach")
        try:
            if not tensor:
                return float(loss)
            if ctx.on_host:
                return loss.item()
            return ctx.accelerator.exact(loss)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            if tensor and loss.numel() == 1:
                raise  # the device's own error, which shows where it is waited for
            raise LossError(
                f"{self.label} must return the loss as a scalar tensor or a number, got"
                f" {type(loss).__name__}: {loss!r:.80}"
            ) from error


def _gradients(ctx: Context) -> list[tuple[Any, int | None]]:
    """What changes when gradients are computed: which tensors they are, and how often changed."""
    if ctx.opt is None:
        return []
    gradients = [parameter.grad for parameter in parameters_of(ctx.opt)]
    return [(gradient, getattr(gradient, "_version", None)) for gradient in gradients]


def _changed(before: list[tuple[Any, int | None]], now: list[tuple[Any, int | None]]) -> bool:
    pairs = zip(before, now, strict=False)
    return any(old is not new or had != has for (old, had), (new, has) in pairs)


def _steps_own(ctx: Context, stepped: list[Any]) -> bool:
    """Whether an optimizer that made a step has parameters of the run's current one."""
    if not stepped:
        return False
    own = set(map(id, parameters_of(ctx.opt)))
    return any(not own.isdisjoint(map(id, parameters_of(one))) for one in stepped)


def computing(life: Lifecycle, function: Callable[[Any], Any]) -> Lifecycle:
    """A lifecycle with `compute` in place of `pred`, `loss` and `backward`."""
    life = life.insert(State("compute", Compute(function)), between=("batch", "pred"))
    life = life.without("pred", "loss", "backward")
    return life.alter(life.between("compute", "step")[0], effect=do.count_loss)


def computing_in(life: Lifecycle, scope: str, function: Callable[[Any], Any]) -> Lifecycle:
    """A lifecycle with a user's function in place of the model and the loss of an evaluation."""
    state = State(f"{scope}_compute", Compute(function, training=False), role="valid_compute")
    life = life.insert(state, between=(f"{scope}_batch", f"{scope}_pred"))
    return life.without(f"{scope}_pred", f"{scope}_loss")


@frozen
class Predicting:
    """A user's function as the action of `predict_pred`.

    Args:
        function: of the context; the prediction is what it returns.
    """

    function: Callable[[Any], Any]

    @property
    def label(self) -> str:
        """What the table says."""
        return label_of(self.function)

    @property
    def access(self) -> Access | None:
        """What the function declares, and the prediction; None if it declares nothing."""
        own = access_of(self.function)
        if own is None:
            return None
        return own | Access(writes={"pred"})

    def __call__(self, ctx: Context) -> None:
        ctx.pred = self.function(ctx)
