"""Hugging Face's Trainer."""

from __future__ import annotations

from typing import Any

import loops
import torch
import torch.nn.functional as F
from loops import Setting
from tasks import optimizer
from transformers import Trainer, TrainerCallback, TrainingArguments

from peers.variant import Variant


class Epoch(TrainerCallback):
    """A line for each epoch, and early stopping on the training loss, since its own looks at evaluations alone."""

    def __init__(self, setting: Setting, accuracy: loops.Accuracy) -> None:
        self.setting, self.accuracy = setting, accuracy
        self.best, self.waited = float("inf"), 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in logs:
            return
        mean = float(logs["loss"])
        loops.report(self.setting, round(state.epoch), mean, self.accuracy.compute())
        self.accuracy.reset()
        self.best, self.waited = (mean, 0) if mean < self.best else (self.best, self.waited + 1)
        if self.waited >= 5:
            control.should_training_stop = True


def _train(
    setting: Setting, accuracy: loops.Accuracy | None = None, norm: bool = True, **arguments: Any
) -> None:
    class Fed(Trainer):
        """Draws its batches from where everybody does."""

        def get_train_dataloader(self) -> Any:
            return setting.feed

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            pred = model(inputs["x"])
            if accuracy is not None:
                accuracy.update(pred.detach(), inputs["y"])
            return F.cross_entropy(pred, inputs["y"])

    if not norm:
        Fed._get_grad_norm = lambda *args, **kwargs: None
    setting.feed.batches = [{"x": x, "y": y} for x, y in setting.feed.batches]  # it takes dicts
    opt = optimizer(setting.model.parameters())
    trainer = Fed(
        setting.model,
        TrainingArguments(
            output_dir=str(setting.folder),
            num_train_epochs=setting.epochs,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            max_grad_norm=0.0,
            remove_unused_columns=False,
            **arguments,
        ),
        train_dataset=setting.feed,
        optimizers=(opt, torch.optim.lr_scheduler.LambdaLR(opt, _constant)),
        callbacks=[] if accuracy is None else [Epoch(setting, accuracy)],
    )
    trainer.train()


def _constant(step: int) -> float:
    return 1.0


def lean(setting: Setting) -> None:
    _train(setting, logging_strategy="no", logging_nan_inf_filter=False)


def no_norm(setting: Setting) -> None:
    _train(setting, norm=False, logging_strategy="no", logging_nan_inf_filter=False)


def typical(setting: Setting) -> None:
    _train(setting, loops.Accuracy(), logging_strategy="epoch", logging_nan_inf_filter=True)


VARIANTS = {
    "lean": Variant(
        lean,
        loops.averaging,
        "no logging, saving, NaN filter; the norm of the gradients is computed each step all the"
        " same",
    ),
    "no_norm": Variant(
        no_norm, loops.averaging, "the same with its private `_get_grad_norm` taken out"
    ),
    "typical": Variant(
        typical,
        loops.typical,
        "loss logged each epoch, NaN filter each step, accuracy in `compute_loss`, early stopping"
        " by a callback of one's own",
    ),
}
