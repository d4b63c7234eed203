"""The order in which callbacks are called on a hook, made once: topological, else as given.

What ties two callbacks, the strongest first:

1. `run_after` and `run_before`, by class or name, on all hooks that both have.
2. Who writes a field goes before who reads it, on the hooks where they do. `commutes_with` says
    that it does not matter.

Two that write one field on one hook need one of these, else the machine is refused: which of the
two values stays would be an accident of the list. `conflicts_with` refuses a pair outright.

A declaration for a callback as a whole, which has several hooks, does not say on which of them it
reads and writes. It ties where that leads to no cycle, and is never an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from attrs import frozen

from statetrain.callback import ALIASES, Callback, name_of
from statetrain.context.paths import overlap
from statetrain.contracts.declaring import NOTED, expanded
from statetrain.contracts.listening import Listener, labels_of
from statetrain.errors import CallbackError, ContractError, MachineError
from statetrain.naming import count_of, did_you_mean


@frozen
class Tie:
    """Why one listener comes before another.

    Attributes:
        first, then: places of the callbacks among all.
        why: for a person, what ties them.
        firm: whether it has to hold; else it gives way where it would close a circle.
    """

    first: int
    then: int
    why: str
    firm: bool = True


@frozen(repr=False)
class Order:
    """Who is called on a hook, in which order, and why; `str` of it is for a person.

    Attributes:
        hook: its name.
        listeners: in the order of the calls.
        ties: what decided it.
    """

    hook: str
    listeners: tuple[Listener, ...] = ()
    ties: tuple[Tie, ...] = ()

    @property
    def callbacks(self) -> tuple[Callback, ...]:
        """The callbacks, in the order of the calls."""
        return tuple(one.callback for one in self.listeners)

    def __str__(self) -> str:
        listeners = self.listeners
        if not listeners:
            return f"{self.hook}: no callback listens"
        lines = [f"{self.hook}: {count_of(len(listeners), 'callback')}"]
        wide = max(len(one.name) for one in listeners)
        tied = {place for tie in self.ties for place in (tie.first, tie.then)}
        for i, one in enumerate(listeners):
            line = f"  {i + 1}  {one.name.ljust(wide)}  {_declaration(one)}"
            if i and one.place not in tied:
                line += "  (where it was given)"
            why = [f"     {' ' * wide}    {words}" for words in self._reasons(one)]
            lines += [line, *why]
        return "\n".join(lines)

    def _reasons(self, one: Listener) -> list[str]:
        """Why a listener comes after others."""
        ties = [tie for tie in self.ties if tie.then == one.place]
        return [f"after {self._name(tie.first)}: {tie.why}" for tie in ties]

    def _name(self, place: int) -> str:
        return next(one.name for one in self.listeners if one.place == place)

    def _repr_html_(self) -> str:
        from statetrain.notebook import text

        return text(str(self))

    def __repr__(self) -> str:
        return (
            f"<Order of {self.hook}:"
            f" {', '.join(one.name for one in self.listeners) or 'no callback listens'}>"
        )


def _declaration(one: Listener) -> str:
    """What a callback reads and writes on a hook, as text."""
    reads, writes = one.contract.reads, one.contract.writes
    if reads is None and writes is None:
        return "declares nothing"
    uses = (("reads", reads), ("writes", writes))
    does = [f"{verb} {', '.join(sorted(paths))}" for verb, paths in uses if paths]
    return "; ".join(does) or "reads and writes nothing"


def arranged(listeners: Iterable[Listener]) -> dict[str, Order]:
    """The order on every hook.

    Args:
        listeners: of all callbacks, in the order in which these were given.

    Raises:
        ContractError: two callbacks exclude each other, write one field on one hook, or there is a
            cycle.
    """
    by_hook: dict[str, list[Listener]] = {}
    callbacks: dict[int, Callback] = {}
    for one in listeners:
        by_hook.setdefault(one.hook, []).append(one)
        callbacks[one.place] = one.callback
    names = dict(zip(callbacks, labels_of(callbacks.values()), strict=True))
    _check_conflicts(callbacks, names)
    declared = _declared_order(callbacks, names)
    orders = {
        hook: _order(hook, members, declared)
        for hook, members in by_hook.items()
        if not hook.startswith("on_exit_")
    }
    # What entering set up is undone in reverse, the last first
    for hook in by_hook.keys() - orders.keys():
        entering = orders.get(hook.replace("on_exit_", "on_enter_", 1), Order(hook))
        orders[hook] = _order(hook, _undoing(by_hook[hook], entering), declared)
    return {hook: orders[hook] for hook in by_hook}


def _undoing(members: list[Listener], entering: Order) -> list[Listener]:
    """The listeners on leaving a state; those that also hear it entered are called in reverse."""
    leaving = {one.place: one for one in members}
    both = [one.place for one in entering.listeners if one.place in leaving]
    paired = set(both)
    out = []
    for one in members:
        if one.place in paired:
            one = leaving[both.pop()]
        out.append(one)
    return out


def _order(hook: str, members: list[Listener], declared: DeclaredOrder) -> Order:
    if len(members) == 1:
        return Order(hook, tuple(members))
    ties = [*_declared_ties(members, declared), *_by_fields(hook, members, declared)]
    if not ties:
        return Order(hook, tuple(members))
    firm = [tie for tie in ties if tie.firm]
    placed = _sorted(hook, members, firm)
    kept = _without_circles(ties, firm)
    if len(kept) > len(firm):
        placed = _sorted(hook, members, kept)
    return Order(hook, tuple(placed), tuple(kept))


def _without_circles(ties: Iterable[Tie], firm: Sequence[Tie]) -> list[Tie]:
    """The firm ties, and of the others those that close no circle."""
    kept = list(firm)
    for tie in ties:
        if not tie.firm and not _leads(kept, tie.then, tie.first):
            kept.append(tie)
    return kept


def _declared_ties(members: Iterable[Listener], declared: DeclaredOrder) -> list[Tie]:
    """The ties that run_after and run_before make between listeners."""
    here = {one.place for one in members}
    return [Tie(*pair, why) for pair, why in declared.items() if here.issuperset(pair)]


def _sorted(hook: str, members: list[Listener], ties: list[Tie]) -> list[Listener]:
    """The members in an order that keeps every tie; where several may be next, as given."""
    waiting = {one.place: {tie.first for tie in ties if tie.then == one.place} for one in members}
    left, out = list(members), []
    while left:
        following = next((one for one in left if not waiting[one.place]), None)
        if following is None:
            raise ContractError(_circle(hook, left, ties))
        left.remove(following)
        out.append(following)
        for before in waiting.values():
            before.discard(following.place)
    return out


def _leads(ties: Sequence[Tie], start: int, goal: int) -> bool:
    """Whether ties lead from one callback to another."""
    seen, todo = {start}, [start]
    while todo:
        here = todo.pop()
        if here == goal:
            return True
        for tie in ties:
            if tie.first == here and tie.then not in seen:
                seen.add(tie.then)
                todo.append(tie.then)
    return False


def _circle(hook: str, left: list[Listener], ties: list[Tie]) -> str:
    """The error about callbacks that wait for each other."""
    names = {one.place: one.name for one in left}
    at, passed = left[0].place, []
    while at not in passed:  # each of them waits for another one of them, so going back comes round
        passed.append(at)
        at = next(tie.first for tie in ties if tie.then == at and tie.first in names)
    ring = passed[passed.index(at) :][::-1]
    told = []
    for here, after in zip(ring, (*ring[1:], ring[0]), strict=True):
        why = next(tie.why for tie in ties if (tie.first, tie.then) == (here, after))
        told.append(f"{names[here]} before {names[after]} ({why})")
    return (
        f"the callbacks on {hook} wait for each other: {'; '.join(told)}. Take one of these ties"
        " out: change run_after or run_before, declare reads and writes by hook, or say"
        " commutes_with where the order does not matter"
    )


# ---------------------------------------------------------------- what ties two callbacks


DeclaredOrder = dict[tuple[int, int], str]
"""The places of two callbacks, in order, and who declares it."""


def _declared_order(callbacks: dict[int, Callback], names: dict[int, str]) -> DeclaredOrder:
    """The pairs that run_after and run_before order."""
    out: DeclaredOrder = {}
    for place, callback in callbacks.items():
        for relation in ("run_after", "run_before"):
            if not getattr(callback, relation):
                continue
            why = f"{names[place]} declares {relation} = {_spelt(getattr(callback, relation))}"
            for other in _named_by(callbacks, place, relation):
                pair = (other, place)
                if relation == "run_before":
                    pair = (place, other)
                # Of several of one class that name their own, the given order is meant.
                if pair == tuple(sorted(pair)) or not _name_their_own(
                    relation, callback, callbacks[other]
                ):
                    out[pair] = why
    return out


def _named_by(callbacks: dict[int, Callback], place: int, relation: str) -> list[int]:
    """The places of the other callbacks that a relation of one names."""
    others = [other for other in callbacks if other != place]
    return [other for other in others if _names(callbacks[place], relation, callbacks[other])]


def _check_conflicts(callbacks: dict[int, Callback], names: dict[int, str]) -> None:
    for place, callback in callbacks.items():
        if callback.conflicts_with:
            for other in _named_by(callbacks, place, "conflicts_with"):
                raise ContractError(
                    f"callbacks {names[place]!r} and {names[other]!r} exclude each other"
                    f" ({names[place]} declares conflicts_with ="
                    f" {_spelt(callback.conflicts_with)}); take one of them out"
                )


def _names(callback: Callback, relation: str, peer: Callback) -> bool:
    """Whether a callback's relation names another one, by one of its classes or that one's name."""
    for named in _listed(getattr(callback, relation)):
        if is_called(peer, named):
            return True
        if not isinstance(named, str | type):
            raise CallbackError(
                f"Callback {name_of(callback)!r}: {relation} holds classes of callbacks or their"
                f" names, got {named!r}"
            )
    return False


def _name_their_own(relation: str, one: Callback, other: Callback) -> bool:
    """Whether each of two names a class that both are of."""
    return all(_names(a, relation, b) for a in (one, other) for b in (one, other))


def is_called(callback: Callback, named: object) -> bool:
    """Whether a class, a class's name or a label means a callback, or one that it wraps."""
    if isinstance(named, str):
        return named == name_of(callback) or any(
            named == kind.__name__ for one in _chain(callback) for kind in type(one).__mro__
        )
    return isinstance(named, type) and any(isinstance(one, named) for one in _chain(callback))


