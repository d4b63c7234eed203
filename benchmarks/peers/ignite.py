"""PyTorch-Ignite."""

from __future__ import annotations

from typing import Any

import loops
import torch.nn.functional as F
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import EarlyStopping, TerminateOnNan
from ignite.metrics import Accuracy, Average
from loops import Setting
from tasks import optimizer

from peers.variant import Variant


def lean(setting: Setting) -> None:
    net = setting.model
    opt = optimizer(net.parameters())
    net.train()

    def step(engine: Any, batch: Any) -> None:
        x, y = batch
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()

    Engine(step).run(setting.feed, max_epochs=setting.epochs)


def supervised(setting: Setting) -> None:
    opt = optimizer(setting.model.parameters())
    create_supervised_trainer(setting.model, opt, F.cross_entropy).run(
        setting.feed, max_epochs=setting.epochs
    )


def typical(setting: Setting) -> None:
    net = setting.model
    opt = optimizer(net.parameters())
    trainer = create_supervised_trainer(
        net,
        opt,
        F.cross_entropy,
        output_transform=lambda x, y, pred, loss: (loss.item(), pred.detach(), y),
    )
    Average(output_transform=lambda output: output[0]).attach(trainer, "loss")
    Accuracy(output_transform=lambda output: output[1:]).attach(trainer, "accuracy")
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, TerminateOnNan(output_transform=lambda output: output[0])
    )
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED,
        EarlyStopping(5, lambda engine: -engine.state.metrics["loss"], trainer),
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, _report, setting)
    trainer.run(setting.feed, max_epochs=setting.epochs)


def _report(engine: Any, setting: Setting) -> None:
    state = engine.state
    loops.report(setting, state.epoch, state.metrics["loss"], state.metrics["accuracy"])


VARIANTS = {
    "lean": Variant(lean, loops.bare, "`Engine` around a hand-written step"),
    "supervised": Variant(
        supervised, loops.averaging, "`create_supervised_trainer`, which does `loss.item()`"
    ),
    "typical": Variant(
        typical,
        loops.typical,
        "`Average`, `Accuracy`, `TerminateOnNan` each iteration, `EarlyStopping`",
    ),
}
