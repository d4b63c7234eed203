"""Traces in files, and what is done with two of them: what differs, and whether one conforms to a table."""

import json
import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as some

import statetrain as st
from statetrain import Lifecycle, State, Trace, Tracing, Transition
from statetrain.commands.screen import screen
from statetrain.context.position import Position
from statetrain.errors import ConfigError, TraceError
from statetrain.lifecycle.state import START
from statetrain.testing import conforms, walk
from statetrain.trace import reading, windows
from statetrain.trace.difference import difference_of_files
from statetrain.trace.following import Following
from statetrain.trace.reading import load_end


def points(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, generator=generator), torch.randint(0, 2, (n,), generator=generator)


def ticking():
    """A clock that goes on by an eighth of a second each time."""
    ticks = count()
    return lambda: next(ticks) / 8


def train(*callbacks: st.Callback, lr: float = 0.1, **options) -> st.Run:
    """A fit of three batches an epoch, the same each time."""
    torch.manual_seed(0)
    given = {
        "valid": points(4),
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": lr},
        "epochs": 2,
        "dataloader_options": {"batch_size": 4},
        "verbose": False,
        "clock": ticking(),
    }
    return st.fit(torch.nn.Linear(4, 2), points(), callbacks=callbacks, **given | options)


def tracing(path: Path | None, **options) -> Tracing:
    """Its clock is its own."""
    return Tracing(file=path, clock=ticking(), **options)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


# ---------------------------------------------------------------- there and back


def test_a_run_in_a_file_is_the_run(file):
    """Transitions, times, counters, the loss, rows and the outcome come back as they were."""
    run = train(tracing(file, answers=True))
    trace = Trace.load(file)
    assert trace == run.trace
    assert trace.moments == run.trace.moments
    assert trace.rows == tuple(run.history)
    assert trace.outcome == run.outcome == st.Completed(2)
    assert trace.lifecycle == run.lifecycle
    assert trace.counts() == run.trace.counts()


def test_what_is_known_of_a_moment(file):
    """The loss is there when the state `loss` is left, with the counters and the time."""
    train(tracing(file))
    trace = Trace.load(file)
    losses = [moment for moment in trace.moments if moment.values]
    assert len(losses) == 6
    assert losses[0].values.keys() == {"loss_value"}
    assert (losses[3].epoch, losses[3].iter, losses[3].step, losses[3].samples) == (2, 1, 3, 16)
    assert losses[3].where == "epoch 2, batch 1, step 3"
    times = [moment.time for moment in trace.moments]
    assert times == sorted(times)
    assert trace.moments[0].time == 0.25


def test_fit_writes_a_file_when_given_a_path(file):
    """`fit(trace=path)` records into memory and into the file."""
    run = train(trace=file)
    assert Trace.load(file) == run.trace
    with pytest.raises(
        ConfigError, match=r"trace must be True, False or the path of a file, got 3"
    ):
        train(trace=3)


def test_the_header_says_what_the_file_is(file):
    """Format, versions, lifecycle and fingerprint; and it is plain JSON, line by line."""
    run = train(trace=file)
    header, *records = (
        json.loads(line, parse_constant=pytest.fail) for line in file.read_text().splitlines()
    )
    assert (header["statetrain"], header["format"], header["name"]) == ("trace", 1, "supervised")
    assert header["fingerprint"] == run.lifecycle.fingerprint
    assert Lifecycle.from_dict(header["lifecycle"]) == run.lifecycle
    assert header["versions"]["statetrain"] == st.__version__
    assert header["run"]["epochs"] == 2
    assert [next(iter(record)) for record in records][-1] == "outcome"


