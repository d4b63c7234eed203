"""Coverage of lifecycles: what machines took is counted, added up over processes, reported, and held against a threshold."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import statetrain as st
from statetrain import Lifecycle, State, Transition
from statetrain.context.position import Position
from statetrain.machine.machine import Machine
from statetrain.machine.witness import WITNESS
from statetrain.testing import Coverage, paths, simulate, walk

pytest_plugins = ["pytester"]


def work(ctx):
    "work"


def again(ctx):
    "again"
    return ctx.marks.setdefault("rounds", 0) < ctx.marks["most"]


def count(ctx):
    "count"
    ctx.marks["rounds"] = ctx.marks.get("rounds", 0) + 1


def life(name: str = "small") -> Lifecycle:
    """A loop that may be left early."""
    return Lifecycle(
        name,
        [State("loop", count), State("turn", work), State("end", final=True)],
        [
            Transition("loop", "turn", st.guard(again)),
            Transition("loop", "end"),
            Transition("turn", "loop"),
            Transition("turn", "end", event=st.StopFit),
        ],
    )


def run(
    most: int, table: Lifecycle | None = None, engine: str = "table", watched: bool = False
) -> None:
    ctx = Position(marks={"most": most})
    machine = Machine(table or life(), engine=engine)  # type: ignore[arg-type]  # one of the two
    if watched:
        machine.steps(ctx).finish()
    else:
        machine.run(ctx)


@pytest.mark.parametrize(
    ("engine", "watched"), [("table", False), ("table", True), ("transitions", False)]
)
def test_what_a_run_took_is_counted(engine, watched):
    """Whichever engine and however watched, the counts of arrows and of answers are those of the run."""
    with Coverage() as coverage:
        run(3, engine=engine, watched=watched)
    (one,) = coverage.found.values()
    assert one.taken == [2, 1, 2, 0]
    assert one.answers == {"again": [1, 2]}
    assert one.states == {"loop": True, "turn": True, "end": True}
    assert one.reached == (3 + 3 + 2, 3 + 4 + 2)
    assert one.missing == ["never taken: turn -> end StopFit"]
    assert coverage.percent == 88


def test_what_was_not_taken_is_named():
    """States never entered and guards that only ever answered alike are reported."""
    with Coverage() as coverage:
        run(0)
    report = coverage.report()
    assert report.startswith(
        "small: 44 %  (2 of 3 states, 1 of 4 transitions, 1 of 2 guard outcomes)"
    )
    assert "state turn was never entered" in report
    assert "[again] was never true" in report
    assert "never taken: loop -> turn [again]" in report


def test_guards_of_events_are_counted():
    """An event's arrow counts as taken, and its guard's answer too."""

    def leave(ctx):
        "leave"
        raise st.StopFit

    table = Lifecycle(
        "events",
        [State("a", leave), State("end", final=True), State("other", final=True)],
        [
            Transition("a", "end"),
            Transition("a", "other", st.guard(again), event=st.StopFit),
            Transition("a", "end", event=st.StopFit),
        ],
    )
    with Coverage() as coverage:
        run(0, table)
        run(5, table)
    (one,) = coverage.found.values()
    assert one.taken == [0, 1, 1]
    assert one.answers == {"again": [1, 1]}


def test_an_arrow_to_failed_counts():
    """The arrow whose effect raises is taken, though nothing is entered."""
    with Coverage() as coverage, pytest.raises(st.NonFiniteLoss):
        simulate(st.supervised(), losses=lambda n: float("nan"))
    (one,) = coverage.found.values()
    table = {str(arrow): n for arrow, n in one.counts.items()}
    assert table["loss -> failed [loss not finite] / raise NonFiniteLoss"] == 1


def test_lifecycles_are_told_apart_by_name_and_fingerprint():
    """Equal tables share a count however often they are made; others of that name have their own, and a longer title."""
    with Coverage() as coverage:
        run(2)
        run(2, life())
        run(1, life().insert(State("more", work), between=("turn", "loop")))
    assert len(coverage.found) == 2
    assert sorted(one.taken[0] for one in coverage.found.values()) == [0, 2]
    assert all(title.startswith("small-") for title in coverage.titled())


def test_only_what_was_asked_for_is_counted():
    """Patterns of names choose; what is walked, explored or forced along a path is no run."""
    with Coverage(["mine*"]) as coverage:
        run(1)
        run(1, life("mine too"))
        for path in paths(life("mine by paths")):
            path.check()
        walk(life("mine by walking"))
    assert [name for name, _ in coverage.found] == ["mine too"]


def test_nothing_is_counted_when_nobody_asks():
    """Machines made outside know of no witness, and lay out the same calls as ever."""
    with Coverage() as coverage:
        inside = Machine(life())
    outside = Machine(life())
    assert WITNESS.get() is None
    assert outside.plan.witness is None
    arrow = life().transitions[1]
    assert len(inside.plan.works(arrow, "loop")) == len(outside.plan.works(arrow, "loop")) + 1
    outside.run(Position(marks={"most": 1}))
    assert coverage.percent == 0


def test_functions_without_a_name_are_counted_too():
    """A lifecycle of lambdas has no fingerprint; its words tell it from others."""

    def table(label: str) -> Lifecycle:
        guard = st.guard(lambda ctx: False).named(label)
        return Lifecycle(
            "closures",
            [State("a", lambda ctx: None), State("end", final=True)],
            [Transition("a", "end", guard), Transition("a", "end")],
        )

    with Coverage() as coverage:
        for label in ("x", "y", "x"):
            run(0, table(label))
    assert len(coverage.found) == 2


def test_counts_of_processes_add_up():
    """Plain data from elsewhere is added to what is known, and taken over where it is new."""
    with Coverage() as here:
        run(0)
    with Coverage() as there:
        run(2)
        run(1, life("other"))
    here.merge(there.to_list())
    assert {name: one.taken for (name, _), one in here.found.items()} == {
        "small": [1, 2, 1, 0],
        "other": [0, 1, 0, 0],
    }


def test_pictures_show_the_counts(tmp_path):
    """Each lifecycle becomes a picture with how often each arrow was taken, drawn from words alone."""
    with Coverage() as coverage:
        run(3)
        simulate(
            st.supervised(validate=st.Every(2, "steps"), stop=st.EarlyStopping("valid_loss", 2))
        )
    written = coverage.draw(tmp_path / "pictures")
    assert [path.name for path in written] == ["small.svg", "supervised.svg"]
    text = written[0].read_text()
    assert "\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}2" in text
    assert "\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}0" in text


def test_a_picture_from_words_is_the_picture_of_the_lifecycle():
    """What is drawn of the words, which may come from another process, is what is drawn of the lifecycle itself."""
    for table in (
        life(),
        st.supervised(),
        st.supervised(optimizers=2),
        st.supervised(non_finite="skip", accumulate=2, validate=st.Every(2, "steps")),
    ):
        with Coverage() as coverage:
            Machine(table)
        (one,) = coverage.found.values()
        # Tooltips say more of the lifecycle itself: what is done at exit, the modes.
        drawn, expected = (
            re.sub(r"<title>.*?</title>", "", life.svg(), flags=re.DOTALL)
            for life in (one.lifecycle, table)
        )
        assert drawn == expected
        assert one.fingerprint == table.fingerprint


def test_a_thread_of_its_own_is_not_counted():
    """A witness belongs to the context that asked; a thread that was started beside it reports to nobody."""
    with Coverage() as coverage:
        thread = threading.Thread(target=run, args=(1,))
        thread.start()
        thread.join()
    assert not coverage.found


# ---------------------------------------------------------------- as pytest's plugin

PLUGIN = (
    []
    if any(point.name == "statetrain" for point in entry_points(group="pytest11"))
    else ["-p", "statetrain.pytest_plugin"]
)

TESTS = """
import pytest
import statetrain as st
from statetrain import Lifecycle, State, Transition
from statetrain.machine.machine import Machine
from statetrain.context.position import Position

