"""Whether what is read is there: the check of a machine's declarations, and its error."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
from attrs import frozen

from statetrain.context.context import Context
from statetrain.context.position import Position
from statetrain.contracts.dataflow import Flow, Status, solve
from statetrain.contracts.declaring import (
    DERIVED,
    Access,
    field_of,
    followed,
    is_everything,
    reads_of,
)
from statetrain.contracts.listening import Listener
from statetrain.contracts.ways import Doing, Way, WorkPlace, name_place
from statetrain.errors import ContractError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import START
from statetrain.lifecycle.transition import Transition
from statetrain.naming import nearest

_KNOWN = frozenset((*dir(Context), *DERIVED))


@frozen
class Read:
    """One declared read that may find nothing.

    Attributes:
        who: reads it, for a person, with the verb.
        path: what is read.
        place: where.
        wrong: what it may be there: "absent" or "gone".
        before: the listeners that are called earlier on the same hook.
    """

    who: str
    path: str
    place: str | WorkPlace
    wrong: str
    before: Sequence[Listener] = ()


def check_presence(
    life: Lifecycle,
    order: Mapping[str, Sequence[Listener]],
    context: type[Position] = Context,
) -> None:
    """Checks that everything that is declared to be read is there, on every path.

    Args:
        life: the table.
        order: the listeners of each hook, as they are called.
        context: the class of what walks it. The fields of a custom one are there from the start,
            but for those that are None until something writes them.

    Raises:
        ContractError: a field is read where it may not exist yet, or only from an earlier batch.
            The message names who reads it, shows a way that leads there, and says who writes the
            field.
    """
    flow = solve(life, order, _born_in(context))
    _check_works(flow)
    coarse: dict[tuple[int, str], list[tuple[Listener, str]]] = {}
    for hook, members in order.items():
        status = flow.at.get(hook)
        for i, one in enumerate(members):
            for path, wrong in _readings(flow, status, one):
                if one.contract.exact:
                    _check_exact(flow, one, path, wrong, members[:i])
                else:
                    coarse.setdefault((one.place, path), []).append((one, wrong))
            if status is not None and one.contract.writes:
                status = flow.after_call(status, one)
    for (_, path), found in coarse.items():
        _check_coarse(flow, path, found)


def _born_in(context: type[Position]) -> frozenset[str] | None:
    """The fields of a custom context that are None at first; None for a `Context`."""
    if issubclass(context, Context):
        return None
    return frozenset(one.name for one in attrs.fields(context) if one.default is None)


def _readings(flow: Flow, status: Status | None, one: Listener) -> Iterator[tuple[str, str]]:
    """The paths that a listener reads, each with what it may be in place of being there."""
    for path in one.contract.reads or ():
        if _writes_itself(one, path):
            yield path, ""
        else:
            yield path, flow.find_wrong(status, path)


def _check_exact(
    flow: Flow, one: Listener, path: str, wrong: str, before: Sequence[Listener]
) -> None:
    """Checks that a path that is declared for one hook is there on it."""
    _check_known(flow, one, path)
    if wrong:
        who = f"Callback {one.name!r} reads {path!r} on {one.hook}"
        raise _error(flow, Read(who, path, one.hook, wrong, before))


def _check_coarse(flow: Flow, path: str, found: list[tuple[Listener, str]]) -> None:
    """Checks that a path that is declared for a whole callback is there on one of its hooks."""
    one, wrong = found[0]
    _check_known(flow, one, path)
    if all(wrong for _, wrong in found):
        hooks = ", ".join(listener.hook for listener, _ in found)
        who = f"Callback {one.name!r} reads {path!r} on one of its hooks ({hooks}), on each of them"
        raise _error(flow, Read(who, path, one.hook, wrong))


def _writes_itself(one: Listener, path: str) -> bool:
    """Whether a callback reads a value in `buffers` that it writes itself: a count, a mean."""
    return path.startswith("buffers") and followed(path) in one.contract.written


def _check_works(flow: Flow) -> None:
    """Checks that actions, effects, close work and guards find what they read."""
    if flow.checked:
        return
    accesses = {doing.place: doing.access for way in flow.ways for doing in way.doings}
    for place in flow.at:
        if isinstance(place, str):
            continue
        declared = _guard_access(place) or accesses.get(place)
        if declared is not None:
            _check_work(flow, place, declared)
    flow.checked = True


def _guard_access(place: WorkPlace) -> Access | None:
    """What the guard at a place declares; None if it is not a guard's place."""
    kind, of = place
    if kind != "guard" or not isinstance(of, Transition) or of.guard is None:
        return None
    return reads_of(of.guard)


