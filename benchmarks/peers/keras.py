"""Keras on torch."""

from __future__ import annotations

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import loops
import torch.nn.functional as F
from loops import Setting
from tasks import optimizer

from peers.variant import Variant


class Start(keras.callbacks.Callback):
    """Forgets the batch that is drawn to learn the shapes."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting

    def on_train_begin(self, logs: Any = None) -> None:
        self.setting.feed.marks.clear()


class Line(keras.callbacks.Callback):
    """A line for each epoch."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        loops.report(self.setting, epoch + 1, float(logs["loss"]), float(logs["accuracy"]))


class Net(keras.Model):
    """The model, called as it is."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.net = keras.layers.TorchModuleWrapper(setting.model)

    def call(self, x: Any) -> Any:
        return self.net(x)


class Stepped(Net):
    """Trained by a step of one's own, so that the loop alone is Keras'."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.torch = (setting.model, optimizer(setting.model.parameters()))

    def train_step(self, data: Any) -> Any:
        x, y = data
        net, opt = self.torch
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        return {}


def lean(setting: Setting) -> None:
    net = Stepped(setting)
    net.compile(jit_compile=False)
    net.fit(setting.feed.loader(), epochs=setting.epochs, verbose=0, callbacks=[Start(setting)])


def _compiled(setting: Setting, callbacks: Any, metrics: Any) -> None:
    net = Net(setting)
    net.compile(
        optimizer=keras.optimizers.SGD(0.01, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=metrics,
        jit_compile=False,
    )
    net.fit(
        setting.feed.loader(),
        epochs=setting.epochs,
        verbose=0,
        callbacks=[Start(setting), *callbacks],
    )


def compiled(setting: Setting) -> None:
    _compiled(setting, [], [])


def typical(setting: Setting) -> None:
    callbacks = [
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.EarlyStopping("loss", patience=5),
        Line(setting),
    ]
    _compiled(setting, callbacks, [keras.metrics.SparseCategoricalAccuracy(name="accuracy")])


VARIANTS = {
    "lean": Variant(
        lean,
        loops.bare,
        "`fit` with a `train_step` of one's own around torch's module and optimizer",
        hand_feed=True,
    ),
    "compiled": Variant(
        compiled,
        loops.averaging,
        "`compile(loss=, optimizer=)` with its own SGD, no metrics; its mean of the loss cannot be"
        " turned off",
        hand_feed=True,
    ),
    "typical": Variant(
        typical,
        loops.typical,
        "the same with its accuracy, `TerminateOnNaN`, `EarlyStopping`",
        hand_feed=True,
    ),
}
