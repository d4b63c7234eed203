"""Debug mode: components get a view of the context that holds them to what they declare.

A view lets through what its component declares that it reads and writes, field by field, and path
by path where a declaration goes into a field. It refuses the rest, and refuses fields where they
cannot be: a prediction before `pred`, or after its batch has closed. What lies within a value that
is handed out whole is not watched.

A component that declares nothing is refused nothing but such fields. Nothing of this exists when
debug mode is off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from operator import getitem
from typing import TYPE_CHECKING, Any

from attrs import Factory, define, frozen

from statetrain.callback import unwrapped
from statetrain.context.columns import joined
from statetrain.context.fields import check_value
from statetrain.context.named import Named
from statetrain.context.paths import Part, Parts, Piece, covers, parse, written
from statetrain.contracts.dataflow import Flow, writes_of
from statetrain.contracts.declaring import (
    ALWAYS_READ,
    DERIVED,
    NOTED,
    access_of,
    field_of,
    followed,
    is_everything,
    reads_of,
)
from statetrain.contracts.listening import DEFERRED, Contract, Listener, contracts_of
from statetrain.contracts.ways import Doer, WorkPlace, name_place
from statetrain.errors import ContractError
from statetrain.guards.base import Guard
from statetrain.lifecycle.transition import Transition
from statetrain.naming import signature_of

if TYPE_CHECKING:
    from statetrain.context.context import Context


@frozen
class Terms:
    """What holds for a component at its place.

    Args:
        who: it is, for errors.
        reads, writes: the paths that it declares; None if it declares none.
        missing: the fields that cannot be there.
        remedy: how a declaration is added, KIND and PATH standing for what it is.
        seen: the fields that components were seen to write that declare nothing; where these are
            cannot be known.
    """

    who: str
    reads: frozenset[str] | None
    writes: frozenset[str] | None
    missing: frozenset[str]
    remedy: str
    seen: set[str]

    def advise(self, kind: str, path: str) -> str:
        """How to declare a path."""
        return self.remedy.replace("KIND", kind).replace("PATH", repr(path))


@define(eq=False)
class Views:
    """Makes functions of the context that get a view in its place.

    Args:
        flow: which fields may be where.
        order: the listeners of each hook, as they are called.
    """

    flow: Flow
    order: Mapping[str, Sequence[Listener]]
    _seen: set[str] = Factory(set)

    def hook(self, one: Listener) -> Callable[[Any], Any]:
        """A callback's hook."""
        contract = one.contract
        name = type(unwrapped(one.callback)).__name__
        terms = self._terms(
            f"Callback {one.name!r} on {one.hook}", contract, self._missing(one), name, one.hook
        )
        later = contracts_of(one.callback, {})[DEFERRED]
        if contract.reads is None and contract.writes is None:
            later = Contract()
        deferred = self._terms(
            f"Callback {one.name!r}, in a clean-up,", later, frozenset(), name, DEFERRED
        )
        return _viewing(one.function, terms, deferred)

    def work(
        self, function: Callable[[Any], Any], declaring: Any, kind: Doer, of: str | Transition
    ) -> Callable[[Any], Any]:
        """An action, an effect or close work.

        Args:
            function: what is called.
            declaring: what carries its declaration; the function itself, unless it has been
                wrapped.
            kind, of: what it is, and of which state or arrow.
        """
        declared = access_of(declaring)
        where: WorkPlace = (kind, of)
        contract = Contract()
        if declared is not None:  # dropping is clearing
            contract = Contract(declared.reads, declared.writes | declared.drops)
        remedy = f"add it to @access(...) of {signature_of(declaring)}: KIND={{..., PATH}}"
        terms = Terms(
            f"{name_place(where)} ({signature_of(declaring)})",
            contract.reads,
            contract.writes,
            self.flow.impossible(where),
            remedy,
            self._seen,
        )
        return _viewing(function, terms, terms)

    def test(
        self, guard: Guard, test: Callable[[Any], bool], arrow: Transition
    ) -> Callable[[Any], bool]:
        """A guard's test."""
        where: WorkPlace = ("guard", arrow)
        terms = Terms(
            name_place(where),
            getattr(reads_of(guard), "reads", None),
            frozenset(),
            self.flow.impossible(where),
            "add it to the guard's reads: KIND={..., PATH}",
            self._seen,
        )
        return _viewing(test, terms, terms)

    def _missing(self, one: Listener) -> frozenset[str]:
        """The fields that cannot exist when a listener is called.

        Listeners before it on its hook may have written some.
        """
        listeners = self.order[one.hook]
        before = writes_of(listeners[: listeners.index(one)])
        return self.flow.impossible(one.hook).difference(before)

    def _terms(
        self, who: str, contract: Contract, missing: frozenset[str], name: str, hook: str
    ) -> Terms:
        remedy = (
            f"add it: KIND = {{..., PATH}} in {name}, or KIND = {{{hook!r}: {{..., PATH}}}} for"
            " this hook alone"
        )
        return Terms(who, contract.reads, contract.writes, missing, remedy, self._seen)


