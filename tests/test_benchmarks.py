"""The benchmarks run, measure what they say they measure, and write their page; the numbers are looked at by people."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import report
import suite
import torch
import versus
from feed import Feed, Mark
from peers import PEERS
from rows import Row, show
from tasks import TASKS

INSTALLED = []
for _peer, _distribution in PEERS.items():
    try:
        version(_distribution)
        INSTALLED.append(_peer)
    except PackageNotFoundError:
        pass


pytestmark = pytest.mark.usefixtures("threads")


@pytest.mark.parametrize("config", ["lean", "typical", "heavy"])
@pytest.mark.parametrize("name", TASKS)
def test_the_loop_by_hand_and_ours_end_with_the_same_bits(name: str, config: str) -> None:
    "What is compared does the same work: on each model, the weights are the same to the bit."
    task = TASKS[name]
    data = task.data(6)
    chosen = versus.variant("ours", config)
    ours, theirs = versus.run(chosen.loop, task, data)[1], versus.run(chosen.hand, task, data)[1]
    assert versus.difference(ours, theirs) == 0.0
    assert versus.difference(ours, task.model()) > 0.0


@pytest.mark.parametrize("peer", INSTALLED)
def test_a_comparison_gives_its_numbers(peer: str) -> None:
    "Each library that is there can be compared, and all of the page's numbers are finite."
    if peer not in ("by_hand", "ours", "accelerate"):
        pytest.importorskip(f"peers.{peer}")
    result = versus.compare(peer, "lean", TASKS["mlp"], pairs=2, batches=4)
    assert result["difference"] == 0.0
    assert all(result[name] > 0 for name in ("cpu_hand", "cpu_ratio", "wall_ratio"))
    assert "| same bits |" in report.page([result], {}, {}, None)


def test_a_library_that_is_not_installed_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    "Its absence is an ImportError with its name, which the page repeats."
    monkeypatch.setitem(PEERS, "ignite", "no-such-distribution-here")
    with pytest.raises(ImportError, match="no-such-distribution-here is not installed"):
        versus.variant("ignite", "lean")
    page = report.page(
        [
            {
                "peer": "ignite",
                "config": "lean",
                "task": "mlp",
                "skipped": "pytorch-ignite is not installed",
            }
        ],
        {},
        {},
        None,
    )
    assert "- Ignite, lean, mlp: pytorch-ignite is not installed" in page


def test_the_suite_compares_every_library_lean_and_typical() -> None:
    "Every library is there on the tiny MLP, ours and the control in all configurations, and at least 30 pairs each time."
    planned = [
        job for job in suite.jobs(list(PEERS), everything=False, quick=False) if job.task == "mlp"
    ]
    found = {(job.peer, job.config) for job in planned}
    assert {(peer, config) for peer in PEERS for config in ("lean", "typical")} <= found
    assert {("ours", "heavy"), ("by_hand", "heavy")} <= found
    assert min(job.pairs for job in planned) >= 30


class TestFeed:
    def marks(self, *cpu: float) -> list[Mark]:
        return [Mark(cpu=second, wall=2 * second, seen=0) for second in cpu]

    def test_time_within_and_between_epochs_is_told_apart(self) -> None:
        "Two epochs of four batches of 0.1 s: three of them from mark to mark, and 0.5 s beyond the fourth between the epochs."
        feed = Feed([1, 2, 3, 4], marks=self.marks(1.0, 1.3, 1.9, 2.2))
        cost = feed.cost()
        assert cost.cpu == pytest.approx(0.1e6)
        assert cost.wall == pytest.approx(0.2e6)
        assert cost.between == pytest.approx(500.0)
        assert cost.epoch == pytest.approx(0.9 / 4 * 1e6)

    def test_batches_drawn_ahead_are_no_part_of_an_epochs_time(self) -> None:
        "A loop that draws one ahead has trained two when the fourth is drawn; two more fall into the gap."
        feed = Feed([1, 2, 3, 4], marks=self.marks(1.0, 1.2, 1.9, 2.1))
        cost = feed.cost(ahead=1)
        assert cost.cpu == pytest.approx(0.1e6)
        assert cost.between == pytest.approx(500.0)
        assert cost.epoch == pytest.approx(0.9 / 4 * 1e6)

    def test_what_a_loop_draws_ahead_is_counted(self) -> None:
        "It is seen by how often the model had been called when the last batch was drawn."
        calls = [0]
        feed = Feed([1, 2, 3, 4], called=lambda: calls[0])
        held = None
        for batch in feed:
            calls[0] += held is not None
            held = batch
        assert feed.ahead() == 1
        feed.marks.clear()
        for _ in feed:
            calls[0] += 1
        assert feed.ahead() == 0

    def test_a_loop_that_stops_asking_is_marked_all_the_same(self) -> None:
        "Some loops count, and never ask for the batch after the last."
        feed = Feed([1, 2])
        iterator = iter(feed)
        next(iterator), next(iterator)
        assert len(feed.marks) == 2

    def test_a_loader_yields_the_batches_and_marks_them(self) -> None:
        "For libraries that insist on a DataLoader."
        batch = (torch.zeros(2), torch.ones(2))
        feed = Feed([batch, batch])
        assert [pair is batch for pair in feed.loader()] == [True, True]
        assert len(feed.marks) == 2

    def test_epochs_that_overlap_are_refused(self) -> None:
        "Then the marks would mean something else."
        with pytest.raises(RuntimeError, match="one after the other"):
            Feed([1], marks=self.marks(1.0, 3.0, 2.0, 4.0)).cost()


def test_the_exponent_of_growth() -> None:
    """It is that of a power law, whatever the factor."""
    growth = importlib.import_module("growth")
    for power in (0, 1, 2):
        assert growth.slope((10, 100, 1000), [3 * n**power for n in (10, 100, 1000)]) == (
            pytest.approx(power)
        )


@pytest.mark.parametrize(
    "script", ["engine", "inference", "fused", "startup", "footprint", "growth", "seeding"]
)
def test_a_script_gives_its_rows(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    "Each of the smaller scripts runs small, with a name, a number and a unit in each row."
    module = importlib.import_module(script)
    rows = list(module.rows(True, True) if script == "footprint" else module.rows(True))
    assert all(isinstance(row, Row) and row.what and row.unit for row in rows)
    show(rows, True)
    assert [row["what"] for row in json.loads(capsys.readouterr().out)] == [
        row.what for row in rows
    ]
    show(rows, False)
    assert rows[0].what in capsys.readouterr().out
    assert f"| {rows[0].what} |" in report.page(
        [], {"Title": json.loads(json.dumps([_plain(row) for row in rows]))}, {}, None
    )


def _plain(row: Row) -> dict[str, Any]:
    return {
        "what": row.what,
        "value": row.value,
        "unit": row.unit,
        "goal": row.goal,
        "bounds": row.bounds,
    }


def test_predict_makes_no_copy_that_the_loop_by_hand_does_not_make() -> None:
    "The bytes of all tensors that are made are the same."
    inference = importlib.import_module("inference")
    for name in ("mlp", "transformer"):
        ours, hand = (
            inference.made(way, TASKS[name], 3)
            for way in (inference.predict, inference.predict_by_hand)
        )
        assert ours == hand > 0


def test_the_plot_shows_each_library(tmp_path: Path) -> None:
    "The picture is an SVG with the names, and the same each time."
    pytest.importorskip("matplotlib")
    base = {"task": "mlp", "cpu_us": 1.0, "cpu_ratio_bounds": [1.0, 1.2], "cpu_ratio": 1.1}
    results = [
        {**base, "peer": peer, "config": config} for peer in PEERS for config in ("lean", "typical")
    ]
    assert report.draw(results, tmp_path / "one.svg")
    assert report.draw(results, tmp_path / "two.svg")
    text = (tmp_path / "one.svg").read_text()
    assert all(name in text for name in ("Ignite", "statetrain", "skorch"))
    assert text == (tmp_path / "two.svg").read_text()


def test_the_suite_writes_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "The one command, on nothing but the control: a page, a plot and the numbers, in the folder that was asked for."
    monkeypatch.setattr(
        sys, "argv", ["suite.py", "--quick", "--only", "by_hand lean mlp", "--out", str(tmp_path)]
    )
    with pytest.raises(SystemExit) as ended:
        suite.main()
    assert not ended.value.code
    assert "the loop against itself" in (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "results.json").read_text())["results"][0]["pairs"] == 2


def test_a_comparison_that_fails_is_named_and_fails_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    "What a process says last stands on the page, and the exit status is 1."
    broken = subprocess.CompletedProcess(
        [], 1, stdout="", stderr="Traceback\nValueError: no such thing"
    )
    monkeypatch.setattr(suite, "script", lambda command: broken)
    monkeypatch.setattr(
        sys, "argv", ["suite.py", "--quick", "--only", "ours lean mlp", "--out", str(tmp_path)]
    )
    with pytest.raises(SystemExit) as ended:
        suite.main()
    assert ended.value.code
    assert "- **statetrain**, lean, mlp: ValueError: no such thing" in (
        tmp_path / "RESULTS.md"
    ).read_text(encoding="utf-8")
