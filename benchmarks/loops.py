"""The loops as a PyTorch user writes them: what everybody is compared with.

They differ only in what they compute, so that each library is compared with a loop that does what
it does.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen
from tasks import Task, optimizer
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

HEAVY_CALLBACKS, LOG_EVERY, SAVE_EVERY, DECAY, NORM = 100, 10, 1000, 0.999, 1.0


@frozen
class Setting:
    """One run of a loop.

    Args:
        task: what is trained.
        model: the model, fresh.
        feed: the data, an epoch each time; a DataLoader over it for some.
        epochs: how many.
        folder: an empty one, for what the run writes.
    """

    task: Task
    model: nn.Module
    feed: Any
    epochs: int
    folder: Path


Loop = Callable[[Setting], Any]


class Accuracy:
    """The share of right predictions, summed up on the device."""

    def __init__(self) -> None:
        self.correct, self.count = torch.zeros((), dtype=torch.long), 0

    def update(self, pred: torch.Tensor, target: torch.Tensor) -> None:
        self.correct = self.correct + (pred.argmax(1) == target).sum()
        self.count += target.numel()

    def compute(self) -> float:
        return float(self.correct) / max(self.count, 1)

    def reset(self) -> None:
        self.correct, self.count = torch.zeros((), dtype=torch.long), 0


def torchmetrics_accuracy(classes: int) -> Any:
    """The same by torchmetrics."""
    from torchmetrics.classification import MulticlassAccuracy

    return MulticlassAccuracy(classes, average="micro", validate_args=False)


def bare(setting: Setting) -> None:
    """Nothing on, not even a look at the loss."""
    net, feed = setting.model, setting.feed
    opt = optimizer(net.parameters())
    for _ in range(setting.epochs):
        net.train()
        for x, y in feed:
            opt.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            opt.step()


def lean(setting: Setting) -> None:
    """The mean of the loss, and a stop at one that is not finite: what `fit` always does."""
    net, feed = setting.model, setting.feed
    opt = optimizer(net.parameters())
    means = []
    for _ in range(setting.epochs):
        net.train()
        total, count = 0.0, 0
        for x, y in feed:
            opt.zero_grad()
            loss = F.cross_entropy(net(x), y)
            value = loss.item()
            if not math.isfinite(value):
                raise ArithmeticError(value)
            loss.backward()
            opt.step()
            total += value * len(x)
            count += len(x)
        means.append(total / count)


def cleared(setting: Setting) -> None:
    """The same, but gradients are set to None one by one, without `zero_grad` and its range for a profiler."""
    net, feed = setting.model, setting.feed
    opt = optimizer(net.parameters())
    means = []
    for _ in range(setting.epochs):
        net.train()
        total, count = 0.0, 0
        for x, y in feed:
            for group in opt.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
            loss = F.cross_entropy(net(x), y)
            value = loss.item()
            if not math.isfinite(value):
                raise ArithmeticError(value)
            loss.backward()
            opt.step()
            total += value * len(x)
            count += len(x)
        means.append(total / count)


def averaging(setting: Setting) -> None:
    """The mean of the loss, and nothing else."""
    net, feed = setting.model, setting.feed
    opt = optimizer(net.parameters())
    means = []
    for _ in range(setting.epochs):
        net.train()
        total, count = 0.0, 0
        for x, y in feed:
            opt.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            opt.step()
            total += loss.item() * len(x)
            count += len(x)
        means.append(total / count)


def report(setting: Setting, epoch: int, loss: float, accuracy: float) -> None:
    """A printed line and a line of CSV at the end of an epoch, for every loop that has not its own."""
    with (setting.folder / "log.csv").open("a", newline="") as file:
        csv.writer(file).writerow([epoch, loss, accuracy])
    with (setting.folder / "out.txt").open("a") as out:
        print(
            f"epoch {epoch}/{setting.epochs}  train_loss {loss:.4f}  train_accuracy {accuracy:.4f}",
            file=out,
        )


def typical(setting: Setting, *, torchmetrics: bool = False) -> None:
    """Loss mean and accuracy of each epoch, early stopping, a look at each loss for NaN, a line printed and one of CSV for each epoch."""
    net, feed = setting.model, setting.feed
    opt = optimizer(net.parameters())
    accuracy = torchmetrics_accuracy(setting.task.classes) if torchmetrics else Accuracy()
    best, waited = math.inf, 0
    for epoch in range(setting.epochs):
        net.train()
        accuracy.reset()
        total, count = 0.0, 0
        for x, y in feed:
            opt.zero_grad()
            pred = net(x)
            loss = F.cross_entropy(pred, y)
            value = loss.item()
            if not math.isfinite(value):
                raise ArithmeticError(value)
            accuracy.update(pred.detach(), y)
            loss.backward()
            opt.step()
            total += value * len(x)
            count += len(x)
        mean = total / count
        report(setting, epoch + 1, mean, float(accuracy.compute()))
        best, waited = (mean, 0) if mean < best else (best, waited + 1)
        if waited >= 5:
            break


def typical_unchecked(setting: Setting, *, torchmetrics: bool = False) -> None:
    """The same without the look for NaN."""
    net, feed = setting.model, setting.feed
    opt = optimizer(net.parameters())
    accuracy = torchmetrics_accuracy(setting.task.classes) if torchmetrics else Accuracy()
    best, waited = math.inf, 0
    for epoch in range(setting.epochs):
        net.train()
        accuracy.reset()
        total, count = 0.0, 0
        for x, y in feed:
            opt.zero_grad()
            pred = net(x)
            loss = F.cross_entropy(pred, y)
            accuracy.update(pred.detach(), y)
            loss.backward()
            opt.step()
            total += loss.item() * len(x)
            count += len(x)
        mean = total / count
        report(setting, epoch + 1, mean, float(accuracy.compute()))
        best, waited = (mean, 0) if mean < best else (best, waited + 1)
        if waited >= 5:
            break


def typical_torchmetrics(setting: Setting) -> None:
    """Without the look for NaN and with torchmetrics' accuracy, for the libraries whose own way that is."""
    typical_unchecked(setting, torchmetrics=True)


