"""The callback `Checkpoint`, and going on with `fit(..., resume=...)`."""

import copy
import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as hs
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.callbacks.checkpoint import Checkpoint
from statetrain.checkpoints import checkpoint, directory
from statetrain.checkpoints.lock import FILE, Lock
from statetrain.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    "In memory where there is a file system for it: what a disk does is tested elsewhere."
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path / "run"
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name) / "run"


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    "Signals are heeded, though whoever started the tests had them ignored, as for a job in the background."
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="statetrain")
    return caplog


def points() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(22, 4, generator=generator)
    return inputs, (inputs @ torch.randn(4, 3, generator=generator)).argmax(1)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 3))


def train(*callbacks: st.Callback, **options: Any) -> st.Run:
    """Three epochs of three batches."""
    model = options.pop("model", None) or net()
    given: dict[str, Any] = {
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1, "momentum": 0.9},
        "epochs": 3,
        "valid": points(),
    }
    given |= {
        "loss": F.cross_entropy,
        "dataloader_options": {"batch_size": 8},
        "verbose": False,
        "clock": lambda: 0.0,
    }
    return st.fit(model, points(), callbacks=list(callbacks), **{**given, **options})


def names(folder: Path) -> list[str]:
    return sorted(
        path.name.removeprefix("step-0000000")
        for path in folder.iterdir()
        if path.name.startswith("step-")
    )


def same(a: st.Run, b: st.Run) -> bool:
    weights, others = a.model.state_dict(), b.model.state_dict()
    return list(a.history) == list(b.history) and all(
        torch.equal(weights[name], others[name]) for name in weights
    )


class Break(st.Callback):
    """Fails at a place."""

    def __init__(self, where: Callable[[Any], bool]) -> None:
        self.where = where

    def on_exit_batch(self, ctx: Any) -> None:
        if self.where(ctx):
            raise OSError("the cable was pulled")


class Rows(st.Callback):
    """Decides the values of a column, epoch by epoch."""

    writes = ("history.valid_score",)

    def __init__(self, *values: float) -> None:
        self.values = values

    def on_exit_valid(self, ctx: Any) -> None:
        ctx.log_metric("score", self.values[ctx.epoch - 1])


# ---------------------------------------------------------------- when, and what is kept


def test_a_checkpoint_is_made_after_each_complete_epoch(folder: Path) -> None:
    """The two latest are kept; nothing else is left in the directory."""
    train(Checkpoint(folder))
    assert names(folder) == ["6-next_epoch", "9-next_epoch"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "step-00000006-next_epoch",
        "step-00000009-next_epoch",
    ]


@pytest.mark.parametrize(
    ("every", "kept"),
    [
        (st.Every(2, "epochs"), ["6-next_epoch"]),
        (st.Every(2, "steps"), ["2-next_batch", "4-next_batch", "6-next_batch", "8-next_batch"]),
        (st.Every(4, "batches"), ["4-next_batch", "8-next_batch"]),
        (
            st.Every(3, "steps") | st.Every(1, "epochs"),
            [
                "3-next_batch",
                "3-next_epoch",
                "6-next_batch",
                "6-next_epoch",
                "9-next_batch",
                "9-next_epoch",
            ],
        ),
        (st.Every(100, "steps"), []),
    ],
    ids=lambda value: getattr(value, "label", ""),
)
def test_intervals_may_end_within_an_epoch(every: Any, kept: list[str], folder: Path) -> None:
    """In steps, batches or epochs; joined, each counts for itself."""
    train(Checkpoint(folder, every, keep=100, at_end=False))
    assert names(folder) == kept


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(
    ("options", "newest"),
    [
        ({}, "9-next_epoch"),
        ({"stop": st.Threshold("train_loss", 100.0)}, "3-next_epoch"),
        ({"max_steps": 6}, "6-next_epoch"),
        ({"max_steps": 5}, "5-next_batch"),
        ({"max_steps": 5, "validate": st.Every(5, "steps")}, "5-next_valid_batch"),
    ],
    ids=str,
)
def test_the_newest_is_how_the_run_ended(
    options: dict[str, Any], newest: str, background: bool, folder: Path
) -> None:
    """Completed, stopped by its history or by a limit: the last checkpoint has the final weights, though no interval is over."""
    kept = Checkpoint(folder, st.Every(2, "steps"), keep=9, background=background)
    run = train(kept, **options)
    saved, data = (
        directory.newest(folder),
        checkpoint.read(folder / directory.newest(folder).name),
    )
    assert saved.name == f"step-0000000{newest}"
    assert all(
        torch.equal(data["model"]["weights"][name], value)
        for name, value in run.model.state_dict().items()
    )
    before = names(folder)
    if run.outcome == st.Completed(3):
        assert train(
            Checkpoint(folder, st.Every(2, "steps"), keep=9), resume="last"
        ).outcome == st.Completed(3)
        assert names(folder) == before


