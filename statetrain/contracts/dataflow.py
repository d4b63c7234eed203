"""Which fields of the context exist where: reaching definitions over the states of a lifecycle.

A field is *absent* until something writes it, *there* from then on, and *gone* when what wrote it
has ended (a batch closes). Every way through the table is followed until nothing new is found,
events included; where ways meet, a field may be several of these. What is read where it may be
absent or gone is an error, with a way that leads there. What does not declare what it writes may
write anything: after it, everything is taken to be there.

An event can be raised before a state has done its work. Exit hooks then find less than on the
ordinary way out, and each of them would have to say so; this is not asked of them. What follows an
event is followed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import attrs
from attrs import Factory, define, frozen

from statetrain.context.context import Context
from statetrain.contracts.declaring import (
    BORN,
    DEFERRED,
    DERIVED,
    Access,
    Listener,
    access_of,
    field_of,
    parts,
    reads_of,
)
from statetrain.errors import ContractError
from statetrain.lifecycle.lifecycle import FAILED, START, Lifecycle, Transition
from statetrain.naming import did_you_mean

Kind = Literal["action", "effect", "guard", "close", "mode"]
Place = tuple[Kind, "str | Transition"]  # where something is done: in a state, or on an arrow
Ruled = Literal["absent", "there", "gone"]


@frozen(eq=False)
class Doing:
    """Something done on a way: a component's own work, or the hooks of a name."""

    place: Place | None  # None for hooks
    access: Access | None  # None: unknown
    hook: str = ""
    begins: str = ""  # the state that has become the current one, whose action comes next

    @property
    def leaves(self) -> bool:
        """Whether these are exit hooks."""
        return self.hook.startswith("on_exit_")


@frozen(eq=False)
class Way:
    """What lies between two states: an arrow, taken with a certain state open."""

    arrow: Transition
    active: str
    doings: tuple[Doing, ...]


class Status(NamedTuple):
    """What each field may be, a bit for each."""

    absent: int
    there: int
    gone: int

    def __or__(self, other: Any) -> Status:
        return Status(self.absent | other.absent, self.there | other.there, self.gone | other.gone)

    def after(self, writes: int, drops: int) -> Status:
        """What they are once fields have been dropped, and then others written."""
        gone, there = self.gone | self.there & drops, self.there & ~drops
        return Status(self.absent & ~writes, there | writes, gone & ~writes)


GIVEN = frozenset(one.name for one in attrs.fields(Context)) - BORN
"""The fields of the standard context that are there from the start."""

_KNOWN = frozenset((*dir(Context), *DERIVED))


def _comes_to_be(path: str) -> bool:
    """Whether writing a path makes a field exist that was not there from the start."""
    return (
        path not in GIVEN
        and path not in DERIVED
        and path == field_of(path)
        and path not in ("*", "**")
    )


def spoken(place: Place) -> str:
    """What a place is called in errors and tables."""
    kind, of = place
    if kind == "guard":
        assert isinstance(of, Transition)
        assert of.guard is not None
        return f"the guard [{of.guard.label}] of {of.source} -> {of.dest}"
    if isinstance(of, Transition):
        return f"the effect of {of.source} -> {of.dest}"
    return f"the {'close work' if kind == 'close' else kind} of {of!r}"


# ---------------------------------------------------------------- the ways


def ways_of(life: Lifecycle) -> tuple[Way, ...]:
    """All ways between two states of a lifecycle, events included, the one into the initial state first."""
    table = _Table(life)
    found = [table.way(life.start, START)]
    for arrow in life.transitions:
        if arrow.event is None:
            found.append(table.way(arrow, arrow.source))
        else:  # raised by the action or an enter hook of any state within
            found += [
                table.way(arrow, active)
                for active, path in table.paths.items()
                if arrow.source in path
            ]
    return tuple(found)


