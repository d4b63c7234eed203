"""`lr_find`: a loop whose rate grows, on a copy of everything."""

from __future__ import annotations

import math
import random
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import statetrain as st
from statetrain.errors import ConfigError
from statetrain.training.lr_finder import LRFinder, Trial, lr_find


def batches(data, size=8):
    return list(zip(*(column.split(size) for column in data), strict=True))


def find(model, data, **options):
    common = {"loss": F.cross_entropy, "optimizer": torch.optim.SGD, "steps": 10}
    return lr_find(model, data, **{**common, **options})


def test_the_loop_written_by_hand(points):
    "Rates and losses are those of a loop that sets the rate before each step; the optimizer's other settings stay."
    torch.manual_seed(0)
    model, rows, smoothed = nn.Linear(4, 3), [], []
    found = find(
        model, batches(points), opt_hparams={"momentum": 0.9, "lr": 5.0}, start=1e-3, end=1e-1
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0, momentum=0.9)
    data = batches(points) * 4
    for i in range(10):
        x, y = data[i]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.param_groups[0]["lr"] = 1e-3 * 100 ** (i / 9)
        optimizer.step()
        rows.append(loss.item())
        weights = [0.9 ** (i - j) for j in range(i + 1)]
        smoothed.append(sum(w * row for w, row in zip(weights, rows, strict=True)) / sum(weights))

    assert found["loss"] == rows
    assert found["lr"] == pytest.approx([1e-3 * 100 ** (i / 9) for i in range(10)])
    assert found["smoothed"] == pytest.approx(smoothed)
    assert not found.diverged


@pytest.mark.parametrize("spacing", ["exponential", "linear"])
@pytest.mark.parametrize("steps", [2, 7, 30])
def test_the_rates(spacing, steps, points):
    "There are as many rows as steps; the first rate is the start, the last the end, and the spacing is even."
    found = find(
        nn.Linear(4, 3), batches(points), start=1e-6, end=1e-2, steps=steps, spacing=spacing
    )
    places = [math.log(rate) for rate in found["lr"]] if spacing == "exponential" else found["lr"]

    assert len(found) == len(found.table()) == steps
    assert (found[0].lr, found[-1].lr) == (1e-6, 1e-2)
    assert [b - a for a, b in pairwise(places)] == pytest.approx(
        [(places[-1] - places[0]) / (steps - 1)] * (steps - 1)
    )


@pytest.mark.parametrize("instance", [True, False])
def test_everything_is_as_it_was(instance, digits, cnn):
    "Model, modes, the optimizer, the loss's buffers and all generators are untouched, though the copy drew from them."
    model = cnn()
    model.norm.eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.25)
    loss = nn.CrossEntropyLoss(weight=torch.ones(10))
    loader = DataLoader(
        TensorDataset(*digits),
        batch_size=32,
        shuffle=True,
        generator=torch.Generator().manual_seed(1),
    )
    F.cross_entropy(model(digits[0][:8]), digits[1][:8]).backward()
    optimizer.step()

    def state():
        flags = [module.training for module in model.modules()]
        generators = (
            torch.get_rng_state().tolist(),
            loader.generator.get_state().tolist(),
            random.getstate(),
            str(np.random.get_state()),
        )
        return (
            bits(model, optimizer),
            bits(loss),
            flags,
            optimizer.param_groups[0]["lr"],
            generators,
        )

    class Draws(st.Callback):
        def on_enter_batch(self, ctx):
            random.random(), np.random.rand(), torch.rand(1)
            ctx.loss_fn.weight.mul_(1.1)

    before = state()
    find(
        model,
        loader,
        loss=loss,
        optimizer=optimizer if instance else torch.optim.Adam,
        callbacks=Draws(),
    )

    assert state() == before


def test_everything_is_as_it_was_after_a_failure(points):
    "Generators are put back though the search fails."

    class Fails(st.Callback):
        def on_enter_step(self, ctx):
            torch.rand(1)
            raise RuntimeError("no more")

    model = nn.Sequential(nn.Dropout(), nn.Linear(4, 3))
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no more"):
        find(model, batches(points), callbacks=Fails())

    assert torch.equal(before, torch.get_rng_state())


