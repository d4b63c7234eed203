"""Exceptions of every kind from every place: hooks, actions, guards, effects, data, workers, the model, losses, metrics, optimizers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

import statetrain as st
from statetrain.checkpoints import directory
from suites.case import Case, refused, scratch
from suites.saves import INTERVAL
from suites.toy import BATCH, Samples, Setting, digest, train

TITLE = "exceptions"
GOAL = 160

SETTING = Setting(inside=True)


class Own(BaseException):
    """What no library knows."""


KINDS: tuple[Callable[[], BaseException], ...] = (
    *(
        lambda: OSError("broken"),
        lambda: MemoryError("full"),
        lambda: KeyboardInterrupt("now"),
        lambda: SystemExit(3),
    ),
    *(
        lambda: StopIteration("enough"),
        lambda: GeneratorExit("closed"),
        lambda: asyncio.CancelledError("cancelled"),
        lambda: Own("own"),
    ),
)


class Bomb:
    """Raises once, when it has been passed so many times."""

    def __init__(self, error: BaseException, after: int = 1) -> None:
        self.error, self.left = error, after

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error

    def __deepcopy__(
        self, memo: object
    ) -> Bomb:  # each set has its own copy of a metric; the error is one
        return self


class Ends(st.Callback):
    """Notes the clean-ups that run."""

    anywhere = True

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.failed = 0

    def on_enter_fit(self, ctx: Any) -> None:
        for name in ("first", "second"):
            ctx.defer(partial(self.ended.append, name))

    def on_enter_failed(self, ctx: Any) -> None:
        self.failed += 1
        assert ctx.error is not None


def _hook(name: str, bomb: Bomb) -> dict[str, Any]:
    listener = type("Listener", (st.Callback,), {name: lambda self, ctx: bomb()})()
    return {"callbacks": [listener]}


class Wrapped(st.Callback):
    """Makes a state's own work fail: the action, the guards that are asked there, or its close work."""

    anywhere = True

    def __init__(self, wanted: Callable[[Any, str, str], bool], bomb: Bomb, after: bool) -> None:
        self.wanted, self.bomb, self.after = wanted, bomb, after

    def wrap_call(
        self, function: Callable[[Any], Any], state: str, hook: str
    ) -> Callable[[Any], Any]:
        if hook or not self.wanted(function, state, hook):
            return function

        def call(ctx: Any) -> Any:
            if not self.after:
                self.bomb()
            result = function(ctx)
            if self.after:
                self.bomb()
            return result

        return call


def _in_state(state: str, after: bool, bomb: Bomb) -> dict[str, Any]:
    return {"callbacks": [Wrapped(lambda function, at, hook: at == state, bomb, after)]}


class _Data(Samples):
    def __init__(self, bomb: Bomb) -> None:
        super().__init__()
        self.bomb = bomb

    def __getitem__(self, index: int) -> Any:
        if index == 13:  # somewhere in each epoch
            self.bomb()
        return super().__getitem__(index)


def _dataset(workers: int, bomb: Bomb) -> dict[str, Any]:
    return {"train": DataLoader(_Data(bomb), BATCH, shuffle=True, num_workers=workers)}


def _valid_dataset(bomb: Bomb) -> dict[str, Any]:
    return {"valid": DataLoader(_Data(bomb), BATCH)}


class _Loader:
    """Batches by hand, without a length."""

    def __init__(self, bomb: Bomb, where: str) -> None:
        self.bomb, self.where = bomb, where

    def __iter__(self) -> Iterator[Any]:
        if self.where == "iter":
            self.bomb()
        return _Batches(DataLoader(Samples(), BATCH), self.bomb if self.where == "next" else None)


class _Batches(Iterator[Any]):
    def __init__(self, loader: Any, bomb: Bomb | None) -> None:
        self.inner, self.bomb = iter(loader), bomb

    def __next__(self) -> Any:
        if self.bomb is not None:
            self.bomb()
        return next(self.inner)


def _loss(bomb: Bomb) -> dict[str, Any]:
    def loss(pred: Any, target: Any) -> Any:
        bomb()
        return F.cross_entropy(pred, target)

    return {"loss": loss}


class _Sensitive(torch.autograd.Function):
    bomb: Bomb

    @staticmethod
    def forward(ctx: Any, value: Any) -> Any:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        _Sensitive.bomb()
        return gradient


def _sensitive(value: Any) -> Any:
    return _Sensitive.apply(value)  # type: ignore[no-untyped-call]  # torch leaves it without types


