"""Counts the states, transitions and guard outcomes that ran: `pytest --statetrain-cov`.

    with Coverage() as coverage:
        run_my_tests()
    print(coverage.report())

Counted is what machines do: `fit`, `simulate`, a `Machine` of one's own. What is only looked at
(`walk`, `explore`) or forced along a way (`paths`, generated tests) shows that the table is right,
not that its guards and actions were tried.

Everything that is kept is plain data, so that the counts of several processes can be added up.
"""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Callable, Iterable
from contextvars import Token
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from attrs import Factory, define, field, frozen

from statetrain import events, jsons
from statetrain.errors import LifecycleError
from statetrain.events import Event
from statetrain.guards.base import Guard
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import START, State
from statetrain.lifecycle.text import plain
from statetrain.lifecycle.transition import Transition
from statetrain.machine.witness import WITNESS
from statetrain.naming import label_of

if TYPE_CHECKING:
    from statetrain.context.context import Context

_SHOWN = 8  # what a short report lists of each lifecycle


@define(eq=False, repr=False)
class Covered:
    """What was taken of one lifecycle.

    Attributes:
        table: the lifecycle in words, as plain data.
        taken: for each arrow, in the order of the table, how often it was taken.
        answers: for each guard, by its label, how often it did not hold and how often it did.
    """

    table: dict[str, Any]
    taken: list[int]
    answers: dict[str, list[int]]

    @property
    def name(self) -> str:
        """The lifecycle's name."""
        return str(self.table["name"])

    @property
    def fingerprint(self) -> str:
        """What tells it from others of that name."""
        return str(self.table["fingerprint"])

    @property
    def lifecycle(self) -> Lifecycle:
        """A lifecycle that reads and is drawn like the one that was run; it does nothing."""
        return _from_words(self.table)

    @property
    def states(self) -> dict[str, bool]:
        """Each state, and whether it was entered."""
        life = self.lifecycle
        arrows = [arrow for arrow, n in zip(life.transitions, self.taken, strict=True) if n]
        if self.begun:
            begun = [life.start]
        else:
            begun = []
        entered = {
            name
            for arrow in (*begun, *arrows)
            for name in life.crossing(arrow.source, arrow.dest)[1]
        }
        return {name: name in entered for name in life.names}

    @property
    def begun(self) -> bool:
        """Whether any machine ran it."""
        return any(self.taken) or any(map(any, self.answers.values()))

    @property
    def counts(self) -> dict[Transition, int]:
        """How often each arrow of `lifecycle` was taken; for the pictures."""
        return dict(zip(self.lifecycle.transitions, self.taken, strict=True))

    @property
    def reached(self) -> tuple[int, int]:
        """How many states, transitions and guard outcomes were covered, and how many there are."""
        states, outcomes = (
            self.states.values(),
            [n > 0 for pair in self.answers.values() for n in pair],
        )
        every = [*states, *(n > 0 for n in self.taken), *outcomes]
        return sum(every), len(every)

    @property
    def missing(self) -> list[str]:
        """What was not covered, as text: states, transitions, guards with only one answer."""
        lines = [
            f"state {name} was never entered"
            for name, entered in self.states.items()
            if not entered
        ]
        lines += [
            f"never taken: {arrow}"
            for arrow, n in zip(self.lifecycle.transitions, self.taken, strict=True)
            if not n
        ]
        for label, (no, yes) in self.answers.items():
            if not no and not yes:
                lines.append(f"[{label}] was never asked")
            elif not no:
                lines.append(f"[{label}] was never false")
            elif not yes:
                lines.append(f"[{label}] was never true")
        return lines

    def add(self, other: Covered) -> None:
        """Adds the counts of the same lifecycle from elsewhere."""
        self.taken = [a + b for a, b in zip(self.taken, other.taken, strict=True)]
        for label, pair in other.answers.items():
            self.answers[label] = [a + b for a, b in zip(self.answers[label], pair, strict=True)]

    def __repr__(self) -> str:
        return (
            f"<Covered {self.name!r}: {percent(*self.reached)} % of states, transitions and guard"
            " outcomes>"
        )


