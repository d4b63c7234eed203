"""Losses by keys: functions whose arguments are parts of the context, with weights and masks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from attrs import Factory, define, field

from statetrain.context.context import Context
from statetrain.context.keys import Getter, root_of
from statetrain.errors import ConfigError, LossError
from statetrain.losses.keyed import KeyedArguments, Weights, elementwise, keyed, parse_key, read
from statetrain.validators import is_number

Weight = float | str | Callable[[Any], Any]


class LossState(NamedTuple):
    """What a loss gave for a batch.

    Attributes:
        value: without its weight and its graph, shape ().
        weight: what it counts in the total.
        count: how many samples it stands for, or the sum of its mask and its weights of samples.
    """

    value: Any
    weight: Any
    count: Any


class Loss:
    """A loss whose arguments are named by keys.

        Loss(F.cross_entropy, pred="pred.logits", target="batch.label") Loss(F.mse_loss,
        input="interms.decoder", target="batch.image", weight=0.1, mask="batch.valid") Loss(lambda
        p: sum(w.square().sum() for w in p.values()), p="params.**.weight", weight=lambda ctx: 1e-4
        * ctx.epoch)

    A key goes to the argument of its name; one whose name the function does not have goes to the
    first required argument that is still open. Without keys, the function takes the prediction and
    the target, as a plain loss does.

    It is called with a context, or with the arguments themselves: `loss(ctx)`, `loss(pred, label)`.

    Args:
        function: gives a scalar tensor; with a mask or weights of samples, a value for each element
            (`reduction="none"` is said to a function that knows it).
        weight: what it counts in the total: a number, a key (`"hparams.beta"`), or a function of
            the context that gives a number or a tensor, asked in each batch (`lambda ctx: min(1.0,
            ctx.step / 1000)`).
        mask: the key of what counts, booleans or numbers whose shape is the beginning of the
            values'. The loss is the mean over what counts, 0 of nothing, in a batch and in an
            epoch.
        sample_weight: the key of how much each counts, likewise.
        keys: the paths of the function's arguments.

    Raises:
        ConfigError: the keys do not fit the function's arguments, or the weight is not a number.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        /,
        *,
        weight: Weight = 1.0,
        mask: str | None = None,
        sample_weight: str | None = None,
        **keys: str,
    ) -> None:
        self.function, self.keys, self.weight = function, dict(keys), weight
        self.mask, self.sample_weight = mask, sample_weight
        self._who = f"loss {_name(function)!r}"
        self._weights = Weights.parse(mask, sample_weight, self._who)
        self._keyed: KeyedArguments | None = None
        if keys or isinstance(function, type) or not callable(function):
            self._keyed = keyed(function, keys, self._who)  # it says what is wrong
        self._more = {}
        if self.masked:
            self._more = elementwise(function, self._who)
        self._weight_key: Getter | None = None
        if isinstance(weight, str):
            self._weight_key = parse_key(weight, f"{self._who}, weight=")
        elif not callable(weight) and not (is_number(weight) and math.isfinite(weight)):
            raise ConfigError(
                f"{self._who}: weight must be a finite number, a key, or a function of the context,"
                f" got {weight!r:.80}"
            )

    @property
    def masked(self) -> bool:
        """Whether it counts by a mask or weights of samples, not by the size of the batch."""
        return bool(self._weights.keys)

    @property
    def weighed_by(self) -> tuple[str, ...]:
        """The paths of its mask and its weights of samples; empty if it counts samples."""
        return tuple(key.path for key in self._weights.keys)

    @property
    def reads(self) -> frozenset[str]:
        """The paths that it reads."""
        found = {"pred", "target"}
        if self._keyed is not None:
            found = set(self._keyed.reads)
        if self._weight_key is not None:
            found.add(self._weight_key.path)
        return frozenset(found | {key.path for key in self._weights.keys})

    def arguments(self, ctx: Context) -> tuple[list[Any], dict[str, Any]]:
        """What its function is called with, by position and by name.

        Raises:
            LossError: a key leads to nothing.
        """
        if self._keyed is None:
            return [pick_pred(ctx), ctx.target], {}
        return self._keyed.arguments(ctx)

    def values(self, ctx: Context) -> tuple[Any, Any]:
        """The loss of the current batch, without its weight, and how many samples it stands for.

        Returns:
            The value, shape (), with its graph; and the number of samples, or what the mask counts.
        """
        first, named = self.arguments(ctx)
        if not self.masked:
            return self.function(*first, **named, **self._more), ctx.batch_size
        if torch.is_grad_enabled():
            first = [self._weights.without_nan(ctx, one, self._who) for one in first]
            named = {
                name: self._weights.without_nan(ctx, one, self._who) for name, one in named.items()
            }
        value = self.function(*first, **named, **self._more)
        total, count = self._weights.sums(ctx, value, self._who)
        return total / (count + (count == 0)), count

    def weight_of(self, ctx: Context) -> Any:
        """What it counts in the total at present."""
        if self._weight_key is not None:
            return read(ctx, self._weight_key, self._who)
        if not callable(self.weight):
            return self.weight
        try:
            return self.weight(ctx)
        except TypeError as error:
            error.add_note(
                f"statetrain: weight= of {self._who} is called with the context; for a schedule,"
                " write weight=lambda ctx: schedule(ctx.step)"
            )
            raise

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """The loss, with its weight, of a context; of arguments, without weight and mask."""
        if len(arguments) == 1 and not named and isinstance(arguments[0], Context):
            return total({"loss": self}, arguments[0])[0]
        return self.function(*arguments, **named, **self._more)

    def __repr__(self) -> str:
        said = [_name(self.function), *(f"{name}={path!r}" for name, path in self.keys.items())]
        said += [f"weight={self.weight!r}"] if self.weight != 1.0 else []
        said += [
            f"{name}={key.path!r}"
            for name in ("mask", "sample_weight")
            if (key := getattr(self._weights, name)) is not None
        ]
        return f"Loss({', '.join(said)})"