def test_nothing_is_saved_at_the_end_of_a_run_that_was_led_there_by_a_guard_that_fails(
    folder: Path,
) -> None:
    """Its error is its own: it is raised where the table asks, and named so."""

    @st.guard
    def broken(ctx: Any) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        train(Checkpoint(folder, st.Every(50, "steps")), stop=broken)
    assert any("broken" in note for note in caught.value.__notes__)
    assert not any("on_anchor" in note for note in caught.value.__notes__)
    assert names(folder) == []


@settings(max_examples=10, derandomize=True, deadline=None)
@given(hs.data())
def test_the_newest_is_never_deleted(data: hs.DataObject) -> None:
    """With a monitor and without, whatever the values: those that a resume may need, the two newest, are there after each save."""
    values = data.draw(
        hs.lists(hs.sampled_from([1.0, 2.0, 3.0, float("nan")]), min_size=4, max_size=4)
    )
    every = data.draw(
        hs.sampled_from(
            [
                st.Every(1, "steps"),
                st.Every(2, "steps"),
                st.Every(1, "epochs"),
                st.Every(1, "steps") | st.Every(1, "epochs"),
            ]
        )
    )
    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if Path("/dev/shm").is_dir() else None
    ) as where:
        kept = Checkpoint(
            Path(where) / "run",
            every,
            monitor=data.draw(hs.sampled_from([None, "valid_score"])),
            preflight=False,
        )
        newest: list[str] = []

        class Look(st.Callback):
            run_after = ("Checkpoint",)

            def on_anchor(self, ctx: Any) -> None:
                there = names(kept.folder)
                if kept.saved and kept.saved[0].name not in newest:
                    newest.append(kept.saved[0].name)
                assert {name.removeprefix("step-0000000") for name in newest[-2:]} <= set(there)

        train(kept, Look(), Rows(*values), epochs=4, validate=st.Every(1, "epochs"))
        assert newest[-1] == directory.newest(kept.folder).name


def test_an_interval_of_time_is_asked_at_every_anchor(folder: Path) -> None:
    """Within a validation too."""
    time = [0.0]

    class Tick(st.Callback):
        def on_exit_valid_batch(self, ctx: Any) -> None:
            time[0] += 25.0

    train(
        Checkpoint(folder, st.Every(1, "minutes"), keep=9), Tick(), epochs=2, clock=lambda: time[0]
    )
    assert names(folder) == ["3-next_valid_batch", "6-next_epoch", "6-next_valid_batch"]


def test_the_best_are_kept_beside_the_latest(folder: Path) -> None:
    """By the monitor; a NaN is never best, and of equals the first is."""
    train(
        Checkpoint(folder, keep=2, monitor="valid_score"),
        Rows(5.0, 1.0, float("nan"), 3.0, 1.0, 9.0, 8.0),
        epochs=7,
    )
    assert names(folder) == [
        "6-next_epoch",
        "step-00000015-next_epoch",
        "step-00000018-next_epoch",
        "step-00000021-next_epoch",
    ]
    values = {saved.about["step"]: saved.about["value"] for saved in directory.complete(folder)}
    assert values == {6: 1.0, 15: 1.0, 18: 9.0, 21: 8.0}


@pytest.mark.parametrize(("mode", "best"), [("max", 6), ("zero", 9), ("min", 3)])
def test_best_has_a_direction(mode: Any, best: int, folder: Path) -> None:
    """The highest, the nearest to zero, the lowest."""
    callback = Checkpoint(folder, monitor="valid_score", mode=mode)
    train(callback, Rows(-5.0, 7.0, -1.0, 2.0, 3.0), epochs=5)
    found = callback.best()
    assert found is not None
    assert found[0].about["step"] == best


def test_a_better_row_makes_a_checkpoint_due(folder: Path) -> None:
    """Between two intervals too, with the weights that it was recorded with."""
    train(
        Checkpoint(folder, st.Every(100, "epochs"), monitor="valid_score"),
        Rows(3.0, 4.0, 2.0),
        epochs=3,
    )
    assert names(folder) == ["3-next_epoch", "9-next_epoch"]


def test_the_k_best_are_kept_whatever_the_interval(folder: Path) -> None:
    """Each row that is among the `keep` best so far is saved, after the validation that judged it.

    The second best comes after the best, and is no improvement.
    """
    scores = [3.0, 9.0, 4.0, 5.0, 8.0, 7.0, 1.0, 2.0, 7.0, 5.0]
    train(
        Checkpoint(folder, st.Every(100, "epochs"), keep=2, monitor="valid_score", at_end=False),
        Rows(*scores),
        epochs=len(scores),
    )
    values = {saved.about["epoch"]: saved.about["value"] for saved in directory.complete(folder)}
    assert values == {7: 1.0, 8: 2.0}


def test_a_row_has_to_be_better_by_enough(folder: Path) -> None:
    """By more than `min_delta` than the best checkpoint there is."""
    train(
        Checkpoint(folder, st.Every(100, "epochs"), monitor="valid_score", min_delta=1.0),
        Rows(3.0, 2.0, 1.5),
        epochs=3,
    )
    assert names(folder) == ["3-next_epoch", "9-next_epoch"]


