"""The two ways to train that the device suite compares: a loop as a PyTorch user writes it, and `fit`.

The loops on the CPU (`loops.py`) read the loss in each step, which costs nothing there. On a device
it means waiting, so the loop by hand is here in both ways: one that reads, and one that sums up on
the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from attrs import frozen
from loops import Accuracy, Setting, report

import statetrain as st


@frozen
class Way:
    """Where and how a block trains.

    Args:
        device: where.
        precision: as in `fit`.
        compiled: whether torch compiles the model.
    """

    device: torch.device
    precision: Literal["bf16"] | None = None
    compiled: bool = False

    def autocast(self) -> AbstractContextManager[Any]:
        """What the model and the loss compute in."""
        return (
            nullcontext()
            if self.precision is None
            else torch.autocast(self.device.type, torch.bfloat16)
        )


Trains = Callable[..., Any]  # of a setting and a way; with `fit`, of more callbacks too


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    """What everybody trains with: one that can leave a step out on the device, and be part of a graph."""
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, fused=True)


def by_hand(setting: Setting, way: Way, *, reads: bool = False, typical: bool = False) -> None:
    """The loop by hand.

    Args:
        setting: what is trained.
        way: where and how.
        reads: whether the loss of each step is read, for its mean and to stop at one that is not
            finite; else it is summed up on the device and looked at when the epoch ends.
        typical: whether there are an accuracy, early stopping, and a line printed and one of CSV
            for each epoch.
    """
    net: Any = torch.compile(setting.model) if way.compiled else setting.model
    opt = optimizer(setting.model.parameters())
    accuracy = Accuracy()
    best, waited = math.inf, 0
    for epoch in range(setting.epochs):
        net.train()
        accuracy.reset()
        total: Any = 0.0 if reads else torch.zeros((), dtype=torch.float64, device=way.device)
        count = 0
        for x, y in setting.feed:
            x, y = x.to(way.device, non_blocking=True), y.to(way.device, non_blocking=True)
            opt.zero_grad()
            with way.autocast():
                pred = net(x)
                loss = F.cross_entropy(pred, y)
            if reads:
                value = loss.item()
                if not math.isfinite(value):
                    raise ArithmeticError(value)
                total += value * len(x)
            else:
                total += loss.detach() * len(x)
            if typical:
                accuracy.update(pred.detach(), y)
            loss.backward()
            opt.step()
            count += len(x)
        mean = float(total) / count
        if not math.isfinite(mean):
            raise ArithmeticError(mean)
        if typical:
            report(setting, epoch + 1, mean, accuracy.compute())
            best, waited = (mean, 0) if mean < best else (best, waited + 1)
            if waited >= 5:
                break


def ours(
    setting: Setting,
    way: Way,
    *,
    typical: bool = False,
    callbacks: Iterable[st.Callback] = (),
    **options: Any,
) -> st.Run:
    """The same with `fit`.

    Args:
        setting, way, typical: as of the loop by hand.
        callbacks: more of them.
        options: of `fit`.
    """
    with (setting.folder / "out.txt").open("w") as out:
        if typical:
            callbacks = [
                st.Progress(mode="plain", file=out),
                st.CSVLogger(setting.folder / "log.csv"),
                *callbacks,
            ]
            options = {
                "train_metrics": {"accuracy": Accuracy()},
                "stop": st.EarlyStopping("train_loss", patience=5),
                **options,
            }
        return st.fit(
            setting.model,
            setting.feed,
            loss=F.cross_entropy,
            optimizer=optimizer,
            epochs=setting.epochs,
            device=way.device,
            precision=way.precision,
            callbacks=callbacks,
            verbose=typical,
            **{"compile": way.compiled, **options},
        )
