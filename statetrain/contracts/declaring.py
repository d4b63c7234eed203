"""What components declare that they read and write, and what follows from it for a pair of them.

Actions, effects, close work and modes carry an `Access`; a function gets one from the decorator
`access`, an attrs value has a property of that name. A function without one is *unknown*: it may do
anything, and is not checked. Guards declare `reads`, callbacks `reads` and `writes`, for all their
hooks or by hook.

A path begins with a field of the context and may go on into it: `batch`, `batch.image`,
`params.encoder.weight`; `*` stands for any one part, `**` for all that follow. A path that ends
with `?` is read where it is there.

    @access(reads={"input", "model"}, writes={"buffers.embedding"})
    def embed(ctx):
        "embed the input"
        ctx.buffers["embedding"] = ctx.model.encoder(ctx.input)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, TypeVar

from attrs import field, frozen

from statetrain.callback import ALIASES, Call, Callback, heard_hooks, hooks_of, name_of, unwrapped
from statetrain.context.context import Context
from statetrain.context.fields import Fact, fields_with, sources
from statetrain.errors import CallbackError, ContractError
from statetrain.guards.base import Guard, Predicate, leaves
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.naming import did_you_mean

F = TypeVar("F", bound=Callable[..., Any])

# Where a callback declares what its clean-ups read and write, in place of a hook
DEFERRED = "defer"

# What the fields of the standard context say of themselves
BORN = frozenset(fields_with(Context, Fact.BORN))
ALWAYS_READ = frozenset(fields_with(Context, Fact.OPEN))
NOTED = frozenset(fields_with(Context, Fact.NOTED))
DERIVED = sources(Context)
_OF_MACHINE = frozenset(fields_with(Context, Fact.OF_MACHINE))
_COUNTERS = frozenset(fields_with(Context, Fact.COUNTER))


def _paths(value: Iterable[str]) -> frozenset[str]:
    return frozenset((value,) if isinstance(value, str) else value)


@frozen
class Access:
    """What an action, an effect, close work or a mode does with the context.

    Args:
        reads: the paths that it reads.
        writes: the paths that it writes. A field exists from there on.
        drops: the fields whose values end there, whether they are cleared or not.
    """

    reads: frozenset[str] = field(default=frozenset(), converter=_paths)
    writes: frozenset[str] = field(default=frozenset(), converter=_paths)
    drops: frozenset[str] = field(default=frozenset(), converter=_paths)

    def __or__(self, other: Access) -> Access:
        """What two do, one after the other."""
        return Access(
            self.reads | (other.reads - self.writes),
            self.writes | other.writes,
            (self.drops - other.writes) | other.drops,
        )


def access(
    *, reads: Iterable[str] = (), writes: Iterable[str] = (), drops: Iterable[str] = ()
) -> Callable[[F], F]:
    """Declares what a function of the context reads and writes. The function stays as it is, and costs what it did.

    Args:
        reads, writes, drops: see `Access`.
    """
    declared = Access(reads, writes, drops)

    def declare(function: F) -> F:
        function.access = declared  # type: ignore[attr-defined]  # a function takes attributes
        return function

    return declare


def access_of(thing: Any) -> Access | None:
    """What an action, an effect or a mode declares; None if nothing is known of it."""
    if isinstance(thing, partial):
        return access_of(thing.func)
    declared = getattr(thing, "access", None)
    return declared if isinstance(declared, Access) else None


def reads_of(guard: Guard) -> Access | None:
    """What a guard declares that it reads; None if a part of it is a function that says nothing.

    Raises:
        ContractError: it declares that it writes.
    """
    reads: set[str] = set()
    known = True
    for leaf in leaves(guard):
        own = access_of(leaf.function) if isinstance(leaf, Predicate) else None
        writes = getattr(leaf, "writes", ()) or (own.writes if own is not None else ())
        if writes:
            raise ContractError(
                f"guard [{leaf.label}] declares that it writes {_listed(writes)}; a guard only"
                " reads, so let an effect write it"
            )
        reads |= leaf.reads | (own.reads if own is not None else frozenset())
        known = known and not (isinstance(leaf, Predicate) and not leaf.reads and own is None)
    return Access(reads) if known else None


# ---------------------------------------------------------------- paths


@lru_cache(maxsize=4096)
def parts(path: str) -> tuple[str, ...]:
    """The parts of a path, globs among them."""
    return tuple(re.findall(r"\*\*?|[^.\[\]'\"*?]+", path))


def field_of(path: str) -> str:
    """The field that a path begins with."""
    found = parts(path)
    return found[0] if found else ""


@lru_cache(maxsize=65536)
def overlap(one: str, other: str) -> bool:
    """Whether two paths meet: they are equal, one lies within the other, or a glob of one fits the other."""
    for a, b in zip(parts(one), parts(other), strict=False):
        if "**" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return True


def covers(declared: str, path: str) -> bool:
    """Whether a declared path allows another one: it is the same, what it lies in, or a glob that fits."""
    allowed, asked = parts(declared), parts(path)
    for i, part in enumerate(allowed):
        if part == "**":
            return True
        if i >= len(asked) or part not in (asked[i], "*"):
            return False
    return True


def expanded(paths: Iterable[str]) -> frozenset[str]:
    """Paths, and those of the fields that they are made of."""
    out = set(paths)
    for path in tuple(out):
        made_of = DERIVED.get(field_of(path), ())
        rest = path[len(field_of(path)) :] if len(made_of) == 1 else ""
        out |= {base + rest for base in made_of}
    return frozenset(out)


# ---------------------------------------------------------------- callbacks


@frozen
class Contract:
    """What a callback declares for one hook.

    Attributes:
        reads, writes: paths; None if it declares none at all, so that nothing is known.
        exact: whether it is known to be about this hook, and not about any of several.
    """

    reads: frozenset[str] | None = None
    writes: frozenset[str] | None = None
    exact: bool = True


@frozen(eq=False)
class Listener:
    """A callback on one of its hooks.

    Attributes:
        name: of the callback, with a number if several are called the same.
        place: of the callback among all, as they were given.
    """

    callback: Callback
    name: str
    hook: str
    function: Call
    contract: Contract
    place: int


def listeners_of(callbacks: Iterable[Callback], lifecycle: Lifecycle) -> list[Listener]:
    """Who listens on what, in the order in which the callbacks were given.

    Raises:
        CallbackError: one is no callback, was given twice, or has or declares a hook that no state
            bears.
        ContractError: one declares that it writes what it must not.
    """
    callbacks = tuple(callbacks)
    labels = labels_of(callbacks)
    found: list[Listener] = []
    given: set[int] = set()
    nth: Counter[str] = Counter()
    for place, callback in enumerate(callbacks):
        if id(unwrapped(callback)) in given:
            raise CallbackError(
                f"callback {name_of(callback)!r} was given twice; each instance listens once"
            )
        given.add(id(unwrapped(callback)))
        nth[name_of(callback)] += 1
        hooks = hooks_of(callback, lifecycle, f"{name_of(callback)} {nth[name_of(callback)]}")
        contracts = contracts_of(callback, heard_hooks(callback, lifecycle))
        found += [
            Listener(callback, labels[place], hook, function, contracts[hook], place)
            for hook, function in hooks.items()
        ]
        callback.check_lifecycle(lifecycle)
    return found


def labels_of(callbacks: Iterable[Callback]) -> list[str]:
    """What callbacks are called where each has to be told from the others: `Log`, or `Log 1` and `Log 2`."""
    names = [name_of(callback) for callback in callbacks]
    several = Counter(names)
    nth: Counter[str] = Counter()
    labels = []
    for name in names:
        nth[name] += 1
        labels.append(f"{name} {nth[name]}" if several[name] > 1 else name)
    return labels


def contracts_of(callback: Callback, hooks: Mapping[str, str]) -> dict[str, Contract]:
    """What a callback declares for each of its hooks, and for its clean-ups.

    Args:
        callback: an instance.
        hooks: by the hook that a state fires, the name under which the callback has it; see
            `statetrain.callback.heard_hooks`.

    Raises:
        CallbackError: it declares something for a hook that it has not.
        ContractError: it declares that it writes what it must not.
    """
    heard = {**hooks, DEFERRED: DEFERRED}
    reads, writes = _declared(callback, "reads"), _declared(callback, "writes")
    if reads is None and writes is None:
        return dict.fromkeys(heard, Contract())
    lone = len(set(heard.values())) <= 2
    out = {}
    for hook, written in heard.items():
        exact = lone or (isinstance(reads, dict | None) and isinstance(writes, dict | None))
        own = [
            kind.get(written, frozenset()) if isinstance(kind, dict) else kind
            for kind in (reads, writes)
        ]
        _check_permitted(callback, hook, own[1] or ())
        out[hook] = Contract(own[0], own[1], exact)
    return out


def _declared(callback: Callback, kind: str) -> dict[str, frozenset[str]] | frozenset[str] | None:
    """The paths that a callback declares, by hook if it says so; None if it says nothing."""
    inner = unwrapped(callback)
    if not _says(inner, kind):
        return None
    while not _says(callback, kind) and callback.wrapped is not None:
        callback = callback.wrapped
    value = getattr(callback, kind)
    if not isinstance(value, Mapping):
        return _paths(value)
    out: dict[str, frozenset[str]] = {}
    for hook, paths in value.items():
        known = {name for name in dir(inner) if name.startswith("on_")} | {DEFERRED}
        if hook not in known and ALIASES.get(hook, "") not in known:
            raise CallbackError(
                f"Callback {name_of(callback)!r}: {kind} mention {hook!r}, a hook that it has"
                f" not{did_you_mean(hook, known)}"
            )
        out[ALIASES.get(str(hook), str(hook))] = _paths(paths)
    return out


def _says(callback: Callback, kind: str) -> bool:
    """Whether a callback, or its class, declares something itself, and be it nothing."""
    owners = (
        vars(callback),
        *(vars(one) for one in type(callback).__mro__ if one not in (Callback, object)),
    )
    return any(kind in owner for owner in owners)


def _check_permitted(callback: Callback, hook: str, writes: Iterable[str]) -> None:
    for path in writes:
        if field_of(path) in _OF_MACHINE:
            raise ContractError(
                f"Callback {name_of(callback)!r} declares that it writes {path!r} on {hook}, which"
                " the machine alone writes; to end the run, call ctx.request_stop(reason), or"
                " raise an event"
            )
        if field_of(path) in _COUNTERS:
            raise ContractError(
                f"Callback {name_of(callback)!r} declares that it writes {path!r} on {hook}:"
                " counters change in actions and effects only; give a state an action, or an arrow"
                " an effect, that does it"
            )


def paths_in(declared: Mapping[str, Iterable[str]] | Iterable[str]) -> frozenset[str]:
    """All paths of a callback's `reads` or `writes`, whatever the hook."""
    if isinstance(declared, Mapping):
        return frozenset().union(*map(_paths, declared.values()))
    return _paths(declared)


