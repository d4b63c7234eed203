"""Mixed precision: computing in a shorter floating-point type where that is safe.

It is an edit of the table: `pred` and `loss` compute under autocast and, with float16, `backward`
computes the gradients of a scaled loss, a state `unscale` takes the scale out of them, and an arrow
leads from there to the next batch if they were too large for their type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs
from attrs import Attribute, field, frozen

from statetrain.contracts.composing import computes_with_gradients, exchanged, parts_of
from statetrain.contracts.declaring import Access, access_of
from statetrain.errors import ConfigError
from statetrain.guards.base import guard
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State, StateWork
from statetrain.lifecycle.transition import Transition
from statetrain.naming import did_you_mean, label_of
from statetrain.standard import actions as do
from statetrain.standard.computing import Compute

if TYPE_CHECKING:
    from statetrain.context.context import Context

Word = Literal["bf16", "fp16"]

_TYPES = {"bf16": "bfloat16", "fp16": "float16"}


def _type(given: Any) -> str:
    """Torch's name of a type, from a word, that name, or torch's own object."""
    name = str(given).removeprefix("torch.")
    name = _TYPES.get(name, name)
    if name not in _TYPES.values():
        raise ConfigError(
            f"precision must be 'bf16' or 'fp16', got {given!r}{did_you_mean(name, _TYPES)}"
        )
    return name


def _for_float16(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    if value is not None and instance.dtype != "float16":
        raise ConfigError(
            "MixedPrecision: scaler= is for 'fp16'; bfloat16 has the range of float32, so its loss"
            " needs no scale"
        )


@frozen
class MixedPrecision:
    """Mixed precision with its settings; "bf16" and "fp16" stand for the defaults.

    Args:
        dtype: "bf16" or "fp16", or torch's own type.
        valid: whether validation in the fit computes in it too.
        scaler: a `torch.amp.GradScaler` for fp16; None is torch's default.

    Raises:
        ConfigError: it is another type, or a scaler was given for bf16.
    """

    dtype: str = field(converter=_type)
    valid: bool = field(default=True, kw_only=True)
    scaler: Any = field(default=None, kw_only=True, eq=False, validator=_for_float16)


Precision: TypeAlias = MixedPrecision | Word


@frozen
class Autocast:
    """An action under autocast.

    Args:
        action: a function of the context.
        dtype: "bfloat16" or "float16".
    """

    action: StateWork
    dtype: str

    @property
    def label(self) -> str:
        """What the table says."""
        return f"{label_of(self.action)} in {self.dtype}"

    @property
    def access(self) -> Access | None:
        """What the action reads and writes; None if nothing is known of it."""
        return access_of(self.action)

    def __call__(self, ctx: Context) -> Any:
        with ctx.accelerator.autocast(self.dtype):
            return self.action(ctx)


def plain(action: Any) -> Any:
    """An action as it is without autocast."""
    if isinstance(action, Autocast):
        return action.action
    return action


@guard(reads={"overflowed"})
def gradients_overflowed(ctx: Context) -> bool:
    "gradients overflowed"
    return ctx.overflowed


def mixed_precision(life: Lifecycle, precision: Precision) -> Lifecycle:
    """A lifecycle in mixed precision.

    The model and the loss compute in a shorter type where torch's autocast does.

    With float16 the gradients are those of a scaled loss. A state `unscale` takes the scale out of
    them, before their norm is computed and before `step` and its hooks, and adapts it. If they were
    too large for their type, the next batch is next: no step is made and none is counted. The loss
    that is logged has no scale. With several optimizers, the scale is adapted in each one's turn.

    Args:
        life: a lifecycle with states of the roles `pred`, `loss`, `backward` and `step`, of each
            phase its own.
        precision: "bf16" or "fp16", or a `MixedPrecision`.

    Raises:
        ConfigError: it has other states, or is in mixed precision already.
    """
    precision = _settings(precision)
    _check(life, precision.dtype)
    if life.by_role("report"):
        refuse_late_scale(precision)
    roles: tuple[str, ...] = ("pred", "loss", "uphill_pred", "uphill_loss")
    if precision.valid:
        roles += ("valid_pred", "valid_loss", "valid_compute")
    for state in life.by_role(*roles):
        assert state.action is not None
        life = life.replace(state.name, action=_autocast(state.action, precision.dtype))
    if precision.dtype == "float16":
        for state in life.by_role("backward"):
            life = _scaled(life, state)
    return life


def _settings(precision: Precision) -> MixedPrecision:
    if isinstance(precision, MixedPrecision):
        return precision
    return MixedPrecision(precision)


def refuse_late_scale(precision: Precision) -> None:
    """Raises a `ConfigError` for float16, where overflow is checked in each batch."""
    if _settings(precision).dtype == "float16":
        raise ConfigError(
            "finite_check='late' and 'fp16' exclude each other: the scale of its loss is adapted by"
            " what the host reads in each batch; use 'bf16'"
        )


def _check(life: Lifecycle, dtype: str) -> None:
    if any(isinstance(state.action, Autocast) for state in life.states):
        raise ConfigError(
            f"lifecycle {life.name!r} is in mixed precision already; say it once, here or where it"
            " is made"
        )
    if life.by_role("halve"):
        raise ConfigError(
            f"lifecycle {life.name!r} halves batches in full precision; write"
            " halving(supervised(precision=...)), in this order"
        )
    for role in ("pred", "loss", "backward", "step"):
        if not life.by_role(role):
            raise ConfigError(
                f"lifecycle {life.name!r} has no state {role!r}, so precision has nothing to act"
                " on; in a computation of your own, write: with"
                f" ctx.accelerator.autocast({dtype!r}): ..."
            )
    if any(_computes_the_loss(state.action) for state in life.by_role("step")):
        raise ConfigError(
            "precision and a step that computes the loss again (as LBFGS's) exclude each other: the"
            " step would compute in full precision"
        )
    own = [state for state in life.by_role("backward") if state.action is not do.backward]
    if dtype == "float16" and own:
        raise ConfigError(
            f"lifecycle {life.name!r} has a backward of its own, whose loss 'fp16' cannot scale;"
            " use 'bf16', which needs no scale"
        )


def _computes_the_loss(action: StateWork | None) -> bool:
    """Whether an action declares that it computes the loss, as a step that replays it does."""
    declared = access_of(action)
    return declared is not None and "loss_grad" in declared.writes


def _autocast(action: StateWork, dtype: str) -> StateWork:
    """An action in a shorter type: of a composed one, the parts that compute."""
    if isinstance(action, Compute):  # it counts what the user's function returns
        return attrs.evolve(action, function=Autocast(action.function, dtype))
    return exchanged(
        action,
        {part: Autocast(part, dtype) for part in parts_of(action) if computes_with_gradients(part)},
    )


def _scaled(life: Lifecycle, backward: State) -> Lifecycle:
    """A lifecycle whose gradients of one phase are those of a scaled loss."""
    onward = life.arrows(backward.name)[-1].dest
    unscale = State(f"{backward.name.removesuffix('backward')}unscale", do.unscale, role="unscale")
    life = life.replace(backward.name, action=do.scaled_backward)
    life = life.insert(unscale, between=(backward.name, onward))
    around = life.path(backward.name)
    head = next(one.name for one in life.by_role("next_batch") if one.within in around)
    return life.add(Transition(unscale.name, head, gradients_overflowed, do.discard_window))
