"""Rows and records of long runs: written once, shared by checkpoints, and no limit to a run."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.callbacks.checkpointing import own_directory as saving
from statetrain.checkpoints import checkpoint, directory, rowlog
from statetrain.checkpoints.rowlog import Lane

X = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
ROW = {"epoch": 3, "train_loss": 0.1, "valid_f1": math.nan, "note": "läuft\n✓", "whole": True}


class Notes(st.Callback):
    def on_exit_epoch(self, ctx: Any) -> None:
        ctx.log("epoch twice", 2 * ctx.epoch)
        ctx.log("norms", torch.full((2,), float(ctx.epoch)))


class Cut(st.Callback):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_enter_epoch(self, ctx: Any) -> None:
        if ctx.epoch == self.at:
            raise RuntimeError("cut")


def train(folder: Path, epochs: int, *callbacks: st.Callback, **options: Any) -> st.Run:
    torch.manual_seed(0)
    return st.fit(
        nn.Linear(2, 1),
        (X, X[:, :1]),
        loss=F.mse_loss,
        optimizer=torch.optim.SGD,
        epochs=epochs,
        seed=1,
        device="cpu",
        callbacks=[*callbacks, Notes(), st.Checkpoint(folder, **options.pop("saving", {}))],
        **options,
    )


def told(run: st.Run) -> Any:
    rows = [
        {name: value for name, value in row.items() if name != "seconds"} for row in run.history
    ]
    records = {
        name: torch.as_tensor(
            list(map(torch.as_tensor, values)) if name != "norms" else torch.stack(values).tolist()
        ).tolist()
        for name, values in run.ctx.records.items()
    }
    return rows, records


def test_lines_come_back_as_they_were() -> None:
    """Rows with NaN, texts and flags; records with tensors, tuples and arrays; order kept."""
    records = {"a": [1, (2, 3.5), {"x": torch.arange(3)}], "b\n": [torch.tensor(math.inf)]}
    rows, back = rowlog.decode(rowlog.encode([ROW, {"epoch": 4}], records))
    assert repr(rows) == repr([ROW, {"epoch": 4}])
    assert repr(back) == repr(records)


@pytest.mark.parametrize(
    "line", [b"{}\n", b"[1]\n", b'["a",{"~":"x"}]\n', b'["a",1,{"t":[]}]\n', b"[\n"]
)
def test_lines_that_nobody_wrote_are_refused(line: bytes) -> None:
    """With an error that says so."""
    with pytest.raises(st.CheckpointError):
        rowlog.decode(line)


@pytest.mark.parametrize("background", [False, True])
def test_a_long_run_is_cut_and_resumed_exactly(
    background: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its rows in the shared file from the sixth epoch on, through two cuts."""
    monkeypatch.setattr(saving, "_FEW", 14)
    options: dict[str, Any] = {"saving": {"background": background}}
    whole = train(tmp_path / "a", 12, **dict(options))
    for at in (8, 10):
        with pytest.raises(RuntimeError, match="cut"):
            train(tmp_path / "b", 12, Cut(at), resume="last", **dict(options))
    again = train(tmp_path / "b", 12, resume="last", **dict(options))
    assert told(again) == told(whole)
    assert torch.equal(again.model.weight, whole.model.weight)
    newest = directory.newest(tmp_path / "b")
    assert (newest.path / checkpoint.LOG).stat().st_size == newest.files[checkpoint.LOG].size
    assert not [path for path in (tmp_path / "b").iterdir() if path.name.startswith(".log")]