def _chain(callback: Callback) -> Iterator[Callback]:
    """A callback, the one that it stands for, and so on."""
    inner: object = callback
    while isinstance(inner, Callback):
        yield inner
        inner = getattr(inner, "wrapped", None)


def _spelt(value: str | type | Iterable[str | type]) -> str:
    return ", ".join(str(getattr(one, "__name__", one)) for one in _listed(value))


def _listed(value: str | type | Iterable[str | type]) -> Iterable[str | type]:
    """Classes and names; one may be given as it is."""
    if isinstance(value, str | type):
        return (value,)
    return value


def _by_fields(hook: str, members: list[Listener], declared: DeclaredOrder) -> Iterator[Tie]:
    """The ties that follow from what is written and read on a hook."""
    if not any(one.contract.writes for one in members):
        return
    uses = [
        (one, _expanded(one.contract.writes) - NOTED, _expanded(one.contract.reads))
        for one in members
    ]
    for (writer, writes, _), (peer, rewritten, seen) in itertools.permutations(uses, 2):
        both, read = _meeting(writes, rewritten), _meeting(writes, seen)
        if (both, read) == (None, None) or _settled(writer, peer, declared):
            continue
        exact = writer.contract.exact and peer.contract.exact
        if both is None:
            why = f"{writer.name} writes {read!r}, which {peer.name} reads"
            yield Tie(writer.place, peer.place, why, exact)
        elif exact:
            raise _write_conflict(hook, writer, peer, both)


