"""What the fields of guards may hold: validators for attrs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from attrs import Attribute

from statetrain.errors import ConfigError


def positive(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    """A finite number above 0."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not value > 0
        or not math.isfinite(value)
    ):
        raise ConfigError(
            f"{type(instance).__name__}: {attribute.name} must be a number above 0, got {value!r}"
        )


def whole(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(
            f"{type(instance).__name__}: {attribute.name} must be a whole number of at least 1, got"
            f" {value!r}"
        )


def one_of(*choices: str) -> Callable[[Any, Attribute[Any], Any], None]:
    """One of these words."""

    def check(instance: Any, attribute: Attribute[Any], value: Any) -> None:
        if value not in choices:
            raise ConfigError(
                f"{type(instance).__name__}: {attribute.name} must be one of"
                f" {', '.join(map(repr, choices))}, got {value!r}"
            )

    return check


def column(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    """The name of a column of the history."""
    if not isinstance(value, str) or not value:
        raise ConfigError(
            f"{type(instance).__name__}: monitor must be a column of the history such as"
            f" 'valid_loss', got {value!r}"
        )