def test_a_value_belongs_to_the_weights_that_it_was_recorded_with(folder: Path) -> None:
    """A checkpoint within an epoch has none of an earlier row's."""
    train(
        Checkpoint(folder, st.Every(2, "steps"), keep=9, monitor="valid_score"), Rows(3.0, 4.0, 5.0)
    )
    values = {saved.about["step"]: saved.about["value"] for saved in directory.complete(folder)}
    assert values == {3: 3.0, 6: 4.0, 8: None, 9: 5.0}


def test_a_save_reads_no_weights_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are made of the bytes as they are written; of an older run's files, only manifests."""
    opened, open_file = [], checkpoint.tensorfile.open_file

    def listed(path: Path) -> Any:
        opened.append(path.name)
        return open_file(path)

    monkeypatch.setattr(checkpoint.tensorfile, "open_file", listed)
    train(Checkpoint(folder, preflight=False))
    assert not set(opened) & {checkpoint.TENSORS, checkpoint.STATE}
    monkeypatch.undo()
    for saved in directory.complete(folder):
        assert checkpoint.verify(saved.path) == saved


def test_damage_that_leaves_the_size_costs_one_interval(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not seen when it is written, but when a run goes on: from the one before, exactly."""
    write = checkpoint.write

    def lossy(*args: Any) -> Any:
        saved = write(*args)
        if saved.name == "step-00000009-next_epoch":
            tensors = saved.path / checkpoint.TENSORS
            tensors.write_bytes(bytes(tensors.stat().st_size))
        return saved

    monkeypatch.setattr(checkpoint, "write", lossy)
    train(Checkpoint(folder))
    assert names(folder) == ["6-next_epoch", "9-next_epoch"]
    assert directory.newest(folder).name == "step-00000006-next_epoch"


def test_an_older_one_is_deleted_only_when_the_new_one_is_complete(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that loses what it is given costs nothing that was there, and does not end the run."""
    write = checkpoint.write

    def lossy(*args: Any) -> Any:
        saved = write(*args)
        if saved.name == "step-00000009-next_epoch":
            (saved.path / checkpoint.TENSORS).write_bytes(b"")
        return saved

    monkeypatch.setattr(checkpoint, "write", lossy)
    train(Checkpoint(folder))
    assert "step-00000009-next_epoch: tensors.safetensors has 0 bytes" in caplog.text
    assert names(folder) == ["3-next_epoch", "6-next_epoch", "9-next_epoch"]
    assert directory.newest(folder).name == "step-00000006-next_epoch"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"keep": 0}, "keep must be a whole number of at least 1, got 0"),
        ({"keep": True}, "keep must be"),
        ({"mode": "mni"}, "did you mean 'min'"),
        ({"min_delta": -0.1}, "min_delta must be a number of at least 0, got -0.1"),
        ({"every": 100}, r'write Every\(100, "steps"\)'),
    ],
    ids=str,
)
def test_arguments_are_checked(options: dict[str, Any], named: str, folder: Path) -> None:
    """The error says what would do."""
    with pytest.raises(st.ConfigError, match=named):
        Checkpoint(folder, **options)
    assert not folder.exists()


def test_a_monitor_that_nothing_writes_is_an_error_before_anything_is_written(folder: Path) -> None:
    """With the nearest name."""
    with pytest.raises(st.ConfigError, match="did you mean 'valid_loss'"):
        train(Checkpoint(folder, monitor="valid_los"))
    assert not folder.exists()


# ---------------------------------------------------------------- going on


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("step", range(1, 10))
def test_a_run_that_failed_goes_on_as_if_it_had_not(
    step: int, seed: int | None, folder: Path
) -> None:
    """Whatever the step it failed in: from the last checkpoint, to the same weights and the same history."""
    torch.manual_seed(0)
    whole = train(seed=seed)
    torch.manual_seed(0)
    with pytest.raises(OSError, match="cable") as caught:
        train(
            Checkpoint(folder, st.Every(2, "steps")), Break(lambda ctx: ctx.step == step), seed=seed
        )
    if step > 2:
        assert any(
            "the newest checkpoint is" in note and "resume='last'" in note
            for note in caught.value.__notes__
        )
    if step <= 2:
        torch.manual_seed(0)  # nothing was saved before the second step was done: it starts anew
    else:
        torch.manual_seed(99)
    again = train(Checkpoint(folder, st.Every(2, "steps")), resume="last", seed=seed)
    assert same(again, whole)
    assert not (folder / FILE).exists()


def test_the_same_command_starts_goes_on_and_is_done(folder: Path) -> None:
    """`resume='last'` starts anew where there is nothing; after the end there is nothing left to do, and more epochs go on."""
    torch.manual_seed(0)
    whole = train(epochs=5)
    torch.manual_seed(0)
    first = train(Checkpoint(folder), resume="last", epochs=2)
    second = train(Checkpoint(folder), resume="last", epochs=2)
    third = train(Checkpoint(folder), resume="last", epochs=5)
    assert [run.outcome for run in (first, second, third)] == [
        st.Completed(2),
        st.Completed(2),
        st.Completed(5),
    ]
    assert same(second, first)
    assert same(third, whole)


