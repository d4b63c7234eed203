"""Checkpoints that are copied to an object store, and back onto another machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from reference import bits

import statetrain as st


def train(*callbacks: st.Callback, **options: Any) -> st.Run:
    """A run of three epochs, by key."""
    x = torch.arange(32.0).reshape(16, 2) / 32
    torch.manual_seed(0)
    return st.fit(
        torch.nn.Linear(2, 1),
        (x, x.sum(1, keepdim=True)),
        loss=torch.nn.functional.mse_loss,
        optimizer=torch.optim.Adam,
        epochs=3,
        seed=0,
        dataloader_options={"batch_size": 4},
        verbose=False,
        callbacks=callbacks,
        **options,
    )


def test_a_copied_directory_is_resumed_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook copies what has been saved; the run is killed, and continued elsewhere from the copy."""
    monkeypatch.chdir(tmp_path)
    store = fsspec.filesystem("memory")

    @st.on("enter_epoch")
    def copy(ctx: st.Context) -> None:
        if ctx.epoch > 1:
            store.put("runs/net/step-*", "/bucket/net/", recursive=True)
        if ctx.epoch == 3:
            raise OSError("the machine is gone")

    try:
        with pytest.raises(OSError, match="the machine is gone"):
            train(st.Checkpoint("runs/net"), copy)
        shutil.rmtree("runs")
        store.get("/bucket/net/", "runs/net/", recursive=True)
        run = train(st.Checkpoint("runs/net"), resume="last")
    finally:
        store.rm("/bucket", recursive=True)
    assert run.history["epoch"] == [1, 2, 3]
    assert bits(run.model) == bits(train().model)
