"""All ways that several ranks can go through one table together, without processes, torch or time.

Each rank is a copy of the table. Ranks meet where a state `meets`, and where a row is agreed on;
between two meetings they do not see each other, so it is enough to look at one order: each goes on
to its next meeting, and there they are compared. A rank that waits for one that never comes, and
ranks that come to different meetings, are a run that hangs; the shortest way there is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

from attrs import define, field, frozen

from statetrain.contracts.owning import own_fields, reads_own
from statetrain.errors import LifecycleError
from statetrain.guards.agreed import Agreed
from statetrain.guards.base import AllOf, AnyOf, Guard, Not, Renamed
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED
from statetrain.lifecycle.transition import Transition
from statetrain.naming import did_you_mean
from statetrain.trace import Trace

RankPlace = tuple[str, bool]  # the state of a rank, and whether its meeting is over
Places = tuple[RankPlace, ...]


class Halt(NamedTuple):
    """Where ranks hang, and the shortest way there."""

    why: str
    way: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([*self.way, self.why])


@define(eq=False)
class Together:
    """Several ranks of a lifecycle.

    Args:
        lifecycle: what each rank walks; guards that are `Agreed` have one answer for all.
        ranks: how many.
        events: whether a rank may raise an event alone.
    """

    lifecycle: Lifecycle
    ranks: int
    events: bool = False
    own: dict[str, str] = field(init=False)
    seen: dict[Places, tuple[Places, str] | None] = field(init=False, factory=dict)

    @own.default
    def _own(self) -> dict[str, str]:
        return own_fields(self.lifecycle)

    def explore(self, limit: int = 200_000) -> Halt | None:
        """Goes every way; where ranks hang, if they do.

        Raises:
            LifecycleError: there are more configurations than the limit.
        """
        start: Places = ((self.lifecycle.initial, False),) * self.ranks
        self.seen = {start: None}
        layer = [start]
        while layer:
            following = []
            for here in layer:
                for there, how in self._after(here):
                    if there is None:
                        return Halt(how, tuple(self._way(here)))
                    if there not in self.seen:
                        self.seen[there] = (here, how)
                        following.append(there)
            layer = following
            if len(self.seen) > limit:
                raise LifecycleError(f"{self.lifecycle.name}: more than {limit} configurations")
        return None

    @property
    def parted(self) -> int:
        """The configurations in which ranks are in different states."""
        return sum(len({state for state, _ in places}) > 1 for places in self.seen)

    def _way(self, here: Places) -> list[str]:
        way = []
        while (came := self.seen[here]) is not None:
            here, how = came
            way.append(how)
        return way[::-1]

    def _after(self, places: Places) -> Iterator[tuple[Places | None, str]]:
        """The next configurations, each with how it came to be; None where ranks hang."""
        waits = [self._awaits(state, over) for state, over in places]
        if all(word == _END for word in waits):
            return
        alone = [rank for rank, word in enumerate(waits) if not word]
        if alone:  # they need no other rank
            yield from self._decide(places, alone)
        elif len({(word, places[rank][0]) for rank, word in enumerate(waits)}) > 1:
            words = [
                f"rank {rank} {_waiting(places[rank][0], word)}" for rank, word in enumerate(waits)
            ]
            yield None, "; ".join(words)
        elif waits[0] == _AGREE:
            yield from self._decide(places, range(self.ranks))
        else:
            yield tuple((state, True) for state, _ in places), f"all: {waits[0]}"

    def _awaits(self, state: str, over: bool) -> str:
        """What a rank waits for in a state: its end, a meeting, an agreement, or nothing."""
        if state == FAILED or self.lifecycle.state(state).final:
            return _END
        meets = self.lifecycle.state(state).meets
        if meets and not over:
            return meets
        if any(isinstance(one, Agreed) for one in self._leaves(state)):
            return _AGREE
        return ""

    def _leaves(self, state: str) -> list[Guard]:
        guards = [arrow.guard for arrow in self.lifecycle.arrows(state) if arrow.guard is not None]
        return [leaf for guard in guards for leaf in _leaves(guard)]

    def _decide(self, places: Places, movers: Iterable[int]) -> Iterator[tuple[Places | None, str]]:
        """Each mover takes an arrow; those in one state share the answers that are the same."""
        rows: dict[str, list[int]] = {}
        for rank in movers:
            rows.setdefault(places[rank][0], []).append(rank)
        for choice in product(*(self._ways(state, who) for state, who in rows.items())):
            new = list(places)
            taken = sorted(pair for way in choice for pair in way)
            for rank, dest in taken:
                new[rank] = (dest, False)
            words = [f"{rank}: {places[rank][0]} -> {dest}" for rank, dest in taken]
            yield tuple(new), ", ".join(words)

    def _ways(self, state: str, who: Sequence[int]) -> list[tuple[tuple[int, str], ...]]:
        """Where the ranks that are in one state can go from there."""
        labels = {leaf.label: self._is_own(leaf) for leaf in self._leaves(state)}
        same = [label for label, own in labels.items() if not own]
        own = [label for label, own in labels.items() if own]
        ways = set()
        for shared in product((False, True), repeat=len(same)):
            common = dict(zip(same, shared, strict=True))
            answers = product(product((False, True), repeat=len(own)), repeat=len(who))
            for each in answers:
                dests = [
                    self._take(state, {**common, **dict(zip(own, mine, strict=True))})
                    for mine in each
                ]
                ways.add(tuple(zip(who, dests, strict=True)))
        if self.events:
            ways |= self._raised(state, who)
        return sorted(ways)

    def _raised(self, state: str, who: Sequence[int]) -> set[tuple[tuple[int, str], ...]]:
        """One rank raises an event, and the others continue."""
        life, ways = self.lifecycle, set()
        scopes = life.path(state)
        for arrow in life.transitions:
            if arrow.event is not None and arrow.source in scopes:
                onward = self._take(state, {})
                for one in who:
                    ways.add(tuple((rank, arrow.dest if rank == one else onward) for rank in who))
        return ways

    def _is_own(self, leaf: Guard) -> bool:
        return not isinstance(leaf, Agreed) and reads_own(leaf, self.own)

    def _take(self, state: str, given: Mapping[str, bool]) -> str:
        arrows = self.lifecycle.arrows(state)
        return next(a.dest for a in arrows if a.guard is None or _holds(a.guard, given))


_END, _AGREE = "the end", "agree"


def _waiting(state: str, word: str) -> str:
    if word == _END:
        return f"has ended in {state!r}"
    return f"waits in {state!r} to {word}"


def _leaves(guard: Guard) -> Iterator[Guard]:
    """The parts of a guard, down to those that are agreed on."""
    if isinstance(guard, Agreed):
        yield guard
        return
    parts = guard.parts()
    if not parts:
        yield guard
    for part in parts:
        yield from _leaves(part)


def _holds(guard: Guard, given: Mapping[str, bool]) -> bool:
    return _evaluated(guard, lambda leaf: given.get(leaf.label, False))


def _evaluated(guard: Guard, answer: Callable[[Guard], bool]) -> bool:
    """What a guard evaluates to, its parts answered by a function."""
    if isinstance(guard, Not):
        return not _evaluated(guard.guard, answer)
    if isinstance(guard, Renamed):
        return _evaluated(guard.guard, answer)
    if isinstance(guard, AllOf):
        return all(_evaluated(part, answer) for part in guard.guards)
    if isinstance(guard, AnyOf):
        return any(_evaluated(part, answer) for part in guard.guards)
    return answer(guard)


# ---------------------------------------------------------------- a walk with answers by rank


@frozen
class _ScriptedRank:
    """The answers of one rank, by label: a list, then False; or one answer for always."""

    answers: Mapping[str, Iterator[bool] | bool]

    def __call__(self, label: str) -> bool:
        given = self.answers.get(label, False)
        if isinstance(given, bool):
            return given
        return next(given, False)


def walk_ranks(
    lifecycle: Lifecycle,
    answers: Sequence[Mapping[str, Iterable[bool] | bool]],
    limit: int = 10_000,
) -> Trace:
    """Takes the transitions of a lifecycle on several ranks, each with answers of its own.

        walk_ranks(supervised(), [{...}, {..., "loss not finite": [True]}])

    Args:
        lifecycle: that of one process; the ranks walk what `several` makes of it.
        answers: for each rank, by a guard's label, as in `walk`. Of a guard that ranks agree on,
            each gives its answer, and all get one.
        limit: transitions after which the walk is given up.

    Returns:
        The trace, one for all ranks.

    Raises:
        LifecycleError: the ranks part; the message says where. Or a label is unknown, or the limit
            was reached.
    """
    from statetrain.standard.several import several

    life = several(lifecycle)
    known = {guard.label for guard in life.guards}
    for label in dict.fromkeys(label for given in answers for label in given):
        if label not in known:
            raise LifecycleError(
                f"{life.name}: no guard is called {label!r}{did_you_mean(label, known)}"
            )
    scripts = [
        _ScriptedRank({k: v if isinstance(v, bool) else iter(v) for k, v in given.items()})
        for given in answers
    ]
    taken = [life.start]
    while arrows := life.arrows(taken[-1].dest):
        if len(taken) > limit:
            raise LifecycleError(f"{life.name}: the walk has not ended after {limit} transitions")
        taken.append(_taken_by_all(life, arrows, scripts))
    return Trace(taken, lifecycle=life)


def _taken_by_all(
    life: Lifecycle, arrows: Sequence[Transition], scripts: Sequence[_ScriptedRank]
) -> Transition:
    """The arrow that all ranks take."""
    agreed: dict[str, bool] = {}

    def ask(leaf: Guard, rank: int) -> bool:
        if not isinstance(leaf, Agreed):
            return scripts[rank](leaf.label)
        if leaf.label not in agreed:
            own = [script(leaf.label) for script in scripts]
            agreed[leaf.label] = {"any": any(own), "all": all(own), "first": own[0]}[leaf.how]
        return agreed[leaf.label]

    found = []
    for rank in range(len(scripts)):
        for arrow in arrows:
            if arrow.guard is None or _evaluated(arrow.guard, partial(ask, rank=rank)):
                found.append(arrow)
                break
    for rank, arrow in enumerate(found):
        if arrow != found[0]:
            raise LifecycleError(
                f"{life.name}: the ranks part in {arrow.source!r}: rank 0 takes {found[0]}, rank"
                f" {rank} takes {arrow}"
            )
    return found[0]
