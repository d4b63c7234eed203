"""Watching a run by its trace file, in a terminal and elsewhere; and reading files that change meanwhile."""

import io
import os
from itertools import count
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import statetrain as st
from statetrain.commands.screen import screen, sparkline
from statetrain.commands.watch import watch
from statetrain.errors import TraceError
from statetrain.testing import walk
from statetrain.trace.following import Following
from statetrain.trace.reading import TraceFile
from statetrain.trace.tape import Tape

SCOPES = ["fit", "epoch", "train", "batch"]  # that are open in a training batch


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def train(path: Path, *callbacks: st.Callback, epochs: int = 3, **options) -> st.Run:
    """A fit of three batches an epoch, an eighth of a second for each transition."""
    torch.manual_seed(0)
    ticks = count()
    data = (torch.randn(12, 4), torch.randint(0, 2, (12,)))
    return st.fit(
        torch.nn.Linear(4, 2),
        data,
        valid=data,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        epochs=epochs,
        dataloader_options={"batch_size": 4},
        verbose=False,
        callbacks=[st.Tracing(file=path, clock=lambda: next(ticks) / 8), *callbacks],
        **options,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> list[bytes]:
    """The lines of a file of a run that completed."""
    path = tmp_path_factory.mktemp("watch") / "run.jsonl"
    train(path)
    return path.read_bytes().splitlines(keepends=True)


def shown(path: Path, now: float = 0.0) -> str:
    following = Following(path)
    following.poll()
    return "\n".join(line.text for line in screen(following, now))


def writing(path: Path, parts: list[bytes]):
    """A `sleep` in which one part after the other is written; after the last it is Ctrl-C."""
    left = iter(parts)

    def sleep(seconds: float) -> None:
        part = next(left, None)
        if part is None:
            raise KeyboardInterrupt
        with path.open("ab") as opened:
            opened.write(part)

    return sleep


# ---------------------------------------------------------------- what is shown


def test_a_run_that_has_ended_is_shown_whole(file, recorded):
    """Outcome, counts, speed, the table, guards and curves."""
    file.write_bytes(b"".join(recorded))
    text = shown(file)
    assert "outcome  Completed(epoch=3) after" in text
    assert "counts   epoch 3/3   batch 3/3   step 9   samples 36" in text
    assert "batches/s" in text
    lines = text.splitlines()
    assert "=> end                             1" in lines
    assert "         next_batch               12" in lines
    assert any(
        line.split() == ["draw:", "a", "batch", "was", "drawn", "no", "9", "of", "12"]
        for line in lines
    )
    curve = next(line for line in lines if line.startswith("  valid_loss")).split()
    assert len(curve[1]) == 3
    assert 0.1 < float(curve[2]) < 2.0


def test_a_run_that_goes_on_says_where_it_is(file, recorded):
    """The state in its table, with the scopes around it; and when nothing was written for a while."""
    file.write_bytes(b"".join(recorded[:3]))
    os.utime(file, (1000, 1000))
    text = shown(file, now=1042.0)
    assert "outcome  running for" in text
    assert "nothing was written for 42 s" in text
    assert "nothing was written" not in shown(file, now=1001.0)
    assert text.count("=>") == 1
    assert [line.split()[1] for line in text.splitlines() if line.startswith(" >")] == SCOPES


def test_speed_is_that_of_the_last_seconds(file):
    """Batches and samples by the run's own clock: eight transitions a second, so a batch takes as many."""
    train(file, epochs=9)
    line = next(line for line in shown(file).splitlines() if line.startswith("speed"))
    batches, samples = (float(word) for word in line.split()[1::2])
    assert 0.3 < batches < 0.8
    assert samples == pytest.approx(4 * batches, abs=1.0)


def test_a_failed_run_says_why(file):
    """State and error."""

    class Boom(st.Callback):
        def on_enter_step(self, ctx):
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        train(file, Boom())
    assert "outcome  failed in 'step', epoch 1 after" in shown(file)
    assert "RuntimeError: boom" in shown(file)
    assert any(line.split() == ["=>", "failed", "1"] for line in shown(file).splitlines())


def test_a_trace_without_times_or_counters_is_shown_too(file):
    """Of a walk, say, which has neither."""
    walk(st.supervised(), {"more epochs": [True], "a batch was drawn": [True, True]}).save(file)
    text = shown(file)
    assert "counts" not in text
    assert "outcome  running" in text


def test_names_cannot_move_the_cursor(file, recorded):
    """Control characters from a file are escaped."""
    file.write_bytes(
        b"".join(recorded).replace(b'"name":"supervised"', b'"name":"a\\u001b[2Jb"', 1)
    )
    assert "\x1b" not in shown(file)
    assert r"a\x1b[2Jb" in shown(file)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([], ""),
        ([1.0], "▁"),
        ([1.0, 1.0], "▁▁"),
        ([0, 7], "▁█"),
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([0, float("nan"), 7, float("inf")], "▁ █ "),
    ],
)
def test_sparklines(values, told):
    """From the lowest to the highest; what is no number is a gap."""
    assert sparkline(values) == told


def test_a_long_sparkline_is_shortened():
    """Neighbours are put together, so the shape stays."""
    line = sparkline(range(1000), points=10)
    assert len(line) == 10
    assert list(line) == sorted(line)
    assert (line[0], line[-1]) == ("▁", "█")


# ---------------------------------------------------------------- following


