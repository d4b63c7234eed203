"""Deaths inside a save: at every call that changes the disk, by SIGKILL, and with what was not flushed lost."""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import statetrain as st
from statetrain.checkpoints import checkpoint, directory, files, tensorfile
from suites.case import Case, scratch
from suites.disk import Disk
from suites.forking import die, forked
from suites.kills import assert_exact
from suites.toy import Setting, digest, train

TITLE = "kills inside saves, and power lost"
GOAL = 480

SETTINGS = (Setting(saving="each anchor"), Setting(augmentation="torch", ema=True))
INTERVAL = {"each anchor": 1, "2 steps": 2}  # steps that may be lost


class Deadly(Disk):
    """A disk at one of whose calls the process is killed.

    Args:
        at: the call, from 0; None for never.
        late: whether the call itself is made still.
        power: whether the power goes too: None it does not; "all" that was not flushed is lost; a
            number draws what is lost.
    """

    def __init__(
        self, at: int | None = None, late: bool = False, power: str | int | None = None
    ) -> None:
        super().__init__(None)
        self.at, self.late, self.power = at, late, power

    def _maybe_die(self, name: str) -> None:
        if name in self.CHANGING:
            if not self.late and len(self.calls) == self.at:
                self._die()
            self.calls.append(name)

    def _after(self, name: str, args: tuple[Any, ...], result: Any, existed: Any) -> None:
        super()._after(name, args, result, existed)
        if self.late and name in self.CHANGING and len(self.calls) - 1 == self.at:
            self._die()

    def _die(self) -> None:
        if self.power is not None:
            self.lose_power(None if self.power == "all" else int(self.power))
        die()


class Reached(st.Callback):
    """Keeps in a file which step the run has come to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exit_step(self, ctx: Any) -> None:
        self.path.write_text(str(ctx.step))


def put_disk(disk: Any) -> None:
    """Lets something stand in for the module `os` where checkpoints are written."""
    # Stands in for the module, in a process of its own
    checkpoint.os = files.os = tensorfile.os = disk  # type: ignore[attr-defined]


@cache
def calls(setting: Setting) -> list[str]:
    """What a run does to the disk when it saves."""

    def work() -> str:
        disk = Deadly()
        put_disk(disk)
        with scratch() as base:
            train(setting, base / "run")
        return json.dumps(disk.calls)

    code, said = forked(work)
    assert code == 0, said
    found: list[str] = json.loads(said)
    return found


def died(setting: Setting, at: int, late: bool, power: str | int | None) -> None:
    """Lets a run die at one of those calls, and goes on with it."""
    with scratch() as base:
        folder, reached = base / "run", base / "reached"

        def work() -> str:
            put_disk(Deadly(at, late, power))
            return digest(train(setting, folder, Reached(reached)))

        code, said = forked(work)
        assert code == -9, f"it was not killed: {code} {said[-300:]}"
        step = int(reached.read_text()) if reached.exists() else 0
        found = directory.newest(folder, aside=False)
        start = found.about["step"] if found is not None else 0
        assert step - start <= INTERVAL[setting.saving], (
            f"it died in step {step}, and step {start} is the newest that is whole"
        )
        assert_exact(setting, folder)


def cases() -> list[Case]:
    """Each call, before and after it; and each call with the power lost before it, all or at random."""
    found = []
    for setting in SETTINGS:
        for at, name in enumerate(calls(setting)):
            where = f"{setting}: call {at} ({name})"
            found += [
                Case(
                    f"{where}, {'after' if late else 'before'}",
                    partial(died, setting, at, late, None),
                )
                for late in (False, True)
            ]
            found += [
                Case(f"{where}, power lost, {power}", partial(died, setting, at, False, power))
                for power in ("all", at)
            ]
    return found
