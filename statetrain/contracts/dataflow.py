"""Which fields of the context exist where: reaching definitions over the states of a lifecycle.

A field is *absent* until something writes it, *there* from then on, and *gone* when what wrote it
has ended (a batch closes). Every way through the table is followed until nothing new is found,
events included; where ways meet, a field may be several of these. What does not declare what it
writes may write anything: after it, everything is taken to be there.

Values in `ctx.buffers` are followed like fields, by name, if something declares that it writes
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from attrs import Factory, define

from statetrain.contracts.declaring import (
    BORN,
    DERIVED,
    GIVEN,
    Access,
    access_of,
    field_of,
    followed,
    is_everything,
    reads_of,
)
from statetrain.contracts.listening import DEFERRED, Listener
from statetrain.contracts.ways import Doing, Way, WorkPlace, ways_of, works_of
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, START


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


@define(eq=False)
class Flow:
    """What every field may be at every place of a lifecycle.

    Attributes:
        ways: between the states.
        bits: by field, of those that may not be there; and by value in `buffers`.
        order: the listeners of each hook, as they are called.
        at: by hook's name, or place; a hook that no way passes is not in it.
        checked: whether actions, effects, close work and guards were seen to find what they read.
        born: of a custom context, the fields that are None at first; None for a `Context`.
    """

    lifecycle: Lifecycle
    ways: tuple[Way, ...]
    bits: dict[str, int]
    start: Status
    order: Mapping[str, Sequence[Listener]] = Factory(dict)
    at: dict[str | WorkPlace, Status] = Factory(dict)
    checked: bool = False
    born: frozenset[str] | None = None

    def impossible(self, place: str | WorkPlace) -> frozenset[str]:
        """The fields that cannot be there at a hook or a place, on any way."""
        return self._named(~self._at(place).there)

    def certain(self, place: str | WorkPlace) -> frozenset[str]:
        """The fields that are there at a hook or a place, on every way."""
        status = self._at(place)
        return self._named(~(status.absent | status.gone))

    def _at(self, place: str | WorkPlace) -> Status:
        """What the fields may be at a place; anything where no way passes."""
        every = (1 << len(self.bits)) - 1
        return self.at.get(place, Status(every, every, every))

    def _named(self, mask: int) -> frozenset[str]:
        return frozenset(name for name, bit in self.bits.items() if mask & bit)

    def mask(self, paths: Iterable[str]) -> int:
        """The bits of what paths name whole: a field, a value in `buffers`, all of `buffers`."""
        mask = 0
        for path in paths:
            mask |= self.bits.get(path, 0)
            if path == "buffers":
                mask |= sum(bit for name, bit in self.bits.items() if name.startswith("buffers"))
        return mask

    def moves(self, doing: Doing) -> tuple[int, int]:
        """What something writes and then drops; what is unknown may write anything."""
        if doing.hook:
            return self.mask(writes_of(self.order.get(doing.hook, ()))), 0
        if doing.access is None:
            return (1 << len(self.bits)) - 1, 0
        return self.mask(doing.access.writes), self.mask(doing.access.drops)

    def after_call(self, status: Status, one: Listener) -> Status:
        """What the fields may be once a listener has been called."""
        return status.after(self.mask(one.contract.written), 0)

    def places(self, wanted: Callable[[Access], bool]) -> list[WorkPlace]:
        """The places whose declarations are wanted, each once, in the order of the ways."""
        found: dict[WorkPlace, None] = {}
        for doing in chain.from_iterable(way.doings for way in self.ways):
            if doing.place is not None and doing.access is not None and wanted(doing.access):
                found[doing.place] = None
        return list(found)

    def find_wrong(self, status: Status | None, path: str) -> str:
        """What a path may be in place of being there: "absent", "gone", or "" if it is there."""
        if status is None or path.endswith("?") or is_everything(path):
            return ""
        for name in self.made_from(path):
            bit = self.bits.get(name, 0)
            if status.absent & bit:
                return "absent"
            if status.gone & bit:
                return "gone"
        return ""

    def made_from(self, path: str) -> tuple[str, ...]:
        """The fields, or the value in `buffers`, that a path is read from."""
        if self.born is not None:
            return (followed(path),)
        return DERIVED.get(field_of(path), (followed(path),))


def writes_of(listeners: Iterable[Listener]) -> Iterator[str]:
    """The paths that listeners are known to write."""
    return chain.from_iterable(one.contract.written for one in listeners)


def solve(
    life: Lifecycle,
    order: Mapping[str, Sequence[Listener]],
    born: frozenset[str] | None = None,
) -> Flow:
    """Follows all ways until nothing new is found.

    Args:
        life: the table.
        order: the listeners of each hook, as they are called.
        born: of a custom context, the fields that are None at first; None for a `Context`.
    """
    if born is not None:
        return solve_with(life, order, born)
    if any(map(_comes_to_be, writes_of(chain(*order.values())))):
        return solve_with(life, order)
    # No callback moves a field whose being there is in question
    if _is_known(life):
        return _solve_once(life)
    return solve_with(life, {})


@lru_cache(maxsize=32)
def _solve_once(life: Lifecycle) -> Flow:
    return solve_with(life, {})


def _comes_to_be(path: str) -> bool:
    """Whether writing a path makes something exist that was not there from the start."""
    if is_everything(path) or path != followed(path):
        return False
    return path not in GIVEN and path not in DERIVED


def _is_known(life: Lifecycle) -> bool:
    """Whether everything done in a lifecycle is declared.

    What is not declared may be a closure that keeps a model alive, so it is not kept.
    """
    works = [work for _, work in works_of(life)]
    works += [state.reopen for state in life.states if state.reopen is not None]
    works += [state.mode for state in life.states if state.mode is not None]
    guards = [arrow.guard for arrow in life.transitions if arrow.guard is not None]
    return all(map(access_of, works)) and all(map(reads_of, guards))


def solve_with(
    life: Lifecycle,
    order: Mapping[str, Sequence[Listener]],
    born: frozenset[str] | None = None,
) -> Flow:
    """The solution with listeners that may move any field; see `solve`."""
    ways = ways_of(life)
    doings = {doing for way in ways for doing in way.doings}
    bits = {name: 1 << i for i, name in enumerate(sorted(_moving(doings, order, born)))}
    every, there = (1 << len(bits)) - 1, sum(bit for name, bit in bits.items() if name in GIVEN)
    if born is not None:
        there = 0  # all that is looked at is None at first
    flow = Flow(life, ways, bits, Status(every - there, there, 0), order, born=born)
    moves = {doing: flow.moves(doing) for doing in doings}
    begun = _follow(flow, moves)
    for way in sorted(ways, key=lambda way: way.arrow.event is not None):
        _note(flow, way, begun, moves)
    flow.at["on_enter_failed"] = flow.at[DEFERRED] = Status(every - there, every, every)
    flow.at["on_resume"] = flow.at.get("on_anchor", flow.at[DEFERRED])
    return flow


def _moving(
    doings: Iterable[Doing],
    order: Mapping[str, Sequence[Listener]],
    born: frozenset[str] | None,
) -> frozenset[str]:
    """The fields and values that may not be there at some place."""
    known = [doing.access for doing in doings if doing.access is not None]
    written = chain(writes_of(chain(*order.values())), *(one.writes for one in known))
    if born is not None:
        return frozenset(name for name in written if name in born or name.startswith("buffers"))
    return BORN.union(filter(_comes_to_be, written), *(one.drops for one in known))


Moves = dict[Doing, tuple[int, int]]
# A state: when its guards are asked, or when its action or an enter hook raises an event
Junction = tuple[str, bool]
_Step = tuple[int, int, str]  # what is written, what is dropped, the state that begins


def _follow(flow: Flow, moves: Moves) -> dict[Junction, Status]:
    """What the fields may be where ways begin."""
    found: dict[Junction, Status] = {(START, False): flow.start}
    drops = {
        doing.begins: moves[doing][1] for way in flow.ways for doing in way.doings if doing.begins
    }
    out: dict[Junction, list[tuple[str, list[_Step]]]] = {}
    for way in flow.ways:
        steps = [(*moves[one], one.begins) for one in way.doings if one.begins or any(moves[one])]
        node = way.active, way.arrow.event is not None
        out.setdefault(node, []).append((way.arrow.dest, steps))
    todo = [(START, False)]

    def reach(node: Junction, status: tuple[int, int, int]) -> None:
        old = found.get(node, (0, 0, 0))
        new = Status(old[0] | status[0], old[1] | status[1], old[2] | status[2])
        if node not in found or new != old:
            found[node] = new
            todo.append(node)

    while todo:
        node = todo.pop()
        for dest, steps in out.get(node, ()):
            absent, there, gone = found[node]
            for writes, lost, begins in steps:
                if begins:
                    # An action that raises may have dropped, and has written nothing for certain.
                    after = there & ~drops[begins], gone | there & drops[begins]
                    reach((begins, True), (absent, *after))
                gone = (gone | there & lost) & ~writes
                absent, there = absent & ~writes, there & ~lost | writes
            if dest != FAILED:
                reach((dest, False), (absent, there, gone))
    return found


def _note(flow: Flow, way: Way, begun: dict[Junction, Status], moves: Moves) -> None:
    """Notes what the fields may be at each place of a way."""
    status = begun.get((way.active, way.arrow.event is not None))
    if status is None:
        return
    at, event = flow.at, way.arrow.event is not None
    if way.arrow.guard is not None:
        place: WorkPlace = ("guard", way.arrow)
        at[place] = at.get(place, status) | status
    for doing in way.doings:
        where = doing.hook or doing.place
        assert where is not None
        if where not in at:
            at[where] = status
        elif not (event and doing.leaves):
            at[where] = at[where] | status
        writes, drops = moves[doing]
        if writes or drops:
            status = status.after(writes, drops)