class _Table:
    """A lifecycle with what is asked of it many times looked up once."""

    def __init__(self, life: Lifecycle) -> None:
        self.states = {state.name: state for state in life.states}
        self.paths: dict[str, tuple[str, ...]] = {START: ()}
        for name, state in self.states.items():
            path, scope = [name], state.within
            while scope is not None:
                path.insert(0, scope)
                scope = self.states[scope].within
            self.paths[name] = tuple(path)
        self.entering = {name: self._entered(name) for name in self.states}
        self.leaving = {name: self._left(name) for name in self.states}

    def way(self, arrow: Transition, active: str) -> Way:
        """The way of an arrow, as the machine lays it out."""
        effect = (
            (Doing(("effect", arrow), access_of(arrow.effect)),) if arrow.effect is not None else ()
        )
        if arrow.dest == FAILED:
            return Way(arrow, active, effect)
        here, there = self.paths[active], self.paths[arrow.dest]
        shared = 0
        while shared < min(len(here), len(there) - 1) and here[shared] == there[shared]:
            shared += 1
        doings = [doing for name in reversed(here[shared:]) for doing in self.leaving[name]]
        doings += (*effect, _PASSING)
        doings += [doing for name in there[shared:] for doing in self.entering[name]]
        return Way(arrow, active, tuple(doings))

    def _entered(self, name: str) -> tuple[Doing, ...]:
        state = self.states[name]
        done = access_of(state.action) if state.action is not None else _NOTHING
        return (
            *(
                (Doing(("mode", name), access_of(state.mode) or _NOTHING),)
                if state.mode is not None
                else ()
            ),
            Doing(None, None, f"on_enter_{name}"),
            *((Doing(None, None, "on_anchor"),) if state.anchor else ()),
            Doing(("action", name), done, begins=name),
        )

    def _left(self, name: str) -> tuple[Doing, ...]:
        state = self.states[name]
        return (
            Doing(None, None, f"on_exit_{name}"),
            *((Doing(("close", name), access_of(state.close)),) if state.close is not None else ()),
            *((Doing(("mode", name), self._mode_left(name)),) if state.mode is not None else ()),
        )

    def _mode_left(self, name: str) -> Access:
        """What leaving a scope with a mode does: what the mode wrote ends, unless it was there before, or a mode around writes it."""
        own, *outer = [
            access_of(self.states[scope].mode) or _NOTHING for scope in reversed(self.paths[name])
        ]
        return Access(drops=own.writes - GIVEN.union(*(one.writes for one in outer)))


_NOTHING = Access()
_PASSING = Doing(None, None, "on_transition")


# ---------------------------------------------------------------- the solution


@define(eq=False)
class Flow:
    """What every field may be at every place of a lifecycle.

    Attributes:
        ways: between the states.
        bits: by field, of those that may not be there.
        order: the listeners of each hook, as they are called.
        at: by hook's name, or place; a hook that no way passes is not in it.
    """

    lifecycle: Lifecycle
    ways: tuple[Way, ...]
    bits: dict[str, int]
    start: Status
    order: Mapping[str, Sequence[Listener]] = Factory(dict)
    at: dict[str | Place, Status] = Factory(dict)

    def impossible(self, place: str | Place) -> frozenset[str]:
        """The fields that cannot be there at a hook or a place, on whatever way."""
        status = self.at.get(place)
        return (
            frozenset()
            if status is None
            else frozenset(name for name, bit in self.bits.items() if not status.there & bit)
        )

    def certain(self, place: str | Place) -> frozenset[str]:
        """The fields that are there at a hook or a place, on every way."""
        status = self.at.get(place)
        return (
            frozenset()
            if status is None
            else frozenset(
                name for name, bit in self.bits.items() if not (status.absent | status.gone) & bit
            )
        )

    def mask(self, paths: Iterable[str]) -> int:
        """The bits of whole fields among paths."""
        mask = 0
        for path in paths:
            mask |= self.bits.get(path, 0)
        return mask

    def moved(self, doing: Doing) -> tuple[int, int]:
        """What something writes and then drops; whoever is unknown may write anything."""
        if doing.hook:
            return (
                self.mask(
                    path
                    for one in self.order.get(doing.hook, ())
                    for path in one.contract.writes or ()
                ),
                0,
            )
        if doing.access is None:
            return (1 << len(self.bits)) - 1, 0
        return self.mask(doing.access.writes), self.mask(doing.access.drops)