def test_damage_to_one_file_leaves_the_checkpoint_before_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two files are written in turns; the newest is set aside, and the run ends as uncut."""
    monkeypatch.setattr(saving, "_FEW", 5)
    whole = train(tmp_path / "a", 9)
    train(tmp_path / "b", 6)
    newest = directory.newest(tmp_path / "b")
    log = newest.path / checkpoint.LOG
    content = bytearray(log.read_bytes())
    content[20] ^= 1
    log.write_bytes(content)
    with pytest.raises(st.CheckpointError, match=r"log\.jsonl is not what was written"):
        checkpoint.verify(newest.path)
    again = train(tmp_path / "b", 9, resume="last")
    assert told(again) == told(whole)


def test_what_is_added_later_is_not_an_earlier_checkpoints(tmp_path: Path) -> None:
    """A checkpoint knows how much of a shared file is its own; cut short, the file is noticed."""
    lane, rows = Lane(tmp_path / ".log-0"), [{"epoch": i} for i in range(6)]
    first = lane.put(lane.take(rows[:3], {}), tmp_path / "one")
    second = lane.put(lane.take(rows, {"r": [1]}), tmp_path / "two")
    assert os.path.samefile(tmp_path / "one", tmp_path / "two")
    assert rowlog.read(tmp_path / "one", first) == (rows[:3], {})
    assert rowlog.read(tmp_path / "two", second) == (rows, {"r": [1]})
    os.truncate(tmp_path / "two", second.size - 1)
    with pytest.raises(st.CheckpointError, match="bytes, expected"):
        rowlog.read(tmp_path / "two", second)


def test_a_history_that_was_cut_back_is_written_again(tmp_path: Path) -> None:
    """Rows that are gone from the history are gone from the file."""
    lane, rows = Lane(tmp_path / ".log-0"), [{"epoch": i} for i in range(6)]
    lane.put(lane.take(rows, {}), tmp_path / "one")
    digest = lane.put(lane.take(rows[:2], {}), tmp_path / "two")
    assert rowlog.read(tmp_path / "two", digest) == (rows[:2], {})


def test_without_hard_links_each_checkpoint_has_its_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file system has none, the lines are copied."""

    def refuse(*args: Any, **options: Any) -> None:
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    lane = Lane(tmp_path / ".log-0")
    digests = [lane.put(lane.take([{"epoch": i}] * i, {}), tmp_path / f"{i}") for i in (1, 2)]
    assert not os.path.samefile(tmp_path / "1", tmp_path / "2")
    assert [len(rowlog.read(tmp_path / f"{i}", digests[i - 1])[0]) for i in (1, 2)] == [1, 2]


def test_what_a_save_costs_does_not_grow_with_the_run(tmp_path: Path) -> None:
    """A hundred new rows take as many bytes, and about as long, after 100,000 as after 1,000."""
    lane, rows = Lane(tmp_path / ".log-0"), [dict(ROW) for _ in range(1_000)]
    lane.put(lane.take(rows, {}), tmp_path / "0")
    sizes, seconds = [], []
    for n in (1_000, 100_000):
        rows += [ROW] * (n - len(rows))
        lane.put(lane.take(rows, {}), tmp_path / f"filled {n}")
        rows += [ROW] * 100
        began = time.process_time()
        lines = lane.take(rows, {})
        lane.put(lines, tmp_path / f"{n}")
        seconds.append(time.process_time() - began)
        sizes.append(len(lines))
    assert sizes[0] == sizes[1]
    assert seconds[1] < 10 * seconds[0] + 0.01


def test_a_run_with_many_rows_is_saved_in_a_file(tmp_path: Path) -> None:
    """More than 16 MiB of rows, and more tensors in records than a file has room for by name."""
    run = train(tmp_path / "run", 1)
    run.history.rows[:] = [dict(ROW, epoch=i) for i in range(30_000)] * 6
    run.ctx._records["norms"] = [torch.tensor(1.0)] * 100_001
    st.save(run, tmp_path / "run.safetensors")
    back = st.load(tmp_path / "run.safetensors")
    assert len(back.history) == 180_000
    assert back.history[-1]["epoch"] == 29_999
    assert len(back.records["norms"]) == 100_001


def test_what_cannot_be_saved_is_refused_where_it_is_logged(tmp_path: Path) -> None:
    """Not at the next checkpoint; without one, anything may be logged."""

    @st.on("exit_epoch")
    def note(ctx: Any) -> None:
        ctx.log("labels", {"cat", "dog"})

    with pytest.raises(
        st.CheckpointError, match=r"log\('labels', ...\) in a run that is saved: .*set"
    ):
        train(tmp_path, 2, note)
    run = st.fit(
        nn.Linear(2, 1),
        (X, X[:, :1]),
        loss=F.mse_loss,
        optimizer=torch.optim.SGD,
        epochs=1,
        callbacks=note,
    )
    assert run.ctx.get_log("labels") == {"cat", "dog"}
