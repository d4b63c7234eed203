"""Composed actions and effects: what they do, say, declare, and whether gradients are on."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import statetrain as st
from statetrain.contracts.composing import Then, parts_of, then, without_gradients
from statetrain.contracts.declaring import access, access_of
from statetrain.lifecycle.state import State
from statetrain.naming import label_of


@access(reads={"pred"}, writes={"loss_grad"})
def first(ctx):
    "do one thing"
    ctx.append(1)


@access(reads={"loss_grad", "target"}, writes={"step"})
def second(ctx):
    "do another"
    ctx.append(2)


def third(ctx):
    "say nothing of it"
    ctx.append(3)


def test_one_after_the_other():
    "Parts run in order, labels are listed, reads of what an earlier part wrote are its own."
    both = then(first, second)
    seen = []
    both(seen)
    assert seen == [1, 2]
    assert label_of(both) == "do one thing, do another"
    assert access_of(both) == st.Access({"pred", "target"}, {"loss_grad", "step"})


def test_it_is_flat_and_a_value():
    "Composing what is composed gives one list of parts; equal parts make equal values."
    assert then(then(first, second), third) == Then((first, second, third))
    assert then(first, None) is first
    assert parts_of(then(first, second)) == (first, second)
    assert parts_of(first) == (first,)
    assert parts_of(None) == ()
    with pytest.raises(ValueError, match="got none"):
        then(None)


def test_of_a_part_that_declares_nothing_nothing_is_known():
    "A contract of the whole would be a guess."
    assert access_of(then(first, third)) is None


@pytest.mark.parametrize("declared", [True, False])
def test_an_action_of_your_own_that_updates_in_place_says_so(points, net, declared):
    "Without gradients it may write weights; with them, torch refuses to write to a leaf."

    def decay(ctx):
        for p in ctx.model.parameters():
            p.mul_(0.5)

    if declared:
        decay = without_gradients(decay)
    life = st.supervised(validate=None).insert(
        State("decay", decay), between=("step", "next_batch")
    )
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    given = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.0},
        "epochs": 1,
        "lifecycle": life,
    }
    if not declared:
        with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
            st.fit(net, [points], **given)
        return
    st.fit(net, [points], **given)
    assert all(torch.equal(p, start[name] * 0.5) for name, p in net.named_parameters())


def test_a_part_with_gradients_has_them_for_the_whole():
    "A composed action runs with gradients on if one part needs them."
    off = without_gradients(lambda ctx: None)
    assert not then(off, off).gradients
    assert then(off, third).gradients