def solve(life: Lifecycle, order: Mapping[str, Sequence[Listener]]) -> Flow:
    """Follows all ways until nothing new is found.

    Args:
        life: the table.
        order: the listeners of each hook, as they are called.
    """
    writing = {
        hook: members
        for hook, members in order.items()
        if any(one.contract.writes for one in members)
    }
    written = {
        path
        for members in writing.values()
        for one in members
        for path in one.contract.writes or ()
    }
    if any(map(_comes_to_be, written)):
        return _solved(life, writing)
    return _alone(life)  # no callback moves a field whose being there is in question


def _alone(life: Lifecycle) -> Flow:
    """The solution without callbacks, checked. It is kept for lifecycles that hold no function that nothing is known of."""
    return _kept(life) if _is_known(life) else _checked(_solved(life, {}))


@lru_cache(maxsize=32)
def _kept(life: Lifecycle) -> Flow:
    return _checked(_solved(life, {}))


def _is_known(life: Lifecycle) -> bool:
    """Whether everything done in a lifecycle is declared. What is not may be a closure, and keep a model alive."""
    works = [
        work
        for state in life.states
        for work in (state.action, state.close, state.reopen, state.mode)
    ]
    works += [arrow.effect for arrow in life.transitions]
    return all(access_of(work) is not None for work in works if work is not None) and all(
        reads_of(arrow.guard) is not None for arrow in life.transitions if arrow.guard is not None
    )


def _solved(life: Lifecycle, order: Mapping[str, Sequence[Listener]]) -> Flow:
    ways = ways_of(life)
    accesses = {doing.access for way in ways for doing in way.doings if doing.access is not None}
    written = {path for one in accesses for path in one.writes}
    written |= {
        path for members in order.values() for one in members for path in one.contract.writes or ()
    }
    names = {
        *BORN,
        *filter(_comes_to_be, written),
        *(path for one in accesses for path in one.drops),
    }
    bits = {name: 1 << i for i, name in enumerate(sorted(names))}
    every, there = (1 << len(bits)) - 1, sum(bit for name, bit in bits.items() if name in GIVEN)
    flow = Flow(life, ways, bits, Status(every - there, there, 0), order)
    moves = {doing: flow.moved(doing) for doing in {doing for way in ways for doing in way.doings}}
    begun = _follow(flow, moves)
    for way in sorted(ways, key=lambda way: way.arrow.event is not None):
        _note(flow, way, begun, moves)
    flow.at["on_enter_failed"] = flow.at[DEFERRED] = Status(every - there, every, every)
    flow.at["on_resume"] = flow.at.get("on_anchor", flow.at[DEFERRED])
    return flow


Moves = dict[Doing, tuple[int, int]]
# A state: when its guards are asked, or when its action or an enter hook raises an event
Node = tuple[str, bool]


def _follow(flow: Flow, moves: Moves) -> dict[Node, Status]:
    """What the fields may be where ways begin."""
    found: dict[Node, Status] = {(START, False): flow.start}
    drops = {
        doing.begins: moves[doing][1] for way in flow.ways for doing in way.doings if doing.begins
    }
    out: dict[Node, list[tuple[Way, list[tuple[int, int, str]]]]] = {}
    for way in flow.ways:
        steps = [
            (*moves[doing], doing.begins)
            for doing in way.doings
            if doing.begins or any(moves[doing])
        ]
        out.setdefault((way.active, way.arrow.event is not None), []).append((way, steps))
    todo = [(START, False)]

    def reach(node: Node, status: tuple[int, int, int]) -> None:
        old = found.get(node)
        new = (
            Status(*status)
            if old is None
            else Status(old[0] | status[0], old[1] | status[1], old[2] | status[2])
        )
        if new != old:
            found[node] = new
            todo.append(node)

    while todo:
        node = todo.pop()
        for way, steps in out.get(node, ()):
            absent, there, gone = found[node]
            for writes, lost, begins in steps:
                if (
                    begins
                ):  # an action that raises may have dropped, and has written nothing for certain
                    reach(
                        (begins, True),
                        (absent, there & ~drops[begins], gone | there & drops[begins]),
                    )
                absent, there, gone = (
                    absent & ~writes,
                    there & ~lost | writes,
                    (gone | there & lost) & ~writes,
                )
            if way.arrow.dest != FAILED:
                reach((way.arrow.dest, False), (absent, there, gone))
    return found


