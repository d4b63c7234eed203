"""Mixup: trains on mixtures of pairs of samples (Zhang et al. 2018, arXiv 1710.09412)."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from statetrain.callback import Callback
from statetrain.context.keys import root_of
from statetrain.data.structure import map_leaves, tensors_in
from statetrain.errors import ConfigError, DataError, LossError
from statetrain.losses.losses import InContext, weigh
from statetrain.losses.losses import Loss as KeyedLoss
from statetrain.validators import check_positive, check_switches, check_word

if TYPE_CHECKING:
    from statetrain.context.context import Context

LossFunction = Callable[..., Any]
MixPer = Literal["sample", "batch"]


class Mixed(NamedTuple):
    """The target of a mixture.

    Attributes:
        own: of each sample.
        partner: of the sample that it was mixed with.
        weight: of its own part, shape (samples,), or () if the batch has one; from 0.5 to 1.
    """

    own: Any
    partner: Any
    weight: torch.Tensor


class Mixup(Callback):
    """Mixes each training sample with another one of its batch, and the loss with it.

    A sample becomes `weight * own + (1 - weight) * partner`, the partner drawn by a permutation of
    the batch, and its loss `weight * loss(pred, own target) + (1 - weight) * loss(pred, partner's
    target)`. The weight is drawn from Beta(alpha, alpha); its larger side is the sample's own, so
    that a target stays the one that its sample has most of.

    The model sees the mixtures, the loss functions are called through `mixup_loss`, and metrics see
    the targets as they are. With several optimizers, each takes its turn on the same mixture.

    Args:
        alpha: above 0; the larger, the more even are the mixtures.
        per: whether each "sample" gets a weight or the whole "batch" one. A weight for each needs
            losses for each, see `mixup_loss`; one for all works with any loss.
        valid: whether validation is mixed too.
        generator: draws weights and partners, on the CPU; None is torch's global one.

    Raises:
        ConfigError: an argument is out of range, or the run has no loss function.
    """

    def __init__(
        self,
        alpha: float = 0.4,
        *,
        per: MixPer = "sample",
        valid: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        check_positive("Mixup: alpha", alpha)
        check_word("Mixup: per", per, ("sample", "batch"))
        check_switches("Mixup", valid=valid)
        mixing = (
            "on_enter_pred",
            "on_enter_compute",
            *(("on_enter_valid_pred", "on_enter_valid_compute") if valid else ()),
        )
        needed = ("batch_size", "input", "loss_fn", "loss_fns", "opt_index", "opt_name")
        self.reads = dict.fromkeys(mixing, needed) | {"defer": ("opt_name",)}
        self.writes = dict.fromkeys(mixing, ("input", "loss_fn", "loss_fns")) | {
            "defer": ("loss_fn", "loss_fns")
        }
        self.alpha, self.per, self.valid, self.generator = float(alpha), per, valid, generator
        # The present batch's order of partners, and weights
        self._mix: tuple[torch.Tensor, torch.Tensor] | None = None

    def check_context(self, ctx: Context) -> None:
        """Looks for the loss functions."""
        if not ctx.loss_fns or any(loss is None for loss in ctx.loss_fns.values()):
            raise ConfigError(
                "Mixup needs a loss function to mix; give loss=, and call ctx.loss_fn(pred,"
                " ctx.target) where you compute the loss yourself"
            )
        for bound in ctx.loss_fns.values():
            if isinstance(bound, InContext):
                self._check_keys(bound)

    def _check_keys(self, bound: InContext) -> None:
        """Checks that losses by keys can be mixed: what is the batch's own has no partner."""
        for loss in bound.by_name.values():
            of_batch = sorted(path for path in loss.reads if root_of(path) == "batch")
            if of_batch:
                raise ConfigError(
                    f"Mixup: {loss!r} reads {', '.join(map(repr, of_batch))}, and only ctx.target"
                    " has a partner to be mixed with; say what the target is in"
                    " fit(target='label'), and give the loss target='target'"
                )
            if loss.masked and self.per == "sample":
                raise ConfigError(
                    f"Mixup: {loss!r} has a mask or weights of samples, so each sample cannot have"
                    " a mixture of its own; use Mixup(per='batch')"
                )

    # ------------------------------------------------------------ hooks

    def on_enter_pred(self, ctx: Context) -> None:
        """Mixes the inputs of a training batch."""
        self._begin(ctx)

    def on_enter_compute(self, ctx: Context) -> None:
        """Mixes the inputs of a training batch that a function of the user's computes."""
        self._begin(ctx)

    def on_exit_batch(self, ctx: Context) -> None:
        """Drops the mixture."""
        self._mix = None

    def on_enter_valid_pred(self, ctx: Context) -> None:
        """Mixes the inputs of a validation batch, if asked to."""
        if self.valid:
            self._begin(ctx)

    def on_enter_valid_compute(self, ctx: Context) -> None:
        """Mixes the inputs of a validation batch that `compute=` takes, if asked to."""
        if self.valid:
            self._begin(ctx)

    def on_exit_valid_batch(self, ctx: Context) -> None:
        """Drops the mixture."""
        self._mix = None

    def on_enter_failed(self, ctx: Context) -> None:
        """Drops the mixture."""
        self._mix = None

    # ------------------------------------------------------------ mixing

    def _begin(self, ctx: Context) -> None:
        if not all(isinstance(loss, _Mixing) for loss in ctx.loss_fns.values()):
            self._wrap_losses(ctx)
        if not isinstance(ctx.loss_fn, _Mixing):  # the loss that an evaluation has of its own
            ctx.loss_fn = _Mixing(ctx.loss_fn, self)
        if ctx.opt_index == 0:  # the turns of the other optimizers are on the same mixture
            self._mix = self._drawn(ctx)
            ctx.input = _mix(ctx.input, *self._mix)

    def _drawn(self, ctx: Context) -> tuple[torch.Tensor, torch.Tensor]:
        return _draw_mix(ctx.batch_size, self.alpha, self.per, self.generator, ctx.device)

    def _wrap_losses(self, ctx: Context) -> None:
        plain = dict(ctx.loss_fns)
        ctx.loss_fns = {name: _Mixing(loss, self) for name, loss in plain.items()}
        if ctx.loss_fn is plain[ctx.opt_name]:
            ctx.loss_fn = ctx.loss_fns[ctx.opt_name]
        ctx.defer(partial(_put_back, ctx, plain))

    # ------------------------------------------------------------ saved and put back

    def state_dict(self) -> dict[str, Any]:
        """The generator's state, if there is one of its own."""
        if self.generator is None:
            return {}
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        if self.generator is not None and "generator" in state:
            self.generator.set_state(state["generator"])

    def __repr__(self) -> str:
        return f"Mixup({self.alpha}, per={self.per!r}{', valid=True' if self.valid else ''})"