def _viewing(function: Callable[[Any], Any], terms: Terms, deferred: Terms) -> Callable[[Any], Any]:
    @wraps(function)  # its name stays, for errors
    def viewing(ctx: Context) -> Any:
        return function(View(ctx, terms, deferred))

    return viewing


class View:
    """A context as one component sees it."""

    __slots__ = ("_ctx", "_deferred", "_terms")

    _ctx: Any
    _terms: Terms
    _deferred: Terms

    def __init__(self, ctx: Context, terms: Terms, deferred: Terms) -> None:
        for name, value in (("_ctx", ctx), ("_terms", terms), ("_deferred", deferred)):
            object.__setattr__(self, name, value)

    @property  # type: ignore[misc]  # nothing assigns it
    def __class__(self) -> Any:
        """The context's own, so that `isinstance` answers as it does without debug mode."""
        return type(self._ctx)

    def __getattr__(self, name: str) -> Any:
        ctx = self._ctx
        if name.startswith("__") or not hasattr(type(ctx), name):
            return getattr(ctx, name)  # what Python asks for, or an error that names the slip
        if callable(getattr(type(ctx), name)):
            if name in _SERVICES:
                return partial(_SERVICES[name], self)
            for field in DERIVED.get(name, ()):
                _check_read(self._terms, (field,), f" ({name}())")
            return getattr(ctx, name)
        partly = _check_read(self._terms, (name,))
        value = getattr(ctx, name)
        if partly:
            return Within(value, (name,), self._terms)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(type(self._ctx), name):
            _check_write(self._terms, (name,))
            check_value(type(self._ctx), name, value)
        setattr(self._ctx, name, value)

    def __getitem__(self, path: str) -> Any:
        if isinstance(path, str) and path and hasattr(type(self._ctx), field_of(path)):
            _check_read(self._terms, parse(path))
        return self._ctx[path]

    def __repr__(self) -> str:
        return f"<what {self._terms.who} sees of {self._ctx!r}>"


class Within:
    """A part of a context of which a component declares only what lies further in."""

    __slots__ = ("_path", "_terms", "_value")

    _value: Any
    _path: Parts
    _terms: Terms

    def __init__(self, value: Any, path: Parts, terms: Terms) -> None:
        for name, given in (("_value", value), ("_path", path), ("_terms", terms)):
            object.__setattr__(self, name, given)

    def __getitem__(self, key: Any) -> Any:
        return _look_into(self, key, getitem)

    def __setitem__(self, key: Any, value: Any) -> None:
        _check_write(self._terms, _further(self, key))
        self._value[key] = value

    def __contains__(self, key: Any) -> bool:
        return key in self._value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            return getattr(self._value, name)
        if name in ("get", "setdefault", "pop") and hasattr(self._value, name):
            return partial(_call_item, self, name)
        return _look_into(self, name, getattr)

    def __setattr__(self, name: str, value: Any) -> None:
        _check_write(self._terms, _further(self, name))
        setattr(self._value, name, value)


def _further(within: Within, key: Part) -> Parts:
    """The path of an item or an attribute; a dotted name of torch's is one part for each piece."""
    if isinstance(within._value, Named) and isinstance(key, str):
        return (*within._path, *map(Piece, key.split(".")))
    return (*within._path, key)


