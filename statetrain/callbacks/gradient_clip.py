"""GradientClip: bounds the gradients before each step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from statetrain.callback import Callback
from statetrain.errors import ConfigError
from statetrain.standard.parameters import parameters_of
from statetrain.validators import check_positive

if TYPE_CHECKING:
    from statetrain.context.context import Context


class GradientClip(Callback):
    """Bounds the gradients before each step: their norm together, or each value.

    Only the current optimizer's parameters are looked at. What is bounded are the gradients that
    the step will use: the mean of a window when batches are accumulated, and in fp16 the gradients
    without the scale of the loss, wherever the callback stands among the others.

    An optimizer that computes the loss again within its step (LBFGS) gets its first gradients
    bounded, not those that it asks for.

    Args:
        max_norm: what the norm of all gradients together is scaled down to if it is larger.
        max_value: what each gradient is cut to, upwards and downwards. One of the two is given.
        norm_type: which norm, above 0; infinity is the largest absolute value.

    Raises:
        ConfigError: none or both of the bounds are given, or one is not a number above 0.
    """

    reads = ("opt",)
    writes = ("grads",)
    commutes_with = ("GradientClip",)  # two bounds hold in the order in which they were given

    def __init__(
        self, max_norm: float | None = None, max_value: float | None = None, norm_type: float = 2.0
    ) -> None:
        if (max_norm is None) == (max_value is None):
            got = "both"
            if max_norm is None:
                got = "neither"
            raise ConfigError(
                f"GradientClip takes max_norm or max_value, got {got}; for both, give two callbacks"
                " in the order that you mean"
            )
        for name, value in (
            ("max_norm", max_norm),
            ("max_value", max_value),
            ("norm_type", norm_type),
        ):
            # Infinity will do: the norm of that name, or a bound that is never met
            if value is not None:
                check_positive(f"GradientClip: {name}", value, finite=False)
        self.max_norm, self.max_value, self.norm_type = max_norm, max_value, norm_type

    def on_enter_step(self, ctx: Context) -> None:
        """Bounds the gradients of the current optimizer's parameters."""
        parameters = parameters_of(ctx.opt)
        if self.max_norm is not None:
            clip_grad_norm_(parameters, self.max_norm, self.norm_type)
        elif self.max_value is not None:
            clip_grad_value_(parameters, self.max_value)

    def __repr__(self) -> str:
        if self.max_norm is None:
            bound = f"max_value={self.max_value}"
        else:
            bound = f"max_norm={self.max_norm}, norm_type={self.norm_type}"
        return f"GradientClip({bound})"
