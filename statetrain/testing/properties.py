"""Properties that must be true on all runs of a lifecycle, in plain words.

    check(life, precedes("backward", "step"), followed_by("backward", "step", "failed"))

Each is a little automaton that reads the arrows of a run one after the other; `check` and `judge`
run it along every way that the lifecycle can go. What a property is about is named as the table
prints it: a state, an arrow, a guard, an event, an effect (see `statetrain.testing.moments`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Literal

from attrs import field, frozen

from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED
from statetrain.lifecycle.transition import Transition
from statetrain.naming import label_of
from statetrain.testing.moments import Taken

BROKEN = "broken"
"""What a property remembers once it has been violated."""

AGREED = "agreed"
"""What a property of several ranks starts with, where they agree on guards as in a run."""

EndlessRuns = Literal["none", "fair", "all"]


@frozen
class Property:
    """Something that must be true on all runs.

    Attributes:
        words: what it says.
        start: what it remembers before a run.
        read: from what it remembers, the arrow taken and its lifecycle, what it remembers next;
            "broken" if it is violated. `of_taken` makes one of a function of a `Taken`.
        end: whether what it remembers may stand at the end of a run.
        endless: which runs that never end must come again and again to what may stand at an end:
            none, the fair ones (see `eventually`), or all.
        names: what it names, to be checked for misspellings.
        of_ranks: whether it is about several ranks together; `read` is then not called.
    """

    words: str
    start: Hashable
    read: Callable[[Any, Transition, Lifecycle], Hashable]
    end: Callable[[Any], bool] = field(default=lambda memory: True)  # most do not care
    endless: EndlessRuns = "none"
    names: tuple[str, ...] = ()
    of_ranks: bool = False

    def __str__(self) -> str:
        return self.words


def of_taken(
    read: Callable[[Any, Taken], Hashable],
) -> Callable[[Any, Transition, Lifecycle], Hashable]:
    """A function of what a property remembers and of all that an arrow does, as its `read`."""
    known: dict[Transition, Taken] = {}

    def read_arrow(memory: Any, arrow: Transition, lifecycle: Lifecycle) -> Hashable:
        taken = known.get(arrow)
        if taken is None or taken.lifecycle is not lifecycle:
            taken = known[arrow] = Taken(arrow, lifecycle)
        return read(memory, taken)

    return read_arrow


# ---------------------------------------------------------------- what must not happen


def never(what: str, after: str | None = None) -> Property:
    """No run does it; with `after`, none does once it has done that.

    Args:
        what: a state, an arrow, a guard, an event or an effect, as the table prints it.
        after: the same.
    """
    if after is None:
        return Property(
            f"never {what}",
            None,
            of_taken(lambda memory, taken: BROKEN if what in taken.moments else memory),
            names=(what,),
        )

    @of_taken
    def read(seen: bool, taken: Taken) -> Hashable:
        for name in taken.moments:
            if name == what and seen:
                return BROKEN
            seen = seen or name == after
        return seen

    return Property(f"never {what} after {after}", False, read, names=(what, after))


def always(words: str, holds: Callable[[Transition], bool]) -> Property:
    """A condition on every arrow that a run takes.

    Args:
        words: what it says.
        holds: whether it is true, of an arrow.
    """
    return Property(
        words, None, lambda memory, arrow, lifecycle: memory if holds(arrow) else BROKEN
    )


# ---------------------------------------------------------------- in which order


def precedes(first: str, second: str) -> Property:
    """Whenever the second happens, the first has happened before.

    Args:
        first, second: states, arrows, guards, events or effects, as the table prints them.
    """

    @of_taken
    def read(seen: bool, taken: Taken) -> Hashable:
        for name in taken.moments:
            if name == second and not seen:
                return BROKEN
            seen = seen or name == first
        return seen

    return Property(f"{first} precedes {second}", False, read, names=(first, second))


def between(first: str, second: str, needed: str) -> Property:
    """Between each time that the first happens and the next that the second does comes `needed`.

    Args:
        first, second, needed: states, arrows, guards, events or effects, as the table prints them.
    """

    @of_taken
    def read(waiting: bool, taken: Taken) -> Hashable:
        for name in taken.moments:
            if name == needed:
                waiting = False
            if name == second and waiting:
                return BROKEN
            if name == first:
                waiting = True
        return waiting

    return Property(
        f"between {first} and {second} comes {needed}", False, read, names=(first, second, needed)
    )


def at_most(few: str, many: str) -> Property:
    """At any time, `few` has happened no more often than `many`: steps and batches, say.

    Args:
        few, many: states, arrows, guards, events or effects, as the table prints them.
    """

    @of_taken
    def read(ahead: int, taken: Taken) -> Hashable:
        for name in taken.moments:
            ahead = min(ahead + (name == many) - (name == few), _ENOUGH)
        if ahead >= 0:
            return ahead
        return BROKEN

    return Property(f"{few} happens at most as often as {many}", 0, read, names=(few, many))


# How far ahead is distinguished; a state that is further ahead is counted as that far, which only
# errs on the strict side
_ENOUGH = 8


# ---------------------------------------------------------------- what must happen


def eventually(what: str, *others: str, fair: bool = True) -> Property:
    """Every run reaches it, or one of the others.

        check(life, eventually("end", "failed"))

    A run that ends must have come to it. A run that never ends satisfies nothing by accident: it is
    judged under a fairness, and the property is violated if a fair one never ends
    without coming to it. A run is *fair* if each arrow of the table that could be taken again and
    again, because the guards before it may be false and its own may be true, is taken again and
    again. So a guard that is evaluated forever is true at times and false at times: the epochs
    end one day. Nothing is assumed of what actions do: events may be raised forever, or never, and
    nothing ever has to fail.

    Args:
        what, others: states, arrows, guards, events or effects, as the table prints them.
        fair: whether only fair runs count; False also judges runs in which a guard answers the same
            for ever, which only `bounds` can rule out.
    """
    goals = {what, *others}

    @of_taken
    def read(seen: bool, taken: Taken) -> Hashable:
        return seen or not goals.isdisjoint(taken.moments)

    return Property(
        f"eventually {' or '.join((what, *others))}",
        False,
        read,
        bool,
        _judged(fair),
        names=tuple(goals),
    )


def followed_by(first: str, second: str, *others: str, fair: bool = True) -> Property:
    """Each time that the first happens, the second, or one of the others, happens afterwards.

        check(life, followed_by("backward", "step", "SkipBatch", "SkipEpoch", "end", "failed"))

    It must happen before the run ends. Of runs that never end, the fair ones are judged, as in
    `eventually`: none may run forever after the first without reaching the second.

    Args:
        first, second, others: states, arrows, guards, events or effects, as the table prints them.
        fair: as in `eventually`.
    """
    answers = {second, *others}

    @of_taken
    def read(waiting: bool, taken: Taken) -> Hashable:
        for name in taken.moments:
            if name in answers:
                waiting = False
            if name == first:
                waiting = True
        return waiting

    return Property(
        f"{first} is followed by {' or '.join((second, *others))}",
        False,
        read,
        lambda waiting: not waiting,
        _judged(fair),
        names=(first, *answers),
    )


def ends(*, fair: bool = True) -> Property:
    """Every run ends, in a final state or in `failed`, where clean-ups are run.

    Args:
        fair: as in `eventually`: of runs that never end, whether only fair ones count.
    """

    @of_taken
    def read(memory: bool, taken: Taken) -> Hashable:
        dest = taken.transition.dest
        return dest == FAILED or taken.lifecycle.state(dest).final

    return Property("clean-up is reached", False, read, bool, _judged(fair))


def _judged(fair: bool) -> EndlessRuns:
    if fair:
        return "fair"
    return "all"


# ---------------------------------------------------------------- scopes, counters, ranks


def balanced() -> Property:
    """Each state that is entered is left again, innermost first, in every run without failure."""

    @of_taken
    def read(stack: tuple[str, ...], taken: Taken) -> Hashable:
        t = taken.transition
        if t.dest == FAILED:
            return ()
        active = (stack or (t.source,))[-1]
        left, entered = taken.lifecycle.crossing(active, t.dest)
        kept = len(stack) - len(left)
        if left and tuple(reversed(stack[kept:])) != left:
            return BROKEN
        return (*stack[:kept], *entered)

    def closed(stack: tuple[str, ...]) -> bool:
        return len(stack) <= 1

    return Property("each enter has its exit", (), read, closed)


def counters_agree() -> Property:
    """Each epoch, batch and validation batch is counted once, and nothing else is counted as one.

    It is for lifecycles made of the standard parts: counted is by arrows whose effect is "count the
    epoch" or "count the batch".
    """

    def agrees(taken: Taken) -> bool:
        t = taken.transition
        counted = ""
        if t.effect is not None:
            counted = label_of(t.effect)
        for state, words in _COUNTED.items():
            if state in taken.lifecycle.names and (state in taken.entered) is not (
                counted.startswith(words) and t.dest == state
            ):
                return False
        return not counted.startswith(tuple(_COUNTED.values())) or t.dest in _COUNTED

    return Property(
        "counters agree with what was entered",
        None,
        of_taken(lambda memory, taken: memory if agrees(taken) else BROKEN),
    )


_COUNTED = {
    "epoch": "count the epoch",
    "batch": "count the batch",
    "valid_batch": "count the batch",
    "predict_batch": "count the batch",
}


def same_route(*, agreed: bool = True) -> Property:
    """Several ranks never wait for one that does not come.

        check(life, same_route(), ranks=3)

    Args:
        agreed: whether the ranks agree on guards as they do in a run; False shows what would happen
            if each decided for itself.
    """
    start = ""
    if agreed:
        start = AGREED
    return Property(
        "the ranks meet wherever one waits for others", start, lambda *_: start, of_ranks=True
    )