def check_monitors(machine: Any, columns: Iterable[str], hint: str = "") -> None:
    """Sees that everything that guards and callbacks monitor is written by somebody.

    Args:
        machine: the lifecycle and the callbacks. Callbacks add the columns that they declare as
            `"history.<column>"`.
        columns: of the history, that the run writes itself.
        hint: what may be the reason, for the error.

    Raises:
        ContractError: nothing writes one of them.
    """
    known = {*columns, *_written_columns(machine.callbacks)}
    for arrow in machine.lifecycle.transitions:
        if arrow.guard is not None:
            _check_monitors(
                arrow.guard.monitors, known, f"{hint} (monitored by [{arrow.guard.label}])"
            )
    for callback in machine.callbacks:
        _check_monitors(callback.monitors, known, f"{hint} (monitored by {callback!r})")


def check_fields(machine: Any, context: type) -> None:
    """Sees that a context has all the fields that are declared. A machine alone cannot know them: it runs any context.

    Args:
        machine: the lifecycle and the callbacks.
        context: its class.

    Raises:
        ContractError: it has one of them not. Those that may be missing (`"field?"`) are not asked
            for.
    """
    known = {*dir(context), *DERIVED, "*", "**"}
    for who, verb, paths in _declarations(machine):
        for path in paths:
            name = field_of(path)
            if name not in known and not path.endswith("?"):
                near = did_you_mean(name, known)
                raise ContractError(
                    f"{who} declares that it {verb} {path!r}: a context has no"
                    f" {name!r}{near if near.endswith('?') else ''}; what is your own goes into"
                    f" ctx.buffers: {verb}={{'buffers.{name}'}}"
                )


