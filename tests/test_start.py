"""What it takes to begin: calls before the first transition, and how it grows with the table."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from types import FrameType
from typing import Any

import pytest
import torch

import statetrain as st
from statetrain.machine.machine import Machine

BATCHES = [(torch.randn(4, 4), torch.zeros(4, dtype=torch.long))]


def begin(**options: Any) -> None:
    st.fit(
        torch.nn.Linear(4, 2),
        BATCHES,
        loss=torch.nn.functional.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=1,
        verbose=False,
        **options,
    )


def calls_before_the_walk(**options: Any) -> int:
    """How many Python functions are called from `fit` to the loop of the machine."""
    count, walking = 0, False

    def look(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count, walking
        walking = walking or frame.f_code is Machine._walk.__code__
        if event == "call" and not walking:
            count += 1

    sys.setprofile(look)
    try:
        begin(**options)
    finally:
        sys.setprofile(None)
    return count


def test_a_small_fit_begins_with_few_calls():
    "At most 2,500 from `fit` to the first transition, once the caches are filled."
    begin()
    assert calls_before_the_walk() <= 2_500


def test_many_evaluations_begin_in_time_that_grows_with_the_arrows():
    "Each evaluation may lead to each later one: twice as many are four times the arrows, and no more calls."
    calls = [
        calls_before_the_walk(evaluations=[st.Evaluation(f"site{i}", BATCHES) for i in range(n)])
        for n in (10, 20)
    ]
    assert calls[1] < 3.5 * calls[0]


def test_adding_arrows_takes_time_that_grows_with_their_number():
    "4,000 arrows from states that have none yet are put in order in half a second of the processor."
    life = st.Lifecycle(
        "one", [st.State("a"), st.State("end", final=True)], [st.Transition("a", "end")]
    )
    parts: list[Any] = []
    for i in range(2_000):
        parts += [st.State(f"s{i}"), st.Transition(f"s{i}", "end")]
        parts += [st.Transition("a", f"s{i}", st.guard(lambda ctx: True).named(f"g{i}"))]
    start = time.process_time()
    draft = life.draft().add(*parts)
    assert time.process_time() - start < 0.5
    assert len(draft.transitions) == 4_001


@pytest.mark.parametrize("on", [True, False])
def test_loading_leaves_the_collector_as_it_was(on):
    "It is switched off while a public name is loaded, and is afterwards what it was before."
    was = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        vars(st).pop("Every", None)
        assert st.Every is not None
        assert gc.isenabled() is on
    finally:
        (gc.enable if was else gc.disable)()


def test_fit_loads_no_part_that_a_plain_run_does_without():
    "What saves, resumes, traces, explains, is for several ranks or rolls back is loaded by runs that use it."
    code = "import sys, statetrain; statetrain.fit; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "statetrain.training.fitting" in loaded
    spared = (
        "callbacks.checkpoint",
        "checkpoints.snapshot",
        "compute.compiling",
        "contracts.debugging",
        "lifecycle.registry",
        "machine.asking",
        "ranks.group",
        "standard.rollback",
        "standard.several",
        "trace",
    )
    assert not [name for name in spared if f"statetrain.{name}" in loaded]
