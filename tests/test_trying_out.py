"""A run tried out on a few batches, and batches learnt by heart: on copies, with nothing left."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st

X = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(dim=1, keepdim=True)
COMMON = {"loss": F.mse_loss, "optimizer": torch.optim.Adam, "opt_hparams": {"lr": 0.1}}


class Counting(st.Callback):
    """Counts, over all copies of itself, which hooks were called."""

    called: dict[str, int] = {}

    def _count(self, name):
        self.called[name] = self.called.get(name, 0) + 1

    def on_enter_batch(self, ctx):
        self._count("batch")

    def on_enter_valid_batch(self, ctx):
        self._count(ctx.state)

    def on_exit_epoch(self, ctx):
        self._count("epoch")


@pytest.fixture(autouse=True)
def afresh():
    Counting.called.clear()


def test_all_is_done_once_on_a_few_batches():
    "Two batches of each set, though the validation would be due after 1000 steps, and one row."
    run = st.try_out(
        nn.Linear(3, 1),
        (X, Y),
        valid=(X, Y),
        evaluations=[
            st.Evaluation("test", (X, Y), st.Every(5, "epochs")),
            st.Evaluation("final", (X, Y), "end"),
        ],
        dataloader_options={"batch_size": 4},
        callbacks=Counting(),
        # As for the run itself: a try is one epoch from the beginning, with each evaluation once
        epochs=(5, 20),
        validate=st.Every(1000, "steps"),
        resume="last",
        **COMMON,
    )
    counts = {"batch": 2, "valid_batch": 2, "test_batch": 2, "final_batch": 2, "epoch": 1}
    assert Counting.called == counts
    assert run.outcome.ok
    assert {"train_loss", "valid_loss", "test_loss", "final_loss"} < run.history[0].keys()


def test_windows_are_tried_whole():
    "Two windows of three batches are two steps."
    run = st.try_out(
        nn.Linear(3, 1), (X, Y), accumulate=3, dataloader_options={"batch_size": 4}, **COMMON
    )
    assert (run.ctx.step, run.ctx.batches) == (2, 6)


def test_a_lifecycle_of_your_own_is_tried():
    "Its epochs and validations are limited, too."
    life = st.supervised()
    data = {"valid": (X, Y), "dataloader_options": {"batch_size": 4}}
    run = st.try_out(
        nn.Linear(3, 1), (X, Y), lifecycle=life, callbacks=Counting(), **data, **COMMON
    )
    assert Counting.called == {"batch": 2, "valid_batch": 2, "epoch": 1}
    assert run.history[0]["epoch_complete"]


def test_nothing_is_touched_and_nothing_is_written(tmp_path, monkeypatch):
    "Weights, optimizer, callbacks, generators and the folder are what they were; each callback wrote elsewhere."
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    state = torch.get_rng_state()
    callbacks = [
        st.Checkpoint("saved"),
        st.SaveWeights(tmp_path / "weights" / "{epoch}.safetensors"),
        st.CSVLogger("log.csv"),
        st.Logger(st.JSONLines("log.jsonl"), every=st.Every(1, "steps")),
        best := st.KeepBest("train_loss"),
    ]
    if importlib.util.find_spec("tensorboard"):
        callbacks.append(st.TensorBoard("board"))
    run = st.try_out(
        model,
        (X, Y),
        loss=F.mse_loss,
        optimizer=optimizer,
        callbacks=callbacks,
        trace="trace.jsonl",
    )
    assert run.outcome.ok
    assert not list(tmp_path.iterdir())
    assert best.best is None
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert not optimizer.state
    assert torch.equal(torch.get_rng_state(), state)
    saved = [one for one in run.machine.callbacks if isinstance(one, st.Checkpoint)]
    assert saved[0].saved, "the checkpoint was written, elsewhere"
    assert not saved[0].folder.exists()


def test_what_callbacks_would_do_wrong_is_found():
    "A callback that fails at the end of an epoch fails here."

    @st.on("exit_epoch")
    def late(ctx):
        raise RuntimeError("after an hour")

    with pytest.raises(RuntimeError, match="after an hour"):
        st.try_out(nn.Linear(3, 1), (X, Y), callbacks=late, **COMMON)


def test_a_callback_of_your_own_writes_elsewhere_if_it_can(tmp_path):
    "`redirect` gives it a folder that is there while it runs, also behind `only_if`."

    class Writes(st.Callback):
        folder = tmp_path
        seen: list[Path] = []

        def redirect(self, folder):
            self.folder = folder

        def on_exit_epoch(self, ctx):
            (self.folder / "note").write_text("done")
            self.seen.append(self.folder / "note")

    st.try_out(nn.Linear(3, 1), (X, Y), callbacks=st.only_if(lambda ctx: True, Writes()), **COMMON)
    assert not list(tmp_path.iterdir())
    assert [note.exists() for note in Writes.seen] == [False]


@pytest.mark.parametrize(
    ("function", "own"), [(st.try_out, {"start": False}), (st.overfit, {"resume": "last"})]
)
def test_what_they_set_themselves_is_refused(function, own):
    "With its name."
    with pytest.raises(st.ConfigError, match=next(iter(own))):
        function(nn.Linear(3, 1), (X, Y), **own, **COMMON)
    with pytest.raises(st.ConfigError, match="batches must be a whole number"):
        function(nn.Linear(3, 1), (X, Y), batches=0, **COMMON)


def test_overfitting_is_training_on_the_first_batches():
    "Two batches, gone through a hundred times by hand: the same losses; and the model is as it was."
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 64, 8)]
    model = nn.Linear(3, 1)
    before = model.weight.detach().clone()
    run = st.overfit(model, batches, batches=2, **COMMON)
    assert torch.equal(model.weight, before)
    hand = nn.Linear(3, 1)
    hand.load_state_dict(model.state_dict())
    optimizer = torch.optim.Adam(hand.parameters(), lr=0.1)
    for _ in range(100):
        for x, y in batches[:2]:
            optimizer.zero_grad()
            F.mse_loss(hand(x), y).backward()
            optimizer.step()
    assert torch.equal(run.model.weight, hand.weight)
    assert run.history[-1]["train_loss"] < 1e-3 < run.history[0]["train_loss"]


def test_overfitting_draws_from_a_dataset_in_another_order():
    "A sorted dataset gives a batch of both halves; the same one each time, and no generator moves."
    seen = []

    @st.on("enter_pred")
    def note(ctx):
        seen.append(ctx.input[:, 0].clone())

    ordered, model = torch.arange(1000.0)[:, None], nn.Linear(1, 1)
    state = torch.get_rng_state()
    for _ in range(2):
        st.overfit(model, (ordered, ordered), epochs=2, callbacks=note, **COMMON)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(seen[0], other) for other in seen[1:])
    assert len(seen) == 4
    assert seen[0].min() < 500 < seen[0].max()
