"""A run whose newest checkpoint is damaged goes on from the one before, says so, and ends with the same bits."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from statetrain.checkpoints import directory
from statetrain.errors import CheckpointError
from suites import damage
from suites.case import Case, listening, refused, scratch
from suites.damage import FILES, SETTING, changes, contents, ended, run_folder
from suites.toy import digest, train

TITLE = "damaged checkpoints, resumed"
GOAL = 60


def falls_back(name: str, do: Callable[[Path], object]) -> None:
    """Damages the newest checkpoint of a run that was stopped, and goes on."""
    with scratch() as base, listening() as said:
        folder = base / "run"
        shutil.copytree(run_folder(os.getpid()), folder)
        newest = directory.complete(folder, aside=False)[0].path
        do(newest / name)
        left = _bytes(newest)
        run = train(SETTING, folder, start_seed=9)
        assert digest(run) == ended(), "it ended with other bits"
        words = [line for line in said if newest.name in line and "broken" in line]
        assert words, f"nothing was said: {said}"
        assert any(file in line for line in words for file in FILES), f"no file is named: {words}"
        aside = [path for path in folder.iterdir() if ".corrupt-" in path.name]
        assert len(aside) == 1, f"it was not set aside: {aside}"
        assert aside[0].name.startswith(newest.name), f"another one was set aside: {aside}"
        assert _bytes(aside[0]) == left, "something in it was changed"


def all_broken(name: str) -> None:
    """Damages all checkpoints, and expects one error that lists them, and nothing deleted."""
    with scratch() as base, listening():
        folder = base / "run"
        shutil.copytree(run_folder(os.getpid()), folder)
        for saved in directory.complete(folder, aside=False):
            damage.overwrite(saved.path / name, (saved.path / name).read_bytes()[:-1])
        names = sorted(path.name for path in folder.iterdir())
        for _ in range(2):
            words = refused(lambda: train(SETTING, folder, start_seed=9), CheckpointError)
            assert all(one in words for one in names), f"not all are listed: {words}"
            assert sorted(path.name for path in folder.iterdir()) == names, (
                "something was renamed or deleted"
            )


def _bytes(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}


def _rewrite(change: damage.Change, path: Path) -> None:
    path.write_bytes(change(path.read_bytes()))


def _replaced_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _of_the_one_before(path: Path) -> None:
    older = directory.complete(path.parent.parent, aside=False)[1].path
    shutil.copy(older / path.name, path)


def cases() -> list[Case]:
    """Of each kind of damage some, in each file; and all checkpoints damaged."""
    draw = random.Random(1)
    by_file = {
        name: [
            (words, change)
            for file, words, change in changes()
            if file == name and change(contents(os.getpid())[name]) != contents(os.getpid())[name]
        ]
        for name in FILES
    }
    found = [
        Case(f"{name}: {words}", partial(falls_back, name, partial(_rewrite, change)))
        for name in FILES
        for words, change in draw.sample(by_file[name], 20)
    ]
    for name in FILES:
        found.append(Case(f"{name}: missing", partial(falls_back, name, Path.unlink)))
        found.append(
            Case(
                f"{name}: a directory in its place",
                partial(falls_back, name, _replaced_by_directory),
            )
        )
        found.append(
            Case(f"{name}: of the checkpoint before", partial(falls_back, name, _of_the_one_before))
        )
        found.append(Case(f"{name}: all checkpoints cut", partial(all_broken, name)))
    return found
