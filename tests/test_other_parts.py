"""Optimizers of other people's: with modes, with closures, with graphs of gradients, with sparse gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.testing.resuming import assert_resumable


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-Free SGD (arXiv 2405.15682): gradients are those of y, between the steps z and their mean x."""

    def __init__(self, params, lr=0.1, beta=0.9):
        super().__init__(params, {"lr": lr, "beta": beta, "k": 0, "train_mode": False})

    def _move(self, mode, share):
        for group in self.param_groups:
            if group["train_mode"] is not mode:
                for p in group["params"]:
                    if "z" in self.state[p]:
                        p.data.lerp_(self.state[p]["z"], share(group["beta"]))
                group["train_mode"] = mode

    def train(self):
        self._move(True, lambda beta: 1 - beta)

    def eval(self):
        self._move(False, lambda beta: 1 - 1 / beta)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            if not group["train_mode"]:
                raise RuntimeError("step in eval mode")
            share, lr, beta = 1 / (group["k"] + 1), group["lr"], group["beta"]
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.clone())
                p.lerp_(z, share).add_(p.grad, alpha=lr * (beta * (1 - share) - 1))
                z.sub_(p.grad, alpha=lr)
            group["k"] += 1


def data():
    generator = torch.Generator().manual_seed(0)
    X, y = torch.randn(24, 4, generator=generator), torch.arange(24) % 3
    return list(zip(X.split(8), y.split(8), strict=True))


def everything():
    return [tuple(map(torch.cat, zip(*data(), strict=True)))]


def net():
    torch.manual_seed(1)
    return nn.Linear(4, 3)


def fit(model, optimizer, **options):
    given = {"loss": F.cross_entropy, "epochs": 3, "verbose": False}
    return st.fit(model, data(), optimizer=optimizer, **{**given, **options})


def by_hand(epochs=3):
    "The loop of the paper: train mode for an epoch, eval mode for what is judged and kept."
    model = net()
    optimizer = ScheduleFree(model.parameters())
    ((X, y),) = everything()
    losses, states = [], []
    for _ in range(epochs):
        optimizer.train()
        for batch, target in data():
            optimizer.zero_grad()
            F.cross_entropy(model(batch), target).backward()
            optimizer.step()
        optimizer.eval()
        losses.append(F.cross_entropy(model(X), y).item())
        states.append(copy.deepcopy(model.state_dict()))
    return losses, states


def test_an_optimizer_with_modes_is_in_train_mode_while_it_trains(tmp_path):
    "Validation, evaluations, the best and saved weights and those at the end are eval mode's, bit for bit as by hand."
    losses, states = by_hand()
    model, best = net(), st.KeepBest("valid_loss", "max")  # the first row
    seen = []
    run = fit(
        model,
        ScheduleFree(model.parameters()),
        valid=everything(),
        evaluations=st.Evaluation("test", everything()),
        callbacks=[
            best,
            st.SaveWeights(str(tmp_path / "{epoch}.safetensors")),
            st.on("exit_epoch")(lambda ctx: seen.append(copy.deepcopy(ctx.model.state_dict()))),
        ],
    )
    assert run.history["valid_loss"] == run.history["test_loss"] == losses
    for ours, theirs in zip(seen, states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    torch.testing.assert_close(dict(model.state_dict()), dict(states[0]), rtol=0, atol=0)
    saved = net()
    st.load_weights(saved, tmp_path / "3.safetensors")
    torch.testing.assert_close(dict(saved.state_dict()), dict(states[2]), rtol=0, atol=0)


def test_an_optimizer_with_modes_is_resumed_exactly(tmp_path):
    "Cut at any anchor, within the training of an epoch too; a stop leaves the weights of eval mode."

    def start():
        model = net()
        return fit(model, ScheduleFree(model.parameters()), valid=everything(), seed=1, start=False)

    assert_resumable(start, anchors=8)
    model = net()
    optimizer = ScheduleFree(model.parameters())
    fit(model, optimizer, max_steps=2)
    assert not optimizer.param_groups[0]["train_mode"]


def test_others_hear_nothing_of_modes():
    "No callback is added for an optimizer without modes; for one with modes, one, before the others."
    model = net()
    assert fit(model, torch.optim.SGD(model.parameters(), 0.1)).machine.callbacks == ()
    run = fit(model, ScheduleFree(model.parameters()), callbacks=st.GradientClip(1.0))
    assert [type(one).__name__ for one in run.machine.callbacks] == [
        "OptimizerModes",
        "GradientClip",
    ]


class Sharpness(torch.optim.SGD):
    "An optimizer that asks for a closure when it steps, as SAM does."

    def step(self, closure=None):
        if closure is None:
            raise RuntimeError("this optimizer requires a closure")
        loss = closure()
        super().step()
        return loss


class Hessian(torch.optim.SGD):
    "An optimizer that needs the graph of the gradients, as AdaHessian does."

    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            torch.autograd.grad(p.grad.sum(), p, retain_graph=True)
        super().step()


def test_optimizers_that_need_more_are_told_what():
    "A closure is an option, a graph of gradients an accelerator's backward; with it the run works."
    model = net()
    with pytest.raises(RuntimeError, match="requires a closure") as found:
        fit(model, Sharpness(model.parameters(), 0.1))
    assert any("fit(closure=True)" in note for note in found.value.__notes__)
    fit(model, Sharpness(model.parameters(), 0.1), closure=True)

    with pytest.raises(RuntimeError) as found:
        fit(model, Hessian(model.parameters(), 0.1))
    assert any("loss.backward(create_graph=True)" in note for note in found.value.__notes__)


def test_the_norm_of_sparse_gradients():
    "It is that of the dense gradient, where a row that comes twice counts as its sum."
    model = nn.EmbeddingBag(4, 2, sparse=True, mode="sum")
    norms = []
    look = st.on("exit_grad_norm")(lambda ctx: norms.append(ctx.grad_norm))
    rows = [(torch.tensor([[0, 0, 1]]), torch.tensor([0]))]
    st.fit(
        model,
        rows,
        loss=lambda pred, target: pred.sum(),
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=1,
        non_finite="skip",
        check_gradients=True,
        callbacks=look,
    )
    assert norms == pytest.approx([(2 * 2**2 + 2 * 1**2) ** 0.5])  # 2 for row 0, 1 for row 1


@pytest.mark.parametrize("make", [torch.optim.SparseAdam, torch.optim.SGD])
def test_sparse_gradients(make):
    "An embedding with sparse gradients is trained as by hand, also with an average and what is not finite."

    def embedding():
        torch.manual_seed(0)
        return nn.EmbeddingBag(10, 3, sparse=True)

    rows = [(torch.arange(6).reshape(2, 3), torch.tensor([0, 2]))] * 3
    model, reference = embedding(), embedding()
    optimizer = make(reference.parameters(), lr=0.1)
    for x, y in rows:
        optimizer.zero_grad()
        F.cross_entropy(reference(x), y).backward()
        optimizer.step()
    st.fit(
        model,
        rows,
        loss=F.cross_entropy,
        optimizer=make(model.parameters(), lr=0.1),
        epochs=1,
        callbacks=[st.EMA(0.5), st.KeepBest("train_loss")],
        non_finite=st.RollBack(every=st.Every(1, "steps")),
    )
    assert bits(model) == bits(reference)