def test_answers_of_guards_are_recorded_when_asked(file):
    """Each part of a combined guard, up to the one that decides, and its reason."""
    stop = st.TimeLimit(hours=9) | st.MaxSteps(4)
    train(tracing(file, answers=True), stop=stop)
    trace = Trace.load(file)
    at = next(
        i
        for i, arrow in enumerate(trace)
        if arrow.source == "next_batch" and arrow.dest == "record"
    )
    assert [str(asked) for asked in trace.moments[at].answers] == [
        "stop requested: no",
        "after 9 hours: no",
        "4 steps made: yes",
        "batches left: yes",
    ]
    assert all(
        asked.transition.source == arrow.source
        for arrow, m in zip(trace, trace.moments, strict=True)
        for asked in m.answers
    )
    assert not any(moment.answers for moment in train(tracing(None, counters=True)).trace.moments)


def test_values_that_are_asked_for():
    """Any path of the context, at any state; a tensor is read. A state that is not there is an error."""
    run = train(
        tracing(None, values={"loss": ["loss_value", "loss"], "record": "history[-1].valid_loss"})
    )
    losses = [
        m.values
        for m, arrow in zip(run.trace.moments, run.trace, strict=True)
        if arrow.source == "loss"
    ]
    assert all(values["loss"] == values["loss_value"] for values in losses)
    rows = [
        m.values["history[-1].valid_loss"]
        for m, arrow in zip(run.trace.moments, run.trace, strict=True)
        if arrow.source == "record"
    ]
    assert rows == run.history["valid_loss"]
    with pytest.raises(
        ConfigError,
        match="values of 'los': no such state in lifecycle 'supervised'; did you mean 'loss'",
    ):
        train(tracing(None, values={"los": "loss_value"}))


def test_numbers_that_json_has_not(file):
    """NaN and infinities come back as they were."""
    train(
        tracing(file),
        loss=lambda pred, target: F.cross_entropy(pred, target) * float("nan"),
        non_finite="ignore",
    )
    trace = Trace.load(file)
    assert all(
        moment.values["loss_value"] != moment.values["loss_value"]
        for moment in trace.moments
        if moment.values
    )
    assert trace.rows[0]["train_loss"] != trace.rows[0]["train_loss"]


def test_a_failure_is_in_the_file(file):
    """State, error and the note; the last transition leads to `failed`."""

    class Boom(st.Callback):
        def on_enter_step(self, ctx):
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        train(Boom(), trace=file)
    trace = Trace.load(file)
    assert trace.outcome == st.Failed(1, "step")
    assert trace.error.startswith("RuntimeError: boom\nstatetrain: in state 'step'")
    assert str(trace[-1]) == "step -> failed"


def test_any_trace_can_be_saved(file):
    """Also one that was never run, or of which the beginning was not kept."""
    life = st.supervised(validate=None)
    trace = walk(life, {"more epochs": [True], "a batch was drawn": [True, True]})
    trace.save(file)
    assert Trace.load(file) == trace
    trace.tail(5).save(file)
    assert Trace.load(file) == trace.tail(5)
    assert Trace.load(file).dropped == len(trace) - 5
    with pytest.raises(ConfigError, match="does not know its lifecycle"):
        Trace(trace.transitions).save(file)


def unnamed() -> Lifecycle:
    """A lifecycle of which no file can say what its parts are."""
    work, again = (lambda ctx: None), (lambda ctx: False)
    arrows = [
        Transition("fit", "work"),
        Transition("work", "work", again),
        Transition("work", "end"),
        Transition("fit", "end", event=st.StopFit),
    ]
    return Lifecycle(
        "own", [State("fit"), State("work", work, "fit"), State("end", final=True)], arrows
    )


def test_a_lifecycle_of_ones_own_comes_back_in_words(file):
    """It can be looked at, drawn and compared, and not be run; given the lifecycle itself, its arrows are the trace's."""
    life = unnamed()
    st.Machine(life, Tracing(file=file)).run(Position())
    trace = Trace.load(file)
    assert trace.states == ["fit", "work", "end"]
    assert [state.name for state in trace.lifecycle.states] == ["fit", "work", "end"]
    assert list(map(str, trace.lifecycle.transitions)) == list(map(str, life.transitions))
    with pytest.raises(st.MachineError, match="was read from a trace"):
        st.Machine(trace.lifecycle).run(Position())
    assert trace.conforms(life)
    assert Trace.load(file, life)[1] is life.transitions[0]
    assert "fit" in trace.svg()


