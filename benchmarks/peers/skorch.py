"""skorch."""

from __future__ import annotations

from typing import Any

import loops
import torch
from loops import Setting
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, EarlyStopping, EpochScoring
from torch.utils.data import TensorDataset

from peers.variant import Variant


class Report(Callback):
    """A line printed and a line of CSV for each epoch."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        row = net.history[-1]
        loops.report(self.setting, row["epoch"], row["train_loss"], row["accuracy"])


def _fit(setting: Setting, callbacks: Any) -> None:
    class Fed(NeuralNetClassifier):
        """Draws its batches from where everybody does."""

        def get_iterator(self, dataset: Any, training: bool = False) -> Any:
            return setting.feed

    net = Fed(
        setting.model,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        lr=0.01,
        max_epochs=setting.epochs,
        classes=list(range(setting.task.classes)),
        train_split=None,
        callbacks=callbacks,
        device="cpu",
        verbose=0,
    )
    net.fit(TensorDataset(torch.zeros(1), torch.zeros(1)), None)  # what is not drawn from


def lean(setting: Setting) -> None:
    _fit(setting, "disable")


def typical(setting: Setting) -> None:
    accuracy = EpochScoring("accuracy", name="accuracy", lower_is_better=False, on_train=True)
    _fit(setting, [accuracy, EarlyStopping("train_loss", patience=5), Report(setting)])


VARIANTS = {
    "lean": Variant(lean, loops.averaging, '`callbacks="disable"`; it keeps each loss as a number'),
    "typical": Variant(
        typical,
        loops.typical_unchecked,
        "its default loss and `EpochScoring` of the accuracy, `EarlyStopping`; no NaN check",
    ),
}