def _check_work(flow: Flow, place: WorkPlace, declared: Access) -> None:
    for path in declared.reads:
        if path.startswith("buffers") and followed(path) in declared.writes:
            continue
        if wrong := flow.find_wrong(flow.at[place], path):
            who = f"{flow.lifecycle.name}: {name_place(place)} reads {path!r}"
            raise _error(flow, Read(who, path, place, wrong))


def _check_known(flow: Flow, one: Listener, path: str) -> None:
    """Refuses an unknown field that looks like a typo, where a `Context` walks the table.

    A table of your own may be walked with a context of your own, which is looked at when a run
    begins.
    """
    if not flow.lifecycle.also:
        return
    name = field_of(path)
    if name in _KNOWN or name in flow.bits or is_everything(path):
        return
    if near := nearest(name, {*_KNOWN, *flow.bits}):
        raise ContractError(
            f"Callback {one.name!r} declares that it reads {path!r} on {one.hook}: a context has no"
            f" {name!r}{near}"
        )


# ---------------------------------------------------------------- the error


def _error(flow: Flow, reading: Read) -> ContractError:
    status = flow.at[reading.place]
    for listener in reading.before:
        status = flow.after_call(status, listener)
    wrong = {one: flow.find_wrong(status, one) for one in flow.made_from(reading.path)}
    name = next(one for one in wrong if wrong[one] == reading.wrong)
    who = reading.who
    if name != followed(reading.path):
        who += f" (it is made of {name!r})"
    writers = [name_place(place) for place in flow.places(lambda one: name in one.writes)]
    hooks = itertools.chain(*flow.order.values())
    writers += [f"{one.name}.{one.hook}" for one in hooks if name in one.contract.written]
    if not writers:
        return ContractError(
            f"{who}, and nothing in lifecycle {flow.lifecycle.name!r} writes it; take a lifecycle"
            " with a state that does, or declare what your own actions write"
        )
    what = _state_of(flow, name, reading.wrong)
    if way := _find_way(flow, name, reading):
        what += f", on the way {way}"
    return ContractError(
        f"{who}, where it {what}. It is written by {', '.join(writers)}; read it after that, or say"
        f" that it may be missing: {reading.path + '?'!r}"
    )


def _state_of(flow: Flow, name: str, wrong: str) -> str:
    """What a field is in place of being there, as text."""
    if wrong == "absent":
        return "does not exist yet"
    droppers = [name_place(place) for place in flow.places(lambda one: name in one.drops)]
    return f"is of an earlier batch: it ended where {', '.join(droppers)} released it"


def _find_way(flow: Flow, name: str, reading: Read) -> str:
    """The states on the shortest way from the start on which a field does not exist."""
    bit = flow.bits[name]
    by_active: dict[tuple[str, bool], list[Way]] = {}
    for way in flow.ways:
        by_active.setdefault((way.active, way.arrow.event is not None), []).append(way)
    first: Any = ((START, False), Status(flow.start.absent & bit, flow.start.there & bit, 0))
    queue: deque[tuple[Any, tuple[str, ...]]] = deque([(first, ())])
    seen = {first}

    def reach(node: Any, passed: tuple[str, ...]) -> None:
        if node not in seen:
            seen.add(node)
            queue.append((node, passed))

    while queue:
        (node, status), passed = queue.popleft()
        for way in by_active.get(node, ()):
            now, states = status, passed
            for doing in (Doing(("guard", way.arrow), Access()), *way.doings):
                if _is_at(doing, way, reading) and _is_wrong(flow, now, bit, reading):
                    return " -> ".join(_shorten(states))
                if doing.begins:
                    states = (*states, doing.begins)
                    reach(((doing.begins, True), now), states)
                after = now.after(*flow.moves(doing))
                now = Status(after.absent & bit, after.there & bit, after.gone & bit)
            reach(((way.arrow.dest, False), now), states)
    return ""


def _is_at(doing: Doing, way: Way, reading: Read) -> bool:
    """Whether something done on a way is at the place of a reading."""
    left_by_event = doing.leaves and way.arrow.event is not None
    return (doing.hook or doing.place) == reading.place and not left_by_event


def _is_wrong(flow: Flow, status: Status, bit: int, reading: Read) -> bool:
    """Whether a field may not be there, once the listeners before have written theirs."""
    for one in reading.before:
        status = flow.after_call(status, one)
    if reading.wrong == "absent":
        return bool(status.absent & bit)
    return bool(status.gone & bit)


def _shorten(states: Sequence[str], shown: int = 14) -> tuple[str, ...]:
    if len(states) <= shown:
        return tuple(states)
    return (*states[:4], "...", *states[-(shown - 5) :])
