"""Evaluating the checkpoints of a run as they are written, from another process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from statetrain import jsons
from statetrain.checkpoints import directory, lock
from statetrain.checkpoints.checkpoint import Saved
from statetrain.errors import CheckpointError, ConfigError
from statetrain.validators import local_path

Evaluate = Callable[[Path], Mapping[str, Any]]

FILE = "evaluations.jsonl"
_COUNTERS = ("epoch", "step", "samples", "seconds")
_PAUSE = 5.0  # seconds between two looks at the directory


def evaluate_checkpoints(
    folder: str | os.PathLike[str],
    evaluate: Evaluate,
    *,
    file: str | os.PathLike[str] | None = None,
    follow: bool = False,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[dict[str, Any]]:
    """Evaluates each checkpoint of a directory once, in the order in which they were saved.

        def evaluate(path):
            st.load_checkpoint(model, path, average=True)
            return st.evaluate(model, test, loss=F.cross_entropy)

        for row in st.evaluate_checkpoints("runs/digits", evaluate, follow=True):
            print(row)

    It does not interact with the run, so it may be another process, on another device. A
    row is written as soon as it is there, and those of a file that is there already are not made
    again. A checkpoint that the run deletes meanwhile has no row.

    Args:
        folder: of a `Checkpoint`.
        evaluate: takes the path of a checkpoint, and gives values by name.
        file: the rows, one a line, as `JSONLines` writes them; None is `evaluations.jsonl` in the
            directory.
        follow: whether to wait for further checkpoints, until the run has released the directory.
        sleep: waits so many seconds.

    Yields:
        The rows that are made: the counters of the checkpoint, and the values.

    Raises:
        ConfigError: there is no such directory, or the file has something else.
        BaseException: what `evaluate` raised.
    """
    folder = local_path("evaluate_checkpoints", folder)
    if not folder.is_dir():
        raise ConfigError(f"evaluate_checkpoints: {folder} is not a directory")
    path = folder / FILE if file is None else local_path("evaluate_checkpoints: file", file)
    done = _steps_in(path)
    while True:
        running = (folder / lock.FILE).exists()  # before looking: what is saved last is seen
        for saved in _new(folder, done):
            done.add(saved.about["step"])
            row = _row_of(saved, evaluate)
            if row is not None:
                _append(path, row)
                yield row
        if not follow or not running:
            return
        sleep(_PAUSE)


def _steps_in(path: Path) -> set[int]:
    """The steps of the rows that are there.

    Raises:
        ConfigError: the file has something else.
    """
    if not path.exists():
        return set()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return {int(jsons.loads(line)["step"]) for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} has something else than rows of evaluations ({error}); give another file="
        ) from error


def _new(folder: Path, done: set[int]) -> list[Saved]:
    """The checkpoints of steps that have no row, the oldest first; of one step, the newest."""
    there = {
        saved.about.get("step"): saved
        for saved in reversed(directory.complete(folder, aside=False))
    }
    return [saved for step, saved in there.items() if step is not None and step not in done]


def _row_of(saved: Saved, evaluate: Evaluate) -> dict[str, Any] | None:
    """The row of a checkpoint; None if it was deleted meanwhile."""
    try:
        values = evaluate(saved.path)
    except (CheckpointError, OSError):
        if saved.path.exists():
            raise
        return None
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"evaluate gives values by name, such as {{'test_loss': 0.3}}, got {values!r:.80}"
        )
    counters = {name: saved.about[name] for name in _COUNTERS if name in saved.about}
    return {**counters, **values}


def _append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(jsons.dumps(jsons.jsonable(row)) + "\n")
