"""The options of the standard lifecycle, each with its type, its default and what it means.

`Options` checks them, alone and together, before anything is built. `FitOptions` and
`SupervisedOptions` are the same names for editors and type checkers: those that `fit` takes, and
those that `supervised` takes, with what `fit` finds out by itself (how many optimizers there are,
whether the model has buffers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Literal, TypeAlias, TypedDict

import attrs
from attrs import Attribute, field, frozen
from attrs.converters import optional

from statetrain.errors import ConfigError
from statetrain.guards.base import Guard, as_guard
from statetrain.guards.batch import Spike
from statetrain.guards.counters import Every
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.naming import did_you_mean, label_of, takes_one
from statetrain.standard.policy import RollBack
from statetrain.standard.precision import Precision, refuse_late_scale
from statetrain.standard.stops import Stops, stops_of
from statetrain.validators import (
    Validator,
    check_interval,
    check_switches,
    check_whole,
    check_word,
)

Policy = Literal["raise", "skip", "stop", "ignore"] | RollBack
FiniteCheck = Literal["auto", "now", "late"]
When: TypeAlias = Guard | Literal["end"]
Computation = Callable[[Any], Any]
TableEdit = Callable[[Lifecycle], Lifecycle]


def _whole(least: int) -> Validator:
    """A validator of whole numbers from a least one on."""

    def check(instance: Any, attribute: Attribute[Any], value: Any) -> None:
        check_whole(attribute.name, value, least)

    return check


def _switch(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    check_switches("", **{attribute.name: value})


def _one_of(*words: Any, also: str = "") -> Validator:
    """A validator of a few values; what else is allowed stands in `also`."""

    def check(instance: Any, attribute: Attribute[Any], value: Any) -> None:
        check_word(attribute.name, value, words, also=also)

    return check


_known_policy = _one_of("raise", "skip", "stop", "ignore", also=", or a RollBack()")


def _policy(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    if not isinstance(value, RollBack):
        _known_policy(instance, attribute, value)


def _spike(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    if value is not None and not isinstance(value, Spike):
        raise ConfigError(f"spike must be a Spike, such as Spike(4), got {value!r}")


def _interval(value: Any) -> Guard:
    check_interval("validate", value, "epochs", "steps")
    return as_guard(value)


def _function(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    if value is not None and not callable(value):
        raise ConfigError(f"{attribute.name} must be a function of the context, got {value!r:.80}")
    if value is not None and not takes_one(value):
        raise ConfigError(
            f"{attribute.name} takes a function of the context alone, got"
            f" {label_of(value)!r} with other arguments; write def {attribute.name}(ctx), with"
            " ctx.model and ctx.batch"
        )


def edits_of(value: Any) -> tuple[TableEdit, ...]:
    """Edits that were given as one or as several.

    Raises:
        ConfigError: one is no function.
    """
    given = (value,) if callable(value) else tuple(value)
    for edit in given:
        if not callable(edit):
            raise ConfigError(
                "edits are functions that take a lifecycle and return another one, got"
                f" {edit!r:.80}"
            )
    return given


def _evaluations(value: Mapping[str, When] | None) -> dict[str, When]:
    return dict(value or {})


@frozen(kw_only=True)
class Options:
    """The options of `supervised`.

    Raises:
        ConfigError: an option is out of range, or two exclude each other.
    """

    stop: Guard | None = field(default=None, converter=optional(as_guard))
    """Ends the run when it is true. What reads the history is asked between epochs; what reads
    counters, the clock or a request (`TimeLimit`, `MaxSteps`, ...) at every loop head."""

    non_finite: Policy = field(default="raise", validator=_policy)
    """What a NaN or infinite loss leads to, before it can reach the weights. "raise" fails the
    run, "skip" continues with the next batch, "stop" ends the run, a `RollBack` goes back to the
    last good weights with a lower learning rate, "ignore" draws no arrow."""

    check_gradients: bool = field(default=False, validator=_switch)
    """Whether a state `grad_norm` computes the norm of all gradients after each backward, with the
    same policy: a finite loss can have gradients that are not."""

    spike: Spike | None = field(default=None, validator=_spike)
    """What counts as a loss far above those before, as `Spike(4)`; it has the same policy."""

    finite_check: FiniteCheck = field(default="auto", validator=_one_of("auto", "now", "late"))
    """When it is known whether a loss is finite. "auto": "now" on the CPU, where that costs
    nothing; on a device `fit` takes "late" if the optimizers and the other options allow it (a
    table made by `supervised` knows no device, so there it is "now"). "now": before its backward,
    which on a device waits for the loss of every batch. "late": the device itself leaves out the
    step of a window whose loss or gradients are not finite, the host does not wait, and the policy
    acts when the host learns of it, at most 100 steps later and at `record`. This takes fused
    optimizers, such as `torch.optim.AdamW(..., fused=True)`; for others the host reads a flag
    before each step."""

    accumulate: int = field(default=1, validator=_whole(1))
    """Batches whose averaged gradients make one step; a short last window counts by its own
    length."""

    validate: Guard | None = field(default=Every(1, "epochs"), converter=optional(_interval))
    """When to validate: `Every(n, "epochs")` at the end of epochs, another unit inside them, as a
    guard that is prompt (`@guard(prompt=True)`); None never."""

    max_steps: int | None = field(default=None, validator=attrs.validators.optional(_whole(1)))
    """Ends the fit after that many steps of the optimizers; None is no limit. What is due at the
    last of them is done: a validation, and the end of the epoch if that was its last batch (of
    data with a length)."""

    compute: Computation | None = field(default=None, validator=_function)
    """A function of the context in place of `pred`, `loss` and `backward`, which returns the loss.
    Its gradients are computed, unless the function calls `ctx.backward(loss)` or `loss.backward()`
    itself. `loss=` given as well is what `ctx.loss_fn` and the validation compute."""

    valid_compute: Computation | None = field(default=None, validator=_function)
    """The same for validation, in place of `valid_pred` and `valid_loss`: it returns the loss."""

    precision: Precision | None = None
    """"bf16" or "fp16", or a `MixedPrecision`: see `mixed_precision`. None computes in the types
    that the model has."""

    prefetch: bool = field(default=False, validator=_switch)
    """Whether `draw` stays one batch ahead, and begins to place that one on the device while the
    one before is trained on. `fit` turns it on for CUDA only; elsewhere nothing could overlap."""

    edits: tuple[TableEdit, ...] = field(default=(), converter=edits_of)
    """Your own edits: functions that take the lifecycle with the options above and return another
    one, as `lambda life: life.insert(...)`. Mixed precision comes after them."""

    optimizers: int = field(default=1, validator=_whole(1))
    """How many. With several, each in turn takes `pred`, `loss`, `backward` and `step`, and
    backward fills only its own parameters."""

    closure: bool = field(default=False, validator=_switch)
    """Whether the optimizers' steps compute the loss again, as often as they like (LBFGS): `step`
    then replays `pred`, `loss` and `backward`."""

    min_epochs: int = field(default=0, validator=_whole(0))
    """Epochs before which a `stop` that reads the history is not asked."""

    seeded: bool = field(default=False, validator=_switch)
    """Whether all generators are seeded for each batch, by the run's seed and the batch's number.
    `fit` turns it on when it is given a seed."""

    buffers: bool = field(default=False, validator=_switch)
    """Whether a state `hold` copies the buffers before each batch, so that one that is refused
    leaves no NaN in batch norm's running statistics. `fit` turns it on for a model that has
    buffers."""

    by_count: bool = field(default=False, validator=_switch)
    """Whether a window of accumulated batches is the mean over what counts in them (by a mask or
    weights of samples), as one big batch would give, and not the mean of the batches' means. `fit`
    turns it on for a loss that has a mask or weights of samples."""

    evaluations: dict[str, When] = field(factory=dict, converter=_evaluations, hash=False)
    """More evaluations, by name, each with its condition: an interval (`Every`), `Once(n, unit)`,
    any other guard, asked at the end of epochs, or "end", when the training ends. See
    `Evaluation`."""

    @cached_property
    def stops(self) -> Stops:
        """When the run stops, by where that is asked.

        Raises:
            ConfigError: `stop` is true of an empty history, so the run would not begin.
        """
        return stops_of(self.stop, self.max_steps, self.min_epochs)

    def __attrs_post_init__(self) -> None:
        _refuse_spike_without_policy(self)
        _refuse_norm_without_policy(self)
        _refuse_windows_of_several(self)
        _refuse_closures(self)
        if self.finite_check == "late":
            _refuse_late(self)

    @property
    def refuses(self) -> bool:
        """Whether something is done about a loss that is not finite."""
        return self.non_finite != "ignore"

    @property
    def late(self) -> bool:
        """Whether the device finds out what is not finite."""
        return self.finite_check == "late"


def _refuse_spike_without_policy(options: Options) -> None:
    if options.spike is not None and not options.refuses:
        raise ConfigError(
            "spike has the policy of non_finite, which is 'ignore'; say what a spike leads to, as"
            " non_finite='skip'"
        )


def _refuse_norm_without_policy(options: Options) -> None:
    if options.check_gradients and not options.refuses:
        raise ConfigError(
            "check_gradients has the policy of non_finite, which is 'ignore', so it would do"
            " nothing about a norm that is not finite; say what that leads to, as"
            " non_finite='skip', or insert a state with actions.grad_norm to look at the norm"
        )


def _refuse_windows_of_several(options: Options) -> None:
    if options.optimizers > 1 and options.accumulate > 1:
        raise ConfigError(
            "accumulation with several optimizers has no one meaning: is a window one of each, or"
            " of all? Write your own lifecycle: start from supervised(optimizers=2) and add the"
            " arrows that you mean"
        )


def _refuse_closures(options: Options) -> None:
    if not options.closure:
        return
    others = {"accumulate": options.accumulate > 1, "compute": options.compute is not None}
    for name, given in others.items():
        if given:
            raise ConfigError(
                f"closure and {name} exclude each other: a step that replays one batch has no"
                " window and no function to call"
            )


def _refuse_late(options: Options) -> None:
    if options.non_finite not in ("raise", "skip", "stop"):
        raise ConfigError(
            "finite_check='late' needs a policy that can come late: non_finite='raise', 'skip' or"
            f" 'stop', got {options.non_finite!r}"
        )
    why = {
        "check_gradients": "it looks at the gradients anyway; leave that out",
        "spike": "which reads the loss of each batch on the host",
        "closure": "whose step computes the loss again, unseen",
        "compute": "which steps over the loss and its backward; leave compute out, or the check at"
        " its default, 'now'",
    }
    for name, words in why.items():
        if getattr(options, name) not in (None, False):
            raise ConfigError(f"finite_check='late' and {name} exclude each other: {words}")
    if options.precision is not None:
        refuse_late_scale(options.precision)


class FitOptions(TypedDict, total=False):
    """The options that `fit` takes by name; see `Options` for what each means."""

    stop: Guard | None
    non_finite: Policy
    check_gradients: bool
    spike: Spike | None
    finite_check: FiniteCheck
    accumulate: int
    validate: Guard | None
    max_steps: int | None
    compute: Computation | None
    valid_compute: Computation | None
    precision: Precision | None
    prefetch: bool
    closure: bool
    edits: tuple[TableEdit, ...]


class FitArguments(FitOptions, total=False):
    """All that `fit` takes by name besides its signature: the options, its clock, its engine."""

    clock: Callable[[], float]
    engine: Literal["table", "transitions"] | type[Any]


class SupervisedOptions(FitOptions, total=False):
    """The options of `supervised`: those of `fit`, and what `fit` finds out by itself."""

    optimizers: int
    min_epochs: int
    seeded: bool
    buffers: bool
    by_count: bool
    evaluations: Mapping[str, When]


def options_of(given: Mapping[str, Any]) -> Options:
    """Options by name, checked.

    Raises:
        TypeError: there is no option of that name.
        ConfigError: an option is out of range, or two exclude each other.
    """
    known = SupervisedOptions.__annotations__
    for name in given:
        if name not in known:
            raise TypeError(f"supervised() has no option {name!r}{did_you_mean(name, known)}")
    return Options(**given)
