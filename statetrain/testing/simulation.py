"""A dry run: the real machine and actions, with stand-ins for model, optimizers and data.

    print(simulate(supervised(validate=Every(100, "steps"), accumulate=4), epochs=2, batches=500))

It shows the whole schedule of a run, when it validates, records, saves or stops, without torch, a
model or data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from attrs import Factory, define, frozen

from statetrain.callback import Callback
from statetrain.context.context import Context
from statetrain.context.history import History
from statetrain.errors import ConfigError
from statetrain.guards.base import Guard, leaves
from statetrain.guards.counters import Every
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.machine.agreeing import Agreement, Clock, Group, News
from statetrain.machine.machine import Machine
from statetrain.outcome import Outcome
from statetrain.validators import check_whole

GivenLosses = Callable[[int], float]


@frozen
class SimulatedEvent:
    """Something that a simulated run did.

    Attributes:
        state: the state that it entered; or the word for what was due there.
        epoch, batch, step: where it stood: epoch and batch counted from 1, steps made so far.
        seconds: by the simulated clock.
        values: of the curves, by name: those with which the next step is made.
    """

    state: str
    epoch: int
    batch: int
    step: int
    seconds: float
    values: dict[str, float] = Factory(dict)

    def __str__(self) -> str:
        values = "".join(f"  {name} {value:.4g}" for name, value in self.values.items())
        return (
            f"epoch {self.epoch:>4}  batch {self.batch:>6}  step {self.step:>7} "
            f" {self.seconds:>10.1f} s  {self.state}{values}"
        )


@define(eq=False, repr=False)
class SimulatedRun:
    """What a simulated run did.

    Attributes:
        outcome: how it ended.
        events: the states of interest that it entered, in order.
        history: the rows that it recorded.
        ctx: the context, at its end.
    """

    outcome: Outcome
    events: list[SimulatedEvent]
    history: History
    ctx: Context

    def of(self, state: str) -> list[SimulatedEvent]:
        """The events of one state, or of what was due."""
        return [event for event in self.events if event.state == state]

    def __repr__(self) -> str:
        return (
            f"<SimulatedRun: {self.outcome!r}, {len(self.events)} events,"
            f" {self.ctx.batches} batches, {self.ctx.step} steps>"
        )

    def __str__(self) -> str:
        return "\n".join([*map(str, self.events), repr(self.outcome)])

    def _repr_html_(self) -> str:
        from statetrain.notebook import text

        return text(str(self))


def simulate(
    lifecycle: Lifecycle,
    epochs: int = 3,
    batches: int = 5,
    valid_batches: int = 2,
    *,
    batch_size: int = 1,
    seconds: float = 1.0,
    losses: GivenLosses | None = None,
    states: Iterable[str] | None = None,
    callbacks: Iterable[Callback] = (),
    optimizers: Iterable[str] = ("opt",),
    length_known: bool = True,
    due: Mapping[str, Guard] | None = None,
    curves: Mapping[str, Callable[[int], float]] | None = None,
    group: Group | None = None,
) -> SimulatedRun:
    """Runs a lifecycle on stand-ins.

        simulate(life, due={"save": Every(500, "steps")}, curves={"lr": one_cycle(0.1, 1000)})

    Args:
        lifecycle: a standard one, or one of your own that uses the standard actions.
        epochs: how many at the most.
        batches: of training data in an epoch.
        valid_batches: of validation data.
        batch_size: samples in a batch.
        seconds: that a training batch takes, by the simulated clock.
        losses: the loss of each batch, by its number counted from 1 over the whole run; None is 1 /
            number, and 1 before the first.
        states: whose entries are listed; None: all that are not gone through in every batch.
        callbacks: who watches; they see a real context whose model and data are stand-ins.
        optimizers: their names.
        length_known: whether the training data says how many batches it has.
        due: what is done apart from the lifecycle, and when, by a word for it: the intervals at
        which
            a `Checkpoint` saves, say. They are asked at the anchors, those that count epochs
            between epochs alone, and listed when they hold.
        curves: hyperparameters as functions of the steps made, by name; each event shows their
            values.
        group: the ranks, where this is one of several; see `simulate_ranks`.

    Raises:
        ConfigError: a number is out of range, or something is due and the lifecycle has no anchor.
    """
    check_whole("simulate: epochs", epochs, 0)
    check_whole("simulate: batches", batches, 1)
    check_whole("simulate: valid_batches", valid_batches, 1)
    check_whole("simulate: batch_size", batch_size, 1)
    train: _FakeBatches | _Endless = _FakeBatches(batches)
    if not length_known:
        train = _Endless(batches)
    ctx = _context(
        lifecycle, tuple(optimizers), train, _FakeBatches(valid_batches), batch_size, losses
    )
    ctx.max_epochs = epochs
    ctx.clock = lambda: seconds * ctx.batches
    watch = _FakeWatch(lifecycle, states, dict(due or {}), dict(curves or {}))
    agreement = None
    if group is not None:
        agreement = _meeting(ctx, lifecycle, group)
    Machine(lifecycle, (watch, *callbacks), agreement=agreement).run(ctx)
    assert ctx.outcome is not None
    return SimulatedRun(ctx.outcome, watch.events, ctx.history, ctx)


def _context(
    lifecycle: Lifecycle,
    names: tuple[str, ...],
    train: _FakeBatches | _Endless,
    valid: _FakeBatches,
    batch_size: int,
    losses: GivenLosses | None,
) -> Context:
    """A context whose model, optimizers, losses and data are stand-ins."""
    evaluated: list[str] = [
        state.mode.set
        for state in lifecycle.states
        if state.mode is not None and hasattr(state.mode, "set")
    ]
    tallies = {
        name: _FakeTally(name, names) for name in dict.fromkeys(("train", "valid", *evaluated))
    }
    given = losses or (lambda batch: 1.0 / max(batch, 1))  # an evaluation may come before them
    layout = _FakeLayout(batch_size)
    loss = _FakeLoss()  # one for all batches

    def computed(pred: Any, target: Any) -> _FakeLoss:
        loss.value = given(ctx.earlier_batches + ctx.iter)
        return loss

    parts = {name: _FakeOptimizer() for name in names}
    ctx = Context(
        model=_Model(),  # type: ignore[arg-type]  # stands in for a module
        loss_fns=dict.fromkeys(names, computed),
        optimizers=parts,  # type: ignore[arg-type]  # stand in for optimizers
        train_data=train,
        valid_data=valid,
        evaluations={name: valid for name in evaluated if name != "valid"},
        accelerator=_FakeAccelerator(),  # type: ignore[arg-type]  # stands in for one
        mask=_FakeMask(),
        read_batch=lambda batch: layout,
        tallies=tallies,  # type: ignore[arg-type]  # stand in for tallies
        opt_name=names[0],
        opt=next(iter(parts.values())),  # type: ignore[arg-type]  # likewise
        verbose=False,
    )
    ctx.loss_fn = next(iter(ctx.loss_fns.values()))
    return ctx


def _meeting(ctx: Context, lifecycle: Lifecycle, group: Group) -> Agreement:
    """Makes a context that of one of several ranks."""
    gradients = [s.name for s in lifecycle.states if s.meets == "reduce the gradients"]
    agreement = Agreement(lifecycle, group, tuple(gradients))
    ctx.news = News(agreement, Clock(ctx.clock))
    ctx.clock = ctx.news.clock
    accelerator = _RankAccelerator(_FakeSharing(group))
    ctx.accelerator = accelerator  # type: ignore[assignment]  # stands in for one
    ctx.compute_gradients = ctx.accelerator.backward
    return agreement


class _FakeWatch(Callback):
    """Notes when the states of interest are entered, and listens to no others."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        states: Iterable[str] | None,
        due: Mapping[str, Guard],
        curves: Mapping[str, Callable[[int], float]],
    ) -> None:
        self.events: list[SimulatedEvent] = []
        self.curves = curves
        if due and not any(state.anchor for state in lifecycle.states):
            raise ConfigError(
                f"simulate: {', '.join(due)} would never be due: lifecycle {lifecycle.name!r} has"
                " no anchor"
            )
        if states is None:
            states = _rare_states(lifecycle)
        for name in states:
            setattr(self, f"on_enter_{name}", self._noting(name))
        if due:
            self.on_anchor = self._looking(lifecycle, due)

    def _looking(self, lifecycle: Lifecycle, due: Mapping[str, Guard]) -> Callable[[Context], None]:
        """The hook that notes what is due at an anchor."""
        between = {
            state.name for state in lifecycle.states if not lifecycle.lies_in(state.name, "epoch")
        }
        tests = [
            (word, guard.bind(word), guard.marks(word), _counts_epochs(guard))
            for word, guard in due.items()
        ]

        def look(ctx: Context) -> None:
            for word, test, marks, by_epochs in tests:
                if (not by_epochs or ctx.state in between) and test(ctx):
                    for mark in marks:
                        mark(ctx)
                    self._note(word, ctx)

        return look

    def _noting(self, name: str) -> Callable[[Any], None]:
        def note(ctx: Context) -> None:
            self._note(name, ctx)

        return note

    def _note(self, word: str, ctx: Context) -> None:
        values = {name: float(curve(ctx.step)) for name, curve in self.curves.items()}
        self.events.append(SimulatedEvent(word, ctx.epoch, ctx.iter, ctx.step, ctx.seconds, values))


