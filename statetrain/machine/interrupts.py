"""Signals: the first one sets a flag that the guard `stop now` reads, the second stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from attrs import define

from statetrain.context.position import Position

# A person, the system, the terminal that went away, a scheduler's warning; not every platform has
# the last two.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
# A handler that is there means something else
_SPARE = frozenset(getattr(signal, name) for name in _NAMES[2:] if hasattr(signal, name))


@define(eq=False)
class _SignalFlag:
    """The handler of all signals during a run.

    Args:
        ctx: the run's context.
        outer: the handler of the run in one of whose calls this one was started.
        whole: whether the first signal lets this run finish, and asks the outer one alone.
    """

    ctx: Position
    outer: _SignalFlag | None
    whole: bool
    hurried: bool = False  # whether a second one came

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.heard:
            self.hurried = True
            raise KeyboardInterrupt
        self.hear(signal.Signals(number).name)

    @property
    def heard(self) -> bool:
        own = self.ctx.interrupt is not None
        if self.ctx.news is not None:
            own = self.ctx.news.signal is not None
        return own or (self.outer is not None and self.outer.heard)

    def hear(self, name: str) -> None:
        if self.outer is not None:
            self.outer.hear(name)
            if self.whole:
                return
        if self.ctx.news is not None:  # all ranks stop at once
            self.ctx.news.hear(name)
            return
        self.ctx.interrupt = name
        # Else it waits for the next anchor: between being saved and being asked, a stop would cost
        # the batches since
        if not self.ctx.saves:
            self.ctx.request_stop(name)


def _may_be_replaced(number: int, handler: Any, outer: _SignalFlag | None) -> bool:
    """Whether a run puts its own handler in the place of one."""
    if number in _SPARE:
        return handler in (signal.SIG_DFL, outer) and handler is not None
    # A handler that was not set from Python reads as None, and cannot be put back
    return handler not in (None, signal.SIG_IGN)


@contextmanager
def heeded(ctx: Position, whole: bool = False) -> Iterator[None]:
    """While it is open, signals ask the run to stop.

    These are Ctrl-C, SIGTERM and, where the system has them, SIGHUP and SIGUSR1.

    The previous handlers are put back afterwards. Nothing is installed outside the main thread,
    where Python allows no handlers. A signal that is ignored stays ignored, as under nohup; for
    SIGHUP and SIGUSR1, so does a handler that is there already.

    In a run that was started by a hook of another, a signal asks both to stop; a second one ends
    both at once.

    Args:
        ctx: the run's context.
        whole: whether a run within another is not stopped by the first signal: what it does is of
            no use in part.

    Raises:
        KeyboardInterrupt: a second signal came, and the run was started by a hook of another one.
    """
    ctx.interrupt = None
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    outer = next((one for one in handlers.values() if isinstance(one, _SignalFlag)), None)
    previous = {
        number: handler
        for number, handler in handlers.items()
        if _may_be_replaced(number, handler, outer)
    }
    ask = _SignalFlag(ctx, outer, whole)
    try:
        for number in previous:
            signal.signal(number, ask)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if ask.hurried and outer is not None:
        outer.hurried = True
        raise KeyboardInterrupt
