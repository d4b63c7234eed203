"""What is known of each field of a context, declared at the field.

A field says in its declaration how it is saved, who writes it, and when its value ends:

    step: int = field(0, Fact.SAVED, Fact.COUNTER, Fact.SHOWN)
    "Steps of the optimizers made."

Whatever needs a list of fields (snapshots, contracts, debug mode, `ctx.flatten()`) computes it with
`fields_with`, so that a new field is described once. What follows from fields, a
property or a method, says from which with `made_of`.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar, overload

import attrs

from statetrain.errors import ConfigError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

UNSET: Any = None
"""The value of a field before anything has set it, and once its value is released."""


class Fact(Enum):
    """What can be said of a field. Each field of a context has exactly one of the first three."""

    SAVED = "a snapshot has its value as it is"
    SAVED_APART = "a snapshot has it in a form of its own"
    ANEW = (
        "the arguments of a run, its scopes and its callbacks make it again when a run is resumed"
    )

    BORN = "a state writes it first; all others are there from the start"
    OF_BATCH = "its value ends when the batch closes"
    CAPTURED = "filled only if something in the machine declares that it reads it"

    OF_MACHINE = "the machine alone writes it"
    COUNTER = "it changes in actions and effects only"
    NOTED = "written in passing, each writer at its own key, so that no order matters"
    OPEN = "anything may read it without declaring so"

    OWN = "it may differ between ranks; all others are the same on each"
    SHOWN = "`ctx.flatten()` shows it"


@overload
def field(*facts: Fact, made_of: tuple[str, ...] = ()) -> Any: ...
@overload
def field(*facts: Fact, default: T) -> T: ...
@overload
def field(*facts: Fact, factory: Callable[[], T]) -> T: ...
def field(*facts: Fact, made_of: tuple[str, ...] = (), **options: Any) -> Any:
    """A field of a context, with what is known of it.

    Args:
        facts: what is known of it.
        made_of: fields from which it is filled, so that it is there where they are.
        options: `default`, its value before anything sets it, or `factory`, which makes that value
            for each context. Without them it is None, and the field has the type that it has once
            it is set.
    """
    if not options:
        options = {"default": UNSET}
    # A custom context shows its own fields, not those of where it stands.
    return attrs.field(metadata={"facts": facts, "made_of": made_of}, repr=False, **options)


@overload
def not_saved() -> Any: ...
@overload
def not_saved(default: T) -> T: ...
@overload
def not_saved(*, factory: Callable[[], T]) -> T: ...
def not_saved(*default: Any, **options: Any) -> Any:
    """A field of a custom context that checkpoints leave out, since the script makes it again.

        @define(eq=False)
        class Learning(st.Position):
            env: gymnasium.Env = st.not_saved()
            rounds: int = st.not_saved(100)      # another one may be given to a run that is resumed

    Args:
        default: its value unless one is given; without it, one has to be given.
        options: `factory`, which makes that value for each context.
    """
    if default:
        options["default"] = default[0]
    return attrs.field(metadata={"facts": (Fact.ANEW,)}, **options)


def made_of(*fields: str, facts: tuple[Fact, ...] = ()) -> Callable[[F], F]:
    """Declares which fields a property or a method reads.

    Args:
        fields: their names.
        facts: what is known of a property, as of a field.
    """

    def declare(function: F) -> F:
        vars(function).update(facts=facts, made_of=fields)
        return function

    return declare


@lru_cache(maxsize=64)
def fields_with(context: type, fact: Fact) -> tuple[str, ...]:
    """The fields and properties that are described, in the order in which they come to exist.

    A property stands before the first field that it is made of.

    Args:
        context: a class of contexts.
        fact: what is said of them.
    """
    place = {one.name: i for i, one in enumerate(attrs.fields(context))}
    found = [
        (place[one.name], 1, one.name)
        for one in attrs.fields(context)
        if fact in one.metadata.get("facts", ())
    ]
    for name, function in _declaring(context).items():
        if fact in function.facts:
            found.append((place[function.made_of[0]], 0, name))
    return tuple(name for *_, name in sorted(found))


@lru_cache(maxsize=64)
def facts_of(context: type) -> dict[str, tuple[Fact, ...]]:
    """What the fields of a context say, by name; nothing of those of a custom context.

    A field that a subclass declares again is what it was.

    Args:
        context: a class of contexts.
    """
    facts: dict[str, tuple[Fact, ...]] = {}
    for base in reversed(context.__mro__):
        if attrs.has(base):
            for one in attrs.fields(base):
                facts[one.name] = one.metadata.get("facts") or facts.get(one.name, ())
    return facts


def saved_fields(context: type) -> tuple[str, ...]:
    """The fields of the library's own that a snapshot has as they are."""
    return tuple(name for name, facts in facts_of(context).items() if Fact.SAVED in facts)


