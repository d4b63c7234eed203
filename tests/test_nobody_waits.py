"""Away from the host, nothing in a step reads a number of the device or waits for a copy: in lean and in typical configuration.

The runs are on the meta device, where a read by the host is an error (`item`, `tolist`, `nonzero`,
`equal`, a copy to the host). What is no error there, and would wait on CUDA all the same, is
counted: a copy to the device that is not told that it need not wait, which a tensor made of a
number is as well.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reference import bits
from test_masking import Fused
from test_metrics import Reads
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import statetrain as st
from statetrain.standard import actions
from statetrain.standard.fusing import fuse
from statetrain.training.setup.model import fused_on_devices

BATCHES = 6


class Copies(TorchDispatchMode):
    """Lists the copies between host and device that wait."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function in (
            torch.ops.aten._to_copy.default,
            torch.ops.aten.copy_.default,
            torch.ops.aten._copy_from.default,
        ):
            tensors = [leaf for leaf in tree_leaves((args, out)) if isinstance(leaf, torch.Tensor)]
            asynchronous = (kwargs or {}).get("non_blocking", False) or True in args[2:]
            if len({tensor.device for tensor in tensors}) > 1 and not asynchronous:
                self.found.append((function, [tuple(tensor.shape) for tensor in tensors]))
        return out


def data(form="tensors"):
    generator = torch.Generator().manual_seed(1)
    pairs = [
        (torch.randn(6, 4, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2]))
        for _ in range(BATCHES)
    ]
    return {
        "tensors": pairs,
        "arrays": [(x.numpy(), y.numpy()) for x, y in pairs],
        "dicts": [{"input": x, "target": y} for x, y in pairs],
    }[form]


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 3)
    )


def accuracy(pred, target):
    return (pred.argmax(1) == target).float().mean()


