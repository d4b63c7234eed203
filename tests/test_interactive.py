"""Contexts outside of a loop: trying keys, losses and metrics on one batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.losses.keyed import reading


@pytest.fixture
def run(points, net):
    "A run of one epoch."
    return st.fit(
        net,
        points,
        loss=st.Losses(label=F.cross_entropy),
        metrics={"n": lambda pred, target: float(len(pred))},
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=1,
    )


def test_a_context_of_a_run_and_a_batch(run, points):
    "It has the batch, the prediction in eval mode, the losses and what was asked for; model and run stay as they were."
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    ctx = st.context_for(run, points, reads=["interms.0"])
    assert torch.equal(ctx["interms.0"], run.model[0](points[0]))
    assert torch.equal(
        ctx["pred"], st.predict(run, points[0], dataloader_options={"batch_size": 22})
    )
    assert ctx["loss_states.label.value"] == ctx["loss"]
    assert ctx.aux_state() == {
        "losses": ctx.loss_states,
        "metrics": {"loss": ctx["loss"].item(), "n": 22.0, "loss_label": ctx["loss"].item()},
    }
    assert ctx.aux_state(losses=False, metrics=False) == {}
    assert st.Loss(F.cross_entropy, input="pred", target="batch[1]")(ctx) == ctx.loss
    assert all(torch.equal(before[name], value) for name, value in run.model.state_dict().items())
    assert run.ctx.batch is None
    assert not any(module._forward_hooks for module in run.model.modules())


def test_a_context_of_a_module(points):
    "With a loss or without one."
    model = nn.Linear(4, 3)
    assert torch.equal(st.context_for(model, points).pred, model(points[0]))
    ctx = st.context_for(model, points, loss=F.cross_entropy)
    assert torch.equal(ctx.loss, F.cross_entropy(model(points[0]), points[1]))
    assert ctx.aux_state(metrics=False)["losses"]["loss"][0] == ctx.loss
    with pytest.raises(st.ConfigError, match="did you mean 'head'"):
        st.context_for(nn.ModuleDict({"head": model}), points, reads=["interms.haed"])


def test_what_is_there_by_path(run, points):
    "flatten gives the leaves in the order in which they come into being, each of which is read by its path."
    ctx = st.context_for(run, points, reads=["interms.*"])
    flat = ctx.flatten()
    order = [
        "params.0.weight",
        "batch[0]",
        "batch[1]",
        "input",
        "target",
        "pred",
        "interms.0",
        "loss",
        "loss_states.label.value",
    ]
    assert [path for path in flat if path in order] == order
    assert all(
        ctx[path] is leaf
        for path, leaf in flat.items()
        if path.startswith(("batch", "pred", "params", "interms"))
    )
    assert None not in flat.values()
    assert "pred" not in st.Context().flatten()


def test_a_context_with_a_change(run, points):
    "replace gives another one; losses by keys read that one; a misspelt field is an error."
    ctx = st.context_for(run, points)
    other = ctx.replace(pred=ctx.pred * 2)
    assert other.pred is not ctx.pred
    assert other.batch is ctx.batch
    for here in (other, ctx):
        loss = here.loss_fn(here.pred, here.target)
        assert torch.equal(loss, F.cross_entropy(here.pred, points[1]))
    with pytest.raises(TypeError, match="a context has no field 'perd'; did you mean 'pred'"):
        ctx.replace(perd=1)


def test_several_keys_are_read_together(run, points):
    "What a logger takes: parsed when it is made, read when it is due; optional ones may be missing."
    images = reading(
        {"first": "batch[0][:2]", "hidden": "interms.0", "mask": "batch[0].mask?"}, "Images"
    )
    assert images.reads == {"batch[0][:2]", "interms.0", "batch[0].mask?"}
    found = images(st.context_for(run, points, reads=images.reads))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "first": (2, 4),
        "hidden": (22, 6),
    }
    with pytest.raises(
        st.LossError,
        match=(
            r"Images: 'hidden' cannot be computed: 'interms\.0': there is no '0'|Images: 'hidden'"
            r" cannot be computed: 'interms\.0': 'interms' is None"
        ),
    ):
        images(st.context_for(run, points))
    with pytest.raises(st.ConfigError, match=r"Images, 'x': 'a\.\.b' is not a path"):
        reading({"x": "a..b"}, "Images")
