"""Two callbacks of one run that would write the same file are refused before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import statetrain as st

X, Y = torch.zeros(8, 2), torch.zeros(8, 1)


def fit(*callbacks: st.Callback, trace: str | bool = False) -> st.Run:
    return st.fit(
        torch.nn.Linear(2, 1),
        (X, Y),
        loss=F.mse_loss,
        optimizer=torch.optim.SGD,
        epochs=1,
        callbacks=callbacks,
        trace=trace,
    )


Pair = Callable[[Path], tuple[st.Callback, st.Callback]]
PAIRS: dict[str, Pair] = {
    "CSVLogger and JSONLines": lambda path: (st.CSVLogger(path), st.JSONLines(path)),
    "Logger and CSVLogger": lambda path: (st.Logger(st.CSVLogger(path)), st.CSVLogger(path)),
    "Log and JSONLines": lambda path: (st.Log(file=path), st.JSONLines(path)),
    "SaveWeights and SaveWeights": lambda path: (
        st.SaveWeights(path, "train_loss"),
        st.SaveWeights(path),
    ),
    "Checkpoint and Checkpoint": lambda path: (st.Checkpoint(path), st.Checkpoint(path / "../f")),
    "TorchProfile and TorchProfile": lambda path: (st.TorchProfile(path), st.TorchProfile(path)),
    "JSONLines and JSONLines": lambda path: (
        st.JSONLines(path),
        st.only_if(st.Every(1, "epochs"), st.JSONLines(path)),
    ),
}


@pytest.mark.parametrize("names", PAIRS)
def test_one_file_has_one_writer(names: str, tmp_path: Path) -> None:
    """The error names both, and nothing has been written."""
    first, second = PAIRS[names](tmp_path / "f")
    with pytest.raises(st.ConfigError, match=f"{names} would both write .*f"):
        fit(first, second)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_trace_of_a_run_is_a_file_too(tmp_path: Path) -> None:
    """`trace=` makes a callback that writes one."""
    path = str(tmp_path / "f")
    with pytest.raises(st.ConfigError, match="both write"):
        fit(st.JSONLines(path), trace=path)


def test_a_callback_of_your_own_says_what_it_writes(tmp_path: Path) -> None:
    """By the same method."""

    class Mine(st.Callback):
        def destinations(self) -> tuple[str, ...]:
            return (str(tmp_path / "f"),)

    with pytest.raises(st.ConfigError, match="Mine and CSVLogger would both write"):
        fit(Mine(), st.CSVLogger(tmp_path / "f"))


def test_files_beside_each_other_are_written(tmp_path: Path) -> None:
    """Other names in one folder, and other kinds of files in one, are in no way of each other."""
    run = fit(
        st.CSVLogger(tmp_path / "a"),
        st.JSONLines(tmp_path / "b"),
        st.Checkpoint(tmp_path),
        st.TorchProfile(tmp_path),
        st.SaveWeights(tmp_path / "{epoch}"),
    )
    assert run.outcome == st.Completed(1)
    assert {"a", "b", "1"} <= {path.name for path in tmp_path.iterdir()}
