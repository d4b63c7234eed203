"""What several processes do, run by torchrun: one job does all of it, each rank writes what it found.

    torchrun --standalone --nproc-per-node=2 tests/ranks/scenarios.py OUT [NAME ...]

`test_processes.py` starts it, and compares ranks with each other and with one process.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

import statetrain as st
from statetrain.compute.parts import whole

RANK, RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
SAMPLES = 203
SCENARIOS: dict[str, Callable[[Path], dict[str, Any]]] = {}


def scenario(function: Callable[[Path], dict[str, Any]]) -> Callable[[Path], dict[str, Any]]:
    """Registers a scenario under its name."""
    SCENARIOS[function.__name__] = function
    return function


class Net(torch.nn.Module):
    """A small classifier that may do something odd in one of its forwards."""

    def __init__(self, odd: Callable[[int], None] | None = None, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)]
        if norm:
            layers.insert(1, torch.nn.BatchNorm1d(16))
        self.layers, self.odd, self.calls = torch.nn.Sequential(*layers), odd, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.layers(x)
        if self.training:
            self.calls += 1
            if self.odd is not None:
                factor = self.odd(self.calls)
                out = out if factor is None else out * factor
        return out


def points(samples: int = SAMPLES) -> tuple[torch.Tensor, torch.Tensor]:
    """The same data on all ranks."""
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randn(samples, 8, generator=generator),
        torch.randint(0, 3, (samples,), generator=generator),
    )


class Noisy(torch.utils.data.Dataset):
    """Samples with random augmentation."""

    def __init__(self) -> None:
        self.x, self.y = points()

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, i: int) -> Any:
        return self.x[i] + 0.1 * torch.randn(8), self.y[i], i


class Seen(st.Callback):
    """Which samples, with which augmentation, made each step on this rank."""

    reads = ("batch", "step", "batch_size")

    def __init__(self) -> None:
        self.steps: dict[int, list[Any]] = {}

    def on_exit_step(self, ctx: st.Context) -> None:
        x, _, numbers = ctx.batch
        count = ctx.batch_size
        marks = [hashlib.sha1(row.numpy().tobytes()).hexdigest()[:10] for row in x[:count]]
        self.steps[ctx.step] = list(zip(numbers[:count].tolist(), marks, strict=True))


def train(net: torch.nn.Module | None = None, data: Any = None, **options: Any) -> st.Run:
    """A short training, the same for any number of ranks."""
    given: dict[str, Any] = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.Adam,
        "opt_hparams": {"lr": 1e-2},
        "epochs": 2,
        "seed": 1,
        "dataloader_options": {"batch_size": 24},
        "trace": True,
        **options,
    }
    if data is not None and not isinstance(data, torch.utils.data.Dataset):
        given["dataloader_options"] = options.get("dataloader_options")
    return st.fit(net or Net(), points() if data is None else data, **given)


def described(run: st.Run) -> dict[str, Any]:
    """What can be compared between ranks and with one process."""
    weights = torch.cat([whole(p.detach()).flatten() for p in run.model.parameters()])
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in run.history.rows]
    return {
        "outcome": repr(run.outcome),
        "steps": run.ctx.step,
        "rows": rows,
        "trace": [str(arrow) for arrow in run.trace.transitions],
        "weights": weights.tolist(),
        "bits": hashlib.sha1(weights.numpy().tobytes()).hexdigest()[:12],
        "keys": sorted(run.model.state_dict()),
        "first": run.first,
    }


def failed(function: Callable[[], Any]) -> str:
    """What a function fails with, in words."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


# ---------------------------------------------------------------- the scenarios


@scenario
def plain(folder: Path) -> dict[str, Any]:
    return described(
        train(
            valid=0.2,
            epochs=3,
            metrics={"accuracy": lambda p, t: (p.argmax(1) == t).float().mean()},
        )
    )


@scenario
def samples(folder: Path) -> dict[str, Any]:
    seen = Seen()
    run = train(data=Noisy(), input="0", target="1", callbacks=seen)
    return {**described(run), "seen": seen.steps}


@scenario
def few_samples(folder: Path) -> dict[str, Any]:
    return described(train(data=torch.utils.data.TensorDataset(*points(24 * 3 + 1))))


@scenario
def accumulated(folder: Path) -> dict[str, Any]:
    return described(train(accumulate=3, callbacks=st.GradientClip(0.5)))