class Losses:
    """Several losses of one optimizer, by name. The total is the sum of weight times value.

        fit(..., loss=Losses(label=Loss(F.cross_entropy), sparsity=Loss(l1,
        hidden="interms.encoder", weight=0.01)))

    Each has a column of its own, `train_loss_<name>`, of its values without the weight;
    `train_loss` is the total.

    Args:
        losses: each a `Loss`, or a function of prediction and target.

    Attributes:
        by_name: the losses.

    Raises:
        ConfigError: there is none, or one is neither.
    """

    def __init__(self, **losses: Loss | Callable[..., Any]) -> None:
        if not losses:
            raise ConfigError("Losses() has no loss; write Losses(label=Loss(...), ...)")
        self.by_name = {
            name: loss if isinstance(loss, Loss) else Loss(loss) for name, loss in losses.items()
        }

    @property
    def reads(self) -> frozenset[str]:
        """The paths that they read."""
        return frozenset().union(*(loss.reads for loss in self.by_name.values()))

    def __call__(self, ctx: Context) -> Any:
        """The total of a context, with its graph, shape ()."""
        return total(self.by_name, ctx)[0]

    def __repr__(self) -> str:
        return f"Losses({', '.join(f'{name}={loss!r}' for name, loss in self.by_name.items())})"


def pick_pred(ctx: Context) -> Any:
    """What losses and metrics take of the prediction: all of it, or what `pred=` picks."""
    if ctx.pick is None:
        return ctx.pred
    return ctx.pick(ctx.pred)


def total(losses: Mapping[str, Loss], ctx: Context) -> tuple[Any, dict[str, LossState]]:
    """The sum of weight times value, with its graph, shape (); and what each gave.

    Raises:
        LossError: one gives no scalar.
    """
    return weigh(losses, {name: loss.values(ctx) for name, loss in losses.items()}, ctx)


def weigh(
    losses: Mapping[str, Loss], terms: Mapping[str, tuple[Any, Any]], ctx: Context
) -> tuple[Any, dict[str, LossState]]:
    """The sum of weight times value, of values and counts that are computed already; as `total`."""
    whole, states = None, {}
    for name, loss in losses.items():
        value, count = terms[name]
        if len(losses) > 1 and not (isinstance(value, torch.Tensor) and value.numel() == 1):
            raise LossError(f"loss {name!r} must be a scalar tensor, got {_describe(value)}")
        weight = loss.weight_of(ctx)
        # No operation that changes nothing: a plain loss costs what it costs by hand
        term = value
        if not isinstance(weight, int | float) or weight != 1:
            term = value * weight
        if whole is None:
            whole = term
        else:
            whole = whole + term
        states[name] = LossState(
            value.detach() if isinstance(value, torch.Tensor) else value, weight, count
        )
    return whole, states


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"shape {tuple(value.shape)}; reduce it, for example with .mean()"
    return f"{type(value).__name__}: {value!r:.80}"


