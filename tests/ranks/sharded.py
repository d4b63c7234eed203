"""Scenarios with sharded weights; in one process, the same without. `scenarios.py` runs them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import scenarios
import torch
from scenarios import (
    RANK,
    RANKS,
    Does,
    Net,
    Noisy,
    Seen,
    described,
    failed,
    points,
    scenario,
    train,
)
from torch.distributed.device_mesh import init_device_mesh

import statetrain as st
from statetrain.checkpoints import checkpoint
from statetrain.compute.parts import whole


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


# ---------------------------------------------------------------- meshes of two dimensions

MESHES = {"mesh_1x2": (1, 2), "mesh_2x1": (2, 1), "mesh_2x2": (2, 2)}
"""Replicas x shards, by name; `test_processes.py` has two ranks, so the last runs by hand."""


def meshed(name: str, **options: Any) -> st.Run:
    """A run whose weights are replicated over one dimension and sharded over the other."""
    given: dict[str, Any] = {"valid": 0.2, "epochs": 3, "accumulate": 2, **options}
    more = given.pop("callbacks", [])
    if RANKS > 1:
        st.FSDP("cpu")  # joins the group, which a mesh needs
        mesh = init_device_mesh("cpu", MESHES[name], mesh_dim_names=("replicate", "shard"))
        given["accelerator"] = st.FSDP("cpu", shard=(torch.nn.Linear,), mesh=mesh)
    watching = [st.EMA(0.9, valid=True), st.GradientClip(0.5), *more]
    return train(check_gradients=True, non_finite="skip", callbacks=watching, **given)


def mesh_continued(folder: Path, name: str) -> dict[str, Any]:
    """Cut in the middle of a window of the second epoch, and continued."""
    if RANKS == 1:
        return {}
    saving = st.Checkpoint(folder / name, every=st.Every(1, "steps"))
    cut = meshed(name, callbacks=[saving, Does("signal", 10)])
    files = sorted(
        path.name for path in next((folder / name).glob("step-*")).glob("tensors-*-of-*")
    )
    return {
        **described(meshed(name, resume=folder / name)),
        "cut": repr(cut.outcome),
        "files": files,
    }


for _name, _shape in MESHES.items():
    if RANKS in (1, math.prod(_shape)):
        scenarios.SCENARIOS |= {
            _name: lambda folder, name=_name: described(meshed(name)),  # type: ignore[misc]
            f"{_name}_continued": partial(mesh_continued, name=_name),
        }


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
    in_thread = st.Checkpoint(folder / "thread", background=True)
    return {
        "class": failed(lambda: st.FSDP("cpu", shard=(Net, 3))),
        "absent": failed(lambda: train(accelerator=st.FSDP("cpu", shard=(torch.nn.GRU,)))),
        "used": failed(lambda: train(net, optimizer=used, opt_hparams=None, accelerator=shards)),
        "alone": failed(lambda: train(accelerator=shards, callbacks=saving)),
        "compile": failed(lambda: train(accelerator=shards, compile=True)),
        "thread": failed(lambda: train(accelerator=shards, callbacks=in_thread)),
    }


# ---------------------------------------------------------------- checkpoints


def whole_run(folder: Path, **options: Any) -> st.Run:
    """A run with what holds tensors: momentum, an average, the best weights, a window of gradients."""
    given: dict[str, Any] = {
        "epochs": 3,
        "valid": 0.2,
        "accumulate": 2,
        "data": Noisy(),
        "input": "0",
        "target": "1",
        **options,
    }
    if RANKS > 1:
        given["accelerator"] = st.FSDP("cpu", shard=(torch.nn.Linear,))
    return train(**given)


def watching(*more: st.Callback) -> list[st.Callback]:
    """The callbacks of such a run."""
    return [st.EMA(0.9, valid=True), st.KeepBest(), *more]


@scenario
def sharded_uncut(folder: Path) -> dict[str, Any]:
    seen = Seen()
    run = whole_run(folder, callbacks=watching(seen))
    return {**described(run), "seen": seen.steps}


@scenario
def sharded_cut(folder: Path) -> dict[str, Any]:
    """Cut in the middle of a window of the second epoch."""
    saving = st.Checkpoint(folder / "sharded", every=st.Every(1, "steps"))
    run = whole_run(folder, callbacks=watching(saving, Does("signal", 10)))
    return described(run)


@scenario
def sharded_continued(folder: Path) -> dict[str, Any]:
    seen = Seen()
    run = whole_run(folder, callbacks=watching(seen), resume=folder / "sharded")
    return {**described(run), "seen": seen.steps}


@scenario
def sharded_loaded(folder: Path) -> dict[str, Any]:
    """The weights alone, and the average, of a checkpoint that ranks have written."""
    net = Net()
    st.load_checkpoint(net, folder / "sharded")
    average = Net()
    st.load_checkpoint(average, folder / "sharded", average=True)
    return {
        "weights": [p.tolist() for p in net.parameters()],
        "average": [p.tolist() for p in average.parameters()],
    }


@scenario
def sharded_by_replicas(folder: Path) -> dict[str, Any]:
    """Replicas continue what shards began, and shards what replicas began."""
    given = {"epochs": 3, "valid": 0.2, "accumulate": 2, "data": Noisy(), "input": "0"}
    run = train(**given, target="1", callbacks=watching(), resume=folder / "sharded")
    found = {"replicas": described(run)}
    other = train(
        data=Noisy(),
        input="0",
        target="1",
        epochs=3,
        resume=folder / "cut",
        accelerator=st.FSDP("cpu") if RANKS > 1 else None,
    )
    return {**found, "shards": described(other)}


@scenario
def sharded_reference(folder: Path) -> dict[str, Any]:
    """Torch's own checkpoints, written and read by sharded runs, beside ours."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    if RANKS == 1:
        return {}
    run = whole_run(folder, callbacks=watching(), resume=folder / "sharded", start=False)
    model, optimizers = run.model, list(run.ctx.optimizers.values())
    weights, states = get_state_dict(model, optimizers)
    dcp.save({"model": weights, "optimizer": states}, checkpoint_id=folder / "dcp")
    fresh = whole_run(folder, callbacks=watching(), start=False)
    weights, states = get_state_dict(fresh.model, list(fresh.ctx.optimizers.values()))
    held = {"model": weights, "optimizer": states}
    dcp.load(held, checkpoint_id=folder / "dcp")
    set_state_dict(
        fresh.model,
        list(fresh.ctx.optimizers.values()),
        model_state_dict=held["model"],
        optim_state_dict=held["optimizer"],
    )
    return {
        "ours": states_of(run),
        "theirs": states_of(fresh),
    }


