"""The table for several ranks: an edit of the one for a single process.

Each rank computes its part of each batch, and all take the same way through the table:

- What is decided about a batch is decided once its gradients are computed, where the ranks meet
  anyway: the arrows out of the state with the loss leave from `backward`, and the loss is counted
  behind it.
- Guards that may differ between ranks are agreed on.
- The row of the history is made of the sums of all ranks.

In one process nothing of it is laid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import attrs
from attrs import frozen

from statetrain.contracts.composing import exchanged, parts_of
from statetrain.contracts.declaring import Access, access, access_of
from statetrain.contracts.owning import agreed_in, agreeing, own_fields
from statetrain.contracts.ways import works_of
from statetrain.errors import ConfigError, MachineError
from statetrain.events import SkipBatch, SkipEpoch, StopFit
from statetrain.guards.base import guard
from statetrain.guards.batch import Accumulating
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State, StateWork
from statetrain.lifecycle.transition import Transition
from statetrain.machine.agreeing import wish
from statetrain.standard import actions as do
from statetrain.standard.modes import Evaluating
from statetrain.standard.precision import plain

if TYPE_CHECKING:
    from statetrain.context.context import Context
    from statetrain.machine.agreeing import News


def several(life: Lifecycle, context: type | None = None, *, divided: bool = True) -> Lifecycle:
    """The lifecycle that each of several ranks walks.

    Args:
        life: that of one process.
        context: the class of its contexts; None is `Context`.
        divided: whether the ranks go through parts of the same data; else each has its own, and
            they agree on when it ends.

    Raises:
        ContractError: a guard reads what may differ between ranks, and does not say how they agree.
        ConfigError: a part of the table cannot be shared between ranks.
    """
    if life.alone is not None:
        return life
    _refuse(life)
    own = own_fields(life, context, divided=divided)
    own.pop("last_batch", None)  # `OpenPart` makes it the same
    table = _decide_after_gradients(life)
    table = _hear_events(table)
    table = _with_parts(table, divided)
    arrows = []
    for arrow in table.transitions:
        if arrow.guard is not None and arrow.event is None:
            arrow = attrs.evolve(arrow, guard=agreeing(arrow.guard, arrow.source, own))
        arrows.append(arrow)
    return attrs.evolve(table, transitions=arrows, alone=life)


def gradients_of(life: Lifecycle) -> tuple[str, ...]:
    """The states in which the ranks' gradients are reduced."""
    return tuple(state.name for state in life.states if state.meets == _GRADIENTS)


_GRADIENTS = "reduce the gradients"
_SUMS = "sum up what was counted"
_SIZES = "compare the sizes of the batches"


def _refuse(life: Lifecycle) -> None:
    """What cannot be shared between ranks is refused by name."""
    refused: dict[Any, str] = {
        do.replay: "an optimizer whose step computes the loss again (LBFGS)",
        do.weighed_backward: "accumulate= and a loss with a mask or weights of samples",
        do.update_finite: "finite_check='late'",
    }
    for _, work in works_of(life):
        for part in parts_of(work):
            if part in refused:
                raise ConfigError(f"several ranks cannot train with {refused[part]} so far")
        if getattr(work, "stands_for", ()):
            raise ConfigError("several ranks cannot train with fused states so far; leave them out")


# ---------------------------------------------------------------- the edits


def _decide_after_gradients(life: Lifecycle) -> Lifecycle:
    """What is decided by the loss is decided behind `backward`, and so is that it counts."""
    for state in life.by_role("backward"):
        before = [arrow for arrow in life.transitions if arrow.dest == state.name]
        losses = [arrow.source for arrow in before if arrow.guard is None]
        heads = _beside(life, state.name, "next_batch")
        if losses and heads:
            life = _decide_after(life, state, losses[0], heads[0])
    return life


def _decide_after(life: Lifecycle, state: State, loss: str, head: str) -> Lifecycle:
    """The same of one `backward`; `head` is where the next batch begins."""
    name = state.name
    counted = f"{name.removesuffix('backward')}counted"
    onward = life.arrows(name)
    counting = life.between(loss, name)[-1]
    moved = [arrow for arrow in life.arrows(loss) if arrow.guard is not None]
    life = life.remove(*moved)
    life = life.alter(counting, effect=None)
    table = [arrow for arrow in life.transitions if arrow not in onward]
    at = table.index(life.between(loss, name)[-1]) + 1
    table[at:at] = [
        Transition(name, head, a_rank_skips, do.discard_window),
        *(attrs.evolve(arrow, source=name) for arrow in moved),
        Transition(name, counted, effect=_of_part(counting.effect)),
        *(attrs.evolve(arrow, source=counted) for arrow in onward),
    ]
    states = list(life.states)
    states.insert(states.index(life.state(name)) + 1, State(counted, within=state.within))
    return attrs.evolve(life, states=states, transitions=table)