def _note(flow: Flow, way: Way, begun: dict[Node, Status], moves: Moves) -> None:
    """Notes what the fields may be at each place of a way."""
    status = begun.get((way.active, way.arrow.event is not None))
    if status is None:
        return
    at, event = flow.at, way.arrow.event is not None
    if way.arrow.guard is not None:
        place: Place = ("guard", way.arrow)
        at[place] = at[place] | status if place in at else status
    for doing in way.doings:
        where = doing.hook or doing.place
        assert where is not None
        if (old := at.get(where)) is None:
            at[where] = status
        elif old != status and not (event and doing.leaves):
            at[where] = old | status
        writes, drops = moves[doing]
        if writes or drops:
            status = status.after(writes, drops)


# ---------------------------------------------------------------- the checks


def check(life: Lifecycle, order: Mapping[str, Sequence[Listener]]) -> None:
    """Sees that everything that is declared to be read is there, on every way.

    Raises:
        ContractError: a field is read where it may not exist yet, or only from an earlier batch.
            The message names who reads it, shows a way that leads there, and says who writes the
            field.
    """
    flow = solve(life, order)
    if flow.order:
        _checked(flow)
    coarse: dict[tuple[int, str], list[tuple[Listener, Ruled | None]]] = {}
    for hook, members in order.items():
        status = flow.at.get(hook)
        for i, one in enumerate(members):
            for path in one.contract.reads or ():
                wrong = _wrong(flow, status, path)
                if one.contract.exact:
                    if wrong:
                        raise ContractError(
                            _said(
                                flow,
                                f"Callback {one.name!r} reads {path!r} on {hook}",
                                path,
                                hook,
                                wrong,
                                members[:i],
                            )
                        )
                    _check_known(flow, one, path)
                else:
                    coarse.setdefault((one.place, path), []).append((one, wrong))
            if status is not None and one.contract.writes:
                status = status.after(flow.mask(one.contract.writes), 0)
    for (_, path), found in coarse.items():
        one = found[0][0]
        if all(wrong for _, wrong in found):
            hooks = ", ".join(listener.hook for listener, _ in found)
            raise ContractError(
                _said(
                    flow,
                    f"Callback {one.name!r} reads {path!r} on one of its hooks ({hooks}), on each"
                    " of them",
                    path,
                    one.hook,
                    found[0][1] or "absent",
                    (),
                )
            )
        _check_known(flow, one, path)


def _checked(flow: Flow) -> Flow:
    """A solution in which actions, effects, close work and guards find what they read."""
    accesses = {doing.place: doing.access for way in flow.ways for doing in way.doings}
    for place in flow.at:
        if isinstance(place, str):
            continue
        if place[0] == "guard":
            assert isinstance(place[1], Transition)
            assert place[1].guard is not None
            declared = reads_of(place[1].guard)
        else:
            declared = accesses[place]
        for path in declared.reads if declared is not None else ():
            if wrong := _wrong(flow, flow.at[place], path):
                raise ContractError(
                    f"{flow.lifecycle.name}:"
                    f" {_said(flow, f'{spoken(place)} reads {path!r}', path, place, wrong, ())}"
                )
    return flow


def _fields(path: str) -> tuple[str, ...]:
    """The fields that a path is read from."""
    return DERIVED.get(field_of(path), (field_of(path),))


def _wrong(flow: Flow, status: Status | None, path: str) -> Ruled | None:
    """What a path that is read may be instead of being there; None if nothing is wrong."""
    if status is None or path.endswith("?") or parts(path)[:1] in (("*",), ("**",)):
        return None
    for name in _fields(path):
        bit = flow.bits.get(name, 0)
        if status.absent & bit:
            return "absent"
        if status.gone & bit:
            return "gone"
    return None


