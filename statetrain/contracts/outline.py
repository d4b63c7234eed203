"""A machine for a person: who listens where, and which fields each reads and writes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen

from statetrain.context.context import Context
from statetrain.context.fields import Fact, fields_with, meanings
from statetrain.context.position import Position
from statetrain.contracts.dataflow import Flow, solve, writes_of
from statetrain.contracts.declaring import (
    ALWAYS_READ,
    GIVEN,
    Access,
    field_of,
    is_everything,
    reads_of,
)
from statetrain.contracts.listening import Contract, Listener
from statetrain.contracts.ways import Doing, WorkPlace
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED
from statetrain.lifecycle.transition import Transition
from statetrain.naming import count_of

_ELSEWHERE = ("on_transition", "on_anchor", "on_resume", "on_enter_failed")

Listeners = Mapping[str, Sequence[Listener]]


@frozen(repr=False)
class Outline:
    """Who listens where; `str` of it shows the nested states and the callbacks on each.

    Attributes:
        lifecycle: the table.
        listeners: of each hook, as they are called.
    """

    lifecycle: Lifecycle
    listeners: Listeners

    def __str__(self) -> str:
        from statetrain.lifecycle.text import reading_order

        life = self.lifecycle
        rows = [
            (
                "  " * len(life.path(name)) + name,
                self._on(f"on_enter_{name}"),
                self._on(f"on_exit_{name}"),
            )
            for name in reading_order(life)
        ]
        if failed := self._on(f"on_enter_{FAILED}"):
            rows.append((f"  {FAILED}", failed, ""))
        count = len({one.place for members in self.listeners.values() for one in members})
        verb = "listens" if count == 1 else "listen"
        head = f"{life.name}: {count_of(count, 'callback')} {verb}"
        others = [f"  {hook}: {self._on(hook)}" for hook in _ELSEWHERE[:3] if self._on(hook)]
        if others:
            others.insert(0, "")
        return "\n".join([head, "", *_in_columns([("", "on enter", "on exit"), *rows]), *others])

    def _on(self, hook: str) -> str:
        return ", ".join(one.name for one in self.listeners.get(hook, ()))

    def __repr__(self) -> str:
        return f"<Outline of {self.lifecycle.name!r}>"


def _in_columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines, their cells below each other."""
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, wide)).rstrip() for row in rows]


@frozen
class Use:
    """One use of a field.

    Attributes:
        who: a state, an arrow or a callback, as tables and pictures call it.
        path: what is declared, the field itself or a path into it.
    """

    who: str
    path: str