# ---------------------------------------------------------------- memory


def test_the_ring_counts_what_it_drops():
    """However few are kept, counts are those of the whole run."""
    whole = train(tracing(None, counters=True)).trace
    part = train(tracing(None, last=3, counters=True)).trace
    assert part == whole.tail(3)
    assert part.moments[-1] == whole.moments[-1]
    assert len(part.moments) == 3
    assert part.counts() == whole.counts() == whole.tail(2).counts()


def test_a_fit_that_goes_on_is_one_trace(file):
    """`run.fit(...)` goes on in memory and in the file; another run begins both anew."""
    recording = tracing(file)
    run = train(recording, epochs=1)
    once = run.trace
    run.fit(1)
    assert run.trace.states == [*once.states, *once.states]
    assert Trace.load(file) == run.trace
    assert Trace.load(file).rows == tuple(run.history)
    assert run.trace.conforms(run.lifecycle)
    again = train(recording, epochs=1)
    assert Trace.load(file) == again.trace == once


# ---------------------------------------------------------------- cut off, and gone on


KILLED = """
import os, signal, sys, torch, torch.nn.functional as F, statetrain as st
class Kill(st.Callback):
    def on_exit_batch(self, ctx):
        if ctx.epoch == 3:
            os.kill(os.getpid(), signal.SIGKILL)
clock = iter(range(10 ** 9))
st.fit(torch.nn.Linear(4, 2), (torch.randn(12, 4), torch.zeros(12).long()), loss=F.cross_entropy, optimizer=torch.optim.SGD,
       verbose=False, callbacks=[st.Tracing(file=sys.argv[1], clock=lambda: next(clock)), Kill()])
"""


def test_a_killed_process_leaves_a_file_that_reads(file):
    """All but about the last second is there; no outcome, since there was none."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(file)],
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == -signal.SIGKILL
    trace = Trace.load(file)
    assert trace.outcome is None
    assert [row["epoch"] for row in trace.rows] == [1, 2]
    assert trace.states[-3:] == ["loss", "backward", "step"]
    assert trace.moments[-1].epoch == 3


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> bytes:
    """A file of a run with everything in it."""
    path = tmp_path_factory.mktemp("trace") / "run.jsonl"
    train(tracing(path, answers=True), epochs=1)
    return path.read_bytes()


@settings(max_examples=60, deadline=None)
@given(share=some.floats(0, 1))
def test_a_file_cut_off_anywhere_is_a_shorter_trace(recorded, tmp_path_factory, share):
    """What is whole is read, and it is said that the rest is not; without a header there is nothing."""
    path = tmp_path_factory.mktemp("cut") / "run.jsonl"
    path.write_bytes(cut := recorded[: int(len(recorded) * share)])
    if b"\n" not in cut:
        with pytest.raises(TraceError, match="is not a trace of statetrain"):
            Trace.load(path)
        return
    trace = Trace.load(path)
    whole = recorded.count(b"\n", 0, len(cut))
    assert len(trace.states) == sum(
        len(json.loads(line).get("taken", [])) for line in recorded.splitlines()[:whole]
    )
    assert bool(trace.remarks) == (not cut.endswith(b"\n"))


def test_a_continued_run_goes_on_in_its_file(file, tmp_path):
    """The file reads as that of a run that was never interrupted, whatever the lost process did after the checkpoint."""
    whole = train(tracing(None), epochs=3)

    class Lost(st.Callback):
        def on_exit_batch(self, ctx):
            if (ctx.epoch, ctx.iter) == (2, 2):
                raise RuntimeError("lost")

    with pytest.raises(RuntimeError):
        train(tracing(file), st.Checkpoint(tmp_path / "c"), Lost(), epochs=3)
    lost = Trace.load(file)
    with file.open("ab") as torn:
        torn.write(b'{"taken":[1,2,')
    run = train(tracing(file), st.Checkpoint(tmp_path / "c"), epochs=3, resume="last")
    trace = Trace.load(file)
    assert trace == Trace(whole.trace.transitions)
    assert trace.outcome == st.Completed(3)
    assert (
        [row["train_loss"] for row in trace.rows]
        == whole.history["train_loss"]
        == run.history["train_loss"]
    )
    assert trace.remarks[-1].endswith(
        f"{len(lost) - run.trace.dropped} that came after them were lost with an earlier process"
    )
    assert trace.diff(whole.trace) is None
    times = [moment.time for moment in trace.moments]
    assert times == sorted(times)


def test_a_continued_run_whose_file_is_gone_begins_another(file, tmp_path):
    """It says how many transitions came before."""
    train(tracing(file), st.Checkpoint(tmp_path / "c"), epochs=1)
    file.unlink()
    run = train(tracing(file), st.Checkpoint(tmp_path / "c"), epochs=2, resume="last")
    trace = Trace.load(file)
    assert trace == run.trace
    assert trace.dropped > 0
    assert str(trace[0]).startswith("next_epoch -> epoch")


def test_a_disk_that_is_full_stops_no_run():
    """One warning, and the run goes on with its trace in memory."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no device that is always full")
    with pytest.warns(RuntimeWarning, match="Tracing cannot write '/dev/full' any more"):
        run = train(tracing(full))
    assert run.outcome == st.Completed(2)
    assert run.trace.states[-1] == "end"
    assert full.exists()


