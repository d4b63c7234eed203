"""The examples, each run small: `main(how_long, out)` returns the run and one number that says how well it went."""

from __future__ import annotations

import importlib.util
import inspect
import math
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import statetrain as st
from statetrain.diagram import svg
from statetrain.trace import Tracing

Main = Callable[[int, Path], tuple[st.Run, float]]

FOLDER = Path(__file__).parent.parent / "examples"
NAMES = [
    path.stem
    for path in sorted(FOLDER.glob("*.py"))
    if "\ndef main(" in path.read_text(encoding="utf-8")
]

# Between what the number lies after a tenth of the run; an example that is not listed only has to
# give a number.
BOUNDS = {
    "char_lm": (1.0, 5.0),  # bits per character; guessing takes 6.7
    "digits": (0.85, 1.0),  # accuracy on the test digits; guessing gives 0.1
    "finetune_lm": (1.0, 6.5),  # bits per character; guessing takes 7
    "gan": (0.25, 1.0),  # share of the points that lie in a cluster; noise gives 0.1
    "k_fold": (0.5, 1.0),  # accuracy on the digits that were left out
    "population": (0.2, 1.0),  # accuracy of the best, after one generation; guessing gives 0.1
    "rl": (40.0, 500.0),  # steps that the pole is kept up; pushing one way gives 10
    "pretrain_finetune": (0.15, 1.0),  # accuracy on the test digits
}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], tuple[Main, int]]:
    "Loads an example; gives its `main`, and for how long that goes by default. The working directory is an empty one."

    def load(name: str) -> tuple[Main, int]:
        module = _import(name, monkeypatch)
        parameters = list(inspect.signature(module.main).parameters.values())
        assert parameters[1].name == "out"
        return module.main, parameters[0].default

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return load


def _import(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_the_examples_are_found() -> None:
    "The examples that the documentation names are among those that are tested."
    assert set(BOUNDS) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_does_what_it_promises(
    name: str, load: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    "A tenth of the run ends well, gets somewhere, and leaves its files, with the picture of its machine, where it was told."
    main, default = load(name)
    out = tmp_path / "out"
    run, number = main(max(1, default // 10), out)

    assert run.outcome is not None
    assert run.outcome.ok
    assert len(run.history)
    assert all(
        math.isfinite(value)
        for row in run.history
        for column, value in row.items()
        if "loss" in column
    )
    low, high = BOUNDS.get(name, (-math.inf, math.inf))
    assert low <= number <= high

    drawn = FOLDER.parent / "docs" / "gallery" / f"{name}.svg"
    assert drawn.read_text(encoding="utf-8") == run.lifecycle.svg(detail="outline"), (
        "the gallery is out of date: make gallery"
    )
    assert drawn.with_suffix(".txt").exists(), "what it prints is not in the gallery: make gallery"
    written = [path for path in out.rglob("*") if path.is_file()]
    assert written
    assert all(path.stat().st_size for path in written)
    assert not list(Path.cwd().iterdir())
    assert str(out) in capsys.readouterr().out
    if (picture := out / "lifecycle.svg") in written:
        traced = any(isinstance(callback, Tracing) for callback in run.machine.callbacks)
        counts = run.trace.counts() if traced else None
        assert picture.read_text(encoding="utf-8") == svg(run.lifecycle, counts=counts)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_repeats_itself(name: str, load: Any, tmp_path: Path) -> None:
    "Two runs have the same rows and end with the same number."
    main, default = load(name)
    (run, number), (again, number_again) = (
        main(max(1, default // 100), tmp_path / "out") for _ in range(2)
    )
    assert number_again == number
    assert _without_times(again) == _without_times(run)


def _without_times(run: st.Run) -> list[dict[str, Any]]:
    return [
        {column: value for column, value in row.items() if "seconds" not in column}
        for row in run.history
    ]


def test_the_tests_that_a_user_would_copy_pass_and_cover_their_lifecycle(tmp_path: Path) -> None:
    "pytest runs the example of tests as it stands, and nearly all of its lifecycle is covered."
    installed = any(point.name == "statetrain" for point in entry_points(group="pytest11"))
    plugin = [] if installed else ["-p", "statetrain.pytest_plugin"]
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "--statetrain-cov-min=90",
        "--statetrain-cov-only=mine",
        f"--rootdir={tmp_path}",
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        *plugin,
        *options,
        str(FOLDER / "test_my_lifecycle.py"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout
    assert "lifecycle coverage" in done.stdout


@pytest.mark.parametrize("name", ["rl", "population"])
def test_an_example_with_its_own_context_resumes_exactly(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    "Cut at its first, a middle and its last anchor, the run goes on to the same bits in fresh objects."
    module = _import(name, monkeypatch)

    def build() -> st.Run:
        return st.run(module.lifecycle(), module.context(1), start=False)

    assert st.testing.assert_resumable(build, anchors=3) == 3