@define(eq=False, repr=False)
class Coverage:
    """Counts what machines do that are made while it is open (`with`), or until `stop`.

    Args:
        only: patterns of names of lifecycles to count, as in a shell: `my_*`; empty for all.

    Attributes:
        found: what was taken, by name and fingerprint of the lifecycle.
    """

    only: tuple[str, ...] = field(default=(), converter=tuple[str, ...])
    found: dict[tuple[str, str], Covered] = Factory(dict)
    # By id; the lifecycle is kept so that the id stays its own
    _tellers: dict[int, tuple[Lifecycle, _Teller]] = Factory(dict)
    _token: Token[Any] | None = None

    def start(self) -> None:
        """Machines that are made from now on are counted."""
        self._token = WITNESS.set(self.witness)

    def stop(self) -> None:
        """Stops counting machines that are made from now on; existing ones are still counted."""
        if self._token is not None:
            WITNESS.reset(self._token)
            self._token = None
            self._tellers.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def witness(self, life: Lifecycle) -> _Teller | None:
        """Who counts for a lifecycle; None if its name was not asked for."""
        if self.only and not any(fnmatchcase(life.name, pattern) for pattern in self.only):
            return None
        if id(life) not in self._tellers:
            table = _in_words(life)
            labels = dict.fromkeys(
                arrow.guard.label for arrow in life.transitions if arrow.guard is not None
            )
            fresh = Covered(table, [0] * len(life.transitions), {label: [0, 0] for label in labels})
            covered = self.found.setdefault((life.name, table["fingerprint"]), fresh)
            self._tellers[id(life)] = (
                life,
                _Teller(covered, {arrow: i for i, arrow in enumerate(life.transitions)}),
            )
        return self._tellers[id(life)][1]

    @property
    def reached(self) -> tuple[int, int]:
        """How much was covered, and how much there is, of all lifecycles together."""
        each = [covered.reached for covered in self.found.values()]
        return sum(a for a, _ in each), sum(b for _, b in each)

    @property
    def percent(self) -> int:
        """The share that was covered, rounded down; 0 if no machine ran."""
        return percent(*self.reached)

    def to_list(self) -> list[dict[str, Any]]:
        """The counts as plain data; `merge` adds them to another coverage."""
        return [
            {
                "table": one.table,
                "taken": list(one.taken),
                "answers": {k: list(v) for k, v in one.answers.items()},
            }
            for one in self.found.values()
        ]

    def merge(self, rows: Iterable[dict[str, Any]]) -> None:
        """Adds the counts of another process."""
        for row in rows:
            one = Covered(**row)
            known = self.found.setdefault((one.name, one.fingerprint), one)
            if known is not one:
                known.add(one)

    def report(self, *, every: bool = False) -> str:
        """The counts as text: a line for each lifecycle, below it what is missing.

        Args:
            every: whether all that is missing is listed, not only the first few.
        """
        if not self.found:
            return "no machine was run"
        lines = []
        for title, one in sorted(self.titled().items()):
            arrows, outcomes, states = (
                one.taken,
                [n for pair in one.answers.values() for n in pair],
                one.states.values(),
            )
            shares = (
                ("states", sum(states), len(states)),
                ("transitions", _some(arrows), len(arrows)),
                ("guard outcomes", _some(outcomes), len(outcomes)),
            )
            lines.append(
                f"{title}: {percent(*one.reached)} % "
                f" ({', '.join(f'{n} of {of} {what}' for what, n, of in shares)})"
            )
            missing = one.missing
            if every or len(missing) <= _SHOWN + 1:
                shown = missing
            else:
                shown = missing[:_SHOWN]
            lines += [f"    {line}" for line in shown]
            if len(shown) < len(missing):
                lines.append(f"    and {len(missing) - len(shown)} more")
        return "\n".join(lines)

    def draw(self, folder: str | Path) -> list[Path]:
        """Draws each lifecycle with the counts of its arrows; those never taken stand out.

        Args:
            folder: made if it is not there.

        Returns:
            The files written, `<name>.svg` each, with the fingerprint where a name is there twice.
        """
        written = []
        for title, one in sorted(self.titled().items()):
            written.append(
                Path(folder)
                / f"{''.join(c if c.isalnum() or c in '-_' else '-' for c in title)}.svg"
            )
            life = one.lifecycle
            untaken = [arrow for arrow, n in zip(life.transitions, one.taken, strict=True) if not n]
            life.draw(
                written[-1],
                counts=dict(zip(life.transitions, one.taken, strict=True)),
                marked=untaken,
            )
        return written

    def titled(self) -> dict[str, Covered]:
        """What was found, by name, plus part of the fingerprint where lifecycles share a name."""
        names = [name for name, _ in self.found]
        return {
            f"{name}-{mark[:8]}" if names.count(name) > 1 else name: one
            for (name, mark), one in self.found.items()
        }

    def __repr__(self) -> str:
        return f"<Coverage: {len(self.found)} lifecycles, {self.percent} %>"


