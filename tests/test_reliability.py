"""Some cases of each suite of `benchmarks/reliability.py`, which has all of them."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from suites.case import check, listening, sampled
from suites.mutants import MUTANTS, Mutant, source_of
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import statetrain as st

ROOT = Path(__file__).parent.parent

# Suites that need no process of their own, and how many of their cases are tried.
HERE = {
    "damage": 600,
    "fallbacks": 6,
    "signals": 12,
    "exceptions": 24,
    "non_finite": 16,
    "bad_inputs": 9999,
    "combinations": 240,
    "hostile": 400,
    "names": 60,
    "stories": 1,
    "ranks": 20,
    "rank_faults": 3,
    "rank_kills": 2,
    "rank_resumes": 1,
}
FORKING, KILLS = ("kills", "saves", "chaos", "mutants"), 4


@pytest.fixture
def silent() -> Iterator[None]:
    "What is logged about the damage is no news."
    with listening():
        yield


@pytest.mark.parametrize("name", HERE)
def test_what_is_promised_holds(name: str, silent: None) -> None:
    """A sample of the cases, the same each time; the suite has as many distinct ones as it is to have."""
    suite = importlib.import_module(f"suites.{name}")
    cases = suite.cases()
    assert len({case.name for case in cases}) == len(cases) >= suite.GOAL
    assert check(sampled(cases, HERE[name])) == []


def test_processes_that_are_killed_are_as_if_they_had_not_been(tmp_path: Path) -> None:
    """SIGKILL at transitions, inside saves and at random moments: the next process ends with the same bits. Broken rules are noticed."""
    out = tmp_path / "out.json"
    command = [
        sys.executable,
        str(ROOT / "benchmarks/reliability.py"),
        *FORKING,
        "--sample",
        str(KILLS),
        "--jobs",
        "1",
        "--json",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(out.read_text())["suites"]
    assert [line for result in results for line in result["broken"]] == []
    assert [result["held"] for result in results] == [KILLS] * len(FORKING)
    assert all(result["of"] >= result["goal"] for result in results)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_what_is_broken_on_purpose_is_there(mutant: Mutant) -> None:
    """Each mutant still has the line that it changes, so that renaming one does not leave its rule without a proof."""
    assert mutant.old in source_of(mutant)[1]
    assert mutant.new not in ("", mutant.old)


class Ends(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Samples of which one raises StopIteration."""

    def __init__(self, points: tuple[torch.Tensor, torch.Tensor], at: int) -> None:
        self.points, self.at = points, at

    def __len__(self) -> int:
        return len(self.points[0])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index == self.at:
            raise StopIteration
        return self.points[0][index], self.points[1][index]


@pytest.mark.parametrize("at", [0, 13])
@pytest.mark.parametrize("which", ["train", "valid"])
def test_a_sample_that_raises_stop_iteration_ends_neither_an_epoch_nor_a_validation(
    which: str, at: int, points: tuple[torch.Tensor, torch.Tensor], net: torch.nn.Module
) -> None:
    """torch's loader passes it on as an end of the data; the count of batches gives it away, in the first batch too."""
    data = {
        "train": DataLoader(Ends(points, 99), 8),
        "valid": DataLoader(Ends(points, 99), 8),
        which: DataLoader(Ends(points, at), 8),
    }
    with pytest.raises(
        st.DataError,
        match=rf"data ended after {at // 8} of 3 batches; did the dataset raise StopIteration",
    ):
        st.fit(
            net,
            data["train"],
            valid=data["valid"],
            loss=F.cross_entropy,
            optimizer=torch.optim.SGD,
            opt_hparams={"lr": 0.1},
            verbose=False,
        )


@pytest.mark.parametrize("engine", ["table", "transitions"])
def test_a_generator_exit_of_the_user_is_a_failure(
    engine: str, points: tuple[torch.Tensor, torch.Tensor], net: torch.nn.Module
) -> None:
    """Raised in a hook or a guard it ends the run as failed; it is not taken for closing the steps."""

    class Raises(st.Callback):
        def on_enter_step(self, ctx: st.Context) -> None:
            raise GeneratorExit("mine")

    @st.guard
    def raising(ctx: st.Context) -> bool:
        "raising"
        raise GeneratorExit("mine")

    for how in ({"callbacks": Raises()}, {"stop": raising}):
        run = st.fit(
            net,
            points,
            loss=F.cross_entropy,
            optimizer=torch.optim.SGD,
            opt_hparams={"lr": 0.1},
            verbose=False,
            start=False,
            **how,
        )
        run.machine = st.Machine(run.lifecycle, run.machine.callbacks, engine=engine)
        with pytest.raises(GeneratorExit, match="mine"):
            run.walk()
        assert isinstance(run.outcome, st.Failed)
        assert run.outcome.state in ("step", "next_epoch")