@pytest.mark.parametrize("where", ["batch", "valid_batch", "record", "next_epoch", "save"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_before_it_ends(where: str, number: int, folder: Path) -> None:
    """At the next anchor, whatever it was doing; and it goes on as if it had not been interrupted."""

    class Send(st.Callback):
        done = False

        def send(self, ctx: Any) -> None:
            if ctx.epoch == 2 and not self.done:
                self.done = True
                os.kill(os.getpid(), number)

    hook = (
        "on_anchor"
        if where == "save"
        else "on_enter_next_epoch"
        if where == "next_epoch"
        else f"on_enter_{where}"
    )
    kind = type("Sends", (Send,), {hook: Send.send})
    torch.manual_seed(0)
    whole = train(epochs=4)
    torch.manual_seed(0)
    run = train(Checkpoint(folder, st.Every(50, "epochs")), kind(), epochs=4)
    assert run.outcome == st.Interrupted(2, signal.Signals(number).name)
    torch.manual_seed(99)
    again = train(Checkpoint(folder, st.Every(50, "epochs"), at_end=False), resume="last", epochs=4)
    assert same(again, whole)
    expected = {
        "batch": "4-next_batch",
        "save": "4-next_batch",
        "valid_batch": "6-next_valid_batch",
    }
    assert names(folder) == [expected.get(where, "6-next_epoch")]


@pytest.mark.parametrize("limit", ["max_steps", "stop"])
@pytest.mark.parametrize(
    ("validate", "steps", "where"),
    [
        (st.Every(1, "epochs"), 5, "5-next_batch"),
        (st.Every(1, "epochs"), 6, "6-next_epoch"),
        (st.Every(5, "steps"), 5, "5-next_valid_batch"),
    ],
    ids=str,
)
def test_a_run_that_came_to_a_limit_is_saved_there(
    limit: str, validate: st.Guard, steps: int, where: str, folder: Path
) -> None:
    """With a higher limit it goes on as if that had been the limit from the start."""

    def limited(n: int) -> dict[str, Any]:
        return {"validate": validate, limit: st.MaxSteps(n) if limit == "stop" else n}

    torch.manual_seed(0)
    whole = train(**limited(8))
    torch.manual_seed(0)
    train(Checkpoint(folder), **limited(steps))
    assert where in names(folder)
    assert "5-next_epoch" not in names(folder), (
        "the row of a part of an epoch is no part of the run when it goes on"
    )
    again = train(Checkpoint(folder), resume="last", allow_changes=["lifecycle"], **limited(8))
    assert same(again, whole)


@pytest.mark.parametrize(
    "options",
    [{"every": st.Every(10, "seconds")}, {"monitor": "train_loss", "mode": "max"}],
    ids=["due", "improved"],
)
def test_what_follows_a_stop_is_not_saved(options: dict[str, Any], folder: Path) -> None:
    """Though an interval is over then, or the row of a part of an epoch is the best so far: the run would go on without the rest of the epoch."""
    time = [0.0]

    class Slow(st.Callback):
        def on_enter_record(self, ctx: Any) -> None:
            time[0] += 100.0
            if ctx.step == 5:
                for mean in ctx.tallies["train"].losses.values():
                    mean.total += 1000.0

    train(Checkpoint(folder, **options), Slow(), max_steps=5, clock=lambda: time[0])
    assert "5-next_batch" in names(folder)
    assert "5-next_epoch" not in names(folder)


def test_a_stop_that_a_callback_asked_for_holds_when_the_run_goes_on(folder: Path) -> None:
    """It is part of the run: continued, it stops at once, with the same outcome and rows."""

    class Ask(st.Callback):
        def on_exit_batch(self, ctx: Any) -> None:
            if ctx.step == 4:
                ctx.request_stop("four steps are enough")

    torch.manual_seed(0)
    first = train(Checkpoint(folder), Ask())
    again = train(Checkpoint(folder), Ask(), resume="last")
    assert again.outcome == first.outcome == st.Stopped(2, "four steps are enough")
    assert same(again, first)


def test_the_time_that_a_run_has_taken_goes_on(folder: Path) -> None:
    """Its seconds, and those of its limits, are those of both parts."""
    time = [100.0]

    class Tick(st.Callback):
        def on_exit_batch(self, ctx: Any) -> None:
            time[0] += 1.0

    train(Checkpoint(folder), Tick(), epochs=2, clock=lambda: time[0])
    time[0] = 5000.0
    limit = {"stop": st.TimeLimit(seconds=8), "resume": "last", "allow_changes": ["lifecycle"]}
    run = train(Checkpoint(folder), Tick(), epochs=9, clock=lambda: time[0], **limit)
    assert run.history["seconds"] == [3.0, 6.0, 8.0]
    assert run.ctx.seconds == 8.0


def test_a_path_can_be_given(folder: Path) -> None:
    """Of a checkpoint, or of a directory of them; without a `Checkpoint` among the callbacks too."""
    torch.manual_seed(0)
    whole = train(Checkpoint(folder, keep=9), epochs=3)
    for path in (
        folder,
        folder / "step-00000003-next_epoch",
        str(folder / "step-00000006-next_epoch"),
    ):
        assert same(train(resume=path, epochs=3), whole)


def test_the_best_can_be_gone_back_to(folder: Path) -> None:
    """The run goes on from there, and what comes after is newer than what was there."""
    train(Checkpoint(folder, monitor="valid_score"), Rows(3.0, 1.0, 2.0, 4.0), epochs=4)
    run = train(
        Checkpoint(folder, monitor="valid_score"), Rows(3.0, 1.0, 5.0, 0.5), epochs=4, resume="best"
    )
    assert run.history["valid_score"] == [3.0, 1.0, 5.0, 0.5]
    assert directory.newest(folder).about["value"] == 0.5


def test_a_run_can_go_back_and_on_in_place(folder: Path) -> None:
    """As in a notebook: interrupt, look, `run.resume()`."""

    class Once(st.Callback):
        asked = False

        def on_exit_batch(self, ctx: Any) -> None:
            if ctx.step == 5 and not self.asked:
                self.asked = True
                os.kill(os.getpid(), signal.SIGINT)

    torch.manual_seed(0)
    whole = train()
    torch.manual_seed(0)
    run = train(Checkpoint(folder), Once())
    assert run.outcome == st.Interrupted(2, "SIGINT")
    run.model[0].weight.data.zero_()  # whatever was tried out meanwhile
    torch.manual_seed(99)
    assert same(run.resume(), whole)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        train(Checkpoint(folder.parent / "other"), epochs=0).resume()


@pytest.mark.parametrize(
    ("resume", "named"),
    [
        ("last", r"give callbacks=\[Checkpoint\(folder\)\], or a path"),
        ("best", "give callbacks"),
        ("nowhere", "there is no checkpoint; give 'last', 'best'"),
    ],
)
def test_what_cannot_be_found_is_an_error(resume: str, named: str) -> None:
    """Before anything is trained."""
    with pytest.raises(st.ConfigError, match=named):
        train(resume=resume)


def test_best_needs_a_monitor(folder: Path) -> None:
    """The error says where to name it."""
    with pytest.raises(st.ConfigError, match="without a monitor"):
        train(Checkpoint(folder), resume="best")


def test_the_trace_goes_on(folder: Path) -> None:
    """A continued run takes the arrows that the whole one takes from there on."""
    whole = train(trace=True)
    train(Checkpoint(folder), epochs=2)
    rest = train(Checkpoint(folder), resume="last", trace=True).trace.transitions
    assert rest == whole.trace.transitions[-len(rest) :]
    assert str(rest[0]) == "next_epoch -> epoch [more epochs] / count the epoch"


def test_a_lifecycle_without_anchors_cannot_be_saved(folder: Path) -> None:
    """It would never be; the error says what to declare."""
    life = (
        st.supervised()
        .replace("next_epoch", anchor=False)
        .replace("next_batch", anchor=False)
        .replace("next_valid_batch", anchor=False)
    )
    with pytest.raises(
        st.CallbackError,
        match=r"has no anchor to save at; declare one with State\(..., anchor=True\)",
    ):
        train(Checkpoint(folder), lifecycle=life)


def test_nothing_is_saved_of_an_evaluation(folder: Path) -> None:
    """Though it is given the callback, and has anchors."""
    run = train(epochs=1)
    run.evaluate(points(), callbacks=[Checkpoint(folder, st.Every(1, "batches"))])
    assert not folder.exists()


def test_another_accelerator_goes_on_too(folder: Path) -> None:
    """Hugging Face's, which wraps model and optimizer."""
    import accelerate

    def go(*callbacks: st.Callback, **options: Any) -> st.Run:
        return train(*callbacks, accelerator=accelerate.Accelerator(cpu=True), **options)

    torch.manual_seed(0)
    whole = go()
    torch.manual_seed(0)
    with pytest.raises(OSError, match="cable"):
        go(Checkpoint(folder, st.Every(2, "steps")), Break(lambda ctx: ctx.step == 5))
    torch.manual_seed(99)
    assert same(go(Checkpoint(folder), resume="last"), whole)


# ---------------------------------------------------------------- broken ones


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["MANIFEST.json", "state.json", "tensors.safetensors"])
def test_a_broken_checkpoint_costs_an_interval_and_no_more(
    file: str, folder: Path, said: Any
) -> None:
    """The run goes on from the one before, exactly; the broken one is set aside by the run that owns the directory."""
    torch.manual_seed(0)
    whole = train(Checkpoint(folder), epochs=4)
    shutil.rmtree(folder)
    torch.manual_seed(0)
    train(Checkpoint(folder), epochs=3)
    damage(folder / "step-00000009-next_epoch" / file)
    again = train(Checkpoint(folder), resume="last", epochs=4)
    assert same(again, whole)
    assert file in said.text
    kept = names(folder)
    assert next(name for name in kept if "corrupt" in name).startswith("9-next_epoch.corrupt-")
    assert "step-00000012-next_epoch" in kept


def test_without_a_whole_checkpoint_nothing_starts(folder: Path, said: Any) -> None:
    """All are named, none is deleted, and a fresh start does not pass for a continued run."""
    train(Checkpoint(folder))
    for name in ("step-00000006-next_epoch", "step-00000009-next_epoch"):
        damage(folder / name / "state.json")
    with pytest.raises(
        CheckpointError, match=r"(?s)step-00000006-next_epoch.*step-00000009-next_epoch"
    ):
        train(Checkpoint(folder), resume="last")
    assert len(names(folder)) == 2


# ---------------------------------------------------------------- one run, one directory


def test_a_directory_of_another_run_is_left_alone(folder: Path) -> None:
    """A run that starts anew does not mix with the checkpoints of an earlier one."""
    train(Checkpoint(folder), epochs=1)
    with pytest.raises(
        CheckpointError,
        match=(
            r"has checkpoints of an earlier run, the newest step-00000003-next_epoch; resume it"
        ),
    ):
        train(Checkpoint(folder), epochs=1)
    assert names(folder) == ["3-next_epoch"]


def test_a_directory_that_is_in_use_is_refused(folder: Path) -> None:
    """Before anything is trained, by process and machine; for a run that is continued too."""
    train(Checkpoint(folder), epochs=1)
    lock = Lock(folder)
    lock.take()
    for resume in (None, "last"):
        with pytest.raises(CheckpointError, match=f"in use by process {os.getpid()}"):
            train(Checkpoint(folder), epochs=2, resume=resume)
    lock.give_back()
    assert names(folder) == ["3-next_epoch"]


def test_the_directory_is_given_back_on_every_path(folder: Path) -> None:
    """Completed, failed, stopped, or closed in mid-step."""
    for epochs, callbacks in ((1, []), (2, [Break(lambda ctx: ctx.epoch == 2)])):
        try:
            train(Checkpoint(folder), *callbacks, epochs=epochs, resume="last")
        except OSError:
            pass
        assert not (folder / FILE).exists()
    run = train(Checkpoint(folder), epochs=9, resume="last", start=False)
    steps = run.steps()
    for _ in range(5):
        next(steps)
    assert (folder / FILE).exists()
    steps.close()
    assert not (folder / FILE).exists()


def test_a_directory_that_cannot_be_written_is_an_error_before_the_first_batch(
    tmp_path: Path,
) -> None:
    """A file where the directory should be."""
    (tmp_path / "file").write_text("")
    seen = []

    class Look(st.Callback):
        def on_enter_batch(self, ctx: Any) -> None:
            seen.append(ctx.iter)

    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match="cannot be written"):
            train(Checkpoint(path), Look())
    assert not seen