def test_a_file_that_cannot_be_written_is_an_error_before_training(tmp_path):
    """A folder, or a place where nothing can be made."""
    (tmp_path / "taken").write_text("")
    for path in (tmp_path, tmp_path / "taken" / "run.jsonl"):
        with pytest.raises(ConfigError, match="a trace cannot be written to"):
            train(trace=path)


# ---------------------------------------------------------------- files that others wrote


HEADER = {
    "statetrain": "trace",
    "format": 1,
    "name": "x",
    "arrows": [[START, "a", None, None, None]],
    "guards": [],
    "states": [],
}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is not a trace of statetrain: it is empty"),
        (["hello"], "is not a trace of statetrain: it begins with b'hello"),
        (["[1]"], "is not a trace of statetrain"),
        (["[" * 100_000], "is not a trace of statetrain"),
        (["\x00\xff"], "is not a trace of statetrain"),
        ([HEADER | {"format": 2}], "is written in format 2; this version of statetrain reads 1"),
        ([HEADER | {"arrows": 3}], "is not a trace of statetrain"),
        ([HEADER | {"arrows": [[1, 2]]}], "is not a trace of statetrain"),
        ([HEADER, "{"], "line 2: no record of a trace"),
        (
            [HEADER, {"taken": [1], "at": 0}],
            "line 2: no record of a trace: list index out of range",
        ),
        ([HEADER, {"taken": [-1], "at": 0}], "a whole number is expected, got -1"),
        ([HEADER, {"taken": [0], "at": 7}], "0 transitions came before it, and it says 7"),
        ([HEADER, {"taken": [0], "at": 0, "time": [1, 2]}], "1 transitions have 2 times"),
        ([HEADER, {"taken": [0], "at": 0, "time": [10**400]}], "no record of a trace"),
        ([HEADER, {"taken": [0], "at": 0, "counters": [[0, 1]]}], "there are 5 counters, got 1"),
        ([HEADER, {"taken": [0], "at": 0, "values": [[0, {"loss": []}]]}], "a number is expected"),
        ([HEADER, {"taken": [["a"]], "at": 0}], "an arrow is"),
        ([HEADER, {"row": 3, "n": 0, "at": 0}], "an object is expected"),
        ([HEADER, {"outcome": {"kind": "Sorted"}}], "no record of a trace: 'Sorted'"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else None,
)
def test_a_file_that_is_no_trace_says_so(file, lines, message):
    """What is wrong, and in which line; nothing else is ever raised."""
    file.write_text(
        "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines),
        encoding="latin-1",
    )
    with pytest.raises(TraceError, match=message):
        Trace.load(file)


