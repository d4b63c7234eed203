"""Schedule: any hyperparameter changes with the steps or the epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs
import torch

from statetrain.callback import Callback, unwrapped
from statetrain.callbacks.lr_scheduler import LRScheduler
from statetrain.callbacks.run_length import left_of
from statetrain.context import keys
from statetrain.context.context import Context
from statetrain.errors import CallbackError, ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.losses.losses import unbound
from statetrain.naming import did_you_mean
from statetrain.schedules import Curve, Planned, pieces
from statetrain.validators import is_number

_FIELDS = tuple(field.name for field in attrs.fields(Context))


class Schedule(Callback):
    """Sets a hyperparameter as a function of the steps made, or of the epochs.

        Schedule("opt.lr", one_cycle(peak=0.1))                       # over the whole run
        Schedule("opt.lr", warm_up(0.05, cosine(0.1)))                # a twentieth of it, the rest
        Schedule("opt.weight_decay", {0: 0.0, 10: 1e-4}, per="epoch")
        Schedule("model.dropout.p", linear(0.5, 0.0, over=30), per="epoch", column="dropout")

    While n steps (or whole epochs) have been made, the value is `schedule(n)`: the first step is
    made with `schedule(0)`. It is a function of the run's counters and nothing else, so a run that
    is resumed, or continued with `run.fit(...)`, has the values that it would have had. For a
    learning rate that depends on a monitored value, there is `LRScheduler`.

    Args:
        target: what is set: "opt.lr" or another setting of the lone optimizer, of all its groups of
            parameters, or "opt[1].lr" of one; with several optimizers, the name of one in place of
            "opt". "loss.weight" or another attribute of the loss; of several by name,
            "loss.<name>.weight". Or a path into the context: "model.dropout.p",
            "hparams.temperature", "buffers.beta". It has to be there already, and be a number, a
            tuple of numbers (Adam's betas) or a tensor, which is filled in place.
        schedule: a function of a whole number from 0 on; a number; or pieces, by the count from
            which on each holds. See `statetrain.schedules`. One that takes all of the run, or a
            share, is planned when a fit begins; a resumed run keeps its plan.
        per: whether "step" or "epoch" is counted.
        column: the column of the history that shows the value with which each row's last step was
            made; None: none.

    Raises:
        ConfigError: the arguments do not fit together; when a fit begins, that there is no such
            target.
    """

    reads = ("buffers", "epoch", "hparams", "loss_fns", "model", "optimizers", "row_due", "step")
    commutes_with = ("Schedule",)  # each sets its own target

    def __init__(
        self,
        target: str,
        schedule: Curve | Planned | float | Mapping[int, float | Curve],
        *,
        per: Literal["step", "epoch"] = "step",
        column: str | None = None,
    ) -> None:
        if per not in ("step", "epoch"):
            raise ConfigError(
                "Schedule: per must be 'step' or 'epoch', got"
                f" {per!r}{did_you_mean(str(per), ('step', 'epoch'))}"
            )
        self.target, self.per, self.column = target, per, column
        self._parts = _parse(target)
        # One that depends on the length of the run is made when a fit begins
        self._total: int | None = None
        self._lifecycle: Lifecycle | None = None
        self._planned: Planned | None = None
        self._curve: Curve = float
        if isinstance(schedule, Planned):
            self._planned = schedule
        else:
            self._curve = _curve(target, schedule)
        self._name: Any = self._parts[-1]
        self._factor = 1.0  # of a learning rate that was lowered for good
        # Gives what has a value of that name; known when a fit begins
        self._holders: Callable[[], list[Any]] = list
        # Only what is asked for is listened to.
        self.writes = (_field_of(str(self._parts[0])),)
        if per == "step":
            self.on_exit_batch = self._set
        else:
            self.on_enter_epoch = self._set
        if column is not None:
            self.writes = (*self.writes, f"history.{column}")
            self.on_enter_record = self._show

    # ------------------------------------------------------------ checked before anything runs

    def check_lifecycle(self, lifecycle: Lifecycle) -> None:
        """Checks that there are batches, or epochs, to count."""
        self._lifecycle = lifecycle
        scope = "epoch"
        if self.per == "step":
            scope = "batch"
        if not lifecycle.by_role(scope):
            raise CallbackError(
                f"{self!r} counts in the state {scope!r}, which lifecycle {lifecycle.name!r} does"
                f" not have{did_you_mean(scope, lifecycle.names)}"
            )

    def check_context(self, ctx: Context) -> None:
        """Looks the target up, what the schedule begins with, and who else sets it."""
        self._plan(ctx)
        self._check_lone(ctx)
        for holder in self._find(ctx)():
            old, new = _read(holder, self._name), self._curve(self._count(ctx))
            if not _fits(new, old):
                kind = "a finite number"
                if isinstance(old, tuple):
                    kind = f"a tuple of {len(old)} finite numbers"
                raise ConfigError(
                    f"Schedule of {self.target!r}: the schedule must give {kind}, as {old!r:.80} is"
                    f" now, got {new!r:.80}"
                )

    def _plan(self, ctx: Context) -> None:
        """Makes a schedule that depends on the length of the run."""
        if self._planned is None:
            return
        if self._total is None:
            assert self._lifecycle is not None
            if self.per == "step":
                made = ctx.step
            else:
                made = ctx.epoch
            self._total = made + left_of(ctx, self._lifecycle, self.per, repr(self))
        self._curve = self._planned.for_run(self._total)

    def _check_lone(self, ctx: Context) -> None:
        """Raises a `ConfigError` if another schedule sets the same value."""
        own = set(map(id, self._find(ctx)()))
        for other in map(unwrapped, ctx.callbacks):
            if other is not self and not own.isdisjoint(map(id, _holders(other, self._name, ctx))):
                raise ConfigError(
                    f"{self!r} and {other!r} set the same value, so one of them would do nothing;"
                    " take one out, or join them in one schedule, as with pieces"
                )

    def _find(self, ctx: Context) -> Callable[[], list[Any]]:
        """A function that gives what holds the value: parameter groups, or what is at a path."""
        head, *rest = self._parts[:-1]
        if head in ctx.optimizers:
            return self._groups(ctx.optimizers[head], str(head), rest)
        if head == "loss":
            losses = {id(loss): loss for loss in unbound(ctx.loss_fns).values() if loss is not None}
            if not losses:
                raise ConfigError(f"Schedule: {self.target!r}: this run has no loss function")
            # Those of a Losses are found by name
            heads = [getattr(loss, "by_name", loss) for loss in losses.values()]
            holders = [self._holder(loss, rest) for loss in heads]
        elif head == "model":
            holders = [self._holder(ctx.accelerator.unwrap(ctx.model), rest)]
        elif head in _FIELDS:
            holders = [self._holder(getattr(ctx, str(head)), rest)]
        else:
            near = did_you_mean(str(head), [*ctx.optimizers, "loss", "model", "hparams", "buffers"])
            raise ConfigError(
                f"Schedule: {self.target!r}: there is no optimizer and no field of the context"
                f" {head!r}{near}"
            )
        return lambda: holders

    def _groups(
        self, optimizer: torch.optim.Optimizer, name: str, rest: list[Any]
    ) -> Callable[[], list[Any]]:
        if rest[:1] == ["param_groups"]:
            rest = rest[1:]
        chosen = slice(None)
        groups = optimizer.param_groups
        if rest and isinstance(rest[0], int):
            which = rest.pop(0)
            if not -len(groups) <= which < len(groups):
                some = "one group"
                if len(groups) != 1:
                    some = f"{len(groups)} groups"
                raise ConfigError(
                    f"Schedule: {self.target!r}: optimizer {name!r} has {some} of parameters,"
                    f" counted from 0; write '{name}[0].{self._name}'"
                )
            which %= len(groups)
            chosen = slice(which, which + 1)
        for group in groups[chosen]:
            self._holder(group, rest)
        # Looked up each time: loading a state gives an optimizer other groups.
        return lambda: optimizer.param_groups[chosen]

    def _holder(self, holder: Any, rest: list[Any]) -> Any:
        """What holds the value, below something, once it is seen that it does."""
        for part in (*rest, self._name):
            inner = holder
            try:
                holder = keys.get(inner, keys.written((part,)))
            except KeyError:
                article = "a"
                if type(inner).__name__[0] in "AEIOU":
                    article = "an"
                raise ConfigError(
                    f"Schedule: {self.target!r}: {article} {type(inner).__name__} has no"
                    f" {part!r}{did_you_mean(str(part), _settable(inner))}"
                ) from None
        if isinstance(inner, tuple):
            raise ConfigError(
                f"Schedule: {self.target!r} lies in a tuple; set that as a whole, with a schedule"
                " that gives tuples"
            )
        if not (
            isinstance(holder, torch.Tensor)
            or _is_number(holder)
            or (isinstance(holder, tuple) and all(map(_is_number, holder)))
        ):
            raise ConfigError(
                f"Schedule: {self.target!r} is {holder!r:.80}; a schedule sets numbers, tuples of"
                " numbers and tensors"
            )
        return inner

    # ------------------------------------------------------------ hooks

    def on_enter_fit(self, ctx: Context) -> None:
        """Sets the first value."""
        if ctx.epoch == 0:
            self._factor = 1.0
            self._refuse_to_level(ctx)
        self._total = None  # another fit may be longer
        self.on_resume(ctx)

    def _refuse_to_level(self, ctx: Context) -> None:
        """Raises a `ConfigError` if groups of parameters have values of their own."""
        if self._parts[0] not in ctx.optimizers:
            return
        values = dict.fromkeys(_plain(_read(group, self._name)) for group in self._find(ctx)())
        if len(values) > 1:
            one = f"{self._parts[0]}[0].{self._name}"
            raise ConfigError(
                f"{self!r} would give all groups of parameters one value, and theirs differ:"
                f" {', '.join(map(str, values))}; schedule each, as {one!r}, or change rates in"
                " proportion with LRScheduler"
            )

    def on_resume(self, ctx: Context) -> None:
        """Sets the value that belongs to the place in the run."""
        self._plan(ctx)
        self._holders = self._find(ctx)
        self._set(ctx)

    def _set(self, ctx: Context) -> None:
        value, name = self._value(self._count(ctx)), self._name
        for holder in self._holders():
            if isinstance(old := _read(holder, name), torch.Tensor):
                old.fill_(value)
            elif isinstance(holder, dict | list):
                holder[name] = value
            else:
                setattr(holder, name, value)

    def _show(self, ctx: Context) -> None:
        if ctx.row_due:  # a row that nothing else is written to is none
            if self.per == "step":
                made = ctx.step - 1
            else:
                made = ctx.epoch - 1
            assert self.column is not None
            ctx.log_metric(self.column, self._value(max(made, 0)), set="")

    def _value(self, count: int) -> Any:
        value = self._curve(count)
        if self._factor != 1.0:
            return value * self._factor
        return value

    def lower_rates(self, factor: float) -> None:
        """Multiplies what a schedule of a learning rate gives from now on; `RollBack` calls it."""
        if self._name == "lr":
            self._factor *= factor

    # ------------------------------------------------------------ saved and put back

    def state_dict(self) -> dict[str, Any]:
        """By what rates were lowered for good, and the length of the run that was planned."""
        return {"factor": self._factor, "total": self._total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._factor, self._total = state["factor"], state["total"]

    def _count(self, ctx: Context) -> int:
        if self.per == "step":
            return int(ctx.step)
        return max(int(ctx.epoch) - 1, 0)

    def __repr__(self) -> str:
        return f"Schedule({self.target!r}, per={self.per!r})"


def _parse(target: str) -> tuple[Any, ...]:
    try:
        parts = tuple(keys.parse(target))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            "Schedule: the target must be a path such as 'opt.lr' or 'model.dropout.p', got"
            f" {target!r}: {error}"
        ) from error
    if len(parts) < 2 or any(isinstance(part, keys.Wild) for part in parts):
        raise ConfigError(
            "Schedule: the target must be one part of something, such as 'opt.lr' or"
            f" 'model.dropout.p', got {target!r}"
        )
    return parts


def _curve(target: str, schedule: Curve | float | Mapping[int, float | Curve]) -> Curve:
    """A function of the count; a number is the same for every count."""
    if callable(schedule):
        return schedule
    if isinstance(schedule, int | float) and _is_number(schedule):
        schedule = {0: schedule}
    if not isinstance(schedule, Mapping):
        raise ConfigError(
            f"Schedule of {target!r}: the schedule must be a function of a count, a number, or"
            f" pieces such as {{0: 0.1, 30: 0.01}}, got {schedule!r}"
        )
    try:
        return pieces(schedule)
    except ValueError as error:
        raise ConfigError(f"Schedule of {target!r}: {error}") from error


def _field_of(head: str) -> str:
    """The field of the context below which the target lies."""
    if head == "loss":
        return "loss_fns"
    if head in _FIELDS and head != "opt":
        return head
    return "optimizers"


def _is_number(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _holders(other: Any, name: str, ctx: Context) -> list[Any]:
    """What holds the values of that name that another callback sets."""
    if isinstance(other, Schedule) and other._name == name:
        return other._find(ctx)()
    if isinstance(other, LRScheduler) and name in other.settings:
        return other.optimizer_of(ctx).param_groups
    return []


def _fits(new: Any, old: Any) -> bool:
    """Whether a value can take the place of another one: a number, or as many numbers."""
    if not isinstance(old, tuple):
        return _is_number(new)
    return isinstance(new, tuple) and len(new) == len(old) and all(map(_is_number, new))


def _read(holder: Any, name: Any) -> Any:
    if isinstance(holder, dict | list):
        return holder[name]
    return getattr(holder, name)


def _plain(value: Any) -> Any:
    """A setting as numbers, which can be compared."""
    if isinstance(value, torch.Tensor):
        return value.item()
    return value


def _settable(thing: Any) -> list[str]:
    """The names below something that lead to a number or further, for errors."""
    if isinstance(thing, Mapping):
        return [
            str(name)
            for name, value in thing.items()
            if name != "params" and not isinstance(value, bool | None)
        ]
    children = {}
    if isinstance(thing, torch.nn.Module):
        children = dict(thing.named_children())
    own = [
        name
        for name, value in getattr(thing, "__dict__", {}).items()
        if not name.startswith("_") and (_is_number(value) or isinstance(value, tuple))
    ]
    return [*children, *own]