def _declarations(machine: Any) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Who declares what: a name for a person, the verb, the paths."""
    life: Lifecycle = machine.lifecycle
    works = [(f"the action of {state.name!r}", state.action) for state in life.states]
    works += [(f"the close work of {state.name!r}", state.close) for state in life.states]
    works += [
        (f"the effect of {arrow.source} -> {arrow.dest}", arrow.effect)
        for arrow in life.transitions
    ]
    for who, work in works:
        if (declared := access_of(work)) is not None:
            yield from ((who, "reads", declared.reads), (who, "writes", declared.writes))
    for arrow in life.transitions:
        if arrow.guard is not None and (read := reads_of(arrow.guard)) is not None:
            yield (
                f"the guard [{arrow.guard.label}] of {arrow.source} -> {arrow.dest}",
                "reads",
                read.reads,
            )
    for callback in machine.callbacks:
        yield from (
            (f"Callback {name_of(callback)!r}", verb, paths_in(getattr(callback, verb)))
            for verb in ("reads", "writes")
        )


def _written_columns(callbacks: Iterable[Callback]) -> Iterator[str]:
    for callback in callbacks:
        yield from (
            path.removeprefix("history.")
            for path in paths_in(callback.writes)
            if path.startswith("history.")
        )


def _check_monitors(monitors: Iterable[str], known: Iterable[str], hint: str) -> None:
    for monitor in monitors:
        if monitor not in known:
            raise ContractError(
                f"nothing writes the monitor {monitor!r}{did_you_mean(monitor, known)}{hint}"
            )


def _listed(paths: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(paths)))