@settings(max_examples=150, deadline=None)
@given(data=some.data())
def test_a_file_with_any_byte_changed_is_read_or_refused(recorded, tmp_path_factory, data):
    """A broken file is a `TraceError` and never anything else."""
    broken = bytearray(recorded)
    for _ in range(data.draw(some.integers(1, 3))):
        broken[data.draw(some.integers(0, len(broken) - 1))] = data.draw(
            some.sampled_from(b'0159-[]{}",:aZ\n\xff')
        )
    path = tmp_path_factory.mktemp("broken") / "run.jsonl"
    path.write_bytes(broken)
    try:
        trace = Trace.load(path)
    except TraceError:
        return
    assert str(trace)
    assert trace.diff(trace) is None
    assert str(trace.conforms(st.supervised()))
    following = Following(path)
    following.poll()
    assert screen(following, 0.0)


@pytest.mark.parametrize(
    "states",
    [
        [["a", None, "b", False, False], ["b", None, "a", False, False]],
        [[f"s{i}", None, f"s{i - 1}" if i else None, False, False] for i in range(300)],
        [["a", None, 3, [], {}]],
        [7],
    ],
    ids=["scopes within each other", "scopes without end", "no names", "no states"],
)
def test_states_that_make_no_lifecycle(file, states):
    """The transitions can be read all the same; there is no table to draw."""
    file.write_text(
        json.dumps(HEADER | {"states": states}) + "\n" + json.dumps({"taken": [0], "at": 0}) + "\n"
    )
    trace = Trace.load(file)
    assert trace.states == ["a"]
    assert trace.lifecycle is None
    with pytest.raises(ConfigError, match="does not know its lifecycle"):
        trace.draw("life.svg")


def test_nothing_in_a_file_is_run_or_imported(file):
    """Names of functions that nobody registered stay words."""
    state = {"name": "a", "final": True, "action": {"is": "os:getcwd"}}
    life = {"format": 1, "name": "x", "states": [state], "transitions": []}
    file.write_text(
        json.dumps(HEADER | {"lifecycle": life, "states": [["a", "anything", None, True, False]]})
        + "\n"
    )
    trace = Trace.load(file)
    assert trace.lifecycle.state("a").action.label == "anything"


# ---------------------------------------------------------------- differences


def test_the_same_run_twice_does_not_differ(file):
    """Neither in memory nor between memory and a file."""
    run = train(tracing(file, answers=True))
    assert run.trace.diff(Trace.load(file)) is None
    assert Trace.load(file).diff(run.trace) is None
    assert run.trace.diff(run.trace.tail(9)) is None


def rewritten(content: bytes, place: float, what: str) -> bytes:
    """The file with one thing in it changed: an arrow, a value, the last row or the outcome."""
    lines = [json.loads(line) for line in content.splitlines()]
    taken = [line for line in lines if "taken" in line]
    line = taken[int(place * (len(taken) - 1))]
    i = int(place * (len(line["taken"]) - 1))
    if what == "arrow":
        line["taken"][i] = (line["taken"][i] + 1) % 20
    elif what == "value" and line.get("values"):
        line["values"][int(place * (len(line["values"]) - 1))][1]["loss_value"] += 1.0
    elif what == "row":
        for line in lines:
            if "row" in line:
                line["row"]["train_loss"] = 9.0
    elif what == "outcome" and "outcome" in lines[-1]:
        lines[-1]["outcome"]["epoch"] += 1
    elif what == "end":
        del lines[-3:]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@settings(max_examples=60, deadline=None)