def _rare_states(lifecycle: Lifecycle) -> list[str]:
    """The states that a run does not go through in every batch."""
    drawing = ("draw", "valid_draw", "predict_draw")
    batches = ("batch", "valid_batch", "predict_batch")
    return [
        state.name
        for state in lifecycle.states
        if not state.anchor
        and state.role not in drawing
        and not lifecycle.lies_in(state.name, *batches)
    ]


def _counts_epochs(guard: Guard) -> bool:
    return any(isinstance(leaf, Every) and leaf.unit == "epochs" for leaf in leaves(guard))


# ---------------------------------------------------------------- stand-ins


@frozen
class _FakeBatches:
    n: int

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.n))


@frozen
class _Endless:
    n: int

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.n))


@frozen
class _FakeLayout:
    rows: int
    place: None = None
    forward: None = None

    def split(self, batch: Any) -> tuple[Any, Any]:
        return batch, batch

    def size(self, batch: Any, given: Any, target: Any) -> int:
        return self.rows


class _Model:
    training = False

    def __call__(self, batch: Any) -> Any:
        return batch

    def train(self) -> None: ...
    def eval(self) -> None: ...
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None: ...
    def modules(self) -> tuple[()]:
        return ()

    def parameters(self) -> tuple[()]:
        return ()


