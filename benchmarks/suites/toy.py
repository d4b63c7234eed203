"""A run small enough to be killed a thousand times, with everything in it that a resume could get wrong."""

from __future__ import annotations

import hashlib
import itertools
import random
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from attrs import asdict, frozen
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import statetrain as st
from statetrain import jsons
from statetrain.checkpoints import plain

SIZE, BATCH = 22, 8  # three batches, the last one short
EPOCHS = 2

Augmentation = Literal["none", "torch", "numpy", "random"]


@frozen
class Setting:
    """What a run is made of.

    Attributes:
        augmentation: where the noise on each sample is drawn from.
        workers: processes that load, for training and for validation each.
        accumulate: batches in a window.
        precision: "fp32", "bf16" or "scaled" (float16 with a scaler).
        ema: whether averages of the weights are kept: by `EMA`, which validation looks at, and by a
            callback of the user's.
        best: whether `KeepBest` keeps the best weights, which the run ends with.
        rolls_back: whether a sample is not finite, so that the run goes back once an epoch.
        schedule: what the learning rate does: "constant", "step" (it changes with each step), or
            "plateau" (with the history).
        inside: whether it validates inside epochs too.
        optimizers: 1 or 2.
        seeded: whether randomness goes by key, or by the generators' states.
        saving: "2 steps", "each anchor", or "background" (likewise, in a thread).
        spawned: whether the processes that load are started anew, as on macOS and Windows.
    """

    augmentation: Augmentation = "none"
    workers: Literal[0, 2] = 0
    accumulate: Literal[1, 3] = 1
    precision: Literal["fp32", "bf16", "scaled"] = "fp32"
    ema: bool = False
    best: bool = False
    rolls_back: bool = False
    schedule: Literal["constant", "step", "plateau"] = "constant"
    inside: bool = False
    optimizers: Literal[1, 2] = 1
    seeded: bool = True
    saving: Literal["2 steps", "each anchor", "background"] = "2 steps"
    spawned: bool = False

    def __str__(self) -> str:
        other = {
            name: value for name, value in asdict(self).items() if value != getattr(Setting(), name)
        }
        return (
            ", ".join(name if value is True else f"{name} {value}" for name, value in other.items())
            or "plain"
        )


VALUES: dict[str, tuple[Any, ...]] = {
    "augmentation": ("none", "torch", "numpy", "random"),
    "workers": (0, 2),
    "accumulate": (1, 3),
    "precision": ("fp32", "bf16", "scaled"),
    "ema": (False, True),
    "best": (False, True),
    "rolls_back": (False, True),
    "schedule": ("constant", "step", "plateau"),
    "inside": (False, True),
    "optimizers": (1, 2),
    "seeded": (True, False),
    "saving": ("2 steps", "each anchor", "background"),
}

SPAWNED = Setting("numpy", 2, ema=True, saving="each anchor", spawned=True)
"""Its processes take seconds to start, so it is one setting more."""


def settings() -> list[Setting]:
    """Few settings in which every value of one option meets every value of each other that it can be combined with."""
    every = [Setting(*values) for values in itertools.product(*VALUES.values())]
    # The two together have no one meaning
    every = [one for one in every if one.optimizers == 1 or one.accumulate == 1]
    every = random.Random(0).sample(every, 1500)
    left = set().union(*map(_pairs, every))
    chosen: list[Setting] = []
    while left:
        chosen.append(max(every, key=lambda one: len(_pairs(one) & left)))
        left -= _pairs(chosen[-1])
    # Each augmentation under both numbers of workers, whatever the rest.
    have = {(one.augmentation, one.workers, one.seeded) for one in chosen}
    wanted = [
        Setting(*values) for values in itertools.product(VALUES["augmentation"], VALUES["workers"])
    ]
    return [
        *chosen,
        *(one for one in wanted if (one.augmentation, one.workers, one.seeded) not in have),
        SPAWNED,
    ]