def typical_checked_torchmetrics(setting: Setting) -> None:
    """With both."""
    typical(setting, torchmetrics=True)


class Counter:
    """What each of the hundred callbacks does: it is called once a batch, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, step: int) -> None:
        self.calls += 1


def rate(step: int) -> float:
    """The schedule of the learning rate."""
    return 0.005 * (1.0 + math.cos(math.pi * min(step, 10_000) / 10_000))


def heavy(setting: Setting) -> None:
    """A hundred callbacks, a log line every 10 steps, a checkpoint every 1,000, an average of the weights, clipping, a schedule."""
    net, feed = setting.model, setting.feed
    opt = optimizer(net.parameters())
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True)
    callbacks = [Counter() for _ in range(HEAVY_CALLBACKS)]
    step = 0
    with (setting.folder / "log.jsonl").open("w") as file:
        for epoch in range(setting.epochs):
            net.train()
            total, count, window, samples = 0.0, 0, 0.0, 0
            for x, y in feed:
                for group in opt.param_groups:
                    group["lr"] = rate(step)
                opt.zero_grad()
                loss = F.cross_entropy(net(x), y)
                value = loss.item()
                if not math.isfinite(value):
                    raise ArithmeticError(value)
                loss.backward()
                clip_grad_norm_(net.parameters(), NORM)
                opt.step()
                average.update_parameters(net)
                step += 1
                total, window = total + value * len(x), window + value * len(x)
                count, samples = count + len(x), samples + len(x)
                for callback in callbacks:
                    callback(step)
                if step % LOG_EVERY == 0:
                    file.write(
                        json.dumps(
                            {
                                "epoch": epoch + 1,
                                "step": step,
                                "loss": window / samples,
                                "lr": opt.param_groups[0]["lr"],
                            }
                        )
                        + "\n"
                    )
                    file.flush()
                    window, samples = 0.0, 0
                if step % SAVE_EVERY == 0:
                    _save(setting.folder / "checkpoint.pt", net, opt, average, step)


def _save(
    path: Path, net: nn.Module, opt: torch.optim.Optimizer, average: nn.Module, step: int
) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(
            {
                "model": net.state_dict(),
                "optimizer": opt.state_dict(),
                "average": average.state_dict(),
                "step": step,
            },
            file,
        )
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