def _write_conflict(hook: str, writer: Listener, peer: Listener, path: str) -> ContractError:
    first, then = name_of(writer.callback), name_of(peer.callback)
    return ContractError(
        f"callbacks {writer.name!r} and {peer.name!r} both write {path!r} on {hook}, in no declared"
        f" order. Say which is first: run_after = ({first!r},) in {then} or the other way round; or"
        " that it does not matter, and they are called as given:"
        f" commutes_with = ({first!r},)"
    )


@lru_cache(maxsize=1024)
def _expanded(paths: frozenset[str] | None) -> frozenset[str]:
    return expanded(path.removesuffix("?") for path in paths or ())


def _settled(one: Listener, other: Listener, declared: DeclaredOrder) -> bool:
    """Whether fields tie two callbacks no more: their order is declared, or does not matter."""
    pair = (one.place, other.place)
    return (
        pair in declared
        or pair[::-1] in declared
        or _names(one.callback, "commutes_with", other.callback)
        or _names(other.callback, "commutes_with", one.callback)
    )


def _meeting(written: Iterable[str], read: Iterable[str]) -> str | None:
    met = [max(path, other, key=len) for path in written for other in read if overlap(path, other)]
    return min(met, default=None)


# ---------------------------------------------------------------- shown


def hook_named(asked: str, names: Iterable[str]) -> str:
    """The name of a hook as written: `"exit step"`, `"on_exit_step"`, an alias, `"transition"`.

    Args:
        asked: what was written.
        names: of the states.

    Raises:
        MachineError: there is no such hook.
    """
    known = [f"on_{way}_{name}" for way in ("enter", "exit") for name in (*names, "failed")] + [
        "on_transition",
        "on_anchor",
        "on_resume",
    ]
    known.remove("on_exit_failed")
    name = "_".join(asked.split())
    if not name.startswith("on_"):
        name = f"on_{name}"
    name = ALIASES.get(name, name)
    if name not in known:
        near = did_you_mean(name, known)
        raise MachineError(
            f"no hook {asked!r}{near}{'' if near.endswith('?') else '.'} Hooks are asked for like"
            " 'exit step', or by their names"
        )
    return name