def test_it_ends_where_the_loss_diverges(points):
    "Once the smoothed loss is far above its lowest, no further rate is tried, unless it is told to go on."
    options = {"start": 1e-3, "end": 1e6, "steps": 60}
    found = find(nn.Linear(4, 3), batches(points), **options)
    lowest = min(found["smoothed"])

    assert found.diverged
    assert len(found) < 60
    assert all(row.smoothed <= 4 * lowest for row in found.rows[:-1])
    assert found[-1].smoothed > 4 * lowest
    assert len(find(nn.Linear(4, 3), batches(points), **options, stop_above=math.inf)) == 60


def test_it_ends_where_the_loss_is_not_finite(points):
    "A loss that is NaN ends the search, and is no row."
    model, seen = nn.Linear(4, 3), []

    def loss(pred, target):
        seen.append(1)
        return F.cross_entropy(pred, target) * (math.nan if len(seen) == 5 else 1)

    found = find(model, batches(points), loss=loss)

    assert found.diverged
    assert len(found) == 4


def test_losses_below_zero(points):
    "What is far above is measured by the size of the lowest loss, so losses may be negative."
    found = find(
        nn.Linear(4, 3),
        batches(points),
        loss=lambda pred, target: F.cross_entropy(pred, target) - 10,
        end=1e-3,
    )

    assert len(found) == 10
    assert not found.diverged


def test_windows_of_accumulated_batches(points):
    "With accumulation a row is a step: the mean over the samples of its batches."
    data = batches(points)
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    found = find(model, data, accumulate=2, start=1e-12, end=1e-11, steps=4)
    losses = [(F.cross_entropy(model(x), y).item(), len(x)) for x, y in data]
    first = sum(loss * n for loss, n in losses[:2]) / 16

    assert found["loss"] == pytest.approx([first, losses[2][0]] * 2)


def test_a_model_that_is_a_class_and_a_computation_of_ones_own(points):
    "What `fit` takes besides is passed on."

    class Model(nn.Linear):
        def __init__(self, width):
            super().__init__(4, width)

    def compute(ctx):
        loss = F.cross_entropy(ctx.model(ctx.input), ctx.target)
        loss.backward()
        return loss

    found = find(Model, batches(points), hparams={"width": 3}, loss=None, compute=compute)

    assert len(found) == 10
    assert all(0 < loss < 5 for loss in found["loss"])


# ---------------------------------------------------------------- what was found


def finder(losses, spacing="exponential"):
    rates = [
        10.0 ** (i - 6) if spacing == "exponential" else float(i + 1) for i in range(len(losses))
    ]
    return LRFinder(
        tuple(Trial(rate, loss, loss) for rate, loss in zip(rates, losses, strict=True)),
        spacing,
        False,
    )


@pytest.mark.parametrize(
    ("losses", "place"),
    [
        ([9, 8, 7, 6, 5, 4, 5, 6], 3),
        ([9, 8, 8.5, 7, 6, 7, 5, 4], 4),
        ([0, 9, 8, 7, 6, 5, 4, 3, 2, 9, 9, 9], 4),
        ([3, 1, 5], 0),
        ([5, float("nan"), 1, 0.9], None),
        ([1, 2, 3], None),
        ([1, 1, 1], None),
        ([1], None),
        ([], None),
    ],
    ids=str,
)
def test_the_suggestion(losses, place):
    "In the second third of the longest fall, after the first tenth; none if the loss never falls."
    for spacing in ("exponential", "linear"):
        found = finder(losses, spacing)
        assert found.suggestion == (None if place is None else found[place].lr)