# ---------------------------------------------------------------- in a run


@define(eq=False)
class InContext:
    """Losses by keys in the place of a plain loss: their arguments are read from the context.

    Called with a prediction and a target that are not the batch's, as by a second forward pass,
    keys that begin with `pred` and `target` read these; all others read the context.
    """

    losses: Loss | Losses
    ctx: Context
    # What the action that calls it asks, to word an error
    by_keys: bool = field(default=True, init=False)
    by_name: dict[str, Loss] = field(init=False)

    def __attrs_post_init__(self) -> None:
        if isinstance(self.losses, Losses):
            self.by_name = self.losses.by_name
        else:
            self.by_name = {"loss": self.losses}

    def __call__(self, pred: Any, target: Any) -> Any:
        """The total, with its graph, shape ().

        What each loss gave for the batch goes into `ctx.loss_states`.

        Raises:
            LossError: a prediction or a target of another batch is given, and no loss reads it.
        """
        ctx = self.ctx
        if target is ctx.target and _is_picked(pred, ctx):
            whole, ctx.loss_states = total(self.by_name, ctx)
            return whole
        whole, states = total(self.by_name, self.reading(pred, target))
        # `compute=` may compute the loss of the batch before it says what pred is
        if ctx.pred is None or not ctx.loss_states:
            ctx.loss_states = states
        return whole

    def reading(self, pred: Any, target: Any) -> Context:
        """A copy of the context with this prediction and target.

        Raises:
            LossError: one is not the batch's, and no loss reads it.
        """
        ctx = self.ctx
        if not _is_picked(pred, ctx):
            self._check_read("pred", "prediction")
        if target is not ctx.target:
            self._check_read("target", "target")
        seen = copy.copy(ctx)
        seen.pred, seen.target, seen.pick = pred, target, None
        return seen

    def _check_read(self, field: str, word: str) -> None:
        paths = sorted(path for loss in self.by_name.values() for path in loss.reads)
        if not any(root_of(path) == field for path in paths):
            raise LossError(
                f"ctx.loss_fn is called with another {word} than the batch's, and {self.losses!r}"
                f" does not read it: it reads {', '.join(map(repr, paths))}. Give the loss"
                f" {field}='{field}', and name the part of the batch in fit({_SAY[field]})"
            )

    def read_from(self, ctx: Context) -> InContext:
        """The same losses, read from another context."""
        return InContext(self.losses, ctx)


_SAY = {"pred": "pred='logits'", "target": "target='label'"}


def _is_picked(pred: Any, ctx: Context) -> bool:
    """Whether this is what losses take of the batch's prediction."""
    if ctx.pick is None:
        return pred is ctx.pred
    own = pick_pred(ctx)
    if pred is own:
        return True
    # A part such as pred[:, 0] is a new tensor each time, of the same memory
    return (
        isinstance(pred, torch.Tensor)
        and isinstance(own, torch.Tensor)
        and pred.data_ptr() == own.data_ptr()
        and (pred.shape, pred.stride()) == (own.shape, own.stride())
        and pred.requires_grad == own.requires_grad
    )


def terms_of(loss: Any) -> list[Loss]:
    """The losses by keys that a loss consists of; none of a plain function."""
    if isinstance(loss, Losses):
        return list(loss.by_name.values())
    if isinstance(loss, Loss):
        return [loss]
    return []


def modules_of(loss: Any) -> dict[str, torch.nn.Module]:
    """The modules that a loss consists of: itself, under "", or those of its losses by name."""
    if isinstance(loss, torch.nn.Module):
        return {"": loss}
    if isinstance(loss, InContext):
        loss = loss.losses
    if isinstance(loss, Losses):
        losses = loss.by_name
    elif isinstance(loss, Loss):
        losses = {"": loss}
    else:
        losses = {}
    return {
        name: one.function
        for name, one in losses.items()
        if isinstance(one.function, torch.nn.Module)
    }