def _backward(bomb: Bomb) -> dict[str, Any]:
    _Sensitive.bomb = bomb
    return {"loss": lambda pred, target: F.cross_entropy(_sensitive(pred), target)}


def _optimizer(bomb: Bomb) -> dict[str, Any]:
    class Fragile(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            bomb()
            return super().step(closure)

    Fragile.__name__ = "SGD"
    return {"optimizer": Fragile}


class _Metric:
    def __init__(self, bomb: Bomb | None, where: str) -> None:
        self.bomb, self.where, self.total = bomb, where, 0

    def _maybe(self, where: str) -> None:
        if self.bomb is not None and self.where == where:
            self.bomb()

    def update(self, pred: Any, target: Any) -> None:
        self._maybe("update")
        self.total += len(target)

    def compute(self) -> float:
        self._maybe("compute")
        return self.total

    def reset(self) -> None:
        self._maybe("reset")
        self.total = 0

    def state_dict(self) -> dict[str, int]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.total = state["total"]


def _metric(where: str, bomb: Bomb) -> dict[str, Any]:
    return {"metrics": {"n": _Metric(bomb, where)}}


def _guard(bomb: Bomb) -> dict[str, Any]:
    @st.guard
    def fragile(ctx: Any) -> bool:
        "fragile"
        bomb()
        return False

    return {"stop": fragile}


def _cleanup(bomb: Bomb) -> dict[str, Any]:
    listener = type(
        "Listener", (st.Callback,), {"on_enter_fit": lambda self, ctx: ctx.defer(bomb)}
    )()
    return {"callbacks": [listener]}


HOOKS = (
    *(
        f"on_{way}_{state}"
        for state in (
            "epoch",
            "train",
            "batch",
            "pred",
            "loss",
            "backward",
            "step",
            "valid",
            "valid_pred",
            "record",
        )
        for way in ("enter", "exit")
    ),
    *(
        "on_enter_fit",
        "on_exit_fit",
        "on_enter_draw",
        "on_exit_next_batch",
        "on_enter_next_epoch",
        "on_anchor",
        "on_transition",
        "on_enter_end",
    ),
)
ACTIONS = (
    "fit",
    "epoch",
    "train",
    "draw",
    "batch",
    "pred",
    "loss",
    "backward",
    "step",
    "valid",
    "valid_draw",
    "valid_loss",
    "record",
    "next_batch",
)

# A place, and what makes it raise; after how many times that are passed.
PLACES: dict[str, tuple[Callable[[Bomb], dict[str, Any]], int]] = {
    **{
        hook: (
            partial(_hook, hook),
            1 if hook in ("on_enter_fit", "on_exit_fit", "on_enter_end") else 2,
        )
        for hook in HOOKS
    },
    **{
        f"before the work of {state}": (
            partial(_in_state, state, False),
            1 if state == "fit" else 2,
        )
        for state in ACTIONS
    },
    **{
        f"after the work of {state}": (partial(_in_state, state, True), 1 if state == "fit" else 2)
        for state in ACTIONS
    },
    "a sample": (partial(_dataset, 0), 2),
    "a sample of the validation": (_valid_dataset, 2),
    "a loader's iter": (lambda bomb: {"train": _Loader(bomb, "iter")}, 2),
    "a loader's next": (lambda bomb: {"train": _Loader(bomb, "next")}, 5),
    "a loss": (_loss, 4),
    "a backward": (_backward, 4),
    "an optimizer": (_optimizer, 4),
    "a guard": (_guard, 2),
    **{
        f"a metric's {where}": (partial(_metric, where), 4)
        for where in ("update", "compute", "reset")
    },
}


@cache
def straight(place: str) -> str:
    """How the run ends if nothing is raised there."""
    return digest(_run(place, None, Bomb(OSError(), -1)))


def _run(
    place: str, folder: Path | None, bomb: Bomb, *callbacks: st.Callback, **options: Any
) -> st.Run:
    make, _ = PLACES[place]
    given = make(bomb)
    listeners = [*given.pop("callbacks", []), *callbacks]
    return train(SETTING, folder, *listeners, **given, **options)


def raised(place: str, kind: Callable[[], BaseException]) -> None:
    """Raises it there, looks at what comes out, and goes on without."""
    error, ends = kind(), Ends()
    with scratch() as base:
        folder = base / "run"
        bomb = Bomb(error, PLACES[place][1])
        try:
            run, out = _run(place, folder, bomb, ends), None
        except BaseException as caught:
            run, out = caught.run, caught  # type: ignore[attr-defined]  # a promise of `fit`
        assert bomb.left <= 0, "it was never raised"
        _comes_out(place, error, out, run, ends)
        assert not (folder / "LOCK").exists(), "the directory is still locked"
        assert torch.is_grad_enabled(), "gradients were left off"
        assert all(module.training for module in run.model.modules()), (
            "the model was left in evaluation"
        )
        run.evaluate(DataLoader(Samples(), BATCH))
        found = directory.newest(folder, aside=False)
        step = found.about["step"] if found is not None else 0
        assert run.ctx.step - step <= INTERVAL[SETTING.saving], (
            f"it failed in step {run.ctx.step}, and {step} is saved"
        )
        # A function, or a metric, that has counted down is another one.
        changed = (
            {"resume": "last", "allow_changes": ("loss", "metrics")} if found is not None else {}
        )
        seed = 5 if found is not None else 0
        again = _run(place, folder, Bomb(OSError(), -1), start_seed=seed, **changed)
        assert digest(again) == straight(place), "it went on to other bits"


def _comes_out(
    place: str, error: BaseException, out: BaseException | None, run: st.Run, ends: Ends
) -> None:
    if isinstance(error, KeyboardInterrupt) and out is None:
        assert isinstance(run.outcome, st.Interrupted), run.outcome
    elif isinstance(error, StopIteration):
        if (
            isinstance(out, st.DataError) and out.__cause__ is None
        ):  # torch's loaders pass it on as an end, which is no end of an epoch
            assert "did the dataset raise StopIteration" in str(out), f"{out!r} does not tell of it"
        else:
            assert isinstance(out, st.MachineError | st.DataError), f"{out!r} came out"
            assert out.__cause__ is error, f"{out!r} does not tell of it"
    else:
        assert out is error, f"{out!r} came out"
    if out is not None:
        assert isinstance(run.outcome, st.Failed), run.outcome
        # The outcome keeps a copy without the frames, so that all is freed with the error
        assert type(run.outcome.error) is type(out), run.outcome
        assert repr(run.outcome.error) == repr(out)
        assert ends.failed == 1, f"the hooks of failed ran {ends.failed} times"
        notes = " ".join(getattr(out, "__notes__", ()))
        assert f"in state {run.outcome.state!r} of lifecycle 'supervised'" in notes, (
            f"no note says where: {notes}"
        )
        # A Checkpoint
        if directory.newest(run.ctx.callbacks[0].folder, aside=False) is not None:  # type: ignore[attr-defined]
            assert "the newest checkpoint is" in notes, (
                f"no note says where it goes on from: {notes}"
            )
    if place != "on_enter_fit" or ends.ended:  # it listens after the place
        assert ends.ended == ["second", "first"], f"clean-ups ran as {ends.ended}"


def in_worker(kind: Callable[[], BaseException]) -> None:
    """Raises it in a worker process, which torch tells in its own words."""
    error = kind()
    with scratch() as base:
        folder = base / "run"
        words = refused(
            lambda: train(SETTING, folder, **_dataset(2, Bomb(error))),
            type(error),
            RuntimeError,
            st.DataError,
        )
        expected = (
            "did the dataset raise StopIteration" if isinstance(error, StopIteration) else "worker"
        )
        assert expected in words, f"it does not tell of it: {words}"
        assert "in state 'draw' of lifecycle 'supervised'" in words, f"no note says where: {words}"
        assert not (folder / "LOCK").exists(), "the directory is still locked"
        assert directory.newest(folder, aside=False) is None, (
            "each worker has its own bomb, which went off in the first epoch"
        )
        assert digest(train(SETTING, folder)) == straight("a sample"), "it went on to other bits"


def cases() -> list[Case]:
    """Each kind in each place."""
    # What an iterator without a length raises as its end is its end; nobody could tell.
    pairs = [
        (place, kind)
        for place in PLACES
        for kind in KINDS
        if (place, type(kind())) != ("a loader's next", StopIteration)
    ]
    found = [Case(f"{kind()!r} in {place}", partial(raised, place, kind)) for place, kind in pairs]
    return found + [
        Case(f"{kind()!r} in a worker", partial(in_worker, kind))
        for kind in (KINDS[0], KINDS[1], KINDS[4])
    ]