def test_what_cannot_be_saved_is_an_error_before_the_first_batch(folder: Path) -> None:
    """A callback whose state is no plain data is found by the dry run, and named."""

    class Holds(st.Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"file": open}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    with pytest.raises(
        CheckpointError,
        match=r"'callbacks.1.state.own.file' is a builtins.builtin_function_or_method",
    ):
        train(Checkpoint(folder), Holds())
    assert names(folder) == []


def test_a_disk_without_room_for_three_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both numbers, before the first batch."""
    usage = shutil.disk_usage(folder.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5000))
    with pytest.raises(
        CheckpointError, match=r"room for 5000 bytes, and a checkpoint needs \d+ or more; three"
    ):
        train(Checkpoint(folder))


def test_a_disk_that_gives_back_something_else_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read back is compared."""
    read = checkpoint.read
    monkeypatch.setattr(checkpoint, "read", lambda path: {**read(path), "seed": 5})
    with pytest.raises(CheckpointError, match="not what is read back"):
        train(Checkpoint(folder))


def test_a_full_disk_ends_the_run_with_the_older_checkpoints_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's error, with a note that says where to go on; with room again, it does."""
    torch.manual_seed(0)
    whole = train()
    put = checkpoint.put

    def full(path: Path, content: Any) -> Any:
        if "00000006" in str(path):
            raise OSError(28, "No space left on device")
        return put(path, content)

    monkeypatch.setattr(checkpoint, "put", full)
    torch.manual_seed(0)
    with pytest.raises(OSError, match="No space left") as caught:
        train(Checkpoint(folder))
    assert any("step-00000003-next_epoch" in note for note in caught.value.__notes__)
    monkeypatch.undo()
    assert names(folder) == ["3-next_epoch"]
    assert same(train(Checkpoint(folder), resume="last"), whole)


