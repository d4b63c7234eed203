"""Saving off the training thread, how long saving takes, deadlines, and the record of a failure."""

import json
import logging
import os
import shlex
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from test_checkpoint import names, net, points, same, train

import statetrain as st
from statetrain.callbacks.checkpoint import Checkpoint
from statetrain.checkpoints import checkpoint, directory, failure
from statetrain.guards.clock import Deadline

STEPS = st.Every(1, "steps")


@pytest.fixture
def folder() -> Iterator[Path]:
    "In memory where there is a file system for it."
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        yield Path(name) / "run"


class Break(st.Callback):
    """Fails on the way out of the batch of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_exit_batch(self, ctx: Any) -> None:
        if ctx.step == self.step:
            raise OSError("broken")


class Slow:
    """In the place of `checkpoint.write_encoded`: waits for a word before it writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.begun, self.threads = threading.Event(), threading.Event(), []
        real = checkpoint.write_encoded

        def write(*args: Any) -> Any:
            self.threads.append(threading.current_thread().name)
            self.begun.set()
            assert self.go.wait(30)
            return real(*args)

        monkeypatch.setattr(checkpoint, "write_encoded", write)


# ---------------------------------------------------------------- in the background


def test_the_files_are_the_same(folder: Path) -> None:
    """Byte by byte, whoever wrote them; and so is the run."""
    runs, files = [], []
    for background in (False, True):
        torch.manual_seed(0)
        runs.append(train(Checkpoint(folder, STEPS, keep=20, background=background)))
        files.append(
            {
                path.relative_to(folder): path.read_bytes()
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
        )
        os.rename(folder, folder.with_name(f"{background}"))
    assert same(*runs)
    assert list(files[0]) == list(files[1])
    for name in files[0]:
        assert files[0][name] == files[1][name], name


def test_training_goes_on_while_it_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread writes what the run was at the anchor; the next save waits for it."""
    slow, seen = Slow(monkeypatch), []

    class Look(st.Callback):
        def on_exit_step(self, ctx: Any) -> None:
            if ctx.step == 3:  # the save of step 2 is under way
                assert slow.begun.wait(30)
                seen.append(
                    (
                        ctx.step,
                        bool(
                            names(folder)
                            and (folder / "step-00000002-next_batch" / checkpoint.MANIFEST).exists()
                        ),
                    )
                )
                slow.go.set()

    saving = Checkpoint(folder, st.Every(2, "steps"), keep=9, background=True, preflight=False)
    train(saving, Look(), epochs=1)
    assert seen == [(3, False)]
    assert set(slow.threads) == {"statetrain checkpoint"}
    weights = checkpoint.read(folder / "step-00000002-next_batch")["model"]["weights"]
    torch.manual_seed(0)
    assert not torch.equal(weights["0.weight"], torch.zeros_like(weights["0.weight"]))
    assert checkpoint.read_manifest(folder / "step-00000002-next_batch").about["step"] == 2


@pytest.mark.parametrize("step", [2, 4, 7])
def test_a_run_that_failed_goes_on_exactly(step: int, folder: Path) -> None:
    """The checkpoint that was under way is finished before the error is raised, and named in it."""
    torch.manual_seed(0)
    whole = train(seed=1)
    torch.manual_seed(0)
    with pytest.raises(OSError, match="broken") as caught:
        train(Checkpoint(folder, STEPS, background=True), Break(step), seed=1)
    newest = directory.newest(folder)
    assert newest is not None
    assert any(str(newest.path) in note for note in caught.value.__notes__)
    assert newest.about["step"] == step - 1
    assert same(train(Checkpoint(folder, STEPS, background=True), seed=1, resume="last"), whole)


def test_best_is_decided_as_if_it_had_been_written_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that is still being written counts: the same checkpoints are left as without a thread."""
    kept = []
    for background in (False, True):
        torch.manual_seed(0)
        train(
            Checkpoint(
                folder, st.Every(50, "epochs"), monitor="valid_loss", keep=2, background=background
            ),
            epochs=5,
        )
        kept.append(names(folder))
        os.rename(folder, folder.with_name(f"{background}"))
    assert kept[0] == kept[1]


@pytest.mark.parametrize("fails", [1, 3])
def test_an_error_of_the_disk_comes_up(
    fails: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a later anchor, or at the end; the older checkpoints are whole, and the lock is given back."""
    real, calls = checkpoint.write_encoded, []

    def write(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == fails:
            raise OSError(28, "No space left on device")
        return real(*args)

    monkeypatch.setattr(checkpoint, "write_encoded", write)
    with pytest.raises(OSError, match="No space left"):
        train(Checkpoint(folder, st.Every(1, "epochs"), background=True, preflight=False))
    assert len(names(folder)) == (2 if fails == 3 else len(names(folder)))
    Checkpoint(folder)._own.lock.take()


def test_a_thread_is_not_left_behind(folder: Path) -> None:
    """After the run there is none, and the newest checkpoint is on the disk."""
    train(Checkpoint(folder, STEPS, background=True))
    assert not [
        thread for thread in threading.enumerate() if thread.name == "statetrain checkpoint"
    ]
    newest = directory.newest(folder)
    assert newest is not None
    assert newest.about["step"] == 9


# ---------------------------------------------------------------- deadlines


class Ticks:
    """A clock that goes on by as much each time that it is asked."""

    def __init__(self, by: float, now: float = 0.0) -> None:
        self.by, self.now = by, now

    def __call__(self) -> float:
        self.now += self.by
        return self.now


def test_saving_is_measured(folder: Path) -> None:
    """The longest counts, the preflight's included; the run's own clock is not asked more often for it."""
    run = train(Checkpoint(folder, STEPS, clock=Ticks(2.5)))
    assert run.ctx.save_seconds == 2.5


def test_a_run_stops_in_time_to_be_saved(folder: Path) -> None:
    """A job of 100 s whose saves take 30, with 10 to spare: the run is asked to stop at 60, saved, and goes on in the next job."""
    torch.manual_seed(0)
    whole = train(seed=1)
    now = [0.0]

    class Batch(st.Callback):
        def on_exit_step(self, ctx: Any) -> None:
            now[0] += 13.0

    torch.manual_seed(0)
    deadline = Deadline(100.0, margin=10.0, clock=lambda: now[0])
    run = train(
        Checkpoint(folder, st.Every(50, "epochs"), clock=Ticks(30.0)),
        Batch(),
        seed=1,
        stop=deadline,
    )
    assert run.outcome == st.Stopped(2, "35 s are left of the job, and saving takes 30.0")
    assert run.ctx.step == 5
    again = train(
        Checkpoint(folder, st.Every(50, "epochs")), seed=1, resume="last", stop=Deadline(1e12)
    )
    assert same(again, whole)


@pytest.mark.parametrize(
    ("deadline", "end"),
    [
        (Deadline(50.0), 50.0),
        (Deadline(datetime(1970, 1, 2, tzinfo=UTC)), 86400.0),
        (Deadline.after(hours=1, minutes=1, seconds=1, clock=lambda: 100.0), 3761.0),
        (Deadline(environ={"SLURM_JOB_END_TIME": "1700000000"}), 1.7e9),
    ],
)
def test_a_deadline_is_a_moment(deadline: Deadline, end: float) -> None:
    """In seconds since 1970, as a datetime, from now on, or what SLURM says."""
    assert deadline.end == end


@pytest.mark.parametrize(
    ("left", "saving", "holds"),
    [(61, 0, False), (60, 0, True), (91, 30, False), (90, 30, True), (-5, 0, True)],
)
def test_it_leaves_the_time_to_save_and_a_margin(left: float, saving: float, holds: bool) -> None:
    """Whatever is left of the job is compared with both."""
    guard = Deadline(1000.0, margin=60.0, clock=lambda: 1000.0 - left)
    assert guard(st.Context(save_seconds=saving)) is holds


def test_a_deadline_that_nobody_gives_is_an_error_before_training() -> None:
    """And one that makes no sense."""
    with pytest.raises(
        st.ConfigError, match=r"SLURM_JOB_END_TIME says no end, got ''; give one: Deadline\.after"
    ):
        train(stop=Deadline(environ={}))
    for wrong in ({"at": -1.0}, {"at": float("nan")}, {"at": 5.0, "margin": -1.0}, {"at": "soon"}):
        with pytest.raises(
            (ValueError, TypeError), match=r"Deadline: (at|margin) must be a number of seconds"
        ):
            Deadline(**wrong)  # type: ignore[arg-type]  # on purpose


def test_a_deadline_is_no_part_of_what_a_lifecycle_is() -> None:
    """The next job has another one, and goes on with the same lifecycle."""
    one, two = (st.supervised(stop=Deadline(at)) for at in (1.0, 2.0))
    assert (
        one.fingerprint == two.fingerprint == st.supervised(stop=Deadline(environ={})).fingerprint
    )
    assert st.Lifecycle.from_dict(one.to_dict()) == one


# ---------------------------------------------------------------- the record of a failure


def fail(folder: Path, *callbacks: Any, **options: Any) -> dict[str, Any]:
    with pytest.raises(OSError, match="broken"):
        train(Checkpoint(folder, STEPS), *(callbacks or (Break(5),)), **options)
    found: dict[str, Any] = json.loads((folder / "failure.json").read_text(encoding="utf-8"))
    return found


def test_a_failure_is_written_down(folder: Path) -> None:
    """What, where, when, the versions, the newest checkpoint, and the words that started the process."""
    data = fail(folder)
    assert (data["error"], data["message"]) == ("builtins.OSError", "broken")
    assert (data["epoch"], data["step"], data["iter"]) == (2, 5, 2)
    assert data["where"] == "epoch 2, batch 2, step 5"
    assert data["state"] == "step"
    assert data["checkpoint"] == str(folder / "step-00000004-next_batch")
    assert data["resume"] == "fit(..., resume='last')"
    assert data["versions"]["torch"] == torch.__version__
    assert "broken" in "".join(data["traceback"])
    assert any("raised by the hook Break" in note for note in data["notes"])
    assert abs((datetime.now(UTC) - datetime.fromisoformat(data["when"])).total_seconds()) < 3600
    assert shlex.split(data["command"])[0] == sys.orig_argv[0]


def test_the_next_run_deletes_it(folder: Path) -> None:
    """It says how the last run ended, and no more."""
    fail(folder)
    train(Checkpoint(folder, STEPS), resume="last")
    assert not (folder / "failure.json").exists()


def test_before_the_first_checkpoint_there_is_none_to_go_on_from(folder: Path) -> None:
    """The record says that the run starts anew."""
    with pytest.raises(OSError, match="broken"):
        train(Checkpoint(folder), Break(2))
    data = json.loads((folder / "failure.json").read_text())
    assert (data["checkpoint"], data["resume"]) == (
        None,
        "fit(...) starts from scratch: there is no checkpoint",
    )


def test_a_refused_start_leaves_the_record_of_the_run_before(folder: Path) -> None:
    """Whose directory it is."""
    before = fail(folder)
    with pytest.raises(st.CheckpointError, match="has checkpoints of an earlier run"):
        train(Checkpoint(folder))
    assert json.loads((folder / "failure.json").read_text()) == before


def test_the_record_never_hides_the_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that is full leads to a warning."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failure, "write", full)
    with (
        caplog.at_level(logging.WARNING, logger="statetrain"),
        pytest.raises(OSError, match="broken"),
    ):
        train(Checkpoint(folder, STEPS), Break(5))
    assert "failure.json could not be written" in caplog.text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["python", "t.py", "--api-key=abc", "--lr=1"], "python t.py '--api-key=***' --lr=1"),
        (["python", "t.py", "--token", "abc", "--lr", "1"], "python t.py --token '***' --lr 1"),
        (["python", "t.py", "DB_PASSWORD=abc", "a b"], "python t.py 'DB_PASSWORD=***' 'a b'"),
        (["python", "tokens.py", "--tokenizer", "x"], "python tokens.py --tokenizer '***'"),
    ],
)
def test_secrets_are_left_out(given: list[str], shown: str) -> None:
    """What looks like one, with or without a sign; better one too many."""
    assert failure.describe(st.Context(), ValueError("x"), None, given)["command"] == shown


def test_words_that_are_no_text(folder: Path) -> None:
    """A message with a lone surrogate, as of a file name, is written all the same."""
    folder.mkdir(parents=True)
    failure.write(folder, failure.describe(st.Context(), ValueError("\udcff"), None, ["python"]))
    assert (
        json.loads((folder / "failure.json").read_text(encoding="utf-8"))["error"]
        == "builtins.ValueError"
    )


# ---------------------------------------------------------------- what to do


class Dies(torch.utils.data.Dataset[Any]):
    """Fails, dies or hangs at a sample."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        if index == 9 and self.how == "dies":
            os._exit(1)
        if index == 9 and self.how == "raises":
            raise KeyError("sample")
        if index == 9 and self.how == "hangs":
            threading.Event().wait(30)
        return torch.randn(4), index % 3


@pytest.mark.parametrize(
    ("how", "options", "words"),
    [
        ("raises", {}, "batch 2 was due, of the samples "),
        ("raises", {"num_workers": 1}, "batch 2 was due, of the samples "),
        ("dies", {"num_workers": 1}, "a worker process of the train data died"),
        (
            "hangs",
            {"num_workers": 1, "timeout": 1},
            "the workers of the train data gave nothing in time; batch 2 was due, of the samples ",
        ),
    ],
)
def test_a_loader_that_fails_names_state_batch_and_samples(
    how: str, options: dict[str, Any], words: str
) -> None:
    """And says what to do; the error is the loader's own."""
    order = torch.utils.data.DataLoader(
        Dies(how), batch_sampler=[[0, 1, 2], [3, 9, 4], [5, 6, 7]], **options
    )
    with pytest.raises((KeyError, RuntimeError)) as caught:
        st.fit(
            net(),
            order,
            loss=torch.nn.functional.cross_entropy,
            optimizer=torch.optim.SGD,
            opt_hparams={"lr": 0.1},
            seed=1,
            epochs=1,
        )
    notes = "\n".join(caught.value.__notes__)
    assert "in state 'draw'" in notes
    assert words in notes
    if how != "dies":
        assert "samples 3, 9, 4" in notes


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError])
def test_memory_that_runs_out_is_told_with_the_size_of_the_batch(kind: type[Exception]) -> None:
    """And with a smaller one that makes the same steps."""

    class Big(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise kind("CUDA out of memory. Tried to allocate 20.00 GiB")

    with pytest.raises(kind) as caught:
        st.fit(
            Big(4, 3),
            points(),
            loss=torch.nn.functional.cross_entropy,
            optimizer=torch.optim.SGD,
            opt_hparams={"lr": 0.1},
            epochs=1,
        )
    notes = "\n".join(caught.value.__notes__)
    assert (
        "out of memory in state 'pred' with a batch of 22 samples; make batches of 11 with"
        " accumulate=2 for the same steps" in notes
    )


def test_advice_that_fails_hides_nothing() -> None:
    """The error is raised, with a note of what else went wrong."""

    class Odd(st.Context):
        def advice(self, error: BaseException) -> str:
            raise ZeroDivisionError

    def action(ctx: Any) -> None:
        "fail"
        raise OSError("broken")

    life = st.Lifecycle(
        "odd", [st.State("a", action), st.State("end", final=True)], [st.Transition("a", "end")]
    )
    with pytest.raises(OSError, match="broken") as caught:
        st.Machine(life).run(Odd())
    assert "this was raised too: ZeroDivisionError()" in "\n".join(caught.value.__notes__)
