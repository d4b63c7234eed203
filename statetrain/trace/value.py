"""The trace of a run as a value: counted, printed, compared, checked, drawn, kept in files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen

from statetrain.errors import ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.transition import Transition
from statetrain.outcome import Outcome
from statetrain.trace.tape import Moment, TapeRow, count_arrows

if TYPE_CHECKING:
    from statetrain.trace.conformance import Conformance
    from statetrain.trace.difference import Difference

_SHOWN = 12  # states that a short form shows


def _as_transitions(transitions: Iterable[Transition]) -> tuple[Transition, ...]:
    return tuple(transitions)


def _moments(moments: Iterable[Moment]) -> tuple[Moment, ...]:
    return tuple(moments)


def _rows(rows: Iterable[TapeRow]) -> tuple[TapeRow, ...]:
    return tuple(dict(row) for row in rows)


@frozen(repr=False)
class Trace:
    """The transitions taken, oldest first. The arrow into the initial state is the first of them.

    Traces of the same transitions are equal; what else is known of a run does not count in
    comparisons. `diff` compares it.

    Args:
        transitions: the arrows.
        dropped: how many earlier ones were not kept.
        lifecycle: the table that they come from, if it is known.
        moments: what was recorded of each transition: time, counters, answers of guards, values;
            empty if nothing was.
        rows: the history of the run.
        outcome: how it ended; None if it has not, or if that is unknown.
        error: the exception that it failed with, as text, with its notes.
        earlier: how often each of the transitions that were not kept was taken.
        header: what a file says of its run: versions, when it started, and the like.
        waited: of several ranks, the seconds that each has spent in each meeting by the last row,
            in the order of ranks; empty in one process.
        remarks: what is to be known about how the trace came to be, such as that a file was cut
            off.
    """

    transitions: tuple[Transition, ...] = field(default=(), converter=_as_transitions)
    dropped: int = 0
    lifecycle: Lifecycle | None = field(default=None, eq=False)
    moments: tuple[Moment, ...] = field(default=(), converter=_moments, eq=False, kw_only=True)
    rows: tuple[TapeRow, ...] = field(default=(), converter=_rows, eq=False, kw_only=True)
    outcome: Outcome | None = field(default=None, eq=False, kw_only=True)
    error: str = field(default="", eq=False, kw_only=True)
    earlier: Mapping[Transition, int] = field(factory=dict, eq=False, kw_only=True)
    header: Mapping[str, Any] = field(factory=dict, eq=False, kw_only=True)
    waited: tuple[Mapping[str, float], ...] = field(default=(), eq=False, kw_only=True)
    remarks: tuple[str, ...] = field(default=(), eq=False, kw_only=True)

    @property
    def states(self) -> list[str]:
        """The states that the arrows led to: the initial state first, if everything was kept."""
        return [transition.dest for transition in self.transitions]

    def counts(self) -> Counter[Transition]:
        """How often each arrow was taken, before what was kept as well; 0 for one that was not."""
        return count_arrows(self.transitions) + Counter(self.earlier)

    def seconds(self) -> dict[Transition, float]:
        """The seconds from the taking of each arrow until the next: in the state that it leads to.

        Of the transitions that were kept, summed by arrow; empty if no times were recorded.
        """
        spent: dict[int, float] = {}  # by identity: comparing arrows is slow
        for arrow, (one, after) in zip(self.transitions, pairwise(self.moments), strict=False):
            if one.time is not None and after.time is not None:
                spent[id(arrow)] = spent.get(id(arrow), 0.0) + max(0.0, after.time - one.time)
        total: dict[Transition, float] = {}
        for arrow in {id(arrow): arrow for arrow in self.transitions}.values():
            if id(arrow) in spent:
                total[arrow] = total.get(arrow, 0.0) + spent[id(arrow)]
        return total

    def tail(self, last: int) -> Trace:
        """The last so many transitions alone; the rest counts as not kept."""
        gone = max(0, len(self) - last)
        earlier = count_arrows(self.transitions[:gone]) + Counter(self.earlier)
        return evolve(
            self,
            transitions=self.transitions[gone:],
            moments=self.moments[gone:],
            dropped=self.dropped + gone,
            earlier=earlier,
        )

    # -------------------- files, comparisons, pictures: thin delegates

    @classmethod
    def load(
        cls,
        path: str | Path,
        lifecycle: Lifecycle | None = None,
        registry: Mapping[str, Any] | None = None,
    ) -> Trace:
        """The trace in a file that `Tracing(file=...)`, `fit(trace=...)` or `save` wrote.

        See `statetrain.trace.reading.load`.

        Raises:
            TraceError: it is not a trace, or it is broken.
            OSError: it cannot be read.
        """
        from statetrain.trace.reading import load

        return load(path, lifecycle, registry)

    def save(self, path: str | Path) -> None:
        """Writes it to a file, as JSON lines."""
        from statetrain.trace.writing import save

        save(self, path)

    def diff(self, other: Trace, rel: float = 0.0) -> Difference | None:
        """The first difference to another run.

        In transitions, then answers of guards, then values such as the loss.

        Args:
            other: the other run.
            rel: how far numbers may lie apart, relative to the larger one; 0 is not at all.

        Returns:
            Where and how they differ, to be printed; None if they do not.
        """
        from statetrain.trace.difference import difference

        return difference(self, other, rel)

    def conforms(self, lifecycle: Lifecycle) -> Conformance:
        """Whether each step is an arrow of a table; see `statetrain.testing.conforms`."""
        from statetrain.trace.conformance import conforms

        return conforms(self, lifecycle)

    def svg(self, **options: Any) -> str:
        """The lifecycle with what the run did, as SVG text.

        How often each arrow was taken, the last ones, and the state that the run is in.

        Args:
            options: as for `Lifecycle.svg`.

        Raises:
            ConfigError: the lifecycle is not known.
        """
        return self._drawable().svg(trace=self, **options)

    def draw(self, path: str | Path, **options: Any) -> None:
        """The same in a file; endings and options are those of `Lifecycle.draw`."""
        self._drawable().draw(path, trace=self, **options)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from statetrain.diagram.bundle import bundle

        return bundle(repr(self), self.lifecycle, trace=self)

    def _drawable(self) -> Lifecycle:
        if self.lifecycle is None:
            raise ConfigError(
                "this trace does not know its lifecycle; draw that with it: life.draw(path,"
                " trace=trace)"
            )
        return self.lifecycle

    # ------------------------------------------------------------ a sequence that is read

    def __len__(self) -> int:
        return len(self.transitions)

    def __iter__(self) -> Iterator[Transition]:
        return iter(self.transitions)

    def __getitem__(self, index: int) -> Transition:
        return self.transitions[index]

    def __repr__(self) -> str:
        if self.lifecycle is not None:
            of = f" of {self.lifecycle.name!r}"
        else:
            of = ""
        return f"<Trace{of}, {len(self)} transitions: {shorten(self.states)}>"

    def __str__(self) -> str:
        """One line per transition, numbered from 1."""
        lines = []
        if self.dropped:
            lines = [f"({self.dropped} earlier transitions were not kept)"]
        return "\n".join([*lines, *self.lines()])

    def lines(self) -> list[str]:
        """A line for each transition.

        Its number, the time, where the run stood, the arrow, values and answers.
        """
        width = len(str(self.dropped + len(self)))
        numbers = [f"{self.dropped + i:{width}}" for i in range(1, len(self) + 1)]
        if not self.moments:
            taken = map(str, self.transitions)
            return [f"{number}  {arrow}" for number, arrow in zip(numbers, taken, strict=True)]
        times = [_clock(moment) for moment in self.moments]
        places = [moment.where for moment in self.moments]
        wide, far = max(map(len, times), default=0), max(map(len, places), default=0)
        columns = zip(numbers, times, places, self.transitions, self.moments, strict=True)
        lines = []
        for number, clock, place, arrow, moment in columns:
            said = " ".join([str(arrow), *describe_moment(moment)])
            lines.append(
                "  ".join(filter(None, [number, f"{clock:>{wide}}", f"{place:<{far}}", said]))
            )
        return lines


def describe_moment(moment: Moment) -> list[str]:
    """The values and the answers of a moment, as text."""
    parts = [f"{name}={value:.6g}" for name, value in moment.values.items()]
    if moment.answers:
        parts.append(f"({'; '.join(map(str, moment.answers))})")
    return parts


def _clock(moment: Moment) -> str:
    if moment.time is None:
        return ""
    return f"{moment.time:.3f} s"


def shorten(states: list[str], shown: int = _SHOWN) -> str:
    """The states in one line, the middle left out if there are more than `shown`."""
    if len(states) <= shown:
        return " ".join(states)
    head, tail = states[: shown - shown // 2], states[len(states) - shown // 2 :]
    return " ".join((*head, f"[{len(states) - shown} more]", *tail))
