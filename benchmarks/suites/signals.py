"""Signals at any moment: in guards, actions, hooks, effects, saves, the model and clean-ups; the first one, and a second."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import statetrain as st
from statetrain.checkpoints import directory
from statetrain.machine import interrupts
from suites.case import Case, listening, scratch
from suites.disk import Disk
from suites.saves import INTERVAL, put_disk
from suites.toy import Setting, digest, train

TITLE = "signals"
GOAL = 240

SIGNALS: tuple[signal.Signals, ...] = tuple(interrupts._SIGNALS)
SETTING = Setting(augmentation="torch", ema=True, inside=True)
FEWER = 5  # calls after the last question, in which a run can only complete


class Press(st.Callback):
    """Sends signals before some of the calls that a machine makes: actions, guards, effects, hooks, modes, close work.

    Args:
        moments: numbers of calls, and what is sent then.
    """

    anywhere = True

    def __init__(self, moments: dict[int, signal.Signals]) -> None:
        self.moments, self.count = moments, 0
        self.steps: list[int] = []  # made when each was sent
        self.where: list[str] = []
        self.ended: list[str] = []  # clean-ups, as they run

    def wrap_call(
        self, function: Callable[[Any], Any], state: str, hook: str
    ) -> Callable[[Any], Any]:
        def call(ctx: Any) -> Any:
            self.count += 1
            if self.count in self.moments:
                self.steps.append(ctx.step)
                self.where.append(state)
                signal.raise_signal(self.moments[self.count])
            return function(ctx)

        return call

    def on_enter_fit(self, ctx: Any) -> None:
        self.listen(ctx)

    def on_resume(self, ctx: Any) -> None:
        self.listen(ctx)

    def listen(self, ctx: Any) -> None:
        for name in ("first", "second"):
            ctx.defer(partial(self.ended.append, name))


@contextmanager
def handlers() -> Iterator[None]:
    """Handlers as in a fresh process, which have to be there again in the end."""
    fresh = {
        number: signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        for number in SIGNALS
    }
    outside = {number: signal.signal(number, handler) for number, handler in fresh.items()}
    try:
        yield
        left = {number: signal.getsignal(number) for number in SIGNALS}
        assert left == fresh, f"handlers were left behind: {left}"
    finally:
        for number, handler in outside.items():
            signal.signal(number, handler)


@cache
def straight() -> str:
    """How the run ends that nobody interrupts."""
    return digest(train(SETTING, None))


@cache
def calls() -> int:
    """How many calls the machine makes in a run that is saved."""
    with scratch() as base:
        press = Press({})
        train(SETTING, base / "run", press)
        return press.count


def interrupted(moments: dict[int, signal.Signals]) -> None:
    """Sends one signal or two, looks at how the run ended, and goes on with it."""
    first = next(iter(moments.values()))
    with scratch() as base, handlers():
        press = Press(moments)
        try:
            run = train(SETTING, base / "run", press)
        except KeyboardInterrupt as error:  # a second one, when `fit` itself was being left already: no arrow leads on from there
            assert len(press.steps) > 1, "the first one acted at once"
            assert press.where[-1] == "next_epoch", f"it came out of {press.where[-1]}"
            run = error.run  # type: ignore[attr-defined]  # a promise of `fit`
        else:
            late = calls() - max(moments) < FEWER and run.outcome == st.Completed(2)
            assert late or isinstance(run.outcome, st.Interrupted), run.outcome
            # It is Interrupted
            assert late or run.outcome.reason in (first.name, "KeyboardInterrupt"), run.outcome  # type: ignore[union-attr]
        assert press.ended == ["second", "first"], f"clean-ups ran as {press.ended}"
        over = run.ctx.step - press.steps[-1]
        assert over <= (0 if len(press.steps) > 1 else 1), f"{over} steps were made after it"
        _goes_on(base / "run", run, second=len(press.steps) > 1)


def _goes_on(folder: Path, run: st.Run, second: bool) -> None:
    assert not (folder / "LOCK").exists(), "the directory is still locked"
    found = directory.newest(folder, aside=False)
    step = found.about["step"] if found is not None else 0
    assert run.ctx.step - step <= (INTERVAL[SETTING.saving] if second else 0), (
        f"it stopped at step {run.ctx.step}, and {step} is saved"
    )
    assert digest(train(SETTING, folder, start_seed=5 if found is not None else 0)) == straight(), (
        "it went on to other bits"
    )


class InSave(Disk):
    """Sends a signal at a call of a save."""

    def __init__(self, at: int, *signals: signal.Signals) -> None:
        super().__init__()
        self.at, self.signals = at, signals

    def _maybe_die(self, name: str) -> None:
        if name in self.CHANGING:
            self.calls.append(name)
            if len(self.calls) == self.at:
                for number in self.signals:
                    signal.raise_signal(number)


def in_save(at: int, *signals: signal.Signals) -> None:
    """Sends one signal or two inside a save."""
    with scratch() as base, handlers(), listening():
        disk = InSave(at, *signals)
        put_disk(disk)
        try:
            run = train(SETTING, base / "run")
        finally:
            put_disk(os)
        assert isinstance(run.outcome, st.Interrupted), run.outcome
        litter = [path.name for path in (base / "run").rglob("*.part")]
        assert not litter, f"a save that was left in a hurry left {litter}"
        _goes_on(base / "run", run, second=len(signals) > 1)


def cases() -> list[Case]:
    """Each signal at moments all over a run, alone and twice; and in saves."""
    draw, found = random.Random(0), []
    for number in SIGNALS:
        others = [one for one in SIGNALS if one != number]
        found += [
            Case(f"{number.name} at call {at}", partial(interrupted, {at: number}))
            for at in draw.sample(range(1, calls() + 1), 60)
        ]
        for at in draw.sample(range(1, calls() - 60), 20):
            again = at + draw.choice((1, 2, 3, 4))
            other = draw.choice([number, *others])
            found.append(
                Case(
                    f"{number.name} at call {at}, {other.name} at call {again}",
                    partial(interrupted, {at: number, again: other}),
                )
            )
        for at in draw.sample(range(1, 60), 8):
            found.append(
                Case(f"{number.name} at call {at} of a save", partial(in_save, at, number))
            )
            found.append(
                Case(
                    f"{number.name} twice at call {at} of a save",
                    partial(in_save, at, number, number),
                )
            )
    return found