def mixup(
    input: Any,  # noqa: A002  # the field's word
    target: Any,
    alpha: float = 0.4,
    *,
    per: MixPer = "sample",
    generator: torch.Generator | None = None,
) -> tuple[Any, Mixed]:
    """A batch mixed as `Mixup` does, for a loop, a computation or a collate function of your own.

        mixed, target = st.mixup(x, y)
        loss = st.mixup_loss(F.cross_entropy)(model(mixed), target)

    Args:
        input: a floating-point tensor whose first dimension is the samples; or tuples, lists and
            dicts of such.
        target: any tensor with as many samples, or nested ones.
        alpha, per, generator: as of `Mixup`.

    Returns:
        The mixture, and its target for `mixup_loss`.

    Raises:
        ConfigError: an argument is out of range.
        DataError: the input is not made of floating-point tensors.
    """
    check_positive("mixup: alpha", alpha)
    check_word("mixup: per", per, ("sample", "batch"))
    first = next(tensors_in(input), None)
    if first is None:
        raise DataError(f"mixup takes tensors, got {type(input).__name__}")
    order, weight = _draw_mix(len(first), alpha, per, generator, first.device)
    return _mix(input, order, weight), Mixed(target, _take(target, order), weight)


def _draw_mix(
    size: int, alpha: float, per: MixPer, generator: torch.Generator | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The order of the partners, and the weights."""
    shape = {"sample": (size, 2), "batch": (2,)}[per]
    # What torch.distributions.Beta draws with; that takes no generator.
    weight = torch._sample_dirichlet(torch.full(shape, float(alpha)), generator)[..., 0]
    order = torch.randperm(size, generator=generator)
    # Small, and copied before the call returns: the host need not wait for the device.
    weight = torch.maximum(weight, 1 - weight)
    return order.to(device, non_blocking=True), weight.to(device, non_blocking=True)


class _Mixing:
    """A loss function of a run: mixes while there is a mixture."""

    def __init__(self, loss: LossFunction, mixup: Mixup) -> None:
        self._loss = mixup_loss(loss)
        self._mixup = mixup

    def __call__(self, pred: Any, target: Any) -> Any:
        mix = self._mixup._mix
        if mix is None:
            return self._loss(pred, target)
        order, weight = mix
        return self._loss(pred, Mixed(target, _take(target, order), weight))


def _put_back(ctx: Context, losses: dict[str, LossFunction]) -> None:
    ctx.loss_fns, ctx.loss_fn = losses, losses[ctx.opt_name]


def mixup_loss(loss: LossFunction) -> LossFunction:
    """A loss function that also takes a `Mixed` target; any other goes to `loss` as it is.

    Weights for each sample need a loss for each sample: `loss` is asked for them if it has a
    `reduction` (as the functions and modules of torch do) and the mean or sum of the mixtures is
    then what that says; or it gives them itself, and the mean is taken. A mean that torch would not
    divide by the number of elements (class weights, `ignore_index`) is then one by that number. A
    loss that only gives a scalar needs one weight for the batch.

    Args:
        loss: a function of prediction and target.

    Raises:
        LossError: by the function, if there is a weight for each sample and no loss for each.
    """
    if isinstance(loss, partial) and loss.func in (_mix_loss, _mix_by_keys):
        return loss
    if isinstance(loss, InContext):
        return partial(_mix_by_keys, loss)
    each, reduction = _unreduced(loss)
    return partial(_mix_loss, loss, each, reduction)


def _mix_loss(
    loss: LossFunction, each: LossFunction, reduction: str, pred: Any, target: Any
) -> Any:
    if not isinstance(target, Mixed):
        return loss(pred, target)
    weight = target.weight
    if weight.ndim == 0:
        return weight * loss(pred, target.own) + (1 - weight) * loss(pred, target.partner)
    return _mixture(each(pred, target.own), each(pred, target.partner), weight, reduction)


def _mixture(
    own: torch.Tensor, partner: torch.Tensor, weight: torch.Tensor, reduction: str
) -> torch.Tensor:
    """The mean or sum of mixtures of losses for each sample, with a weight for each."""
    if own.ndim == 0 or own.shape[0] != len(weight):
        raise LossError(
            f"mixtures with a weight for each sample need a loss for each of the {len(weight)}"
            f" samples, got shape {tuple(own.shape)}; give a loss that takes reduction='none', or"
            " use Mixup(per='batch')"
        )
    mixed = torch.lerp(partner, own, weight.to(own.dtype).reshape(-1, *[1] * (own.ndim - 1)))
    if reduction == "sum":
        return mixed.sum()
    return mixed.mean()


def _mix_by_keys(bound: InContext, pred: Any, target: Any) -> Any:
    """The sum of weight times mixture; what each loss gave goes into the context, as unmixed."""
    if not isinstance(target, Mixed):
        return bound(pred, target)
    own, partner = bound.reading(pred, target.own), bound.reading(pred, target.partner)
    terms = {
        name: _mix_term(loss, own, partner, target.weight) for name, loss in bound.by_name.items()
    }
    whole, bound.ctx.loss_states = weigh(bound.by_name, terms, own)
    return whole


def _mix_term(
    loss: KeyedLoss, own: Context, partner: Context, weight: torch.Tensor
) -> tuple[Any, Any]:
    """The mixture of a loss by keys, and how many samples it stands for."""
    if not any(root_of(path) == "target" for path in loss.reads):
        return loss.values(own)  # a penalty, say, which is the same for both
    if weight.ndim == 0:
        (value, count), (other, others) = loss.values(own), loss.values(partner)
        if loss.masked:
            count = weight * count + (1 - weight) * others
        return weight * value + (1 - weight) * other, count
    (first, named), (firsts, nameds) = loss.arguments(own), loss.arguments(partner)
    each, reduction = _unreduced(loss.function)
    value = _mixture(each(*first, **named), each(*firsts, **nameds), weight, reduction)
    return value, own.batch_size


def _unreduced(loss: LossFunction) -> tuple[LossFunction, str]:
    """The loss as it gives one for each sample, if it can, and how it reduces them."""
    if isinstance(loss, torch.nn.Module):
        if not isinstance(reduction := getattr(loss, "reduction", None), str):
            return loss, "mean"
        each = copy.copy(loss)  # shares the weights
        # A module's own attribute, which is a str
        each.reduction = "none"  # type: ignore[assignment]
        return each, reduction
    try:
        parameter = inspect.signature(loss).parameters.get("reduction")
    except ValueError:  # written in C
        parameter = None
    if parameter is None:
        return loss, "mean"
    return partial(loss, reduction="none"), str(parameter.default)


def _mix(inputs: Any, order: torch.Tensor, weight: torch.Tensor) -> Any:
    def mix(part: Any) -> torch.Tensor:
        own = _mixable(part)
        if not own.is_floating_point():
            raise DataError(
                f"Mixup mixes inputs that are floating-point numbers, got {own.dtype}; convert"
                " them, or mix within the model"
            )
        share = weight.to(own.dtype)
        if share.ndim:
            share = share.reshape(-1, *[1] * (own.ndim - 1))
        return torch.lerp(own[order], own, share)

    return map_leaves(inputs, mix)


def _take(targets: Any, order: torch.Tensor) -> Any:
    return map_leaves(targets, lambda part: _mixable(part)[order])


def _mixable(part: Any) -> torch.Tensor:
    if isinstance(part, torch.Tensor):
        return part
    raise DataError(
        f"Mixup mixes tensors, and tuples, lists and dicts of them, got {type(part).__name__}"
    )
