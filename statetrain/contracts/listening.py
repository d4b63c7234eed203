"""Which callback listens on which hook, and what it declares there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from attrs import frozen

from statetrain.callback import ALIASES, Call, Callback, heard_hooks, hooks_of, name_of, unwrapped
from statetrain.context.context import Context
from statetrain.context.fields import Fact, fields_with
from statetrain.contracts.declaring import field_of, paths_of
from statetrain.contracts.foreign import refuse_foreign_hooks
from statetrain.errors import CallbackError, ContractError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.naming import did_you_mean

# Where a callback declares what its clean-ups read and write, in place of a hook
DEFERRED = "defer"

_OF_MACHINE = frozenset(fields_with(Context, Fact.OF_MACHINE))
_COUNTERS = frozenset(fields_with(Context, Fact.COUNTER))


@frozen
class Contract:
    """What a callback declares for one hook.

    Attributes:
        reads: paths; None if it declares none, so that nothing is known.
        writes: likewise. A callback that declares only what it reads writes nothing.
        exact: whether it is known to be about this hook, and not about any of several.
    """

    reads: frozenset[str] | None = None
    writes: frozenset[str] | None = None
    exact: bool = True

    @property
    def written(self) -> frozenset[str]:
        """The paths that it is known to write."""
        return self.writes or frozenset()


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
    """All callbacks by hook, in the order in which the callbacks were given.

    Raises:
        CallbackError: one is not a callback, was given twice, or has or declares a hook that no
            state has.
        ContractError: one declares that it writes what it must not, or a path cannot be read.
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
        refuse_foreign_hooks(unwrapped(callback))
        hooks = hooks_of(callback, lifecycle, f"{name_of(callback)} {nth[name_of(callback)]}")
        contracts = contracts_of(callback, heard_hooks(callback, lifecycle))
        found += [
            Listener(callback, labels[place], hook, function, contracts[hook], place)
            for hook, function in hooks.items()
        ]
        callback.check_lifecycle(lifecycle)
    return found


def labels_of(callbacks: Iterable[Callback]) -> list[str]:
    """Names by which callbacks are told apart: `Log`, or `Log 1` and `Log 2`."""
    names = [name_of(callback) for callback in callbacks]
    several = Counter(names)
    nth: Counter[str] = Counter()
    labels = []
    for name in names:
        nth[name] += 1
        if several[name] > 1:
            name = f"{name} {nth[name]}"
        labels.append(name)
    return labels


Declared = dict[str, frozenset[str]] | frozenset[str] | None
"""Paths by hook, paths for all hooks, or nothing."""


def contracts_of(callback: Callback, hooks: Mapping[str, str]) -> dict[str, Contract]:
    """What a callback declares for each of its hooks, and for its clean-ups.

    Args:
        callback: an instance.
        hooks: by the hook that a state fires, the name under which the callback has it; see
            `statetrain.callback.heard_hooks`.

    Raises:
        CallbackError: it declares something for a hook that it does not have.
        ContractError: it declares that it writes what it must not, or a path cannot be read.
    """
    heard = {**hooks, DEFERRED: DEFERRED}
    reads, writes = _declared(callback, "reads"), _declared(callback, "writes")
    if reads is None and writes is None:
        return dict.fromkeys(heard, Contract())
    if writes is None:
        writes = frozenset()
    # What is said for all hooks leaves open which of them it is about; nothing is about none.
    by_hook = all(isinstance(one, dict) or not one for one in (reads, writes))
    exact = by_hook or len(set(heard.values())) <= 2
    out = {
        hook: Contract(_on_hook(reads, name), _on_hook(writes, name), exact)
        for hook, name in heard.items()
    }
    for hook, contract in out.items():
        _check_permitted(callback, hook, contract.written)
    return out


def _on_hook(declared: Declared, hook: str) -> frozenset[str] | None:
    if isinstance(declared, dict):
        return declared.get(hook, frozenset())
    return declared


def _declared(callback: Callback, kind: str) -> Declared:
    """The paths that a callback declares, by hook if it does so; None if it declares none."""
    inner = unwrapped(callback)
    if not _says(inner, kind):
        return None
    while not _says(callback, kind) and callback.wrapped is not None:
        callback = callback.wrapped
    value = getattr(callback, kind)
    try:
        if not isinstance(value, Mapping):
            return paths_of(value)
        out: dict[str, frozenset[str]] = {}
        for hook, paths in value.items():
            _check_hook(inner, kind, hook)
            out[ALIASES.get(str(hook), str(hook))] = paths_of(paths)
    except ContractError as error:
        raise ContractError(f"Callback {name_of(callback)!r}, {kind}: {error}") from None
    return out


def _check_hook(callback: Callback, kind: str, hook: str) -> None:
    known = {name for name in dir(callback) if name.startswith("on_")} | {DEFERRED}
    if hook not in known and ALIASES.get(hook, "") not in known:
        raise CallbackError(
            f"Callback {name_of(callback)!r}: {kind} mention {hook!r}, a hook that it does not"
            f" have{did_you_mean(hook, known)}"
        )


def _says(callback: Callback, kind: str) -> bool:
    """Whether a callback, or its class, declares something itself, even if it is empty."""
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
        return frozenset().union(*map(paths_of, declared.values()))
    return paths_of(declared)
