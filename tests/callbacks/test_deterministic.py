"""Deterministic: torch's switch is on during a run, and as before after it, on every path."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

import statetrain as st
from statetrain.testing.resuming import assert_resumable


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """Leaves the process as it was."""
    mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    yield
    torch.set_deterministic_debug_mode(mode)
    torch.backends.cudnn.benchmark = benchmark


def fit(callback: Callable[[st.Context], None] | None = None, **options: object) -> st.Run:
    """A run of two batches with the callback, and one more."""
    others = [] if callback is None else [st.on("enter_step")(callback)]
    batches = [(torch.ones(2, 3), torch.ones(2, 1))] * 2
    return st.fit(
        nn.Linear(3, 1),
        batches,
        loss=nn.functional.mse_loss,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=1,
        verbose=False,
        **{"callbacks": [st.Deterministic(), *others], **options},
    )


@pytest.mark.parametrize("before", [0, 1, 2])
def test_it_is_on_during_the_run_and_as_before_afterwards(before: int) -> None:
    """Whatever was set: off, warnings, errors; cuDNN's choice by trial too."""
    torch.set_deterministic_debug_mode(before)
    torch.backends.cudnn.benchmark = True
    seen = []

    def look(ctx: st.Context) -> None:
        seen.append((torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark))

    fit(look)
    assert seen == [(2, False)] * 2
    assert (torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark) == (before, True)


def test_an_operation_without_a_deterministic_form_is_an_error() -> None:
    """Torch's own, which names it; the settings are put back. With warn_only it is torch's warning."""

    def fill(ctx: st.Context) -> None:
        torch.ones(4).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]), accumulate=False)

    with pytest.raises(RuntimeError, match="put_"):
        fit(fill)
    assert torch.get_deterministic_debug_mode() == 0
    with pytest.warns(UserWarning, match="put_"):
        fit(callbacks=[st.Deterministic(warn_only=True), st.on("enter_step")(fill)])


def test_a_resumed_run_has_it_too() -> None:
    """The run is cut at any anchor."""

    def look(ctx: st.Context) -> None:
        assert torch.are_deterministic_algorithms_enabled()

    assert_resumable(lambda: fit(look, seed=0, start=False))


def test_warn_only_is_true_or_false() -> None:
    """Anything else is refused."""
    with pytest.raises(st.ConfigError, match="warn_only must be True or False"):
        st.Deterministic(warn_only=1)  # type: ignore[arg-type]
