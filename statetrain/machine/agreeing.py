"""How several ranks come to one decision: the machine exchanges answers, guards read them.

A *row* is the guards out of one state. Where some of its parts may differ between ranks, all ranks
meet before the row is asked: each brings its answers, and all get those of all. At an anchor they
meet before its hooks, so that whatever saves the run there reads what was agreed; elsewhere after
the action.

What is asked in every batch costs no message of its own: the row of the state that computes the
gradients takes the questions of the batch's other rows along (`Agreement.late`), and an accelerator
may carry them with the gradients.

A request to stop and a signal are a wish until the next meeting; then all ranks have it. An event
that one rank raises is a wish too (`heeding`): it is acted on where all ranks can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple, Protocol

from attrs import Factory, define, field, frozen

from statetrain.context.position import Position
from statetrain.contracts.owning import agreed_in
from statetrain.errors import MachineError
from statetrain.events import SkipBatch, SkipEpoch, StopFit
from statetrain.guards.base import Agree, Test
from statetrain.lifecycle.lifecycle import Lifecycle

TICKS = 1e6
"""Of the shared clock in a second."""

_KEPT = frozenset({"stop", "interrupt", "save_seconds", "news"})
"""Fields that keep what they were told until it is acted on, so that they may be asked early."""


class Group(Protocol):
    """The ranks of a run, as one of them sees them. Its methods are meetings: all ranks come."""

    @property
    def rank(self) -> int:
        """This rank, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    @property
    def waited(self) -> dict[str, float]:
        """Seconds that this rank has spent in meetings, by what they are for."""

    def largest(self, word: str, values: Sequence[int]) -> list[int]:
        """The largest value of each place over all ranks.

        Args:
            word: what the meeting is for.
            values: as many on each rank.

        Raises:
            MachineError: the ranks came to different meetings.
        """

    def gather(self, word: str, value: Any) -> list[Any]:
        """The values of all ranks, plain data, in the order of ranks. Raises as `largest`."""


class Ask(NamedTuple):
    """A question to all ranks."""

    key: str
    test: Test
    how: Agree
    reason: Callable[[Any], str]
    heeds: frozenset[str]  # of "stop" and "interrupt", what it reads

    def bit(self, ctx: Position, rank: int) -> int:
        """This rank's answer, such that the largest of all decides; 1 is what seldom happens."""
        if self.how == "all":
            return int(not self.test(ctx))
        if self.heeds and news_of(ctx).wishes(self.heeds):
            return 1
        return int((self.how == "any" or rank == 0) and self.test(ctx))

    def answer(self, largest: int) -> bool:
        """What was agreed."""
        if self.how == "all":
            return not largest
        return bool(largest)


@define(eq=False)
class Clock:
    """A clock that all ranks share: rank 0's, as it was at the last meeting.

    Args:
        read: seconds since some fixed moment, on this rank.
    """

    read: Callable[[], float]
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@define(eq=False)
class News:
    """What the ranks have told each other, and what this one has to tell.

    Attributes:
        agreement: the meetings.
        clock: the run's.
        answers: what was agreed, by question.
        reasons: why, where it is known, with the rank that had it.
        carried: what an accelerator brought along for the next meeting; None if it did not.
        stop, signal: what this rank asks for.
        skips: why this rank leaves out its batch; None if it does not.
        ends_epoch: why this rank ends the epoch early; None if it does not.
        begin, fail: called when a run begins, with what says where it is, and when it fails on this
            rank, with what happened.
        waited: what each rank's group had as `waited` at the last row.
    """

    agreement: Agreement
    clock: Clock
    answers: dict[str, bool] = Factory(dict)
    reasons: dict[str, str] = Factory(dict)
    carried: Sequence[float] | None = None
    stop: str | None = None
    signal: str | None = None
    skips: str | None = None
    ends_epoch: str | None = None
    begin: Callable[[Callable[[], str]], None] = field(default=lambda place: None)
    fail: Callable[[str], None] = field(default=lambda words: None)
    waited: list[dict[str, float]] = Factory(list)

    @property
    def group(self) -> Group:
        """The ranks."""
        return self.agreement.group

    def request_stop(self, reason: str) -> None:
        """Asks all ranks to stop."""
        self.stop = self.stop or reason

    def hear(self, signal: str) -> None:
        """A signal came to this rank."""
        self.signal = self.signal or signal
        self.request_stop(signal)

    def wishes(self, fields: frozenset[str]) -> bool:
        """Whether this rank asks for what a guard that reads these fields looks for."""
        return (self.stop is not None and "stop" in fields) or (
            self.signal is not None and "interrupt" in fields
        )

    def to_tell(self) -> list[str | None]:
        """What this rank asks for, for all."""
        return [self.stop, self.signal, self.skips, self.ends_epoch]


