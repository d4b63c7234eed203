"""Sources: what a logger collects when it is due. Each maps the context to values by name.

A plain function is one, too: `Logger(..., what=lambda ctx: {"norm": ctx.model.weight.norm()})`. It
is called when the logger is due and not otherwise, so what it computes costs nothing in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from attrs import field, frozen

from statetrain.context import keys
from statetrain.context.context import Context
from statetrain.context.fields import Fact, fields_with
from statetrain.contracts.declaring import expanded
from statetrain.data.sizes import parameters_of
from statetrain.errors import ConfigError
from statetrain.logs.loggables import Histogram, Settings, Value
from statetrain.naming import did_you_mean

Source = Callable[[Any], Mapping[str, Any]]

_OF_A_BATCH = frozenset(fields_with(Context, Fact.OF_BATCH))


def _patterns(value: bool | str | Iterable[str]) -> tuple[str, ...]:
    if value is True:
        return ("*",)
    if value is False:
        return ()
    if isinstance(value, str):
        return (value,)
    return tuple(value)


@frozen
class LearningRate:
    """The learning rates: `lr`, or `lr_<optimizer>`; `..._group<n>` of further groups."""

    columns = ("lr",)
    makes = frozenset({Value})
    reads = ("optimizers",)

    def __call__(self, ctx: Context) -> dict[str, Any]:
        """The rates that the next step would be made with."""
        found = {}
        for name, optimizer in ctx.optimizers.items():
            own = "lr"
            if len(ctx.optimizers) > 1:
                own = f"lr_{name}"
            for i, group in enumerate(optimizer.param_groups):
                found[own if i == 0 else f"{own}_group{i}"] = group["lr"]
        return found


@frozen
class HyperParameters:
    """What the run was made with, once, when it begins, as `hparams`.

    That is the class and the size of the model, `hparams` and `opt_hparams`, class and settings of
    the optimizers, and the options of the run: lifecycle, epochs, seed, device.

    Args:
        more: settings of your own.
    """

    more: Mapping[str, Any] = field(factory=dict)

    makes = frozenset({Settings})
    reads = ("hparams", "opt_hparams", "optimizers", "model")
    once = True

    def __call__(self, ctx: Context) -> dict[str, Any]:
        """All settings as one value."""
        if ctx.accelerator is None:
            model = ctx.model
        else:
            model = ctx.accelerator.unwrap(ctx.model)
        settings: dict[str, Any] = {
            "model": type(model).__name__,
            "parameters": parameters_of(model),
            "hparams": ctx.hparams,
            "opt_hparams": ctx.opt_hparams,
        }
        for name, given in ctx.opt_given.items():
            group = {key: value for key, value in given["groups"][0].items() if key != "parameters"}
            settings[name] = {"class": given["class"], **group}
        if ctx.machine is not None:
            settings["lifecycle"] = ctx.machine.lifecycle.name
        if ctx.max_epochs == math.inf:
            settings["epochs"] = None
        else:
            settings["epochs"] = int(ctx.max_epochs)
        settings |= {"seed": ctx.seed, "device": str(ctx.device), **self.more}
        return {
            "hparams": Settings(
                {name: value for name, value in settings.items() if value not in ({}, None)}
            )
        }


@frozen
class Histograms:
    """How the weights, and their gradients, are distributed.

    Args:
        weights: whether all, or those whose names match a pattern such as `"encoder.*"`; they keep
            their names.
        gradients: the same for the gradients of the last backward pass, as `gradients/<name>`.
        bins: of each histogram.

    Raises:
        ConfigError: a pattern matches no parameter of the model; before training.
    """

    weights: tuple[str, ...] = field(default=True, converter=_patterns)
    gradients: tuple[str, ...] = field(default=False, converter=_patterns)
    bins: int = 30

    makes = frozenset({Histogram})
    reads = ("model",)

    def check(self, ctx: Context) -> None:
        """Looks the patterns up among the names of the parameters."""
        names = list(ctx.params)
        for pattern in (*self.weights, *self.gradients):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(
                    f"Histograms: {pattern!r} matches no parameter of the"
                    f" model{did_you_mean(pattern, names)}"
                )

    def __call__(self, ctx: Context) -> dict[str, Any]:
        """The histograms of what has a finite value."""
        found = {}
        for name, parameter in ctx.params.items():
            for prefix, patterns, values in (
                ("", self.weights, parameter),
                ("gradients/", self.gradients, parameter.grad),
            ):
                if (
                    values is not None
                    and values.numel()
                    and any(fnmatchcase(name, pattern) for pattern in patterns)
                ):
                    try:
                        found[prefix + name] = Histogram(
                            values.coalesce().values() if values.is_sparse else values, self.bins
                        )
                    except (
                        ConfigError
                    ):  # of nothing that is finite there is no distribution, and that ends no run
                        continue
        return found


@frozen(init=False)
class Records:
    """The last values of what was logged with `ctx.log(name, value)`, by name.

    Args:
        names: of the records; none means all. One that is empty so far is left out.
    """

    names: tuple[str, ...]

    reads = ("records",)

    def __init__(self, *names: str) -> None:
        self.__attrs_init__(names)

    def __call__(self, ctx: Context) -> dict[str, Any]:
        """The last values."""
        return {
            name: values[-1]
            for name, values in ctx.records.items()
            if values and (not self.names or name in self.names)
        }


@frozen(init=False)
class Summaries:
    """Parts of the context by their keys.

        Summaries({"images": ("batch[0]", Image), "logits": ("pred", Histogram), "temperature":
        "params.temperature"})

    Args:
        parts: names and keys, a path into the context; or names and pairs of a key and what makes a
            loggable of what lies there: a kind of loggable, or any function. Without one, only
            single numbers and texts can be logged.

    Raises:
        ConfigError: a part is neither.
    """

    parts: tuple[tuple[str, str, Callable[[Any], Any] | None], ...]

    def __init__(self, parts: Mapping[str, str | tuple[str, Callable[[Any], Any]]]) -> None:
        self.__attrs_init__(tuple(_part(name, part) for name, part in parts.items()))

    @property
    def makes(self) -> frozenset[type] | None:
        """The kinds that it makes; None if that is unknown."""
        kinds = {make if isinstance(make, type) else None for _, _, make in self.parts}
        if None in kinds:
            return None
        return frozenset(kind for kind in kinds if kind is not None)

    @property
    def reads(self) -> tuple[str, ...]:
        """The keys."""
        return tuple(dict.fromkeys(path for _, path, _ in self.parts))

    @property
    def in_batch(self) -> bool:
        """Whether a part of it is there within a batch only."""
        read = expanded(keys.root_of(path) for path in self.reads)
        return not _OF_A_BATCH.isdisjoint(read)

    def __call__(self, ctx: Context) -> dict[str, Any]:
        """What lies at the keys."""
        found = {}
        for name, path, make in self.parts:
            value = ctx[path]
            if make is None and math.prod(getattr(value, "shape", ())) != 1:
                raise ConfigError(
                    f"Summaries: {name!r} is {path!r}, of shape {tuple(value.shape)}; say what to"
                    f" make of it: {{{name!r}: ({path!r}, Histogram)}}, or Image, Value"
                )
            if make is None:
                found[name] = value
            else:
                found[name] = make(value)
        return found


def _part(name: str, part: Any) -> tuple[str, str, Callable[[Any], Any] | None]:
    if isinstance(part, tuple) and len(part) == 2:
        path, make = part
    else:
        path, make = (part, None)
    if not isinstance(path, str) or not (make is None or callable(make)):
        raise ConfigError(
            f"Summaries: {name!r} must be a key such as 'batch.image', or a key and what to make of"
            f" it, ('batch.image', Image); got {part!r}"
        )
    try:
        keys.parse(path)
    except ValueError as error:
        raise ConfigError(f"Summaries: {name!r}: {error}") from error
    return name, path, make
