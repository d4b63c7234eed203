"""Predictions to a file, batch by batch, and from several threads."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st

X = torch.randn(100, 4, generator=torch.Generator().manual_seed(1))
Y = (X.sum(1) > 0).long()


def made() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def right(model: nn.Module) -> torch.Tensor:
    was = model.training
    model.eval()
    with torch.no_grad():
        parts = [model(part) for part in X.split(32)]
    model.train(was)
    return torch.cat(parts)


@pytest.mark.parametrize("kind", ["tensors", "batches"])
def test_predictions_are_written_to_a_file(kind: str, tmp_path: Path) -> None:
    """What is mapped from it, and what numpy reads, is what `predict` gives; of unknown length, too."""
    model, path = made(), tmp_path / "preds.npy"
    data: Any = X if kind == "tensors" else (part for part in X.split(32))
    found = st.predict(model, data, out=path)
    assert torch.equal(found, right(model))
    assert np.array_equal(np.load(path), right(model).numpy())
    assert [file.name for file in tmp_path.iterdir()] == ["preds.npy"]


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    """What was there before stays."""
    path = tmp_path / "preds.npy"
    st.predict(made(), X, out=path)
    before = path.read_bytes()

    class Failing(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls == 3:
                raise ValueError("no")
            return x

    with pytest.raises(ValueError, match="no"):
        st.predict(Failing(), X, out=path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["preds.npy"]


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("preds.pt", {}, "predictions are written to a .npy file"),
        ("none/preds.npy", {}, "there is no folder"),
        ("preds.npy", {"stack": False}, "leave out stack=False"),
        ("preds.npy", {"compute": lambda ctx: [ctx.input]}, "takes predictions that are tensors"),
        ("preds.npy", {"compute": lambda ctx: ctx.input.bfloat16()}, "numpy does not have"),
        ("preds.npy", {"compute": lambda ctx: ctx.input[:, : len(ctx.input)]}, "cannot follow"),
    ],
)
def test_what_cannot_be_written_is_told(
    out: str, options: Any, message: str, tmp_path: Path
) -> None:
    """And leaves nothing behind."""
    data = [X[:8], X[8:10]]
    with pytest.raises((st.ConfigError, st.DataError), match=message):
        st.predict(made(), data, out=tmp_path / out, **options)
    assert not list(tmp_path.iterdir())


def test_predictions_come_batch_by_batch() -> None:
    """As they are asked for: the data is read no further, and between two the model is as it was."""
    model, read = made(), []

    def batches() -> Any:
        for part in X.split(32):
            read.append(len(part))
            yield part

    found = st.predict_batches(model, batches)
    assert read == []
    first = next(found)
    assert read == [32]
    assert model.training
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.cat([first, *found]), right(model))
    assert read == [32, 32, 32, 4]


def test_leaving_off_is_no_error() -> None:
    """The run is closed, and the model is as it was."""
    model = made()
    found = st.predict_batches(model, X)
    next(found)
    found.close()  # type: ignore[attr-defined]  # it is a generator
    assert model.training


def test_a_stop_between_batches_is_told() -> None:
    """A part would pass for all."""

    class Stop(st.Callback):
        def on_enter_predict_pred(self, ctx: Any) -> None:
            if ctx.valid_iter == 2:
                ctx.request_stop("enough")

    with pytest.raises(st.MachineError, match="was stopped after 2 batches"):
        list(st.predict_batches(made(), X, callbacks=Stop()))


@pytest.fixture
def _many_switches() -> Any:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_many_switches")
def test_several_threads_predict_and_evaluate_with_one_model() -> None:
    """No answer is made with dropout, though the model is in train mode before and afterwards."""
    model = made()
    expected = right(model)
    loss = F.cross_entropy(expected, Y).item()

    def ask(number: int) -> bool:
        if number % 3:
            return torch.equal(st.predict(model, X), expected)
        found = st.evaluate(model, (X, Y), loss=F.cross_entropy)["loss"]
        return bool(abs(found - loss) < 1e-6)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(60), timeout=60))
    assert all(module.training for module in model.modules())


def test_an_evaluation_that_ends_leaves_the_mode_to_those_that_go_on() -> None:
    """One thread ends while another one is between two batches."""
    model, waiting, ended = made(), threading.Event(), threading.Event()

    def batches() -> Any:
        yield X[:32]
        waiting.set()
        assert ended.wait(30)
        yield X[32:]

    found: list[Any] = []
    other = threading.Thread(target=lambda: found.append(st.predict(model, batches)))
    other.start()
    assert waiting.wait(30)
    st.predict(model, X)
    assert not model.training
    ended.set()
    other.join(30)
    assert torch.allclose(found[0], right(model), atol=1e-6)
    assert model.training


def test_a_model_that_is_in_place_is_not_moved() -> None:
    """Nothing is called on it that others could see."""

    class Still(nn.Linear):
        def to(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("it was moved")

        def _apply(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("it was moved")

    st.predict(Still(4, 2), X)