def custom_fields(context: type) -> tuple[str, ...]:
    """The fields of a custom context that a snapshot has: all but those that are `not_saved()`."""
    return tuple(name for name, facts in facts_of(context).items() if not facts)


@lru_cache(maxsize=8)
def sources(context: type) -> dict[str, tuple[str, ...]]:
    """The fields that properties, methods and fields are made of, by name.

    Args:
        context: a class of contexts.
    """
    found = {name: function.made_of for name, function in _declaring(context).items()}
    for one in attrs.fields(context):
        if one.metadata.get("made_of"):
            found[one.name] = one.metadata["made_of"]
    return found


def _declaring(context: type) -> dict[str, Any]:
    """The functions of properties and methods that say what they are made of, by name."""
    found = {}
    for base in reversed(context.__mro__):
        for name, value in vars(base).items():
            function = getattr(value, "fget", value)
            if callable(function) and hasattr(function, "made_of"):
                found[name] = function
    return found


def meanings(context: type) -> dict[str, str]:
    """The public fields that a class declares itself, each with its docstring, from the source.

    Args:
        context: a class of contexts.
    """
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(context))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for declared, below in zip(tree.body, tree.body[1:], strict=False):
        if not (isinstance(declared, ast.AnnAssign) and isinstance(declared.target, ast.Name)):
            continue
        if declared.target.id.startswith("_"):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[declared.target.id] = inspect.cleandoc(str(below.value.value))
        else:
            found[declared.target.id] = ""
    return found


def check_value(context: type, name: str, value: Any) -> None:
    """Refuses a value that a field cannot have, as far as its default says: a number, a container.

    Args:
        context: a class of contexts.
        name: of the field; others are not looked at.
        value: what is to be assigned.

    Raises:
        ConfigError: it is of another kind.
    """
    kind = _kinds(context).get(name)
    if kind is None:
        return
    fits = isinstance(value, kind)
    if isinstance(value, bool) and kind is not bool:
        fits = False
    if not fits or (kind is _NUMBER and value != value):  # NaN is not a count
        what = getattr(kind, "__name__", "number")
        raise ConfigError(
            f"ctx.{name} must be {_ARTICLES.get(what, 'a')} {what}, got {value!r:.80}"
        )


_NUMBER = int | float
_ARTICLES = {"int": "an"}


@lru_cache(maxsize=8)
def _kinds(context: type) -> dict[str, Any]:
    """What the fields with a default other than None hold."""
    found: dict[str, Any] = {}
    for one in attrs.fields(context):
        default = one.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # a class, to Python
            if default.takes_self:  # it is made of other fields, so its kind is not known here
                continue
            default = default.factory()
        for kind in (bool, int, float, str, dict, list):
            if isinstance(default, kind):
                found[one.name] = _NUMBER if kind is float else kind
                break
    return found


# ---------------------------------------------------------------- what was assigned

# By the word that begins a field's annotation, what its values are
_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "dict": (dict,),
    "list": (list,),
    "tuple": (tuple,),
}


def misassigned(context: Any) -> list[str]:
    """The fields of a context whose values are of another kind than they are declared with.

    Assignments are not checked when they are made, which would cost every batch; this is asked
    where something has gone wrong.
    """
    return [
        f"ctx.{one.name} = {getattr(context, one.name)!r:.80}, which takes {one.type}"
        for one in attrs.fields(type(context))
        if not _fits(getattr(context, one.name), one)
    ]


def _fits(value: Any, one: attrs.Attribute[Any]) -> bool:
    kinds = _KINDS.get(re.split(r"\W", str(one.type))[0])
    if kinds is None or value is one.default:
        return True
    if value is None:
        return "None" in str(one.type)
    # A number may still be on a device
    return isinstance(value, kinds) or hasattr(value, "device")