def _pairs(one: Setting) -> set[Any]:
    return set(itertools.combinations(asdict(one).items(), 2))


class Samples(Dataset[Any]):
    """Points with noise; the last number of an input is the sample's own.

    Args:
        augmentation: where the noise is drawn from.
        broken: a sample that is not finite; None for none.
    """

    def __init__(self, augmentation: Augmentation = "none", broken: int | None = None) -> None:
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(SIZE, 4, generator=generator)
        self.targets = (self.inputs @ torch.randn(4, 3, generator=generator)).argmax(1)
        self.augmentation = augmentation
        if broken is not None:
            self.inputs[broken] = torch.nan

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> Any:
        noise = {
            "none": lambda: 0.0,
            "torch": lambda: float(torch.randn(())),
            "numpy": lambda: float(np.random.randn()),
            "random": lambda: random.gauss(0.0, 1.0),
        }[self.augmentation]()
        return (
            torch.cat([self.inputs[index] + 0.1 * noise, torch.tensor([float(index)])]),
            self.targets[index],
        )


class Net(nn.Module):
    """Linear, batch norm, dropout, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3))
        self.head = nn.Linear(6, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, 3)."""
        out: torch.Tensor = self.head(self.body(inputs[:, :4]))
        return out


class Average(st.Callback):
    """An exponential average of the weights."""

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}

    def on_enter_fit(self, ctx: Any) -> None:
        self.weights = {name: value.clone() for name, value in ctx.model.state_dict().items()}

    def on_exit_step(self, ctx: Any) -> None:
        for name, value in ctx.model.state_dict().items():
            mine = self.weights[name]
            self.weights[name] = (
                mine + 0.1 * (value - mine) if mine.is_floating_point() else value.clone()
            )

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights = dict(state["weights"])


class Order(st.Callback):
    """Writes down which samples came and what their loss was; kept in the records, which are part of a run."""

    anywhere = True

    def on_enter_pred(self, ctx: Any) -> None:
        ctx.log("samples", ctx.input[:, 4].long().tolist())

    def on_enter_valid_pred(self, ctx: Any) -> None:
        ctx.log("valid samples", ctx.input[:, 4].long().tolist())

    def on_exit_batch(self, ctx: Any) -> None:
        ctx.log("loss", ctx.loss_value)


class Trail(st.Callback):
    """The transitions taken in this process."""

    anywhere = True

    def __init__(self) -> None:
        self.arrows: list[str] = []

    def on_transition(self, ctx: Any) -> None:
        self.arrows.append(f"{ctx.transition.source}>{ctx.transition.dest}")


@st.guard
def always(ctx: Any) -> bool:
    "always"
    return True


def train(
    setting: Setting,
    folder: Path | None = None,
    *callbacks: st.Callback,
    start_seed: int = 0,
    **options: Any,
) -> st.Run:
    """A run of two epochs, gone on with if something is saved in the folder.

    Args:
        setting: what it is made of.
        folder: where it is saved; None for nowhere.
        callbacks: more of them, the last ones.
        start_seed: of all generators before the run is made; a run that goes on must not depend on
            it.
        options: of `fit`, in place of what the setting says.
    """
    torch.manual_seed(start_seed)
    random.seed(start_seed)
    np.random.seed(start_seed)
    model = options.pop("model", None) or Net()
    listeners: list[st.Callback] = []
    if folder is not None:
        background = setting.saving == "background"
        saving = st.Checkpoint(folder, _every(setting), preflight=False, background=background)
        listeners.append(saving)
    listeners += [Order(), *_listeners(setting)]
    given: dict[str, Any] = {
        "valid": loader(setting),
        "loss": F.cross_entropy,
        **_optimizers(setting),
        "epochs": EPOCHS,
        "accumulate": setting.accumulate,
        "validate": st.Every(2, "batches") | st.Every(1, "epochs") if setting.inside else None,
        "precision": _precision(setting),
        "non_finite": st.RollBack(every=st.Every(2, "steps")) if setting.rolls_back else "raise",
        "callbacks": [*listeners, *callbacks],
        "seed": 1 if setting.seeded else None,
        "resume": None if folder is None else "last",
        "verbose": False,
        "clock": lambda: 0.0,
        "device": "cpu",
    }
    return st.fit(
        model, options.pop("train", None) or loader(setting, shuffle=True), **{**given, **options}
    )