@scenario
def gradients_checked(folder: Path) -> dict[str, Any]:
    return described(train(check_gradients=True, callbacks=st.EMA(0.9)))


@scenario
def synchronized_norm(folder: Path) -> dict[str, Any]:
    return {"refused": failed(lambda: st.DDP(sync_batch_norm=True, device="cpu"))}


@scenario
def half_precision(folder: Path) -> dict[str, Any]:
    """A gradient that overflows on one rank: all skip the step, and lower the scale."""
    net = Net(lambda n: 300.0 if n == 5 and RANK == RANKS - 1 else None)
    run = train(net, precision="fp16")
    return {**described(run), "scale": run.ctx.scaler.get_scale()}


@scenario
def sharded_half_precision(folder: Path) -> dict[str, Any]:
    """The same of shards, each of which holds a part of the gradients."""
    net = Net(lambda n: 300.0 if n == 5 and RANK == RANKS - 1 else None)
    given = {"accelerator": st.FSDP("cpu")} if RANKS > 1 else {}
    run = train(net, precision="fp16", **given)
    return {**described(run), "scale": run.ctx.scaler.get_scale()}


@scenario
def compiled(folder: Path) -> dict[str, Any]:
    """Traced by torch, and run as it is; with validation, windows, and a state dict of the same names."""
    graphs = [0]

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs[0] += 1
        return graph.forward

    options = {"valid": 0.2, "accumulate": 2, "callbacks": st.EMA(0.9)}
    run = train(Net().layers, compile={"backend": backend}, **options)
    return {**described(run), "graphs": graphs[0]}


@scenario
def compiled_if_free(folder: Path) -> dict[str, Any]:
    """With a function of one's own, so that gradients carry no news."""
    compiling = {"what": "auto", "backend": "eager"}
    return described(train(Net().layers, compile=compiling, compute=compute_all))


@scenario
def norm(folder: Path) -> dict[str, Any]:
    run = train(Net(norm=True), valid=0.2)
    mean = run.model.layers[1].running_mean
    return {**described(run), "buffers": mean.tolist()}


@scenario
def nan_skip(folder: Path) -> dict[str, Any]:
    net = Net(lambda n: math.nan if n == 3 and RANK == RANKS - 1 else None)
    run = train(net, non_finite="skip")
    return {**described(run), "refused": [one["reason"] for one in run.ctx.records["refused"]]}


@scenario
def nan_stop(folder: Path) -> dict[str, Any]:
    net = Net(lambda n: math.nan if n == 3 and RANK == RANKS - 1 else None)
    return described(train(net, non_finite="stop"))


@scenario
def nan_raise(folder: Path) -> dict[str, Any]:
    net = Net(lambda n: math.nan if n == 3 and RANK == RANKS - 1 else None)
    return {"failed": failed(lambda: train(net))}


@scenario
def nan_in_a_window(folder: Path) -> dict[str, Any]:
    net = Net(lambda n: math.nan if n == 3 and RANK == RANKS - 1 else None)
    return described(train(net, non_finite="skip", accumulate=2))


class Does(st.Callback):
    """Asks for something in one batch of the last rank."""

    def __init__(self, what: str, batch: int = 5) -> None:
        self.what, self.batch = what, batch

    def on_enter_pred(self, ctx: st.Context) -> None:
        if ctx.batches != self.batch or RANK != RANKS - 1:
            return
        if self.what == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.what == "stop":
            ctx.request_stop("the disk is full")
        else:
            raise {"skip": st.SkipBatch, "epoch": st.SkipEpoch, "fit": st.StopFit}[self.what]("so")


for _what in ("signal", "stop", "skip", "epoch", "fit"):

    def _asked(folder: Path, what: str = _what) -> dict[str, Any]:
        return described(train(callbacks=Does(what), valid=0.2))

    SCENARIOS[f"asks_{_what}"] = _asked


class Odd(torch.utils.data.Dataset):
    """Data that raises an event once, for the twentieth sample that it gives to the last rank."""

    def __init__(self, event: type[Exception]) -> None:
        (self.x, self.y), self.event, self.left = points(), event, 20

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, i: int) -> Any:
        self.left -= RANK == RANKS - 1
        if not self.left:
            raise self.event("so")
        return self.x[i], self.y[i]