def _beside(life: Lifecycle, name: str, role: str) -> list[str]:
    """The states with a role in the innermost scope around a state that has one."""
    for scope in reversed(life.path(name)[:-1]):
        found = [state.name for state in life.by_role(role) if state.within == scope]
        if found:
            return found
    return []


def _hear_events(life: Lifecycle) -> Lifecycle:
    """An epoch, or an evaluation, that one rank ends early is ended by all."""
    for head in life.by_role("next_batch"):
        records = _beside(life, head.name, "record")
        if records:
            arrow = Transition(head.name, records[0], a_rank_ends_the_epoch, end_the_epoch)
            life = life.add(arrow, before=life.arrows(head.name)[-1])
    for head in life.by_role("next_valid_batch"):
        records = _beside(life, head.name, "record")
        mode = life.state(head.within or head.name).mode
        if records and isinstance(mode, Evaluating):
            effect = DropTogether(mode.set)
            arrow = Transition(head.name, records[0], a_rank_ends_the_epoch, effect)
            life = life.add(arrow, before=life.arrows(head.name)[-1])
    return life


def _with_parts(life: Lifecycle, divided: bool) -> Lifecycle:
    """Actions that work on a rank's part."""
    in_parts: dict[Any, StateWork] = {
        do.draw: DrawPart(do.draw),
        do.draw_ahead: DrawPart(do.draw_ahead),
        do.draw_prefetched: DrawPart(do.draw_prefetched),
        do.valid_draw: DrawPart(do.valid_draw, "valid_iter"),
        do.open_batch: OpenPart(_window(life), divided),
        do.read_batch: open_valid_part,
        do.keep_pred: keep_part,
        do.record: record_together,
    }
    meetings: dict[Any, str] = {
        do.record: _SUMS,
        do.backward: _GRADIENTS,
        do.scaled_backward: _GRADIENTS,
    }
    if not divided:
        meetings[do.open_batch] = _SIZES
    for state in life.states:
        action = plain(state.action)
        if isinstance(action, do.OpenData):
            in_parts[action], meetings[action] = OpenTogether(action), "share the buffers"
        shared = attrs.evolve(
            state,
            action=in_parts.get(action) or _of_part(state.action),
            meets=meetings.get(action, state.meets),
        )
        if shared != state:
            life = life.replace(shared)
    return life


def _window(life: Lifecycle) -> int:
    """Batches that make one step."""
    return next((guard.n for guard in life.guards if isinstance(guard, Accumulating)), 1)


def _of_part(work: StateWork | None) -> StateWork | None:
    """An action or effect that counts the loss of this rank's part in place of the whole."""
    if work is None:
        return None
    return exchanged(work, {do.count_loss: count_part})


# ---------------------------------------------------------------- guards


@guard(reads={"news"}, agree="any")
def a_rank_skips(ctx: Context) -> bool:
    "a rank leaves out the batch"
    return ctx.news is not None and ctx.news.skips is not None


@guard(reads={"news"}, agree="any")
def a_rank_ends_the_epoch(ctx: Context) -> bool:
    "a rank ends the epoch"
    return ctx.news is not None and ctx.news.ends_epoch is not None


def _forget_the_end(ctx: Context) -> None:
    """What was asked for is done, on all ranks."""
    assert ctx.news is not None
    ctx.news.ends_epoch = None
    for key in ctx.news.answers:
        if key.endswith(f": {a_rank_ends_the_epoch.label}"):
            ctx.news.answers[key] = False


_ENDING = access_of(do.end_epoch_early) or Access()


@access(reads=_ENDING.reads | {"news"}, writes=_ENDING.writes, drops=_ENDING.drops)
def end_the_epoch(ctx: Context) -> None:
    "end the epoch early"
    do.end_epoch_early(ctx)
    _forget_the_end(ctx)


@frozen
class DropTogether:
    """The effect of an arrow that ends an evaluation early on all ranks.

    Args:
        set: "valid", or the evaluation's name.
    """

    set: str

    @property
    def label(self) -> str:
        """What the table says."""
        return do.DropData(self.set).label

    @property
    def access(self) -> Access | None:
        """What dropping reads and writes."""
        return access_of(do.DropData(self.set))

    def __call__(self, ctx: Context) -> None:
        do.DropData(self.set)(ctx)
        _forget_the_end(ctx)


# ---------------------------------------------------------------- what ranks share


