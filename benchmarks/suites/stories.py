"""Random stories of a run: saved, stopped, failed, damaged, gone on with; at the end it is the run to which nothing happened."""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings, strategies
from hypothesis import seed as seeded
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

import statetrain as st
from statetrain.checkpoints import checkpoint, directory
from suites.case import Case, listening, scratch_place
from suites.kills import assert_kept
from suites.toy import Setting, Trail, digest, train

TITLE = "random stories"
GOAL = 20

SETTINGS = (
    *(
        Setting(),
        Setting(augmentation="torch", ema=True, schedule="step"),
        Setting(augmentation="random", accumulate=3, saving="each anchor"),
    ),
    *(
        Setting(inside=True, seeded=False),
        Setting(precision="scaled", optimizers=2, saving="each anchor"),
    ),
)


class Pulled(Exception):
    """The cable was."""


class Happens(st.Callback):
    """Lets something happen at a transition of this process: a signal, or a failure."""

    anywhere = True

    def __init__(self, at: int, what: str) -> None:
        self.at, self.what, self.count = at, what, 0

    def on_transition(self, ctx: Any) -> None:
        self.count += 1
        if self.count == self.at:
            if self.what == "stop":
                signal.raise_signal(signal.SIGTERM)
            elif self.what == "failure":
                raise Pulled


@cache
def straight(setting: Setting) -> tuple[str, list[str]]:
    """How the run goes to which nothing happens."""
    trail = Trail()
    return digest(train(setting, None, trail)), trail.arrows


class Story(RuleBasedStateMachine):
    """A run in a directory; each rule is a process that goes on with it and comes to some end, or harm done between two."""

    @initialize(setting=strategies.sampled_from(SETTINGS))
    def begin(self, setting: Setting) -> None:
        self.home = Path(tempfile.mkdtemp(dir=scratch_place()))
        self.folder, self.setting, self.seed, self.damaged = self.home / "run", setting, 0, 0

    def go_on(self, *callbacks: st.Callback) -> st.Run | None:
        """The next process; None if it failed."""
        self.seed += 1
        anything = self.folder.exists() and directory.newest(self.folder, aside=False) is not None
        try:
            return train(
                self.setting, self.folder, *callbacks, start_seed=self.seed if anything else 0
            )
        except Pulled:
            return None

    @rule(at=strategies.integers(1, 120))
    def stops(self, at: int) -> None:
        """The system asks it to stop."""
        run = self.go_on(Happens(at, "stop"))
        assert run is not None
        if isinstance(run.outcome, st.Interrupted):
            newest = directory.newest(self.folder, aside=False)
            assert newest is not None, "it stopped and was not saved"
            assert newest.about["step"] == run.ctx.step, "it stopped later than it was saved"

    @rule(at=strategies.integers(1, 120))
    def fails(self, at: int) -> None:
        """Something in it raises."""
        self.go_on(Happens(at, "failure"))

    @precondition(
        lambda self: self.folder.exists() and len(directory.complete(self.folder, aside=False)) > 1
    )
    @rule(
        file=strategies.sampled_from((checkpoint.MANIFEST, checkpoint.STATE, checkpoint.TENSORS)),
        seed=strategies.integers(0, 1 << 20),
    )
    def is_damaged(self, file: str, seed: int) -> None:
        """A bit of the newest checkpoint flips."""
        path = directory.complete(self.folder, aside=False)[0].path / file
        content = bytearray(path.read_bytes())
        content[random.Random(seed).randrange(len(content))] ^= 1 << seed % 8
        path.write_bytes(content)
        self.damaged += 1

    @rule()
    def ends(self) -> None:
        """It goes on to its end, which is that of the run to which nothing happened, the same way from where it took up."""
        trail = Trail()
        run = self.go_on(trail)
        expected, arrows = straight(self.setting)
        assert run is not None
        assert digest(run) == expected, "it ended with other bits"
        assert trail.arrows == arrows[len(arrows) - len(trail.arrows) :], "it went another way"
        assert_kept(self.folder, self.damaged)

    def teardown(self) -> None:
        """It ends, whatever happened."""
        if hasattr(self, "home"):
            try:
                self.ends()
            finally:
                shutil.rmtree(self.home)


def told(seed: int, stories: int = 10, length: int = 8) -> int:
    """Tells some stories; how many."""
    several = settings(
        max_examples=stories,
        stateful_step_count=length,
        deadline=None,
        derandomize=False,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    with listening():
        run_state_machine_as_test(
            seeded(seed)(type(f"Story{seed}", (Story,), {})), settings=several
        )
    return stories


def cases() -> list[Case]:
    """Ten stories each."""
    # Bound now
    return [Case(f"stories {seed}", lambda seed=seed: told(seed)) for seed in range(20)]  # type: ignore[misc]