def fastai_valley(losses):
    """The rule of fastai's `lr_find`, by its definition: on losses with a memory of 0.98, without ends."""
    total, smoothed = 0.0, []
    for i, loss in enumerate(losses, 1):
        total = 0.98 * total + 0.02 * loss
        smoothed.append(total / (1 - 0.98**i))
    first = len(losses) // 10
    smoothed = smoothed[first:-5]
    falls, last = [1] * len(smoothed), 0
    for i in range(len(smoothed)):
        falls[i] = 1 + max((falls[j] for j in range(i) if smoothed[i] < smoothed[j]), default=0)
        last = i if falls[i] > falls[last] else last
    third = falls[last] / 3
    return first + last - falls[last] + int(third) + int(third / 2)


def problem(number):
    """A small network, data, loss and optimizer."""
    torch.manual_seed(number)
    inputs = torch.randn(256, 8) * (1 + number % 3)
    width = 8 * (1 + number % 4)
    model = torch.nn.Sequential(
        torch.nn.Linear(8, width), torch.nn.Tanh(), torch.nn.Linear(width, 3)
    )
    optimizer = (torch.optim.SGD, torch.optim.Adam)[number % 2]
    if number % 5 == 4:
        return model, (inputs, inputs[:, :3].sin()), F.mse_loss, optimizer
    return model, (inputs, inputs[:, :3].argmax(1)), F.cross_entropy, optimizer


@pytest.mark.parametrize("number", range(10))
def test_the_suggestion_is_near_that_of_fastai(number):
    "On ten small problems, within a factor of 3; and it is never among the first rates."
    model, data, loss, optimizer = problem(number)
    found = st.lr_find(
        model, data, loss=loss, optimizer=optimizer, start=1e-6, end=10.0, steps=140, seed=number
    )
    right = found[fastai_valley(found["loss"])].lr
    assert right / 3 <= found.suggestion <= right * 3
    assert found.suggestion > found[len(found) // 10].lr


def test_it_can_be_read():
    "A column, a row, the table, the short form."
    found = finder([3, 2.5, 1, 4])

    assert found["lr"] == [1e-6, 1e-5, 1e-4, 1e-3]
    assert found.table()[1] == {"lr": 1e-5, "loss": 2.5, "smoothed": 2.5}
    assert [row.loss for row in found] == [3, 2.5, 1, 4]
    assert repr(found) == "<LRFinder: 4 rates from 1e-06 to 0.001; suggestion 1e-05>"
    assert str(found).splitlines()[1].split() == ["1.000e-06", "3", "3"]
    assert repr(finder([])) == "<LRFinder: 0 rates; suggestion none>"
    with pytest.raises(KeyError, match="no column 'los'; did you mean 'loss'"):
        found["los"]


def test_the_plot():
    "Both losses over the rates, on a logarithmic axis, with the suggestion marked; on axes of one's own, too."
    figure = pytest.importorskip("matplotlib.figure")
    found, ax = finder([3, 2.5, 1, 4]), figure.Figure().subplots()

    assert found.plot(ax) is ax
    assert [line.get_label() for line in ax.lines] == ["loss", "smoothed", "suggestion: 1e-05"]
    assert list(ax.lines[0].get_xdata()) == found["lr"]
    assert ax.get_xscale() == "log"
    assert finder([3, 2, 1], "linear").plot(figure.Figure().subplots()).get_xscale() == "linear"


def test_a_missing_package_names_the_extra(monkeypatch):
    "Without matplotlib, plotting says what to install."
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'statetrain\[plot\]'"):
        finder([3, 2, 1]).plot()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 0}, "start must be a learning rate above 0, got 0"),
        ({"end": math.inf}, "end must be a learning rate above 0"),
        ({"start": 1.0, "end": 0.1}, "goes upwards"),
        ({"steps": 1}, "steps must be a whole number of at least 2"),
        ({"spacing": "exponental"}, "did you mean 'exponential'"),
        ({"stop_above": 1}, "stop_above must be a number above 1"),
        ({"optimizer": {"a": torch.optim.SGD, "b": torch.optim.SGD}}, "one optimizer, got 2"),
        ({"epochs": 3}, "sets epochs itself; leave it out"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_searched(options, message, points):
    "Arguments out of range are refused before anything is copied."
    with pytest.raises(ConfigError, match=message):
        find(nn.Linear(4, 3), batches(points), **options)
