"""Scenarios with sharded weights; in one process, the same without. `scenarios.py` runs them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import scenarios
import torch
from scenarios import RANK, RANKS, Net, described, failed, points, scenario, train

import statetrain as st


def odd(batch: int, factor: float) -> Callable[[], Net]:
    """A model whose prediction is multiplied in one batch of the last rank."""
    return lambda: Net(lambda n: factor if n == batch and RANK == RANKS - 1 else None)


def groups() -> dict[str, Any]:
    """An optimizer that is made already, with two groups of parameters."""
    net = Net()
    first = {"params": net.layers[0].parameters()}
    second = {"params": net.layers[2].parameters(), "lr": 0.3}
    return {"net": lambda: net, "optimizer": torch.optim.SGD([first, second], lr=0.1)}


OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": lambda: {"valid": 0.2, "epochs": 3},
    "few_samples": lambda: {"data": torch.utils.data.TensorDataset(*points(24 * 3 + 1))},
    "accumulated": lambda: {"accumulate": 3, "callbacks": st.GradientClip(0.5)},
    "clipped_values": lambda: {"callbacks": st.GradientClip(max_value=0.01)},
    "averaged": lambda: {"valid": 0.2, "callbacks": st.EMA(0.9, valid=True, restore=True)},
    "best": lambda: {
        "valid": 0.2,
        "epochs": 3,
        "opt_hparams": {"lr": 0.3},
        "callbacks": [st.EMA(0.5, valid=True), st.KeepBest()],
    },
    "nan_skip": lambda: {"non_finite": "skip", "net": odd(3, math.nan)},
    "nan_in_a_window": lambda: {"non_finite": "skip", "accumulate": 2, "net": odd(3, math.nan)},
    "rolled_back": lambda: {
        "non_finite": st.RollBack(times=3, factor=0.5, every=st.Every(2, "steps")),
        "net": odd(5, math.nan),
    },
    "gradients_checked": lambda: {"check_gradients": True, "non_finite": "skip"},
    "given_optimizer": lambda: {**groups(), "opt_hparams": None},
}
"""What is trained with sharded weights, by name."""


def sharded(name: str) -> dict[str, Any]:
    """One of the options."""
    given = OPTIONS[name]()
    net = given.pop("net", Net)()
    if RANKS > 1:
        given["accelerator"] = st.FSDP("cpu", shard=(torch.nn.Linear,))
    return described(train(net, **given))


for _name in OPTIONS:
    scenarios.SCENARIOS[f"sharded_{_name}"] = lambda folder, name=_name: sharded(name)  # type: ignore[misc]


@scenario
def sharded_saved(folder: Path) -> dict[str, Any]:
    """Files of whole weights, which all ranks write together, and one process reads."""
    if RANKS == 1:
        return {}
    run = train(accelerator=st.FSDP("cpu", shard=(torch.nn.Linear,)), valid=0.2)
    st.save_weights(run, folder / "weights.safetensors")
    st.save(run, folder / "run.safetensors")
    other = Net()
    with torch.no_grad():
        other.layers[0].weight.add_(1.0)
    again = train(other, accelerator=st.FSDP("cpu"), epochs=1)
    st.load_weights(again, folder / "weights.safetensors")
    scores = [
        st.evaluate(one, points(50), loss=torch.nn.CrossEntropyLoss()) for one in (run, again)
    ]
    return {**described(run), "loaded": described(again)["weights"], "scores": scores}


@scenario
def sharded_refused(folder: Path) -> dict[str, Any]:
    """What is refused by name, on all ranks alike."""
    if RANKS == 1:
        return {}
    net = Net()
    used = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net.layers(points()[0]).sum().backward()
    used.step()
    shards = st.FSDP("cpu")
    saving = st.SaveWeights(folder / "x.safetensors")
    return {
        "class": failed(lambda: st.FSDP("cpu", shard=(Net, 3))),
        "absent": failed(lambda: train(accelerator=st.FSDP("cpu", shard=(torch.nn.GRU,)))),
        "used": failed(lambda: train(net, optimizer=used, opt_hparams=None, accelerator=shards)),
        "alone": failed(lambda: train(accelerator=shards, callbacks=saving)),
        "compile": failed(lambda: train(accelerator=shards, compile=True)),
    }