def modules_by_name(losses: Mapping[str, Any]) -> dict[str, torch.nn.Module]:
    """The modules of the losses of all optimizers: as "opt", or "opt.label" of one of several."""
    return {
        ".".join(filter(None, (optimizer, name))): module
        for optimizer, loss in losses.items()
        for name, module in modules_of(loss).items()
    }


def bound(losses: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    """Losses by optimizer as a run calls them: those by keys read this context, plain ones stay."""
    bare = unbound(losses)
    return {
        name: InContext(loss, ctx) if isinstance(loss, Loss | Losses) else loss
        for name, loss in bare.items()
    }


def unbound(losses: Mapping[str, Any]) -> dict[str, Any]:
    """Losses by optimizer as they were given."""
    return {
        name: loss.losses if isinstance(loss, InContext) else loss for name, loss in losses.items()
    }


@define(eq=False)
class LossMean:
    """A loss by keys as a metric: its mean over samples or, with a mask, over what counts.

    Args:
        names: of the losses that it sums up.
        weighted: whether their weights count; in the column of one loss they do not.
    """

    names: tuple[str, ...]
    weighted: bool = False
    sums: dict[str, Any] = Factory(dict)  # by name: the sum of value times count, and of the counts

    def take(self, ctx: Context, counts: Any = True) -> None:
        """Takes in a batch; where a device says that it does not count, nothing.

        Of a computation of the user's own, it takes the losses that it called `ctx.loss_fn` for.
        """
        for name in self.names:
            if name not in ctx.loss_states:
                continue
            value, weight, count = (_summable(part) for part in ctx.loss_states[name])
            before, number = self.sums.get(name, (0.0, 0))
            if self.weighted:
                value = value * weight
            total, count = where_it_counts(value * count, count, counts)
            self.sums[name] = (before + total, number + count)

    def compute(self) -> float:
        """The mean over all batches since the last reset."""
        means = self.numbers().values()
        if means:
            return math.fsum(whole / count if count else 0.0 for whole, count in means)
        return math.nan

    def numbers(self) -> dict[str, tuple[float, float]]:
        """The sums on the host."""
        return {name: (float(whole), float(count)) for name, (whole, count) in self.sums.items()}

    def update(self, *_: Any) -> None:
        """It takes in whole contexts."""
        raise TypeError("a LossMean takes in a context: take(ctx)")

    def reset(self) -> None:
        """Forgets all batches."""
        self.sums = {}

    def state_dict(self) -> dict[str, Any]:
        """The sums."""
        return {"sums": dict(self.sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.sums = dict(state["sums"])


def _summable(value: Any) -> Any:
    """A number on the host; on a device a detached tensor, so that nothing waits for it."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.device.type == "cpu":
        return value.item()
    return exact(value)


def where_it_counts(total: Any, count: Any, counts: Any) -> tuple[Any, Any]:
    """A sum and what it counts, or zeros where a tensor of shape () on the device is false."""
    if counts is True:
        return total, count
    return torch.where(counts, total, 0.0), count * counts


def exact(value: torch.Tensor) -> torch.Tensor:
    """A value of shape () without graph, in float64 where the device has it, to be summed up."""
    widest = torch.float64
    if value.device.type == "mps":
        widest = torch.float32
    return value.detach().reshape(()).to(widest)


def means_of(optimizer: str, loss: Any) -> dict[str, LossMean]:
    """The columns of losses by keys, without the set: each loss, and the total where masks count.

    Args:
        optimizer: its name; empty if it is the only one.
        loss: what it trains on.
    """
    column = "loss"
    if optimizer:
        column = f"loss_{optimizer}"
    found: dict[str, LossMean] = {}
    if isinstance(loss, Loss) and loss.masked:
        found[column] = LossMean(("loss",), weighted=True)
    if isinstance(loss, Losses):
        if any(one.masked for one in loss.by_name.values()):
            found[column] = LossMean(tuple(loss.by_name), weighted=True)
        found |= {f"{column}_{name}": LossMean((name,)) for name in loss.by_name}
    return found


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", None) or type(function).__name__)
