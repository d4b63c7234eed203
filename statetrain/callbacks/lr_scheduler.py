"""LRScheduler: lets a schedule of torch change the learning rate."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedules

from statetrain.callback import Callback
from statetrain.callbacks.peers import peers_in
from statetrain.callbacks.run_length import left_of
from statetrain.errors import ConfigError
from statetrain.naming import did_you_mean
from statetrain.validators import check_word

if TYPE_CHECKING:
    from statetrain.context.context import Context

_ADVANCES = {
    "step": "on_exit_step",
    "valid": "on_exit_record",
    "epoch": "on_enter_next_epoch",
}


class LRScheduler(Callback):
    """Lets a schedule of `torch.optim.lr_scheduler` change the learning rate.

        LRScheduler(torch.optim.lr_scheduler.OneCycleLR, per="step", max_lr=0.1)
        LRScheduler(torch.optim.lr_scheduler.ReduceLROnPlateau, per="valid", monitor="valid_loss",
        patience=3)

    The schedule is made when a fit starts; `run.fit(...)` continues with it, and a new fit gets
    a new one. The rate with which the last step was made stands in each row of
    the history, as the column `lr` or, where an optimizer is named, `lr_<optimizer>`; of several
    parameter groups it is the first one's.

    Args:
        scheduler: a class, or a function that is called with the optimizer and `kwargs` and gives a
            schedule.
        per: when the schedule advances: after each "step" of the optimizer; after each complete
            "epoch", which one that was stopped midway is not; or after each complete validation,
            "valid": of `monitor`, the evaluation that the column belongs to. In a phase that steps
            another optimizer only, the schedule waits. Or on another hook, by its name, such as
            "exit_batch" or "enter_record".
        monitor: the exact name of the column of the history whose value a schedule such as
            `ReduceLROnPlateau` takes. A row without it leaves the schedule where it is.
        optimizer: the name of the optimizer; None is the only one.
        kwargs: further arguments for the schedule. The length of the run, `total_steps` of
            `OneCycleLR` and `T_max` of `CosineAnnealingLR`, is computed if it is left out.

    Raises:
        ConfigError: the arguments do not fit together, or there is no such optimizer.
    """

    reads = {
        "on_enter_fit": ("epoch", "optimizers", "step"),
        "on_resume": ("optimizers",),
        "on_exit_step": ("opt", "optimizers", "pending"),
        "on_enter_record": ("history", "row_due", "step"),
        "on_exit_record": ("epoch", "history", "opt"),
        "on_enter_next_epoch": ("epoch", "epoch_complete", "history", "opt"),
    }
    # Schedules of one optimizer are chained in the order in which they were given
    commutes_with = ("LRScheduler",)
    run_after = ("LRScheduler",)  # in that order on each hook

    def __init__(
        self,
        scheduler: Callable[..., Any],
        *,
        per: str = "epoch",
        monitor: str | None = None,
        optimizer: str | None = None,
        **kwargs: Any,
    ) -> None:
        advances = _hook_of(per)
        _check_factory(scheduler, kwargs)
        if monitor is not None and per == "step":
            raise ConfigError(
                f"LRScheduler: monitor={monitor!r} has no value per step; it is a column of the"
                " history, so say per='valid' or per='epoch'"
            )
        if monitor is None and isinstance(scheduler, type) and _takes_metric(scheduler):
            raise ConfigError(
                f"LRScheduler: {_name(scheduler)} takes a value of the history; say which column:"
                " monitor='valid_loss'"
            )
        self._scheduler, self._kwargs, self._per, self._monitor, self._optimizer = (
            scheduler,
            kwargs,
            per,
            monitor,
            optimizer,
        )
        if monitor is not None:
            self.monitors = (monitor,)
        self._column, own = "lr", "optimizers"
        if optimizer is not None:
            self._column, own = f"lr_{optimizer}", f"optimizers.{optimizer}"
        if per not in _ADVANCES:
            setattr(self, advances, self._on_event)
            self.reads = {**type(self).reads, advances: ("history", "opt")}
        self.writes = dict.fromkeys(("on_enter_fit", "on_resume", advances), (own,)) | {
            "on_enter_record": (f"history.{self._column}",)
        }
        self._schedule: Any = None
        self._target: Optimizer | None = None  # whose rate the schedule changes
        self._state: dict[str, Any] = {}  # loaded, to be put into the schedule when it is made
        self._lr: Any = None  # of the last step
        self._is_first = True  # whether no other one of this optimizer was given before
        # Whether the optimizer, and others, have made a step since the schedule was last asked
        self._stepped = self._others_stepped = False
        # How far the run was when they were last looked at
        self._rows = self._step = self._epoch = 0

    def check_context(self, ctx: Context) -> None:
        """Looks the optimizer up, and whether there is what it advances with."""
        self.optimizer_of(ctx)
        if self._per == "valid" and ctx.tallies and self._evaluated(ctx) not in ctx.tallies:
            raise ConfigError(
                "LRScheduler(per='valid') advances with each validation, and this run has none, so"
                " the rate would never change; give valid=, or say per='epoch'"
            )

    def _evaluated(self, ctx: Context) -> str:
        """The set with whose rows it advances, per="valid"."""
        found = ctx.history.set_of(self._monitor or "")
        if found in ("train", ""):
            return "valid"
        return found

    # ------------------------------------------------------------ hooks

    def on_enter_fit(self, ctx: Context) -> None:
        """Makes the schedule, unless this fit continues with one."""
        if ctx.epoch == 0 or self._target is not self.optimizer_of(ctx):
            self._make(ctx)
        self._step, self._epoch = ctx.step, ctx.epoch

    def on_resume(self, ctx: Context) -> None:
        """Makes the schedule, with the state that was loaded."""
        self._make(ctx)

    def on_exit_step(self, ctx: Context) -> None:
        """Notes the step's rate, and advances with each step if asked to.

        A step that was left by an event was not made.
        """
        if ctx.pending or ctx.transition.event is not None:
            return
        if ctx.opt is not self._target:
            self._others_stepped = True
            return
        self._stepped = True
        if self._is_first:  # the others of this optimizer are called after it has changed the rate
            rate = self._target.param_groups[0]["lr"]
            # Schedules change a tensor in place
            self._lr = rate
            if isinstance(rate, torch.Tensor):
                self._lr = rate.clone()
        if self._per == "step":
            self._schedule.step()

    def on_enter_record(self, ctx: Context) -> None:
        """Logs the rate, if a step has been made since the last row."""
        self._rows = len(ctx.history)
        if ctx.row_due and ctx.step not in (0, self._step) and self._lr is not None:
            self._step = ctx.step
            ctx.log_metric(self._column, float(self._lr), set="")

    def on_exit_record(self, ctx: Context) -> None:
        """Advances, if it does so with each validation."""
        if self._per != "valid" or not ctx.epoch or len(ctx.history) == self._rows:
            return
        evaluated, row = self._evaluated(ctx), ctx.history[-1]
        if any(ctx.history.set_of(name) == evaluated for name in row):
            self._advance(ctx, row)

    def on_enter_next_epoch(self, ctx: Context) -> None:
        """Advances, if it does so with each epoch."""
        if self._per == "epoch" and ctx.epoch_complete and ctx.epoch != self._epoch:
            self._epoch = ctx.epoch
            self._advance(ctx, ctx.history.last)

    def _on_event(self, ctx: Context) -> None:
        """Advances, if it does so on a hook of its own."""
        self._advance(ctx, dict(*ctx.history[-1:]))

    def lower_rates(self, factor: float) -> None:
        """Multiplies the rates that the schedule starts from; `RollBack` calls it."""
        for part in (self._schedule, *getattr(self._schedule, "_schedulers", ())):
            for name in ("base_lrs", "max_lrs", "min_lrs"):
                if hasattr(part, name):
                    setattr(part, name, [rate * factor for rate in getattr(part, name)])
            if hasattr(part, "eta_min"):
                part.eta_min *= factor

    # ------------------------------------------------------------ saved and put back

    def state_dict(self) -> dict[str, Any]:
        """The schedule's state, the last step's rate, how far the run was; empty before a fit."""
        if self._schedule is None:
            return {}
        return {
            "schedule": _plain(self._schedule.state_dict()),
            "lr": self._lr,
            "step": self._step,
            "epoch": self._epoch,
            "stepped": (self._stepped, self._others_stepped),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keeps a state for the schedule that is made when the run is continued."""
        if state:
            self._state, self._lr, self._step, self._epoch = (
                state["schedule"],
                state["lr"],
                state["step"],
                state["epoch"],
            )
            self._stepped, self._others_stepped = state["stepped"]

    # ------------------------------------------------------------ the schedule

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings of the optimizer that the schedule sets, as far as that is known."""
        cycles = getattr(self._scheduler, "__name__", "") in ("OneCycleLR", "CyclicLR")
        if cycles and self._kwargs.get("cycle_momentum", True):
            return ("lr", "momentum", "betas")
        return ("lr",)

    def optimizer_of(self, ctx: Context) -> Optimizer:
        """The optimizer whose rate the schedule sets.

        Raises:
            ConfigError: there is none of that name, or there are several and none was named.
        """
        names = list(ctx.optimizers)
        if self._optimizer is None and len(names) > 1:
            raise ConfigError(
                f"LRScheduler: this run has the optimizers {', '.join(map(repr, names))}; say which"
                f" one: optimizer={names[0]!r}"
            )
        if self._optimizer is not None or not names:
            name = self._optimizer
        else:
            name = names[0]
        found = ctx.optimizers.get(name or "")
        if not isinstance(found, Optimizer):
            what = "no optimizer, so no learning rate"
            if name is not None:
                what = f"no optimizer {name!r}{did_you_mean(str(name), names)}"
            raise ConfigError(f"LRScheduler: this run has {what}")
        return found

    def _make(self, ctx: Context) -> None:
        optimizer = self.optimizer_of(ctx)
        before = [
            {name: value for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        try:
            schedule = self._scheduler(optimizer, **self._kwargs, **self._lengths(ctx))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"LRScheduler: {_name(self._scheduler)} with {self._kwargs!r} makes no schedule:"
                f" {error}"
            ) from error
        self._check_made(schedule)
        _refuse_to_level(schedule, optimizer, [float(group["lr"]) for group in before])
        if self._state:
            schedule.load_state_dict(self._state)
            # Making a schedule sets the rate of its beginning; the optimizer was loaded with the
            # right one.
            for group, values in zip(optimizer.param_groups, before, strict=True):
                group.update(values)
        # Torch warns of a schedule that advances before a step was made. Here that is no mistake in
        # the order of calls: the run is
        # continued, or all batches of an epoch were refused.
        optimizer._opt_called = True  # type: ignore[attr-defined]  # where torch looks
        self._schedule, self._target, self._state = schedule, optimizer, {}
        peers = peers_in(ctx, LRScheduler)
        same = [one for one in peers if one.optimizer_of(ctx) is optimizer]
        self._is_first = not same or same[0] is self

    def _lengths(self, ctx: Context) -> dict[str, int]:
        """The length of the run, for a schedule that needs it and was not told."""
        name = _LENGTHS.get(getattr(self._scheduler, "__name__", ""))
        if name is None or self._kwargs.keys() & {name, "steps_per_epoch"}:
            return {}
        if self._per not in _ADVANCES:
            raise ConfigError(
                f"{self!r}: how often {self._per!r} happens is not known before; say {name}="
            )
        per: Literal["step", "epoch"] = "epoch"
        if self._per == "step":
            per = "step"
        return {name: left_of(ctx, ctx.machine.lifecycle, per, repr(self))}

    def _check_made(self, schedule: Any) -> None:
        if not callable(getattr(schedule, "step", None)):
            raise ConfigError(
                f"LRScheduler: {_name(self._scheduler)} must give a schedule, got"
                f" {type(schedule).__name__}"
            )
        if _takes_metric(type(schedule)) != (self._monitor is not None):
            remedy = "it takes no value; leave monitor out"
            if self._monitor is None:
                remedy = "say which column it takes: monitor='valid_loss'"
            raise ConfigError(
                f"LRScheduler: {type(schedule).__name__} and monitor={self._monitor!r} do not fit:"
                f" {remedy}"
            )

    def _advance(self, ctx: Context, row: dict[str, Any]) -> None:
        alone = self._others_stepped and not self._stepped
        self._stepped = self._others_stepped = False
        if alone:
            return  # a phase that trains with another optimizer
        if self._monitor is None:
            self._schedule.step()
        elif self._monitor in row:
            self._schedule.step(row[self._monitor])

    def __repr__(self) -> str:
        options = {
            "per": self._per,
            "monitor": self._monitor,
            "optimizer": self._optimizer,
            **self._kwargs,
        }
        words = (f"{name}={value!r}" for name, value in options.items() if value is not None)
        return f"LRScheduler({', '.join((_name(self._scheduler), *words))})"


# What schedules of torch call the length of the run
_LENGTHS = {"OneCycleLR": "total_steps", "CosineAnnealingLR": "T_max"}


def _hook_of(per: str) -> str:
    """The hook on which a schedule advances.

    Raises:
        ConfigError: `per` is no word for one.
    """
    if per in _ADVANCES:
        return _ADVANCES[per]
    hook = f"on_{per}".replace("on_on_", "on_")
    if not isinstance(per, str) or not hook.startswith(("on_enter_", "on_exit_")):
        check_word("LRScheduler: per", per, tuple(_ADVANCES), also=", or a hook as 'exit_batch'")
    if hasattr(LRScheduler, hook):
        words = ", ".join(f"per={word!r}" for word in _ADVANCES)
        raise ConfigError(f"LRScheduler: it does work of its own on {hook!r}; take one of {words}")
    return hook


def _check_factory(scheduler: Any, kwargs: dict[str, Any]) -> None:
    if isinstance(scheduler, schedules.LRScheduler):
        raise ConfigError(
            f"LRScheduler takes a class and its arguments, got a {type(scheduler).__name__} that is"
            f" made already; write LRScheduler({type(scheduler).__name__}, ...)"
        )
    if not callable(scheduler):
        raise ConfigError(
            "LRScheduler takes a class of torch.optim.lr_scheduler or a function of the optimizer,"
            f" got {scheduler!r}"
        )
    try:
        length = _LENGTHS.get(getattr(scheduler, "__name__", ""))
        inspect.signature(scheduler).bind(None, **({} if length is None else {length: 1}) | kwargs)
    except TypeError as error:
        raise ConfigError(
            f"LRScheduler: {_name(scheduler)} cannot be called with the optimizer and {kwargs!r}:"
            f" {error}"
        ) from error
    except ValueError:
        return  # written in C, whose signature cannot be seen


def _refuse_to_level(schedule: Any, optimizer: Optimizer, rates: list[float]) -> None:
    """Raises a `ConfigError` if a schedule begins with one rate for groups that had several.

    `OneCycleLR` and `CyclicLR` take rates of their own.
    """
    begins = {float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups}
    if len(begins) == 1 < len(set(rates)):
        raise ConfigError(
            f"LRScheduler: {type(schedule).__name__} would give all groups of parameters one rate,"
            f" and theirs differ; give it a list with one for each group, in place of {rates}"
        )


def _takes_metric(schedule: type) -> bool:
    """Whether a schedule's step needs a value, as `ReduceLROnPlateau`'s does."""
    return "metrics" in inspect.signature(getattr(schedule, "step", lambda: None)).parameters


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """A copy of the plain data; the rest are settings, like MultiStepLR's, that are given again."""
    return copy.deepcopy(
        {
            name: value
            for name, value in state.items()
            if not (isinstance(value, dict) and not all(isinstance(key, str) for key in value))
        }
    )


def _name(factory: Any) -> str:
    return str(getattr(getattr(factory, "func", factory), "__name__", type(factory).__name__))