def news_of(ctx: Position) -> News:
    """What the ranks have told each other, in a run of several."""
    assert ctx.news is not None
    return ctx.news


@frozen(eq=False)
class Agreement:
    """The meetings of a lifecycle whose guards are agreed on.

    Args:
        lifecycle: with `Agreed` guards.
        group: the ranks.
        gradients: the states that compute the gradients.
    """

    lifecycle: Lifecycle
    group: Group
    gradients: tuple[str, ...] = ()
    late: dict[str, str] = field(init=False)
    """States whose questions are asked with the gradients, a moment before, and where that is."""
    rows: dict[str, tuple[Ask, ...]] = field(init=False)
    """The questions of each meeting, by state."""

    @late.default
    def _find_late(self) -> dict[str, str]:
        found = {name: self._carrier_of(name) for name in self.lifecycle.names}
        return {name: carrier for name, carrier in found.items() if carrier}

    @rows.default
    def _make_rows(self) -> dict[str, tuple[Ask, ...]]:
        rows = {name: self._asks(name) for name in self.lifecycle.names}
        for name, carrier in sorted(self.late.items()):
            rows[carrier] = (*rows[carrier], *rows.pop(name))
        return {name: asks for name, asks in rows.items() if asks}

    def _asks(self, name: str) -> tuple[Ask, ...]:
        found = {}
        for arrow in self.lifecycle.arrows(name):
            for one in agreed_in(arrow.guard):
                leaf, key = one.leaf, one.key(arrow.dest)
                heeds = leaf.reads & {"stop", "interrupt"}
                found[key] = Ask(key, leaf.bind(arrow.dest), one.how, leaf.reason, heeds)
        return tuple(found.values())

    def _carrier_of(self, name: str) -> str:
        """Where a state's questions are asked, if it comes once a batch and they can be late."""
        asked = [one for arrow in self.lifecycle.arrows(name) for one in agreed_in(arrow.guard)]
        if name in self.gradients or not asked or not all(one.reads <= _KEPT for one in asked):
            return ""
        around = self.lifecycle.path(name)[:-1]
        return next((one for one in self.gradients if self._scope(one) in around), "")

    def _scope(self, gradients: str) -> str:
        """The scope that stays open from batch to batch: that of the nearest anchor."""
        heads = {state.within for state in self.lifecycle.states if state.anchor}
        around = reversed(self.lifecycle.path(gradients)[:-1])
        return next((scope for scope in around if scope in heads), "")

    # ------------------------------------------------------------ meetings

    def bits(self, ctx: Position, state: str) -> list[int]:
        """This rank's answers to the questions of a meeting."""
        return [ask.bit(ctx, self.group.rank) for ask in self.rows[state]]

    def meeting(self, state: str) -> Callable[[Any], None]:
        """The work of meeting before the row of a state is asked; see `Plan`."""
        asks, word = self.rows[state], f"agree in {state}"

        def meet(ctx: Position) -> None:
            news = news_of(ctx)
            found, news.carried = news.carried, None
            if found is None:
                found = exchange(news, word, self.bits(ctx, state))
            if news.reasons:
                news.reasons.clear()
            for ask, largest in zip(asks, found, strict=True):
                news.answers[ask.key] = ask.answer(largest > 0)
            if any(found):
                tell(ctx, asks)

        return meet


