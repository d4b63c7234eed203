"""How an input reaches the model: as one argument, by position, or by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from attrs import frozen

from statetrain.context import keys
from statetrain.data.structure import parts_of

Forward = Callable[[Any, Any], Any]  # calls a model on an input


@frozen
class Arguments:
    """What the `forward` of a model takes by name.

    Attributes:
        names: of its arguments.
        required: those that it cannot be called without.
        others: whether it takes arguments of other names as well.
    """

    names: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    others: bool = False

    def fit(self, given: Collection[str]) -> bool:
        """Whether arguments of these names, and no others, are what it takes."""
        return bool(given) and self.required <= set(given) <= self.names


def arguments_of(model: torch.nn.Module) -> Arguments:
    """What a model takes by name; nothing where its signature cannot be read."""
    try:
        found = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return Arguments()
    single = [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return Arguments(
        frozenset(p.name for p in single if p.kind is not p.POSITIONAL_ONLY),
        frozenset(p.name for p in single if p.default is p.empty),
        any(p.kind is p.VAR_KEYWORD for p in found),
    )


def all_but(left_out: Collection[str]) -> Callable[[Any], dict[str, Any]]:
    """What takes all parts of a batch but some, by name."""

    def take(batch: Any) -> dict[str, Any]:
        return {name: part for name, part in _named_parts(batch) if name not in left_out}

    return take


def _named_parts(batch: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(batch, Mapping):
        return batch.items()
    return [(name, keys.getter(name)(batch)) for name in parts_of(batch)]


def call_with_positions(model: Any, args: Any) -> Any:
    """Calls a model with an input by position."""
    return model(*args)


def call_with_names(model: Any, kwargs: Any) -> Any:
    """Calls a model with an input by name."""
    return model(**kwargs)
