"""What changed between a run and the one that resumes it is noticed, and allowed by its word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import statetrain as st

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


class Points(Dataset[Any]):
    """A dataset with arrays as attributes, as most have."""

    def __init__(self, inputs: torch.Tensor) -> None:
        self.inputs, self.targets = inputs, Y.numpy()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index], int(self.targets[index])


def net(p: float = 0.1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Dropout(p), nn.Linear(4, 2))


def loader(inputs: torch.Tensor = X, size: int = 32, **options: Any) -> Any:
    return DataLoader(TensorDataset(inputs, Y), batch_size=size, **options)


def scheduled(peak: float, steps: int = 8) -> st.Callback:
    cycle = torch.optim.lr_scheduler.OneCycleLR
    return st.LRScheduler(cycle, per="step", max_lr=peak, total_steps=steps)


def go(folder: Path, epochs: int, **options: Any) -> st.Run:
    arguments: dict[str, Any] = {"train": loader(), "loss": F.cross_entropy} | options
    model = arguments.pop("model", None) or net()
    callbacks = [*arguments.pop("callbacks", []), st.Checkpoint(folder, preflight=False)]
    return st.fit(
        model,
        arguments.pop("train"),
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=epochs,
        seed=1,
        device="cpu",
        callbacks=callbacks,
        **arguments,
    )


CHANGES = {
    "batch size": ("data", {"train": loader(size=33)}, "train: batch size was 32, is 33"),
    "order": ("data", {"train": loader(shuffle=True)}, "order was SequentialSampler, is Random"),
    "drop_last": ("data", {"train": loader(drop_last=True)}, "drop_last was False, is True"),
    "samples": ("data", {"train": loader(X.flip(0))}, "data: train: other samples"),
    "size of a batch": ("data", {"size": 1}, "batches: size was None, is 1"),
    "what is the target": (
        "data",
        {"input": "[0]", "target": "[1]"},
        r"batches: target was None, is '\[1\]'",
    ),
    "what is the prediction": ("data", {"pred": "[:]"}, r"batches: pred was None, is '\[:\]'"),
    "dropout": ("model", {"model": net(0.5)}, r"model: 1 \(Dropout\): p was 0.1, is 0.5"),
    "loss": ("loss", {"loss": F.nll_loss}, "loss: opt was cross_entropy, is nll_loss"),
    "a function": ("loss", {"loss": lambda p, t: -F.cross_entropy(p, t)}, "is .*<lambda> #"),
    "a loss's settings": (
        "loss",
        {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
        "label_smoothing=0.1",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_refused_and_allowed_by_its_word(what: str, tmp_path: Path) -> None:
    """Batch size, order, data of the same size, dropout, loss: none of them shows in the weights."""
    word, changed, message = CHANGES[what]
    before = {"loss": nn.CrossEntropyLoss()} if "setting" in what else {}
    go(tmp_path, 1, **before)
    with pytest.raises(st.CheckpointError, match=message) as caught:
        go(tmp_path, 2, resume="last", **changed)
    assert str(caught.value).endswith(f"allow_changes={word!r}")
    assert go(tmp_path, 2, resume="last", allow_changes=word, **changed).ctx.epoch == 2


def worst(pred: Any, target: Any) -> Any:
    return (pred.argmax(1) != target).float().max()


class Counted:
    """A metric object with a setting, and with what it has counted so far."""

    def __init__(self, top: int) -> None:
        self.top, self.seen = top, 0

    def update(self, pred: Any, target: Any) -> None:
        self.seen += len(target)

    def compute(self) -> float:
        return self.seen / self.top

    def reset(self) -> None:
        self.seen = 0


METRICS: dict[str, tuple[Any, Any]] = {
    "a function": (lambda p, t: (p.argmax(1) == t).float().mean(), worst),
    "a setting of an object": (Counted(1), Counted(2)),
    "a key": (st.Metric(worst), st.Metric(worst, pred="pred[:4]", target="target[:4]")),
    "an object by keys": (
        st.Metric(Counted(1), pred="pred", target="target"),
        st.Metric(Counted(2), pred="pred", target="target"),
    ),
}


@pytest.mark.parametrize("what", METRICS)
def test_a_metric_that_changed_under_one_name_is_refused(what: str, tmp_path: Path) -> None:
    """Else its column would go on with other values; the same one resumes, and new ones may come."""
    before, after = METRICS[what]
    go(tmp_path, 1, metrics={"m": before})
    with pytest.raises(st.CheckpointError, match=r"metrics: train_m was .*, is ") as caught:
        go(tmp_path, 2, resume="last", metrics={"m": after})
    assert str(caught.value).endswith("allow_changes='metrics'")
    go(tmp_path, 2, resume="last", metrics={"m": before, "more": worst})
    assert go(tmp_path, 3, resume="last", allow_changes="metrics", metrics={"m": after}).outcome


def test_a_callback_that_takes_part_and_is_gone_is_refused(tmp_path: Path) -> None:
    """Without it, or with one more, the weights would be others; those that look on may differ."""
    clip = st.GradientClip(0.1)
    go(tmp_path, 1, callbacks=[clip])
    for callbacks, words in (
        ([], "callbacks: GradientClip removed"),
        ([clip, st.GradientClip(0.2)], "callbacks: GradientClip added"),
        ([clip, scheduled(0.1)], "callbacks: LRScheduler added"),
    ):
        with pytest.raises(st.CheckpointError, match=words) as caught:
            go(tmp_path, 2, resume="last", callbacks=callbacks)
        assert str(caught.value).endswith("allow_changes='callbacks'")
    go(tmp_path, 2, resume="last", callbacks=[clip, st.Progress(), st.Watch("exit_step", a="step")])
    assert go(tmp_path, 3, resume="last", allow_changes="callbacks").ctx.epoch == 3


def test_settings_of_a_schedule_are_refused_with_what_they_mean(tmp_path: Path) -> None:
    """Another peak, or a longer cycle, would be taken for nothing: the schedule is in the checkpoint."""
    go(tmp_path, 2, callbacks=[scheduled(0.1, 8)])
    for changed in (scheduled(9.0, 8), scheduled(0.1, 16)):
        with pytest.raises(
            st.CheckpointError, match=r"LRScheduler: kwargs was .*part of its state"
        ):
            go(tmp_path, 4, resume="last", callbacks=[changed])
    assert go(tmp_path, 4, resume="last", callbacks=[scheduled(0.1, 8)]).ctx.epoch == 4


def test_datasets_with_arrays_as_attributes_are_compared(tmp_path: Path) -> None:
    """Other rows of the same shape are noticed; the same rows, made again, are not."""
    go(tmp_path, 1, train=DataLoader(Points(X), 32))
    with pytest.raises(st.CheckpointError, match="data: train: other samples"):
        go(tmp_path, 2, train=DataLoader(Points(X * 2), 32), resume="last")
    assert go(tmp_path, 2, train=DataLoader(Points(X.clone()), 32), resume="last").ctx.epoch == 2


def test_what_may_differ_is_not_refused(tmp_path: Path) -> None:
    """Workers, callbacks that only look on, and how often is saved."""
    go(tmp_path, 1, train=DataLoader(Points(X), 32))
    again = go(
        tmp_path,
        2,
        train=DataLoader(Points(X), 32, num_workers=1),
        callbacks=[st.KeepBest("train_loss"), st.Progress()],
        resume="last",
    )
    assert again.ctx.epoch == 2


def test_a_longer_limit_is_named(tmp_path: Path) -> None:
    """The message says which limit, and what it was; one word allows it."""
    go(tmp_path, 9, max_steps=3)
    with pytest.raises(st.CheckpointError, match=r"MaxSteps\(n\) was 3, is 5"):
        go(tmp_path, 9, max_steps=5, resume="last")
    run = go(tmp_path, 9, max_steps=5, resume="last", allow_changes="lifecycle")
    assert run.ctx.step == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allow_changes": "lifecycl", "resume": "last"}, "did you mean 'lifecycle'"),
        ({"allow_changes": ["data", "weights"], "resume": "last"}, "got 'weights'"),
        ({"allow_changes": "data"}, "nothing is resumed"),
        ({"allow_changes": True}, "nothing is resumed"),
        ({"allow_changes": "lifecycl"}, "did you mean 'lifecycle'"),
    ],
    ids=str,
)
def test_what_allows_nothing_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """A misspelt word, and changes that are allowed where nothing is resumed, before anything is made."""
    with pytest.raises(st.ConfigError, match=message):
        go(tmp_path, 1, **options)


def test_an_attribute_of_a_module_that_changes_is_a_caveat(tmp_path: Path) -> None:
    """It is not saved: the caveat names it; what is a buffer, or does not change, is none."""

    class Counting(nn.Linear):
        scale = 1.0

        def __init__(self) -> None:
            super().__init__(4, 2)
            self.calls, self.fixed = 0, 3
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.seen += 1
            return super().forward(inputs)

    caveats = go(tmp_path, 1, model=Counting()).caveats
    assert len(caveats) == 1
    assert "the attribute calls has changed since the run began" in caveats[0]


def test_a_mask_alone_is_noticed(tmp_path: Path) -> None:
    """The loss is the same function of the same arguments, and counts other samples."""
    counts = torch.ones(len(X))
    batches = [(X, Y, counts, 1 - counts)]

    def train(mask: str | None, epochs: int) -> st.Run:
        loss = st.Loss(F.cross_entropy, input="pred", target="target", mask=mask)
        return go(
            tmp_path, epochs, train=batches, loss=loss, input="[0]", target="[1]", resume="last"
        )

    train("batch[2]", 1)
    with pytest.raises(st.CheckpointError, match=r"mask='batch\[2\]'.*mask='batch\[3\]'"):
        train("batch[3]", 2)
    assert train("batch[2]", 2).outcome == st.Completed(2)
