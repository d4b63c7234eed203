"""Hugging Face Accelerate: the user writes the loop."""

from __future__ import annotations

import loops
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from loops import Setting
from tasks import optimizer

from peers.variant import Variant


def lean(setting: Setting) -> None:
    accelerator = Accelerator(cpu=True)
    net, opt = accelerator.prepare(setting.model, optimizer(setting.model.parameters()))
    for _ in range(setting.epochs):
        net.train()
        for x, y in setting.feed:
            opt.zero_grad()
            loss = F.cross_entropy(net(x), y)
            accelerator.backward(loss)
            opt.step()


def typical(setting: Setting) -> None:
    accelerator = Accelerator(cpu=True)
    net, opt, loader = accelerator.prepare(
        setting.model, optimizer(setting.model.parameters()), setting.feed.loader()
    )
    best, waited = float("inf"), 0
    for epoch in range(setting.epochs):
        net.train()
        total, correct, count, rows = 0.0, torch.zeros((), dtype=torch.long), 0, 0
        for x, y in loader:
            with accelerator.accumulate(net):
                pred = net(x)
                loss = F.cross_entropy(pred, y)
                accelerator.backward(loss)
                opt.step()
                opt.zero_grad()
            preds, targets = accelerator.gather_for_metrics((pred.detach().argmax(1), y))
            correct = correct + (preds == targets).sum()
            total += loss.item() * len(x)
            rows += len(x)
            count += targets.numel()
        mean = total / rows
        loops.report(setting, epoch + 1, mean, float(correct) / count)
        best, waited = (mean, 0) if mean < best else (best, waited + 1)
        if waited >= 5:
            accelerator.set_trigger()
        if accelerator.check_trigger():
            break


VARIANTS = {
    "lean": Variant(
        lean, loops.bare, "the user's loop; model and optimizer prepared, batches from a list"
    ),
    "typical": Variant(
        typical,
        loops.typical_unchecked,
        "the loader prepared too, `accumulate`, `gather_for_metrics`, sums by hand, `check_trigger`"
        " each epoch; no NaN check",
        hand_feed=True,
    ),
}
