"""SIGKILL from outside at random moments, several times in a row."""

from __future__ import annotations

import random
import time
from functools import cache, partial

from suites.case import Case, scratch
from suites.forking import forked
from suites.kills import assert_exact
from suites.toy import Setting, digest, settings, train

TITLE = "chaos: kills from outside"
GOAL = 24

MOST = 5  # kills in a run


@cache
def _seconds(setting: Setting) -> float:
    with scratch() as base:
        began = time.monotonic()
        forked(lambda: digest(train(setting, base / "run")))
        return time.monotonic() - began


def harried(setting: Setting, seed: int) -> int:
    """Kills a run up to five times, each time wherever it has come to, and lets it end; how many times it was killed."""
    draw, kills = random.Random(seed), 0
    while not kills:  # a run that was faster each time proves nothing
        with scratch() as base:
            for _ in range(MOST):
                # Bound now
                code, said = forked(
                    lambda folder=base / "run": digest(train(setting, folder)),  # type: ignore[misc]
                    draw.uniform(0.1, 1.0) * _seconds(setting),
                )
                assert code in (0, -9), said
                kills += code == -9
                if code == 0:
                    break
            assert_exact(setting, base / "run")
    return kills


def cases() -> list[Case]:
    """Several seeds for each setting."""
    return [
        Case(f"{setting}: seed {seed}", partial(harried, setting, seed))
        for seed in range(4)
        for setting in settings()
    ]