@given(
    place=some.floats(0, 1),
    what=some.lists(some.sampled_from(["arrow", "value", "row", "outcome", "end", ""]), max_size=2),
    size=some.sampled_from([1, 7, 40, 1000]),
)
def test_files_are_compared_part_by_part_as_whole_traces_are(
    recorded, tmp_path_factory, place, what, size
):
    """With parts of any size the first difference and its words are those of the whole traces."""
    folder = tmp_path_factory.mktemp("parts")
    content = recorded
    for n, kind in enumerate(what):
        content = rewritten(content, place if n == 0 else 1 - place, kind)
    (folder / "one.jsonl").write_bytes(recorded)
    (folder / "other.jsonl").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "_PART", size)
        found = difference_of_files(folder / "one.jsonl", folder / "other.jsonl")
    expected = Trace.load(folder / "one.jsonl").diff(Trace.load(folder / "other.jsonl"))
    assert str(found) == str(expected)
    assert found == expected


@pytest.mark.parametrize("last", [1, 5, 30, 10_000])
@pytest.mark.parametrize("block", [1 << 20, 700])
def test_the_end_of_a_file_is_the_end_of_its_trace(recorded, file, monkeypatch, last, block):
    """Read from the end, the last transitions have their numbers, times, counters and values."""
    file.write_bytes(recorded)
    monkeypatch.setattr(reading, "_BLOCK", block)
    monkeypatch.setattr(reading, "_BEFORE", 40)
    found, whole = load_end(file, last), Trace.load(file).tail(last)
    assert found == whole
    assert found.moments == whole.moments
    assert str(found) == str(whole)
    assert found.outcome == whole.outcome


def test_the_first_value_that_differs():
    """Another learning rate shows in the second loss, long before anything else."""
    found = train(tracing(None, values={"loss": "loss_value"}, counters=True)).trace.diff(
        train(tracing(None, values={"loss": "loss_value"}, counters=True), lr=0.2).trace
    )
    assert (found.kind, found.at) == ("value", 17)
    lines = str(found).splitlines()
    assert lines[0].startswith(
        "the runs differ first at transition 17 (epoch 1, batch 2, step 1), in loss_value: 0."
    )
    assert lines[4].strip() == "16  pred -> loss"
    assert lines[5].startswith("  > 17  loss -> backward")
    assert lines[6] == "  the transitions are the same to the end"


def test_how_far_numbers_may_lie_apart():
    """With `rel`, the last bits may differ; other differences stay."""
    one, other = (
        train(tracing(None, values={"loss": "loss_value"}), lr=lr).trace for lr in (0.1, 0.1001)
    )
    assert one.diff(other).kind == "value"
    assert one.diff(other, rel=1e-2) is None


def test_the_first_transition_that_differs():
    """Both ways are shown, with what led there."""
    found = train(trace=True, max_steps=4).trace.diff(train(trace=True, max_steps=5).trace)
    assert found.kind == "transition"
    lines = str(found).splitlines()
    at = found.at
    assert lines[0] == f"the runs differ first at transition {at}"
    assert [line.split()[0] for line in lines[1:5]] == [str(at - k) for k in (4, 3, 2, 1)]
    assert lines[5].split()[:5] == ["-", str(at), "next_batch", "->", "record"]
    assert any(line.split()[:5] == ["+", str(at), "next_batch", "->", "draw"] for line in lines)


def test_versions_that_differ_say_how():
    """Where the tables are not the same, the first change is named."""
    found = train(trace=True, non_finite="ignore").trace.diff(train(trace=True, accumulate=2).trace)
    assert found.kind == "transition"
    assert str(found).splitlines()[-1].startswith("  the lifecycles differ: ")


def test_an_answer_that_differs():
    """Of two guards that lead the same way, the one that held."""
    stops = (st.MaxSteps(4) | st.TimeLimit(hours=1), st.MaxSteps(9) | st.Every(4, "steps"))
    one, other = (train(tracing(None, answers=True), stop=stop).trace for stop in stops)
    found = one.diff(other)
    assert found.kind == "answer"
    assert "4 steps made did not hold" in found.one