def _every(setting: Setting) -> st.Guard:
    if setting.saving == "2 steps":
        return st.Every(2, "steps") | st.Every(1, "epochs")
    return always


def _listeners(setting: Setting) -> list[st.Callback]:
    """The callbacks whose state a resume could get wrong."""
    several = setting.optimizers == 2
    which, monitor = ("head", "train_loss_head") if several else (None, "train_loss")
    found: list[st.Callback] = []
    if setting.ema:
        found += [Average(), st.EMA(0.9, valid=True)]
    if setting.best:
        found.append(st.KeepBest(monitor, "max"))  # not the last, so that something is put back
    if setting.schedule == "step":
        found.append(
            st.LRScheduler(
                torch.optim.lr_scheduler.StepLR, per="step", optimizer=which, step_size=1, gamma=0.9
            )
        )
    if setting.schedule == "plateau":
        found.append(
            st.LRScheduler(
                torch.optim.lr_scheduler.ReduceLROnPlateau,
                per="epoch",
                monitor=monitor,
                optimizer=which,
                patience=0,
                threshold=10.0,
                threshold_mode="abs",
            )
        )
    return found


def loader(setting: Setting, shuffle: bool = False) -> DataLoader[Any]:
    """The training data if it is shuffled, else the validation data."""
    return DataLoader(
        Samples(setting.augmentation, broken=13 if shuffle and setting.rolls_back else None),
        BATCH,
        shuffle=shuffle,
        num_workers=setting.workers,
        multiprocessing_context="spawn" if setting.spawned else None,
    )


def _optimizers(setting: Setting) -> dict[str, Any]:
    if setting.optimizers == 1:
        return {"optimizer": torch.optim.SGD, "opt_hparams": {"lr": 0.1, "momentum": 0.9}}
    return {
        "optimizer": {"body": torch.optim.Adam, "head": torch.optim.SGD},
        "opt_hparams": {"lr": 0.02},
    }


def _precision(setting: Setting) -> Any:
    if setting.precision == "scaled":  # a scale that grows and overflows within the run
        return st.MixedPrecision(
            "fp16", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=1)
        )
    return "bf16" if setting.precision == "bf16" else None


def digest(run: st.Run) -> str:
    """Of all that a run ends with: weights, optimizers, scaler, callbacks, history, records, generators."""
    ctx = run.ctx
    kinds = (Average, st.EMA, st.KeepBest, st.LRScheduler)
    own = [callback.state_dict() for callback in ctx.callbacks if isinstance(callback, kinds)]
    scaler = None if ctx.scaler is None else ctx.scaler.state_dict()
    optimizers = {name: optimizer.state_dict() for name, optimizer in ctx.optimizers.items()}
    counters = [ctx.epoch, ctx.iter, ctx.step, ctx.samples, ctx.batches]
    data = [
        run.model.state_dict(),
        optimizers,
        scaler,
        own,
        list(run.history),
        dict(ctx.records),
        counters,
        repr(run.outcome),
    ]
    # With a seed, the global generators are the host's again
    generators = torch.get_rng_state() if ctx.seed is None else None
    structure, tensors = plain.encode([*data, generators])
    sha = hashlib.sha256(jsons.to_bytes(structure))
    for name in sorted(tensors):
        sha.update(bytes(tensors[name].contiguous().reshape(-1).view(torch.uint8).tolist()))
    return sha.hexdigest()


def is_finite(state: Any) -> bool:
    """Whether all numbers in some tensors are finite."""
    return all(bool(torch.isfinite(value).all()) for value in state if value.is_floating_point())
