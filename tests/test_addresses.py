"""Paths are those of this machine: an address is refused wherever a path is taken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import statetrain as st
from statetrain.trace import Trace


@pytest.fixture(scope="module")
def run() -> st.Run:
    """A run of one batch, with a trace."""
    x, y = torch.ones(4, 2), torch.zeros(4, 1)
    return st.fit(
        torch.nn.Linear(2, 1),
        (x, y),
        loss=torch.nn.functional.mse_loss,
        optimizer=torch.optim.SGD,
        epochs=1,
        trace=True,
        verbose=False,
    )


TAKE_A_PATH = {
    "Checkpoint": lambda run, at: st.Checkpoint(at),
    "SaveWeights": lambda run, at: st.SaveWeights(f"{at}-{{epoch}}.safetensors"),
    "CSVLogger": lambda run, at: st.CSVLogger(at),
    "JSONLines": lambda run, at: st.JSONLines(at),
    "TensorBoard": lambda run, at: st.TensorBoard(at),
    "WandB": lambda run, at: st.WandB(folder=at),
    "TorchProfile": lambda run, at: st.TorchProfile(at),
    "Log: file": lambda run, at: st.Log(file=at),
    "Tracing": lambda run, at: st.Tracing(file=at),
    "resume": lambda run, at: run.resume(at),
    "save": lambda run, at: st.save(run, at),
    "load": lambda run, at: st.load(at),
    "save_weights": lambda run, at: st.save_weights(run, at),
    "load_weights": lambda run, at: st.load_weights(run, at),
    "load_checkpoint": lambda run, at: st.load_checkpoint(run, at),
    "Trace.save": lambda run, at: run.trace.save(at),
    "Trace.load": lambda run, at: Trace.load(at),
    "report": lambda run, at: run.report(at),
    "draw": lambda run, at: run.draw(at),
    "predict: out": lambda run, at: st.predict(run, torch.ones(4, 2), out=at),
    "evaluate_checkpoints": lambda run, at: next(st.evaluate_checkpoints(at, dict)),
}


@pytest.mark.parametrize("owner", TAKE_A_PATH)
@pytest.mark.parametrize("address", ["s3://bucket/run.svg", "memory://run.svg"])
def test_an_address_is_refused_by_name(
    owner: str, address: str, run: st.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would become a local folder with an odd name; nothing is written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(st.ConfigError, match=f"^{owner} takes a path on this machine, got '.*:/"):
        TAKE_A_PATH[owner](run, address)
    assert os.listdir(tmp_path) == []