def _look_into(within: Within, key: Part, read: Callable[[Any, Any], Any]) -> Any:
    path = _further(within, key)
    partly = _check_read(within._terms, path)
    value = read(within._value, key)
    if partly:
        return Within(value, path, within._terms)
    return value


def _call_item(within: Within, method: str, key: Any, *default: Any) -> Any:
    if method == "get":
        _check_read(within._terms, _further(within, key))
    else:
        _check_write(within._terms, _further(within, key))
    return getattr(within._value, method)(key, *default)


# ---------------------------------------------------------------- what is allowed


def _check_read(terms: Terms, path: Parts, through: str = "") -> bool:
    """Whether only parts of what lies at a path may be read.

    Args:
        terms: what the component declares.
        path: what it reads.
        through: the method that does it, for the error.

    Raises:
        ContractError: nothing of it may be read, or it cannot be there.
    """
    name = _root(path)
    _check_there(terms, path)
    if terms.reads is None or name in ALWAYS_READ | NOTED:
        return False
    allowed = [parse(one) for one in (*terms.reads, *(terms.writes or ()))]
    if any(covers(one, path) for one in allowed) or _is_made_of(name, allowed):
        return False
    if any(_root(one) == name and covers(path, one) for one in allowed):
        return True
    raise ContractError(
        f"{terms.who} reads {written(path)!r}{through}, which it does not declare;"
        f" {terms.advise('reads', written(path))}"
    )


def _check_there(terms: Terms, path: Parts) -> None:
    """Refuses what cannot be there, unless the component says that it may be missing."""
    if any(_is_optional(one) and covers(parse(one), path) for one in terms.reads or ()):
        return
    bases = {followed(written(path)), *DERIVED.get(_root(path), ())}
    for base in bases & terms.missing - terms.seen:
        if not any(covers(parse(one), parse(base)) for one in terms.writes or ()):
            raise ContractError(
                f"{terms.who} reads {written(path)!r}, and it cannot be there: on every way it has"
                " not been written yet, or its batch has closed"
            )


def _is_optional(path: str) -> bool:
    """Whether a declared path may be missing."""
    return path.endswith("?") or is_everything(path)


def _is_made_of(name: str, allowed: Sequence[Parts]) -> bool:
    """Whether something is made of fields that may all be read."""
    return name in DERIVED and all(
        base in ALWAYS_READ or any(covers(one, (base,)) for one in allowed)
        for base in DERIVED[name]
    )


def _root(path: Parts) -> str:
    return str(getattr(path[0], "value", path[0]))  # of a wildcard, its sign


def _check_write(terms: Terms, path: Parts) -> None:
    """Refuses to write what is not declared."""
    if terms.writes is None:
        terms.seen.add(_root(path))
        return
    if _root(path) in NOTED or any(covers(parse(one), path) for one in terms.writes):
        return
    raise ContractError(
        f"{terms.who} writes {written(path)!r}, which it does not declare;"
        f" {terms.advise('writes', written(path))}"
    )


# ---------------------------------------------------------------- methods of a context that write


# The context's own word
def _log_metric(view: View, name: str, value: float, set: str | None = None) -> None:  # noqa: A002
    _check_column(view, name, set)
    view._ctx.log_metric(name, value, set)


# As above
def _log_mean(
    view: View,
    name: str,
    value: Any,
    set: str | None = None,  # noqa: A002
    **weight: float | None,
) -> None:
    _check_column(view, name, set)
    view._ctx.log_mean(name, value, set, **weight)


def _check_column(view: View, name: str, side: str | None) -> None:
    """Refuses to add a column of the history that is not declared."""
    tally = view._ctx.tally
    if side is None and tally is not None:
        side = tally.set
    _check_write(view._terms, ("history", joined(side or "", name)))


def _log(view: View, name: str, value: Any) -> None:
    _check_write(view._terms, ("records", name))
    view._ctx.log(name, value)


def _defer(view: View, function: Callable[[], object]) -> None:
    def later() -> object:
        # The function has kept the view that it was given
        object.__setattr__(view, "_terms", view._deferred)
        return function()

    view._ctx.defer(later)


_SERVICES: dict[str, Callable[..., None]] = {
    "log_metric": _log_metric,
    "log_mean": _log_mean,
    "log": _log,
    "defer": _defer,
}
