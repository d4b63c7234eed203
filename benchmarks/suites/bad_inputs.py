"""Bad input: the expected error, before the first step where it can be known, and nothing written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import statetrain as st
from statetrain.checkpoints.lock import Lock
from suites.case import Case, listening, refused, scratch
from suites.toy import Net, Samples

TITLE = "bad input"
GOAL = 60

SGD = torch.optim.SGD


def data(rows: int = 22) -> tuple[torch.Tensor, torch.Tensor]:
    made = Samples()
    return torch.cat([made.inputs, torch.zeros(len(made), 1)], 1)[:rows], made.targets[:rows]


def fit(folder: Path, model: Any = ..., train: Any = ..., **more: Any) -> st.Run:
    """A fit that would save, with one thing wrong."""
    torch.manual_seed(0)
    given = {
        "loss": F.cross_entropy,
        "optimizer": SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        "dataloader_options": {"batch_size": 8},
    }
    saving = st.Checkpoint(folder, st.Every(1, "steps"))
    callbacks = more.pop("callbacks", [])
    callbacks = [saving, *callbacks] if isinstance(callbacks, list) else callbacks
    if not isinstance(train, tuple) and train is not ...:
        given.pop("dataloader_options")
    return st.fit(
        Net() if model is ... else model,
        data() if train is ... else train,
        callbacks=callbacks,
        verbose=False,
        **{**given, **more},
    )


class Misspelt(st.Callback):
    """Has a hook that no state has."""

    def on_enter_bacth(self, ctx: Any) -> None: ...


class NoKind(st.Callback):
    """Has a hook that is none."""

    def on_batch(self, ctx: Any) -> None: ...


class NoContext(st.Callback):
    """Has a hook that takes nothing."""

    def on_enter_batch(self) -> None: ...


class Fine(st.Callback):
    """Is all right."""

    def on_enter_batch(self, ctx: Any) -> None: ...


class Unsavable(st.Callback):
    """Has a state that no file can hold."""

    def state_dict(self) -> dict[str, Any]:
        return {"thing": object()}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def _one_shot() -> Iterator[Any]:
    yield from DataLoader(TensorDataset(*data()), 8)


def _elsewhere() -> torch.optim.Optimizer:
    return SGD(nn.Linear(4, 3).parameters(), lr=0.1)


def _patience(n: Any, folder: Path) -> st.Guard:
    return st.EarlyStopping("valid_loss", patience=n)


def _option(name: str, value: Any, folder: Path) -> st.Run:
    return fit(folder, **{name: value})


def _second(folder: Path) -> st.Run:
    Lock(folder).take()
    return fit(folder)


FINE = Fine()
Work = Callable[[Path], object]

# What is done, the error, and words of it. Nothing of it may draw a batch, touch a weight or leave
# a file.
BEFORE: dict[str, tuple[Work, type[BaseException], str]] = {
    "model None": (
        lambda folder: fit(folder, None),
        st.ConfigError,
        "model must be a torch.nn.Module or a class of one, got None",
    ),
    "model a function": (
        lambda folder: fit(folder, len),
        st.ConfigError,
        "model must be a torch.nn.Module",
    ),
    "model another class": (
        lambda folder: fit(folder, dict),
        st.ConfigError,
        "model must be a torch.nn.Module",
    ),
    "model without parameters": (
        lambda folder: fit(folder, nn.ReLU()),
        st.ConfigError,
        "no parameter to train",
    ),
    "model all frozen": (
        lambda folder: fit(folder, Net().requires_grad_(False)),
        st.ConfigError,
        "no parameter to train",
    ),
    "hparams for an instance": (
        lambda folder: fit(folder, hparams={"a": 1}),
        st.ConfigError,
        "hparams are for making a model",
    ),
    "optimizer None": (
        lambda folder: fit(folder, optimizer=None),
        st.ConfigError,
        "fit needs an optimizer",
    ),
    "optimizer a word": (
        lambda folder: fit(folder, optimizer="adam"),
        st.ConfigError,
        "optimizer must be an optimizer",
    ),
    "optimizer of another model": (
        lambda folder: fit(folder, optimizer=_elsewhere(), opt_hparams=None),
        st.ConfigError,
        "none of the model's parameters",
    ),
    "optimizers, none named": (
        lambda folder: fit(folder, optimizer={}),
        st.ConfigError,
        "names no optimizer",
    ),
    "optimizer for no part": (
        lambda folder: fit(folder, optimizer={"tail": SGD}),
        st.ConfigError,
        "model.tail, which is no module",
    ),
    "opt_hparams misspelt": (
        lambda folder: fit(folder, opt_hparams={"lrr": 1}),
        st.ConfigError,
        "do not make the optimizer SGD",
    ),
    **{
        f"lr {lr}": (partial(fit, opt_hparams={"lr": lr}), st.ConfigError, word)
        for lr, word in (
            (-1.0, "Invalid learning rate"),
            (math.nan, "no finite number"),
            (math.inf, "no finite number"),
        )
    },
    "schedule that cannot be made": (
        lambda folder: fit(
            folder, callbacks=[st.LRScheduler(torch.optim.lr_scheduler.StepLR, stepsize=1)]
        ),
        st.ConfigError,
        "cannot be called with",
    ),
    "schedule of an unknown optimizer": (
        *(
            lambda folder: fit(
                folder,
                callbacks=[
                    st.LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1, optimizer="critic")
                ],
            ),
            st.ConfigError,
        ),
        "critic",
    ),
    "loader None": (lambda folder: fit(folder, train=None), st.ConfigError, "train must be"),
    "loader a number": (lambda folder: fit(folder, train=3), st.ConfigError, "train must be"),
    "loader empty": (lambda folder: fit(folder, train=[]), st.ConfigError, ""),
    "loader empty after drop_last": (
        lambda folder: fit(folder, train=DataLoader(TensorDataset(*data(5)), 8, drop_last=True)),
        st.ConfigError,
        "drop_last",
    ),
    "loader one-shot, two epochs": (
        lambda folder: fit(folder, train=_one_shot()),
        st.ConfigError,
        "function that makes one",
    ),
    "loss None": (lambda folder: fit(folder, loss=None), st.ConfigError, "loss must be a function"),
    "loss a class": (
        lambda folder: fit(folder, loss=nn.CrossEntropyLoss),
        st.ConfigError,
        "write CrossEntropyLoss()",
    ),
    "loss a word": (
        lambda folder: fit(folder, loss="mse"),
        st.ConfigError,
        "loss must be a function",
    ),
    **{
        f"epochs {value!r}": (partial(fit, epochs=value), st.ConfigError, f"got {value!r}")
        for value in (-1, 1.5, "3", True, (2,), (-1, 2))
    },
    "epochs without end": (lambda folder: fit(folder, epochs=None), st.ConfigError, "has no end"),
    "epochs, least above most": (
        lambda folder: fit(folder, epochs=(5, 3)),
        st.ConfigError,
        "above the most",
    ),
    **{
        f"{name} {value!r}": (partial(_option, name, value), st.ConfigError, f"got {value!r}")
        for name in ("accumulate", "max_steps")
        for value in (0, -3, 2.0, True)
    },
    **{
        f"patience {n!r}": (partial(_patience, n), ValueError, "patience must be a whole number")
        for n in (0, -1, 1.5)
    },
    **{
        f"share {share}": (partial(fit, valid=share), st.ConfigError, "must lie between 0 and 1")
        for share in (0.0, 1.0, -0.2, 1.5, math.nan)
    },
    "share that leaves nothing": (
        lambda folder: fit(folder, valid=0.001),
        st.ConfigError,
        "of 22 samples leaves 22 for training and 0 for validation",
    ),
    "monitor unknown": (
        lambda folder: fit(folder, stop=st.EarlyStopping("train_los")),
        st.ConfigError,
        "did you mean 'train_loss'",
    ),
    "monitor of a checkpoint unknown": (
        lambda folder: fit(folder, callbacks=[st.KeepBest("valid_loss")]),
        st.ConfigError,
        "no validation data",
    ),
    "mode misspelt": (
        # On purpose
        lambda folder: st.EarlyStopping("valid_loss", mode="minimum"),  # type: ignore[arg-type]
        ValueError,
        "mode must be one of",
    ),
    "callbacks None": (lambda folder: fit(folder, callbacks=None), st.CallbackError, "got None"),
    "callback a class": (
        lambda folder: fit(folder, callbacks=[Fine]),
        st.CallbackError,
        "write Fine()",
    ),
    "callback twice": (
        lambda folder: fit(folder, callbacks=[FINE, FINE]),
        st.CallbackError,
        "given twice",
    ),
    "hook misspelt": (
        lambda folder: fit(folder, callbacks=[Misspelt()]),
        st.CallbackError,
        "did you mean 'on_enter_batch'",
    ),
    "hook of no kind": (
        lambda folder: fit(folder, callbacks=[NoKind()]),
        st.CallbackError,
        "has 'on_batch'",
    ),
    "hook without the context": (
        lambda folder: fit(folder, callbacks=[NoContext()]),
        st.CallbackError,
        "must take the context",
    ),
    "guard a class": (
        lambda folder: fit(folder, stop=st.EarlyStopping),
        st.GuardError,
        "give an instance",
    ),
    "guard a number": (lambda folder: fit(folder, stop=5), st.GuardError, "got 5"),
    "policy misspelt": (
        lambda folder: fit(folder, non_finite="skipp"),
        st.ConfigError,
        "did you mean 'skip'",
    ),
    "interval without a unit": (
        lambda folder: fit(folder, valid=data(), validate=2),
        st.ConfigError,
        "takes an interval with its unit",
    ),
    "saving without a unit": (
        lambda folder: st.Checkpoint(folder, 5),  # type: ignore[arg-type]  # on purpose
        st.ConfigError,
        "takes an interval with its unit",
    ),
    "keeping nothing": (
        lambda folder: st.Checkpoint(folder, keep=0),
        st.ConfigError,
        "keep must be",
    ),
    **{
        f"seed {value!r}": (partial(fit, seed=value), st.ConfigError, f"got {value!r}")
        for value in (-1, 2**64, 0.5, True)
    },
    "device unknown": (
        lambda folder: fit(folder, device="gpu"),
        st.ConfigError,
        "'gpu' cannot be used",
    ),
    "resume without a checkpoint": (
        lambda folder: fit(folder, resume=str(folder / "nothing")),
        st.ConfigError,
        "there is no checkpoint",
    ),
    "resume from nowhere": (
        lambda folder: st.fit(Net(), data(), loss=F.cross_entropy, optimizer=SGD, resume="last"),
        st.ConfigError,
        "needs to know where",
    ),
    "resume misspelt": (lambda folder: fit(folder, resume="lst"), st.ConfigError, "'lst'"),
    "resume the best of nothing": (
        lambda folder: fit(folder, resume="best"),
        st.ConfigError,
        "without a monitor",
    ),
    # Lifecycles that are not sound.
    "state with two unguarded arrows": (
        lambda folder: _life(
            st.Transition("a", "end"), st.Transition("a", "b"), st.Transition("b", "end")
        ),
        st.LifecycleError,
        "hidden behind",
    ),
    "state without a way out": (
        lambda folder: _life(st.Transition("a", "b")),
        st.LifecycleError,
        "no arrow out",
    ),
    "state that cannot be reached": (
        lambda folder: _life(st.Transition("a", "end"), st.Transition("b", "end")),
        st.LifecycleError,
        "no arrow leads to 'b'",
    ),
    "state whose guards may all be false": (
        lambda folder: _life(st.Transition("a", "b", st.stop_requested), st.Transition("b", "end")),
        st.LifecycleError,
        "may be false",
    ),
    "no path to the end": (
        lambda folder: _life(st.Transition("a", "b"), st.Transition("b", "a")),
        st.LifecycleError,
        "'end' cannot be reached",
    ),
    "two states of one name": (
        lambda folder: st.Lifecycle(
            "x",
            [st.State("a"), st.State("a"), st.State("end", final=True)],
            [st.Transition("a", "end")],
        ),
        st.LifecycleError,
        "two states are called 'a'",
    ),
    "event unknown": (
        # On purpose
        lambda folder: _life(st.Transition("a", "end"), st.Transition("a", "b", event="Skip")),  # type: ignore[arg-type]
        st.LifecycleError,
        "event must be a class",
    ),
    "arrow out of the end": (
        lambda folder: _life(st.Transition("a", "end"), st.Transition("end", "a")),
        st.LifecycleError,
        "leaves a final state",
    ),
    # Directories.
    "directory that is a file": (
        lambda folder: (folder.write_text("x"), fit(folder)),
        st.CheckpointError,
        "cannot be written",
    ),
    "directory with a NUL": (
        lambda folder: fit(folder / "a\0b"),
        (ValueError, st.CheckpointError),
        "",
    ),  # type: ignore[dict-item]  # two kinds serve
    "directory with a name too long": (
        lambda folder: fit(folder / ("x" * 300)),
        st.CheckpointError,
        "cannot be written",
    ),
    "directory within a file": (
        lambda folder: (folder.write_text("x"), fit(folder / "y")),
        st.CheckpointError,
        "cannot be written",
    ),
    "directory in use": (_second, st.CheckpointError, "in use by process"),
    "state that cannot be saved": (
        lambda folder: fit(folder, callbacks=[Unsavable()]),
        st.CheckpointError,
        "cannot be saved",
    ),
}


def _life(*arrows: st.Transition) -> st.Lifecycle:
    names = dict.fromkeys(
        name for arrow in arrows for name in (arrow.source, arrow.dest) if name != "end"
    )
    return st.Lifecycle("x", [*map(st.State, names), st.State("end", final=True)], list(arrows))


def _returns(value: Any) -> st.Callback:
    return type("Returns", (st.Callback,), {"on_enter_step": lambda self, ctx: value})()  # type: ignore[no-any-return]


class _Losses:
    """A loss that is wrong."""

    def __init__(self, wrong: Callable[[Any, Any], Any]) -> None:
        self.wrong = wrong

    def __call__(self, pred: Any, target: Any) -> Any:
        return self.wrong(pred, target)


def _yields(*batches: Any) -> list[Any]:
    return list(batches)


INPUT, TARGET = data(8)

# What only a batch or a guard can show: it fails in the first step, before a weight has moved.
# Two kinds serve
FIRST: dict[str, tuple[Work, type[BaseException], str]] = {
    "model that returns None": (
        lambda folder: fit(folder, type("N", (Net,), {"forward": lambda self, x: None})()),
        TypeError,
        "the model returned None",
    ),
    "loss of each sample": (
        lambda folder: fit(
            folder, loss=_Losses(lambda p, t: F.cross_entropy(p, t, reduction="none"))
        ),
        st.LossError,
        "with .mean()",
    ),
    "loss a float": (
        lambda folder: fit(folder, loss=_Losses(lambda p, t: 0.5)),
        st.LossError,
        "got float",
    ),
    "loss detached": (
        lambda folder: fit(folder, loss=_Losses(lambda p, t: F.cross_entropy(p, t).detach())),
        st.LossError,
        "has no gradient",
    ),
    "loss an integer": (
        lambda folder: fit(folder, loss=_Losses(lambda p, t: t.sum())),
        st.LossError,
        "has no gradient",
    ),
    "loss complex": (
        lambda folder: fit(folder, loss=_Losses(lambda p, t: torch.complex(p.mean(), p.mean()))),
        st.LossError,
        "real number",
    ),
    "loss NaN": (
        lambda folder: fit(folder, loss=_Losses(lambda p, t: p.mean() * math.nan)),
        st.NonFiniteLoss,
        "nan",
    ),
    "batch None": (lambda folder: fit(folder, train=_yields(None)), (st.DataError, TypeError), ""),  # type: ignore[dict-item]
    "batch a text": (lambda folder: fit(folder, train=_yields("abc")), st.DataError, "str"),
    "batch a number": (lambda folder: fit(folder, train=_yields(3)), st.DataError, "int"),
    "batch of another type": (
        lambda folder: fit(folder, train=_yields((INPUT.double(), TARGET))),
        RuntimeError,
        "dtype",
    ),
    "batch of another width": (
        lambda folder: fit(folder, train=_yields((INPUT[:, :3], TARGET))),
        RuntimeError,
        "shapes",
    ),
    "loader that raises": (lambda folder: fit(folder, train=_Breaks()), OSError, "gone"),
    "loader that gives nothing": (
        lambda folder: fit(folder, train=lambda: iter([])),
        st.DataError,
        "gave no batch",
    ),
    "hook that returns junk": (
        lambda folder: fit(folder, callbacks=[_returns(42)]),
        st.CallbackError,
        "must return nothing",
    ),
    "guard that raises": (
        lambda folder: fit(folder, stop=_answers(ZeroDivisionError("here"))),
        ZeroDivisionError,
        "here",
    ),
    "guard that answers a tensor": (
        lambda folder: fit(folder, stop=_answers(torch.tensor(True))),
        st.GuardError,
        "True or False, got Tensor",
    ),
    "guard that answers a number": (
        lambda folder: fit(folder, stop=_answers(1)),
        st.GuardError,
        "True or False, got int",
    ),
    "guard that answers nothing": (
        lambda folder: fit(folder, stop=_answers(None)),
        st.GuardError,
        "True or False, got NoneType",
    ),
    "run inside a callback": (
        lambda folder: fit(folder, callbacks=[_Again()]),
        st.MachineError,
        "in a run already",
    ),
}


class _Breaks:
    def __iter__(self) -> Iterator[Any]:
        raise OSError("gone")


class _Again(st.Callback):
    def on_enter_step(self, ctx: Any) -> None:
        ctx.machine.run(ctx)


def _answers(answer: Any) -> st.Guard:
    @st.guard
    def answering(ctx: Any) -> Any:
        "answering"
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return answering


def before(work: Work, kind: Any, words: str) -> None:
    """Nothing is trained, nothing is written."""
    with scratch() as base, listening():
        folder = base / "run"
        said = refused(lambda: work(folder), *(kind if isinstance(kind, tuple) else (kind,)))
        assert words in said, f"it says: {said}"
        # Of a preflight, and of whoever was there first
        left = [
            path
            for path in base.rglob("*")
            if path.is_file() and path != folder and path.name not in ("failure.json", "LOCK")
        ]
        assert not left, f"it left {left}"


def first(work: Work, kind: Any, words: str) -> None:
    """No weight has moved, no checkpoint is there, and the error says where."""
    with scratch() as base, listening():
        folder = base / "run"
        said = refused(lambda: work(folder), *(kind if isinstance(kind, tuple) else (kind,)))
        assert words in said, f"it says: {said}"
        assert "in state '" in said, f"it does not say where: {said}"
        # Which tells of it
        left = [path for path in base.rglob("*") if path.is_file() and path.name != "failure.json"]
        assert not left, f"it left {left}"


def cases() -> list[Case]:
    """Each of both lists."""
    found = [
        Case(f"{name}, before anything", partial(before, *row)) for name, row in BEFORE.items()
    ]
    return found + [
        Case(f"{name}, in the first step", partial(first, *row)) for name, row in FIRST.items()
    ]
