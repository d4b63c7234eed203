"""pytorch-accelerated."""

from __future__ import annotations

from typing import Any

import loops
import torch.nn.functional as F
from loops import Setting
from pytorch_accelerated import Trainer
from pytorch_accelerated.callbacks import (
    EarlyStoppingCallback,
    TerminateOnNaNCallback,
    TrainerCallback,
)
from tasks import optimizer

from peers.variant import Variant


class Scored(TrainerCallback):
    """torchmetrics' accuracy, and a line for each epoch."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.accuracy = loops.torchmetrics_accuracy(setting.task.classes)

    def on_train_epoch_start(self, trainer: Any, **kwargs: Any) -> None:
        self.accuracy.reset()

    def on_train_step_end(self, trainer: Any, batch: Any, batch_output: Any, **kwargs: Any) -> None:
        self.accuracy.update(batch_output["model_outputs"].detach(), batch[1])

    def on_train_epoch_end(self, trainer: Any, **kwargs: Any) -> None:
        history = trainer.run_history
        loops.report(
            self.setting,
            history.current_epoch,
            history.get_latest_metric("train_loss_epoch"),
            float(self.accuracy.compute()),
        )


def _train(setting: Setting, callbacks: Any) -> None:
    class Fed(Trainer):
        """Draws its batches from where everybody does."""

        def create_train_dataloader(self, batch_size: int, train_dl_kwargs: Any = None) -> Any:
            return setting.feed.loader()

    trainer = Fed(
        setting.model,
        loss_func=F.cross_entropy,
        optimizer=optimizer(setting.model.parameters()),
        callbacks=callbacks,
    )
    trainer.train(setting.feed, num_epochs=setting.epochs, per_device_batch_size=1)


def lean(setting: Setting) -> None:
    _train(setting, ())


def typical(setting: Setting) -> None:
    _train(
        setting,
        (
            TerminateOnNaNCallback,
            Scored(setting),
            EarlyStoppingCallback(early_stopping_patience=5, watch_metric="train_loss_epoch"),
        ),
    )


VARIANTS = {
    "lean": Variant(
        lean,
        loops.averaging,
        "no callbacks; it insists on a DataLoader and looks at each loss",
        hand_feed=True,
    ),
    "typical": Variant(
        typical,
        loops.typical_checked_torchmetrics,
        "`TerminateOnNaNCallback` each step, torchmetrics, `EarlyStoppingCallback`",
        hand_feed=True,
    ),
}