def percent(part: int, whole: int) -> int:
    """A share in percent, rounded down, so that only all is 100; of nothing, 0."""
    if whole:
        return 100 * part // whole
    return 0


def _some(counts: Iterable[int]) -> int:
    return sum(n > 0 for n in counts)


@frozen
class _Teller:
    """What the machines of a lifecycle report to; see `statetrain.machine.witness.Witness`."""

    covered: Covered
    index: dict[Transition, int]

    def taking(self, arrow: Transition) -> Callable[[Any], None] | None:
        """Counts an arrow; the one into the initial state is none of the table's."""
        if arrow.source == START:
            return None
        taken, at = self.covered.taken, self.index[arrow]

        def take(ctx: Context) -> None:
            taken[at] += 1

        return take

    def asking(self, arrow: Transition, ask: Callable[[Any], bool]) -> Callable[[Any], bool]:
        """Counts an answer."""
        assert arrow.guard is not None
        answers = self.covered.answers[arrow.guard.label]

        def asked(ctx: Context) -> bool:
            answer = ask(ctx)
            if answer is True or answer is False:
                answers[answer] += 1
            return answer

        return asked


# ---------------------------------------------------------------- a lifecycle in words


def _in_words(life: Lifecycle) -> dict[str, Any]:
    states = [_state_in_words(state) for state in life.states]
    arrows = [_arrow_in_words(arrow) for arrow in life.transitions]
    words = {"name": life.name, "initial": life.initial, "states": states, "arrows": arrows}
    try:
        mark = life.fingerprint
    except LifecycleError:  # a part has no name that stays; its words tell it from others
        mark = hashlib.sha256(jsons.to_bytes(words)).hexdigest()[:16]
    return {**words, "fingerprint": mark}


def _state_in_words(state: State) -> list[Any]:
    action = None
    if state.action is not None:
        action = plain(label_of(state.action))
    return [state.name, state.within, state.final, state.anchor, action]


def _arrow_in_words(arrow: Transition) -> list[str | None]:
    guard = effect = event = None
    if arrow.guard is not None:
        guard = plain(arrow.guard.label)
    if arrow.effect is not None:
        effect = plain(label_of(arrow.effect))
    if arrow.event is not None:
        event = arrow.event.__name__
    return [arrow.source, arrow.dest, guard, effect, event]


@frozen
class _WordsOfCoverage(Guard):
    """A guard that is only read."""

    name: str
    number: int  # two arrows may bear the same words

    @property
    def label(self) -> str:
        return self.name


@frozen
class _Does:
    """Work that is only read."""

    label: str

    def __call__(self, ctx: Context) -> None:
        raise NotImplementedError


def _from_words(words: dict[str, Any]) -> Lifecycle:
    """A lifecycle that reads like the one that was written down."""
    states = [
        State(name, None if action is None else _Does(action), within, final=final, anchor=anchor)
        for name, within, final, anchor, action in words["states"]
    ]
    arrows = [_arrow_from_words(i, *arrow) for i, arrow in enumerate(words["arrows"])]
    return Lifecycle(words["name"], states, arrows, words["initial"])


def _arrow_from_words(
    number: int, source: str, dest: str, guard: str | None, effect: str | None, event: str | None
) -> Transition:
    words = does = caught = None
    if guard is not None:
        words = _WordsOfCoverage(guard, number)
    if effect is not None:
        does = _Does(effect)
    if event is not None:
        caught = _event(event)
    return Transition(source, dest, words, does, caught)


def _event(name: str) -> type[BaseException]:
    known = getattr(events, name, getattr(builtins, name, None))
    if isinstance(known, type) and issubclass(known, BaseException):
        return known
    return type(name, (Event,), {})
