"""Copies of buffers for one batch: cheap where nothing has changed, right where something has."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import statetrain as st
from statetrain.compute.keeping import buffers_of, first_not_finite


class Operations(TorchDispatchMode):
    """The names of the operations that were called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.__name__.partition(".")[0])
        return function(*args, **(kwargs or {}))


def spoil(module):
    "Makes every buffer another one than it was."
    with torch.no_grad():
        for buffer in module.buffers():
            buffer.add_(7)


def assert_put_back(module, buffers, meddle=spoil):
    "What was copied last is there again, whatever has happened to the module."
    kept = {name: buffer.clone() for name, buffer in module.named_buffers()}
    meddle(module)
    buffers.put_back()
    there = dict(module.named_buffers())
    assert there.keys() == kept.keys()
    assert all(torch.equal(there[name], kept[name]) for name in kept)


def test_the_same_buffers_are_only_copied():
    "From the second batch on, a copy is one operation for each type of buffer, and nothing else."
    net = nn.Sequential(*(nn.BatchNorm1d(4 + i) for i in range(20)))
    buffers = buffers_of([net])
    buffers.take()
    spoil(net)
    with Operations() as operations:
        buffers.take()
    assert operations.names == ["_foreach_copy_"] * 2
    assert_put_back(net, buffers)


def test_a_buffer_that_changes_its_size_or_type_in_place_is_copied_as_it_is():
    "The same tensor object with another shape, another type or another storage is seen."
    net = nn.Module()
    net.register_buffer("seen", torch.zeros(3))
    buffers = buffers_of([net])
    buffers.take()
    for change in (
        lambda seen: seen.resize_(5).fill_(2.0),
        lambda seen: setattr(seen, "data", torch.full((5,), 3.0)),
        lambda seen: setattr(seen, "data", torch.arange(5)),
    ):
        change(net.seen)
        buffers.take()
        assert_put_back(net, buffers)


def test_a_lazy_buffer_is_copied_once_it_is_there():
    "It becomes a buffer in place, without being another object."
    net = nn.LazyBatchNorm1d()
    buffers = buffers_of([net])
    buffers.take()
    running = net.running_mean
    net(torch.randn(8, 3))
    assert net.running_mean is running
    buffers.take()
    assert_put_back(net, buffers)


def test_buffers_that_are_replaced_added_or_shared_are_put_back():
    "Between two copies a module may hold another tensor, one more, or one that another module holds too."
    net = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    buffers = buffers_of([net])
    buffers.take()
    net[0].running_mean = net[0].running_mean + 1
    net[0].register_buffer("more", torch.ones(2))
    net[1].running_var = net[0].running_var
    net[1].running_mean = None
    buffers.take()
    assert_put_back(
        net, buffers, lambda net: (spoil(net), setattr(net[0], "running_mean", torch.zeros(9)))
    )
    assert net[1].running_var is net[0].running_var


def test_a_buffer_with_gradients_is_copied_without_its_graph():
    "A buffer may be the result of a computation that goes on to be differentiated."
    net = nn.Module()
    net.register_buffer("average", torch.zeros(2))
    net.average = torch.ones(2, requires_grad=True) * 2
    buffers = buffers_of([net])
    buffers.take()
    buffers.take()
    assert all(not copy.requires_grad for copy in buffers._copies)


@pytest.mark.parametrize("flag", [0.0, 1.0])
def test_where_a_flag_is_set_a_buffer_that_was_replaced_is_put_back_too(flag):
    "A module that puts another tensor in a buffer's place has the old values again where the flag is set, and its own where not."
    module = nn.BatchNorm1d(3)
    buffers = buffers_of([module])
    buffers.take()
    module.running_mean = module.running_mean * 0.9 + float("inf")
    buffers.put_back_where(torch.tensor(flag) > 0)
    assert module.running_mean.tolist() == ([0.0] * 3 if flag else [float("inf")] * 3)


def test_going_back_needs_one_copy(points):
    "RollBack copies into the copy that it has: the memory stays the same, the values are those of the moment."
    places, equal = [], []

    class Look(st.Callback):
        def on_exit_keep(self, ctx):
            tensors = ctx.kept["weights"]["tensors"]
            momenta = [part["momentum_buffer"] for part in ctx.kept["optimizers"]["opt"] if part]
            places.append([value.data_ptr() for value in (*tensors.values(), *momenta)])
            equal.append(
                torch.equal(tensors["0.weight"], ctx.model.weight)
                and all(
                    torch.equal(kept, ctx.optimizers["opt"].state[p]["momentum_buffer"])
                    for kept, p in zip(momenta, ctx.model.parameters(), strict=False)
                )
            )

    torch.manual_seed(0)
    st.fit(
        nn.Linear(4, 3),
        [points] * 4,
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1, "momentum": 0.9},
        epochs=1,
        non_finite=st.RollBack(every=st.Every(1, "steps")),
        callbacks=Look(),
    )
    assert len(places) == 5
    assert all(place == places[1] for place in places[2:])
    assert places[1][:2] == places[0]
    assert all(equal)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_named_and_what_overflows_a_sum_is_not(bad: float) -> None:
    """Infinities of both signs do not cancel; finite numbers whose sum overflows are finite."""
    fine, wrong = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    with torch.no_grad():
        fine.weight.fill_(3e38)
        wrong.bias[0], wrong.bias[1] = bad, -bad
    assert first_not_finite(fine) is None
    assert first_not_finite(fine.half().float()) == "weight"
    assert first_not_finite(torch.nn.Linear(3, 3), wrong) == "bias"