def test_weights_that_are_not_finite_are_not_saved(folder: Path, said: Any) -> None:
    """Nor does an infinite buffer push out what is worth more; the warning names it."""

    class Spoil(st.Callback):
        def on_exit_batch(self, ctx: Any) -> None:
            if ctx.step == 5:
                ctx.model[1].running_mean[2] = float("inf")

    train(Checkpoint(folder, st.Every(1, "steps"), keep=99), Spoil(), non_finite="ignore")
    assert names(folder) == [f"{n}-next_batch" for n in (1, 2, 3, 4)]
    assert "not saved in epoch 2, batch 2, step 5: 1.running_mean is not finite" in said.text


# ---------------------------------------------------------------- another run


def deeper() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 7), nn.BatchNorm1d(7), nn.Dropout(0.3), nn.Linear(7, 3), nn.Linear(3, 3)
    )


CHANGES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "lifecycle": (
        {"non_finite": "skip"},
        [
            "arrow loss -> failed",
            "removed",
            "arrow loss -> next_batch",
            "added",
            "allow_changes='lifecycle'",
        ],
    ),
    "model": (
        {"model": deeper},
        [
            "model: 0.weight was float32 (6, 4), is float32 (7, 4)",
            "model: 4.weight float32 (3, 3) added",
        ],
    ),
    "a type of the model": (
        {"model": lambda: net().double()},
        ["model: 0.weight was float32 (6, 4), is float64 (6, 4)"],
    ),
    "optimizer": (
        {"optimizer": torch.optim.Adam, "opt_hparams": {}},
        ["optimizer 'opt' was SGD, is Adam", "allow_changes='optimizer'"],
    ),
    "a setting": (
        {"opt_hparams": {"lr": 0.05, "momentum": 0.9}},
        ["optimizer 'opt': lr was 0.1, is 0.05"],
    ),
    "data": (
        {"valid": (points()[0][:20], points()[1][:20])},
        ["data: valid data had 22 samples, has 20", "allow_changes='data'"],
    ),
    "no validation": ({"valid": None}, ["data: valid data was there, is not", "state valid"]),
    "seed": ({"seed": 3}, ["seed was None, is 3"]),
}