class BatchPart(NamedTuple):
    """A rank's part of a batch.

    Attributes:
        size: samples of it that count.
        total: samples of the batch, all ranks together.
    """

    size: int
    total: int


class Sharing(Protocol):
    """What the accelerator of one of several ranks has as `sharing`."""

    group: Any
    calls_backward: bool
    shards: bool

    def attach(self, ctx: Context, agreement: Any, news: News) -> None:
        """A run begins."""

    def part(
        self,
        ctx: Context,
        set: str,  # noqa: A002  # the field's word
        number: int,
    ) -> BatchPart:
        """How much of the present batch is this rank's.

        Args:
            ctx: the context; `batch_size` is what this rank has loaded.
            set: "train", "valid", or an evaluation's name.
            number: of the batch, from 1.
        """

    def open_part(self, part: BatchPart, reduces: bool) -> None:
        """Begins a batch; `reduces` says whether its backward reduces the gradients."""

    def remember(self, batch: Any) -> None:
        """Keeps a batch for `stand_in`."""

    def first_batches(self) -> dict[str, Any]:
        """What tells the first batches from others that have been counted since the last call."""

    def refuse_same(self, ranks: list[dict[str, Any]]) -> None:
        """Raises a `DataError` if ranks have counted the same batches.

        Args:
            ranks: what `first_batches` gave on each.
        """

    def stand_in(self, event: BaseException) -> Any:
        """A stand-in batch for a rank whose own was left out.

        Raises:
            MachineError: there has been no batch yet.
        """

    def share_buffers(self, ctx: Context) -> None:
        """Makes the model's buffers those of rank 0. A meeting."""

    def stack(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The tensors of all ranks, one row each, for rank 0; nothing for the others. A meeting."""

    def unstack(self, rows: Any) -> Any:
        """This rank's row of a stacked tensor; the mean, if there were other ranks."""


def _sharing(ctx: Context) -> Sharing:
    return cast("Sharing", ctx.accelerator.sharing)


# ---------------------------------------------------------------- actions


@frozen
class DrawPart:
    """Drawing a rank's part of the next batch.

    Args:
        draw: what draws it.
        counter: the field that counts the batches.
    """

    draw: StateWork
    counter: str = "iter"

    @property
    def label(self) -> str:
        """What the table says."""
        return "draw this rank's part of a batch"

    @property
    def access(self) -> Access | None:
        """What drawing reads and writes."""
        return access_of(self.draw)

    def __call__(self, ctx: Context) -> None:
        news = ctx.news
        assert news is not None
        _refuse_late(news)
        news.skips = None
        counted = getattr(ctx, self.counter)
        try:
            self.draw(ctx)
        except (SkipBatch, SkipEpoch, StopFit) as event:
            # This rank takes part with another batch, which does not count: the others' gradients
            # wait for its own.
            setattr(ctx, self.counter, counted)
            ctx.drawn = True
            ctx.batch = _sharing(ctx).stand_in(event)
            wish(news, event)
            news.skips = str(event) or type(event).__name__
        else:
            if self.counter == "iter" and ctx.drawn:
                _sharing(ctx).remember(ctx.batch)


def _refuse_late(news: News) -> None:
    """A rank that leaves out its batch has to say so before the gradients are reduced."""
    known = [key for key in news.answers if key.endswith(f": {a_rank_skips.label}")]
    if news.skips is not None and known and not any(news.answers[key] for key in known):
        raise MachineError(
            f"SkipBatch ({news.skips}) was raised after the gradients were computed, and the other"
            " ranks have made their step; with several ranks, raise it in an enter hook up to"
            " 'backward'"
        )


@frozen
class OpenPart:
    """Opening a rank's part of a batch.

    Args:
        accumulate: batches that make one step; gradients are reduced with the last of them.
        divided: whether ranks go through parts of the same data. Else each has batches of its own,
            whose sizes may differ, and the epoch's last one is that of the first rank.
    """

    accumulate: int = 1
    divided: bool = True

    @property
    def label(self) -> str:
        """What the table says."""
        return "find input and target of this rank's part, clear the gradients"

    @property
    def access(self) -> Access | None:
        """What opening a batch reads and writes."""
        opening = access_of(do.open_batch)
        assert opening is not None
        own = opening | Access({"last_batch?", "iter", "train_data"})
        if self.divided:
            return own
        return own | Access({"news"}, {"last_batch"})

    def __call__(self, ctx: Context) -> None:
        drawn = ctx.samples
        do.open_batch(ctx)
        part = _sharing(ctx).part(ctx, "train", ctx.iter)
        if not self.divided:
            sizes, ctx.last_batch = _compare_batches(ctx)
            part = BatchPart(ctx.batch_size, sum(sizes))
        ctx.batch_size, ctx.samples = part.size, drawn + part.total
        last = ctx.pending + 1 >= self.accumulate or ctx.last_batch
        _sharing(ctx).open_part(part, last)


_MOST = 60  # ranks whose sizes one message holds


def _compare_batches(ctx: Context) -> tuple[list[int], bool]:
    """The sizes of all ranks' batches, and whether one of them is its rank's last. A meeting."""
    assert ctx.news is not None
    group = ctx.news.group
    if group.size > _MOST:
        told = group.gather(_SIZES, (ctx.batch_size, ctx.last_batch))
        return [size for size, _ in told], any(last for _, last in told)
    own = [0] * group.size
    own[group.rank] = ctx.batch_size
    *sizes, last = group.largest(_SIZES, [*own, int(ctx.last_batch)])
    return sizes, bool(last)


@access(
    reads={"layout", "batch", "valid_iter", "data", "tally"},
    writes={"input", "target", "batch_size"},
)
def open_valid_part(ctx: Context) -> None:
    "find input and target of this rank's part"
    do.read_batch(ctx)
    set_name = getattr(ctx.tally, "set", "valid")
    ctx.batch_size = _sharing(ctx).part(ctx, set_name, ctx.valid_iter).size


_COUNTING = access_of(do.count_loss) or Access()


@access(reads=_COUNTING.reads, writes=_COUNTING.writes)
def count_part(ctx: Context) -> None:
    "count the loss of this rank's part"
    if ctx.batch_size:  # else it only took part
        do.count_loss(ctx)


@access(reads={"pred", "pick", "batch_size"}, writes={"buffers.preds"})
def keep_part(ctx: Context) -> None:
    "keep the prediction for this rank's part"
    if ctx.batch_size:
        do.keep_pred(ctx)
    else:
        ctx.buffers["preds"].append(None)


@frozen
class OpenTogether:
    """Opening an evaluation when all ranks have the same buffers.

    Args:
        opening: what opens it.
    """

    opening: StateWork

    @property
    def label(self) -> str:
        """What the table says."""
        return str(getattr(self.opening, "label", None) or self.opening.__doc__)

    @property
    def access(self) -> Access | None:
        """What opening reads and writes, and the buffers."""
        own = access_of(self.opening)
        return own and own | Access({"model"}, {"model"})

    def __call__(self, ctx: Context) -> None:
        _sharing(ctx).share_buffers(ctx)
        self.opening(ctx)


_RECORDING = access_of(do.record) or Access()


@access(reads=_RECORDING.reads, writes=_RECORDING.writes | {"exhausted", "valid_complete"})
def record_together(ctx: Context) -> None:
    "sum up over all ranks, write a row of the history"
    news = ctx.news
    assert news is not None
    own = {
        "sums": {name: tally.sums() for name, tally in ctx.tallies.items()},
        "logged": dict(ctx.logged),
        "means": {name: (float(total), n) for name, (total, n) in ctx.logged_means.items()},
        "ended": (ctx.exhausted, ctx.valid_complete),
        "clock": news.clock.read(),
        "first": _sharing(ctx).first_batches(),
        "waited": dict(news.group.waited),
    }
    told = news.group.gather("record", own)
    _sharing(ctx).refuse_same([one["first"] for one in told])
    news.clock.now = told[0]["clock"]
    news.waited = [one["waited"] for one in told]
    for name, tally in ctx.tallies.items():
        tally.set_sums([one["sums"][name] for one in told])
    # What callbacks add is rank 0's; data of its own ends for all with the first that has none.
    ctx.logged.clear()
    ctx.logged.update(told[0]["logged"])
    ctx.logged_means = _added_means([one["means"] for one in told])
    ctx.exhausted = any(one["ended"][0] for one in told)
    ctx.valid_complete = any(one["ended"][1] for one in told)
    _sharing(ctx).share_buffers(ctx)
    do.record(ctx)


def _added_means(ranks: list[dict[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """The sums of all ranks, and what they count."""
    found: dict[str, tuple[float, float]] = {}
    for means in ranks:
        for name, (total, count) in means.items():
            before, counted = found.get(name, (0.0, 0.0))
            found[name] = before + total, counted + count
    return found


def meetings_of(life: Lifecycle) -> list[tuple[str, str]]:
    """Where all ranks come together: states, each with what for."""
    found = []
    for state in life.states:
        asked = [one for arrow in life.arrows(state.name) for one in agreed_in(arrow.guard)]
        if state.meets:
            found.append((state.name, state.meets))
        if asked:
            words = ", ".join(dict.fromkeys(one.label for one in asked))
            found.append((state.name, f"agree on: {words}"))
    return found
