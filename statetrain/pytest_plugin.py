"""The pytest plugin, which pytest finds by itself: coverage of lifecycles, and fixtures.

    pytest --statetrain-cov                  # report states, transitions, guard outcomes
    pytest --statetrain-cov-min=90           # ... and fail below 90 %
    pytest --statetrain-cov-draw=pictures    # ... and draw the lifecycles
    pytest --statetrain-cov --statetrain-cov-only="my_*"

Nothing of the library is loaded until it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from statetrain.testing.coverage import Coverage
    from statetrain.testing.fake_clock import FakeClock
    from statetrain.testing.recording import Recording
    from statetrain.testing.toy import Toy

_SENT = "statetrain_coverage"  # what a worker's counts are called on their way


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options; any of them turns the coverage on."""
    group = parser.getgroup("statetrain", "coverage of training lifecycles")
    group.addoption(
        "--statetrain-cov",
        action="store_true",
        help="Report which states, transitions and guard outcomes of lifecycles the tests took.",
    )
    group.addoption(
        "--statetrain-cov-min",
        type=_percent,
        metavar="PERCENT",
        help="Fail if less of them was taken.",
    )
    group.addoption(
        "--statetrain-cov-draw",
        metavar="DIR",
        help="Draw each lifecycle into this folder, with how often each arrow was taken.",
    )
    group.addoption(
        "--statetrain-cov-only",
        action="append",
        default=[],
        metavar="NAME",
        help="Count lifecycles of this name alone; a pattern, and may be repeated.",
    )


def _percent(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 100:
        raise ValueError(text)
    return value


def pytest_configure(config: pytest.Config) -> None:
    """Starts counting, if that was asked for."""
    asked = [config.getoption(f"statetrain_cov{what}") for what in ("", "_min", "_draw", "_only")]
    if asked[0] or asked[1] is not None or any(asked[2:]):
        from statetrain.testing.coverage import Coverage

        config.pluginmanager.register(
            _CoveragePlugin(Coverage(asked[3]), least=asked[1], folder=asked[2]),
            "statetrain-coverage",
        )


class _CoveragePlugin:
    """Counts during a session, adds up the counts of pytest-xdist's workers, and reports."""

    def __init__(self, coverage: Coverage, least: int | None, folder: str | None) -> None:
        self.coverage, self.least, self.folder = coverage, least, folder
        coverage.start()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Takes the counts of a worker; one that crashed sent none."""
        self.coverage.merge(getattr(node, "workeroutput", {}).get(_SENT, ()))

    @property
    def low(self) -> bool:
        """Whether too little was covered."""
        return self.least is not None and self.coverage.percent < self.least

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Sends a worker's counts; elsewhere, fails a session that covered too little."""
        self.coverage.stop()
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[_SENT] = self.coverage.to_list()
        elif self.low and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        """Reports."""
        terminalreporter.section("lifecycle coverage")
        terminalreporter.write_line(self.coverage.report(every=config.get_verbosity() > 0))
        if self.folder is not None:
            for path in self.coverage.draw(self.folder):
                terminalreporter.write_line(f"drawn: {path}")
        if self.low:
            terminalreporter.write_line(
                f"ERROR: {self.coverage.percent} % were covered, at least {self.least} % were"
                " asked for",
                red=True,
                bold=True,
            )
        elif self.coverage.found:
            terminalreporter.write_line(f"in total: {self.coverage.percent} %")

    def pytest_unconfigure(self) -> None:
        """Stops counting, even if the session was aborted."""
        self.coverage.stop()


# ---------------------------------------------------------------- fixtures


@pytest.fixture
def statetrain_toy() -> Toy:
    "A model, data and a known optimum; see `statetrain.testing.toy_problem`."
    from statetrain.testing.toy import toy_problem

    return toy_problem()


@pytest.fixture
def statetrain_clock() -> FakeClock:
    "A clock that moves only when the test moves it; see `statetrain.testing.FakeClock`."
    from statetrain.testing.fake_clock import FakeClock

    return FakeClock()


@pytest.fixture
def statetrain_recording() -> Recording:
    "A callback that records the standard lifecycles' hooks; see `statetrain.testing.Recording`."
    from statetrain.testing.recording import Recording

    return Recording()