class Right:
    """A metric as an object, summed up where the data is."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.right, self.count = torch.zeros((), dtype=torch.long), 0

    def update(self, pred, target):
        self.right = self.right + (pred.argmax(1) == target).sum()
        self.count += len(target)

    def compute(self):
        return float(self.right) / self.count


def begin(**more):
    given = {
        "loss": F.cross_entropy,
        "optimizer": Fused,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        "device": "meta",
        "seed": 1,
        "verbose": False,
    }
    train = more.pop("train", None) or data()
    return st.fit(net(), train, start=False, **{**given, **more})


def walk(run):
    "From the second batch of the epoch to the last: before that an optimizer makes its states, and after it the row is written."
    with run.steps() as steps:
        steps.until(lambda ctx: ctx.state == "next_batch" and ctx.iter == 1)
        with Copies() as copies:
            steps.until(lambda ctx: ctx.state == "next_batch" and ctx.iter == BATCHES)
    assert run.ctx.iter == BATCHES
    return copies.found


def typical(folder):
    return {
        "train_metrics": {"accuracy": accuracy, "right": Right()},
        "stop": st.EarlyStopping("train_loss", patience=5),
        "callbacks": [st.Progress(mode="plain"), st.CSVLogger(folder / "log.csv")],
    }


def listening(folder):
    "Callbacks that are called in each step, and have nothing to read of it."
    return {
        "EMA": st.EMA(0.9),
        "EMA of all steps alike, from the second on": st.EMA(None, start=1),
        "EMA without buffers": st.EMA(0.9, buffers=False),
        "Schedule": st.Schedule("opt.lr", lambda step: 0.1 / (1 + step)),
        "GradientClip": st.GradientClip(max_norm=1.0),
        "GradientClip of values": st.GradientClip(max_value=1.0),
        "KeepBest": st.KeepBest("train_loss"),
        "LRScheduler": st.LRScheduler(
            torch.optim.lr_scheduler.CosineAnnealingLR, per="step", T_max=100
        ),
        "Mixup": st.Mixup(0.2),
        "Logger between its rows": st.Logger(
            st.JSONLines(folder / "log.jsonl"), every=st.Every(1000, "steps")
        ),
        "Profile": st.Profile(),
        "Tracing": st.Tracing(),
        "CollectGarbage": st.CollectGarbage(st.Every(2, "steps")),
        "Columns": st.Columns(st.GradientNorm(), st.Throughput(), st.Memory()),
        "log_mean": st.on("exit_batch")(
            lambda ctx: ctx.log_mean("size", ctx.model[0].weight.abs().mean())
        ),
    }


@pytest.mark.parametrize("form", ["tensors", "arrays", "dicts"])
def test_a_lean_step_waits_for_nothing(form):
    "Nothing on: no number is read, no copy waits, whatever the batches are made of."
    assert walk(begin(train=data(form))) == []


@pytest.mark.parametrize(
    "more",
    [{}, {"accumulate": 2}, {"edits": [fuse]}, {"non_finite": "skip"}],
    ids=["lean", "accumulate", "fused", "skip"],
)
def test_a_typical_step_waits_for_nothing(more, tmp_path):
    "Accuracy, early stopping, progress and a CSV file, with further options."
    assert walk(begin(**typical(tmp_path), **more)) == []


@pytest.mark.parametrize("name", listening(Path()))
def test_a_step_with_a_callback_waits_for_nothing(name, tmp_path):
    "Each callback that is called in every step."
    assert walk(begin(callbacks=listening(tmp_path)[name])) == []


def test_a_step_drawn_ahead_waits_for_nothing():
    "A batch that is placed ahead."
    life = st.supervised(
        finite_check="late", prefetch=True, seeded=True, buffers=True, validate=None
    )
    assert life.state("draw").action is actions.draw_prefetched
    assert walk(begin(lifecycle=life)) == []


@pytest.mark.parametrize(
    "name", ["lean", "typical", "in bf16", "with a checkpoint between its saves"]
)
def test_a_step_on_the_cpu_reads_nothing(name, tmp_path):
    "The same where there are numbers: none is read but whether a metric that is an object takes in the batch."
    more = {
        "lean": {},
        "typical": typical(tmp_path),
        "in bf16": {**typical(tmp_path), "precision": "bf16"},
        "with a checkpoint between its saves": {
            "callbacks": st.Checkpoint(tmp_path / "saved", every=st.Every(1000, "steps"))
        },
    }[name]
    run = begin(
        device="cpu",
        finite_check="late",
        optimizer=lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, fused=True),
        **more,
    )
    with run.steps() as steps:
        steps.until(lambda ctx: ctx.state == "next_batch" and ctx.iter == 1)
        with Reads() as reads:
            steps.until(lambda ctx: ctx.state == "next_batch" and ctx.iter == BATCHES)
        objects = name in ("typical", "in bf16")
        assert reads.count == objects * (BATCHES - 1)
        with Reads() as reads:
            steps.until("record")
        assert reads.count > 0


def test_metrics_by_keys_wait_for_nothing():
    "Metrics and losses whose arguments are named by keys, of gradients and of updates too."
    metrics = {
        "accuracy": st.Metric(accuracy, pred="pred", target="target"),
        "norm": st.Metric(torch.linalg.vector_norm, x="grads.0.weight"),
        "moved": st.Metric(torch.linalg.vector_norm, x="updates.0.weight"),
    }
    losses = st.Losses(
        main=st.Loss(F.cross_entropy, input="pred", target="target"),
        small=st.Loss(lambda x: x.square().mean(), x="pred", weight=0.1),
    )
    assert walk(begin(train_metrics=metrics, loss=losses)) == []


# ---------------------------------------------------------------- the proof can fail


class Reading(st.Callback):
    """Reads a number in each step."""

    def on_exit_step(self, ctx):
        float(ctx.model[0].weight.sum())


class Making(st.Callback):
    """Makes a tensor of a number in each step, and puts it on the device."""

    def on_exit_step(self, ctx):
        torch.tensor(0.5).to(ctx.accelerator.device)


def test_what_does_wait_is_seen():
    "The loss that is read by finite_check='now', a number read by a callback, and a copy that is waited for."
    for more in ({"finite_check": "now"}, {"callbacks": Reading()}):
        with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors"):
            walk(begin(**more))
    assert len(walk(begin(callbacks=Making()))) == BATCHES - 1


def test_an_average_is_torchs_own():
    "The average that EMA makes without waiting is the one that torch's AveragedModel makes."
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    reference = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)

    class Beside(st.Callback):
        def on_exit_step(self, ctx):
            reference.update_parameters(ctx.model)

    ema = st.EMA(0.9)
    st.fit(
        model,
        data(),
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=2,
        callbacks=[ema, Beside()],
        device="cpu",
        verbose=False,
    )
    assert bits(ema.model) == bits(reference.module)
    assert int(reference.n_averaged) == ema.state_dict()["count"] == 2 * BATCHES


@pytest.mark.parametrize(
    ("options", "late"),
    [
        ({}, True),
        ({"finite_check": "auto", "accumulate": 2}, True),
        ({"finite_check": "now"}, False),
        ({"non_finite": "ignore"}, False),
        ({"spike": st.Spike(4), "non_finite": "skip"}, False),  # which reads the loss anyway
        ({"optimizer": torch.optim.SGD}, False),  # cannot be told to leave a step out
        ({"device": "cpu"}, False),
    ],
)
def test_a_device_is_asked_late_by_itself(options, late):
    """The default checks late where device, optimizer and options allow it, and the table shows it."""
    assert bool(begin(**options).machine.lifecycle.by_role("report")) is late


def test_classes_are_made_with_their_fused_step_on_a_device():
    """On CUDA and MPS alone, for those of torch that have one, unless the user said how to compute."""

    class Weight:
        def __init__(self, device, floating=True):
            self.device = torch.device(device)
            self.is_floating_point = lambda: floating

    cuda = [Weight("cuda"), Weight("cuda", True)]
    assert fused_on_devices(torch.optim.AdamW, cuda, {"lr": 0.1}) == {"lr": 0.1, "fused": True}
    assert fused_on_devices(torch.optim.SGD, [Weight("mps")], {}) == {"fused": True}
    for kind, weights, given in (
        (torch.optim.AdamW, [Weight("cpu")], {}),
        (torch.optim.AdamW, [*cuda, Weight("cpu")], {}),
        (torch.optim.AdamW, [*cuda, Weight("cuda", False)], {}),
        (torch.optim.Adagrad, cuda, {"lr": 0.1}),  # whose fused step is for the CPU
        (torch.optim.AdamW, cuda, {"foreach": True}),
        (torch.optim.AdamW, cuda, {"fused": False}),
    ):
        assert fused_on_devices(kind, weights, given) == given
