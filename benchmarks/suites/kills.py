"""SIGKILL at every transition of a run: before its work, at a random call within it, and after it."""

from __future__ import annotations

import json
import os
import random
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, frozen

import statetrain as st
from suites.case import Case, scratch
from suites.forking import die, forked
from suites.toy import Setting, Trail, digest, settings, train

TITLE = "kills at transitions"
GOAL = 360

Phase = Literal["before", "inside", "after"]
PHASES: tuple[Phase, ...] = ("before", "inside", "after")


@frozen
class Straight:
    """A run that nobody kills.

    Attributes:
        digest: of how it ends.
        arrows: the transitions that it takes.
        calls: of Python and of C, from each of them to the next.
    """

    digest: str
    arrows: list[str]
    calls: list[int]


class Counting(st.Callback):
    """Counts the calls of Python and C from each transition to the next; kills the process at one of them.

    Args:
        at: the transition, from 1; None kills nobody.
        after: so many calls; should there be fewer, at the next transition.
    """

    anywhere = True

    def __init__(self, at: int | None = None, after: int = 0) -> None:
        self.calls: list[int] = []
        self.at, self.after = at, after
        self.process = os.getpid()  # a loader's workers inherit what counts

    def on_transition(self, ctx: Any) -> None:
        sys.setprofile(None)
        if self.at is not None and len(self.calls) >= self.at:
            die()
        self.calls.append(0)
        if self.at is None or len(self.calls) == self.at:
            if self.at is not None and self.after == 0:
                die()
            sys.setprofile(self._count)

    def _count(self, *_: object) -> None:
        if os.getpid() != self.process:
            sys.setprofile(None)
            return
        self.calls[-1] += 1
        if self.at is not None and self.calls[-1] == self.after:
            die()

    def on_enter_fit(self, ctx: Any) -> None:
        ctx.defer(partial(sys.setprofile, None))


@cache
def straight(setting: Setting) -> Straight:
    """How the run goes that nobody kills."""

    def work() -> str:
        trail, counting = Trail(), Counting()
        return json.dumps(
            [
                digest(train(setting, None, trail)),
                trail.arrows,
                digest(train(setting, None, counting)),
                counting.calls,
            ]
        )

    code, said = forked(work)
    assert code == 0, said
    one, arrows, two, calls = json.loads(said)
    assert one == two, "two runs from the same start differ"
    return Straight(one, arrows, calls)


def transitions(setting: Setting) -> int:
    """How many transitions a run takes; where that depends on little, from a run that takes less time."""
    if setting.precision == "scaled":  # batches whose gradients overflow are skipped
        return len(straight(setting).arrows)
    return len(
        straight(
            evolve(
                Setting(),
                accumulate=setting.accumulate,
                inside=setting.inside,
                optimizers=setting.optimizers,
                rolls_back=setting.rolls_back,
            )
        ).arrows
    )


def resumed(setting: Setting, folder: Path) -> tuple[str, list[str]]:
    """Goes on in another process, from other random states; how it ended, and the transitions that it took."""

    def work() -> str:
        trail = Trail()
        saved = any(folder.glob("step-*/MANIFEST.json"))
        run = train(setting, folder, trail, start_seed=5 if saved else 0)
        return json.dumps([digest(run), trail.arrows])

    code, said = forked(work)
    assert code == 0, f"it cannot be resumed: {said[-1000:]}"
    ended, arrows = json.loads(said)
    return ended, arrows


def assert_exact(setting: Setting, folder: Path) -> None:
    """The run in a folder, gone on with, is the one that nobody killed; and nothing lies about afterwards."""
    expected = straight(setting)
    ended, arrows = resumed(setting, folder)
    assert ended == expected.digest, "it ended with other bits"
    assert arrows == expected.arrows[len(expected.arrows) - len(arrows) :], "it went another way"
    assert_kept(folder)


def assert_kept(folder: Path, damaged: int = 0) -> None:
    """In the directory of a run that has ended lie the two latest checkpoints, what was set aside of damaged ones, and nothing else."""
    litter = [
        path.name
        for path in folder.rglob("*")
        if ("corrupt" in path.name and not damaged) or path.suffix == ".part" or path.name == "LOCK"
    ]
    assert not litter, f"it left {litter}"
    kept = sorted(path.name for path in folder.glob("step-*") if "corrupt" not in path.name)
    # One more, if it was killed between publishing the last one and deleting the oldest.
    assert 2 <= len(kept) <= 3, f"the two latest are to be kept, there are {kept}"


def killed(setting: Setting, at: int, phase: Phase) -> None:
    """Kills a run once, goes on with it in another process, and compares."""
    calls = straight(setting).calls[at - 1]
    inside = random.Random(f"{setting} {at}").randint(1, max(calls - 1, 1))
    after = {"before": 0, "inside": inside, "after": 1 << 60}[phase]
    with scratch() as base:
        code, said = forked(lambda: digest(train(setting, base / "run", Counting(at, after))))
        last = at == len(straight(setting).calls)
        assert code == -9 or (last and code == 0), f"it was not killed: {code} {said[-300:]}"
        assert_exact(setting, base / "run")


def cases() -> list[Case]:
    """Each transition of each setting, in three phases."""
    return [
        Case(f"{setting}: transition {at}, {phase}", partial(killed, setting, at, phase))
        for setting in settings()
        for at in range(1, transitions(setting) + 1)
        for phase in (
            PHASES if at < transitions(setting) else PHASES[:2]
        )  # nothing comes after the end
    ]