@frozen(repr=False)
class DataFlow:
    """The fields of the context, who writes each and who reads it, as far as it is declared.

    Attributes:
        lifecycle: the table.
        writers, readers: by field, in the order of the table.
        unknown: who declares nothing, and may write and read anything.
        everything: who declares that they read everything; they are no readers of each field.
        moving: the fields that come into being in a run, or that a callback writes.
    """

    lifecycle: Lifecycle
    writers: dict[str, tuple[Use, ...]]
    readers: dict[str, tuple[Use, ...]]
    unknown: tuple[str, ...]
    everything: tuple[str, ...]
    moving: frozenset[str]

    @classmethod
    def of(cls, life: Lifecycle, listeners: Listeners) -> DataFlow:
        """What a lifecycle and its listeners declare."""
        declared = list(_declared(life, listeners))
        unknown = dict.fromkeys(who for who, own in declared if own is None)
        known = [(who, own) for who, own in declared if own is not None]
        everything = dict.fromkeys(
            who for who, own in known if any(map(is_everything, own.reads | own.writes))
        )
        written = map(field_of, writes_of(itertools.chain(*listeners.values())))
        return cls(
            life,
            _uses([(who, own.writes) for who, own in known]),
            _uses([(who, own.reads) for who, own in known]),
            tuple(unknown),
            tuple(everything),
            frozenset(solve(life, {}).bits).union(written),
        )

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are written or read, in the order of the table."""
        return tuple(dict.fromkeys((*self.writers, *self.readers)))

    def mermaid(self, **options: Any) -> str:
        """The picture as a Mermaid flowchart; see `statetrain.diagram.flow_mermaid`."""
        from statetrain.diagram import flow_mermaid

        return flow_mermaid(self, **options)

    def dot(self, **options: Any) -> str:
        """The picture as Graphviz text; see `statetrain.diagram.flow_dot`."""
        from statetrain.diagram import flow_dot

        return flow_dot(self, **options)

    def __str__(self) -> str:
        rows = [
            (name, _users(self.writers.get(name, ())), _users(self.readers.get(name, ())))
            for name in self.fields
        ]
        lines = _in_columns([("field", "written by", "read by"), *rows])
        others = (("read everything", self.everything), ("declare nothing", self.unknown))
        return "\n".join([*lines, *(f"{what}: {', '.join(who)}" for what, who in others if who)])

    def __repr__(self) -> str:
        return f"<DataFlow of {self.lifecycle.name!r}: {len(self.fields)} fields>"


def _uses(declared: Iterable[tuple[str, Iterable[str]]]) -> dict[str, tuple[Use, ...]]:
    """By field, who declares a path to it, each once."""
    found: dict[str, dict[Use, None]] = {}
    for who, paths in declared:
        for path in sorted(paths):
            if not is_everything(path) and field_of(path) not in ALWAYS_READ:
                found.setdefault(field_of(path), {})[Use(who, path.removesuffix("?"))] = None
    return {name: tuple(uses) for name, uses in found.items()}


def _users(uses: Sequence[Use]) -> str:
    return ", ".join(dict.fromkeys(use.who for use in uses))


def _declared(life: Lifecycle, listeners: Listeners) -> Iterator[tuple[str, Access | None]]:
    """Everyone with what they declare, in the order of the table."""
    from statetrain.lifecycle.text import reading_order

    accesses = accesses_of(solve(life, {}))
    place: WorkPlace
    for name in reading_order(life):
        state = life.state(name)
        kinds = (("mode", state.mode), ("action", state.action), ("close", state.close))
        for kind, done in kinds:
            place = (kind, name)  # type: ignore[assignment]  # one of the three
            if done is not None and place in accesses:
                yield name, accesses[place]
        for arrow in (one for one in life.transitions if one.source == name):
            if arrow.guard is not None:
                yield f"{arrow.source} -> {arrow.dest}", reads_of(arrow.guard)
            if arrow.effect is not None:
                yield f"{arrow.source} -> {arrow.dest}", accesses[("effect", arrow)]
    yield from _declared_by_callbacks(listeners)


def _declared_by_callbacks(listeners: Listeners) -> Iterator[tuple[str, Access | None]]:
    """Each callback, in the order given, with what it declares for all of its hooks together."""
    seen: dict[str, list[Listener]] = {}
    for one in sorted(itertools.chain(*listeners.values()), key=lambda one: one.place):
        seen.setdefault(one.name, []).append(one)
    for name, hooks in seen.items():
        yield name, _joined([one.contract for one in hooks])


def _joined(contracts: Sequence[Contract]) -> Access | None:
    """What contracts come to; None if they declare nothing."""
    reads = [one.reads for one in contracts if one.reads is not None]
    writes = [one.writes for one in contracts if one.writes is not None]
    if not reads and not writes:
        return None
    return Access(frozenset().union(*reads), frozenset().union(*writes))


def accesses_of(flow: Flow) -> dict[WorkPlace, Access | None]:
    """What is declared at each place of a lifecycle; a scope's mode by what it does on entering."""
    out: dict[WorkPlace, Access | None] = {}
    for way in flow.ways:
        for doing in way.doings:
            if doing.place is not None and (doing.place not in out or _sets_a_mode(doing)):
                out[doing.place] = doing.access
    return out


def _sets_a_mode(doing: Doing) -> bool:
    """Whether something done is a mode's beginning, which writes what its end drops."""
    is_mode = doing.place is not None and doing.place[0] == "mode"
    return is_mode and doing.access is not None and bool(doing.access.writes)


# -------------------- the fields of the context, for the documentation


def fields_table(life: Lifecycle) -> str:
    """The fields of a context as a Markdown table: where each exists, is written, what it means.

    Args:
        life: the table.
    """
    flow = solve(life, {})
    accesses = accesses_of(flow)
    lines = ["| field | exists | written in | |", "| --- | --- | --- | --- |"]
    for name, meaning in _meanings().items():
        writing = [
            place
            for place, one in accesses.items()
            if one is not None and any(field_of(path) == name for path in one.writes)
        ]
        exists = _existence(flow, name, writing)
        escaped = " ".join(meaning.split()).replace("|", "\\|")
        lines.append(f"| `{name}` | {exists} | {_writers(writing)} | {escaped} |")
    return "\n".join(lines) + "\n"


def _meanings() -> dict[str, str]:
    """What the fields of a context mean, without those that only the machine uses."""
    inner = {*fields_with(Position, Fact.OF_MACHINE), *fields_with(Position, Fact.NOTED)}
    shared = {name: text for name, text in meanings(Position).items() if name not in inner}
    return shared | meanings(Context)


def _existence(flow: Flow, name: str, writing: Sequence[WorkPlace]) -> str:
    """From which state on a field exists, and until when."""
    if name in GIVEN:
        return "from the start"
    if not writing:
        return "with another option"
    since = _listed(
        place for place in writing if name not in flow.certain(place) and place[0] != "effect"
    )
    dropping = flow.places(lambda one: name in one.drops)
    until = _listed(place for place in dropping if place[0] in ("close", "mode"))
    if not until:
        return f"from {since}"
    return f"from {since} until {until} closes"


def _writers(writing: Sequence[WorkPlace]) -> str:
    """The states that write a field, and whether arrows do."""
    words = [_listed(place for place in writing if isinstance(place[1], str))]
    if any(isinstance(place[1], Transition) for place in writing):
        words.append("arrows")
    return ", ".join(filter(None, words))


def _listed(places: Iterable[WorkPlace]) -> str:
    return ", ".join(dict.fromkeys(f"`{place[1]}`" for place in places))