@scenario
def data_asks(folder: Path) -> dict[str, Any]:
    events = {"skip": st.SkipBatch, "epoch": st.SkipEpoch, "fit": st.StopFit}
    return {name: described(train(data=Odd(event))) for name, event in events.items()}


@scenario
def early_stopping(folder: Path) -> dict[str, Any]:
    stop = st.EarlyStopping("valid_loss", patience=1, min_delta=10.0)
    return described(train(valid=0.2, stop=stop, epochs=9))


@scenario
def time_limit(folder: Path) -> dict[str, Any]:
    seconds = [0.0]

    def read() -> float:
        seconds[0] += 1.0 if RANK == 0 else 100.0
        return seconds[0]

    return described(train(stop=st.TimeLimit(seconds=12), epochs=50, clock=read))


@scenario
def own_data(folder: Path) -> dict[str, Any]:
    x, y = points()
    batches = [
        (x[i : i + 10], y[i : i + 10]) for i in range(RANK * 80, RANK * 80 + 60 + 10 * RANK, 10)
    ]
    return described(train(data=batches, dataloader_options=None, epochs=2))


def unequal_batches() -> list[Any]:
    """Of four samples each: two ranks have three and one of them, and rank 0 has a batch more."""
    x, y = points()
    of_rank = {(2, 0): slice(0, 3), (2, 1): slice(3, 4)}.get((RANKS, RANK), slice(0, 4))
    count = 6 if (RANKS, RANK) == (2, 0) else 5
    return [(x[4 * n :][of_rank], y[4 * n :][of_rank]) for n in range(count)]


@scenario
def unequal(folder: Path) -> dict[str, Any]:
    """Batches of three and of one sample; the rank with fewer of them ends the epoch, and its window."""
    given = {"dataloader_options": None, "optimizer": torch.optim.SGD}
    return described(train(data=unequal_batches(), accumulate=2, **given))


@scenario
def unequal_computation(folder: Path) -> dict[str, Any]:
    given = {"dataloader_options": None, "optimizer": torch.optim.SGD}
    return described(train(data=unequal_batches(), compute=compute_all, **given))


@scenario
def same_data(folder: Path) -> dict[str, Any]:
    x, y = points()
    batches = [(x[i : i + 10], y[i : i + 10]) for i in range(0, 60, 10)]
    return {"failed": failed(lambda: train(data=batches, dataloader_options=None))}


@scenario
def other_arguments(folder: Path) -> dict[str, Any]:
    return {"failed": failed(lambda: train(epochs=2 + RANK))}


@scenario
def refused(folder: Path) -> dict[str, Any]:
    if RANKS == 1:
        return {}

    class Mine:
        def update(self, pred: Any, target: Any) -> None: ...
        def compute(self) -> float:
            return 0.0

        def reset(self) -> None: ...

    from torchmetrics import SumMetric

    not_synced = st.Metric(SumMetric(sync_on_compute=False), value="loss_value")
    return {
        "lbfgs": failed(lambda: train(optimizer=torch.optim.LBFGS, opt_hparams={})),
        "late": failed(lambda: train(finite_check="late")),
        "compile": failed(lambda: train(compile="step", non_finite="ignore")),
        "metric": failed(lambda: train(metrics={"mine": Mine()})),
        "not_synced": failed(lambda: train(metrics={"m": not_synced})),
    }


