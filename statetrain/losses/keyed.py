"""Functions whose arguments are named by keys: what losses, metrics and summaries are made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen

from statetrain.context.keys import Getter, getter
from statetrain.errors import ConfigError, LossError
from statetrain.naming import did_you_mean

if TYPE_CHECKING:
    from statetrain.context.context import Context


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@frozen(eq=False)
class KeyedArguments:
    """A function and the keys that its arguments are read by.

    Attributes:
        function: what is called.
        who: what it is called in errors, such as "loss 'reconstruction'".
        first: keys of arguments that are given by position.
        named: keys of arguments that are given by name.
    """

    function: Callable[..., Any]
    who: str
    first: tuple[Getter, ...]
    named: dict[str, Getter]

    @property
    def reads(self) -> frozenset[str]:
        """The paths that it reads."""
        return frozenset(key.path for key in (*self.first, *self.named.values()))

    def arguments(self, ctx: Context) -> tuple[list[Any], dict[str, Any]]:
        """What the function is to be called with.

        Raises:
            LossError: a key leads to nothing.
        """
        return [read(ctx, key, self.who) for key in self.first], {
            name: read(ctx, key, self.who) for name, key in self.named.items()
        }


@frozen(eq=False)
class KeyReader:
    """Several keys by name, read together: what a logger takes for images, histograms and texts.

        images = reading({"input": "batch.image[:4]", "hidden": "interms.encoder?"}, "Images")
        images.reads            # what it declares, so that it is captured
        images(ctx)             # {"input": ..., "hidden": ...}; nothing is read before

    Attributes:
        who: whose keys they are, in errors.
        keys: the parsed paths, by name.
    """

    who: str
    keys: dict[str, Getter]

    @property
    def reads(self) -> frozenset[str]:
        """The paths that it reads."""
        return frozenset(key.path for key in self.keys.values())

    def __call__(self, ctx: Context) -> dict[str, Any]:
        """What lies at the keys now, by name; an optional key that leads to nothing is left out.

        Raises:
            LossError: a key leads to nothing.
        """
        found = {name: read(ctx, key, f"{self.who}: {name!r}") for name, key in self.keys.items()}
        return {name: value for name, value in found.items() if value is not None}


def reading(keys: Mapping[str, str], who: str) -> KeyReader:
    """Names and keys, parsed once.

    Args:
        keys: paths by name.
        who: whose they are, in errors.

    Raises:
        ConfigError: one is not a path.
    """
    return KeyReader(
        who, {name: parse_key(path, f"{who}, {name!r}") for name, path in keys.items()}
    )


def read(ctx: Context, key: Getter, who: str) -> Any:
    """What lies at a key.

    Raises:
        LossError: nothing.
    """
    try:
        return key(ctx)
    except KeyError as error:
        raise LossError(f"{who} cannot be computed: {error.args[0]}") from error


def keyed(function: Callable[..., Any], keys: Mapping[str, str], who: str) -> KeyedArguments:
    """Binds keys to the arguments of a function.

    A key goes to the argument of its name; one whose name the function does not have goes to the
    first required argument that is still open. So `pred=..., target=...` in this order serve a
    function of `(input, target)`.

    Args:
        function: what is to be called; of a module, its `forward` says what it takes.
        keys: paths by name.
        who: what it is called in errors.

    Raises:
        ConfigError: it is not a function, a key is not a path, or the keys do not fit its
            arguments.
    """
    if isinstance(function, type) or not callable(function):
        raise ConfigError(f"{who} must be a function, got {function!r:.80}{_write_call(function)}")
    found = {name: parse_key(path, f"{who}, {name}=") for name, path in keys.items()}
    called: Callable[..., Any] = function
    if isinstance(function, torch.nn.Module):
        called = function.forward
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):  # written in C
        return KeyedArguments(function, who, tuple(found.values()), {})
    return _place(function, who, found, signature)


def _write_call(thing: Any) -> str:
    if isinstance(thing, type):
        return f"; write {thing.__name__}()"
    return ""


def parse_key(path: Any, who: str) -> Getter:
    """A key, parsed.

    Raises:
        ConfigError: it is not a path.
    """
    if not isinstance(path, str):
        raise ConfigError(
            f"{who} takes the path of a key, such as 'batch.label', got {path!r:.80}; bind"
            " constants with functools.partial"
        )
    try:
        return getter(path)
    except ValueError as error:
        raise ConfigError(f"{who}: {error}") from None


def _place(
    function: Callable[..., Any], who: str, found: dict[str, Getter], signature: inspect.Signature
) -> KeyedArguments:
    shown = f"{getattr(function, '__name__', type(function).__name__)}{signature}"
    kinds = {p.kind for p in signature.parameters.values()}
    parameters = {name: p for name, p in signature.parameters.items() if p.kind not in _VARIADIC}
    by_name = {name: key for name, key in found.items() if _takes_name(parameters, name)}
    required = _required(parameters, by_name)
    first: list[Getter] = []
    others = {name: key for name, key in found.items() if name not in by_name}
    for name, key in others.items():
        if required and required[0].kind is inspect.Parameter.POSITIONAL_ONLY:
            required.pop(0)
            first.append(key)
        elif required:
            by_name[required.pop(0).name] = key
        elif inspect.Parameter.VAR_KEYWORD in kinds:
            by_name[name] = key
        elif inspect.Parameter.VAR_POSITIONAL in kinds and not by_name:
            first.append(key)
        else:
            near = did_you_mean(name, parameters)
            raise ConfigError(f"{who} takes no {name!r}{near}; it is called as {shown}")
    _check_given(required, who, shown)
    return KeyedArguments(function, who, tuple(first), by_name)


def _check_given(required: list[inspect.Parameter], who: str, shown: str) -> None:
    """Raises a `ConfigError` if arguments that must be given have no key."""
    if required:
        names = ", ".join(p.name for p in required)
        raise ConfigError(
            f"{who} has no key for {names}: it is called as {shown}; say {required[0].name}='...'"
        )


def _takes_name(parameters: dict[str, inspect.Parameter], name: str) -> bool:
    """Whether an argument can be given by this name."""
    known = parameters.get(name)
    return known is not None and known.kind is not known.POSITIONAL_ONLY


def _required(
    parameters: dict[str, inspect.Parameter], given: dict[str, Getter]
) -> list[inspect.Parameter]:
    """The arguments that must be given and have no key of their name."""
    left = (p for name, p in parameters.items() if name not in given)
    return [p for p in left if p.default is p.empty]


# ---------------------------------------------------------------- masks and weights


@frozen(eq=False)
class Weights:
    """How much each value of a loss or a metric counts: by a mask, sample weights, or both."""

    mask: Getter | None = None
    sample_weight: Getter | None = None

    @classmethod
    def parse(cls, mask: str | None, sample_weight: str | None, who: str) -> Weights:
        """Those at two paths, each of which may be None; `who` has them, in errors."""
        found: list[Getter | None] = [None, None]
        for i, path in enumerate((mask, sample_weight)):
            if path is not None:
                found[i] = parse_key(path, who)
        return cls(*found)

    @property
    def keys(self) -> tuple[Getter, ...]:
        """Those that there are."""
        return tuple(key for key in (self.mask, self.sample_weight) if key is not None)

    def sums(self, ctx: Context, values: Any, who: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of the weighted values, and the sum of the weights, both of shape ().

        Args:
            ctx: the context.
            values: of any shape. A mask or weights of shape `(batch,)` hold for all that belongs to
                a sample: dimensions that they lack are the last ones.
            who: what they belong to, in errors.

        Raises:
            LossError: the shapes do not fit.
        """
        if not isinstance(values, torch.Tensor):
            raise LossError(
                f"{who} has a mask or weights, so it must give a tensor of values, got"
                f" {type(values).__name__}"
            )
        weights = torch.ones((), dtype=values.dtype, device=values.device)
        for key in self.keys:
            given = torch.as_tensor(read(ctx, key, who), device=values.device)
            fits = given.ndim <= values.ndim and all(
                own in (1, there) for own, there in zip(given.shape, values.shape, strict=False)
            )
            if not fits:
                hint = ""
                if values.ndim == 0:
                    hint = "; make the function give one value for each: reduction='none'"
                raise LossError(
                    f"{who}: {key.path!r} of shape {tuple(given.shape)} does not fit values of"
                    f" shape {tuple(values.shape)}{hint}"
                )
            weights = weights * given.to(values.dtype).reshape(
                given.shape + (1,) * (values.ndim - given.ndim)
            )
        weights = weights.expand_as(values)
        # What does not count may be NaN.
        return torch.where(weights != 0, values * weights, 0.0).sum(), weights.sum()

    def without_nan(self, ctx: Context, given: Any, who: str) -> Any:
        """A target, or another tensor without gradient, with 0 for NaN that is not counted.

        The loss of what does not count is left out, but its gradient would still be 0 times NaN.

        Args:
            ctx: the context.
            given: what the function is called with.
            who: what it belongs to, in errors.
        """
        if not isinstance(given, torch.Tensor) or given.requires_grad:
            return given
        if not given.is_floating_point():
            return given
        for key in self.keys:
            weights = torch.as_tensor(read(ctx, key, who), device=given.device)
            if given.shape[: weights.ndim] != weights.shape:
                continue
            uncounted = (weights == 0).reshape(weights.shape + (1,) * (given.ndim - weights.ndim))
            given = torch.where(uncounted & ~torch.isfinite(given), 0.0, given)
        return given


def elementwise(function: Callable[..., Any], who: str) -> dict[str, Any]:
    """What to call a loss with to get a value for each element: `reduction="none"` if it takes it.

    Raises:
        ConfigError: it is a module that was made with another reduction.
    """
    if isinstance(function, torch.nn.Module):
        if getattr(function, "reduction", "none") != "none":
            raise ConfigError(
                f"{who} has a mask or weights, so it must give one value for each element:"
                f" {type(function).__name__}(reduction='none')"
            )
        return {}
    try:
        parameter = inspect.signature(function).parameters.get("reduction")
    except (TypeError, ValueError):
        return {}
    if parameter is not None:
        return {"reduction": "none"}
    return {}
