"""Signals: the first one sets a flag that the guard `stop now` reads, the second stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def heeded(ctx: Any) -> Iterator[None]:
    """While it is open, Ctrl-C and SIGTERM ask the run to stop; the previous handlers are put back afterwards.

    Nothing is installed outside the main thread, where Python allows no handlers.
    """
    ctx.interrupt = None
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if ctx.interrupt is not None:
            raise KeyboardInterrupt
        ctx.interrupt = signal.Signals(number).name
        if not ctx.saves:  # else it waits for the next anchor: between being saved and being asked, a stop would cost the batches since
            ctx.request_stop(ctx.interrupt)

    # A handler that was not set from Python reads as None and cannot be put back; it is left alone. So is a signal that
    # is ignored, as under nohup.
    previous = {number: handler for number in _SIGNALS if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN)}
    try:
        for number in previous:
            signal.signal(number, ask)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
