"""`CollectGarbage`: collections happen when they are told to, and afterwards everything is as before."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.callbacks.collect_garbage import CollectGarbage
from statetrain.errors import ConfigError


class Watches(st.Callback):
    """Notes the collector's state, and after which steps it ran."""

    def __init__(self) -> None:
        self.automatic, self.frozen, self.ran = set(), set(), []

    def on_enter_pred(self, ctx):
        self.automatic.add(gc.isenabled())
        self.frozen.add(gc.get_freeze_count() > 0)
        gc.callbacks.append(self._heard)
        self.step = ctx.step + 1

    def on_enter_next_batch(self, ctx):
        if self._heard in gc.callbacks:
            gc.callbacks.remove(self._heard)

    def _heard(self, phase, info):
        if phase == "stop":
            self.ran.append(self.step)


def fit(points, callbacks, **options):
    data = list(zip(*(column.split(4) for column in points), strict=True))
    return st.fit(
        nn.Linear(4, 3),
        data,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        callbacks=callbacks,
        **{"epochs": 2, **options},
    )


def test_it_collects_at_intervals_and_at_no_other_time(points):
    "Within the batches, garbage is collected after every second step, and what was alive before is left out."
    watches = Watches()
    fit(points, [CollectGarbage(st.Every(2, "steps")), watches])

    assert watches.ran == [2, 4, 6, 8, 10, 12]
    assert watches.automatic == {False}
    assert watches.frozen == {True}
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_failure_puts_it_back(points):
    "After a failure the collector is on again."

    class Fails(st.Callback):
        def on_enter_step(self, ctx):
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fit(points, [CollectGarbage(), Fails()])

    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_what_somebody_else_set_stays(points):
    "A collector that was off stays off, and what was frozen before stays frozen."
    gc.disable()
    gc.freeze()
    try:
        fit(points, CollectGarbage())
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.enable()
        gc.unfreeze()


def test_it_takes_an_interval():
    "A bare number has no unit."
    with pytest.raises(ConfigError, match=r'got 100; write Every\(100, "steps"\)'):
        CollectGarbage(100)
