"""Lightning Fabric: the user writes the loop."""

from __future__ import annotations

import loops
import torch.nn.functional as F
from lightning.fabric import Fabric
from loops import Setting
from tasks import optimizer
from torchmetrics.aggregation import MeanMetric

from peers.variant import Variant


def lean(setting: Setting) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    net, opt = fabric.setup(setting.model, optimizer(setting.model.parameters()))
    for _ in range(setting.epochs):
        net.train()
        for x, y in setting.feed:
            opt.zero_grad()
            loss = F.cross_entropy(net(x), y)
            fabric.backward(loss)
            opt.step()


def typical(setting: Setting) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    net, opt = fabric.setup(setting.model, optimizer(setting.model.parameters()))
    loader = fabric.setup_dataloaders(setting.feed.loader())
    mean, accuracy = MeanMetric(), loops.torchmetrics_accuracy(setting.task.classes)
    for epoch in range(setting.epochs):
        net.train()
        mean.reset()
        accuracy.reset()
        for x, y in loader:
            opt.zero_grad()
            pred = net(x)
            loss = F.cross_entropy(pred, y)
            mean.update(loss.detach(), len(x))
            accuracy.update(pred.detach(), y)
            fabric.backward(loss)
            opt.step()
        loops.report(setting, epoch + 1, float(mean.compute()), float(accuracy.compute()))


VARIANTS = {
    "lean": Variant(lean, loops.bare, "the user's loop with `setup` and `backward`"),
    "typical": Variant(
        typical,
        loops.typical_torchmetrics,
        "`setup_dataloaders`, torchmetrics; it has no early stopping and no NaN check",
        hand_feed=True,
    ),
}