class _FakeOptimizer:
    param_groups: tuple[Any, ...] = ()

    def zero_grad(self) -> None: ...
    def step(self, closure: Any = None) -> None: ...


@define
class _FakeLoss:
    value: float = 0.0
    requires_grad: bool = True

    def item(self) -> float:
        return self.value

    def detach(self) -> _FakeLoss:
        return self

    def backward(self, inputs: Any = None) -> None: ...


class _Held:
    def take(self) -> None: ...
    def put_back(self) -> None: ...


class _FakeMask:
    def see(self, loss: Any) -> tuple[float, int]:
        return loss.value, 1

    def step(self, optimizer: Any, number: int, buffers: Any) -> None: ...
    def drop(self) -> None: ...
    def ask(self) -> None: ...
    def answer(self) -> tuple[int, int]:
        return 0, -1

    def now(self) -> tuple[int, int]:
        return 0, -1


class _FakeAccelerator:
    def unwrap(self, model: Any) -> Any:
        return model

    def moded(self, ctx: Context) -> list[Any]:
        return []

    def train(self, ctx: Context) -> None: ...
    def set_modes(self, modes: Any) -> None: ...
    def set_grad(self, on: bool) -> None: ...
    def grad_enabled(self) -> bool:
        return True

    def clear(self, optimizer: Any) -> None: ...
    def gradients(self, optimizer: Any) -> tuple[()]:
        return ()

    def grad_norm(self, optimizer: Any) -> float:
        return 0.0

    def buffers(self, ctx: Context) -> _Held:
        return _Held()

    def keep(self, ctx: Context) -> dict[str, Any]:
        return {}

    def go_back(self, ctx: Context, kept: Any) -> None: ...
    def warn_of_untrained(self, ctx: Context) -> None: ...
    def lower_rates(self, ctx: Context, factor: float) -> None: ...
    def first_not_finite(self, ctx: Context) -> None: ...
    def begin_keyed(self, data: Any, turn: int, start: int) -> bool:
        return False

    def random_states(self, data: Any = None) -> None: ...
    def seed(self, ctx: Context, stream: tuple[Any, ...], number: int) -> None: ...
    def chance(self, ctx: Context) -> None: ...


class _FakePart(NamedTuple):
    size: int
    total: int


@define
class _FakeSharing:
    group: Group
    reduces: bool = True

    def part(
        self,
        ctx: Context,
        set: str,  # noqa: A002  # the field's word
        number: int,
    ) -> _FakePart:
        return _FakePart(ctx.batch_size, ctx.batch_size * self.group.size)

    def open_part(self, part: _FakePart, reduces: bool) -> None:
        self.reduces = reduces

    def remember(self, batch: Any) -> None: ...
    def first_batches(self) -> dict[str, Any]:
        return {}

    def refuse_same(self, ranks: list[dict[str, Any]]) -> None: ...
    def stand_in(self, event: BaseException) -> Any:
        return 0

    def share_buffers(self, ctx: Context) -> None:
        self.group.gather("share the buffers", None)


@define
class _RankAccelerator(_FakeAccelerator):
    sharing: _FakeSharing

    def backward(self, loss: Any, inputs: Any = None) -> None:
        if self.sharing.reduces:
            self.sharing.group.gather("reduce the gradients", None)


@define
class _FakeMean:
    total: float = 0.0
    count: int = 0


@define(eq=False)
class _FakeTally:
    """The sums of a set, without torch."""

    set: str
    names: tuple[str, ...]
    losses: dict[str, _FakeMean] = Factory(dict)
    metrics: tuple[()] = ()
    loss_fn: None = None

    def __attrs_post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.losses = {name: _FakeMean() for name in self.names}

    def means(self) -> dict[str, tuple[float, float]]:
        return {}

    def sums(self) -> dict[str, tuple[float, int]]:
        return {name: (mean.total, mean.count) for name, mean in self.losses.items()}

    def set_sums(self, ranks: Sequence[Mapping[str, tuple[float, int]]]) -> None:
        for name, mean in self.losses.items():
            mean.total = math.fsum(sums[name][0] for sums in ranks)
            mean.count = sum(sums[name][1] for sums in ranks)

    def compute(self) -> dict[str, float]:
        counted = {
            name: mean.total / mean.count for name, mean in self.losses.items() if mean.count
        }
        return {self._column(name): value for name, value in counted.items()}

    @property
    def columns(self) -> list[str]:
        return list(map(self._column, self.names))

    def _column(self, name: str) -> str:
        if len(self.names) == 1:
            return f"{self.set}_loss"
        return f"{self.set}_loss_{name}"
