"""How things are called: in tables, pictures, traces, files and errors."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import Any

import attrs


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Words to end an error about an unknown name: the nearest known one, or all of them.

    Args:
        name: what was written.
        known: what would have been right.

    Returns:
        `"; did you mean 'batch'?"`, else `"; known: a, b, c"`, or `""` if nothing is known.
    """
    names = sorted(set(known))
    near = nearest(name, names)
    if near or not names:
        return near
    return f"; known: {', '.join(names)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """As `did_you_mean`, but empty if no known name is near."""
    near = difflib.get_close_matches(name, sorted(set(known)), n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return ""


def printable(text: str, keep: str = "") -> str:
    """A text with its control characters escaped: it moves no cursor, turns no direction.

    Args:
        text: what a person or a file said.
        keep: control characters that stay as they are, such as the end of a line.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def encodable(text: str, encoding: str = "utf-8") -> str:
    """A text without what an encoding has no bytes for: that is escaped."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def count_of(number: int, noun: str) -> str:
    """A number of things for a person: "1 row", "2 rows"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def label_of(thing: object) -> str:
    """The name shown for an action, effect or guard: its label, docstring's first line, or name."""
    label = getattr(thing, "label", None)
    if isinstance(label, str):
        return label
    if isinstance(thing, partial):
        return label_of(thing.func)
    # An instance of an attrs class would show its class's docstring, which describes no one value.
    doc = None
    if hasattr(thing, "__name__"):
        doc = getattr(thing, "__doc__", None)
    if doc and (lines := str(doc).strip().splitlines()):
        return lines[0].rstrip(".")
    if sys.flags.optimize > 1:
        _tell_of_stripped_docstrings()
    name = getattr(thing, "__name__", type(thing).__name__)
    return str(name).strip("_").replace("_", " ")


@cache
def _tell_of_stripped_docstrings() -> None:
    import logging  # it takes long to load, and this is seldom called

    logging.getLogger("statetrain").warning(
        "python -OO strips docstrings, which label actions, effects and guards; tables, pictures"
        " and messages show the functions' names instead. python -O keeps them"
    )


def identify(thing: Any) -> str:
    """The stable name of a function or a class: `module:qualified_name`.

    Raises:
        ValueError: it has no name that stays the same from run to run (a lambda, a closure, a
            partial).
    """
    name = getattr(thing, "__qualname__", None)
    module = importable(getattr(thing, "__module__", None))
    if name is None or module is None or "<" in name:
        raise ValueError(
            f"{thing!r} has no stable name; write it as a function at the top of a module, "
            "or as an attrs class whose fields are its parameters"
        )
    return f"{module}:{name}"


def importable(module: Any) -> Any:
    """The name by which a module is imported: that of a script's file for `__main__`.

    So a run that a script began is the same when its file is imported, or run with `python -m`.
    """
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    if file is None:  # a notebook, a prompt
        return module
    return os.path.splitext(os.path.basename(file))[0]


def describe(thing: Any) -> Any:
    """A JSON-safe description of a function, a class or an attrs value with its parameters.

    Functions and classes become their stable name, attrs values `{"is": name, field: value, ...}`;
    plain data stays.

    Raises:
        ValueError: a part of it has no stable name, or is not plain data.
    """
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, tuple | list):
        return [describe(part) for part in thing]
    if isinstance(thing, dict):
        return {str(key): describe(value) for key, value in thing.items()}
    if isinstance(thing, frozenset | set):
        return sorted(describe(part) for part in thing)
    if attrs.has(type(thing)) and not isinstance(thing, type):
        fields = {
            f.name: describe(getattr(thing, f.name))
            for f in attrs.fields(type(thing))
            if f.init and f.eq
        }
        return {"is": identify(type(thing)), **fields}
    return {"is": identify(thing)}


def takes_one(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with one argument; true of one whose signature is hidden."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # written in C
        return True
    return True


def signature_of(function: Callable[..., Any]) -> str:
    """A function's name for a person who looks for it in the code: `module.name`."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    module = getattr(function, "__module__", type(function).__module__)
    return f"{module}.{name}"


class ByName(dict[str, Any]):
    """Things by name, and the error for an unknown name, which lists them.

    Args:
        kind: what they are, for the error.
        things: by name.
    """

    def __init__(self, kind: str, things: Mapping[str, Any]) -> None:
        super().__init__(things)
        self.kind = kind

    def __missing__(self, name: str) -> Any:
        raise _NoSuchName(f"this run has no {self.kind} {name!r}{did_you_mean(str(name), self)}")


class _NoSuchName(KeyError):
    def __str__(self) -> str:  # a KeyError shows its message in quotes
        return str(self.args[0])
