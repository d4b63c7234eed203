"""Several ranks in one process: real machines in threads that meet in a hall.

    runs = simulate_ranks(supervised(non_finite="skip"), 3, facts=[{}, {"losses": nan_at(4)}, {}])
    assert runs.trace.states[-1] == "end"

Each rank walks the real table with the real actions, and model and data are stand-ins; see
`simulate`. What only one rank meets with (a loss that is not finite, a request, fewer batches) is
given by rank. All have to take the same way; a meeting to which ranks come with different purposes,
or from which one stays away, is an error at once, so nothing ever hangs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from attrs import Factory, define, field, frozen

from statetrain.callback import Callback
from statetrain.errors import ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.outcome import Outcome
from statetrain.testing.simulation import SimulatedRun, simulate
from statetrain.trace import Trace, Tracing
from statetrain.validators import check_whole

_PATIENCE = 20.0  # seconds after which a thread is taken to be lost


class RanksApart(AssertionError):
    """Ranks came to different meetings, or one stayed away."""


@define(eq=False)
class Hall:
    """Where ranks meet.

    Args:
        size: how many ranks there are.
    """

    size: int
    _lock: threading.Condition = Factory(threading.Condition)
    _here: dict[int, tuple[str, Any]] = Factory(dict)
    _gone: dict[int, str] = Factory(dict)
    _turn: int = 0
    _found: list[Any] = Factory(list)
    _fault: str = ""

    def meet(self, rank: int, word: str, value: Any) -> list[Any]:
        """Waits for all ranks; gives the values of all.

        Raises:
            RanksApart: another rank came for something else, or has ended.
        """
        with self._lock:
            turn = self._turn
            self._here[rank] = (word, value)
            self._look()
            while self._turn == turn and not self._fault:
                if not self._lock.wait(_PATIENCE):
                    self._fault = f"rank {rank} waited for {_PATIENCE:g} s: {word}"
            if self._turn == turn:
                self._lock.notify_all()
                raise RanksApart(self._fault)
            return self._found

    def leave(self, rank: int, how: str) -> None:
        """A rank has ended."""
        with self._lock:
            self._gone[rank] = how
            self._look()

    def _look(self) -> None:
        words = {word for word, _ in self._here.values()}
        if len(words) > 1 or (self._here and self._gone):
            came = [f"rank {rank} comes to {word!r}" for rank, (word, _) in self._here.items()]
            gone = [f"rank {rank} has ended: {how}" for rank, how in self._gone.items()]
            self._fault = self._fault or "; ".join(sorted((*came, *gone)))
        elif len(self._here) == self.size:
            self._found = [value for _, (_, value) in sorted(self._here.items())]
            self._here, self._turn = {}, self._turn + 1
        self._lock.notify_all()


@frozen
class InHall:
    """A rank's place in a hall: the `Group` of a machine."""

    hall: Hall
    rank: int

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self.hall.size

    @property
    def waited(self) -> dict[str, float]:
        """Nothing: threads of one process measure nothing by waiting for each other."""
        return {}

    def largest(self, word: str, values: Sequence[int]) -> list[int]:
        """See `statetrain.machine.agreeing.Group`."""
        return [max(column) for column in zip(*self.gather(word, list(values)), strict=True)]

    def gather(self, word: str, value: Any) -> list[Any]:
        """See `statetrain.machine.agreeing.Group`."""
        return self.hall.meet(self.rank, word, value)


@define(eq=False)
class RankRuns:
    """What the ranks of a simulation did.

    Attributes:
        schedules: by rank; None for one that failed.
        traces: the transitions that each took.
        errors: what each failed with, by rank.
    """

    schedules: list[SimulatedRun | None]
    traces: list[Trace]
    errors: dict[int, BaseException] = field(factory=dict)

    @property
    def outcome(self) -> Outcome:
        """How the run ended: the same on all ranks.

        Raises:
            AssertionError: a rank failed.
        """
        for rank, error in self.errors.items():
            raise AssertionError(f"rank {rank} failed: {error!r}") from error
        assert self.schedules[0] is not None
        return self.schedules[0].outcome

    @property
    def trace(self) -> Trace:
        """The transitions, the same on all ranks."""
        return self.traces[0]


def simulate_ranks(
    lifecycle: Lifecycle,
    ranks: int = 2,
    *,
    facts: Sequence[Mapping[str, Any]] = (),
    **options: Any,
) -> RankRuns:
    """Runs a lifecycle on several ranks, on stand-ins, in this process.

    Args:
        lifecycle: that of one process; the ranks walk what `several` makes of it.
        ranks: how many.
        facts: for each rank, options of `simulate` that differ there: `losses`, `callbacks`,
            `batches`, `seconds`. With `batches`, each rank has data of its own.
        options: of `simulate`, for all ranks.

    Raises:
        RanksApart: the ranks did not take the same way; the message says where they part.
        ConfigError: `ranks` or `facts` do not fit.
        ContractError: a guard reads what may differ between ranks, and does not say how they agree.
    """
    from statetrain.standard.several import (
        several,
    )  # of a higher floor, so looked up when asked for

    check_whole("ranks", ranks)
    if len(facts) > ranks:
        raise ConfigError(f"there are facts for {len(facts)} ranks, and {ranks} ranks")
    given = [*facts, *({} for _ in range(ranks - len(facts)))]
    divided = not any("batches" in fact for fact in given)
    life = several(lifecycle, divided=divided)
    hall = Hall(ranks)
    tracers = [Tracing() for _ in range(ranks)]
    schedules: list[SimulatedRun | None] = [None] * ranks
    errors: dict[int, BaseException] = {}

    def run(rank: int) -> None:
        own: dict[str, Any] = {**options, **given[rank]}
        callbacks = (*_listeners(own.pop("callbacks", ())), tracers[rank])
        how = "in order"
        try:
            schedules[rank] = simulate(life, callbacks=callbacks, group=InHall(hall, rank), **own)
        except BaseException as error:
            errors[rank] = error
            how = f"{type(error).__name__}: {error}"
        finally:
            hall.leave(rank, how)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = RankRuns(schedules, [tracer.trace for tracer in tracers], errors)
    _assert_together(found)
    return found


def _listeners(callbacks: Callback | Iterable[Callback]) -> tuple[Callback, ...]:
    if isinstance(callbacks, Callback):
        return (callbacks,)
    return tuple(callbacks)


def _assert_together(runs: RankRuns) -> None:
    """All ranks took one way, and ended alike."""
    for error in runs.errors.values():
        if isinstance(error, RanksApart):
            raise error
    for rank in range(1, len(runs.traces)):
        _compare_ways(runs, rank)
    kinds = {type(error) for error in runs.errors.values()}
    if len(kinds) > 1 or 0 < len(runs.errors) < len(runs.traces):
        raise RanksApart(f"ranks failed apart: {runs.errors}")
    outcomes = {repr(one.outcome) for one in runs.schedules if one is not None}
    if len(outcomes) > 1:
        raise RanksApart(f"the ranks ended differently: {sorted(outcomes)}")


def _compare_ways(runs: RankRuns, rank: int) -> None:
    """A rank took the same way as rank 0."""
    ways = zip_longest(runs.traces[0].transitions, runs.traces[rank].transitions)
    for at, (first, other) in enumerate(ways, 1):
        if first != other:
            raise RanksApart(
                f"rank {rank} takes another way than rank 0, at transition {at}:"
                f" {other or 'it has ended'}; rank 0: {first or 'it has ended'}"
            )