class Median:
    """A metric that is no mean of batches' values."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def update(self, pred: torch.Tensor, target: torch.Tensor) -> None:
        self.values += pred[:, 0].tolist()

    def compute(self) -> float:
        return sorted(self.values)[len(self.values) // 2]

    def reset(self) -> None:
        self.values.clear()


class MergedMedian(Median):
    """The same, which several ranks can reduce."""

    def merge_state(self, others: list[MergedMedian]) -> None:
        for other in others:
            self.values += other.values


@scenario
def merged_metric(folder: Path) -> dict[str, Any]:
    """A metric object, with a save in the middle of an epoch, which takes its state of all ranks."""
    saving = st.Checkpoint(folder / f"merged-{RANKS}", every=st.Every(4, "steps"))
    metric = {"median": MergedMedian()}
    return described(train(valid=0.2, metrics=metric, callbacks=[saving, Does("signal", 10)]))


@scenario
def merged_metric_goes_on(folder: Path) -> dict[str, Any]:
    metric = {"median": MergedMedian()}
    run = train(valid=0.2, metrics=metric, resume=folder / f"merged-{RANKS}")
    x, y = points(50)
    options = {"metrics": {"median": Median()}, "dataloader_options": {"batch_size": 17}}
    return {**described(run), "scores": st.evaluate(run, (x, y), **options)}


@scenario
def torchmetrics_object(folder: Path) -> dict[str, Any]:
    from torchmetrics.classification import MulticlassAUROC

    return described(train(valid=0.2, metrics={"auroc": MulticlassAUROC(3)}))


@scenario
def counted_once(folder: Path) -> dict[str, Any]:
    """A confusion matrix of data that every rank goes through, of data they divide, and of both."""
    from torchmetrics import MetricCollection
    from torchmetrics.classification import MulticlassConfusionMatrix

    x, y = points(50)
    run, batches = train(epochs=1), [(x[i : i + 17], y[i : i + 17]) for i in range(0, 50, 17)]
    matrix = MulticlassConfusionMatrix(3)
    given = {
        "every_rank": (batches, {"m": matrix}),
        "in_a_collection": (batches, MetricCollection({"m": matrix})),
        "by_keys": (batches, {"m": st.Metric(matrix, preds="pred", target="target")}),
        "beside_an_object": ((x, y), {"m": matrix, "median": Median()}),
        "divided": ((x, y), {"m": matrix}),
        "not_synced": ((x, y), {"m": MulticlassConfusionMatrix(3, sync_on_compute=False)}),
    }
    return {
        name: torch.as_tensor(st.evaluate(run, data, metrics=metrics)["m"]).tolist()
        for name, (data, metrics) in given.items()
    }


@scenario
def same_valid_data(folder: Path) -> dict[str, Any]:
    """Validation data that is the same on all ranks, which has no parts: fine for means alone."""
    from torchmetrics.classification import MulticlassConfusionMatrix

    x, y = points(50)
    batches = [(x[i : i + 17], y[i : i + 17]) for i in range(0, 50, 17)]
    own = [batches[-RANK]]
    given = {"epochs": 1, "metrics": {"m": MulticlassConfusionMatrix(3)}}
    return {
        "means": described(train(valid=batches, epochs=1)),
        "counts": failed(lambda: train(valid=batches, **given)),
        "beside": failed(lambda: train(evaluations=[st.Evaluation("far", batches)], **given)),
        "own": train(valid=own, **given).history.rows[-1]["valid_m"].tolist(),
    }


@scenario
def evaluated(folder: Path) -> dict[str, Any]:
    run = train()
    x, y = points(50)
    accuracy = {"accuracy": lambda p, t: (p.argmax(1) == t).float().mean()}
    options = {"batch_size": 17}
    preds = st.predict(run, x, dataloader_options=options)
    apart = st.predict(run, x, dataloader_options=options, stack=False)
    return {
        "scores": st.evaluate(run, (x, y), metrics=accuracy, dataloader_options=options),
        "module": st.evaluate(run.model, (x, y), loss=F.cross_entropy),
        "preds": preds.tolist(),
        "direct": run.model.eval()(x).tolist(),
        "batches": [len(part) for part in apart],
    }


@scenario
def output(folder: Path) -> dict[str, Any]:
    file = folder / "rows.csv"
    train(callbacks=[st.CSVLogger(file), st.Progress(), st.Log()], trace=folder / "trace.jsonl")
    return {"lines": len(file.read_text().splitlines()) if RANK == 0 else None}


@scenario
def collectives(folder: Path) -> dict[str, Any]:
    """Messages in one more epoch, beside those of the gradients: none of them in a batch."""
    import torch.distributed as dist

    if RANKS == 1:
        return {}
    counts = []
    for size in (24, 8):
        run = train(dataloader_options={"batch_size": size}, epochs=1, trace=False)
        before = run.ctx.accelerator.sharing.group.count
        calls = [0]
        real = dist.all_reduce

        def counted(*args: Any, _real: Any = real, _calls: Any = calls, **named: Any) -> Any:
            _calls[0] += 1
            return _real(*args, **named)

        dist.all_reduce = counted
        run.fit(1)
        dist.all_reduce = real
        counts.append([run.ctx.accelerator.sharing.group.count - before, calls[0]])
    return {"counts": counts}


@scenario
def waited(folder: Path) -> dict[str, Any]:
    """The last rank computes long before each backward pass, so the others wait for it there."""

    def compute_long(calls: int) -> None:
        until = time.perf_counter() + 0.02 * (RANK == RANKS - 1)
        while time.perf_counter() < until:
            pass

    profile = st.Profile()
    tracing = st.Tracing(file=folder / f"of-{RANKS}.jsonl", every_rank=True)
    run = train(Net(compute_long), epochs=1, callbacks=[profile, tracing], trace=False)
    if RANK == 0:
        run.report(folder / f"report-{RANKS}.html")
    found = st.Trace.load(tracing.file)
    return {
        "waited": profile.waited,
        "shown": str(profile),
        "file": tracing.file.name,
        "traced": [dict(one) for one in found.waited],
        "seconds": {arrow.dest: spent for arrow, spent in found.seconds().items()},
    }


@scenario
def cut(folder: Path) -> dict[str, Any]:
    seen = Seen()
    saving = st.Checkpoint(folder / "cut", every=st.Every(1, "steps"))
    run = train(
        data=Noisy(),
        input="0",
        target="1",
        epochs=3,
        callbacks=[seen, saving, Does("signal", 13)],
    )
    return {**described(run), "seen": seen.steps}


@scenario
def continued(folder: Path) -> dict[str, Any]:
    seen = Seen()
    run = train(
        data=Noisy(), input="0", target="1", epochs=3, callbacks=seen, resume=folder / "cut"
    )
    return {**described(run), "seen": seen.steps}


@scenario
def uncut(folder: Path) -> dict[str, Any]:
    seen = Seen()
    run = train(data=Noisy(), input="0", target="1", epochs=3, callbacks=seen)
    return {**described(run), "seen": seen.steps}


@scenario
def windows(folder: Path) -> dict[str, Any]:
    """Cut in the middle of a window, whose gradients no rank has reduced; continued by as many ranks."""
    given = {"accumulate": 2, "epochs": 3}
    whole_run = train(**given)
    saving = st.Checkpoint(folder / f"window-{RANKS}", every=st.Every(9, "epochs"))
    first = train(**given, callbacks=[saving, Does("signal", 12)])
    again = train(**given, resume=folder / f"window-{RANKS}")
    return {
        "whole": described(whole_run),
        "pending": first.ctx.pending,
        "again": described(again),
    }


@scenario
def windows_of_two(folder: Path) -> dict[str, Any]:
    """The window that two ranks have begun, continued by another number."""
    return described(train(accumulate=2, epochs=3, resume=folder / "window-2"))


def compute_all(ctx: st.Context) -> torch.Tensor:
    "compute it all"
    loss = F.cross_entropy(ctx.model(ctx.input), ctx.target)
    loss.backward()
    return loss


@scenario
def own_computation(folder: Path) -> dict[str, Any]:
    """Two ranks get parts of 1 and of 2 samples, and one of them none of the last batch, which has one."""
    data = torch.utils.data.TensorDataset(*points(3 * 4 + 1))
    given = {"data": data, "compute": compute_all, "dataloader_options": {"batch_size": 3}}
    return described(train(**given, optimizer=torch.optim.SGD, accumulate=2))


@scenario
def own_loss(folder: Path) -> dict[str, Any]:
    """The function returns the loss, whose gradients are left to the run."""

    def compute(ctx: st.Context) -> torch.Tensor:
        "compute the loss"
        return F.cross_entropy(ctx.model(ctx.input), ctx.target)

    data = torch.utils.data.TensorDataset(*points(3 * 4 + 1))
    given = {"data": data, "compute": compute, "dataloader_options": {"batch_size": 3}}
    return described(train(**given, optimizer=torch.optim.SGD))


@scenario
def sharded_own_computation(folder: Path) -> dict[str, Any]:
    data = torch.utils.data.TensorDataset(*points(3 * 4 + 1))
    given = {"data": data, "compute": compute_all, "dataloader_options": {"batch_size": 3}}
    if RANKS > 1:
        given["accelerator"] = st.FSDP("cpu")
    return described(train(**given, optimizer=torch.optim.SGD))


@scenario
def own_computation_asks(folder: Path) -> dict[str, Any]:
    return described(train(compute=compute_all, callbacks=Does("stop", 12), non_finite="skip"))


@scenario
def phases(folder: Path) -> dict[str, Any]:
    def table(prefix: str, epochs: int) -> Any:
        life = st.supervised(
            seeded=True, validate=None, non_finite="skip", stop=st.EarlyStopping("train_loss", 9)
        )
        del epochs
        return life.prefixed(prefix)

    life = table("warm_", 1).then(table("main_", 1))
    net = Net(lambda n: math.nan if n == 3 and RANK == RANKS - 1 else None)
    return described(train(net, lifecycle=life))


class Scaled(torch.nn.Module):
    """A loss with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3) + (0.5 if RANK else 0.0))

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(pred * self.scale, target)