def test_a_growing_file_is_followed_to_the_end(file, recorded):
    """Where there is no terminal: a line for the run, for each row, and for the outcome."""
    file.write_bytes(recorded[0])
    out = io.StringIO()
    outcome = watch(file, file=out, sleep=writing(file, recorded[1:]))
    assert outcome == st.Completed(3)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("supervised, run ")
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["epoch", "1"],
        ["epoch", "2"],
        ["epoch", "3"],
    ]
    assert lines[4].startswith("Completed(epoch=3) after")


def test_lines_that_come_in_pieces_are_put_together(file, recorded):
    """A line counts when its end is there, wherever it was cut."""
    whole = b"".join(recorded)
    file.write_bytes(whole[:700])
    pieces = [whole[i : i + 313] for i in range(700, len(whole), 313)]
    assert watch(file, file=io.StringIO(), sleep=writing(file, pieces)) == st.Completed(3)


def test_in_a_terminal_a_screen_is_drawn(file, recorded):
    """With the table beside the numbers; the last screen stays."""
    file.write_bytes(b"".join(recorded[:2]))
    out = Terminal()
    assert watch(file, file=out, sleep=writing(file, recorded[2:])) == st.Completed(3)
    assert "=> end" in out.getvalue()
    assert "Completed(epoch=3)" in out.getvalue()


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_stopping_it_touches_nothing(file, recorded, stream):
    """Ctrl-C ends the watching; the file is as it was, bit for bit, and was never opened for writing."""
    file.write_bytes(b"".join(recorded[:3]))
    file.chmod(0o400)
    before = file.stat()
    assert watch(file, file=stream(), sleep=writing(file, [])) is None
    assert file.read_bytes() == b"".join(recorded[:3])
    assert file.stat().st_mtime_ns == before.st_mtime_ns


def test_once_shows_how_things_are(file, recorded):
    """It does not wait."""
    file.write_bytes(b"".join(recorded[:2]))
    out = io.StringIO()
    assert watch(file, once=True, file=out, sleep=pytest.fail) is None
    assert "outcome  running" in out.getvalue()


def test_a_file_that_is_replaced_is_read_anew(file, recorded, tmp_path):
    """By that of another run, as when training is started again."""
    file.write_bytes(b"".join(recorded[:3]))
    following = Following(file)
    assert following.poll()
    train(tmp_path / "other.jsonl", epochs=1)
    os.replace(tmp_path / "other.jsonl", file)
    assert following.poll()
    assert following.reading.outcome == st.Completed(1)
    assert not following.poll()


def test_a_file_that_is_cut_short_is_read_anew(file, recorded):
    """In place, to less than was read."""
    file.write_bytes(b"".join(recorded))
    following = Following(file)
    following.poll()
    file.write_bytes(b"".join(recorded[:2]))
    following.poll()
    assert following.reading.outcome is None


def test_a_run_that_is_continued_is_followed_on(file, tmp_path):
    """Through the torn line of the process that was killed, and past what was lost with it."""

    class Lost(st.Callback):
        def on_exit_batch(self, ctx):
            if (ctx.epoch, ctx.iter) == (2, 2):
                raise RuntimeError("lost")

    with pytest.raises(RuntimeError):
        train(file, st.Checkpoint(tmp_path / "c"), Lost())
    with file.open("ab") as torn:
        torn.write(b'{"taken":[1,2,')
    following = Following(file)
    following.poll()
    assert isinstance(following.reading.outcome, st.Failed)
    train(file, st.Checkpoint(tmp_path / "c"), resume="last")
    following.poll()
    assert following.reading.outcome == st.Completed(3)
    assert [row["epoch"] for row in following.reading.rows] == [1, 2, 3]
    assert "went on" in shown(file)


def test_a_file_that_is_gone_for_a_moment(file, recorded):
    """While it is being replaced, nothing is said to be wrong."""
    file.write_bytes(b"".join(recorded[:2]))
    steps = iter([file.unlink, lambda: file.write_bytes(b"".join(recorded))])
    assert watch(file, file=io.StringIO(), sleep=lambda _: next(steps)()) == st.Completed(3)


def test_a_directory_means_its_newest_trace(tmp_path, recorded):
    """However deep, and whatever else lies there."""
    for name, written in (("a/run.jsonl", 1000), ("b/c/run.jsonl", 2000), ("metrics.jsonl", 3000)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(recorded) if name != "metrics.jsonl" else b'{"loss": 1}\n')
        os.utime(path, (written, written))
    following = Following(tmp_path)
    following.poll()
    assert following.reading.name == str(tmp_path / "b/c/run.jsonl")


def test_what_cannot_be_watched(tmp_path):
    """A path that is not there, a directory without a trace, and a file of another kind say so."""
    with pytest.raises(FileNotFoundError, match="there is no file or directory"):
        watch(tmp_path / "nowhere")
    with pytest.raises(
        TraceError, match=r"there is no trace in .*; write one with fit\(\.\.\., trace="
    ):
        watch(tmp_path)
    (tmp_path / "notes").write_text("hello")
    with pytest.raises(TraceError, match="is not a trace of statetrain"):
        watch(tmp_path / "notes")


def test_few_transitions_are_kept_of_many(file, recorded):
    """Memory is bounded, and counts are those of the whole run."""
    file.write_bytes(b"".join(recorded))
    following = Following(file, make=lambda name: TraceFile(name, tape=Tape(5)))
    following.poll()
    assert len(following.reading.tape.taken) < 10
    assert "         next_batch               12" in [line.text for line in screen(following, 0.0)]