def exchange(news: News, word: str, bits: Sequence[int]) -> list[int]:
    """The answers of all ranks, by a message; the shared clock advances."""
    group = news.group
    if group.rank == 0:
        time = int(news.clock.read() * TICKS)
    else:
        time = -(2**62)
    *found, time = group.largest(word, [*bits, time])
    news.clock.now = time / TICKS
    return found


def tell(ctx: Position, asks: Sequence[Ask]) -> None:
    """Something is so on some rank: all get to know why, and which rank it was. A meeting."""
    news = news_of(ctx)
    rank = news.group.rank
    own = {ask.key: ask.reason(ctx) for ask in asks if ask.bit(ctx, rank)}
    reasons, wishes = zip(*news.group.gather("say why", (own, news.to_tell())), strict=True)
    stop, signal, news.skips, news.ends_epoch = map(_first, zip(*wishes, strict=True))
    _ask_to_stop(ctx, stop, signal)
    _keep_reasons(news, reasons)
    if ctx.stop is not None:
        news.reasons.update({ask.key: ctx.stop for ask in asks if ask.heeds})


def _ask_to_stop(ctx: Position, stop: str | None, signal: str | None) -> None:
    """Notes what ranks ask for, and a signal that came to one, which is the reason itself."""
    ctx.stop = ctx.stop or stop
    if signal is not None:
        ctx.interrupt = ctx.interrupt or signal.partition(" (rank")[0]
    if ctx.stop is not None and ctx.interrupt is not None and ctx.stop.startswith(ctx.interrupt):
        ctx.stop = ctx.interrupt


def _keep_reasons(news: News, ranks: Sequence[Mapping[str, str]]) -> None:
    """Keeps the reasons of all ranks by their guards; of several, the lowest rank's."""
    for number, reasons in enumerate(ranks):
        for key, reason in reasons.items():
            news.reasons.setdefault(key, _of_rank(reason, number))


def _first(values: Sequence[str | None]) -> str | None:
    """The answer of the lowest rank that has one, with its number unless all agree."""
    said = [(rank, value) for rank, value in enumerate(values) if value is not None]
    if not said:
        return None
    rank, value = said[0]
    if set(values) == {value}:
        return value
    return _of_rank(value, rank)


def _of_rank(reason: str, rank: int) -> str:
    return f"{reason} (rank {rank})"


def heeding(function: Callable[[Any], Any], hook: bool = True) -> Callable[[Any], Any]:
    """A hook or an action that may raise an event on one rank alone: what it raises is a wish.

    `StopFit` and `SkipEpoch` act at the next loop head on all ranks; `SkipBatch` of a hook makes
    all ranks discard the batch once its gradients are computed.

    Args:
        function: of the context.
        hook: whether it is a hook; an action that is left in the middle cannot be resumed.
    """

    @wraps(function)
    def heeded(ctx: Position) -> Any:
        try:
            return function(ctx)
        except (StopFit, SkipEpoch, SkipBatch) as event:
            if isinstance(event, SkipBatch) and not hook:
                raise MachineError(
                    f"SkipBatch ({event}) was raised by the action of {ctx.state!r}. With several"
                    " ranks it may be raised by the data, and by enter hooks up to 'backward': the"
                    " others wait for this rank's gradients"
                ) from event
            wish(news_of(ctx), event)
        return None

    return heeded


def wish(news: News, event: StopFit | SkipEpoch | SkipBatch) -> None:
    """Asks all ranks for what an event does in one process."""
    words = str(event) or type(event).__name__
    if isinstance(event, StopFit):
        news.request_stop(words)
    elif isinstance(event, SkipEpoch):
        news.ends_epoch = words
    else:
        news.skips = words


def refuse_apart(words: Sequence[str]) -> None:
    """Raises a `MachineError` if ranks came to different meetings."""
    if len(set(words)) > 1:
        listed = "; ".join(f"rank {rank}: {word}" for rank, word in enumerate(words))
        raise MachineError(f"the ranks came to different meetings: {listed}")
