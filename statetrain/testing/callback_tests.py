"""Generated tests for a custom callback: real runs along every short path of a lifecycle.

    @pytest.mark.parametrize("case", callback_cases(MyCallback), ids=str)
    def test_my_callback(case):
        "It works on every path that training can take, and can be resumed at any anchor."
        case.check()

The runs train a toy problem. Guards answer so that the way is taken, events and failures are raised
where it needs them; actions and effects do their own work.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
from attrs import field, frozen

from statetrain.callback import Callback, name_of, unwrapped
from statetrain.context.keys import root_of
from statetrain.context.position import Position
from statetrain.contracts.listening import paths_in
from statetrain.errors import ConfigError
from statetrain.lifecycle.explore import Bound
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.machine.witness import unwitnessed
from statetrain.testing.fake_clock import FakeClock
from statetrain.testing.guiding import Guide, GuidedAsked, faults, machine_of
from statetrain.testing.paths import Cover, Path, paths
from statetrain.testing.resuming import differences, list_words, state_of
from statetrain.testing.toy import toy_problem
from statetrain.trace import Trace

if TYPE_CHECKING:
    from statetrain.training.run import Run

Build: TypeAlias = "Callable[[Lifecycle, tuple[Callback, ...]], Run]"
Make: TypeAlias = Callable[[], Callback]


def check_callback(
    callback: Callback | Make,
    lifecycle: Lifecycle | None = None,
    *,
    build: Build | None = None,
    context: Callable[[], Any] | None = None,
    cover: Cover = "transitions",
    bounds: Mapping[str, Bound] | None = None,
    anchors: int = 2,
    along: Iterable[Trace] | None = None,
    steers: bool = False,
) -> int:
    """Asserts that a callback works on every short path of a lifecycle.

    The arguments are those of `callback_cases`.

        check_callback(MyCallback)
        check_callback(lambda: MyCallback(every=2), supervised(accumulate=2))

    Returns:
        The number of paths that were run.

    Raises:
        AssertionError: it does not; the message names the way, the hook or the anchor, and what
            happened.
    """
    __tracebackhide__ = True  # pytest shows the line of the test
    cases = callback_cases(
        callback,
        lifecycle,
        build=build,
        context=context,
        cover=cover,
        bounds=bounds,
        anchors=anchors,
        along=along,
        steers=steers,
    )
    for case in cases:
        case.check()
    return len(cases)


def callback_cases(
    callback: Callback | Make,
    lifecycle: Lifecycle | None = None,
    *,
    build: Build | None = None,
    context: Callable[[], Any] | None = None,
    cover: Cover = "transitions",
    bounds: Mapping[str, Bound] | None = None,
    anchors: int = 2,
    along: Iterable[Trace] | None = None,
    steers: bool = False,
) -> list[CallbackCase]:
    """The paths along which to test a callback, as parameters for pytest (`ids=str` is readable).

    Along each way, `case.check()` asserts that

    - no hook raises (events that steer may be raised where the machine allows it), and each returns
      nothing;
    - the run takes the way that it takes without the callback, and ends alike;
    - it changes nothing that it does not declare to write: weights, optimizers, history and random
      numbers end as they do without the callback;
    - the callback's `state_dict()` at anchors is plain data, and a fresh callback that takes it
      with `load_state_dict` continues from there to the same end: weights, history, records, its
      own state.

    Args:
        callback: its class, or a function that makes one; an instance is copied for each run.
        lifecycle: the table; None is `supervised` with validation and `non_finite="skip"`.
        build: makes a run that has not started, `fit(..., lifecycle=lifecycle, callbacks=callbacks,
            start=False)`, where the toy problem does not do: several optimizers, other batches,
            metrics that the callback reads.
        context: for a lifecycle that does not train: makes a context for it, in place of `build`.
            Only the callback's state is then put back, not the context's.
        cover, bounds: see `statetrain.testing.paths`. To these ways come, for each state, the
            shortest to it with a failure there.
        along: runs to go along in place of the short ways, such as those that
            `statetrain.testing.strategies.runs` draws.
        anchors: at how many anchors of each way, the last ones, the run is cut and continued; 0 for
            none.
        steers: whether it may lead runs another way, as one does that stops them. One that declares
            that it writes `stop` may anyway.

    Raises:
        ConfigError: `build` and `context` are both given.
        CallbackError: the callback has a hook that no state of the lifecycle bears.
    """
    trial = trial_of("callback_cases", build, context)
    life = lifecycle or standard()
    make = _maker(callback)
    machine_of(life, (make(),))  # a hook that no state bears is an error now
    if along is None:
        ways = [*paths(life, cover, bounds), *faults(life)]
    else:
        ways = [Path(life, run.transitions, run[-1]) for run in along]
    return [CallbackCase(path, make, trial, anchors, steers) for path in ways]


def standard() -> Lifecycle:
    """The lifecycle that generated tests use unless another is given."""
    from statetrain.standard.supervised import (
        supervised,
    )  # of a higher floor, so looked up when it is asked for

    return supervised(non_finite="skip")


def toy_run(lifecycle: Lifecycle, callbacks: tuple[Callback, ...]) -> Run:
    """The toy problem with a lifecycle, not started; each reading of its clock adds a second."""
    toy = toy_problem(batches=3, batch_size=4)
    if lifecycle.by_role("valid"):
        valid = {}
    else:
        valid = {"valid": None}
    return toy.fit(
        lifecycle=lifecycle,
        callbacks=callbacks,
        epochs=3,
        clock=FakeClock(tick=1.0),
        start=False,
        **valid,
    )


def trial_of(owner: str, build: Build | None, context: Callable[[], Any] | None) -> CallbackTrial:
    """How runs are made, as the arguments of `owner` say it.

    Raises:
        ConfigError: it is said twice.
    """
    if build is not None and context is not None:
        raise ConfigError(
            f"{owner} takes build= for a lifecycle that trains, or context= for one that does not,"
            " not both"
        )
    return CallbackTrial(build or toy_run, context)


@frozen(repr=False)
class CallbackTrial:
    """How a run along a path is made.

    Attributes:
        build, context: see `callback_cases`.
    """

    build: Build
    context: Callable[[], Any] | None = None

    def begin(
        self, path: Path, at: int, callbacks: tuple[Callback, ...], asked: GuidedAsked | None = None
    ) -> tuple[Guide, Any]:
        """A run that has not started, and its guide."""
        guide = Guide(path, at, asked)
        _seed()
        if self.context is not None:
            return guide, _Own(self.context(), machine_of(guide.lifecycle(), (*callbacks, guide)))
        with unwitnessed():
            return guide, self.build(guide.lifecycle(), (*callbacks, guide))


@frozen
class _Own:
    """A run of a lifecycle that does not train."""

    ctx: Position
    machine: Any


def go(run: Any, at: str | None = None) -> BaseException | None:
    """Walks a run to its end; what it failed with, if it did."""
    try:
        run.machine.run(run.ctx, at)
    except BaseException as error:
        return error
    return None


@frozen(repr=False)
class CallbackCase:
    """One way along which a callback is tested.

    Attributes:
        path: the way.
        make: makes the callback.
    """

    path: Path
    make: Make
    trial: CallbackTrial = field(repr=False)
    anchors: int = 2
    steers: bool = False

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<CallbackCase {self}>"

    def check(self) -> None:
        """Goes the way.

        Raises:
            AssertionError: see `callback_cases`.
        """
        __tracebackhide__ = True  # pytest shows the line of the test
        callback = self.make()
        _, plain_run = self.trial.begin(self.path, 1, ())
        expected = go(_held_to_its_word(plain_run))
        guide, run = self.trial.begin(self.path, 1, (callback,))
        run = _held_to_its_word(run)
        cuts = _Cuts(run, callback)
        guide.anchored = lambda at: cuts.cut(at) if self._is_late(at) else None
        error = go(run)
        self._judge(guide, error, expected)
        self._judge_way(guide, callback)
        if cuts.failed is not None:
            raise AssertionError(
                f"{self._where(callback)}: state_dict() at anchor {cuts.failed[0]!r}:"
                f" {cuts.failed[1]}"
            ) from cuts.failed[1]
        if self.trial.context is None and expected is None and not guide.left:
            self._judge_end(run, plain_run, callback)
        if self.trial.context is not None:
            for place, _, state in cuts.found:
                self._round_trip(place, state)
        elif cuts.found:
            end = state_of(run)
            for place, at, data in cuts.found:
                self._continue(place, at, data, end)

    def _is_late(self, at: int) -> bool:
        """Whether an anchor is one of the last of the way; `at` is the number of the next arrow."""
        life = self.path.lifecycle
        onward = [arrow.dest for arrow in self.path.transitions[at:] if arrow.dest in life.names]
        return sum(life.state(name).anchor for name in onward) < self.anchors

    def _where(self, callback: Callback | None = None) -> str:
        return f"{name_of(callback or self.make())} on the way that {self.path}"

    def _judge(
        self, guide: Guide, error: BaseException | None, expected: BaseException | None
    ) -> None:
        """Asserts that no hook failed and that the run ended as it does without the callback."""
        __tracebackhide__ = True
        if guide.failures:
            hook, cause = guide.failures[0]
            raise AssertionError(f"{self._where()}: {hook} failed: {_describe(cause)}") from cause
        late = [note for note in getattr(error, "__notes__", []) if "while closing the run" in note]
        if late:
            raise AssertionError(
                f"{self._where()}: on_enter_failed or a clean-up failed:"
                f" {late[0].rpartition('raised too: ')[2]}"
            ) from error
        if type(error) is not type(expected) and not guide.left:
            why = ". ".join(getattr(error, "__notes__", []))
            raise AssertionError(
                f"{self._where()}: the run ended with {_describe(error)}, and without the callback"
                f" with {_describe(expected)}{why and f' ({why})'}"
            ) from error
        if guide.left and error is not None:
            raise AssertionError(
                f"{self._where()}: the callback led the run elsewhere, where it failed with"
                f" {_describe(error)}"
            ) from error

    def _judge_way(self, guide: Guide, callback: Callback) -> None:
        """Asserts that the run was not led elsewhere, unless that is what the callback is for."""
        __tracebackhide__ = True
        if not guide.left or self.steers or "stop" in _written_by(callback):
            return
        raise AssertionError(
            f"{self._where(callback)}: it led the run another way, by {guide.led}. If it is to"
            " steer, declare writes = {'stop'}, or check it with steers=True"
        )

    def _judge_end(self, run: Any, plain: Any, callback: Callback) -> None:
        """Asserts that the run ended as it does without the callback, but for what it declares."""
        __tracebackhide__ = True
        spared = _spared(_written_by(callback))
        words = [
            word
            for word in differences(state_of(plain), state_of(run))
            if not word.startswith(spared)
        ]
        if words:
            raise AssertionError(
                f"{self._where(callback)}: it changed what it does not declare to write (writes ="
                f" {sorted(_written_by(callback)) or 'nothing'}):{list_words(words)}"
            )

    def _round_trip(self, place: str, state: Any) -> None:
        """Asserts that a fresh callback that takes a state gives the same state."""
        __tracebackhide__ = True
        fresh = self.make()
        if state is None:
            return
        # It has one, else there were no state
        fresh.load_state_dict(copy.deepcopy(state))  # type: ignore[attr-defined]
        # Likewise
        if words := list(differences(state, fresh.state_dict())):  # type: ignore[attr-defined]
            raise AssertionError(
                f"{self._where(fresh)}: what it gave to be saved at anchor {place!r} does not come"
                f" back:{list_words(words)}"
            )

    def _continue(self, place: str, at: int, data: Any, end: Any) -> None:
        """Asserts that a run cut at an anchor and resumed with a fresh callback ends the same."""
        __tracebackhide__ = True
        callback = self.make()
        guide, run = self.trial.begin(self.path, at, (callback,))
        words = _continued(run, data, end)
        if not words:
            return
        hints = ""
        if guide.failures:
            hints += f", after {guide.failures[0][0]} failed"
        if not hasattr(callback, "state_dict"):
            hints += f"; {name_of(callback)} has no state_dict: is what it remembers lost?"
        _, bare = self.trial.begin(self.path, 1, ())
        if _differs(self, at, bare):
            hints += (
                " (the run without the callback does not resume exactly either, so the lifecycle"
                " itself may be the cause)"
            )
        raise AssertionError(
            f"{self._where(callback)}: cut at anchor {place!r} and continued with a fresh callback,"
            f" the run ends differently{hints}:{list_words(words)}"
        )


_TRAINING = frozenset(
    {
        *("params", "model", "grads", "grad_norms", "updates", "update_norms", "optimizers", "opt"),
        *("batch", "input", "target", "pred", "interms", "loss_grad", "loss_value", "loss_states"),
        *("train_data", "valid_data", "tallies", "tally", "backward", "step_opt", "inputs", "kept"),
        *("loss_fns", "loss_fn", "accelerator", "read_batch", "pick", "scaler", "grad_norm"),
    }
)
"""Fields through which a callback reaches the weights, and with them all that follows."""

# What is a callback's own in a snapshot, wherever it is noted.
_ITS_OWN = ("callbacks", "fields.marks", "random.streams", "records")


def _written_by(callback: Callback) -> set[str]:
    """The fields that a callback declares to write."""
    return {root_of(path) for path in paths_in(unwrapped(callback).writes)}


def _spared(written: set[str]) -> tuple[str, ...]:
    """The beginnings of what may differ where these fields are written."""
    if written & _TRAINING or "*" in written or "**" in written:
        return ("",)
    names = tuple(f"fields.{name}" for name in sorted(written))
    if written & {"history", "logged", "logged_means"}:
        names += ("history", "fields.logged", "fields.logged_means")
    return (*_ITS_OWN, *names, *sorted(written))


def _differs(case: CallbackCase, at: int, bare: Any) -> bool:
    """Whether a run without callbacks, resumed at the same place, ends differently."""
    cuts = _Cuts(bare, None)
    bare.machine.callbacks[-1].anchored = cuts.cut
    go(bare)
    data = next((data for _, place, data in cuts.found if place == at), None)
    return data is not None and bool(
        _continued(case.trial.begin(case.path, at, ())[1], data, state_of(bare))
    )


def _continued(run: Any, data: Any, end: Any) -> list[str]:
    """How a run that is continued from saved data ends differently from another."""
    from statetrain.checkpoints import plain
    from statetrain.checkpoints.restoring import restore

    data = plain.decode(data[0], {name: tensor.clone() for name, tensor in data[1].items()})
    try:
        restore(run.ctx, run.machine, data)
    except Exception as error:
        return [f"it could not be put back: {error}"]
    raised = go(run, data["state"])
    words = list(differences(end, state_of(run)))
    if words and raised is not None:
        words.append(f"the continued run failed with {_describe(raised)}")
    return words


def _held_to_its_word(run: Any) -> Any:
    """The run in debug mode, if its machine has one: undeclared or impossible reads are errors."""
    if "debug" in attrs.fields_dict(type(run.machine)):
        changes: dict[str, Any] = {"debug": True}
        with unwitnessed():
            return attrs.evolve(run, machine=attrs.evolve(run.machine, **changes))
    return run


class _Cuts:
    """What a run would save at its anchors, as it would come back from a file."""

    def __init__(self, run: Any, callback: Any) -> None:
        self.run, self.callback = run, callback
        self.found: list[tuple[str, int, Any]] = []
        self.failed: tuple[str, Exception] | None = None

    def cut(self, at: int) -> None:
        """Takes a snapshot; a failure is kept for later, so that it does not change the run."""
        ctx = self.run.ctx  # what a hook is given may be a view of it
        from statetrain.checkpoints import plain
        from statetrain.checkpoints.snapshot import snapshot
        from statetrain.context.context import Context

        try:
            if isinstance(ctx, Context):
                structure, tensors = plain.encode(snapshot(ctx, self.run.machine))
                data: Any = (structure, {name: tensor.clone() for name, tensor in tensors.items()})
            else:
                data = None
                if hasattr(self.callback, "state_dict") and hasattr(
                    self.callback, "load_state_dict"
                ):
                    data = self.callback.state_dict()
                plain.encode(data)
                data = copy.deepcopy(data)
        except Exception as error:
            self.failed = self.failed or (ctx.state, error)
            return
        self.found.append((ctx.state, at, data))


def _maker(callback: Callback | Make) -> Make:
    if isinstance(callback, Callback):
        return lambda: copy.deepcopy(callback)
    return callback


def _seed() -> None:
    import torch

    torch.manual_seed(0)
    random.seed(0)


def _describe(error: BaseException | None) -> str:
    if error is None:
        return "no error"
    return f"{type(error).__name__}: {error}"
