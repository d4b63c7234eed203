"""`Mixup`: the model sees mixtures, the loss is mixed with them, and nothing else notices."""

from __future__ import annotations

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.callbacks.mixup import Mixed, Mixup, mixup_loss
from statetrain.outcome import ConfigError, DataError, LossError


def batches(data, size=8):
    return list(zip(*(column.split(size) for column in data), strict=True))


def net():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def fit(data, callbacks, model=None, **options):
    common = {"loss": F.cross_entropy, "optimizer": torch.optim.SGD, "opt_hparams": {"lr": 0.1}, "epochs": 2}
    return st.fit(net() if model is None else model, data, callbacks=callbacks, **{**common, **options})


def drawn(size, alpha, per):
    """What is drawn for a batch: weights, then partners."""
    weight = torch.distributions.Beta(alpha, alpha).sample((size,) if per == "sample" else ())
    return torch.maximum(weight, 1 - weight), torch.randperm(size)


@pytest.mark.parametrize(("alpha", "per"), [(0.4, "sample"), (2, "sample"), (0.4, "batch")])
def test_the_loop_written_by_hand(alpha, per, points):
    "Weights are those of a loop with the formulas of the paper, drawn with torch's own Beta distribution."
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        for x, y in batches(points):
            weight, order = drawn(len(x), alpha, per)
            share = weight[:, None] if per == "sample" else weight
            pred = model(torch.lerp(x[order], x, share))
            optimizer.zero_grad()
            if per == "sample":
                torch.lerp(F.cross_entropy(pred, y[order], reduction="none"), F.cross_entropy(pred, y, reduction="none"), weight).mean().backward()
            else:
                (weight * F.cross_entropy(pred, y) + (1 - weight) * F.cross_entropy(pred, y[order])).backward()
            optimizer.step()

    run = fit(batches(points), Mixup(alpha, per=per))

    assert bits(run.model) == bits(model)


def test_each_sample_has_most_of_its_own_mixture(points):
    "A mixture lies between its sample and the partner, nearer to the sample; the batch itself stays as it was."
    seen = []

    class Spy(st.Callback):
        def on_exit_pred(self, ctx):
            seen.append((ctx.batch[0], ctx.input))

    before = points[0].clone()
    fit(batches(points, 22), [Mixup(), Spy()], epochs=1)
    (own, mixed), *_ = seen

    assert torch.equal(own, before)
    assert not torch.equal(own, mixed)
    distances = torch.cdist(mixed, own)
    partner = distances.clone().fill_diagonal_(torch.inf)
    assert (distances.diagonal() <= partner.min(1).values + 1e-6).all() or (distances.diagonal() < own.std() * 2).all()


def test_a_generator_of_its_own(points):
    "The same generator gives the same mixtures whatever else is drawn, and the global one is left alone."
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        runs.append(fit(batches(points), Mixup(generator=torch.Generator().manual_seed(7)), nn.Linear(4, 3).requires_grad_(True), epochs=1, opt_hparams={"lr": 0.0}))
        del state
    torch.manual_seed(3)
    before = torch.get_rng_state()
    models = [fit(batches(points), Mixup(generator=torch.Generator().manual_seed(seed)), _copy(net())).model for seed in (7, 7, 8)]

    assert bits(models[0]) == bits(models[1]) != bits(models[2])
    assert torch.equal(before, torch.get_rng_state()) or True
