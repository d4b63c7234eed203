"""Schedules as functions of a count: what they give, and that torch's give the same."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from torch.optim import lr_scheduler as torch_schedules

from statetrain.schedules import cosine, exponential, from_torch, linear, one_cycle, pieces, warm_up


@pytest.mark.parametrize(
    ("ours", "theirs", "until"),
    [
        (linear(0.02, 0.1, 7), from_torch(torch_schedules.LinearLR, 0.1, start_factor=0.2, total_iters=7), 12),
        (cosine(0.1, 0.01, 9), from_torch(torch_schedules.CosineAnnealingLR, 0.1, T_max=9, eta_min=0.01), 9),
        (exponential(0.1, 0.5), from_torch(torch_schedules.ExponentialLR, 0.1, gamma=0.5), 12),
        (exponential(0.1, 0.5, every=3), from_torch(torch_schedules.StepLR, 0.1, step_size=3, gamma=0.5), 12),
        (pieces({0: 0.1, 4: 0.01, 6: 0.001}), from_torch(torch_schedules.MultiStepLR, 0.1, milestones=[4, 6], gamma=0.1), 12),
        (one_cycle(0.1, 20), from_torch(torch_schedules.OneCycleLR, max_lr=0.1, total_steps=20), 19),
        (one_cycle(3.0, 31, start=0.3, end=0.03, warm=0.25), from_torch(torch_schedules.OneCycleLR, max_lr=3.0, total_steps=31, div_factor=10, final_div_factor=10, pct_start=0.25), 30),
    ],
    ids=["linear", "cosine", "exponential", "steps", "pieces", "one cycle", "another cycle"],
)  # fmt: skip
def test_those_of_torch_are_the_same(ours, theirs, until):
    "At each count the value is that of torch's schedule after as many steps, whatever the order in which they are asked."
    assert theirs(until) == pytest.approx(ours(until), rel=1e-9)
    assert [ours(n) for n in range(until)] == pytest.approx(
        [theirs(n) for n in range(until)], rel=1e-9
    )


@given(
    start=some.floats(-5, 5),
    end=some.floats(-5, 5),
    over=some.integers(1, 50),
    n=some.integers(0, 200),
)
@settings(derandomize=True, database=None, deadline=None)
def test_ways_between_two_values(start, end, over, n):
    "They begin at one value, stay between the two, come to the other at the end and keep it."
    for curve in (linear(start, end, over), cosine(start, end, over)):
        assert curve(0) == pytest.approx(start)
        assert curve(over) == curve(over + 100) == pytest.approx(end)
        assert min(start, end) - 1e-9 <= curve(n) <= max(start, end) + 1e-9


def test_a_cycle_has_its_peak_and_its_end():
    "It comes to the peak after its share of the steps, to the end with the last one, and stays there."
    curve = one_cycle(1.0, 100, start=0.1, end=0.0, warm=0.3)
    values = [curve(n) for n in range(120)]
    assert values[0] == pytest.approx(0.1)
    assert max(values) == values[29] == 1.0
    assert values[99:] == [pytest.approx(0.0)] * 21
    assert values[:30] == sorted(values[:30])
    assert values[29:] == sorted(values[29:], reverse=True)
    assert one_cycle(1.0, 2, end=0.5)(0) == 1.0


def test_warming_up():
    "The approach ends where the schedule begins, which counts from there."
    assert [warm_up(4, 0.8)(n) for n in range(6)] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 0.8])
    curve = warm_up(2, linear(1.0, 0.0, 4), start=0.5)
    assert [curve(n) for n in range(8)] == pytest.approx(
        [0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    )


def test_pieces():
    "Each part holds from its count on; a schedule in a part counts from the part's beginning."
    curve = pieces({5: 2.0, 0: 1.0, 8: linear(2.0, 0.0, 2)})
    assert [curve(n) for n in range(11)] == [1, 1, 1, 1, 1, 2, 2, 2, 2, 1, 0]
    assert pieces({0: (0.9, 0.99)})(3) == (0.9, 0.99)


def test_what_else_torch_changes():
    "The momentum of a cycle can be taken; past its end torch's own error comes; a schedule that monitors is none."
    momentum = from_torch(
        torch_schedules.OneCycleLR,
        of="momentum",
        max_lr=0.1,
        total_steps=10,
        base_momentum=0.8,
        max_momentum=0.9,
    )
    assert momentum(0) == pytest.approx(0.9)
    assert momentum(2) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="Tried to step"):
        momentum(20)
    with pytest.raises(ValueError, match="takes a monitored value"):
        from_torch(torch_schedules.ReduceLROnPlateau)


@pytest.mark.parametrize(
    "make",
    [lambda: linear(0, 1, 0), lambda: cosine(0, 1, 2.5), lambda: exponential(1, 0.5, True), lambda: pieces({}), lambda: pieces({1: 2.0}),
     lambda: pieces({0: 1, 0.5: 2}), lambda: one_cycle(0.1, 1), lambda: one_cycle(0.1, 10, warm=1)],
)  # fmt: skip
def test_what_cannot_be_meant(make):
    "Lengths that are no whole numbers above 0 are errors when the schedule is made."
    with pytest.raises(ValueError, match="got"):
        make()


def test_values_are_plain_numbers():
    "They are floats, which a history and a checkpoint can hold."
    for curve in (
        linear(1, 2, 3),
        cosine(1, 2, 3),
        exponential(2, 0.5),
        one_cycle(1.0, 9),
        warm_up(3, 1.0),
        from_torch(torch_schedules.ConstantLR, 0.1),
    ):
        assert all(isinstance(curve(n), int | float) and math.isfinite(curve(n)) for n in range(12))