@scenario
def trained_loss(folder: Path) -> dict[str, Any]:
    """The parameters of a loss begin with rank 0's, and have the gradients of all ranks."""
    loss, net = Scaled(), Net()
    optimizer = torch.optim.SGD([*net.parameters(), *loss.parameters()], lr=0.1)
    run = train(net, loss=loss, optimizer=optimizer, opt_hparams=None, accumulate=2)
    found = {**described(run), "scale": loss.scale.tolist(), "refused": ""}
    if RANKS > 1:
        given = {"loss": Scaled(), "accelerator": st.FSDP("cpu")}
        found["refused"] = failed(lambda: train(**given))
    return found


class Parts(torch.nn.Module):
    """A model with two parts, each with an optimizer; one has a parameter that no loss needs."""

    def __init__(self, odd: Callable[[int], float | None] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = torch.nn.Linear(8, 16), torch.nn.Linear(16, 3)
        self.head.spare = torch.nn.Parameter(torch.ones(2))
        self.odd, self.calls = odd, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        factor = self.odd and self.training and self.odd(self.calls)
        return self.head(self.body(x).relu()) * (factor or 1.0)


def by_parts(**options: Any) -> st.Run:
    """Two optimizers with a loss each."""
    given: dict[str, Any] = {
        "loss": {"body": F.cross_entropy, "head": lambda p, t: F.cross_entropy(2 * p, t)},
        "optimizer": {"body": torch.optim.Adam, "head": torch.optim.Adam},
        "valid": 0.2,
        **options,
    }
    return train(given.pop("net", None) or Parts(), **given)


@scenario
def several_optimizers(folder: Path) -> dict[str, Any]:
    return described(by_parts())


@scenario
def several_optimizers_clipped(folder: Path) -> dict[str, Any]:
    return described(by_parts(callbacks=[st.GradientClip(0.1), st.EMA(0.9)], check_gradients=True))


@scenario
def several_optimizers_skip(folder: Path) -> dict[str, Any]:
    """One rank's loss is not finite, for the second optimizer in one batch, for the first in another."""
    net = Parts(lambda n: math.nan if n in (4, 7) and RANK == RANKS - 1 else None)
    return described(by_parts(net=net, non_finite="skip"))


@scenario
def unused(folder: Path) -> dict[str, Any]:
    if RANKS == 1:
        return described(train(Net()))
    net = Net()
    net.spare = torch.nn.Linear(3, 3)
    accelerator = st.DDP("cpu", find_unused_parameters=True)
    return described(train(net, accelerator=accelerator, callbacks=Does("stop", 12)))


@scenario
def example(folder: Path) -> dict[str, Any]:
    path = Path(__file__).parents[2] / "examples" / "several_processes.py"
    spec = importlib.util.spec_from_file_location("several_processes", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    run, accuracy = module.main(2, folder / "example")
    return {"accuracy": accuracy, "steps": run.ctx.step}


def main() -> None:
    """Runs the scenarios that are named, all unless some are."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    found: dict[str, Any] = {}
    for name in sys.argv[2:] or SCENARIOS:
        began = time.perf_counter()
        try:
            found[name] = SCENARIOS[name](folder)
        except BaseException as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"}
            (folder / f"{RANKS}-{RANK}.json").write_text(json.dumps(found))
            raise
        found[name]["took"] = round(time.perf_counter() - began, 2)
        (folder / f"{RANKS}-{RANK}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    sys.modules["scenarios"] = sys.modules["__main__"]
    import sharded  # noqa: F401  # its scenarios

    main()
