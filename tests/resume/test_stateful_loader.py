"""Loaders that keep their position themselves, by the protocol of torchdata's StatefulDataLoader; and several schedules at once."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import statetrain as st
from statetrain.testing.resuming import assert_resumable

SIZE = 22


def points() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(SIZE, 4, generator=generator), torch.arange(SIZE) % 3)


class Stateful(DataLoader[Any]):
    """A loader with torchdata's protocol, and its trap: told of a state that was taken at the end of an epoch, it drops the next.

    As there, the state within an epoch is the generator's at its beginning and the number of
    batches given since.
    """

    def __init__(self) -> None:
        self.order = torch.Generator().manual_seed(3)
        super().__init__(points(), batch_size=8, shuffle=True, generator=self.order)
        self.given, self.began, self.told = 0, self.order.get_state(), -1
        self.loaded: list[int] = []

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator does
        start, self.told = max(self.told, 0), -1
        if start:
            self.order.set_state(self.began)
        self.began, self.given = self.order.get_state(), start
        for n, batch in enumerate(super().__iter__()):
            if n >= start:
                self.given = n + 1
                yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given, "began": self.began, "order": self.order.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded.append(state["given"])
        self.told, self.began = state["given"], state["began"]
        self.order.set_state(state["order"])


def torchdata(workers: int) -> Callable[[], Any]:
    def make() -> Any:
        module = importlib.import_module("torchdata.stateful_dataloader")
        return module.StatefulDataLoader(points(), batch_size=8, shuffle=True, num_workers=workers)

    return make


def build(loader: Callable[[], Any], **options: Any) -> Callable[[], st.Run]:
    def make() -> st.Run:
        model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 3))
        callbacks = options.get("callbacks", list)()
        given = {
            "loss": F.cross_entropy,
            "optimizer": torch.optim.SGD,
            "opt_hparams": {"lr": 0.1, "momentum": 0.9},
            "epochs": 3,
        }
        given |= {
            "verbose": False,
            "clock": lambda: 0.0,
            "start": False,
            **options,
            "callbacks": callbacks,
        }
        return st.fit(model, loader(), **given)

    return make


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate": 2}, {"seed": 1}, {"valid": points(), "validate": st.Every(2, "steps")}],
    ids=lambda given: " ".join(given) or "nothing else",
)
def test_a_loader_with_a_state_goes_on_exactly(options: dict[str, Any]) -> None:
    """At every anchor: within an epoch from its state, at its end without, and with a seed by key."""
    assert assert_resumable(build(Stateful, **options), anchors=None) > 10


def test_it_is_told_no_state_of_the_end_of_an_epoch() -> None:
    """That would drop the next epoch; cut there, the epoch has simply ended."""
    with_trap = Stateful()
    assert len(list(with_trap)) == 3
    with_trap.load_state_dict(with_trap.state_dict())
    assert list(with_trap) == []  # the trap

    loaders: list[Stateful] = []
    # To keep it
    make = build(lambda: loaders.append(Stateful()) or loaders[-1])  # type: ignore[func-returns-value]
    assert_resumable(make, anchors=None)
    assert {given for loader in loaders for given in loader.loaded} == {1, 2}


@pytest.mark.filterwarnings("default")  # torchdata uses what torch warns of
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"seed": 1}], ids=str)
@pytest.mark.parametrize("workers", [0, 2])
def test_torchdatas_own_goes_on_exactly(workers: int, options: dict[str, Any]) -> None:
    """StatefulDataLoader itself, where it is installed."""
    if importlib.util.find_spec("torchdata") is None:
        pytest.skip("torchdata is not installed")
    assert (
        assert_resumable(build(torchdata(workers), **options), anchors=None if workers == 0 else 4)
        >= 4
    )


def schedules() -> list[st.Callback]:
    kinds = torch.optim.lr_scheduler
    return [
        st.LRScheduler(kinds.LinearLR, per="step", start_factor=0.1, total_iters=5),
        st.LRScheduler(kinds.ExponentialLR, per="epoch", gamma=0.9),
        st.LRScheduler(kinds.ReduceLROnPlateau, per="valid", monitor="valid_loss", patience=0),
        st.EMA(0.9, valid=True),
    ]


@pytest.mark.parametrize(
    "options",
    [{}, {"precision": "fp16"}, {"accumulate": 2, "precision": "bf16"}, {"finite_check": "late"}],
    ids=str,
)
def test_several_schedules_a_scaler_and_an_average_go_on_exactly(options: dict[str, Any]) -> None:
    """Each schedule with its own state on one optimizer, in mixed precision with a scaler."""
    made = build(
        lambda: DataLoader(points(), batch_size=8, shuffle=True),
        valid=points(),
        callbacks=schedules,
        seed=1,
        **options,
    )
    assert assert_resumable(made, anchors=9) == 9


def rolled() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    data = [
        (torch.randn(6, 4, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])) for _ in range(6)
    ]
    data[3][0][0, 0] = float("nan")
    return data


def test_a_run_that_rolls_back_goes_on_exactly() -> None:
    """The copy to go back to is part of a checkpoint, and so is how often it was used, and what Spike remembers."""
    policy = st.RollBack(times=9, every=st.Every(2, "steps"))
    made = build(
        rolled,
        non_finite=policy,
        spike=st.Spike(4, window=4, least=2),
        callbacks=schedules,
        valid=rolled()[:2],
        seed=1,
        epochs=2,
    )
    assert assert_resumable(made, anchors=None) > 10
