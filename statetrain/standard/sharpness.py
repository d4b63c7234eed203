"""sharpness_aware: steps by the gradient a little uphill (SAM; Foret et al. 2020, 2010.01412)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import attrs
from attrs import field, frozen

from statetrain.context.context import Context
from statetrain.contracts.declaring import Access
from statetrain.errors import ConfigError
from statetrain.guards.base import leaves
from statetrain.guards.batch import NonFinite, Spike
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State, StateWork
from statetrain.lifecycle.transition import Transition
from statetrain.standard import actions as do
from statetrain.validators import check_positive, positive


@frozen
class Uphill:
    """The weights are moved along their gradients; on leaving, they and the buffers are put back.

    Args:
        radius: how far, in the 2-norm over all parameters of the optimizer.
    """

    radius: float = field(validator=positive)

    access: ClassVar[Access] = Access({"model", "loss_fns", "opt", "grads"}, {"params"}, {"grads"})

    @property
    def label(self) -> str:
        """What the table says."""
        return f"weights moved by {self.radius:g} along their gradients"

    def read(self, ctx: Context) -> Any:
        return ctx.accelerator.weights(ctx)

    def write(self, ctx: Context, value: Any) -> None:
        value.put_back()

    def begin(self, ctx: Context) -> None:
        if ctx.news is not None:
            raise ConfigError(
                "sharpness_aware is for one process: ranks would have to move together"
            )
        ctx.accelerator.climb(ctx.opt, self.radius)

    def wrap(self, action: StateWork) -> StateWork:
        return action


def sharpness_aware(radius: float = 0.05) -> Callable[[Lifecycle], Lifecycle]:
    """An edit: each step is made by the gradient a little uphill, known as SAM.

        st.fit(model, data, ..., optimizer=torch.optim.SGD, edits=st.sharpness_aware(0.05))

    After `backward`, in the scope `uphill`, the weights are moved along their gradients, and model,
    loss and gradients are computed again (`uphill_pred`, `uphill_loss`, `uphill_backward`). Leaving
    the scope puts the weights back, on every path, and `step` takes the gradients from there. This
    is for any optimizer; it takes two passes a batch and a copy of the weights. The history has the
    loss of the first pass; buffers, such as batch norm's statistics, are updated by that alone. A
    loss uphill that is not finite has the policy of any other.

    Args:
        radius: how far, in the 2-norm over all parameters of the optimizer, above 0. The paper's
            rho.

    Raises:
        ConfigError: the radius is not such a number; when the edit is made, that the lifecycle does
            not compute the gradients of one batch for each step.
    """
    check_positive("sharpness_aware: radius", radius)

    def edited(life: Lifecycle) -> Lifecycle:
        """A lifecycle with such steps."""
        if not life.by_role("backward"):
            raise ConfigError(
                f"sharpness_aware: lifecycle {life.name!r} has no state with the role 'backward'"
            )
        for backward in life.by_role("backward"):
            life = _uphill_after(life, backward, radius)
        return life

    return edited


def _uphill_after(life: Lifecycle, backward: State, radius: float) -> Lifecycle:
    """Adds the scope to one phase."""
    arrows = life.arrows(backward.name)
    if backward.action is not do.backward or len(arrows) > 1 or life.by_role("halve"):
        raise ConfigError(
            f"sharpness_aware: {backward.name!r} of lifecycle {life.name!r} is not the gradients of"
            " one batch for one step; leave accumulate= and halving out, and give precision='bf16'"
            " in place of 'fp16'"
        )
    prefix, (onward,) = backward.name.removesuffix("backward"), arrows
    scope = f"{prefix}uphill"
    pred, loss = (life.state(f"{prefix}{part}") for part in ("pred", "loss"))
    parts: list[State | Transition] = [
        State(scope, within=backward.within, role="uphill", mode=Uphill(radius)),
        State(f"{scope}_pred", pred.action, scope, role="uphill_pred"),
        State(f"{scope}_loss", loss.action, scope, role="uphill_loss"),
        State(f"{scope}_backward", do.backward, scope, role="uphill_backward"),
        Transition(backward.name, scope),
        Transition(scope, f"{scope}_pred"),
        Transition(f"{scope}_pred", f"{scope}_loss"),
        *(
            attrs.evolve(arrow, source=f"{scope}_loss")
            for arrow in life.arrows(loss.name)
            if arrow.guard is not None
            and any(isinstance(leaf, NonFinite | Spike) for leaf in leaves(arrow.guard))
        ),
        Transition(f"{scope}_loss", f"{scope}_backward"),
        attrs.evolve(onward, source=f"{scope}_backward"),
    ]
    return life.remove(onward).add(*parts)