@pytest.mark.parametrize(("options", "named"), CHANGES.values(), ids=CHANGES)
def test_a_run_that_has_changed_is_refused_with_what_has_changed(
    options: dict[str, Any], named: list[str], folder: Path
) -> None:
    """And with how to allow it; nothing has been touched."""
    train(Checkpoint(folder), epochs=1)
    model = options.get("model", net)()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        CheckpointError, match="the run differs from the one that was saved"
    ) as caught:
        train(Checkpoint(folder), resume="last", **{**options, "model": model})
    for words in named:
        assert words in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert names(folder) == ["3-next_epoch"]


@pytest.mark.parametrize(
    "change", [name for name in CHANGES if name != "a type of the model"]
)  # which the data would have to have, too
def test_a_change_can_be_allowed(change: str, folder: Path) -> None:
    """The run goes on with what fits, to its end."""
    options, _ = CHANGES[change]
    train(Checkpoint(folder), epochs=1)
    made = {**options, "model": options.get("model", net)()}
    run = train(Checkpoint(folder), resume="last", allow_changes=True, **made)
    assert run.outcome == st.Completed(3)
    assert [row["epoch"] for row in run.history] == [1, 2, 3]


def test_a_setting_that_is_given_differently_holds_when_it_is_allowed(folder: Path) -> None:
    """The new learning rate, with the old momentum's state."""
    train(Checkpoint(folder), epochs=1)
    run = train(
        Checkpoint(folder),
        resume="last",
        allow_changes=["optimizer"],
        opt_hparams={"lr": 0.05, "momentum": 0.9},
        epochs=1,
    )
    group = run.ctx.opt.param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.05, 0.9)
    assert len(run.ctx.opt.state) == 6


def test_what_may_differ_has_names(folder: Path) -> None:
    """A misspelt one is refused."""
    train(Checkpoint(folder), epochs=1)
    with pytest.raises(st.ConfigError, match=r"takes 'lifecycle', .*; did you mean 'model'"):
        train(Checkpoint(folder), resume="last", allow_changes=["modle"])


def test_other_callbacks_change_nothing(folder: Path) -> None:
    """Added, removed, in another order: the state of each finds its own."""

    class Counts(st.Callback):
        def __init__(self) -> None:
            self.count = 0

        def on_exit_batch(self, ctx: Any) -> None:
            self.count += 1

        def state_dict(self) -> dict[str, Any]:
            return {"count": self.count}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.count = state["count"]

    torch.manual_seed(0)
    whole = train()
    torch.manual_seed(0)
    one, two = Counts(), Counts()
    two.count = 100
    train(one, Checkpoint(folder), two, epochs=2)
    a, b, c = Counts(), Counts(), Counts()
    again = train(a, b, Rows(1, 2, 3), c, Checkpoint(folder), resume="last")
    assert (a.count, b.count, c.count) == (9, 109, 3)
    assert all(
        row["valid_loss"] == other["valid_loss"]
        for row, other in zip(again.history, whole.history, strict=True)
    )


def test_a_manifest_says_what_a_checkpoint_is(folder: Path) -> None:
    """Readable without the run's classes."""
    run = train(Checkpoint(folder, monitor="valid_loss"), epochs=1)
    about = json.loads((folder / "step-00000003-next_epoch" / "MANIFEST.json").read_text())["about"]
    assert {name: about[name] for name in ("state", "epoch", "step", "samples")} == {
        "state": "next_epoch",
        "epoch": 1,
        "step": 3,
        "samples": 22,
    }
    assert about["lifecycle"] == {"name": "supervised", "fingerprint": run.lifecycle.fingerprint}
    assert about["value"] == run.history[-1]["valid_loss"]
    assert about["versions"]["torch"] == torch.__version__


