"""fastai."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import loops
import torch
import torch.nn.functional as F
from attrs import frozen
from fastai.callback.core import TrainEvalCallback
from fastai.callback.tracker import EarlyStoppingCallback, TerminateOnNaNCallback
from fastai.learner import Learner, Recorder
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper
from feed import Feed
from loops import Setting

from peers.variant import Variant


@frozen
class Data:
    """What a learner wants of data, without validation."""

    train: Feed
    path: Path
    n_inp: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009  # a frozen value

    def __getitem__(self, index: int) -> Any:
        return (self.train, ())[index]


def _learner(setting: Setting, callbacks: Any, metrics: Any = None) -> Any:
    optimizer = partial(OptimWrapper, opt=torch.optim.SGD, momentum=0.9)
    data = Data(setting.feed, setting.folder)
    return Learner(
        data,
        setting.model,
        F.cross_entropy,
        optimizer,
        lr=0.01,
        cbs=callbacks,
        metrics=metrics,
        default_cbs=False,
    )


def lean(setting: Setting) -> None:
    _learner(setting, [TrainEvalCallback()]).fit(setting.epochs)


def typical(setting: Setting) -> None:
    callbacks = [
        TrainEvalCallback(),
        Recorder(train_metrics=True, valid_metrics=False),
        TerminateOnNaNCallback(),
        EarlyStoppingCallback("train_loss", patience=5),
    ]
    learner = _learner(setting, callbacks, partial(accuracy, axis=1))
    learner.logger = lambda row: loops.report(setting, row[0] + 1, row[1], row[2])
    learner.fit(setting.epochs)


VARIANTS = {
    "lean": Variant(
        lean, loops.bare, "`TrainEvalCallback` alone; torch's SGD in an `OptimWrapper`"
    ),
    "typical": Variant(
        typical,
        loops.typical,
        "`Recorder` of accuracy and (smoothed) loss, `TerminateOnNaNCallback`,"
        " `EarlyStoppingCallback`",
    ),
}
