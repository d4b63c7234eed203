"""What arguments may be: numbers, words, switches, paths; as checks, and for attrs."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeGuard

from attrs import Attribute

from statetrain.errors import ConfigError
from statetrain.naming import nearest

# What attrs calls with the instance, the attribute and the value.
Validator = Callable[[Any, "Attribute[Any]", Any], None]  # attrs' class takes no subscript

# ---------------------------------------------------------------- questions


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is an int or a float, NaN and infinity included; True and False do not count."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole_number(value: object, least: float = -math.inf) -> TypeGuard[int]:
    """Whether it is an int of at least `least`; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


# ---------------------------------------------------------------- arguments


def check_whole(
    name: str,
    value: object,
    least: int = 1,
    *,
    of: str = "",
    also: str = "",
    error: type[Exception] = ConfigError,
) -> None:
    """Refuses what is not a whole number of at least `least`.

    Args:
        name: of the argument, with its owner: `"EMA: every"`.
        value: what was given.
        least: the smallest number that is allowed.
        of: what is counted, for the message: `"steps"`.
        also: what else the caller allows, for the message: `", or None"`.
        error: the class of the error.

    Raises:
        ConfigError: or the `error` that was asked for.
    """
    if not is_whole_number(value, least):
        unit = ""
        if of:
            unit = f" of {of}"
        raise error(
            f"{name} must be a whole number{unit} of at least {least}{also}, got {value!r:.80}"
        )


def check_positive(name: str, value: object, what: str = "number", finite: bool = True) -> None:
    """Refuses what is not a number above 0, with a `ConfigError`.

    Args:
        name: of the argument, with its owner.
        value: what was given.
        what: what it is, for the message.
        finite: whether infinity is refused.
    """
    if not is_number(value) or not value > 0 or (finite and value == math.inf):
        raise ConfigError(f"{name} must be a {what} above 0, got {value!r:.80}")


def check_not_negative(name: str, value: object, what: str = "number") -> None:
    """Refuses what is not a finite number of at least 0, with a `ConfigError`.

    Args:
        name: of the argument, with its owner.
        value: what was given.
        what: what it is, for the message.
    """
    if not is_number(value) or not 0 <= value < math.inf:
        raise ConfigError(f"{name} must be a {what} of at least 0, got {value!r:.80}")


def check_interval(name: str, value: object, *units: str) -> None:
    """Refuses a number in place of an interval, with a `ConfigError` that says what to write.

    Args:
        name: of the argument, with its owner.
        value: what was given.
        units: those that are usual here; "steps" if there are none.
    """
    if isinstance(value, int | float):
        written = " or ".join(f'Every({value}, "{unit}")' for unit in units or ("steps",))
        raise ConfigError(f"{name} takes an interval with its unit, got {value!r}; write {written}")


def check_word(
    name: str,
    value: object,
    words: Iterable[Any],
    *,
    also: str = "",
    error: type[Exception] = ConfigError,
) -> None:
    """Refuses what is none of a few words, or of True and False where these are among them.

    Args:
        name: of the argument, with its owner: `"Log: format"`.
        value: what was given.
        words: what is allowed.
        also: what else the caller allows, for the message: `", or a RollBack()"`.
        error: the class of the error.

    Raises:
        ConfigError: or the `error` that was asked for.
    """
    known = tuple(words)
    if any(value is word or (isinstance(value, str) and value == word) for word in known):
        return
    listed = ", ".join(map(repr, known))
    near = ""
    if isinstance(value, str):
        near = nearest(value, [word for word in known if isinstance(word, str)])
    raise error(f"{name} must be one of {listed}{also}, got {value!r:.80}{near}")


def check_switches(owner: str, **values: object) -> None:
    """Refuses what is neither True nor False, with a `ConfigError`.

    Args:
        owner: whose arguments they are; empty for a function's own.
        **values: what was given, by the argument's name.
    """
    for name, value in values.items():
        if not isinstance(value, bool):
            owned = f"{owner}: {name}".removeprefix(": ")
            raise ConfigError(f"{owned} must be True or False, got {value!r:.80}")


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local_path(owner: str, path: str | os.PathLike[str]) -> Path:
    """A path on this machine.

    An address such as `s3://bucket/run` would become a folder named `s3:`, and nothing there could
    be locked, flushed or replaced as a whole.

    Args:
        owner: whose argument it is, for the error.
        path: what was given.

    Raises:
        ConfigError: it is an address.
    """
    if _ADDRESS.match(os.fspath(path)):
        raise ConfigError(
            f"{owner} takes a path on this machine, got {os.fspath(path)!r}; mount what is there,"
            " or copy between there and a local folder, for example with fsspec"
        )
    return Path(path)


# ---------------------------------------------------------------- fields of attrs classes


def _name_of(instance: Any, attribute: Attribute[Any]) -> str:
    return f"{type(instance).__name__}: {attribute.name}"


def positive(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    """A finite number above 0."""
    check_positive(_name_of(instance, attribute), value)


def whole(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    """A whole number of at least 1."""
    check_whole(_name_of(instance, attribute), value)


def whole_from(least: int) -> Validator:
    """A whole number of at least `least`."""

    def check(instance: Any, attribute: Attribute[Any], value: Any) -> None:
        check_whole(_name_of(instance, attribute), value, least)

    return check


def not_negative(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    """A finite number of at least 0."""
    check_not_negative(_name_of(instance, attribute), value)


def interval(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    """An interval with its unit."""
    check_interval(_name_of(instance, attribute), value)


def switch(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    """True or False."""
    check_switches(type(instance).__name__, **{attribute.name: value})


def one_of(*choices: str) -> Validator:
    """One of these words."""

    def check(instance: Any, attribute: Attribute[Any], value: Any) -> None:
        check_word(_name_of(instance, attribute), value, choices)

    return check


def column(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    """The name of a column of the history."""
    if not isinstance(value, str) or not value:
        raise ConfigError(
            f"{type(instance).__name__}: monitor must be a column of the history such as"
            f" 'valid_loss', got {value!r}"
        )