def test_a_checkpoint_is_chosen_of_a_directory(folder: Path) -> None:
    """The last, the best by what is monitored, that of a step: each with its own weights."""
    train(Checkpoint(folder, keep=3, monitor="valid_score"), Rows(3.0, 1.0, 2.0))
    weights = {}
    for which in ("last", "best", 3, 6, 9):
        fresh = net()
        st.load_checkpoint(fresh, folder, which)
        weights[which] = [value.tolist() for value in fresh.state_dict().values()]
    assert weights["last"] == weights[9]
    assert weights["best"] == weights[6]
    assert weights[3] != weights[6] != weights[9]
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 5 in .* steps 9, 6, 3"):
        st.load_checkpoint(net(), folder, 5)
    with pytest.raises(
        st.ConfigError, match="which must be 'last', 'best' or the number of a step"
    ):
        st.load_checkpoint(net(), folder, "newest")


def test_without_a_monitor_nothing_is_best(folder: Path) -> None:
    """The error says what is missing."""
    train(Checkpoint(folder), epochs=1)
    with pytest.raises(CheckpointError, match="no checkpoint with a monitored value"):
        st.load_checkpoint(net(), folder, "best")


# ---------------------------------------------------------------- the start, milestones, steps


def test_a_run_that_fails_in_its_first_epoch_goes_on_from_how_it_started(folder: Path) -> None:
    """With `at_start`: the weights, though there is no seed, are those of the first process."""
    begun = net()
    expected = train(model=copy.deepcopy(begun), seed=3)
    with pytest.raises(OSError, match="cable"):
        train(
            Checkpoint(folder, at_start=True),
            Break(lambda ctx: ctx.step == 2),
            model=begun,
            seed=3,
        )
    assert names(folder) == ["0-next_epoch"]
    gone_on = train(Checkpoint(folder, at_start=True), resume="last", seed=3)
    assert same(gone_on, expected)
    assert names(folder) == ["6-next_epoch", "9-next_epoch"]


@pytest.mark.parametrize(
    ("interval", "kept"),
    [
        (
            st.Every(2, "epochs"),
            ["6-next_epoch", "12-next_epoch", "15-next_epoch", "18-next_epoch"],
        ),
        (st.Every(8, "steps"), ["9-next_epoch", "15-next_epoch", "18-next_epoch"]),
    ],
    ids=str,
)
def test_milestones_are_never_deleted(interval: st.Every, kept: list[str], folder: Path) -> None:
    """The first at or after each multiple; 16 steps are first reached with 18."""
    train(Checkpoint(folder, keep_every=interval), epochs=6)
    found = [saved.about["step"] for saved in directory.complete(folder)]
    assert sorted(found) == [int(name.partition("-")[0]) for name in kept]


@pytest.mark.parametrize("interval", [5, st.Every(5, "minutes")], ids=str)
def test_milestones_are_counted_in_epochs_or_steps(interval: Any, folder: Path) -> None:
    """The error says what would do."""
    with pytest.raises(st.ConfigError, match="keep_every takes an interval in epochs or steps"):
        Checkpoint(folder, keep_every=interval)


def test_a_run_goes_on_from_a_step(folder: Path) -> None:
    """To the same bits, though later checkpoints are there; a step that was not saved is named."""
    begun = net()
    expected = train(model=copy.deepcopy(begun), seed=1)
    train(Checkpoint(folder, keep=9), model=begun, seed=1)
    run = train(Checkpoint(folder, keep=9), resume=3, seed=1)
    assert same(run, expected)
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 4 .*the steps"):
        train(Checkpoint(folder, keep=9), resume=4, seed=1)
    with pytest.raises(st.ConfigError, match="needs to know where checkpoints are"):
        train(resume=3)
    with pytest.raises(st.ConfigError, match="a step or a path, got True"):
        train(Checkpoint(folder), resume=True)


def test_an_end_by_an_event_is_not_saved_and_goes_on_from_what_was_due(folder: Path) -> None:
    """`StopFit` within an epoch: the newest checkpoint is the last that was due."""

    class Leave(st.Callback):
        def on_enter_step(self, ctx: Any) -> None:
            if ctx.step == 4:
                raise st.StopFit("enough")

    begun = net()
    expected = train(model=copy.deepcopy(begun), seed=1)
    run = train(Checkpoint(folder), Leave(), model=begun, seed=1)
    assert run.outcome == st.Stopped(2, "enough")
    assert names(folder) == ["3-next_epoch"]
    assert same(train(Checkpoint(folder), resume="last", seed=1), expected)


def test_saving_at_no_anchor_is_refused(tmp_path):
    "A run could not resume from there: `save` says where it can be called, and writes nothing."
    save = st.Checkpoint(tmp_path, at_end=False, preflight=False)

    @st.on("enter_loss")
    def keep(ctx):
        save.save(ctx)

    with pytest.raises(st.CheckpointError, match=r"at an anchor, and this one is in 'loss'"):
        st.fit(
            torch.nn.Linear(2, 1),
            (torch.zeros(4, 2), torch.zeros(4, 1)),
            loss=F.mse_loss,
            optimizer=torch.optim.SGD,
            epochs=1,
            callbacks=[save, keep],
            verbose=False,
        )
    assert not list(tmp_path.glob("step-*"))