def test_a_run_that_ends_earlier():
    """The end is a difference like another."""
    trace = train(trace=True).trace
    short = Trace(trace.transitions[:-2])
    assert str(trace.diff(short)).splitlines()[-1].split(maxsplit=2)[2] == "the end of the trace"


def test_rows_and_outcomes_are_looked_at_last():
    """They count when all transitions are the same."""
    trace = train(trace=True).trace
    rows = [dict(row) for row in trace.rows]
    rows[1]["valid_loss"] += 1
    rows[0]["seconds"] += 1
    found = trace.diff(Trace(trace.transitions, rows=rows))
    assert (found.kind, found.at) == ("row", 2)
    assert "row 2 of the history: valid_loss=" in str(found)
    found = trace.diff(Trace(trace.transitions, rows=rows[:1]))
    assert found.other == "1 row"
    found = trace.diff(Trace(trace.transitions, outcome=st.Stopped(2, "enough")))
    assert str(found).endswith(
        "ended differently: Completed(epoch=2), and Stopped('enough', epoch=2)"
    )


def test_traces_without_a_transition_in_common_are_not_compared():
    """It says which parts they kept."""
    trace = train(trace=True).trace
    with pytest.raises(ConfigError, match="kept different parts of their runs"):
        Trace(trace.transitions[:5]).diff(trace.tail(5))


# ---------------------------------------------------------------- conformance


def test_what_a_run_does_conforms_to_its_lifecycle(file):
    """Each run does, resumed, failed or cut; and each walk."""
    run = train(trace=file)
    verdict = run.trace.conforms(run.lifecycle)
    assert verdict
    assert str(verdict) == f"all {len(run.trace)} steps are arrows of 'supervised'"
    assert conforms(Trace.load(file), run.lifecycle)
    assert conforms(run.trace.tail(7), run.lifecycle)
    assert conforms(run.trace.states, run.lifecycle)


def test_the_first_step_that_does_not_conform():
    """It is shown with what led there and what would have been possible."""
    run = train(trace=True)
    verdict = run.trace.conforms(st.supervised(validate=None))
    assert not verdict
    assert verdict.at == 28
    lines = str(verdict).splitlines()
    assert lines[0] == "step 28 is no arrow that 'supervised' has in 'draw'"
    assert lines[2] == "  got       draw -> valid [validation due]: there is no state 'valid'"
    assert lines[3] == "  possible  draw -> batch [a batch was drawn] / count the batch"


def test_a_step_must_leave_where_the_last_one_led():
    """Arrows of the table in an order that it has not do not conform; neither does anything after the end."""
    life = st.supervised(validate=None)
    trace = walk(life, {"more epochs": [True], "a batch was drawn": [True]})
    assert conforms(trace, life)
    assert conforms(Trace((*trace.transitions[:4], *trace.transitions[5:])), life).at == 5
    assert conforms(Trace((*trace.transitions, trace.transitions[1])), life).at == len(trace) + 1
    assert conforms(Trace(trace.transitions[1:]), life).at == 1
    assert conforms(Trace((*trace.transitions[:9], Transition("batch", "failed"))), life)
    assert conforms(Trace((*trace.transitions[:9], Transition("valid", "failed"))), life).at == 10


def test_events_conform_where_their_scope_is_open():
    """An arrow of a scope may be taken anywhere in it, and not outside."""
    life = st.supervised(validate=None)
    skip = next(
        arrow
        for arrow in life.transitions
        if arrow.event is st.SkipBatch and arrow.source == "batch"
    )
    drawn = walk(life, {"more epochs": [True], "a batch was drawn": [True]}).transitions
    assert conforms(Trace((*drawn[:8], skip)), life)
    assert conforms(Trace((*drawn[:5], skip)), life).at == 6


def test_names_of_states_conform_too():
    """As `assert_trace` takes them; a name that is not there gets a suggestion."""
    life = st.supervised(validate=None)
    verdict = conforms(["fit", "next_epoch", "epoc"], life)
    assert verdict.at == 3
    assert "there is no state 'epoc'; did you mean 'epoch'" in str(verdict)