def states_of(run: st.Run) -> list[Any]:
    """The whole weights and the whole states of the optimizer, parameter by parameter."""
    return [
        [whole(p.detach()).tolist(), *(whole(v).tolist() for v in run.ctx.opt.state[p].values())]
        for p in run.model.parameters()
    ]


@scenario
def full_disk(folder: Path) -> dict[str, Any]:
    """The disk is full for one rank, in its second save: all fail with its words, and nothing is left of it."""
    if RANKS == 1:
        return {}
    found = {}
    real = checkpoint.put
    for what, rank in (("replicas", 0), ("shards", 1)):
        count = [0]

        def full(path: Path, *given: Any, rank: int = rank, count: Any = count) -> Any:
            count[0] += "step-0-dry" not in str(path)
            if rank == RANK and count[0] > 4:
                raise OSError(28, "No space left on device")
            return real(path, *given)

        checkpoint.put = full
        saving = st.Checkpoint(folder / what, every=st.Every(1, "steps"))
        given = {"accelerator": st.FSDP("cpu") if what == "shards" else None}
        try:
            words = failed(partial(train, callbacks=saving, **given))
        finally:
            checkpoint.put = real
        net = Net()
        st.load_checkpoint(net, folder / what)
        there = sorted(path.name for path in (folder / what).glob("step-*"))
        found[what] = {"failed": words, "there": there}
    return found