def _said(
    flow: Flow, who: str, path: str, place: str | Place, wrong: str, before: Sequence[Listener]
) -> str:
    status = flow.at[place]
    for listener in before:
        status = status.after(flow.mask(listener.contract.writes or ()), 0)
    name = next(one for one in _fields(path) if _wrong(flow, status, one) == wrong)
    made_of = f" (it is made of {name!r})" if name != field_of(path) else ""
    writers = [spoken(one) for one in _writers(flow, name)] + [
        f"{one.name}.{one.hook}" for one in _writing_listeners(flow, name)
    ]
    if not writers:
        return (
            f"{who}{made_of}, and nothing in lifecycle {flow.lifecycle.name!r} writes it; take a"
            " lifecycle with a state that does, or declare what your own actions write"
        )
    what = "does not exist yet" if wrong == "absent" else "is of an earlier batch: it ended where"
    way = _way_to(flow, name, place, wrong, before)
    ends = (
        f" {', '.join(spoken(one) for one in _droppers(flow, name))} let it go"
        if wrong == "gone"
        else ""
    )
    remedy = f"read it after that, or say that it may be missing: {path + '?'!r}"
    return (
        f"{who}{made_of}, where it {what}{ends}{f', on the way {way}' if way else ''}. It is"
        f" written by {', '.join(writers)}; {remedy}"
    )


def _writers(flow: Flow, name: str) -> list[Place]:
    return _placed(flow, lambda one: name in one.writes)


def _droppers(flow: Flow, name: str) -> list[Place]:
    return _placed(flow, lambda one: name in one.drops)


def _placed(flow: Flow, wanted: Callable[[Access], bool]) -> list[Place]:
    doings = (doing for way in flow.ways for doing in way.doings)
    return list(
        dict.fromkeys(
            doing.place
            for doing in doings
            if doing.place is not None and doing.access is not None and wanted(doing.access)
        )
    )


def _writing_listeners(flow: Flow, name: str) -> Iterator[Listener]:
    for members in flow.order.values():
        yield from (one for one in members if name in (one.contract.writes or ()))


def _check_known(flow: Flow, one: Listener, path: str) -> None:
    """A field that nobody knows is taken for one of the user's own context, unless it looks like a slip."""
    name = field_of(path)
    if name in _KNOWN or name in flow.bits or name in ("*", "**"):
        return
    known = {*_KNOWN, *flow.bits}
    near = did_you_mean(name, known)
    if near.startswith("; did you mean"):
        raise ContractError(
            f"Callback {one.name!r} declares that it reads {path!r} on {one.hook}: a context has no"
            f" {name!r}{near}"
        )


def _way_to(
    flow: Flow, name: str, place: str | Place, wrong: str, before: Sequence[Listener]
) -> str:
    """The shortest way to a place on which a field is not there, from the start, as the states that it passes."""
    bit, ways = flow.bits[name], flow.ways
    by_active: dict[tuple[str, bool], list[Way]] = {}
    for way in ways:
        by_active.setdefault((way.active, way.arrow.event is not None), []).append(way)
    first = ((START, False), Status(flow.start.absent & bit, flow.start.there & bit, 0))
    queue: deque[tuple[Any, tuple[str, ...]]] = deque([(first, ())])
    seen = {first}
    while queue:
        (node, status), passed = queue.popleft()
        for way in by_active.get(node, ()):
            now, states = status, passed
            for doing in (Doing(("guard", way.arrow), Access()), *way.doings):
                if (doing.hook or doing.place) == place and not (
                    doing.leaves and way.arrow.event is not None
                ):
                    here = now
                    for one in before:
                        here = here.after(flow.mask(one.contract.writes or ()) & bit, 0)
                    if (here.absent if wrong == "absent" else here.gone) & bit:
                        return " -> ".join(_short(states))
                if doing.begins:
                    states = (*states, doing.begins)
                    nxt = ((doing.begins, True), now)
                    if nxt not in seen:
                        seen.add(nxt)
                        queue.append((nxt, states))
                whole = now.after(*flow.moved(doing))
                now = Status(whole.absent & bit, whole.there & bit, whole.gone & bit)
            nxt = ((way.arrow.dest, False), now)
            if nxt not in seen:
                seen.add(nxt)
                queue.append((nxt, states))
    return ""


def _short(states: Sequence[str], shown: int = 14) -> tuple[str, ...]:
    return tuple(states) if len(states) <= shown else (*states[:4], "...", *states[-(shown - 5) :])