def work(ctx):
    "work"

def often(ctx):
    "often"
    ctx.marks["n"] = ctx.marks.get("n", 0) + 1
    return ctx.marks["n"] < 3

LIFE = Lifecycle("mine", [State("a", work), State("b", work), State("end", final=True)],
    [Transition("a", "b", st.guard(often)), Transition("a", "end"), Transition("b", "a"), Transition("b", "end", event=st.StopFit)])

def test_it_runs():
    Machine(LIFE).run(Position())

def test_it_stops():
    class Stop(st.Callback):
        def on_enter_b(self, ctx):
            raise st.StopFit
    Machine(LIFE, Stop()).run(Position())
"""


def pytest_run(pytester, *options, tests=TESTS):
    """Runs pytest on a file of tests in a process of its own."""
    pytester.makepyfile(tests)
    return pytester.runpytest_subprocess(*PLUGIN, "-p", "no:cacheprovider", *options)


def test_the_summary_reports_what_was_taken(pytester):
    """`--statetrain-cov` ends the session with a line for each lifecycle and what is missing."""
    done = pytest_run(pytester, "--statetrain-cov", "-k", "runs")
    done.stdout.fnmatch_lines(
        [
            "*lifecycle coverage*",
            "mine: 88 %  (3 of 3 states, 3 of 4 transitions, 2 of 2 guard outcomes)",
            "*never taken: b -> end StopFit",
            "in total: 88 %",
        ]
    )
    assert done.ret == 0


def test_the_workers_of_xdist_are_added_up(pytester):
    """What two processes took together is all, and the threshold is held against that."""
    done = pytest_run(
        pytester, "--statetrain-cov-min=100", "-n2", "--dist=each", "-k", "runs or stops"
    )
    done.stdout.fnmatch_lines(["mine: 100 %*", "in total: 100 %"])
    assert done.ret == 0


def test_a_threshold_fails_the_session_and_pictures_are_drawn_where_they_were_asked_for(pytester):
    """Below the threshold the exit code says that tests failed, though each one passed; each lifecycle that was chosen is drawn."""
    done = pytest_run(
        pytester,
        "--statetrain-cov-min=95",
        "--statetrain-cov-draw=pictures",
        "--statetrain-cov-only=mi*",
        "-k",
        "runs",
    )
    done.stdout.fnmatch_lines(
        [
            "drawn: pictures*mine.svg",
            "*88 % were covered, at least 95 % were asked for*",
            "*1 passed*",
        ]
    )
    assert (Path(pytester.path) / "pictures" / "mine.svg").is_file()
    assert done.ret == pytest.ExitCode.TESTS_FAILED


NO_TORCH = """
import sys
def test_nothing_is_loaded(pytestconfig):
    loaded = {name for name in sys.modules if name.partition(".")[0] in ("torch", "attrs", "hypothesis")} | {n for n in sys.modules if n.startswith("statetrain.")}
    assert loaded <= {"statetrain.pytest_plugin"}
def test_fixtures(statetrain_toy, statetrain_clock, statetrain_recording):
    run = statetrain_toy.fit(epochs=5, clock=statetrain_clock, callbacks=statetrain_recording)
    assert statetrain_toy.distance < 0.1
    assert run.ctx.seconds == 0
    assert statetrain_recording.hooks[0] == "on_enter_fit"
"""


def test_the_plugin_loads_nothing_until_it_is_asked(pytester):
    """Without its options pytest loads none of the library by it; its fixtures work when a test takes them."""
    # Plugins of other packages may load what they like.
    others = ("-p", "no:hypothesispytest", "-p", "no:anyio")
    done = pytest_run(pytester, *others, tests=NO_TORCH)
    done.assert_outcomes(passed=2)
    assert "lifecycle coverage" not in done.stdout.str()


def test_a_percentage_is_one(pytester):
    """A threshold that is no percentage is a usage error."""
    done = pytest_run(pytester, "--statetrain-cov-min=101")
    assert done.ret == pytest.ExitCode.USAGE_ERROR


def test_the_coverage_loads_no_torch():
    """Counting a lifecycle needs none."""
    code = (
        "import sys; from statetrain.testing import Coverage; Coverage().start(); sys.exit('torch'"
        " in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
