"""Lightning's Trainer."""

from __future__ import annotations

from typing import Any

import loops
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from loops import Setting
from tasks import optimizer

from peers.variant import Variant


class Module(LightningModule):
    """The model and how it is trained, with nothing logged."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer(self.net.parameters())


class Logged(Module):
    """With the mean of the loss and the accuracy of each epoch."""

    def __init__(self, net: torch.nn.Module, classes: int) -> None:
        super().__init__(net)
        self.accuracy = loops.torchmetrics_accuracy(classes)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        x, y = batch
        pred = self.net(x)
        loss = F.cross_entropy(pred, y)
        self.accuracy.update(pred.detach(), y)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(x))
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        return loss


class Line(Callback):
    """A printed line for each epoch."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        metrics = trainer.callback_metrics
        loops.report(
            self.setting,
            trainer.current_epoch + 1,
            float(metrics["loss"]),
            float(metrics["accuracy"]),
        )


def lean(setting: Setting) -> None:
    Trainer(accelerator="cpu", devices=1, max_epochs=setting.epochs, barebones=True).fit(
        Module(setting.model), setting.feed
    )


def typical(setting: Setting) -> None:
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=setting.epochs,
        default_root_dir=setting.folder,
        logger=CSVLogger(setting.folder),
        callbacks=[EarlyStopping("loss", patience=5, check_on_train_epoch_end=True), Line(setting)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10**9,
    )
    trainer.fit(Logged(setting.model, setting.task.classes), setting.feed)


VARIANTS = {
    "lean": Variant(lean, loops.bare, "`Trainer(barebones=True)`"),
    "typical": Variant(
        typical,
        loops.typical_torchmetrics,
        "`self.log` of loss and torchmetrics accuracy per epoch, `EarlyStopping`, `CSVLogger`; NaN"
        " is looked for once an epoch",
    ),
}
