"""The command line, as a user would type it."""

import json
import re
import subprocess
import sys

import pytest

import statetrain as st
from statetrain.commands.cli import main
from statetrain.context.position import Position
from statetrain.testing import walk

OWN = """
import statetrain as st

def work(ctx):
    "work"

LIFE = st.Lifecycle("own", [st.State("a", work), st.State("z", final=True)], [st.Transition("a", "z")])

def make():
    return LIFE

def broken():
    return st.Lifecycle("broken", [st.State("a", work), st.State("z", final=True)], [])

NOTHING = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("mine", None)


def test_as_a_program():
    """`python -m statetrain` prints the table of a standard lifecycle and exits with 0."""
    done = subprocess.run(
        [sys.executable, "-m", "statetrain", "show", "supervised"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.rstrip("\n") == str(st.supervised()).rstrip("\n")


def test_the_help_stands_in_columns(capsys, monkeypatch):
    """Each command has its words beside it, and all words begin in one column."""
    monkeypatch.setenv("COLUMNS", "80")
    main([])
    out = capsys.readouterr().out
    lines = out[out.index("  COMMAND\n") :].splitlines()[1:]
    columns = {re.match(r"    \w+ +|  +", line).end() for line in lines}
    assert len(lines) > 10
    assert len(columns) == 1


def test_the_version(capsys):
    """`--version` says it."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"statetrain {st.__version__}\n"


@pytest.mark.parametrize("form", ["text", "markdown", "json", "mermaid", "dot"])
def test_show(form, capsys):
    """Each form is what the library makes."""
    assert main(["show", "prediction", "--format", form]) == 0
    out = capsys.readouterr().out
    if form == "json":
        assert st.Lifecycle.from_dict(json.loads(out)) == st.prediction()
    assert "predict" in out


def test_draw(own, capsys):
    """A picture goes into a file; without one, Mermaid text is printed."""
    assert main(["draw", "mine:LIFE", "life.svg"]) == 0
    assert (own / "life.svg").read_text(encoding="utf-8") == st.Lifecycle.svg(
        sys.modules["mine"].LIFE
    )
    capsys.readouterr()
    assert main(["draw", "mine:make"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == sys.modules["mine"].LIFE.mermaid().rstrip("\n")


def test_check(own, capsys):
    """A sound lifecycle exits with 0; one that is not says why and exits with 1."""
    assert main(["check", "supervised"]) == 0
    assert "proved by the graph" in capsys.readouterr().out
    assert main(["check", "mine:broken"]) == 1
    assert "State 'a' has no arrow out" in capsys.readouterr().err


def test_paths_and_simulate(capsys):
    """Paths are listed with what they reach; a simulation shows the schedule."""
    assert main(["paths", "prediction"]) == 0
    assert "ok      reaches end: predict on StopFit" in capsys.readouterr().out
    assert main(["simulate", "supervised", "--epochs", "2", "--batches", "3"]) == 0
    assert capsys.readouterr().out.count("  valid") == 2


def test_diff(own, capsys):
    """Two lifecycles that differ exit with 1 and say how; equal ones with 0. A JSON file stands for a lifecycle."""
    (own / "life.json").write_text(json.dumps(st.supervised(accumulate=4).to_dict()))
    assert main(["diff", "supervised", "life.json"]) == 1
    assert "[accumulating] added" in capsys.readouterr().out
    assert main(["diff", "supervised", "supervised"]) == 0
    assert "no difference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "supervsed"], "did you mean 'supervised'"),
        (["show", "mine:LIVE"], "has no 'LIVE'; did you mean 'LIFE'"),
        (["show", "mine:NOTHING"], "must be a Lifecycle or a function that makes one, got int"),
        (["show", "no_such_module:life"], "No module named 'no_such_module'"),
    ],
)
def test_what_is_no_lifecycle(own, words, message, capsys):
    """What cannot be done exits with 2 and says why."""
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_without_a_command_there_is_help(capsys):
    """The program alone says what it can do."""
    assert main([]) == 2
    assert "simulate" in capsys.readouterr().out


@pytest.fixture
def traces(tmp_path):
    """Two files of runs that differ in the number of batches."""
    for name, batches in (("one.jsonl", 2), ("other.jsonl", 3)):
        walk(
            st.supervised(validate=None),
            {"more epochs": [True], "a batch was drawn": [True] * batches},
        ).save(tmp_path / name)
    return tmp_path


def test_trace_show(traces, capsys):
    """All transitions, the last ones, or the states alone; a directory means the newest file in it."""
    assert main(["trace", "show", str(traces / "one.jsonl")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == " 1  [*] -> fit"
    assert main(["trace", "show", str(traces), "--last", "2", "--states"]) == 0
    assert capsys.readouterr().out.split() == ["next_epoch", "end"]
    with pytest.raises(SystemExit, match="2"):
        main(["trace", "show", str(traces), "--last", "0"])


def test_trace_diff(traces, capsys):
    """Runs that differ exit with 1 and show where."""
    assert main(["trace", "diff", str(traces / "one.jsonl"), str(traces / "one.jsonl")]) == 0
    assert capsys.readouterr().out == "no difference\n"
    assert main(["trace", "diff", str(traces / "one.jsonl"), str(traces / "other.jsonl")]) == 1
    assert "the runs differ first at transition 21" in capsys.readouterr().out


def test_trace_conforms(traces, capsys):
    """A run of another lifecycle exits with 1 and says what it could have done."""
    assert main(["trace", "conforms", str(traces / "one.jsonl"), "supervised"]) == 0
    assert main(["trace", "conforms", str(traces / "one.jsonl"), "prediction"]) == 1
    assert "step 1 is no arrow that 'prediction' has at its beginning" in capsys.readouterr().out


def test_watch_as_a_program(traces):
    """`statetrain watch --once` prints plain text where there is no terminal; what is no run exits with 2."""
    done = subprocess.run(
        [sys.executable, "-m", "statetrain", "watch", "--once", str(traces)],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0
    assert "=> end" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "statetrain", "watch", "nothing"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no file or directory 'nothing'" in done.stderr


def test_watching_a_failed_run(tmp_path, capsys):
    """It exits with 1, so that a script can ask."""
    life = st.Lifecycle(
        "own", [st.State("a", _fail), st.State("z", final=True)], [st.Transition("a", "z")]
    )
    with pytest.raises(RuntimeError):
        st.Machine(life, st.Tracing(file=tmp_path / "run.jsonl")).run(Position())
    assert main(["watch", str(tmp_path)]) == 1
    assert "failed in 'a'" in capsys.readouterr().out


def _fail(ctx):
    raise RuntimeError("boom")


def test_who_reads_the_head_alone(traces):
    """A pipe that is closed, as by `| head`, is no error."""
    line = f"{sys.executable} -m statetrain trace show {traces / 'one.jsonl'} | head -n 1"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout == " 1  [*] -> fit\n"
    assert done.stderr == ""
